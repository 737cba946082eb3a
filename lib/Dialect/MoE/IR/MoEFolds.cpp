// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Folders and canonicalizations of the moe dialect (semantics.md, section 8).

#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;

/// identity(L) = L.
OpFoldResult ScoreOp::fold(FoldAdaptor) {
  bool same = getFn() == ScoreFn::Identity && getLogits().getType() == getScores().getType();
  return same ? OpFoldResult(getLogits()) : OpFoldResult();
}

namespace {

/// A bias of zeros selects what no bias selects.
struct EraseZeroBias : OpRewritePattern<SelectOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(SelectOp op, PatternRewriter &rewriter) const override {
    if (!op.getBias())
      return rewriter.notifyMatchFailure(op, "no bias");
    if (!matchPattern(op.getBias(), m_AnyZeroFloat()))
      return rewriter.notifyMatchFailure(op, "the bias is not a constant of zeros");
    rewriter.modifyOpInPlace(op, [&] { op.getBiasMutable().clear(); });
    return success();
  }
};

/// Softmax, then top-k, then division by the sum of the kept weights equals top-k on
/// the logits and a softmax over the kept ones (softmax is monotone, and its
/// denominator cancels): exponentiates k values instead of E. Only for norm_eps = 0,
/// where both are equal, and without a bias, which would change the order.
struct NormalizeAfterSelect : OpRewritePattern<WeighOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(WeighOp op, PatternRewriter &rewriter) const override {
    auto select = op.getRouting().getDefiningOp<SelectOp>();
    if (!select)
      return rewriter.notifyMatchFailure(op, "routing is not produced by moe.select");
    auto score = op.getSource() ? op.getSource().getDefiningOp<ScoreOp>() : ScoreOp();
    if (!score || score.getFn() != ScoreFn::Softmax || score.getAxis() != Axis::Experts)
      return rewriter.notifyMatchFailure(op, "weights are not a softmax over the experts");
    if (getElementTypeOrSelf(score.getScores()).getIntOrFloatBitWidth() < 32)
      return rewriter.notifyMatchFailure(op, "rounding the score to less than f32 makes ties");
    if (select.getKey() != score.getScores() || select.getBias())
      return rewriter.notifyMatchFailure(op, "selection is not by the unbiased score");
    SelectMode mode = select.getMode();
    if ((mode != SelectMode::TopK && mode != SelectMode::All) || select.isGrouped() ||
        select.isMasked() || select.getTieBreak() != TieBreak::Lower)
      return rewriter.notifyMatchFailure(op, "the selection is neither a plain topk nor all");
    if (op.getBias() || op.getExpertScale())
      return rewriter.notifyMatchFailure(op, "the weights have a bias or a scale per expert");
    if (op.getFn() != WeighFn::None || op.getNorm() != WeighNorm::Sum || !op.getNormEps().isZero())
      return rewriter.notifyMatchFailure(op, "not normalised by the plain sum");
    if (!select->hasOneUse())
      return rewriter.notifyMatchFailure(op, "the selection has other users");

    Value routing = SelectOp::create(rewriter, select.getLoc(), score.getLogits(), Value(),
                                     select.getMode(), select.getK());
    auto weigh =
        WeighOp::create(rewriter, op.getLoc(), routing, score.getLogits(), WeighFn::Softmax,
                        WeighNorm::None, 0.0, 0.0, op.getScale().convertToDouble());
    weigh->setDiscardableAttrs(op->getDiscardableAttrDictionary());
    rewriter.replaceOp(op, weigh);
    return success();
  }
};

/// True when what `user` does with a routing does not depend on the order of its slots,
/// but for the rounding of a sum.
bool ignoresSlotOrder(Operation *user) {
  if (auto weigh = dyn_cast<WeighOp>(user))
    return weigh.getFn() != WeighFn::MaskedSoftmax;
  return isa<DispatchOp, GroupedMatmulOp, ExpertFFNOp>(user);
}

/// The k = E largest are all of them; a bias only changes the order of the slots.
struct TopKOfAll : OpRewritePattern<SelectOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(SelectOp op, PatternRewriter &rewriter) const override {
    if (op.getMode() != SelectMode::TopK)
      return rewriter.notifyMatchFailure(op, "not a top-k selection");
    if (op.getRouting().getType().getExperts() != int64_t(op.getK()))
      return rewriter.notifyMatchFailure(op, "k < E");
    if (op.isGrouped())
      return rewriter.notifyMatchFailure(op, "groups of experts are dropped");
    if (op.getTieBreak() != TieBreak::Lower)
      return rewriter.notifyMatchFailure(op, "equal keys are in a given order");
    if (op.getBias() && !llvm::all_of(op->getUsers(), ignoresSlotOrder))
      return rewriter.notifyMatchFailure(op, "a user may depend on the order of the slots");
    rewriter.modifyOpInPlace(op, [&] {
      op.setMode(SelectMode::All);
      op.getBiasMutable().clear();
    });
    return success();
  }
};

} // namespace

void SelectOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<EraseZeroBias, TopKOfAll>(context);
}

void WeighOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<NormalizeAfterSelect>(context);
}

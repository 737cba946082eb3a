// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-fuse-gating: moe.score, moe.select and moe.weigh to moe.gating.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "MissedRemarks.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFUSEGATINGPASS
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// moe.gating computes the score in f32 at least and never rounds it, so a score of a
/// narrower type (whose rounding makes ties) is not the same.
bool isRounded(ScoreOp score) {
  return getElementTypeOrSelf(score.getScores().getType()).getIntOrFloatBitWidth() < 32;
}

/// True when all users of `value` are among the two ops.
bool isOnlyUsedBy(Value value, Operation *a, Operation *b) {
  return llvm::all_of(value.getUsers(), [&](Operation *user) { return user == a || user == b; });
}

/// What moe.gating holds but no kernel computes yet is not fused.
StringRef notFusedYet(SelectOp select, WeighOp weigh) {
  SelectMode mode = select.getMode();
  if (mode != SelectMode::TopK && mode != SelectMode::All)
    return "the selection is neither topk nor all";
  if (select.isGrouped() || select.isMasked() || select.getTieBreak() != TieBreak::Lower)
    return "the selection has groups, masks or an order of equal keys";
  if (weigh.getBias() || weigh.getExpertScale() || weigh.getMagnitude())
    return "the weights have a bias, a scale per expert or magnitudes";
  if (weigh.getNorm() != WeighNorm::None && weigh.getNorm() != WeighNorm::Sum)
    return "the weights are not normalised by their sum";
  return {};
}

struct FuseGating : OpRewritePattern<WeighOp> {
  FuseGating(MLIRContext *context, llvm::Statistic *numFused)
      : OpRewritePattern(context), numFused(numFused) {}

  LogicalResult matchAndRewrite(WeighOp weigh, PatternRewriter &rewriter) const override {
    auto select = weigh.getRouting().getDefiningOp<SelectOp>();
    if (!select)
      return rewriter.notifyMatchFailure(weigh, "the routing is not produced by moe.select");
    if (!select->hasOneUse())
      return rewriter.notifyMatchFailure(weigh, "the unweighted routing has other users");
    if (StringRef reason = notFusedYet(select, weigh); !reason.empty())
      return rewriter.notifyMatchFailure(weigh, reason);

    auto score = select.getKey().getDefiningOp<ScoreOp>();
    if (score && score.getAxis() != Axis::Experts)
      return rewriter.notifyMatchFailure(weigh, "the score is normalised over the tokens");
    if (score && score.getFn() == ScoreFn::LogSigmoid)
      return rewriter.notifyMatchFailure(weigh, "the score is a logsigmoid");
    if (score && isRounded(score))
      return rewriter.notifyMatchFailure(weigh, "the score is rounded to less than f32");
    if (score && !isOnlyUsedBy(score.getScores(), select, weigh))
      return rewriter.notifyMatchFailure(weigh, "the score has other users");

    Value logits = score ? score.getLogits() : select.getKey();
    ScoreFn scoreFn = score ? score.getFn() : ScoreFn::Identity;
    WeighSource from = weighSource(weigh, logits, score);
    Value source = from == WeighSource::Operand ? weigh.getSource() : Value();
    Location loc = score ? rewriter.getFusedLoc({score.getLoc(), select.getLoc(), weigh.getLoc()})
                         : rewriter.getFusedLoc({select.getLoc(), weigh.getLoc()});

    auto gating =
        GatingOp::create(rewriter, loc, weigh.getResult().getType(), logits, select.getBias(),
                         source, scoreFn, select.getK(), from, weigh.getFn());
    gating.setMode(select.getMode());
    gating.setEps(weigh.getEps());
    gating.setNorm(weigh.getNorm());
    gating.setNormEps(weigh.getNormEps());
    gating.setScale(weigh.getScale());
    gating->setDiscardableAttrs(weigh->getDiscardableAttrDictionary());
    rewriter.replaceOp(weigh, gating);
    rewriter.eraseOp(select);
    if (score)
      rewriter.eraseOp(score);
    if (numFused)
      ++*numFused;
    return success();
  }

private:
  static WeighSource weighSource(WeighOp weigh, Value logits, ScoreOp score) {
    if (weigh.getSource() == logits)
      return WeighSource::Logit;
    if (score && weigh.getSource() == score.getScores())
      return WeighSource::Score;
    return WeighSource::Operand;
  }

  llvm::Statistic *numFused;
};

struct FuseGatingPass : moe::impl::MoEFuseGatingPassBase<FuseGatingPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    populateMoEFuseGatingPatterns(patterns, &numFused);
    MissedRemarks remarks(getArgument());
    walkAndApplyPatterns(getOperation(), std::move(patterns), &remarks);
  }
};

} // namespace

void mlir::moe::populateMoEFuseGatingPatterns(RewritePatternSet &patterns,
                                              llvm::Statistic *numFused) {
  patterns.add<FuseGating>(patterns.getContext(), numFused);
}

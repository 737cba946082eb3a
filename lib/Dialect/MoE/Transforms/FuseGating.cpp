// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-fuse-gating: moe.score, moe.select, moe.weigh and moe.capacity to moe.gating.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "MissedRemarks.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "moec/Dialect/MoE/Transforms/GatingFusion.h"

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

struct FuseGating : OpRewritePattern<WeighOp> {
  FuseGating(MLIRContext *context, llvm::Statistic *numFused)
      : OpRewritePattern(context), numFused(numFused) {}

  LogicalResult matchAndRewrite(WeighOp weigh, PatternRewriter &rewriter) const override {
    auto select = weigh.getRouting().getDefiningOp<SelectOp>();
    if (!select)
      return rewriter.notifyMatchFailure(weigh, "the routing is not produced by moe.select");
    if (!select->hasOneUse())
      return rewriter.notifyMatchFailure(weigh, "the unweighted routing has other users");

    auto score = select.getKey().getDefiningOp<ScoreOp>();
    GatingCombination combination;
    if (score) {
      combination.score = score.getFn();
      combination.axis = score.getAxis();
      combination.scoreIsRounded = isRounded(score);
    }
    combination.mode = select.getMode();
    combination.fn = weigh.getFn();
    combination.hasSource = bool(weigh.getSource());
    if (StringRef reason = whyNotFused(combination); !reason.empty())
      return rewriter.notifyMatchFailure(weigh, reason);
    if (score && !isOnlyUsedBy(score.getScores(), select, weigh))
      return rewriter.notifyMatchFailure(weigh, "the score has other users");

    Value logits = score ? score.getLogits() : select.getKey();
    ScoreFn scoreFn = score ? score.getFn() : ScoreFn::Identity;
    WeighSource from = weighSource(weigh, logits, score);
    Value source = from == WeighSource::Operand ? weigh.getSource() : Value();
    Location loc = score ? rewriter.getFusedLoc({score.getLoc(), select.getLoc(), weigh.getLoc()})
                         : rewriter.getFusedLoc({select.getLoc(), weigh.getLoc()});

    auto gating = GatingOp::create(
        rewriter, loc, weigh.getResult().getType(), logits, select.getBias(), source,
        select.getTokenMask(), select.getExpertMask(), weigh.getBias(), weigh.getExpertScale(),
        scoreFn, select.getMode(), select.getK(), select.getPAttr(), select.getTauAttr(),
        select.getNGroup(), select.getTopkGroup(), select.getGroupScore(), select.getGroupFill(),
        select.getTieBreak(), from, weigh.getFn(), weigh.getEps(), weigh.getNorm(),
        weigh.getNormEps(), weigh.getNormPAttr(), weigh.getScale(), CapacityAttr(),
        CapacityOrderAttr());
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

/// A capacity that only counts entries becomes part of the gating before it.
struct FuseCapacity : OpRewritePattern<CapacityOp> {
  FuseCapacity(MLIRContext *context, llvm::Statistic *numFused)
      : OpRewritePattern(context), numFused(numFused) {}

  LogicalResult matchAndRewrite(CapacityOp op, PatternRewriter &rewriter) const override {
    auto gating = op.getRouting().getDefiningOp<GatingOp>();
    if (!gating || gating.getCapacity())
      return rewriter.notifyMatchFailure(op, "the routing is not produced by a fused gating");
    if (!gating->hasOneUse())
      return rewriter.notifyMatchFailure(op, "the routing has other users");
    bool keepsFewer = op.getKept() < op.getRouting().getType().getK();
    CapacityCombination combination = {op.getOrder(), bool(op.getGroupSize()), keepsFewer};
    if (StringRef reason = whyNotFused(combination); !reason.empty())
      return rewriter.notifyMatchFailure(op, reason);
    rewriter.modifyOpInPlace(gating, [&] {
      gating.setCapacityAttr(op.getCapacity());
      gating.setOrderAttr(op.getOrderAttr());
    });
    rewriter.replaceOp(op, gating);
    if (numFused)
      ++*numFused;
    return success();
  }

private:
  llvm::Statistic *numFused;
};

struct FuseGatingPass : moe::impl::MoEFuseGatingPassBase<FuseGatingPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    populateMoEFuseGatingPatterns(patterns, &numFused, &numCapacities);
    MissedRemarks remarks(getArgument());
    // A capacity comes after its gating, which is fused when the walk reaches it.
    walkAndApplyPatterns(getOperation(), std::move(patterns), &remarks);
  }
};

} // namespace

void mlir::moe::populateMoEFuseGatingPatterns(RewritePatternSet &patterns,
                                              llvm::Statistic *numFused,
                                              llvm::Statistic *numCapacities) {
  patterns.add<FuseGating>(patterns.getContext(), numFused);
  patterns.add<FuseCapacity>(patterns.getContext(), numCapacities);
}

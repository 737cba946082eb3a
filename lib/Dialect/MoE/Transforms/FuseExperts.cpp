// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-fuse-experts: moe.dispatch, moe.expert_ffn and moe.combine to moe.experts.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "MissedRemarks.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFUSEEXPERTSPASS
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// The value before any tensor.cast (same tensor) and arith.index_cast (same number).
Value lookThroughCasts(Value value) {
  Operation *cast = value.getDefiningOp();
  while (isa_and_present<tensor::CastOp, arith::IndexCastOp>(cast)) {
    value = cast->getOperand(0);
    cast = value.getDefiningOp();
  }
  return value;
}

/// True when `tokens` is the number of rows of x.
bool isNumRows(Value tokens, Value x) {
  Value tensor = lookThroughCasts(x);
  tokens = lookThroughCasts(tokens);
  if (std::optional<int64_t> count = getConstantIntValue(tokens))
    return *count == cast<ShapedType>(x.getType()).getDimSize(0) ||
           *count == cast<ShapedType>(tensor.getType()).getDimSize(0);
  auto dim = tokens.getDefiningOp<tensor::DimOp>();
  return dim && dim.getConstantIndex() == 0 && lookThroughCasts(dim.getSource()) == tensor;
}

struct FuseExperts : OpRewritePattern<CombineOp> {
  FuseExperts(MLIRContext *context, llvm::Statistic *numFused)
      : OpRewritePattern(context), numFused(numFused) {}

  LogicalResult matchAndRewrite(CombineOp combine, PatternRewriter &rewriter) const override {
    auto ffn = combine.getRows().getDefiningOp<ExpertFFNOp>();
    if (!ffn)
      return rewriter.notifyMatchFailure(combine, "the rows are not produced by moe.expert_ffn");
    if (!ffn->hasOneUse())
      return rewriter.notifyMatchFailure(combine, "the experts' rows have other users");
    auto dispatch = ffn.getInput().getDefiningOp<DispatchOp>();
    if (!dispatch)
      return rewriter.notifyMatchFailure(combine, "the input is not produced by moe.dispatch");
    if (!dispatch->hasOneUse())
      return rewriter.notifyMatchFailure(combine, "the dispatched rows have other users");
    if (getElementTypeOrSelf(dispatch.getRows()) != getElementTypeOrSelf(dispatch.getX()))
      return rewriter.notifyMatchFailure(combine, "the dispatched rows are converted");
    if (dispatch.getRouting() != combine.getRouting() || ffn.getRouting() != combine.getRouting())
      return rewriter.notifyMatchFailure(combine, "dispatch, experts and combine do not have the "
                                                  "same routing");
    if (!isNumRows(combine.getTokens(), dispatch.getX()))
      return rewriter.notifyMatchFailure(combine, "tokens is not the number of rows of x");

    if (combine.getUncovered() && combine.getUncovered() != dispatch.getX())
      return rewriter.notifyMatchFailure(combine, "tokens without an expert give something else "
                                                  "than x");

    Location loc = rewriter.getFusedLoc({dispatch.getLoc(), ffn.getLoc(), combine.getLoc()});
    auto experts = ExpertsOp::create(
        rewriter, loc, combine.getResult().getType(), dispatch.getX(), combine.getRouting(),
        ffn.getUp(), ffn.getUpBias(), ffn.getGate(), ffn.getGateBias(), ffn.getDown(),
        ffn.getDownBias(), ffn.getConstants(), combine.getUncoveredRouting(), ffn.getActivation(),
        ffn.getLayout(), ffn.getKindsAttr(), dispatch.getScaleInput(), combine.getWeight(),
        combine.getAccum(), combine.getPostScale());
    experts->setDiscardableAttrs(ffn->getDiscardableAttrDictionary());
    rewriter.replaceOp(combine, experts);
    rewriter.eraseOp(ffn);
    rewriter.eraseOp(dispatch);
    if (numFused)
      ++*numFused;
    return success();
  }

private:
  llvm::Statistic *numFused;
};

struct FuseExpertsPass : moe::impl::MoEFuseExpertsPassBase<FuseExpertsPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    populateMoEFuseExpertsPatterns(patterns, &numFused);
    MissedRemarks remarks(getArgument());
    walkAndApplyPatterns(getOperation(), std::move(patterns), &remarks);
  }
};

} // namespace

void mlir::moe::populateMoEFuseExpertsPatterns(RewritePatternSet &patterns,
                                               llvm::Statistic *numFused) {
  patterns.add<FuseExperts>(patterns.getContext(), numFused);
}

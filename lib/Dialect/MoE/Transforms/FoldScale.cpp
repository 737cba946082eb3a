// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-fold-scale: a factor of a layer's results into the weights of its routing.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "MissedRemarks.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "moec/Dialect/MoE/IR/MoE.h"

#include <cmath>

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFOLDSCALEPASS
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

template <typename OpTy> struct FoldScale : OpRewritePattern<OpTy> {
  FoldScale(MLIRContext *context, StringRef category, llvm::Statistic &numFolded)
      : OpRewritePattern<OpTy>(context), category(category), numFolded(numFolded) {}

  LogicalResult matchAndRewrite(OpTy op, PatternRewriter &rewriter) const override {
    double factor = op.getPostScale().convertToDouble();
    if (factor == 1)
      return failure();
    if (op.getWeight() != CombineWeight::Output)
      return rewriter.notifyMatchFailure(op, "the rows are not multiplied by the weights");
    if (op.getAccum() != Accum::F32)
      return rewriter.notifyMatchFailure(op, "every entry is rounded");
    if (op.getUncoveredRouting())
      return rewriter.notifyMatchFailure(op, "tokens without an expert are scaled too");
    if (scalesInput(op))
      return rewriter.notifyMatchFailure(op, "the weights multiply the input too");
    Operation *router = op.getRouting().getDefiningOp();
    if (!isa_and_present<WeighOp, GatingOp>(router))
      return rewriter.notifyMatchFailure(op, "the routing is not produced by moe.weigh or "
                                             "moe.gating");
    if (!router->hasOneUse())
      return rewriter.notifyMatchFailure(op, "the routing has other users");

    double before = router->getAttrOfType<FloatAttr>("scale").getValueAsDouble();
    if (!std::isfinite(before * factor))
      return rewriter.notifyMatchFailure(op, "the product of the factors is not finite");
    rewriter.modifyOpInPlace(
        router, [&] { router->setAttr("scale", rewriter.getF64FloatAttr(before * factor)); });
    rewriter.modifyOpInPlace(op, [&] { op.setPostScale(APFloat(1.0)); });
    int64_t k = cast<RoutingType>(op.getRouting().getType()).getK();
    remark::passed(op.getLoc(), remark::RemarkOpts::name("folded").category(category))
        << remark::metric("factor", factor)
        << remark::metric("products-per-token-before",
                          cast<ShapedType>(op.getResult().getType()).getDimSize(1))
        << remark::metric("products-per-token-after", before == 1 ? k : 0);
    ++numFolded;
    return success();
  }

private:
  static bool scalesInput(CombineOp) { return false; }
  static bool scalesInput(ExpertsOp op) { return op.getScaleInput(); }

  StringRef category;
  llvm::Statistic &numFolded;
};

struct FoldScalePass : moe::impl::MoEFoldScalePassBase<FoldScalePass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FoldScale<CombineOp>, FoldScale<ExpertsOp>>(&getContext(), getArgument(),
                                                             numFolded);
    MissedRemarks remarks(getArgument());
    walkAndApplyPatterns(getOperation(), std::move(patterns), &remarks);
  }
};

} // namespace

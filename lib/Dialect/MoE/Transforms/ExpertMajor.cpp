// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-expert-major: moe.experts to dispatch, grouped products and combine.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "MissedRemarks.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEEXPERTMAJORPASS
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct ExpertMajor : OpRewritePattern<ExpertsOp> {
  ExpertMajor(MLIRContext *context, StringRef category, llvm::Statistic &numSplit)
      : OpRewritePattern(context), category(category), numSplit(numSplit) {}

  LogicalResult matchAndRewrite(ExpertsOp op, PatternRewriter &rewriter) const override {
    if (op.getKinds())
      return rewriter.notifyMatchFailure(op, "not every expert has a network");
    Location loc = op.getLoc();
    // Rows in f32, as between the steps of moe.experts.
    auto rowsOf = [&](int64_t columns) {
      return RankedTensorType::get({ShapedType::kDynamic, columns}, rewriter.getF32Type());
    };
    auto columnsOf = [&](Value bank) {
      auto type = cast<RankedTensorType>(bank.getType());
      return type.getDimSize(op.getLayout() == Layout::OutIn ? 1 : 2);
    };
    auto product = [&](Value rows, Value bank, Value bias) -> Value {
      return GroupedMatmulOp::create(rewriter, loc, rowsOf(columnsOf(bank)), rows, op.getRouting(),
                                     bank, bias, op.getLayout());
    };
    int64_t hidden = cast<RankedTensorType>(op.getInput().getType()).getDimSize(1);
    ActivationAttr activation = op.getActivation();
    Value rows = DispatchOp::create(rewriter, loc, rowsOf(hidden), op.getInput(), op.getRouting(),
                                    op.getScaleInput());
    Value up = product(rows, op.getUp(), op.getUpBias()), linear;
    if (op.getGate()) {
      linear = up;
      up = product(rows, op.getGate(), op.getGateBias());
    }
    int64_t columns = columnsOf(op.getUp());
    Value activated =
        ActivateOp::create(rewriter, loc, rowsOf(activation.isFused() ? columns / 2 : columns), up,
                           linear, activation);
    Value results = product(activated, op.getDown(), op.getDownBias());
    Value tokens = tensor::DimOp::create(rewriter, loc, op.getInput(), 0);
    Value uncovered = op.getUncoveredRouting() ? op.getInput() : Value();
    rewriter.replaceOpWithNewOp<CombineOp>(op, op.getResult().getType(), results, op.getRouting(),
                                           tokens, uncovered, op.getUncoveredRouting(),
                                           op.getWeight(), op.getAccum(), op.getPostScale());
    RoutingType routing = op.getRouting().getType();
    remark::passed(loc, remark::RemarkOpts::name("split").category(category))
        << remark::metric("experts", routing.getExperts())
        << remark::metric("rows-per-token", routing.getK())
        << remark::metric("products", op.getGate() ? 3 : 2);
    ++numSplit;
    return success();
  }

private:
  StringRef category;
  llvm::Statistic &numSplit;
};

struct ExpertMajorPass : moe::impl::MoEExpertMajorPassBase<ExpertMajorPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<ExpertMajor>(&getContext(), getArgument(), numSplit);
    MissedRemarks remarks(getArgument());
    walkAndApplyPatterns(getOperation(), std::move(patterns), &remarks);
  }
};

} // namespace

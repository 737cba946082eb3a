// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-merge-gate-up: two weights of gated experts to one.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "MissedRemarks.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEMERGEGATEUPPASS
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

template <typename OpTy> struct MergeGateUp : OpRewritePattern<OpTy> {
  MergeGateUp(MLIRContext *context, SymbolTable &symbols, StringRef category,
              llvm::Statistic &numMerged)
      : OpRewritePattern<OpTy>(context), symbols(symbols), category(category),
        numMerged(numMerged) {}

  LogicalResult matchAndRewrite(OpTy op, PatternRewriter &rewriter) const override {
    ActivationAttr activation = op.getActivation();
    if (activation.getGlu() != Glu::Separate)
      return failure();
    if (op.getLayout() != Layout::OutIn)
      return rewriter.notifyMatchFailure(op, "the weights are [E, in, out]");
    if (bool(op.getUpBias()) != bool(op.getGateBias()))
      return rewriter.notifyMatchFailure(op, "only one of gate and up has a bias");
    WeightOp gate = weightOf(op.getGate()), up = weightOf(op.getUp());
    WeightOp gateBias = weightOf(op.getGateBias()), upBias = weightOf(op.getUpBias());
    if (!canStack(gate, up) || (op.getUpBias() && !canStack(gateBias, upBias)))
      return rewriter.notifyMatchFailure(op, "gate and up are not both untransformed weights of "
                                             "one type in files");

    Value merged = stack(rewriter, op, gate, up);
    Value bias = op.getUpBias() ? stack(rewriter, op, gateBias, upBias) : Value();
    auto type = cast<RankedTensorType>(merged.getType());
    rewriter.modifyOpInPlace(op, [&] {
      op.getUpMutable().assign(merged);
      op.getGateMutable().clear();
      op.getGateBiasMutable().clear();
      if (bias)
        op.getUpBiasMutable().assign(bias);
      op.setActivationAttr(ActivationAttr::get(op.getContext(), activation.getKind(), Glu::Concat,
                                               activation.getAlpha(), activation.getBeta(),
                                               activation.getLimit(), activation.getClamp()));
    });
    remark::passed(op.getLoc(), remark::RemarkOpts::name("merged").category(category))
        << remark::metric("experts", type.getDimSize(0))
        << remark::metric("rows", type.getDimSize(1))
        << remark::metric("bytes", type.getNumElements() * type.getElementTypeBitWidth() / 8);
    ++numMerged;
    return success();
  }

private:
  WeightOp weightOf(Value value) const {
    auto load = value ? value.getDefiningOp<LoadWeightOp>() : LoadWeightOp();
    return load ? symbols.lookup<WeightOp>(load.getWeight()) : WeightOp();
  }

  static bool canStack(WeightOp first, WeightOp second) {
    return first && second && first.getTransforms().empty() && second.getTransforms().empty() &&
           first.getTensorType().getElementType() == second.getTensorType().getElementType();
  }

  /// The rows of `first`, then those of `second`, of each expert.
  Value stack(PatternRewriter &rewriter, Operation *op, WeightOp first, WeightOp second) const {
    SmallVector<int64_t> shape(first.getTensorType().getShape());
    shape[1] += second.getTensorType().getDimSize(1);
    auto type = RankedTensorType::get(shape, first.getTensorType().getElementType());
    SmallVector<Attribute> sources(first.getSources().getValue());
    llvm::append_range(sources, second.getSources().getValue());
    OpBuilder atFirst(first);
    auto weight =
        WeightOp::create(atFirst, op->getLoc(),
                         (first.getSymName() + "_" + second.getSymName()).str(), type, sources);
    symbols.insert(weight, first->getIterator());
    rewriter.setInsertionPoint(op);
    return LoadWeightOp::create(rewriter, op->getLoc(), type,
                                FlatSymbolRefAttr::get(weight.getSymNameAttr()));
  }

  SymbolTable &symbols;
  StringRef category;
  llvm::Statistic &numMerged;
};

struct MergeGateUpPass : moe::impl::MoEMergeGateUpPassBase<MergeGateUpPass> {
  void runOnOperation() override {
    SymbolTable symbols(getOperation());
    RewritePatternSet patterns(&getContext());
    patterns.add<MergeGateUp<ExpertFFNOp>, MergeGateUp<ExpertsOp>, MergeGateUp<SharedOp>>(
        &getContext(), symbols, getArgument(), numMerged);
    MissedRemarks remarks(getArgument());
    walkAndApplyPatterns(getOperation(), std::move(patterns), &remarks);
  }
};

} // namespace

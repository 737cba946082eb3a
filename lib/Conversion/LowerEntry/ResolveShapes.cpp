// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Dimensions as arithmetic on the dimensions of inputs.

#include "moec/Conversion/LowerEntry/LowerEntry.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/MemRef/Transforms/Transforms.h"
#include "mlir/Dialect/SCF/Transforms/Patterns.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// dim(to_tensor(m)) is dim(m).
struct DimOfToTensor : OpRewritePattern<tensor::DimOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(tensor::DimOp op, PatternRewriter &rewriter) const override {
    auto source = op.getSource().getDefiningOp<bufferization::ToTensorOp>();
    if (!source || !isa<MemRefType>(source.getBuffer().getType()))
      return rewriter.notifyMatchFailure(op, "not a buffer's tensor");
    rewriter.replaceOpWithNewOp<memref::DimOp>(op, source.getBuffer(), op.getIndex());
    return success();
  }
};

/// dim(to_buffer(t)) is dim(t).
struct DimOfToBuffer : OpRewritePattern<memref::DimOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(memref::DimOp op, PatternRewriter &rewriter) const override {
    auto source = op.getSource().getDefiningOp<bufferization::ToBufferOp>();
    if (!source || !isa<RankedTensorType>(source.getTensor().getType()))
      return rewriter.notifyMatchFailure(op, "not a tensor's buffer");
    rewriter.replaceOpWithNewOp<tensor::DimOp>(op, source.getTensor(), op.getIndex());
    return success();
  }
};

/// An element of an elementwise linalg op: the same scalars on the elements of
/// its inputs. Only for shape tensors (static, few elements), where it removes
/// the tensor.
struct ExtractOfElementwise : OpRewritePattern<tensor::ExtractOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(tensor::ExtractOp op, PatternRewriter &rewriter) const override {
    auto generic = op.getTensor().getDefiningOp<linalg::GenericOp>();
    auto type = dyn_cast<RankedTensorType>(op.getTensor().getType());
    if (!generic || !type || !type.hasStaticShape() || type.getNumElements() > 64)
      return rewriter.notifyMatchFailure(op, "not a small linalg.generic");
    if (generic.getNumDpsInits() != 1 || generic.getNumParallelLoops() != generic.getNumLoops())
      return rewriter.notifyMatchFailure(op, "not elementwise");
    if (!generic.getIndexingMapsArray().back().isIdentity())
      return rewriter.notifyMatchFailure(op, "permuted result");
    Block *body = generic.getBody();
    if (!body->getArguments().back().use_empty())
      return rewriter.notifyMatchFailure(op, "reads its initial value");
    for (Operation &inner : body->without_terminator())
      if (!isMemoryEffectFree(&inner) || inner.getNumRegions() != 0)
        return rewriter.notifyMatchFailure(op, "body is not scalar arithmetic");

    IRMapping mapping;
    for (OpOperand *input : generic.getDpsInputOperands()) {
      BlockArgument scalar = generic.getMatchingBlockArgument(input);
      if (!isa<RankedTensorType>(input->get().getType())) {
        mapping.map(scalar, input->get());
        continue;
      }
      SmallVector<Value> indices;
      for (AffineExpr result : generic.getMatchingIndexingMap(input).getResults())
        indices.push_back(getIndex(result, op, rewriter));
      if (llvm::is_contained(indices, Value()))
        return rewriter.notifyMatchFailure(op, "input is indexed by an expression");
      mapping.map(scalar, tensor::ExtractOp::create(rewriter, op.getLoc(), input->get(), indices));
    }
    for (Operation &inner : body->without_terminator()) {
      if (auto index = dyn_cast<linalg::IndexOp>(inner))
        mapping.map(index.getResult(), op.getIndices()[index.getDim()]);
      else
        rewriter.clone(inner, mapping);
    }
    rewriter.replaceOp(op, mapping.lookupOrDefault(body->getTerminator()->getOperand(0)));
    return success();
  }

  static Value getIndex(AffineExpr expr, tensor::ExtractOp op, OpBuilder &builder) {
    if (auto dim = dyn_cast<AffineDimExpr>(expr))
      return op.getIndices()[dim.getPosition()];
    if (auto constant = dyn_cast<AffineConstantExpr>(expr))
      return arith::ConstantIndexOp::create(builder, op.getLoc(), constant.getValue());
    return Value();
  }
};

} // namespace

void moe::populateResolveShapesPatterns(RewritePatternSet &patterns) {
  MLIRContext *context = patterns.getContext();
  patterns.add<DimOfToTensor, DimOfToBuffer, ExtractOfElementwise>(context);
  memref::populateResolveRankedShapedTypeResultDimsPatterns(patterns);
  memref::populateResolveShapedTypeResultDimsPatterns(patterns);
  scf::populateSCFForLoopCanonicalizationPatterns(patterns);
  tensor::DimOp::getCanonicalizationPatterns(patterns, context);
  tensor::ExtractOp::getCanonicalizationPatterns(patterns, context);
  memref::DimOp::getCanonicalizationPatterns(patterns, context);
}

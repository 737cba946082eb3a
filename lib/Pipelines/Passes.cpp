// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Small passes that only the pipelines use.

#include "moec/Pipelines/Passes.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Linalg/Utils/Utils.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Tensor/Transforms/Transforms.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"

namespace mlir::moe {
#define GEN_PASS_DEF_PREPAREBUFFERIZATION
#define GEN_PASS_DEF_EXPANDCOPIES
#define GEN_PASS_DEF_ORDERLOOPS
#define GEN_PASS_DEF_APPROXIMATEVECTORMATH
#define GEN_PASS_DEF_ROUNDTOBFLOAT16
#define GEN_PASS_DEF_HOISTSTACKBUFFERS
#include "moec/Pipelines/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Gives each use its own copy of `op`, next to it: what a loop writes to is then its own, and
/// memory is taken when it is needed.
void cloneForEachUse(Operation *op) {
  for (OpOperand &use : llvm::make_early_inc_range(op->getUses())) {
    OpBuilder builder(use.getOwner());
    use.set(builder.clone(*op)->getResult(0));
  }
  op->erase();
}

struct PrepareBufferizationPass : moe::impl::PrepareBufferizationBase<PrepareBufferizationPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    tensor::populateDecomposeTensorConcatPatterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
    SmallVector<Operation *> fills, slices, empties;
    getOperation()->walk([&](linalg::FillOp op) {
      if (op.hasPureTensorSemantics())
        fills.push_back(op);
    });
    llvm::for_each(fills, cloneForEachUse);
    getOperation()->walk([&](tensor::ExtractSliceOp op) {
      if (op.getSource().getDefiningOp<tensor::EmptyOp>())
        slices.push_back(op);
    });
    llvm::for_each(slices, cloneForEachUse);
    getOperation()->walk([&](tensor::EmptyOp op) { empties.push_back(op); });
    llvm::for_each(empties, cloneForEachUse);
  }
};

/// True for a copy of an input to the beginning of the output that extends it.
bool isPrefixCopy(memref::CopyOp copy) {
  auto func = copy->getParentOfType<func::FuncOp>();
  auto input = dyn_cast<BlockArgument>(copy.getSource());
  auto part = copy.getTarget().getDefiningOp<memref::SubViewOp>();
  auto output = part ? dyn_cast<BlockArgument>(part.getSource()) : BlockArgument();
  if (!input || !output || input.getOwner() != &func.front() || output.getOwner() != &func.front())
    return false;
  auto extends = func.getArgAttrOfType<IntegerAttr>(output.getArgNumber(), kExtendsAttr);
  return extends && extends.getInt() == input.getArgNumber() && part.hasZeroOffset() &&
         part.hasUnitStride();
}

/// Copies only when the memory is not the same.
void guardPrefixCopy(memref::CopyOp copy) {
  OpBuilder builder(copy);
  Location loc = copy.getLoc();
  Value from = memref::ExtractAlignedPointerAsIndexOp::create(builder, loc, copy.getSource());
  Value to = memref::ExtractAlignedPointerAsIndexOp::create(
      builder, loc, copy.getTarget().getDefiningOp<memref::SubViewOp>().getSource());
  Value differ = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::ne, from, to);
  auto guard = scf::IfOp::create(builder, loc, differ);
  copy->moveBefore(guard.thenBlock()->getTerminator());
}

struct ExpandCopiesPass : moe::impl::ExpandCopiesBase<ExpandCopiesPass> {
  void runOnOperation() override {
    getOperation()->walk([](memref::CopyOp copy) {
      if (isPrefixCopy(copy))
        guardPrefixCopy(copy);
      auto isContiguous = [](Value value) {
        auto type = dyn_cast<MemRefType>(value.getType());
        return type && type.getLayout().isIdentity();
      };
      if (isContiguous(copy.getSource()) && isContiguous(copy.getTarget()))
        return;
      OpBuilder builder(copy);
      linalg::makeMemRefCopyOp(builder, copy.getLoc(), copy.getSource(), copy.getTarget());
      copy.erase();
    });
  }
};

//===----------------------------------------------------------------------===//
// Order of loops
//===----------------------------------------------------------------------===//

/// How well `op` walks memory when `loop` is innermost: positive for operands that
/// it walks with stride 1, negative for the others that it moves in. Results count
/// more: they are read and written.
int getContiguity(linalg::GenericOp op, unsigned loop) {
  int score = 0;
  for (OpOperand &operand : op->getOpOperands()) {
    AffineMap map = op.getMatchingIndexingMap(&operand);
    if (!map.isFunctionOfDim(loop))
      continue;
    int weight = op.isDpsInit(&operand) ? 3 : 2;
    auto last = dyn_cast<AffineDimExpr>(map.getResults().back());
    score += last && last.getPosition() == loop ? weight : -weight;
  }
  return score;
}

unsigned getInnermostLoop(linalg::GenericOp op) {
  unsigned best = op.getNumLoops() - 1;
  for (unsigned loop = 0; loop + 1 < op.getNumLoops(); ++loop)
    if (getContiguity(op, loop) > getContiguity(op, best))
      best = loop;
  return best;
}

struct OrderLoopsPass : moe::impl::OrderLoopsBase<OrderLoopsPass> {
  void runOnOperation() override {
    SmallVector<linalg::LinalgOp> ops;
    getOperation()->walk([&](linalg::LinalgOp op) { ops.push_back(op); });
    IRRewriter rewriter(&getContext());
    for (linalg::LinalgOp op : ops) {
      if (!op.hasPureBufferSemantics())
        continue;
      rewriter.setInsertionPoint(op);
      auto generic = dyn_cast<linalg::GenericOp>(op.getOperation());
      if (!generic) {
        FailureOr<linalg::GenericOp> generalized = linalg::generalizeNamedOp(rewriter, op);
        if (failed(generalized))
          continue;
        generic = *generalized;
      }
      if (failed(order(generic, rewriter)))
        return signalPassFailure();
    }
  }

  static LogicalResult order(linalg::GenericOp op, RewriterBase &rewriter) {
    if (op.getNumLoops() < 2)
      return success();
    unsigned innermost = getInnermostLoop(op);
    if (innermost + 1 == op.getNumLoops())
      return success();
    SmallVector<unsigned> loops;
    for (unsigned loop = 0; loop < op.getNumLoops(); ++loop)
      if (loop != innermost)
        loops.push_back(loop);
    loops.push_back(innermost);
    rewriter.setInsertionPoint(op);
    return linalg::interchangeGenericOp(rewriter, op, loops);
  }
};

//===----------------------------------------------------------------------===//
// Mathematics on vectors
//===----------------------------------------------------------------------===//

struct ApproximateVectorMathPass : moe::impl::ApproximateVectorMathBase<ApproximateVectorMathPass> {
  void runOnOperation() override {
    SmallVector<Operation *> ops;
    getOperation()->walk([&](Operation *op) {
      if (isa_and_present<math::MathDialect>(op->getDialect()) && op->getNumResults() == 1 &&
          isa<VectorType>(op->getResult(0).getType()))
        ops.push_back(op);
    });
    RewritePatternSet patterns(&getContext());
    auto all = [](StringRef) { return true; };
    populateMathF32ExpansionPatterns(patterns, all);
    populateMathPolynomialApproximationPatterns(patterns, all);
    GreedyRewriteConfig config;
    config.setStrictness(GreedyRewriteStrictness::ExistingAndNewOps);
    if (failed(applyOpPatternsGreedily(ops, std::move(patterns), config)))
      signalPassFailure();
  }
};

//===----------------------------------------------------------------------===//
// Rounding to bfloat16
//===----------------------------------------------------------------------===//

struct RoundToBFloat16Pattern : OpRewritePattern<arith::TruncFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(arith::TruncFOp op, PatternRewriter &rewriter) const override {
    Value x = op.getIn();
    if (!getElementTypeOrSelf(x.getType()).isF32() || !getElementTypeOrSelf(op.getType()).isBF16())
      return rewriter.notifyMatchFailure(op, "not from f32 to bf16");
    ImplicitLocOpBuilder b(op.getLoc(), rewriter);
    auto like = [&](Type element) -> Type {
      auto vector = dyn_cast<VectorType>(x.getType());
      return vector ? Type(vector.clone(element)) : element;
    };
    auto constant = [&](Type element, int64_t value) -> Value {
      TypedAttr scalar = b.getIntegerAttr(element, value);
      if (auto vector = dyn_cast<VectorType>(like(element)))
        scalar = DenseElementsAttr::get(vector, scalar);
      return arith::ConstantOp::create(b, scalar);
    };
    Type i16 = b.getI16Type(), i32 = b.getI32Type();
    Value bits = arith::BitcastOp::create(b, like(i32), x), sixteen = constant(i32, 16);
    Value odd = arith::ShRUIOp::create(b, bits, sixteen);
    odd = arith::AndIOp::create(b, odd, constant(i32, 1));
    Value rounded =
        arith::AddIOp::create(b, bits, arith::AddIOp::create(b, odd, constant(i32, 0x7FFF)));
    rounded = arith::TruncIOp::create(b, like(i16), arith::ShRUIOp::create(b, rounded, sixteen));
    // Not a selection between the two: LLVM would make one between bf16 values of it.
    Value isNaN = arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, x, x);
    Value nan = arith::SelectOp::create(b, isNaN, constant(i16, 0x7FC0), constant(i16, 0));
    Value result = arith::OrIOp::create(b, rounded, nan);
    rewriter.replaceOpWithNewOp<arith::BitcastOp>(op, op.getType(), result);
    return success();
  }
};

struct RoundToBFloat16Pass : moe::impl::RoundToBFloat16Base<RoundToBFloat16Pass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<RoundToBFloat16Pattern>(&getContext());
    walkAndApplyPatterns(getOperation(), std::move(patterns));
  }
};

//===----------------------------------------------------------------------===//
// Stack buffers
//===----------------------------------------------------------------------===//

struct HoistStackBuffersPass : moe::impl::HoistStackBuffersBase<HoistStackBuffersPass> {
  void runOnOperation() override {
    if (getOperation().isDeclaration())
      return;
    Block &entry = getOperation().getBody().front();
    SmallVector<memref::AllocaOp> buffers;
    getOperation().walk([&](memref::AllocaOp op) {
      if (op.getOperands().empty() && op->getBlock() != &entry)
        buffers.push_back(op);
    });
    for (memref::AllocaOp op : buffers)
      op->moveBefore(&entry, entry.begin());
  }
};

} // namespace

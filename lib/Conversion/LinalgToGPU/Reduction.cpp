// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Reduction.h"
#include "../MoEToGPU/GPUBuilder.h"

#include "mlir/Analysis/SliceAnalysis.h"

using namespace mlir;
using namespace mlir::moe;
using cuda::GPUBuilder;
using cuda::kLanes;

/// Warps of a block.
static constexpr int64_t kWarps = 8;

/// Whether the first input that has any dimension has a reduction loop as its last one.
static bool readsNeighbours(linalg::GenericOp op) {
  SmallVector<unsigned> reductions;
  op.getReductionDims(reductions);
  for (OpOperand *input : op.getDpsInputOperands()) {
    AffineMap map = op.getMatchingIndexingMap(input);
    if (map.getNumResults() == 0)
      continue;
    AffineExpr last = map.getResult(map.getNumResults() - 1);
    return llvm::any_of(reductions, [&](unsigned loop) { return last.isFunctionOfDim(loop); });
  }
  return false;
}

/// Whether there are fewer steps than lanes, as far as is known.
static bool isShort(linalg::GenericOp op) {
  SmallVector<int64_t> ranges = op.getStaticLoopRanges();
  int64_t steps = 1;
  for (auto [loop, type] : llvm::enumerate(op.getIteratorTypesArray())) {
    if (type == utils::IteratorType::parallel)
      continue;
    if (ShapedType::isDynamic(ranges[loop]))
      return false;
    steps *= ranges[loop];
  }
  return steps < kLanes / 2;
}

std::optional<Reduction> Reduction::match(linalg::GenericOp op) {
  if (op.getNumReductionLoops() == 0 || !readsNeighbours(op) || isShort(op))
    return std::nullopt;
  Reduction result;
  result.op = op;
  for (auto [i, type] : llvm::enumerate(op.getRegionOutputArgs())) {
    SmallVector<Operation *> folds;
    bool fitsShuffle = type.getType().isF32() || type.getType().isInteger(32);
    if (!fitsShuffle || !matchReduction(op.getRegionOutputArgs(), i, folds) || folds.size() != 1 ||
        !arith::getNeutralElement(folds[0]))
      return std::nullopt;
    result.folds.push_back(folds[0]);
  }
  return result;
}

/// a op b, with the operation `fold`.
static Value apply(OpBuilder &builder, Operation *fold, Value a, Value b) {
  Operation *clone = builder.clone(*fold);
  clone->setOperands({a, b});
  return clone->getResult(0);
}

/// Over all warps of a block, by way of shared memory.
static Value reduceBlock(GPUBuilder &b, Value value, int64_t warps,
                         function_ref<Value(Value, Value)> step) {
  Value memory = b.shared(warps, value.getType());
  Value warp = b.div(b.thread(), kLanes), lane = b.mod(b.thread(), kLanes);
  b.ifThen(b.equal(lane, b.index(0)), [&] { b.store(value, memory, warp); });
  b.barrier();
  Value result = b.load(memory, b.index(0));
  for (int64_t i = 1; i < warps; ++i)
    result = step(result, b.load(memory, b.index(i)));
  return result;
}

SmallVector<Value> Reduction::emitPoint(LoopNest &nest, Value lane, int64_t team) {
  // The nest's builder is a GPUBuilder in every kernel that has warps.
  auto &b = static_cast<GPUBuilder &>(nest.builder);
  SmallVector<Value> neutral;
  for (Operation *fold : folds)
    neutral.push_back(arith::ConstantOp::create(b, *arith::getNeutralElement(fold)));
  Value steps = nest.countPoints(nest.reduction);
  SmallVector<Value> values =
      b.forLoop(lane, steps, b.index(team), neutral, [&](Value step, ValueRange carried) {
        nest.setPoint(step, nest.reduction);
        return nest.emitStep(SmallVector<Value>(carried));
      });
  SmallVector<Value> inits = nest.loadInits();
  for (auto [value, init, fold] : llvm::zip(values, inits, folds)) {
    auto step = [&, fold = fold](Value x, Value y) { return apply(b, fold, x, y); };
    value = b.reduce(value, step);
    if (team > kLanes)
      value = reduceBlock(b, value, team / kLanes, step);
    value = step(init, value);
  }
  return values;
}

LogicalResult Reduction::outline(KernelOutliner &outliner) {
  auto countBlocks = [&](OpBuilder &builder) {
    cpu::KernelBuilder b(op.getLoc(), builder, {{kLanes}});
    SmallVector<unsigned> loops;
    op.getParallelDims(loops);
    return b.ceilDiv(countPoints(b, op, loops), kWarps);
  };
  return outliner.outlineBlocks(
      {op.getOperation()}, "reduction", kWarps * kLanes, countBlocks, [&](KernelBody body) {
        GPUBuilder b(body.kernel, body.builder);
        LoopNest nest(op, {b, body.mapping, body.kernel});
        Value warp = b.add(b.mul(b.block(), kWarps), b.div(b.thread(), kLanes));
        Value lane = b.mod(b.thread(), kLanes), warps = b.mul(b.numBlocks(), kWarps);
        b.forLoop(warp, nest.countPoints(nest.parallel), warps, [&](Value point) {
          nest.setPoint(point, nest.parallel);
          SmallVector<Value> results = emitPoint(nest, lane, kLanes);
          b.ifThen(b.equal(lane, b.index(0)), [&] { nest.storeResults(results); });
        });
      });
}

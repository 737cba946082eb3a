// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that reduce dimensions.

#include "Inference.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

static LogicalResult setReduced(Inference &in, Type element, std::optional<ArrayRef<int64_t>> axes,
                                bool keep) {
  std::optional<Shape> shape = in.shape(0);
  if (!shape || !axes) {
    // Which dimensions go is unknown, but with keepdims not how many stay.
    std::optional<Shape> open;
    if (shape && keep)
      open = Shape(shape->size(), kDynamic);
    in.set(0, element, open);
    return success();
  }
  Shape result;
  for (auto [i, dim] : llvm::enumerate(*shape)) {
    if (!llvm::is_contained(*axes, int64_t(i)))
      result.push_back(dim);
    else if (keep)
      result.push_back(1);
  }
  in.set(0, element, result);
  return success();
}

static LogicalResult inferReduce(Inference &in) {
  bool keep = in.node.getIntAttr("keepdims", 1);
  std::optional<Shape> shape = in.shape(0);
  if (!shape)
    return setReduced(in, in.element(0), std::nullopt, keep);
  FailureOr<std::optional<SmallVector<int64_t>>> axes = getAxes(in, 1, shape->size());
  if (failed(axes))
    return failure();
  bool isEmpty = !in.node.getInput(1) || (*axes && (*axes)->empty());
  if (isEmpty && in.node.getIntAttr("noop_with_empty_axes", 0)) {
    in.set(0, in.element(0), shape);
    return success();
  }
  if (isEmpty)
    *axes = llvm::to_vector(llvm::seq<int64_t>(0, shape->size()));
  if (!*axes)
    return setReduced(in, in.element(0), std::nullopt, keep);
  return setReduced(in, in.element(0), ArrayRef(**axes), keep);
}

static LogicalResult inferArgReduce(Inference &in) {
  bool keep = in.node.getIntAttr("keepdims", 1);
  std::optional<Shape> shape = in.shape(0);
  if (!shape)
    return setReduced(in, in.i64(), std::nullopt, keep);
  FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", 0), shape->size());
  if (failed(axis))
    return failure();
  return setReduced(in, in.i64(), ArrayRef(*axis), keep);
}

void inference::addReductions(InferTable &table) {
  for (StringRef op : {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
                       "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"})
    table[op] = inferReduce;
  table["ArgMax"] = table["ArgMin"] = inferArgReduce;
}

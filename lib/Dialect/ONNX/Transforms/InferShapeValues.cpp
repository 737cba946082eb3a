// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that compute shapes, or are given one.

#include "Inference.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

static LogicalResult inferConstant(Inference &in) {
  if (DenseElementsAttr value = in.node.getTensorAttr("value"))
    in.set(0, value.getElementType(), Shape(value.getType().getShape()));
  return success();
}

static LogicalResult inferShape(Inference &in) {
  Shape result = {kDynamic};
  if (std::optional<Shape> shape = in.shape(0)) {
    int64_t rank = shape->size();
    auto clampAxis = [&](int64_t axis) {
      return std::clamp<int64_t>(axis < 0 ? axis + rank : axis, 0, rank);
    };
    int64_t start = clampAxis(in.node.getIntAttr("start", 0));
    int64_t end = clampAxis(in.node.getIntAttr("end", rank));
    result[0] = std::max<int64_t>(end - start, 0);
  }
  in.set(0, in.i64(), result);
  return success();
}

static LogicalResult inferSize(Inference &in) {
  in.set(0, in.i64(), Shape());
  return success();
}

static LogicalResult inferConstantOfShape(Inference &in) {
  DenseElementsAttr value = in.node.getTensorAttr("value");
  Type element = value ? value.getElementType() : Float32Type::get(in.node.getContext());
  if (value && value.getNumElements() != 1)
    return in.fail() << "value has " << value.getNumElements() << " elements, expected 1";
  std::optional<ShapeElements> shape = in.partialInts(0);
  in.set(0, element, shape ? std::optional(toShape(*shape)) : std::nullopt);
  return success();
}

static LogicalResult inferRange(Inference &in) {
  Shape shape = {kDynamic};
  std::optional<SmallVector<int64_t>> start = in.ints(0), limit = in.ints(1), delta = in.ints(2);
  int64_t distance;
  // -distance must exist too, for a step of -1.
  bool isKnown =
      start && limit && delta && start->size() == 1 && limit->size() == 1 && delta->size() == 1 &&
      !llvm::SubOverflow(limit->front(), start->front(), distance) && distance != INT64_MIN;
  if (isKnown && delta->front() == 0)
    return in.fail() << "the step must not be 0";
  if (isKnown && delta->front() != INT64_MIN) {
    int64_t step = delta->front();
    bool isEmpty = (distance > 0) != (step > 0) || distance == 0;
    shape[0] = isEmpty ? 0 : distance / step + (distance % step != 0 ? 1 : 0);
  }
  in.set(0, in.commonElement(), shape);
  return success();
}

static LogicalResult inferExpand(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  std::optional<ShapeElements> target = in.partialInts(1);
  std::optional<Shape> result;
  if (shape && target) {
    result = broadcast(*shape, toShape(*target));
    if (!result)
      return in.fail() << "shape " << print(*shape) << " does not broadcast to "
                       << print(toShape(*target));
  }
  in.set(0, in.element(0), result);
  return success();
}

static LogicalResult inferTile(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  std::optional<ShapeElements> repeats = in.partialInts(1);
  if (shape && repeats && repeats->size() != shape->size())
    return in.fail() << "needs " << shape->size() << " repeats, got " << repeats->size();
  for (size_t i = 0; shape && i < shape->size(); ++i) {
    std::optional<int64_t> repeat = repeats ? (*repeats)[i] : std::nullopt;
    int64_t &dim = (*shape)[i];
    if (repeat && *repeat < 0)
      return in.fail() << "repeat " << *repeat << " of dimension " << i << " is negative";
    if (!repeat || dim == kDynamic || llvm::MulOverflow(dim, *repeat, dim))
      dim = kDynamic;
  }
  in.set(0, in.element(0), shape);
  return success();
}

void inference::addShapeValues(InferTable &table) {
  table["Constant"] = inferConstant;
  table["ConstantOfShape"] = inferConstantOfShape;
  table["Expand"] = inferExpand;
  table["Range"] = inferRange;
  table["Shape"] = inferShape;
  table["Size"] = inferSize;
  table["Tile"] = inferTile;
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that pick elements.

#include "Inference.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

static LogicalResult inferGather(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> data = in.shape(0), indices = in.shape(1);
  if (!data || !indices)
    return success();
  FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", 0), data->size());
  if (failed(axis))
    return failure();
  Shape result(ArrayRef(*data).take_front(*axis));
  result.append(*indices);
  result.append(data->begin() + *axis + 1, data->end());
  in.set(0, element, result);
  return success();
}

static LogicalResult inferGatherElements(Inference &in) {
  in.set(0, in.element(0), in.shape(1));
  return success();
}

static LogicalResult inferGatherND(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> data = in.shape(0), indices = in.shape(1);
  int64_t batch = in.node.getIntAttr("batch_dims", 0);
  if (!data || !indices || indices->empty() || indices->back() == kDynamic)
    return success();
  int64_t depth = indices->back();
  int64_t rank = data->size();
  if (batch < 0 || batch > rank || depth < 1 || depth > rank - batch)
    return in.fail() << "indices of shape " << print(*indices) << " do not fit data of shape "
                     << print(*data);
  Shape result(ArrayRef(*indices).drop_back());
  result.append(data->begin() + batch + depth, data->end());
  in.set(0, element, result);
  return success();
}

/// starts, ends, axes and steps have one element for each axis that is cut.
static LogicalResult checkSliceLengths(Inference &in) {
  std::optional<int64_t> count;
  for (unsigned i = 1; i < in.node.getNumInputs(); ++i) {
    std::optional<Shape> shape = in.node.getInput(i) ? in.shape(i) : std::nullopt;
    if (!shape || ShapedType::isDynamicShape(*shape))
      continue;
    if (shape->size() != 1)
      return in.fail() << "input " << i << " of Slice must have one dimension, not "
                       << shape->size();
    if (count && *count != shape->front())
      return in.fail() << "starts, ends, axes and steps of Slice must have the same length: "
                       << *count << " and " << shape->front();
    count = shape->front();
  }
  return success();
}

static LogicalResult inferSlice(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  if (failed(checkSliceLengths(in)))
    return failure();
  std::optional<Shape> shape = in.shape(0);
  if (!shape)
    return success();
  std::optional<ShapeElements> starts = in.partialInts(1), ends = in.partialInts(2);
  std::optional<SmallVector<int64_t>> axes = in.ints(3);
  if (!in.node.getInput(3) && starts)
    axes = llvm::to_vector(llvm::seq<int64_t>(0, starts->size()));
  Shape result = *shape;
  if (!axes) {
    in.set(0, element, Shape(shape->size(), kDynamic));
    return success();
  }
  std::optional<SmallVector<int64_t>> steps = in.ints(4);
  for (auto [i, stated] : llvm::enumerate(*axes)) {
    FailureOr<int64_t> axis = in.checkAxis(stated, shape->size());
    if (failed(axis))
      return failure();
    int64_t size = (*shape)[*axis], &out = result[*axis];
    out = kDynamic;
    std::optional<int64_t> step = 1;
    if (in.node.getInput(4))
      step = steps && i < steps->size() ? std::optional((*steps)[i]) : std::nullopt;
    bool known = starts && ends && i < starts->size() && i < ends->size() && (*starts)[i] &&
                 (*ends)[i] && step;
    if (!known)
      continue;
    if (*step == 0)
      return in.fail() << "a step of Slice must not be 0";
    int64_t start = *(*starts)[i], end = *(*ends)[i];
    if (size == kDynamic)
      continue;
    if (size == 0) {
      out = 0;
      continue;
    }
    start = start < 0 ? start + size : start;
    end = end < 0 ? std::max<int64_t>(end, -size - 1) + size : end;
    if (*step > 0) {
      start = std::clamp<int64_t>(start, 0, size);
      end = std::clamp<int64_t>(end, 0, size);
    } else {
      start = std::clamp<int64_t>(start, 0, size - 1);
      end = std::clamp<int64_t>(end, -1, size - 1);
    }
    int64_t span = *step > 0 ? end - start : start - end;
    uint64_t stride = *step > 0 ? uint64_t(*step) : -uint64_t(*step);
    out = span <= 0 ? 0 : int64_t(llvm::divideCeil(uint64_t(span), stride));
  }
  in.set(0, element, result);
  return success();
}

static LogicalResult inferTopK(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  if (shape) {
    FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", -1), shape->size());
    if (failed(axis))
      return failure();
    std::optional<SmallVector<int64_t>> k = in.ints(1);
    int64_t size = (*shape)[*axis];
    int64_t kept = k && k->size() == 1 && k->front() >= 0 ? k->front() : kDynamic;
    if (size != kDynamic && kept != kDynamic && kept > size)
      return in.fail() << "k = " << kept << " exceeds the " << size << " elements along axis "
                       << *axis;
    (*shape)[*axis] = kept;
  }
  in.set(0, in.element(0), shape);
  in.set(1, in.i64(), shape);
  return success();
}

static LogicalResult inferOneHot(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  if (shape) {
    int64_t rank = shape->size() + 1;
    FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", -1), rank);
    if (failed(axis))
      return failure();
    std::optional<SmallVector<int64_t>> depth = in.ints(1);
    if (depth && depth->size() == 1 && depth->front() < 0)
      return in.fail() << "depth " << depth->front() << " is negative";
    shape->insert(shape->begin() + *axis, depth && depth->size() == 1 ? depth->front() : kDynamic);
  }
  in.set(0, in.element(2), shape);
  return success();
}

static LogicalResult inferPad(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  std::optional<ShapeElements> pads = in.partialInts(1);
  std::optional<SmallVector<int64_t>> axes = in.ints(3);
  if (shape && !in.node.getInput(3))
    axes = llvm::to_vector(llvm::seq<int64_t>(0, shape->size()));
  bool isKnown = shape && pads && axes && pads->size() == 2 * axes->size();
  if (shape && !isKnown)
    shape = Shape(shape->size(), kDynamic);
  for (size_t i = 0; isKnown && i < axes->size(); ++i) {
    FailureOr<int64_t> axis = in.checkAxis((*axes)[i], shape->size());
    if (failed(axis))
      return failure();
    std::optional<int64_t> before = (*pads)[i], after = (*pads)[i + axes->size()];
    int64_t &dim = (*shape)[*axis];
    bool fits = dim != kDynamic && before && after && !llvm::AddOverflow(dim, *before, dim) &&
                !llvm::AddOverflow(dim, *after, dim) && dim >= 0;
    if (!fits)
      dim = kDynamic;
  }
  in.set(0, in.element(0), shape);
  return success();
}

static LogicalResult inferCompress(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  if (!in.node.hasNodeAttr("axis"))
    shape = Shape(1, kDynamic);
  if (shape && in.node.hasNodeAttr("axis")) {
    FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", 0), shape->size());
    if (failed(axis))
      return failure();
    (*shape)[*axis] = kDynamic;
  }
  in.set(0, in.element(0), shape);
  return success();
}

static LogicalResult inferNonZero(Inference &in) {
  Shape result(2, kDynamic);
  if (std::optional<Shape> shape = in.shape(0))
    result[0] = shape->size();
  in.set(0, in.i64(), result);
  return success();
}

void inference::addIndexing(InferTable &table) {
  table["Compress"] = inferCompress;
  table["Gather"] = inferGather;
  table["GatherElements"] = inferGatherElements;
  table["GatherND"] = inferGatherND;
  table["NonZero"] = inferNonZero;
  table["OneHot"] = inferOneHot;
  table["Pad"] = inferPad;
  table["Slice"] = inferSlice;
  table["TopK"] = inferTopK;
}

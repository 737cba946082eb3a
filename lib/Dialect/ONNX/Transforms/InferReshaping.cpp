// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that give elements another shape, join or split them.

#include "Inference.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

/// Fills in the one dimension of `result` that is open from the number of
/// elements. `copied` dimensions are equal on both sides and cancel.
static LogicalResult fillReshape(Inference &in, ArrayRef<int64_t> input, Shape &result,
                                 ArrayRef<bool> copied) {
  int64_t left = 1, right = 1;
  std::optional<size_t> open;
  auto isCopied = [&](size_t i) { return i < copied.size() && copied[i]; };
  for (auto [i, dim] : llvm::enumerate(input))
    if (!isCopied(i) && (dim == kDynamic || llvm::MulOverflow(left, dim, left)))
      return success();
  for (auto [i, dim] : llvm::enumerate(result)) {
    if (isCopied(i))
      continue;
    if (dim == kDynamic && open)
      return success();
    if (dim == kDynamic)
      open = i;
    else if (llvm::MulOverflow(right, dim, right))
      return success();
  }
  // A copied dimension may be 0, and then the rest may be anything.
  bool isStatic = product(input) != kDynamic;
  if (!open) {
    if (left != right && isStatic && product(input) != product(result))
      return in.fail() << "cannot reshape " << print(input) << " to " << print(result);
    return success();
  }
  if (right == 0)
    return success();
  if (left % right != 0) {
    if (isStatic && product(input) != 0)
      return in.fail() << "cannot reshape " << print(input) << " to " << print(result);
    return success();
  }
  result[*open] = left / right;
  return success();
}

static LogicalResult inferReshape(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<ShapeElements> target = in.partialInts(1);
  if (!target)
    return success();
  std::optional<Shape> input = in.shape(0);
  bool allowZero = in.node.getIntAttr("allowzero", 0);
  Shape result = toShape(*target);
  SmallVector<bool> copied(result.size(), false);
  unsigned numOpen = 0;
  for (auto [i, dim] : llvm::enumerate(*target)) {
    if (!dim)
      continue;
    if (*dim < -1)
      return in.fail() << "dimension " << *dim << " of the shape is invalid";
    numOpen += *dim == -1;
    if (*dim != 0 || allowZero)
      continue;
    // 0 copies the dimension of the input.
    if (input && i >= input->size())
      return in.fail() << "dimension " << i << " of the shape is copied from " << print(*input)
                       << ", which has none";
    copied[i] = true;
    result[i] = input ? (*input)[i] : kDynamic;
  }
  if (numOpen > 1)
    return in.fail() << "more than one dimension of the shape is -1";
  bool hasZero = allowZero && llvm::is_contained(result, 0);
  if (input && !hasZero && failed(fillReshape(in, *input, result, copied)))
    return failure();
  in.set(0, element, result);
  return success();
}

static LogicalResult inferFlatten(Inference &in) {
  Shape result(2, kDynamic);
  if (std::optional<Shape> shape = in.shape(0)) {
    int64_t rank = shape->size(), axis = in.node.getIntAttr("axis", 1);
    if (axis < -rank || axis > rank)
      return in.fail() << "axis " << axis << " is out of range for rank " << rank;
    axis = axis < 0 ? axis + rank : axis;
    result = {product(ArrayRef(*shape).take_front(axis)),
              product(ArrayRef(*shape).drop_front(axis))};
  }
  in.set(0, in.element(0), result);
  return success();
}

static LogicalResult inferTranspose(Inference &in) {
  std::optional<Shape> shape = in.shape(0), result;
  if (shape) {
    result = Shape(llvm::reverse(*shape));
    if (std::optional<ArrayRef<int64_t>> perm = in.node.getIntsAttr("perm")) {
      int64_t rank = shape->size();
      SmallVector<bool> seen(rank, false);
      bool valid = int64_t(perm->size()) == rank;
      for (int64_t axis : *perm) {
        valid &= axis >= 0 && axis < rank && !seen[axis];
        if (!valid)
          break;
        seen[axis] = true;
      }
      if (!valid)
        return in.fail() << "perm " << print(*perm) << " is not a permutation of " << rank
                         << " dimensions";
      for (int64_t i = 0; i < rank; ++i)
        (*result)[i] = (*shape)[(*perm)[i]];
    }
  }
  in.set(0, in.element(0), result);
  return success();
}

static LogicalResult inferSqueeze(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> shape = in.shape(0);
  if (!shape)
    return success();
  FailureOr<std::optional<SmallVector<int64_t>>> axes = getAxes(in, 1, shape->size());
  if (failed(axes))
    return failure();
  Shape result;
  if (!*axes) {
    // Without axes all dimensions of size 1 go, which a dynamic one may be.
    if (in.node.getInput(1) || llvm::is_contained(*shape, kDynamic))
      return success();
    llvm::copy_if(*shape, std::back_inserter(result), [](int64_t dim) { return dim != 1; });
    in.set(0, element, result);
    return success();
  }
  for (auto [i, dim] : llvm::enumerate(*shape)) {
    if (!llvm::is_contained(**axes, int64_t(i)))
      result.push_back(dim);
    else if (dim != 1 && dim != kDynamic)
      return in.fail() << "dimension " << i << " of " << print(*shape) << " is not 1";
  }
  in.set(0, element, result);
  return success();
}

static LogicalResult inferUnsqueeze(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> shape = in.shape(0);
  std::optional<SmallVector<int64_t>> stated = in.ints(1);
  if (!shape || !stated)
    return success();
  FailureOr<std::optional<SmallVector<int64_t>>> axes =
      getAxes(in, 1, shape->size() + stated->size());
  if (failed(axes))
    return failure();
  Shape result = *shape;
  for (int64_t axis : **axes)
    result.insert(result.begin() + axis, 1);
  in.set(0, element, result);
  return success();
}

static LogicalResult inferConcat(Inference &in) {
  Type element = in.commonElement();
  in.set(0, element, std::nullopt);
  std::optional<Shape> result;
  for (unsigned i = 0, e = in.node.getNumInputs(); i < e; ++i) {
    std::optional<Shape> shape = in.shape(i);
    if (!shape)
      return success();
    FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", 0), shape->size());
    if (failed(axis))
      return failure();
    if (!result) {
      result = shape;
      continue;
    }
    if (result->size() != shape->size())
      return in.fail() << "inputs have ranks " << result->size() << " and " << shape->size();
    for (size_t d = 0; d < shape->size(); ++d) {
      int64_t &left = (*result)[d], right = (*shape)[d];
      if (int64_t(d) == *axis) {
        if (left == kDynamic || right == kDynamic || llvm::AddOverflow(left, right, left))
          left = kDynamic;
        continue;
      }
      if (left != kDynamic && right != kDynamic && left != right)
        return in.fail() << "inputs of shapes " << print(*result) << " and " << print(*shape)
                         << " differ in dimension " << d;
      left = left == kDynamic ? right : left;
    }
  }
  in.set(0, element, result);
  return success();
}

static LogicalResult inferSplit(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  std::optional<ShapeElements> sizes = in.partialInts(1);
  unsigned parts = in.node.getNumResults();
  if (sizes && sizes->size() != parts)
    return in.fail() << "has " << parts << " outputs but " << sizes->size() << " sizes";
  if (sizes && llvm::any_of(*sizes, [](std::optional<int64_t> size) { return size && *size < 0; }))
    return in.fail() << "a size is negative";
  FailureOr<int64_t> axis = 0;
  if (shape)
    axis = in.checkAxis(in.node.getIntAttr("axis", 0), shape->size());
  if (failed(axis))
    return failure();
  for (unsigned i = 0; i < parts; ++i) {
    std::optional<Shape> part = shape;
    if (part) {
      int64_t whole = (*shape)[*axis];
      // Without sizes the parts are equal, the last one smaller if need be.
      int64_t chunk = whole == kDynamic ? kDynamic : int64_t(llvm::divideCeil(whole, parts));
      if (sizes)
        (*part)[*axis] = (*sizes)[i].value_or(kDynamic);
      else if (whole == kDynamic)
        (*part)[*axis] = kDynamic;
      else
        (*part)[*axis] = std::clamp<int64_t>(whole - chunk * i, 0, chunk);
    }
    in.set(i, in.element(0), part);
  }
  return success();
}

void inference::addReshaping(InferTable &table) {
  table["Concat"] = inferConcat;
  table["Flatten"] = inferFlatten;
  table["Reshape"] = inferReshape;
  table["Split"] = inferSplit;
  table["Squeeze"] = inferSqueeze;
  table["Transpose"] = inferTranspose;
  table["Unsqueeze"] = inferUnsqueeze;
}

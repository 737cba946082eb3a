// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Matrix products and convolution.

#include "Inference.h"

#include "moec/Dialect/ONNX/IR/Einsum.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

static LogicalResult inferMatMul(Inference &in) {
  Type element = in.commonElement();
  std::optional<Shape> a = in.shape(0), b = in.shape(1);
  in.set(0, element, std::nullopt);
  if (!a || !b)
    return success();
  if (a->empty() || b->empty())
    return in.fail() << "operands of rank 0 have no matrix product";
  Shape left = *a, right = *b;
  bool isRow = left.size() == 1, isColumn = right.size() == 1;
  if (isRow)
    left.insert(left.begin(), 1);
  if (isColumn)
    right.push_back(1);
  int64_t k = left.back(), otherK = right[right.size() - 2];
  if (k != kDynamic && otherK != kDynamic && k != otherK)
    return in.fail() << "inner dimensions of " << print(*a) << " and " << print(*b) << " differ";
  std::optional<Shape> batch = broadcast(ArrayRef(left).drop_back(2), ArrayRef(right).drop_back(2));
  if (!batch)
    return in.fail() << "batch dimensions of " << print(*a) << " and " << print(*b)
                     << " do not broadcast";
  if (!isRow)
    batch->push_back(left[left.size() - 2]);
  if (!isColumn)
    batch->push_back(right.back());
  in.set(0, element, batch);
  return success();
}

/// MatMul of operands that may be transposed on their last two dimensions.
static LogicalResult inferFusedMatMul(Inference &in) {
  std::optional<Shape> result;
  std::optional<Shape> a = in.shape(0), b = in.shape(1);
  if (a && b && a->size() >= 2 && b->size() >= 2) {
    if (in.node.getIntAttr("transA", 0))
      std::swap(a->back(), (*a)[a->size() - 2]);
    if (in.node.getIntAttr("transB", 0))
      std::swap(b->back(), (*b)[b->size() - 2]);
    result = broadcast(ArrayRef(*a).drop_back(2), ArrayRef(*b).drop_back(2));
    if (!result)
      return in.fail() << "batch dimensions do not broadcast";
    result->push_back((*a)[a->size() - 2]);
    result->push_back(b->back());
  }
  in.set(0, in.commonElement(), result);
  return success();
}

static LogicalResult inferMatMulNBits(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  if (shape && !shape->empty())
    shape->back() = in.node.getIntAttr("N", kDynamic);
  in.set(0, in.element(0), shape);
  return success();
}

static LogicalResult inferMatMulInteger(Inference &in) {
  if (failed(inferMatMul(in)))
    return failure();
  in.set(0, IntegerType::get(in.node.getContext(), 32), in.results[0].shape);
  return success();
}

static LogicalResult inferGemm(Inference &in) {
  std::optional<Shape> a = in.shape(0), b = in.shape(1), c = in.shape(2);
  Shape result(2, kDynamic);
  if ((a && a->size() != 2) || (b && b->size() != 2))
    return in.fail() << "operands must have rank 2, got " << (a ? print(*a) : "?") << " and "
                     << (b ? print(*b) : "?");
  if (a && in.node.getIntAttr("transA", 0))
    std::swap((*a)[0], (*a)[1]);
  if (b && in.node.getIntAttr("transB", 0))
    std::swap((*b)[0], (*b)[1]);
  if (a && b && (*a)[1] != kDynamic && (*b)[0] != kDynamic && (*a)[1] != (*b)[0])
    return in.fail() << "inner dimensions " << (*a)[1] << " and " << (*b)[0] << " differ";
  if (a)
    result[0] = (*a)[0];
  if (b)
    result[1] = (*b)[1];
  if (c) {
    std::optional<Shape> sum = broadcast(result, *c);
    if (!sum || sum->size() != 2)
      return in.fail() << "C of shape " << print(*c) << " does not broadcast to " << print(result);
  }
  in.set(0, in.commonElement(), result);
  return success();
}

static LogicalResult inferEinsum(Inference &in) {
  in.set(0, in.commonElement(), std::nullopt);
  SmallVector<Shape> shapes;
  SmallVector<int64_t> ranks;
  for (unsigned i = 0, e = in.node.getNumInputs(); i < e; ++i) {
    std::optional<Shape> shape = in.shape(i);
    if (!shape)
      return success();
    ranks.push_back(shape->size());
    shapes.push_back(*shape);
  }
  auto labels = parseEinsum(in.node.getStringAttr("equation", ""), ranks);
  if (!labels)
    return in.fail() << llvm::toString(labels.takeError());
  Shape sizes(labels->numLabels, 1);
  for (auto [i, operand] : llvm::enumerate(labels->operands))
    for (auto [label, dim] : llvm::zip(operand, shapes[i])) {
      std::optional<int64_t> size = broadcastDim(sizes[label], dim);
      if (!size)
        return in.fail() << "sizes " << sizes[label] << " and " << dim << " of shape "
                         << print(shapes[i]) << " do not go together in the equation";
      sizes[label] = *size;
    }
  Shape result;
  for (int64_t label : labels->result)
    result.push_back(sizes[label]);
  in.set(0, in.commonElement(), result);
  return success();
}

/// Size of the result of a convolution along one dimension of size `size`; kDynamic when
/// it is not known, or not valid, which the lowering reports.
static int64_t getConvolvedSize(NodeOp node, size_t i, size_t rank, int64_t size, int64_t kernel) {
  auto get = [&](StringRef name, size_t index, int64_t defaultValue) {
    std::optional<ArrayRef<int64_t>> values = node.getIntsAttr(name);
    return values && index < values->size() ? (*values)[index] : defaultValue;
  };
  StringRef mode = node.getStringAttr("auto_pad", "NOTSET");
  int64_t stride = get("strides", i, 1);
  if (size == kDynamic || kernel == kDynamic || stride < 1)
    return kDynamic;
  if (mode.starts_with("SAME"))
    return llvm::divideCeil(size, stride);
  int64_t reach = (kernel - 1) * get("dilations", i, 1) + 1;
  if (mode == "NOTSET")
    size += get("pads", i, 0) + get("pads", rank + i, 0);
  return size < reach ? kDynamic : (size - reach) / stride + 1;
}

static LogicalResult inferConv(Inference &in) {
  std::optional<Shape> data = in.shape(0), filters = in.shape(1), result;
  if (data && filters && data->size() == filters->size() && data->size() > 2) {
    result = Shape{data->front(), filters->front()};
    size_t rank = data->size() - 2;
    for (size_t i = 0; i < rank; ++i)
      result->push_back(getConvolvedSize(in.node, i, rank, (*data)[2 + i], (*filters)[2 + i]));
  }
  in.set(0, in.commonElement(), result);
  return success();
}

void inference::addProducts(InferTable &table) {
  table["com.microsoft.FusedMatMul"] = inferFusedMatMul;
  table["com.microsoft.MatMulNBits"] = inferMatMulNBits;
  table["Conv"] = inferConv;
  table["Einsum"] = inferEinsum;
  table["Gemm"] = inferGemm;
  table["MatMul"] = inferMatMul;
  table["MatMulInteger"] = inferMatMulInteger;
}

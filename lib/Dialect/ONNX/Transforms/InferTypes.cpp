// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Inference.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

std::string inference::print(ArrayRef<int64_t> shape) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  stream << '[';
  llvm::interleaveComma(shape, stream, [&](int64_t dim) {
    if (dim == kDynamic)
      stream << '?';
    else
      stream << dim;
  });
  stream << ']';
  return text;
}

std::optional<int64_t> inference::broadcastDim(int64_t a, int64_t b) {
  if (a == 1)
    return b;
  if (b == 1 || a == b)
    return a;
  if (a == kDynamic)
    return b;
  if (b == kDynamic)
    return a;
  return std::nullopt;
}

std::optional<Shape> inference::broadcast(ArrayRef<int64_t> a, ArrayRef<int64_t> b) {
  if (a.size() < b.size())
    std::swap(a, b);
  Shape result(a);
  size_t offset = a.size() - b.size();
  for (size_t i = 0; i < b.size(); ++i) {
    std::optional<int64_t> dim = broadcastDim(a[offset + i], b[i]);
    if (!dim)
      return std::nullopt;
    result[offset + i] = *dim;
  }
  return result;
}

std::optional<SmallVector<int64_t>>
mlir::moe::onnx::broadcastShapes(NodeOp node, ArrayRef<Value> inputs, bool &failed) {
  std::optional<Shape> result = Shape();
  for (Value input : inputs) {
    auto type = dyn_cast<RankedTensorType>(input.getType());
    if (!type)
      return std::nullopt;
    std::optional<Shape> next = broadcast(*result, type.getShape());
    if (!next) {
      failed = true;
      mlir::emitError(node.getLoc())
          << describeNode(node.getLoc(), node.getOpType()) << ": shapes " << print(*result)
          << " and " << print(type.getShape()) << " do not broadcast";
      return std::nullopt;
    }
    result = next;
  }
  return result;
}

int64_t inference::product(ArrayRef<int64_t> shape) {
  int64_t result = 1;
  for (int64_t dim : shape)
    if (dim == kDynamic || llvm::MulOverflow(result, dim, result))
      return kDynamic;
  return result;
}

Shape inference::toShape(const ShapeElements &elements) {
  Shape shape;
  for (std::optional<int64_t> element : elements)
    shape.push_back(element && *element >= 0 ? *element : kDynamic);
  return shape;
}

FailureOr<std::optional<SmallVector<int64_t>>> inference::getAxes(Inference &in, unsigned position,
                                                                  int64_t rank) {
  std::optional<SmallVector<int64_t>> axes = in.ints(position);
  if (!axes)
    return std::optional<SmallVector<int64_t>>();
  for (int64_t &axis : *axes) {
    FailureOr<int64_t> checked = in.checkAxis(axis, rank);
    if (failed(checked))
      return failure();
    axis = *checked;
  }
  llvm::sort(*axes);
  if (std::adjacent_find(axes->begin(), axes->end()) != axes->end())
    return in.fail() << "axis is given twice";
  return axes;
}

//===----------------------------------------------------------------------===//
// Table
//===----------------------------------------------------------------------===//

static const InferTable &getTable() {
  static const InferTable table = [] {
    InferTable rows;
    addElementWise(rows);
    addProducts(rows);
    addShapeValues(rows);
    addReshaping(rows);
    addIndexing(rows);
    addReductions(rows);
    addAttention(rows);
    addQuantization(rows);
    addControlFlow(rows);
    return rows;
  }();
  return table;
}

TensorType mlir::moe::onnx::mergeTypes(TensorType strong, TensorType weak, bool &conflict) {
  Type element = strong.getElementType(), other = weak.getElementType();
  if (isa<UnknownType>(element))
    element = other;
  else if (!isa<UnknownType>(other) && element != other)
    conflict = true;
  auto strongShape = dyn_cast<RankedTensorType>(strong);
  auto weakShape = dyn_cast<RankedTensorType>(weak);
  if (!strongShape && !weakShape)
    return UnrankedTensorType::get(element);
  if (!strongShape || !weakShape)
    return RankedTensorType::get((strongShape ? strongShape : weakShape).getShape(), element);
  Shape shape(strongShape.getShape());
  if (strongShape.getRank() != weakShape.getRank()) {
    conflict = true;
    return RankedTensorType::get(shape, element);
  }
  for (auto [dim, hint] : llvm::zip(shape, weakShape.getShape())) {
    if (dim == kDynamic)
      dim = hint;
    else if (hint != kDynamic && hint != dim)
      conflict = true;
  }
  return RankedTensorType::get(shape, element);
}

/// True when only ops whose operand types are free read the results: in a phase
/// after lowering others do, and types stay as they are.
static bool hasFreeTypes(NodeOp node) {
  return llvm::all_of(node->getUsers(), [](Operation *user) {
    return isa<NodeOp, YieldOp>(user) || user->hasTrait<OpTrait::ReturnLike>();
  });
}

LogicalResult mlir::moe::onnx::inferTypes(NodeOp node, const ShapeValues &shapes) {
  auto infer = getTable().find(node.getOpType());
  if (infer == getTable().end() || !hasFreeTypes(node))
    return success();
  Inference inference(node, shapes);
  if (failed(infer->second(inference)))
    return failure();
  for (auto [index, result] : llvm::enumerate(inference.results)) {
    Value value = node.getResult(index);
    auto stated = cast<TensorType>(value.getType());
    Type element = result.element ? result.element : Type(UnknownType::get(node.getContext()));
    TensorType found = UnrankedTensorType::get(element);
    if (result.shape)
      found = RankedTensorType::get(*result.shape, element);
    bool conflict = false;
    TensorType merged = mergeTypes(found, stated, conflict);
    if (conflict)
      mlir::emitWarning(node.getLoc())
          << describeNode(node.getLoc(), node.getOpType()) << ": the model states " << stated
          << " for output '" << node.getOutputName(index) << "', but it is " << found;
    value.setType(merged);
  }
  return success();
}

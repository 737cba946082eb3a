// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Dataflow.h"

#include "moec/Support/NodeLocation.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

LogicalResult Refusal::refuse(Value value, const Twine &why) {
  at = value.getDefiningOp();
  if (!at)
    at = value.getParentBlock()->getParentOp();
  reason = why.str();
  return failure();
}

void mlir::moe::emitNotRaised(Location loc, StringRef what, const Refusal &refusal) {
  auto node = dyn_cast_or_null<NodeOp>(refusal.at);
  auto remark = emitRemark(node ? node.getLoc() : loc) << what << ": ";
  if (node)
    remark << describeNode(node.getLoc(), node.getOpType()) << " ";
  else
    remark << "a value that is no node's ";
  remark << refusal.reason;
}

NodeOp mlir::moe::getNode(Value value, StringRef type) {
  auto node = value ? value.getDefiningOp<NodeOp>() : NodeOp();
  return node && node.isOp(type) ? node : NodeOp();
}

int64_t mlir::moe::getLastDim(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getRank() > 0 ? type.getShape().back() : ShapedType::kDynamic;
}

/// True when a Transpose of `input` leaves the dimensions that are not 1 in their order.
static bool keepsOrder(Value input, ArrayRef<int64_t> perm) {
  auto type = dyn_cast<RankedTensorType>(input.getType());
  if (!type || int64_t(perm.size()) != type.getRank())
    return false;
  int64_t last = -1;
  for (int64_t dim : perm) {
    if (type.getDimSize(dim) == 1)
      continue;
    if (dim < last)
      return false;
    last = dim;
  }
  return true;
}

/// The tensor that this Transpose, perhaps after others, leaves in its order: the dimensions
/// that are not 1 stay as they are. Null when there is none.
static Value getUntransposed(NodeOp transpose) {
  std::optional<ArrayRef<int64_t>> perm = transpose.getIntsAttr("perm");
  if (!perm)
    return {};
  SmallVector<int64_t> dims(*perm);
  Value input = transpose.getInput(0);
  while (!keepsOrder(input, dims)) {
    NodeOp inner = getNode(input, "Transpose");
    perm = inner ? inner.getIntsAttr("perm") : std::nullopt;
    if (!perm || perm->size() != dims.size())
      return {};
    for (int64_t &dim : dims)
      dim = (*perm)[dim];
    input = inner.getInput(0);
  }
  return input;
}

/// The input of which the result is another shape; null for other ops.
static Value getReshaped(Value value) {
  Operation *op = value.getDefiningOp();
  if (!op)
    return {};
  if (isa<tensor::CollapseShapeOp, tensor::ExpandShapeOp, tensor::CastOp>(op))
    return op->getOperand(0);
  auto node = dyn_cast<NodeOp>(op);
  if (!node)
    return {};
  static const StringRef kReshapes[] = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"};
  if (node.isOp("Transpose"))
    return getUntransposed(node);
  return llvm::is_contained(kReshapes, node.getOpType()) ? node.getInput(0) : Value();
}

Value mlir::moe::stripReshapes(Value value) {
  while (Value input = getReshaped(value))
    value = input;
  return value;
}

/// The input of a cast within one kind of numbers; null for other ops.
static Value getCast(Value value) {
  NodeOp cast = getNode(value, "Cast");
  if (!cast)
    return {};
  Type from = getElementTypeOrSelf(cast.getInput(0).getType()),
       to = getElementTypeOrSelf(value.getType());
  auto isInteger = [](Type type) { return isa<IntegerType>(type) && !type.isInteger(1); };
  bool sameKind =
      (isa<FloatType>(from) && isa<FloatType>(to)) || (isInteger(from) && isInteger(to));
  return sameKind ? cast.getInput(0) : Value();
}

Value mlir::moe::stripReshapesAndCasts(Value value) {
  for (Value input = value; input; input = getCast(value))
    value = stripReshapes(input);
  return value;
}

bool mlir::moe::haveSameElements(Value lhs, Value rhs) {
  return stripReshapes(lhs) == stripReshapes(rhs);
}

/// The element that all of `elements` are.
static std::optional<double> getSplat(DenseElementsAttr elements) {
  if (elements.empty())
    return std::nullopt;
  auto isEqual = [](auto values) {
    return llvm::all_of(values, [&](const auto &value) {
      return value.bitcastToAPInt() == (*values.begin()).bitcastToAPInt();
    });
  };
  Type type = elements.getElementType();
  if (isa<FloatType>(type)) {
    auto values = elements.getValues<APFloat>();
    if (!elements.isSplat() && !isEqual(values))
      return std::nullopt;
    APFloat value = *values.begin();
    bool lost = false;
    value.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven, &lost);
    return value.convertToDouble();
  }
  if (!isa<IntegerType>(type))
    return std::nullopt;
  auto values = elements.getValues<APInt>();
  if (!elements.isSplat() && !llvm::all_equal(values))
    return std::nullopt;
  APInt value = *values.begin();
  bool isUnsigned = type.isInteger(1) || type.isUnsignedInteger();
  return value.roundToDouble(!isUnsigned);
}

std::optional<double> mlir::moe::getSplat(Value value) {
  static const StringRef kRepeats[] = {"Expand", "Tile", "Cast", "CastLike"};
  while (true) {
    value = stripReshapes(value);
    if (DenseElementsAttr elements = onnx::getConstantValue(value))
      return ::getSplat(elements);
    auto node = value.getDefiningOp<NodeOp>();
    if (!node)
      return std::nullopt;
    if (node.isOp("ConstantOfShape")) {
      DenseElementsAttr element = node.getTensorAttr("value");
      return element ? ::getSplat(element) : std::optional(0.0);
    }
    if (!llvm::is_contained(kRepeats, node.getOpType()))
      return std::nullopt;
    value = node.getInput(0);
  }
}

std::optional<SmallVector<int64_t>> mlir::moe::getAxes(NodeOp node) {
  Value axes = node.getInput(1);
  return axes ? onnx::getConstantInts(axes) : std::nullopt;
}

bool mlir::moe::isAlongLastDim(NodeOp node) {
  auto type = dyn_cast<RankedTensorType>(node.getInput(0).getType());
  return type && node.hasNodeAttr("axis") && node.getIntAttr("axis", 0) == type.getRank() - 1;
}

bool mlir::moe::reducesLastDim(NodeOp node) {
  auto type = dyn_cast<RankedTensorType>(node.getInput(0).getType());
  std::optional<SmallVector<int64_t>> axes = getAxes(node);
  if (!type || !axes || axes->size() != 1)
    return false;
  return axes->front() == type.getRank() - 1 || axes->front() == -1;
}

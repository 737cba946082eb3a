// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "NodeBuilder.h"

#include "Dataflow.h"

#include "moec/Dialect/ONNX/IR/ElementType.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

NamedAttribute NodeBuilder::intAttr(StringRef name, int64_t value) {
  return rewriter.getNamedAttr(name, rewriter.getI64IntegerAttr(value));
}

NamedAttribute NodeBuilder::stringAttr(StringRef name, StringRef value) {
  return rewriter.getNamedAttr(name, rewriter.getStringAttr(value));
}

Value NodeBuilder::node(StringRef opType, Type type, ArrayRef<Value> inputs, int64_t version,
                        ArrayRef<NamedAttribute> attributes) {
  return NodeOp::create(rewriter, loc, TypeRange(type), opType, inputs, version, attributes)
      .getResult(0);
}

Value NodeBuilder::constant(ArrayRef<int64_t> values) {
  auto type = RankedTensorType::get(int64_t(values.size()), rewriter.getI64Type());
  return node("Constant", type, {}, 13,
              rewriter.getNamedAttr("value", DenseElementsAttr::get(type, values)));
}

Value NodeBuilder::constant(double value, Type elementType) {
  auto type = RankedTensorType::get({}, elementType);
  auto element = DenseElementsAttr::get(type, rewriter.getFloatAttr(elementType, value));
  return node("Constant", type, {}, 13, rewriter.getNamedAttr("value", element));
}

/// The first dimension when `value` has `type`'s elements as [T, shape…].
static int64_t inferRows(RankedTensorType type, ArrayRef<int64_t> shape) {
  if (!type.hasStaticShape())
    return ShapedType::kDynamic;
  int64_t row = 1;
  for (int64_t size : shape)
    row *= size;
  return type.getNumElements() / row;
}

Value NodeBuilder::reshape(Value value, ArrayRef<int64_t> shape) {
  auto type = cast<RankedTensorType>(value.getType());
  SmallVector<int64_t> sizes = {-1};
  sizes.append(shape.begin(), shape.end());
  auto fits = [&](Value candidate) {
    auto type = dyn_cast<RankedTensorType>(candidate.getType());
    return type && type.getRank() == int64_t(sizes.size()) && type.getShape().drop_front() == shape;
  };
  for (Value candidate : {value, stripReshapes(value)})
    if (fits(candidate))
      return candidate;
  SmallVector<int64_t> resultShape = {inferRows(type, shape)};
  resultShape.append(shape.begin(), shape.end());
  return node("Reshape", type.clone(resultShape), {value, constant(sizes)}, 14);
}

Value NodeBuilder::castTo(Value value, Type elementType) {
  auto type = cast<RankedTensorType>(value.getType());
  if (type.getElementType() == elementType)
    return value;
  int64_t number = 1;
  while (onnx::getElementType(number, rewriter.getContext()) != elementType)
    ++number;
  return node("Cast", type.clone(elementType), value, 13, intAttr("to", number));
}

Value NodeBuilder::splat(double value, RankedTensorType type, Value like) {
  Value rows;
  if (type.isDynamicDim(0))
    rows = node("Shape", RankedTensorType::get(1, rewriter.getI64Type()), like, 15,
                {intAttr("end", 1), intAttr("start", 0)});
  else
    rows = constant(ArrayRef(type.getDimSize(0)));
  Value sizes = node("Concat", RankedTensorType::get(2, rewriter.getI64Type()),
                     {rows, constant(ArrayRef(type.getDimSize(1)))}, 13, intAttr("axis", 0));
  auto elementType = RankedTensorType::get(1, type.getElementType());
  auto element =
      DenseElementsAttr::get(elementType, rewriter.getFloatAttr(type.getElementType(), value));
  return node("ConstantOfShape", type, sizes, 9, rewriter.getNamedAttr("value", element));
}

Value NodeBuilder::spread(Value value, ArrayRef<int64_t> shape) {
  auto type = cast<RankedTensorType>(value.getType());
  SmallVector<int64_t> resultShape = {type.getDimSize(0)};
  resultShape.append(shape.begin() + 1, shape.end());
  return node("Expand", type.clone(resultShape), {value, constant(shape)}, 13);
}

Value NodeBuilder::reduce(StringRef opType, Value value, int64_t axis) {
  auto type = cast<RankedTensorType>(value.getType());
  SmallVector<int64_t> shape(type.getShape());
  shape.erase(shape.begin() + axis);
  int64_t since = opType == "ReduceSum" ? 13 : 18;
  return node(opType, type.clone(shape), {value, constant(ArrayRef(axis))}, since,
              intAttr("keepdims", 0));
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "GraphBuilder.h"

#include "moec/Dialect/ONNX/IR/ElementType.h"
#include "moec/Support/NodeLocation.h"

using namespace mlir;
using namespace mlir::moe;

/// Version of the standard operators whose spelling is written here.
static constexpr int64_t kOpset = 18;

NamedAttribute GraphBuilder::attr(StringRef name, int64_t value) {
  return builder.getNamedAttr(name, builder.getI64IntegerAttr(value));
}

NamedAttribute GraphBuilder::attr(StringRef name, StringRef value) {
  return builder.getNamedAttr(name, builder.getStringAttr(value));
}

NamedAttribute GraphBuilder::floatAttr(StringRef name, double value) {
  return builder.getNamedAttr(name, builder.getF32FloatAttr(value));
}

/// The first name of a location counts: "block/TopK" of what comes from "block".
static Location getLocation(Location loc, StringRef opType) {
  MLIRContext *context = loc.getContext();
  StringRef name = getNodeName(loc);
  if (name.empty())
    return loc;
  return FusedLoc::get(context, {NameLoc::get(StringAttr::get(context, name + "/" + opType)), loc});
}

SmallVector<Value> GraphBuilder::nodes(StringRef opType, unsigned numResults,
                                       ArrayRef<Value> inputs,
                                       ArrayRef<NamedAttribute> attributes) {
  Type unknown = UnrankedTensorType::get(onnx::UnknownType::get(builder.getContext()));
  SmallVector<Type> types(numResults, unknown);
  auto op = onnx::NodeOp::create(builder, getLocation(loc, opType), types, opType, inputs, kOpset,
                                 attributes);
  return SmallVector<Value>(op.getResults());
}

Value GraphBuilder::node(StringRef opType, ArrayRef<Value> inputs,
                         ArrayRef<NamedAttribute> attributes) {
  return nodes(opType, 1, inputs, attributes).front();
}

Value GraphBuilder::constant(DenseElementsAttr value) {
  Value result = node("Constant", {}, builder.getNamedAttr("value", value));
  result.setType(value.getType());
  return result;
}

Value GraphBuilder::ints(ArrayRef<int64_t> values) {
  auto type = RankedTensorType::get(int64_t(values.size()), builder.getI64Type());
  return constant(DenseElementsAttr::get(type, values));
}

Value GraphBuilder::intScalar(int64_t value) {
  auto type = RankedTensorType::get({}, builder.getI64Type());
  return constant(DenseElementsAttr::get(type, value));
}

Value GraphBuilder::scalar(Type elementType, double value) {
  return constant(DenseElementsAttr::get(RankedTensorType::get({}, elementType),
                                         builder.getFloatAttr(elementType, value)));
}

Value GraphBuilder::cast(Value value, Type elementType) {
  return node("Cast", value, attr("to", *onnx::getElementTypeNumber(elementType)));
}

Value GraphBuilder::reshape(Value value, ArrayRef<int64_t> sizes) {
  return node("Reshape", {value, ints(sizes)});
}

Value GraphBuilder::unsqueeze(Value value, ArrayRef<int64_t> axes) {
  return node("Unsqueeze", {value, ints(axes)});
}

Value GraphBuilder::squeeze(Value value, ArrayRef<int64_t> axes) {
  return node("Squeeze", {value, ints(axes)});
}

Value GraphBuilder::transpose(Value value, ArrayRef<int64_t> permutation) {
  return node("Transpose", value,
              builder.getNamedAttr("perm", builder.getDenseI64ArrayAttr(permutation)));
}

Value GraphBuilder::concat(ArrayRef<Value> values, int64_t axis) {
  return node("Concat", values, attr("axis", axis));
}

Value GraphBuilder::gather(Value value, Value indices, int64_t axis) {
  return node("Gather", {value, indices}, attr("axis", axis));
}

Value GraphBuilder::gatherElements(Value value, Value ids) {
  return node("GatherElements", {value, ids}, attr("axis", 1));
}

Value GraphBuilder::reduce(StringRef opType, Value value, int64_t axis, bool keep) {
  return node(opType, {value, ints(axis)}, attr("keepdims", keep));
}

std::pair<Value, Value> GraphBuilder::halve(Value value, int64_t axis) {
  SmallVector<Value> parts = nodes("Split", 2, value, {attr("axis", axis), attr("num_outputs", 2)});
  return {parts[0], parts[1]};
}

Value GraphBuilder::filled(Value like, Attribute element) {
  auto type = RankedTensorType::get(1, llvm::cast<TypedAttr>(element).getType());
  return node("ConstantOfShape", node("Shape", like),
              builder.getNamedAttr("value", DenseElementsAttr::get(type, element)));
}

std::pair<Value, Value> GraphBuilder::topK(Value value, int64_t k, int64_t axis) {
  SmallVector<Value> results = nodes("TopK", 2, {value, ints(k)}, attr("axis", axis));
  return {results[0], results[1]};
}

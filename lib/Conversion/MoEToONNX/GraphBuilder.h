// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Nodes of standard operators, in the spelling of one operator set.

#ifndef MOEC_LIB_CONVERSION_MOETOONNX_GRAPHBUILDER_H
#define MOEC_LIB_CONVERSION_MOETOONNX_GRAPHBUILDER_H

#include "moec/Dialect/ONNX/IR/ONNX.h"

#include "mlir/IR/Builders.h"

namespace mlir::moe {

/// Emits nodes at the builder's insertion point, named after the node that `loc` is of.
/// The types of results are left open for `--normalize-onnx`.
class GraphBuilder {
public:
  GraphBuilder(OpBuilder &builder, Location loc) : builder(builder), loc(loc) {}

  /// Attributes of nodes.
  NamedAttribute attr(StringRef name, int64_t value);
  NamedAttribute attr(StringRef name, StringRef value);
  NamedAttribute floatAttr(StringRef name, double value);

  Value node(StringRef opType, ArrayRef<Value> inputs, ArrayRef<NamedAttribute> attributes = {});
  SmallVector<Value> nodes(StringRef opType, unsigned numResults, ArrayRef<Value> inputs,
                           ArrayRef<NamedAttribute> attributes = {});

  Value constant(DenseElementsAttr value);
  /// A vector of int64.
  Value ints(ArrayRef<int64_t> values);
  Value intScalar(int64_t value);
  /// A tensor of rank 0.
  Value scalar(Type elementType, double value);

  Value cast(Value value, Type elementType);
  /// A size of 0 keeps the input's, -1 is what remains.
  Value reshape(Value value, ArrayRef<int64_t> sizes);
  Value unsqueeze(Value value, ArrayRef<int64_t> axes);
  Value squeeze(Value value, ArrayRef<int64_t> axes);
  Value transpose(Value value, ArrayRef<int64_t> permutation);
  Value concat(ArrayRef<Value> values, int64_t axis);
  Value gather(Value value, Value indices, int64_t axis);
  /// Elements of value [T,E] at ids [T,k].
  Value gatherElements(Value value, Value ids);
  /// `opType` is ReduceSum, ReduceMax, …; the dimension stays with size 1 when `keep`.
  Value reduce(StringRef opType, Value value, int64_t axis, bool keep = true);
  /// Two parts of equal size.
  std::pair<Value, Value> halve(Value value, int64_t axis);
  /// A tensor of the shape of `like`, full of one value.
  Value filled(Value like, Attribute element);
  /// Largest first: (values, indices).
  std::pair<Value, Value> topK(Value value, int64_t k, int64_t axis);

  OpBuilder &builder;
  Location loc;
};

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_MOETOONNX_GRAPHBUILDER_H

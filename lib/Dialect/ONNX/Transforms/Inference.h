// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the files that infer types share.

#ifndef MOEC_LIB_DIALECT_ONNX_TRANSFORMS_INFERENCE_H
#define MOEC_LIB_DIALECT_ONNX_TRANSFORMS_INFERENCE_H

#include "InferTypes.h"

#include "moec/Support/NodeLocation.h"

#include "llvm/ADT/StringMap.h"

namespace mlir::moe::onnx::inference {

inline constexpr int64_t kDynamic = ShapedType::kDynamic;
using Shape = SmallVector<int64_t>;

/// What is known of one result: nothing about the elements when `element` is
/// null, nothing about the shape when it is nullopt.
struct Inferred {
  Type element;
  std::optional<Shape> shape;
};

/// A node whose results are inferred.
class Inference {
public:
  Inference(NodeOp node, const ShapeValues &shapes)
      : node(node), shapes(shapes), results(node.getNumResults()) {}

  NodeOp node;
  const ShapeValues &shapes;
  SmallVector<Inferred> results;

  /// Sets result `index` when there is one.
  void set(unsigned index, Type element, std::optional<Shape> shape) {
    if (index < results.size())
      results[index] = {element, std::move(shape)};
  }

  /// Element type of an input; null when absent or unknown.
  Type element(unsigned position) {
    Value input = node.getInput(position);
    if (!input)
      return {};
    Type type = cast<TensorType>(input.getType()).getElementType();
    return isa<UnknownType>(type) ? Type() : type;
  }
  /// Element type of the first input that has one.
  Type commonElement() {
    for (unsigned i = 0, e = node.getNumInputs(); i < e; ++i)
      if (Type type = element(i))
        return type;
    return {};
  }
  std::optional<Shape> shape(unsigned position) {
    Value input = node.getInput(position);
    auto type = input ? dyn_cast<RankedTensorType>(input.getType()) : RankedTensorType();
    return type ? std::optional(Shape(type.getShape())) : std::nullopt;
  }
  std::optional<SmallVector<int64_t>> ints(unsigned position) {
    Value input = node.getInput(position);
    return input ? shapes.getKnown(input) : std::nullopt;
  }
  std::optional<ShapeElements> partialInts(unsigned position) {
    Value input = node.getInput(position);
    return input ? shapes.get(input) : std::nullopt;
  }
  Type i64() { return IntegerType::get(node.getContext(), 64); }
  Type i1() { return IntegerType::get(node.getContext(), 1); }

  InFlightDiagnostic fail() {
    return mlir::emitError(node.getLoc()) << describeNode(node.getLoc(), node.getOpType()) << ": ";
  }
  /// `axis` counted from the front of `rank` dimensions.
  FailureOr<int64_t> checkAxis(int64_t axis, int64_t rank) {
    if (axis < -rank || axis >= rank)
      return fail() << "axis " << axis << " is out of range for rank " << rank;
    return axis < 0 ? axis + rank : axis;
  }
};

using InferFn = LogicalResult (*)(Inference &);
/// By operator, with its domain unless that is ai.onnx.
using InferTable = llvm::StringMap<InferFn>;

/// Rows of the table, by family.
void addElementWise(InferTable &table);
void addProducts(InferTable &table);
void addShapeValues(InferTable &table);
void addReshaping(InferTable &table);
void addIndexing(InferTable &table);
void addReductions(InferTable &table);
void addAttention(InferTable &table);
void addQuantization(InferTable &table);
void addControlFlow(InferTable &table);

/// A shape as text: "[2, ?]".
std::string print(ArrayRef<int64_t> shape);
/// One dimension of two broadcast together; nullopt when they do not go
/// together. A dynamic one beside a size other than 1 must be that size, or 1.
std::optional<int64_t> broadcastDim(int64_t a, int64_t b);
/// The shape of two broadcast together; nullopt when they do not go together.
std::optional<Shape> broadcast(ArrayRef<int64_t> a, ArrayRef<int64_t> b);
/// Product of the sizes; kDynamic when one is dynamic or it overflows.
int64_t product(ArrayRef<int64_t> shape);
/// A shape given by elements of a tensor; unknown or negative ones are dynamic.
Shape toShape(const ShapeElements &elements);
/// Axes of the constant input `position` counted from the front of `rank`
/// dimensions; nullopt when it is not constant.
FailureOr<std::optional<SmallVector<int64_t>>> getAxes(Inference &in, unsigned position,
                                                       int64_t rank);

} // namespace mlir::moe::onnx::inference

#endif // MOEC_LIB_DIALECT_ONNX_TRANSFORMS_INFERENCE_H

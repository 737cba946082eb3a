// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that work element by element.

#include "Inference.h"

#include "moec/Dialect/ONNX/IR/ElementType.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

static LogicalResult inferSameAsInput(Inference &in) {
  in.set(0, in.element(0), in.shape(0));
  return success();
}

/// All inputs broadcast; the elements are those of the inputs.
static LogicalResult inferBroadcast(Inference &in) {
  bool failed = false;
  SmallVector<Value> inputs(in.node.getInputs());
  std::optional<Shape> shape = broadcastShapes(in.node, inputs, failed);
  in.set(0, in.commonElement(), shape);
  return failure(failed);
}

static LogicalResult inferComparison(Inference &in) {
  if (failed(inferBroadcast(in)))
    return failure();
  in.set(0, in.i1(), in.results[0].shape);
  return success();
}

/// Pow has the element type of its base.
static LogicalResult inferPow(Inference &in) {
  if (failed(inferBroadcast(in)))
    return failure();
  in.set(0, in.element(0), in.results[0].shape);
  return success();
}

static LogicalResult inferPredicate(Inference &in) {
  in.set(0, in.i1(), in.shape(0));
  return success();
}

static LogicalResult inferWhere(Inference &in) {
  if (failed(inferBroadcast(in)))
    return failure();
  Type element = in.element(1) ? in.element(1) : in.element(2);
  in.set(0, element, in.results[0].shape);
  return success();
}

static LogicalResult inferCast(Inference &in) {
  in.set(0, onnx::getElementType(in.node.getIntAttr("to", 0), in.node.getContext()), in.shape(0));
  return success();
}

static LogicalResult inferCastLike(Inference &in) {
  in.set(0, in.element(1), in.shape(0));
  return success();
}

/// The first result is like the first input, the second a mask.
static LogicalResult inferDropout(Inference &in) {
  in.set(0, in.element(0), in.shape(0));
  in.set(1, in.i1(), in.shape(0));
  return success();
}

/// The result has the shape of the input and the element type of input `typed`; the
/// statistics have normalized dimensions of size 1 and the type that `stash_type` says.
static LogicalResult inferNormalization(Inference &in, unsigned typed) {
  std::optional<Shape> shape = in.shape(0);
  in.set(0, in.element(typed), shape);
  if (!shape)
    return success();
  FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", -1), shape->size());
  if (failed(axis))
    return failure();
  std::fill(shape->begin() + *axis, shape->end(), 1);
  Type stash = onnx::getElementType(in.node.getIntAttr("stash_type", 1), in.node.getContext());
  for (unsigned i = 1; i < in.results.size(); ++i)
    in.set(i, stash, shape);
  return success();
}

static LogicalResult inferLayerNormalization(Inference &in) { return inferNormalization(in, 0); }

static LogicalResult inferRMSNormalization(Inference &in) { return inferNormalization(in, 1); }

void inference::addElementWise(InferTable &table) {
  for (StringRef op : {"Abs",
                       "Acos",
                       "Acosh",
                       "Asin",
                       "Asinh",
                       "Atan",
                       "Atanh",
                       "BitwiseNot",
                       "Ceil",
                       "Celu",
                       "Clip",
                       "Cos",
                       "Cosh",
                       "CumSum",
                       "Elu",
                       "Erf",
                       "Exp",
                       "Floor",
                       "Gelu",
                       "HardSigmoid",
                       "HardSwish",
                       "Hardmax",
                       "Identity",
                       "LeakyRelu",
                       "Log",
                       "LogSoftmax",
                       "Mish",
                       "Neg",
                       "Not",
                       "Reciprocal",
                       "Relu",
                       "RotaryEmbedding",
                       "Round",
                       "ScatterElements",
                       "ScatterND",
                       "Selu",
                       "Shrink",
                       "Sigmoid",
                       "Sign",
                       "Sin",
                       "Sinh",
                       "Softmax",
                       "Softplus",
                       "Softsign",
                       "Sqrt",
                       "SwiGLU",
                       "Swish",
                       "Tan",
                       "Tanh",
                       "ThresholdedRelu",
                       "Trilu",
                       "com.microsoft.MoE",
                       "com.microsoft.QMoE",
                       "com.microsoft.BiasGelu",
                       "com.microsoft.QuickGelu",
                       "com.microsoft.Gelu",
                       "com.microsoft.FastGelu"})
    table[op] = inferSameAsInput;
  for (StringRef op : {"Add", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Max",
                       "Mean", "Min", "Mod", "Mul", "PRelu", "Sub", "Sum"})
    table[op] = inferBroadcast;
  for (StringRef op :
       {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor"})
    table[op] = inferComparison;
  table["Cast"] = inferCast;
  table["CastLike"] = inferCastLike;
  table["Dropout"] = inferDropout;
  table["IsInf"] = table["IsNaN"] = inferPredicate;
  table["LayerNormalization"] = inferLayerNormalization;
  table["Pow"] = inferPow;
  table["RMSNormalization"] = table["SimplifiedLayerNormalization"] =
      table["com.microsoft.SimplifiedLayerNormalization"] = inferRMSNormalization;
  table["Where"] = inferWhere;
}

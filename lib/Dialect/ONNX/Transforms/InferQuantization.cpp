// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Quantization.

#include "Inference.h"

#include "moec/Dialect/ONNX/IR/ElementType.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

/// Type that `output_dtype` says; null when it says none.
static Type getOutputType(Inference &in) {
  return onnx::getElementType(in.node.getIntAttr("output_dtype", 0), in.node.getContext());
}

static LogicalResult inferQuantizeLinear(Inference &in) {
  Type type = getOutputType(in);
  if (!type)
    type = in.node.getInput(2) ? in.element(2)
                               : IntegerType::get(in.node.getContext(), 8, IntegerType::Unsigned);
  in.set(0, type, in.shape(0));
  return success();
}

static LogicalResult inferDequantizeLinear(Inference &in) {
  Type type = getOutputType(in);
  in.set(0, type ? type : in.element(1), in.shape(0));
  return success();
}

static LogicalResult inferDynamicQuantizeLinear(Inference &in) {
  MLIRContext *context = in.node.getContext();
  Type whole = IntegerType::get(context, 8, IntegerType::Unsigned);
  in.set(0, whole, in.shape(0));
  in.set(1, Float32Type::get(context), Shape());
  in.set(2, whole, Shape());
  return success();
}

void inference::addQuantization(InferTable &table) {
  table["DequantizeLinear"] = table["com.microsoft.DequantizeLinear"] = inferDequantizeLinear;
  table["DynamicQuantizeLinear"] = inferDynamicQuantizeLinear;
  table["QuantizeLinear"] = table["com.microsoft.QuantizeLinear"] = inferQuantizeLinear;
}

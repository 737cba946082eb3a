// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The tables of operators that compute each element from the elements at the same index.

#ifndef MOEC_LIB_CONVERSION_ONNXTOLINALG_ELEMENTWISE_H
#define MOEC_LIB_CONVERSION_ONNXTOLINALG_ELEMENTWISE_H

#include "Lowering.h"

namespace mlir::moe::lowering {

/// The element types an operator takes, as a set.
enum Kinds : unsigned {
  kFloat = 1,
  kInteger = 2,
  kBool = 4,
  kNumber = kFloat | kInteger,
  kAny = 7
};

/// Any number of inputs.
inline constexpr unsigned kMany = ~0u;

/// What the body of an operator knows about its operands.
struct Element {
  ImplicitLocOpBuilder &b;
  Type type;       // of the data operand in the model
  bool isFloat;    // else integer or bool
  bool isUnsigned; // unsigned integer or bool
  onnx::NodeOp node;

  Value constant(double value) { return constantOf(b, getComputeType(type), value); }
};
using Body = Value (*)(Element &e, ValueRange x);

struct ElementWiseOp {
  StringRef name;
  int64_t since;
  Kinds kinds;
  bool returnsBool;
  unsigned minInputs, maxInputs;
  Body body;
};

/// The activation functions of neural networks.
ArrayRef<ElementWiseOp> getActivations();

} // namespace mlir::moe::lowering

#endif // MOEC_LIB_CONVERSION_ONNXTOLINALG_ELEMENTWISE_H

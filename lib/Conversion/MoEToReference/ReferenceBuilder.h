// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A builder for loops that read like formulas.

#ifndef MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCEBUILDER_H
#define MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCEBUILDER_H

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/OpDefinition.h"

namespace mlir::moe::reference {

/// Builds scalar arithmetic and tensors defined element by element. Floats are
/// computed in one type, `real`: f32, or f64 when a given operand is f64.
class ReferenceBuilder : public ImplicitLocOpBuilder {
public:
  /// `operands` decide the type of the arithmetic; null values are skipped.
  ReferenceBuilder(Location loc, OpBuilder &builder, ArrayRef<Value> operands);

  FloatType getReal() const { return real; }

  // Constants and sizes.
  Value index(int64_t value);
  Value i32(int64_t value);
  Value constant(double value);
  /// Size of a dimension, in terms of the operands that determine it.
  OpFoldResult size(Value tensor, int64_t dim);
  Value value(OpFoldResult size);
  OpFoldResult scaled(OpFoldResult size, int64_t factor);

  // Scalar arithmetic in `real` (or index).
  Value add(Value a, Value b);
  Value sub(Value a, Value b);
  Value mul(Value a, Value b);
  Value div(Value a, Value b);
  /// NaN when either is NaN.
  Value max(Value a, Value b);
  Value min(Value a, Value b);
  Value exp(Value x);
  /// 1 / (1 + e^-x)
  Value sigmoid(Value x);
  Value select(Value condition, Value a, Value b);
  /// Whether an integer is not negative.
  Value isValid(Value number);
  /// Converts a float of any type to another, rounding to nearest even.
  Value convert(Value x, Type type);

  // Tensors.
  /// The element at `indices`; a float is converted to `real`.
  Value at(Value tensor, ValueRange indices);
  /// As `at`, an element of an index tensor or i32 tensor, untouched.
  Value rawAt(Value tensor, ValueRange indices);
  /// A tensor of one value.
  Value filled(ArrayRef<OpFoldResult> sizes, Value value);
  /// `tensor` with one element replaced; `value` is converted to the element type.
  Value insert(Value value, Value tensor, ValueRange indices);
  /// result[i, j, …] = element(i, j, …), converted to `type`.
  Value generate(ArrayRef<OpFoldResult> sizes, Type type, function_ref<Value(ValueRange)> element);

  // Loops over 0 … count-1.
  /// Carries `init` through body(i, carried).
  SmallVector<Value> loop(Value count, ValueRange init,
                          function_ref<SmallVector<Value>(Value, ValueRange)> body);
  /// step(i, value so far), from `init`.
  Value fold(Value count, Value init, function_ref<Value(Value, Value)> step);
  /// Σ term(i), in rising order of i.
  Value sum(Value count, function_ref<Value(Value)> term);
  /// Evaluates only one of the two.
  SmallVector<Value> branch(Value condition, function_ref<SmallVector<Value>()> then,
                            function_ref<SmallVector<Value>()> otherwise);
  Value branch(Value condition, function_ref<Value()> then, function_ref<Value()> otherwise);

private:
  FloatType real;
};

} // namespace mlir::moe::reference

#endif // MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCEBUILDER_H

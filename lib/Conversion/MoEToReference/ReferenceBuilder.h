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

  // Scalar arithmetic in `real`, or of integers.
  Value add(Value a, Value b);
  Value sub(Value a, Value b);
  Value mul(Value a, Value b);
  Value div(Value a, Value b);
  /// NaN when either is NaN.
  Value max(Value a, Value b);
  Value min(Value a, Value b);
  Value exp(Value x);
  Value log(Value x);
  Value abs(Value x);
  /// 1 / (1 + e^-x)
  Value sigmoid(Value x);
  Value select(Value condition, Value a, Value b);
  /// Converts a float of any type to another, rounding to nearest even.
  Value convert(Value x, Type type);
  /// An integer or index as a real.
  Value toReal(Value number);
  /// An integer as an index, an index as an i32.
  Value toIndex(Value number);
  Value toI32(Value index);

  // Index arithmetic, of numbers that are not negative.
  Value quotient(Value a, Value b);
  Value remainder(Value a, Value b);
  /// a / b, rounded up.
  Value ceilDiv(Value a, Value b);
  Value minIndex(Value a, Value b);
  Value maxIndex(Value a, Value b);

  // Conditions.
  Value boolean(bool value);
  Value both(Value a, Value b);
  Value either(Value a, Value b);
  Value negate(Value a);
  /// Whether an integer is not negative.
  Value isValid(Value number);
  /// a < b of integers (signed) or reals; false when one is NaN.
  Value isLess(Value a, Value b);
  Value isEqual(Value a, Value b);
  /// a > b of reals, where NaN is larger than every number and equal to itself.
  Value isLarger(Value a, Value b);
  /// Whether the key a of number i comes before the key b of number j when keys fall: it
  /// is larger, or not smaller and i < j.
  Value comesBefore(Value a, Value i, Value b, Value j);
  /// Reports an error of this call when the condition does not hold, and goes on.
  void check(Value condition, StringRef message);

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
  /// How many i have the property; an index.
  Value count(Value count, function_ref<Value(Value)> property);
  /// The largest term(i), NaN when one is NaN; -inf of none.
  Value largest(Value count, function_ref<Value(Value)> term);
  /// Evaluates only one of the two.
  SmallVector<Value> branch(Value condition, function_ref<SmallVector<Value>()> then,
                            function_ref<SmallVector<Value>()> otherwise);
  Value branch(Value condition, function_ref<Value()> then, function_ref<Value()> otherwise);

private:
  FloatType real;
};

} // namespace mlir::moe::reference

#endif // MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCEBUILDER_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Sizes of dimensions as arithmetic on the dimensions of a function's arguments,
// and what can be proved about them. A size is an index attribute when it is known.

#ifndef MOEC_LIB_CONVERSION_ONNXTOLINALG_SIZES_H
#define MOEC_LIB_CONVERSION_ONNXTOLINALG_SIZES_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace mlir::moe::lowering {

using Sizes = SmallVector<OpFoldResult>;

/// Size of dimension `dim` of a ranked tensor. Looks through the ops that made the
/// tensor, so that it depends on the arguments of the function where possible.
OpFoldResult getSize(ImplicitLocOpBuilder &b, Value tensor, int64_t dim);
Sizes getSizes(ImplicitLocOpBuilder &b, Value tensor);

/// The size that the model states for a dimension of an argument as an expression, such as
/// "past + 2*seq", of the sizes of other dimensions; null when it states none. A check
/// that it is the size is in the function.
OpFoldResult getStatedSize(ImplicitLocOpBuilder &b, BlockArgument argument, int64_t dim);

/// True when both sizes are equal in every run: same value, same arithmetic, or
/// same symbol of the model (`onnx.dims`).
bool isSameSize(OpFoldResult lhs, OpFoldResult rhs);

/// True for the known size `value`.
bool isSize(OpFoldResult size, int64_t value);

/// True when a computed integer cannot be negative, being made of sizes.
bool isNeverNegative(OpFoldResult value);

/// True when a size is computed from elements of a tensor.
bool dependsOnData(OpFoldResult size);

/// True when `size` = 0 implies that the product of `sizes` is 0, because it is a
/// factor of one of them.
bool isFactorOf(OpFoldResult size, ArrayRef<OpFoldResult> sizes);

Value toValue(ImplicitLocOpBuilder &b, OpFoldResult size);
OpFoldResult addSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs);
OpFoldResult subSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs);
OpFoldResult mulSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs);
OpFoldResult minSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs);
OpFoldResult maxSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs);
/// Product of sizes; 1 for none.
OpFoldResult productOf(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes);
/// product(numerator) / product(denominator), common factors cancelled first; 0 when
/// what remains of the denominator is 0.
OpFoldResult quotientOf(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> numerator,
                        ArrayRef<OpFoldResult> denominator);
/// size / divisor, rounded down or up; neither is negative.
OpFoldResult floorDivSize(ImplicitLocOpBuilder &b, OpFoldResult size, int64_t divisor);
OpFoldResult ceilDivSize(ImplicitLocOpBuilder &b, OpFoldResult size, int64_t divisor);
/// `lhs == rhs` as i1.
Value equalSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs);

/// An integer scalar as an index, and an index as an integer of type `type`.
OpFoldResult toIndex(ImplicitLocOpBuilder &b, Value integer);
Value fromIndex(ImplicitLocOpBuilder &b, OpFoldResult size, Type type);

/// Tensor type with the known ones of `sizes`.
RankedTensorType getTensorType(ArrayRef<OpFoldResult> sizes, Type elementType);

/// The same tensor with a type that shows the known ones of its sizes.
Value refineType(ImplicitLocOpBuilder &b, Value tensor);

/// Cast unless `tensor` is of type `type`.
Value castTo(ImplicitLocOpBuilder &b, Value tensor, RankedTensorType type);

} // namespace mlir::moe::lowering

#endif // MOEC_LIB_CONVERSION_ONNXTOLINALG_SIZES_H

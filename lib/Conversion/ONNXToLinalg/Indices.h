// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Tensors of indices into other tensors.

#ifndef MOEC_LIB_CONVERSION_ONNXTOLINALG_INDICES_H
#define MOEC_LIB_CONVERSION_ONNXTOLINALG_INDICES_H

#include "Lowering.h"

namespace mlir::moe::lowering {

/// A tensor of indices that has been checked. What it gives is never out of range, also
/// in a call that has failed.
class Indices {
public:
  /// The elements of `tensor` (int32 or int64) index a dimension of size limits[0]; with
  /// `isTuple` its last dimension holds one index for each of `limits`. An index that is
  /// out of range is an error, at run time unless the indices are constants.
  static FailureOr<Indices> create(NodeLowering &n, Value tensor, ArrayRef<OpFoldResult> limits,
                                   bool isTuple = false);

  /// The index at `place` of the tensor, counted from the front.
  Value at(ImplicitLocOpBuilder &b, ValueRange place) { return pick(b, place, limits.front()); }
  /// All indices of the tuple at `place`.
  SmallVector<Value> tupleAt(ImplicitLocOpBuilder &b, ValueRange place);

  /// Whether there is anything to index; null when that is known.
  Value hasElements(ImplicitLocOpBuilder &b);
  /// True when all indices are constants within the limits.
  bool isKnown() const { return known; }

private:
  Indices(Value tensor, ArrayRef<OpFoldResult> limits) : tensor(tensor), limits(limits) {}
  Value pick(ImplicitLocOpBuilder &b, ValueRange place, OpFoldResult limit);
  void checkAtRunTime(NodeLowering &n, bool isTuple);

  Value tensor;
  SmallVector<OpFoldResult> limits;
  bool known = false;
};

} // namespace mlir::moe::lowering

#endif // MOEC_LIB_CONVERSION_ONNXTOLINALG_INDICES_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Scaled dot-product attention, the same for every operator that computes it.

#ifndef MOEC_LIB_CONVERSION_ONNXTOLINALG_ATTENTION_H
#define MOEC_LIB_CONVERSION_ONNXTOLINALG_ATTENTION_H

#include "Lowering.h"

namespace mlir::moe::lowering {

/// Queries, keys or values: [batch, heads, rows, size], or [batch, rows, heads, size].
struct Heads {
  Value tensor;
  bool rowsFirst = false;

  int64_t headDim() const { return rowsFirst ? 2 : 1; }
  int64_t rowDim() const { return rowsFirst ? 1 : 2; }
};

/// softmax(softcap(scale * q k^T) + bias) v. Query head h reads the key head
/// h / (query heads / key heads).
struct AttentionSpec {
  Heads query, key, value;
  /// A scalar of the type that the queries are computed in.
  Value scale;
  /// c * tanh(score / c); none for 0.
  double softcap = 0;
  /// Each broadcasts to [batch, query heads, query rows, key rows]. Numbers are added to
  /// the scores; false takes a key out.
  SmallVector<Value> biases;
  /// The position of query row i among the keys is i + offset, of type index; by batch
  /// it is lengths[batch] - query rows instead when `offset` is null.
  OpFoldResult offset;
  /// Keys further behind the position than `left` or ahead of it than `right` are out.
  std::optional<int64_t> left, right;
  /// Number of keys by batch, [batch] of integers; null for all rows.
  Value lengths;
  /// A further score of each query head that takes part in the softmax, [query heads];
  /// null for none.
  Value sink;
  /// Whether queries without any key give NaN rather than zeros.
  bool emptyIsNaN = false;
};

/// The result has the layout and the element type of the queries. Only tiles of the scores are ever
/// kept. Reports sizes that do not go together.
FailureOr<Value> buildAttention(NodeLowering &n, AttentionSpec spec);

/// `tensor` with every dimension known to be 1 or that of `full`: materialized where only
/// the run can tell. Reports sizes that do not fit as those `what` ("of the mask").
FailureOr<Value> broadcastUnknown(NodeLowering &n, Value tensor, ArrayRef<OpFoldResult> full,
                                  const Twine &what);

} // namespace mlir::moe::lowering

#endif // MOEC_LIB_CONVERSION_ONNXTOLINALG_ATTENTION_H

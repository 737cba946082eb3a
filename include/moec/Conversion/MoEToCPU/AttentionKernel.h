// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The CPU kernel of scaled dot-product attention.

#ifndef MOEC_CONVERSION_MOETOCPU_ATTENTIONKERNEL_H
#define MOEC_CONVERSION_MOETOCPU_ATTENTIONKERNEL_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"

#include <optional>

namespace mlir::moe::cpu {

/// Largest size of a head: a tile of keys, the rows of a task (CostModel::attentionRows) and their
/// sums stay in a second-level cache of 256 KiB.
constexpr int64_t kMaxHeadSize = 256;

/// What an attention kernel computes: softmax(softcap(scale * q k^T) + biases) v.
struct AttentionForm {
  /// c * tanh(score / c); none for 0.
  double softcap = 0;
  /// Keys further behind the position of a query than `left` or ahead of it than `right`
  /// are out.
  std::optional<int64_t> left, right;
  /// Whether queries without any key give NaN rather than zeros.
  bool emptyIsNaN = false;
  /// Whether query row i is at lengths[batch] - query rows + i rather than at offset + i.
  bool endsAtLength = false;
  unsigned numBiases = 0;
  bool hasLengths = false, hasSink = false;
};

/// The arguments of an attention kernel by name; those that the form does not have are null.
struct AttentionArguments {
  /// `arguments` are those of the function below, or their beginning.
  AttentionArguments(const AttentionForm &form, ValueRange arguments);

  Value query, key, value, result, scale, offset;
  SmallVector<Value> biases;
  Value lengths, sink;
  /// Of a row of queries and keys, and of values and results.
  int64_t size, valueSize;
};

/// A private function of the module, made when it does not exist yet, of
/// - queries, keys, values and the result, [batch, heads, rows, size] in any float type, sizes
/// static;
/// - scale, f32, and offset, index;
/// - `numBiases` biases, f32 [batch, heads, query rows, key rows], where a static 1 broadcasts;
/// - the number of keys of each batch, integers [batch], when `hasLengths`;
/// - a further score of each head, floats [heads], when `hasSink`;
/// - the running call.
/// Memory has any strides, but the last dimension is contiguous. `arguments` are the types of all
/// but the last one.
func::FuncOp getOrCreateAttentionKernel(ModuleOp module, int64_t vectorBits,
                                        const AttentionForm &form, TypeRange arguments);

} // namespace mlir::moe::cpu

#endif // MOEC_CONVERSION_MOETOCPU_ATTENTIONKERNEL_H

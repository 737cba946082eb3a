// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The experts' weights in another order. A weight gets transforms, a small constant
// becomes a weight, and what the graph computes is reordered by nodes.

#ifndef MOEC_LIB_CONVERSION_MOETOONNX_WEIGHTS_H
#define MOEC_LIB_CONVERSION_MOETOONNX_WEIGHTS_H

#include "GraphBuilder.h"

#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/IR/IRMapping.h"

namespace mlir::moe {

/// The matrices [E, N, K] of all experts: real numbers, or codes with scales and zero
/// points as `moe.dequantize` has them (`bits` is not 0). Null `weights`: there is none.
struct Bank {
  Value weights, scales, zeroPoints, bias;
  int64_t n = 0, k = 0;
  int64_t bits = 0, block = 0;

  explicit operator bool() const { return bool(weights); }
  bool isQuantized() const { return bits != 0; }
  /// Zero points that are packed across rows, which therefore cannot be moved.
  bool hasPackedRows() const { return zeroPoints && block == 0 && bits < 8; }
};

/// The bank of an operand; a transposed one becomes [E, N, K]. `written`: nodes instead of
/// the ops before. Fails after an error for quantised weights that are transposed.
FailureOr<Bank> getBank(GraphBuilder &b, const IRMapping &written, Value weights, Value bias,
                        Layout layout);

/// The rows of `gate` and `linear` as one bank of 2·I rows, gate first. Both are
/// quantised alike or not at all, and both have a bias or none has.
Bank stackBanks(GraphBuilder &b, const Bank &gate, const Bank &linear);

/// A bank of 2·I rows in another order of gate and linear rows (interleaved or concat).
Bank reorderRows(GraphBuilder &b, const Bank &bank, Glu from, Glu to);

/// One byte per code or zero point, from `bits` bits each along `axis`. Null when the
/// value is no constant.
Value unpackCodes(GraphBuilder &b, Value value, int64_t bits, int64_t axis, int64_t count);

/// Dimension i of the result is dimension `order[i]` of the value; dimension 0 stays.
Value permuteWeight(GraphBuilder &b, Value value, ArrayRef<int64_t> order);

/// `value` under another static shape; dimension 0 stays.
Value reshapeWeight(GraphBuilder &b, Value value, ArrayRef<int64_t> shape);

/// Erases the weights that nothing reads any more, and gives those that were made from
/// them their names where these are free.
void keepUsedWeights(ModuleOp module);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_MOETOONNX_WEIGHTS_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products of rows of 8-bit integers and the codes of quantized weights.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_INTEGERPRODUCT_H
#define MOEC_LIB_CONVERSION_MOETOCPU_INTEGERPRODUCT_H

#include "Kernels.h"

namespace mlir::moe::cpu {

/// A row of 8-bit integers q = round(x · 127 / a), to nearest, ties to even, with the scale a / 127
/// of f32 where a is the largest |x| of a block of columns: that of the weight's scales, or the
/// whole row. Sums of integers are over a range of columns, a block or a part of it, short enough
/// that f32 has each sum exactly. In memory: the integers, padded; a scale f32 for each range; and
/// for each range the negative sum of its integers, i32, which zero points are multiplied with.
struct IntegerRow {
  int64_t columns, block;

  int64_t rangeColumns() const { return std::min(block, kColumnsPerChunk); }
  int64_t numRanges() const { return llvm::divideCeil(columns, rangeColumns()); }
  /// Bytes from the start of the row.
  int64_t scalesAt() const { return llvm::alignTo(columns, 16); }
  int64_t sumsAt() const { return scalesAt() + 4 * numRanges(); }
  /// An odd number of cache lines, as for rows of f32; a tile may read a line from any integer on.
  int64_t stride() const {
    int64_t size = std::max(sumsAt() + 4 * numRanges(), scalesAt() + kLineBytes);
    return (llvm::divideCeil(size, kLineBytes) | 1) * kLineBytes;
  }
};

/// Row `row` of `x`, times `scale` unless that is null.
struct RowSource {
  Value x, row, scale;
};

/// Stores a row at byte `start` of `packed`. One with a NaN or an infinity among a block has a
/// scale that makes all its products NaN.
void emitIntegerRow(KernelBuilder &b, const RowSource &source, Value packed, Value start,
                    IntegerRow row);

/// Whether there is a kernel for rows of integers and this weight.
bool multipliesIntegers(const PackedWeight &weight);

/// `rows` rows from byte aBase of `a` on, `stride` bytes apart, and a panel.
struct IntegerOperands {
  Value expert, panel, a, aBase;
  int64_t stride, rows;
};

/// rows × panelVectors() vectors of f32.
SmallVector<Value> emitIntegerProduct(KernelBuilder &b, const PackedWeight &weight,
                                      const IntegerOperands &operands);

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_INTEGERPRODUCT_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The inner products of AVX512-BF16: two bf16 products are added to each f32 lane.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_BF16_H
#define MOEC_LIB_CONVERSION_MOETOCPU_BF16_H

#include "KernelBuilder.h"

namespace mlir::moe::cpu {

/// bf16 [2·lanes] of two vectors of f32, rounded: low[0], high[0], low[1], … As the instruction
/// does it: denormal numbers become zero.
Value emitRoundedPairs(KernelBuilder &b, Value low, Value high);

/// acc[r][v] += a[r, k] · w[k, v] + a[r, k + 1] · w[k + 1, v] for the pair of columns at element
/// `pair` of row 0 of `a`, whose rows are `stride` elements apart; w[v] as of emitRoundedPairs.
/// As the instruction does it: denormal numbers count as zero.
void emitAccumulatePairs(KernelBuilder &b, Value a, Value pair, int64_t stride, int64_t rows,
                         ArrayRef<Value> w, MutableArrayRef<Value> acc);

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_BF16_H

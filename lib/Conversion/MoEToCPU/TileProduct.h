// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products of rows of bf16 by tiles: AMX, and the same loops with AVX512-BF16 in place of its
// instructions, for machines that have no tiles. The amx dialect is used here only, for integers
// too.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_TILEPRODUCT_H
#define MOEC_LIB_CONVERSION_MOETOCPU_TILEPRODUCT_H

#include "KernelBuilder.h"

namespace mlir::moe::cpu {

/// Rows of a tile, and columns of K that one multiplication takes.
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileColumns = 32;

/// A block of `rows` rows, a multiple of kTileRows, times a panel.
struct TileOperands {
  Value a, aBase; ///< rows of bf16, `stride` elements apart, from element aBase on
  int64_t stride, rows, k;
  /// bf16 [·, E, …, 64] and where pairs of rows of K of the panel from k on are in it, `pairs` of
  /// them; the last dimension but one steps through them. It may fill a scratch.
  function_ref<std::pair<Value, SmallVector<Value>>(Value k, int64_t pairs)> panel;
};

/// rows × panelVectors() vectors of f32: the sums over all of K, in its order.
SmallVector<Value> emitTileProduct(KernelBuilder &b, const TileOperands &operands);

// Tiles of sums of 8-bit integers, by AMX: signed rows times unsigned codes.

/// The tiles of sums of `rows` rows, a multiple of kTileRows, and a panel: zeros.
SmallVector<Value> emitIntegerTiles(KernelBuilder &b, int64_t rows);
/// sums + `rows` rows of 64 bytes, `stride` apart, from byte `at` of `a` on, times `codes`: i8
/// [16, 128], four columns of K of a panel column side by side.
SmallVector<Value> emitIntegerTileStep(KernelBuilder &b, Value a, Value at, int64_t stride,
                                       int64_t rows, Value codes, ValueRange sums);
/// rows × panelVectors() vectors of i32 from tiles.
SmallVector<Value> emitIntegerTileVectors(KernelBuilder &b, int64_t rows, ValueRange sums);

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_TILEPRODUCT_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Weights that a graph has as codes: DequantizeLinear of constants, or MatMulNBits.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_QUANTIZEDWEIGHT_H
#define MOEC_LIB_CONVERSION_RAISEMOE_QUANTIZEDWEIGHT_H

#include "Dataflow.h"
#include "Facts.h"

namespace mlir::moe {

/// The matrix [N, K] of one expert, or of all. Formulas: `moe.dequantize`.
struct QuantizedWeight {
  /// `zeroPoints` is null when they are all the same.
  Value codes, scales, zeroPoints;
  /// `bits` as `moe.dequantize` has them: 8 for codes that are unpacked to 128 plus the code.
  int64_t n = 0, k = 0, bits = 0, storedBits = 0;
  /// Without a tensor of zero points: that of all codes, when it is not in the middle.
  std::optional<int64_t> zeroPoint;
  /// Codes per scale along K; 0 is one scale per row.
  int64_t block = 0;
  /// Codes and zero points are two's complement.
  bool isSigned = false;
  /// The file has [K, N].
  bool isInOut = false;

  bool isUnpacked() const { return bits != storedBits; }
  bool isLike(const QuantizedWeight &other) const;
  /// Without the experts' dimension; that of the zero points is in bytes.
  SmallVector<int64_t> getScaleShape() const;
  SmallVector<int64_t> getZeroPointShape() const;
};

/// Whether the weight of a product is such codes.
bool isQuantized(const Node *product);

/// Reads the weight of a product, whose columns stand in the order `layout`. Fails for what
/// `moe.dequantize` cannot say.
FailureOr<QuantizedWeight> readQuantizedWeight(const Node *product, Layout layout,
                                               Refusal &refusal);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_QUANTIZEDWEIGHT_H

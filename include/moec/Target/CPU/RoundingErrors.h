// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What it changes to round the operands of experts' products (--compute, --activation-type).

#ifndef MOEC_TARGET_CPU_ROUNDINGERRORS_H
#define MOEC_TARGET_CPU_ROUNDINGERRORS_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"
#include <vector>

namespace mlir::moe {

/// Of one network of experts (moe.experts, moe.expert_ffn or moe.shared), or of one of their
/// products where it stands alone (moe.grouped_matmul).
struct RoundingError {
  Operation *op;
  /// √(Σ(y' − y)² / Σy²) over kRows rows of results of the first expert: y' with rows, the rows
  /// between the products and, for bf16, weights rounded, y without, all else in float64.
  double relativeRMS;

  static constexpr int64_t kRows = 4;
};

/// Input row r has in column k of K a normally distributed number √(−2 ln u) · cos(2π v), rounded
/// to float32, for u and v = (h + ½) / 2⁵³ where h are the upper 53 bits of number 2(rK + k) and of
/// the next one of the generator splitmix64 with seed 0. Networks whose weights are not constants
/// are left out. `operands`: "bf16" or "int8". Weight files lie in `modelFolder`; the error names
/// one that cannot be read.
llvm::Expected<std::vector<RoundingError>> measureRounding(ModuleOp module, StringRef modelFolder,
                                                           StringRef operands);

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_ROUNDINGERRORS_H

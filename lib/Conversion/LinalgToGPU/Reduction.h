// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Reductions along contiguous memory: sums, maxima and other folds of rows.

#ifndef MOEC_LIB_CONVERSION_LINALGTOGPU_REDUCTION_H
#define MOEC_LIB_CONVERSION_LINALGTOGPU_REDUCTION_H

#include "LoopNest.h"

#include <optional>

namespace mlir::moe {

/// An operation each of whose results is folded by one commutative operation.
struct Reduction {
  linalg::GenericOp op;
  /// The operation that folds, for each result.
  SmallVector<Operation *> folds;

  /// Nullopt unless lanes of a warp can share the fold of a point, and read neighbours in memory
  /// then.
  static std::optional<Reduction> match(linalg::GenericOp op);

  /// A warp for each point of the parallel loops.
  LogicalResult outline(KernelOutliner &outliner);

  /// The results of the point that `nest` is at, by `team` threads: a warp, or more, which are the
  /// whole block. All of them get the results.
  SmallVector<Value> emitPoint(LoopNest &nest, Value lane, int64_t team);
};

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_LINALGTOGPU_REDUCTION_H

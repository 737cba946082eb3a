// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products of two tensors: any operation whose body adds a product of two factors to its result.

#ifndef MOEC_LIB_CONVERSION_LINALGTOGPU_CONTRACTION_H
#define MOEC_LIB_CONVERSION_LINALGTOGPU_CONTRACTION_H

#include "LoopNest.h"

#include <optional>

namespace mlir::moe {

/// out[batches, rows, columns] += Σ over `depth` of left[batches, rows, depth] ·
/// right[batches, columns, depth], in f32.
struct Contraction {
  linalg::GenericOp op;
  /// Values of the body: f32, or f16 or bf16 numbers that are extended before they are multiplied.
  Value left, right;
  /// The loops of each kind.
  SmallVector<unsigned> batches, rows, columns, depth;

  /// Nullopt unless there are rows, columns and a depth.
  static std::optional<Contraction> match(linalg::GenericOp op);

  /// Makes tiles of the result: both factors go to shared memory, and are multiplied by tensor
  /// cores when they are f16 or bf16.
  LogicalResult outline(KernelOutliner &outliner);

private:
  bool sortLoops();
};

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_LINALGTOGPU_CONTRACTION_H

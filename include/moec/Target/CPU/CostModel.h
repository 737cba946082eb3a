// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The cost model of the CPU's kernels: all sizes of blocks, tiles and tasks follow from the
// machine's vectors and caches.

#ifndef MOEC_TARGET_CPU_COSTMODEL_H
#define MOEC_TARGET_CPU_COSTMODEL_H

#include "llvm/ADT/bit.h"
#include "llvm/Support/MathExtras.h"
#include <algorithm>
#include <cstdint>

namespace mlir::moe::cpu {

/// Bytes of a line of the caches.
constexpr int64_t kLineBytes = 64;

/// A machine as kernels see it. Sizes of tasks never change a result: what is summed in which
/// order does not depend on them.
struct CostModel {
  /// Lanes of f32 in a vector register: 4, 8 or 16. 32 are the threads of a GPU's warp, each
  /// of which holds one element of a vector (see --moe-to-gpu).
  int64_t lanes = 16;
  /// Data caches of a core.
  int64_t l1Bytes = 32 << 10, l2Bytes = 1 << 20;

  bool isWarp() const { return lanes == 32; }

  // Registers.

  int64_t numRegisters() const { return lanes >= 16 ? 32 : 16; }
  /// Sums in registers. A quarter of these is for a panel row, a broadcast, and what makes
  /// floats of codes.
  int64_t maxAccumulators() const { return numRegisters() * 3 / 4; }
  /// Sums that are needed to always have a multiply-add to start: at most two start in a
  /// cycle, and each takes four.
  int64_t minAccumulators() const { return 8; }
  /// Logits of a token that stay in registers, half of those that there are.
  int64_t expertsInRegisters() const { return numRegisters() / 2 * lanes; }

  // Caches.

  /// Weights are asked for this far ahead, beyond the end of a task too: the worker's next task
  /// most often reads what follows. At least what memory delivers to a core until it answers (100
  /// ns at 30 GB/s: 3 KiB), and a quarter of L1, whose other parts are for the block's rows.
  int64_t prefetchBytes() const { return l1Bytes / 4; }

  // Tasks. Drawing one costs some hundred cycles where cores compete for the line of the
  // counter: a task takes ten times as long.

  /// 2 µs at 3 GHz.
  static constexpr int64_t kTaskCycles = 6144;
  /// What memory delivers to a core, at 30 GB/s and 3 GHz.
  static constexpr int64_t kBytesPerCycle = 10;

  /// Bytes of weights that a task reads at least, if there are as many: kTaskCycles for an L2 of 1
  /// MiB. They stay there beside the rows that pass by.
  int64_t taskBytes() const { return l2Bytes / 16; }
  /// Multiply-adds of a task of a linear product at least, if there are as many. Each task reads
  /// its weights anew: multiplying with them takes kBytesPerCycle times as long, where a vector
  /// of multiply-adds starts in each cycle.
  int64_t taskProducts() const { return taskBytes() * lanes; }
  /// Elements that a task brings into packed order at least: what it reads and writes, f32, is a
  /// quarter of L2, from where the products take it.
  int64_t taskElements() const { return l2Bytes / 4 / (2 * int64_t(sizeof(float))); }
  /// Tokens of a task that routes them: choosing among a hundred experts takes about 400 cycles. A
  /// GPU does not draw tasks.
  int64_t taskTokens() const { return isWarp() ? 1 : kTaskCycles / 384; }
  /// Tokens of a task that moves `bytes` for each of them and does little else.
  int64_t taskTokens(int64_t bytes) const {
    return isWarp() ? 1 : std::max<int64_t>(1, kTaskCycles * kBytesPerCycle / bytes);
  }
  /// Evaluations of an element-wise body that a task makes: about six cycles for a vector, for
  /// its loads, its store, and a few operations.
  int64_t taskEvaluations() const { return kTaskCycles / 6 * lanes; }

  // Sums over an outer loop, of several rows that share what is loaded.

  /// Vectors of a row, and rows at once: sums to always have one to add to, which leaves half of
  /// 16 registers to what is added. A single row has kSingleRowVectors.
  static constexpr int64_t kRowVectors = 2, kSingleRowVectors = 4;
  int64_t rowsAtOnce() const { return minAccumulators() / kRowVectors; }

  // Attention.

  /// Vectors of keys in a tile: with the scores of rowsAtOnce() rows as many sums as there can
  /// be, a power of two.
  int64_t keyVectors() const { return llvm::bit_floor(uint64_t(maxAccumulators() / rowsAtOnce())); }
  int64_t keysPerTile() const { return keyVectors() * lanes; }
  /// Rows of queries of a task, a power of two. A tile of keys is transposed once for all of them:
  /// a load, a store and log2(lanes) shuffles of a vector, one in a cycle, are to be a tenth of the
  /// two multiply-adds, two in a cycle, of each row. Caches play no part, since the rows choose
  /// where tiles begin: see kMaxHeadSize.
  int64_t attentionRows() const { return llvm::PowerOf2Ceil(10 * (2 + llvm::Log2_64(lanes))); }
};

} // namespace mlir::moe::cpu

#endif // MOEC_TARGET_CPU_COSTMODEL_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The generators of the single kernels, and what they share.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_KERNELS_H
#define MOEC_LIB_CONVERSION_MOETOCPU_KERNELS_H

#include "KernelBuilder.h"

namespace mlir::moe::cpu {

/// Columns of K that are summed before they are added to the total: for the rounding error, and
/// the same on every machine. Blocks of quantized weights, powers of two, divide it or are divided
/// by it.
constexpr int64_t kColumnsPerChunk = 256;

/// A packed matrix bank as a kernel sees it: panels, and for quantized weights their
/// scales and zero points. Values are absent (null) where there is no such thing.
struct PackedWeight {
  /// [E, P, K, 32] floats, [E, P, K/2, 64] bf16 with two rows side by side (see `pairs`), or
  /// code panels (see #moe.code_panels).
  Value panels;
  Value scales;     ///< [E, P, K/block, 32] floats.
  Value zeroPoints; ///< [E, P, K/block, 32] bytes.
  Value bias;       ///< [E, P, 1, 32] floats.
  // A weight that is computed or an argument is packed panel by panel when it is used:
  // `panels` and `bias` are then scratch f32 [rows, 1, K, 32] and [rows, 1, 1, 32], with
  // a row for each worker (for each panel in a linear product).
  Value raw;         ///< [E,N,K] or [E,K,N], as `layout` says; without E when E = 1.
  Value rawGate;     ///< The gate rows when they are separate.
  Value rawBias;     ///< [E,N] or null.
  Value rawGateBias; ///< [E,N] or null.
  /// Scratch f32 [workers, 1, K, 32] for the panel of codes that a worker is multiplying several
  /// blocks of rows with; null otherwise.
  Value floats;
  /// Panels are scratch that was just written: they are not asked for ahead.
  bool isCached = false;
  Glu glu = Glu::None;
  Layout layout = Layout::OutIn;
  /// Element (k / 2, 2c + k mod 2) of a panel is (k, c): as bf16 is multiplied and summed by
  /// pairs. So are all packed bf16 weights of an even K.
  bool pairs = false;
  /// What the product multiplies; Int8 only where `bits` is not 0.
  Operands productOf = Operands::F32;
  int64_t bits = 0;  ///< 0: panels hold floats; else width of a code.
  int64_t block = 0; ///< Columns along K with one scale; K when row-wise.
  int64_t n = 0;     ///< Rows of the logical weight.
  int64_t k = 0;     ///< Columns of the logical weight.

  int64_t experts = 1; ///< E

  int64_t numPanels() const;
  /// Rows of K in one row of `panels`.
  int64_t rowsPerStep() const { return bits == 2 || pairs ? 2 : 1; }
  /// The values that are there, in the order of a kernel's arguments.
  SmallVector<Value> operands() const;
  /// The same weight with `arguments` (of a kernel) in place of operands().
  PackedWeight withArguments(Block::BlockArgListType arguments) const;
  /// Everything a kernel's code depends on, for its name.
  std::string key() const;
};

/// max or + over the lanes of a vector.
Value emitReduction(KernelBuilder &b, vector::CombiningKind kind, Value vector);

/// A score function of one logit (not softmax), on scalars or vectors.
Value emitScore(KernelBuilder &b, ScoreFn fn, Value logit);

/// What a softmax needs to know of all its logits, as scalars.
struct SoftmaxStatistics {
  Value maximum;     ///< the largest that is not NaN
  Value denominator; ///< Σ exp(l - maximum), NaN when a logit is

  /// The softmax of a vector of these logits.
  Value of(KernelBuilder &b, Value logits) const {
    return b.divf(b.exp(b.subf(logits, b.splat(maximum))), b.splat(denominator));
  }
};
/// `fold(init, step)` carries a value through step(value, count, logits) for all vectors
/// of logits; they are -inf from the `count`-th lane on.
SoftmaxStatistics
emitSoftmaxStatistics(KernelBuilder &b,
                      function_ref<Value(Value, function_ref<Value(Value, int64_t, Value)>)> fold);
/// Of row `token` of logits [T,E].
SoftmaxStatistics emitSoftmaxStatistics(KernelBuilder &b, Value logits, Value token);

/// f(gate) · linear as `#moe.activation` says, on vectors of f32; `linear` is null
/// without a gate.
Value emitActivation(KernelBuilder &b, ActivationAttr activation, Value gate, Value linear);

/// Columns of a task's panel group: enough bytes that drawing the task costs little.
int64_t panelsPerTask(const PackedWeight &weight, KernelTarget target);

/// How the rows that a product reads are stored, one after the other. Rows of f32 are an odd number
/// of cache lines apart, so that those of a block are in different sets of the cache. When products
/// round to bf16 the rows are bf16, each at a multiple of two elements: pairs are contiguous, which
/// AVX512-BF16 broadcasts and AMX loads as tiles. Rows of 8-bit integers are described in
/// IntegerProduct.h.
struct RowFormat {
  Operands operands = Operands::F32;
  int64_t block = 0; ///< Int8: columns with one scale

  /// Rows that `weight` is multiplied with.
  static RowFormat of(const PackedWeight &weight) {
    return {weight.productOf, weight.productOf == Operands::Int8 ? weight.block : 0};
  }
  Type getElementType(MLIRContext *context) const;
  /// Elements that a row of that many columns takes.
  int64_t stride(int64_t columns) const;
  /// For names of kernels; empty for f32.
  std::string key() const;
};

/// Asks for `count` rows of a panel (or of its scales) from `row` on, or of what follows.
void emitPrefetch(KernelBuilder &b, Value panels, Value expert, Value panel, Value row,
                  int64_t count);

/// Rows of a panel product: accumulators of `rows` rows by one panel, over all k.
/// `a` holds the rows, `stride` elements apart, from element `aBase` on. Returns
/// rows × panelVectors() vectors.
SmallVector<Value> emitPanelProduct(KernelBuilder &b, const PackedWeight &weight, Value expert,
                                    Value panel, Value a, Value aBase, int64_t stride,
                                    int64_t rows);

// Scratch of a layer, all from the workspace. S = T·k rows, P padded rows.
struct RoutingLists {
  Value active;   ///< i32 [E]: experts with rows, rising.
  Value first;    ///< i32 [E + 1]: first block of each active expert.
  Value blocks;   ///< i32 [S, 3]: first row, first padded row, rows of the block.
  Value rowToken; ///< i32 [S]: token of each row, rows sorted by expert.
  Value position; ///< i32 [T, k]: padded row of each (token, slot).
  Value cursor;   ///< i32 [2, E]: counts and cursors while the lists are made.
  Value counts;   ///< i32 [2]: number of active experts, of blocks.
};

/// Kernels. Each returns the private function; arguments as listed, then the call.
/// lists: experts i32 [T,k], then the members of RoutingLists in order. Unless the routing
/// is `full`, experts of -1 are skipped; their positions are not written.
func::FuncOp getRoutingListsKernel(ModuleOp module, int64_t experts, int64_t k, bool full,
                                   KernelTarget target);
/// pack: x [T,H], blocks, rowToken, counts, packed [P·stride] as `format` says; with `scaled` then
/// a factor of each row, f32 [S].
func::FuncOp getPackRowsKernel(ModuleOp module, MemRefType x, bool scaled, RowFormat format,
                               KernelTarget target);
/// round: the same for the first `columns` columns of rows that are at their padded places already:
/// x [P,stride], blocks, counts, packed.
func::FuncOp getRoundRowsKernel(ModuleOp module, MemRefType x, int64_t columns, RowFormat format,
                                KernelTarget target);
/// up: packed, active, first, blocks, counts, hidden [P·stride] of `hidden`, f32 or bf16, weights.
func::FuncOp getUpKernel(ModuleOp module, const PackedWeight &weight, ActivationAttr activation,
                         RowFormat hidden, KernelTarget target);
/// down: hidden, active, first, blocks, counts, rows f32 [P, Hpad], weights.
func::FuncOp getDownKernel(ModuleOp module, const PackedWeight &weight, int64_t hiddenStride,
                           KernelTarget target);
/// combine: rows [P,Hpad], position, weights f32 [T,k], y [T,H].
func::FuncOp getCombineKernel(ModuleOp module, MemRefType rows, MemRefType y, int64_t k,
                              KernelTarget target);
/// linear: x [T,K], packed f32 [Tpad·stride], y [T,N], weights. One expert, no routing.
func::FuncOp getLinearKernel(ModuleOp module, MemRefType x, MemRefType y,
                             const PackedWeight &weight, KernelTarget target);

/// Columns of the hidden rows between the products: I rounded up to whole panels.
int64_t hiddenColumns(const PackedWeight &up, ActivationAttr activation);

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_KERNELS_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The generators of the single kernels, and what they share.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_KERNELS_H
#define MOEC_LIB_CONVERSION_MOETOCPU_KERNELS_H

#include "KernelBuilder.h"

namespace mlir::moe::cpu {

/// A packed matrix bank as a kernel sees it: panels, and for quantized weights their
/// scales and zero points. Values are absent (null) where there is no such thing.
struct PackedWeight {
  Value panels;      ///< [E, P, K, 32] floats, or code panels (see #moe.code_panels).
  Value scales;      ///< [E, P, K/block, 32] floats.
  Value zeroPoints;  ///< [E, P, K/block, 32] bytes.
  Value bias;        ///< [E, P, 1, 32] floats.
  int64_t bits = 0;  ///< 0: panels hold floats; else width of a code.
  int64_t block = 0; ///< Columns along K with one scale; K when row-wise.
  int64_t n = 0;     ///< Rows of the logical weight.
  int64_t k = 0;     ///< Columns of the logical weight.

  int64_t numPanels() const { return cast<MemRefType>(panels.getType()).getDimSize(1); }
  int64_t experts() const { return cast<MemRefType>(panels.getType()).getDimSize(0); }
  /// The values that are there, in the order of a kernel's arguments.
  SmallVector<Value> operands() const;
  /// The same weight with `arguments` (of a kernel) in place of operands().
  PackedWeight withArguments(Block::BlockArgListType arguments) const;
  /// Everything a kernel's code depends on, for its name.
  std::string key() const;
};

/// f(gate) · linear as `#moe.activation` says, on vectors of f32; `linear` is null
/// without a gate.
Value emitActivation(KernelBuilder &b, ActivationAttr activation, Value gate, Value linear);

/// Columns of a task's panel group: enough bytes that drawing the task costs little.
int64_t panelsPerTask(const PackedWeight &weight);

/// Rows of a panel product: accumulators of `rows` rows by one panel, over all k.
/// `a` holds the block of rows in packed order from element `aBase`: (k, r) at
/// aBase + k·rows + r. Returns rows × panelVectors() vectors.
SmallVector<Value> emitPanelProduct(KernelBuilder &b, const PackedWeight &weight, Value expert,
                                    Value panel, Value a, Value aBase, int64_t rows);

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
/// gating: logits [T,E], (bias [E]), (source [T,E]), experts i32 [T,k], weights f32 [T,k].
func::FuncOp getGatingKernel(ModuleOp module, GatingOp op, KernelTarget target);
/// lists: experts i32 [T,k], then the members of RoutingLists in order.
func::FuncOp getRoutingListsKernel(ModuleOp module, int64_t experts, int64_t k,
                                   KernelTarget target);
/// pack: x [T,H], blocks, rowToken, counts, packed f32 [P·H].
func::FuncOp getPackRowsKernel(ModuleOp module, MemRefType x, KernelTarget target);
/// up: packed, active, first, blocks, counts, hidden f32 [P·Ipad], weights.
func::FuncOp getUpKernel(ModuleOp module, const PackedWeight &weight, ActivationAttr activation,
                         KernelTarget target);
/// down: hidden, active, first, blocks, counts, rows f32 [P, Hpad], weights.
func::FuncOp getDownKernel(ModuleOp module, const PackedWeight &weight, int64_t hiddenStride,
                           KernelTarget target);
/// combine: rows [P,Hpad], position, weights f32 [T,k], y [T,H].
func::FuncOp getCombineKernel(ModuleOp module, MemRefType rows, MemRefType y, int64_t k,
                              KernelTarget target);
/// linear: x [T,K], packed f32 [Tpad·K], y [T,N], weights. One expert, no routing.
func::FuncOp getLinearKernel(ModuleOp module, MemRefType x, MemRefType y,
                             const PackedWeight &weight, KernelTarget target);

/// Columns of the hidden rows between the products: I rounded up to whole panels.
int64_t hiddenColumns(const PackedWeight &up, ActivationAttr activation);

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_KERNELS_H

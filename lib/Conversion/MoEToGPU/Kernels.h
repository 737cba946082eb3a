// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The generators of kernels that are written for GPUs.

#ifndef MOEC_LIB_CONVERSION_MOETOGPU_KERNELS_H
#define MOEC_LIB_CONVERSION_MOETOGPU_KERNELS_H

#include "GPUBuilder.h"

namespace mlir::moe::cuda {

/// What the products may use, and how rows are cut for them.
struct ProductTarget {
  /// wgmma, bulk copies of tensor maps, mbarriers and setmaxnreg.
  bool hasWarpgroups = false;
  /// Whether rows and weights of f32 are rounded to tf32.
  bool roundsToTF32 = false;
  int64_t multiprocessors = 132;

  /// Rows of the blocks that a product takes at once. An expert's rows are cut into blocks of
  /// the second size (kind 1); a block that has no more rows than the first (kind 0) goes to
  /// a kernel of its own. When there are no more tokens than that, all blocks are such.
  int64_t blockRows(int64_t kind) const { return kind == 0 ? 16 : hasWarpgroups ? 128 : 64; }
};

/// A routing's entries by expert, as cpu::RoutingLists but that rows are never padded:
/// - blocks i32 [S, 4]: first row, first row, number of rows, expert, rows rising;
/// - tiles i32 [2, S]: the numbers of the blocks of each size, rising;
/// - counts i32 [4]: 0, blocks, tiles of each size;
/// - rowToken i32 [S], position i32 [T, k], cursor i32 [2, E]: 0, first row of the expert.
struct Lists {
  Value blocks, tiles, counts, rowToken, position, cursor;
};
/// The lists of `chosen`, i32 [T,k] (-1: none).
struct ListsOf {
  Value chosen;
  Lists lists;
  int64_t experts;

  int64_t k() const { return cast<MemRefType>(chosen.getType()).getDimSize(1); }
};
/// What the kernel takes, and the same with values taken from the front of `arguments`.
SmallVector<Value> operandsOf(const ListsOf &of);
ListsOf withArguments(ListsOf of, Block::BlockArgListType &arguments);

/// Most experts that the lists kernel has memory for.
int64_t mostListedExperts();
/// Makes lists with one block; the order of the rows does not depend on how it runs. `isForFew`: an
/// expert has hardly more than one block of rows.
void emitLists(GPUBuilder &b, const ListsOf &of, int64_t warps, bool isForFew,
               ProductTarget target);
gpu::LaunchFuncOp launchLists(cpu::KernelBuilder &b, ModuleOp module, const ListsOf &of,
                              ProductTarget target);

/// A bank of weights as it is in the model: floats [E,N,K] (or [E,K,N]: `layout`), or codes
/// [E,N,K·bits/8] with scales and zero points (see moe.dequantize); [N,K] is one expert's.
struct Bank {
  Value values;
  Value scales, zeroPoints; ///< null unless quantized; zero points may be null
  int64_t bits = 0;         ///< of a code; 0: floats
  int64_t block = 0;        ///< columns with one scale; K when row-wise

  SmallVector<Value> operands() const;
  /// The same with values taken from the front of `arguments`.
  Bank withArguments(Block::BlockArgListType &arguments) const;
};

/// The arguments of a product kernel. out[r, j] = Σ_k a[r, k] · w[j, k] + bias[j], and with an
/// activation f of that (of the gate and linear columns of j).
struct Product {
  Value source;      ///< [., K], any float type
  Value rowOfSource; ///< i32: the row of `source` that is row r; null: row r
  Value scales;      ///< f32 [S]: factors of the rows; null: 1
  Value out;         ///< [., N], any float type; N columns after the activation
  // Null for one expert without routing: then every row of `source` is a row.
  Value blocks, tiles, counts;
  Value tokens;         ///< index, on the host; null without routing
  Bank weight, gate;    ///< `gate`: values null unless Glu::Separate
  Value bias, gateBias; ///< [E,N] or [N]; null: 0
  Layout layout = Layout::OutIn;
  ActivationAttr activation; ///< null: none
  int64_t experts = 1, n = 0, k = 0;
  /// Tensor maps of the weights, and of a source whose rows follow each other; null unless a
  /// kernel copies by them.
  Value weightMap, gateMap, sourceMap;
};

/// What the product computes with, from f32 sums: the rows' bf16 or f16 on tensor cores, where
/// the weights are the same or codes; else f32.
Type productType(const Product &product);

/// Launches the kernels of a product, one for each size of blocks. Which ones does not depend on
/// sizes, so that a captured run can be changed; one that has nothing to do has no blocks.
void launchProduct(cpu::KernelBuilder &b, ModuleOp module, const Product &product,
                   ProductTarget target);

/// Two products of which the second takes the results of the first.
struct ProductPair {
  Product first, second;
  ListsOf lists;
  Value counters; ///< of the launch of small blocks
  /// Those of `lists.chosen` (null unless it is one, in which a warp has a token) and of the lists.
  gpu::LaunchFuncOp routingLaunch, listsLaunch;
  /// Those of large blocks of both products, and of small ones; null when each product has its own.
  gpu::LaunchFuncOp firstLaunch, secondLaunch, launch;
};
/// Launches the kernels of two products, small blocks of both in one launch where their kernels
/// can.
void launchProducts(cpu::KernelBuilder &b, ModuleOp module, ProductPair &pair,
                    ProductTarget target);
/// Asks for as many counters everywhere, since one call could move what another gave.
void equalizeCounters(ModuleOp module);
/// Few tokens, all of whose blocks are small, have what comes after the products (a launch that is
/// already there) in the launch of both, if that is one and has room. So they have routing and
/// lists, unless something else needs them before.
void takeIn(cpu::KernelBuilder &b, ModuleOp module, ProductPair &pair, gpu::LaunchFuncOp combine,
            ProductTarget target);

} // namespace mlir::moe::cuda

#endif // MOEC_LIB_CONVERSION_MOETOGPU_KERNELS_H

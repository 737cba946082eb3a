// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What all kernels of products share.
//
// A block of threads makes tiles of `rows` x `columns` sums. With a gate, groups of columns are
// gate columns in their first half and the linear columns that belong to them in the second.

#ifndef MOEC_LIB_CONVERSION_MOETOGPU_TILEKERNEL_H
#define MOEC_LIB_CONVERSION_MOETOGPU_TILEKERNEL_H

#include "Kernels.h"

namespace mlir::moe::cuda {

/// Elements along K that are moved at once.
constexpr int64_t kChunk = 8;

inline MemRefType typeOf(Value memref) { return cast<MemRefType>(memref.getType()); }

/// Whether rows, or weights, go to shared memory as they are.
bool copiesRows(const Product &product);
bool copiesWeights(const Product &product);
/// Whether 8 weights that belong to one sum are next to each other, as are 8 elements of a row.
bool hasChunksAlongK(const Product &product);

/// How a block of threads shares its work.
struct Tiling {
  int64_t rows, columns, depth; ///< of a tile; depth along K
  int64_t threads;
  int64_t stages = 1;     ///< slices in shared memory
  int64_t warpsAlong = 1; ///< rows of warps; tensor cores only
};

class TileKernel;

/// A way to compute a product.
struct ProductKernel {
  StringRef name; ///< in the names of kernels
  Tiling tiling;
  /// What emits the tiles of a kind (see ProductTarget).
  std::unique_ptr<TileKernel> (*make)(GPUBuilder &b, const Product &product, const Tiling &tiling,
                                      int64_t kind);
  int64_t sharedBytes = 0; ///< dynamic shared memory
  int64_t perMultiprocessor = 4;
  bool hasMaps = false; ///< see addTensorMaps
};

/// f32 by fused multiply-adds.
ProductKernel getFMAKernel(int64_t rows);
/// mma.sync; f32 as tf32.
ProductKernel getMMAKernel(const Product &product, int64_t rows);
/// mma.sync for at most 16 rows, weights straight from memory; needs hasChunksAlongK.
ProductKernel getFewRowsKernel();
/// Blocks of another kernel, in one with blocks of as many threads.
struct InlinedKernel {
  gpu::GPUFuncOp kernel; ///< null: none
  SmallVector<Value> arguments;
  Value blocks; ///< index
};
/// What a launch of small blocks of two products does.
struct SmallBlocks {
  Product first, second;
  Value counters; ///< i32 [numCounters]; see moec_counters
  InlinedKernel routing;
  ListsOf lists; ///< made after a routing
  InlinedKernel combine;
};
int64_t numCounters(const ListsOf &lists, ProductTarget target);
/// The kernel, with the ways of both products, which have as many threads.
void emitSmallBlocks(GPUBuilder &b, const SmallBlocks &of, const ProductKernel &first,
                     const ProductKernel &second, ProductTarget target);

/// wgmma; needs hasChunksAlongK, and rows and weights that are copied as they are.
ProductKernel getWarpgroupKernel(int64_t rows);
/// Adds the tensor maps that its kernels want, made on the host.
void addTensorMaps(cpu::KernelBuilder &b, Product &product, int64_t rows);

/// Finds tiles, fills shared memory, stores results.
class TileKernel {
public:
  TileKernel(GPUBuilder &b, const Product &p, const Tiling &tiling, int64_t kind)
      : b(b), p(p), tiling(tiling), kind(kind), type(productType(p)) {}
  virtual ~TileKernel() = default;

  virtual void emit();

  /// The parts of emit: shared memory, the number of tiles, one of them.
  void prepare();
  Value numTiles() { return b.mul(numRowBlocks(), columnTiles()); }
  void makeTile(Value number);
  /// Blocks of rows that have tiles, and tiles of each.
  Value numRowBlocks();
  int64_t columnTiles() { return llvm::divideCeil(p.n, outColumns()); }

protected:
  /// The sums of a tile to their place.
  virtual void product() = 0;
  virtual void allocate() = 0;
  /// Columns of a tile that have their gates and linear parts among themselves.
  virtual int64_t groupColumns() { return tiling.columns; }

  bool isGated() { return p.activation && p.activation.getGlu() != Glu::None; }
  int64_t outColumns() { return isGated() ? tiling.columns / 2 : tiling.columns; }
  int64_t numSlices() { return llvm::divideCeil(p.k, tiling.depth); }
  /// Whether all chunks of 8 along K are whole and aligned.
  bool hasChunks() { return p.k % kChunk == 0; }
  Value thread() { return b.thread(); }

  /// What tile `number` is.
  void locate(Value number);
  /// The rows of the source, for fillRows.
  void findRows();
  /// Waits for the threads that fill.
  virtual void waitForFillers() { b.barrier(); }
  /// How many fill; the first threads of the block.
  virtual int64_t numFillers() { return tiling.threads; }
  void forItems(int64_t count, function_ref<void(Value)> body);

  // Shared memory.
  /// Where element (r, k) of a slice's rows (or of its weights) is.
  virtual SmallVector<Value> placeOf(Value stage, Value r, Value k, bool isWeight) {
    return {stage, r, k};
  }
  /// As shared memory has it.
  virtual Value toType(Value value);
  void fillRows(Value memory, Value stage, Value k0);
  void fillWeights(Value memory, Value stage, Value k0);

  // Registers.
  /// Whether place `i` of tiles of `tile` places is one of `size`.
  Value isInside(Value i, int64_t size, int64_t tile) {
    return size % tile == 0 ? b.boolean(true) : b.less(i, b.index(size));
  }
  /// 8 elements of row r, scaled, as f32; of row `row` of the source.
  Value loadRowChunk(Value row, Value r, Value k);
  /// 8 weights of a row from k on, as f32; blocks of codes are at least as long.
  Value loadWeightChunk(const Bank &bank, Value row, Value k);
  Value zeroChunk();
  /// The bank, and its row, of a column of the result: its only one, its gate (part 0) or its
  /// linear part (1).
  std::pair<const Bank *, Value> partOf(Value column, int64_t part);

  /// Results (r, column) and after it of the tile, as many as there are sums, if they exist.
  /// `sums` are the gates when there are linear parts.
  void storeResults(Value r, Value column, ArrayRef<Value> sums, ArrayRef<Value> linears);

  GPUBuilder &b;
  Product p;
  Tiling tiling;
  int64_t kind;
  Type type;

  Value rowIndex; ///< i32 [rows] in shared memory: rows of the source
  Value firstRow, numRows, expert, firstColumn;

private:
  void storeChunk(Value chunk, Value memory, ValueRange at);
  void copyAsync(Value from, ValueRange fromAt, Value to, ValueRange toAt, Value exists);
  /// Runs `body(bank, row, exists)` for the row of weights of column `c` of the tile.
  template <typename T>
  SmallVector<T> ofColumn(Value c, function_ref<SmallVector<T>(const Bank &, Value, Value)> body);
  std::pair<Value, Value> columnOf(Value c);
  SmallVector<Value> placeIn(Value memref, ValueRange at);
  Value loadWeight(const Bank &bank, Value row, Value k);
  Value loadCode(Value codes, ValueRange at, Value number, int64_t bits);
  std::pair<Value, Value> loadScale(const Bank &bank, Value row, Value k);
  Value loadBias(Value bias, Value row);
  Value finish(Value column, Value sum, Value linear);
};

template <typename Kernel>
std::unique_ptr<TileKernel> makeKernel(GPUBuilder &b, const Product &product, const Tiling &tiling,
                                       int64_t kind) {
  return std::make_unique<Kernel>(b, product, tiling, kind);
}

/// d + a·b of mma.sync with f32 sums, for fragments as the PTX ISA has them; `element` is bf16,
/// f16 or f32 (which is multiplied as tf32). K is 16, or 8 for tf32.
void multiplyAdd(GPUBuilder &b, Type element, ArrayRef<Value> a, ArrayRef<Value> w,
                 MutableArrayRef<Value> sums);

} // namespace mlir::moe::cuda

#endif // MOEC_LIB_CONVERSION_MOETOGPU_TILEKERNEL_H

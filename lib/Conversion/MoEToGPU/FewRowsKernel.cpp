// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "TileKernel.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

namespace {
/// mma.sync of 16 x 8 x 16 with the weights on the side of 16 and the rows on that of 8.
///
/// What bounds a product of few rows is how fast the weights come. A lane has pairs of elements
/// along K that lie apart, but which K belongs to which place does not matter when it is the same
/// for both operands: 8 elements that are next to each other are a lane's part of two mma's. So
/// operands are loaded to where mma wants them, 16 bytes at once and without shared memory, and
/// nothing waits for anything but its own loads. Warps share out K; their sums are added in
/// their order.
class FewRowsKernel : public TileKernel {
public:
  using TileKernel::TileKernel;

  static constexpr int64_t kWarps = 4;
  /// Of a tile: 16 rows in two groups of 8, 32 columns in two of 16.
  static constexpr int64_t kRows = 16, kColumns = 32, kDepth = 128;

private:
  static constexpr int64_t kGroups = 2, kSums = kGroups * kGroups * 4;

  void allocate() override {
    // One more, so that rows begin in different banks.
    sumsOfWarps = b.shared({kWarps, kRows, kColumns + 1}, b.getF32Type());
  }
  void product() override;
  SmallVector<Value> loadRows(Value k);
  SmallVector<Value> loadWeights(Value k);
  SmallVector<Value> slice(Value number, ValueRange sums);
  void share(ValueRange sums);
  void store();
  Value zeroUnless(Value exists, Value chunk);
  Value pairOf(Value chunk, int64_t number);

  Value sumsOfWarps; ///< f32 [warps, rows, columns]
  Value warp, group, inGroup;
};
} // namespace

Value FewRowsKernel::zeroUnless(Value exists, Value chunk) {
  return p.k % tiling.depth == 0 ? chunk : b.select(exists, chunk, zeroChunk());
}

/// A chunk of a row of each group. Rows that there are not are the first one again.
SmallVector<Value> FewRowsKernel::loadRows(Value k) {
  Value exists = isInside(k, p.k, tiling.depth), at = b.select(exists, k, b.index(0));
  SmallVector<Value> chunks;
  for (int64_t j = 0; j < kGroups; ++j) {
    Value r = b.add(group, 8 * j), safe = b.select(b.less(r, numRows), r, b.index(0));
    Value chunk = loadRowChunk(b.loadIndex(rowIndex, safe), safe, at);
    chunks.push_back(toType(zeroUnless(exists, chunk)));
  }
  return chunks;
}

/// A chunk of two rows of weights for each group.
SmallVector<Value> FewRowsKernel::loadWeights(Value k) {
  Value exists = isInside(k, p.k, tiling.depth), at = b.select(exists, k, b.index(0));
  SmallVector<Value> chunks;
  for (int64_t i = 0; i < kGroups; ++i)
    for (int64_t half : {0, 8}) {
      Value column = b.add(b.add(firstColumn, group), half + (isGated() ? 0 : 16 * i));
      Value safe = b.min(column, b.index(p.n - 1));
      auto [bank, row] = partOf(safe, i);
      chunks.push_back(toType(zeroUnless(exists, loadWeightChunk(*bank, row, at))));
    }
  return chunks;
}

/// Elements 2·number and 2·number + 1, as mma takes them.
Value FewRowsKernel::pairOf(Value chunk, int64_t number) {
  Value pair = vector::ShuffleOp::create(b, b.getLoc(), chunk, chunk,
                                         ArrayRef<int64_t>{2 * number, 2 * number + 1});
  return type.isF16() ? pair : LLVM::BitcastOp::create(b, b.getLoc(), b.getI32Type(), pair);
}

SmallVector<Value> FewRowsKernel::slice(Value number, ValueRange before) {
  SmallVector<Value> sums(before);
  Value k0 = b.add(b.mul(number, tiling.depth), b.mul(inGroup, kChunk));
  // All loads before all products.
  SmallVector<SmallVector<Value>> rows, weights;
  for (int64_t k = 0; k < tiling.depth; k += 4 * kChunk)
    weights.push_back(loadWeights(b.add(k0, k)));
  for (int64_t k = 0; k < tiling.depth; k += 4 * kChunk)
    rows.push_back(loadRows(b.add(k0, k)));
  for (auto [row, weight] : llvm::zip(rows, weights))
    for (int64_t pair : {0, 2})
      for (int64_t i = 0; i < kGroups; ++i)
        for (int64_t j = 0; j < kGroups; ++j) {
          Value upper = weight[2 * i], lower = weight[2 * i + 1];
          multiplyAdd(b, type,
                      {pairOf(upper, pair), pairOf(lower, pair), pairOf(upper, pair + 1),
                       pairOf(lower, pair + 1)},
                      {pairOf(row[j], pair), pairOf(row[j], pair + 1)},
                      MutableArrayRef(sums).slice(4 * (i * kGroups + j), 4));
        }
  return sums;
}

/// The sums of a warp to shared memory.
void FewRowsKernel::share(ValueRange sums) {
  for (int64_t i = 0; i < kGroups; ++i)
    for (int64_t j = 0; j < kGroups; ++j)
      for (int64_t element = 0; element < 4; ++element) {
        Value r = b.add(b.mul(inGroup, 2), 8 * j + element % 2);
        Value column = b.add(group, 16 * i + element / 2 * 8);
        b.store(sums[4 * (i * kGroups + j) + element], sumsOfWarps, {warp, r, column});
      }
}

void FewRowsKernel::store() {
  auto sum = [&](Value r, Value column) {
    Value total = b.load(sumsOfWarps, {b.index(0), r, column});
    for (int64_t warp = 1; warp < kWarps; ++warp)
      total = b.addf(total, b.load(sumsOfWarps, {b.index(warp), r, column}));
    return total;
  };
  forItems(kRows * outColumns(), [&](Value i) {
    Value r = b.div(i, outColumns()), column = b.mod(i, outColumns());
    SmallVector<Value> linear;
    if (isGated())
      linear.push_back(sum(r, b.add(column, outColumns())));
    storeResults(r, column, sum(r, column), linear);
  });
}

void FewRowsKernel::product() {
  Value lane = b.mod(thread(), kLanes);
  warp = b.div(thread(), kLanes);
  group = b.div(lane, 4);
  inGroup = b.mod(lane, 4);
  SmallVector<Value> zeros(kSums, b.f32(0.0));
  share(b.forLoop(warp, b.index(numSlices()), b.index(kWarps), zeros,
                  [&](Value k, ValueRange sums) { return slice(k, sums); }));
  b.barrier();
  store();
}

//===----------------------------------------------------------------------===//
// Two products
//===----------------------------------------------------------------------===//

namespace {
/// Blocks draw tiles in order, those of the first product before those of the second. A tile of
/// the second waits until all tiles of its rows in the first are made: they were drawn before, by
/// blocks that run and wait for nothing, however many blocks the GPU runs at once. What comes after
/// the products is drawn last and waits for all tiles of the second: they were drawn before, by
/// blocks that run and wait at most for tiles of the first.
class FewRowsPair {
public:
  FewRowsPair(GPUBuilder &b, const Product &first, const Product &second, Value ready,
              const InlinedKernel *after)
      : b(b), first(b, first, getFewRowsKernel().tiling, 0),
        second(b, second, getFewRowsKernel().tiling, 0), ready(ready), after(after) {}

  void emit();

private:
  /// Places in `ready`: tiles that were drawn, blocks that ended, tiles of the second product that
  /// are made, tiles of the first by their rows.
  enum { kDrawn, kEnded, kMade, kTiles };

  Value add(Value place, int64_t value) {
    return memref::AtomicRMWOp::create(b, b.getLoc(), arith::AtomicRMWKind::addi, b.i32(value),
                                       ready, place);
  }
  /// Orders what is before, in all blocks, before what is after; atomics do not.
  void fence() { NVVM::MembarOp::create(b, b.getLoc(), NVVM::MemScopeKind::GPU); }
  /// In one thread of the block.
  void once(function_ref<void()> body) { b.ifThen(b.equal(b.thread(), b.index(0)), body); }
  /// The place that counts the tiles of a block of rows.
  Value placeOf(Value rowBlock) { return b.add(rowBlock, kTiles); }
  Value draw();
  void makeFirst(Value number);
  void makeSecond(Value number);
  void makeAfter(Value number);
  /// Counts a tile that the block has made.
  void countAt(Value place);
  /// Until `count` (i32) tiles are counted at `place`; then they can be read.
  void waitAt(Value place, Value count);
  void end();

  GPUBuilder &b;
  FewRowsKernel first, second;
  Value ready;
  const InlinedKernel *after; ///< or null
  Value drawn;                ///< i32 [1] in shared memory
};
} // namespace

Value FewRowsPair::draw() {
  once([&] { b.store(add(b.index(kDrawn), 1), drawn, b.index(0)); });
  b.barrier();
  return b.loadIndex(drawn, b.index(0));
}

void FewRowsPair::countAt(Value place) {
  b.barrier();
  once([&] {
    fence();
    add(place, 1);
  });
}

void FewRowsPair::waitAt(Value place, Value count) {
  once([&] {
    auto loop = scf::WhileOp::create(b, b.getLoc(), TypeRange(), ValueRange());
    {
      OpBuilder::InsertionGuard guard(b);
      b.createBlock(&loop.getBefore());
      scf::ConditionOp::create(b, b.getLoc(), b.less(add(place, 0), count), ValueRange());
      b.createBlock(&loop.getAfter());
      scf::YieldOp::create(b, b.getLoc());
    }
    fence();
  });
  b.barrier();
}

void FewRowsPair::makeFirst(Value number) {
  first.makeTile(number);
  countAt(placeOf(b.div(number, first.columnTiles())));
}

void FewRowsPair::makeSecond(Value number) {
  waitAt(placeOf(b.div(number, second.columnTiles())), b.i32(first.columnTiles()));
  second.makeTile(number);
  if (after)
    countAt(b.index(kMade));
}

void FewRowsPair::makeAfter(Value number) {
  waitAt(b.index(kMade), b.toI32(second.numTiles()));
  inlineBlock(b, after->kernel, after->arguments, number, after->blocks);
}

/// The last block leaves the counters as it found them, for the next launch.
void FewRowsPair::end() {
  once([&] {
    Value isLast = b.equal(b.toIndex(add(b.index(kEnded), 1)), b.sub(b.numBlocks(), b.index(1)));
    b.ifThen(isLast, [&] {
      b.forLoop(placeOf(first.numRowBlocks()),
                [&](Value place) { b.store(b.i32(0), ready, place); });
    });
  });
}

void FewRowsPair::emit() {
  first.prepare();
  second.prepare();
  drawn = b.shared(1, b.getI32Type());
  Value numFirst = first.numTiles(), numBoth = b.add(numFirst, second.numTiles());
  Value total = after ? b.add(numBoth, after->blocks) : numBoth;
  auto loop = scf::WhileOp::create(b, b.getLoc(), TypeRange(b.getIndexType()), ValueRange());
  {
    OpBuilder::InsertionGuard guard(b);
    b.createBlock(&loop.getBefore());
    Value number = draw();
    scf::ConditionOp::create(b, b.getLoc(), b.less(number, total), number);
    Block *body = b.createBlock(&loop.getAfter(), {}, b.getIndexType(), b.getLoc());
    Value tile = body->getArgument(0);
    Value isFirst = b.less(tile, numFirst);
    b.ifThen(isFirst, [&] { makeFirst(tile); });
    Value isSecond = b.both(b.less(b.sub(numFirst, b.index(1)), tile), b.less(tile, numBoth));
    b.ifThen(isSecond, [&] { makeSecond(b.sub(tile, numFirst)); });
    if (after) {
      Value isAfter = b.less(b.sub(numBoth, b.index(1)), tile);
      b.ifThen(isAfter, [&] { makeAfter(b.sub(tile, numBoth)); });
    }
    scf::YieldOp::create(b, b.getLoc());
  }
  end();
}

void mlir::moe::cuda::emitFewRowsPair(GPUBuilder &b, const Product &first, const Product &second,
                                      Value ready, const InlinedKernel *after) {
  FewRowsPair(b, first, second, ready, after).emit();
}

static void emit(GPUBuilder &b, const Product &product, const Tiling &tiling, int64_t kind) {
  FewRowsKernel(b, product, tiling, kind).emit();
}

ProductKernel mlir::moe::cuda::getFewRowsKernel() {
  using Kernel = FewRowsKernel;
  return {"_few", {Kernel::kRows, Kernel::kColumns, Kernel::kDepth, Kernel::kWarps * kLanes}, emit};
}

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

ProductKernel mlir::moe::cuda::getFewRowsKernel() {
  using Kernel = FewRowsKernel;
  return {"_few",
          {Kernel::kRows, Kernel::kColumns, Kernel::kDepth, Kernel::kWarps * kLanes},
          makeKernel<Kernel>};
}

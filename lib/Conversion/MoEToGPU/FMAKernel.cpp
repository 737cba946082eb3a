// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "TileKernel.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

namespace {
/// Fused multiply-adds; a thread has every 16th column.
class FMAKernel : public TileKernel {
public:
  using TileKernel::TileKernel;

private:
  static constexpr int64_t kColumnThreads = 16;

  int64_t rowThreads() { return tiling.threads / kColumnThreads; }
  void allocate() override {
    // One more, so that rows begin in different banks.
    rows = b.shared({1, tiling.rows, tiling.depth + 1}, type);
    weights = b.shared({1, tiling.columns, tiling.depth + 1}, type);
  }
  void product() override;

  Value rows, weights;
};
} // namespace

void FMAKernel::product() {
  int64_t perThread = tiling.rows / rowThreads(), columns = tiling.columns / kColumnThreads;
  Value firstR = b.div(thread(), kColumnThreads), firstC = b.mod(thread(), kColumnThreads);
  auto row = [&](int64_t i) { return b.add(firstR, i * rowThreads()); };
  auto column = [&](int64_t j) { return b.add(firstC, j * kColumnThreads); };
  SmallVector<Value> zeros(perThread * columns, b.f32(0.0));
  Value stage = b.index(0);
  SmallVector<Value> sums = b.forLoop(
      b.index(0), b.index(p.k), b.index(tiling.depth), zeros, [&](Value k0, ValueRange carried) {
        fillRows(rows, stage, k0);
        fillWeights(weights, stage, k0);
        b.barrier();
        SmallVector<Value> next = b.forLoop(b.index(0), b.index(tiling.depth), b.index(1), carried,
                                            [&](Value k, ValueRange carried) {
                                              SmallVector<Value> sums(carried), w;
                                              for (int64_t j = 0; j < columns; ++j)
                                                w.push_back(b.load(weights, {stage, column(j), k}));
                                              for (int64_t i = 0; i < perThread; ++i) {
                                                Value a = b.load(rows, {stage, row(i), k});
                                                for (int64_t j = 0; j < columns; ++j)
                                                  sums[i * columns + j] =
                                                      b.fma(a, w[j], sums[i * columns + j]);
                                              }
                                              return sums;
                                            });
        b.barrier();
        return next;
      });
  int64_t results = isGated() ? columns / 2 : columns;
  for (int64_t i = 0; i < perThread; ++i)
    for (int64_t j = 0; j < results; ++j)
      storeResults(row(i), column(j), sums[i * columns + j],
                   isGated() ? ArrayRef<Value>(sums[i * columns + results + j])
                             : ArrayRef<Value>());
}

ProductKernel mlir::moe::cuda::getFMAKernel(int64_t rows) {
  return {"", {rows, 64, 32, rows == 16 ? 128 : 256}, makeKernel<FMAKernel>};
}

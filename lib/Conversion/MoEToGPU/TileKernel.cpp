// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Finding tiles and storing results; for loading see TileLoading.cpp.

#include "../MoEToCPU/Kernels.h"
#include "TileKernel.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

/// body(i) for i < count, as many in turn as a thread gets.
void TileKernel::forItems(int64_t count, function_ref<void(Value)> body) {
  int64_t whole = count / numFillers();
  for (int64_t i = 0; i < whole; ++i)
    body(b.add(thread(), i * numFillers()));
  if (count % numFillers() == 0)
    return;
  Value last = b.add(thread(), whole * numFillers());
  b.ifThen(b.less(last, b.index(count)), [&] { body(last); });
}

Value TileKernel::numRowBlocks() {
  if (p.blocks)
    return b.loadIndex(p.counts, b.index(2 + kind));
  Value rows = b.dim(p.source, 0), blocks = b.ceilDiv(rows, tiling.rows);
  // More rows go to the other kernel, which is not launched for fewer.
  return kind == 0 ? b.select(b.less(b.index(tiling.rows), rows), b.index(0), blocks) : blocks;
}

void TileKernel::locate(Value number) {
  Value t = b.div(number, columnTiles());
  firstColumn = b.mul(b.mod(number, columnTiles()), outColumns());
  if (p.blocks) {
    Value block = b.loadIndex(p.tiles, {b.index(kind), t});
    auto field = [&](int64_t i) { return b.loadIndex(p.blocks, {block, b.index(i)}); };
    firstRow = field(0);
    numRows = field(2);
    expert = field(3);
  } else {
    firstRow = b.mul(t, tiling.rows);
    numRows = b.min(b.sub(b.dim(p.source, 0), firstRow), b.index(tiling.rows));
    expert = b.index(0);
  }
}

void TileKernel::findRows() {
  // The tile before is done with the memory.
  waitForFillers();
  forItems(tiling.rows, [&](Value r) {
    Value row = b.add(firstRow, r);
    Value index = b.branch(
        b.less(r, numRows),
        [&] { return p.rowOfSource ? b.load(p.rowOfSource, row) : b.toI32(row); },
        [&] { return b.i32(0); });
    b.store(index, rowIndex, r);
  });
  waitForFillers();
}

void TileKernel::prepare() {
  rowIndex = b.shared(tiling.rows, b.getI32Type());
  allocate();
}

void TileKernel::makeTile(Value number) {
  locate(number);
  findRows();
  product();
}

void TileKernel::emit() {
  prepare();
  b.forLoop(b.block(), numTiles(), b.numBlocks(), [&](Value number) { makeTile(number); });
}

//===----------------------------------------------------------------------===//
// Storing
//===----------------------------------------------------------------------===//

Value TileKernel::loadBias(Value bias, Value row) { return b.loadF32(bias, placeIn(bias, row)); }

/// Bias and activation of a result.
Value TileKernel::finish(Value column, Value sum, Value linear) {
  Glu glu = linear ? p.activation.getGlu() : Glu::None;
  Value gateBias = glu == Glu::Separate ? p.gateBias : p.bias;
  if (gateBias)
    sum = b.addf(sum, loadBias(gateBias, partOf(column, 0).second));
  if (linear && p.bias)
    linear = b.addf(linear, loadBias(p.bias, partOf(column, 1).second));
  return p.activation ? cpu::emitActivation(b, p.activation, sum, linear) : sum;
}

void TileKernel::storeResults(Value r, Value column, ArrayRef<Value> sums,
                              ArrayRef<Value> linears) {
  int64_t count = sums.size();
  if (count > 1 && p.n % count) {
    for (int64_t i = 0; i < count; ++i)
      storeResults(r, b.add(column, i), sums[i], linears.empty() ? linears : linears[i]);
    return;
  }
  Value at = b.add(firstColumn, column);
  b.ifThen(b.both(b.less(r, numRows), b.less(at, b.index(p.n))), [&] {
    SmallVector<Value> results;
    for (int64_t i = 0; i < count; ++i)
      results.push_back(finish(b.add(at, i), sums[i], linears.empty() ? Value() : linears[i]));
    SmallVector<Value> place = {b.add(firstRow, r), at};
    if (count == 1)
      return b.storeF32(results[0], p.out, place);
    Type element = typeOf(p.out).getElementType();
    Value all = vector::FromElementsOp::create(b, b.getLoc(),
                                               VectorType::get(count, b.getF32Type()), results);
    if (!element.isF32())
      all = arith::TruncFOp::create(b, b.getLoc(), VectorType::get(count, element), all);
    vector::StoreOp::create(b, b.getLoc(), all, p.out, place, /*nontemporal=*/false,
                            llvm::MaybeAlign(count * element.getIntOrFloatBitWidth() / 8));
  });
}

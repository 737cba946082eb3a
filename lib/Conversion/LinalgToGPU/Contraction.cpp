// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Contraction.h"
#include "../MoEToGPU/TensorCores.h"

#include "llvm/ADT/SmallBitVector.h"

using namespace mlir;
using namespace mlir::moe;
using cuda::GPUBuilder;
using cuda::kLanes;
using cuda::TensorCores;

/// Rows and columns of a tile.
static constexpr int64_t kTile = 64;

//===----------------------------------------------------------------------===//
// Matching
//===----------------------------------------------------------------------===//

/// The loops that a value of the body depends on.
static llvm::SmallBitVector loopsOf(linalg::GenericOp op, Value inBody) {
  llvm::SmallBitVector loops(op.getNumLoops());
  for (Value value : getBodyOperands(op, inBody)) {
    if (auto index = value.getDefiningOp<linalg::IndexOp>())
      loops.set(index.getDim());
    auto scalar = dyn_cast<BlockArgument>(value);
    if (!scalar || scalar.getOwner() != op.getBody())
      continue;
    AffineMap map = op.getMatchingIndexingMap(op.getMatchingOpOperand(scalar));
    for (unsigned loop = 0; loop < map.getNumDims(); ++loop)
      if (map.isFunctionOfDim(loop))
        loops.set(loop);
  }
  return loops;
}

/// Both factors as they are before they are extended, if that is the same type for both.
static void lookThroughExtension(Value &left, Value &right) {
  auto l = left.getDefiningOp<arith::ExtFOp>(), r = right.getDefiningOp<arith::ExtFOp>();
  if (!l || !r || l.getIn().getType() != r.getIn().getType())
    return;
  Type type = l.getIn().getType();
  if (!type.isF16() && !type.isBF16())
    return;
  left = l.getIn();
  right = r.getIn();
}

bool Contraction::sortLoops() {
  llvm::SmallBitVector ofLeft = loopsOf(op, left), ofRight = loopsOf(op, right);
  for (auto [loop, type] : llvm::enumerate(op.getIteratorTypesArray())) {
    if (type != utils::IteratorType::parallel)
      depth.push_back(loop);
    else if (ofLeft[loop] == ofRight[loop])
      batches.push_back(loop);
    else
      (ofLeft[loop] ? rows : columns).push_back(loop);
  }
  return !rows.empty() && !columns.empty();
}

std::optional<Contraction> Contraction::match(linalg::GenericOp op) {
  if (op.getNumDpsInits() != 1 || op.getNumReductionLoops() == 0 ||
      !op.getRegionOutputArgs()[0].hasOneUse())
    return std::nullopt;
  Value sum = op.getRegionOutputArgs()[0];
  auto add = op.getBody()->getTerminator()->getOperand(0).getDefiningOp<arith::AddFOp>();
  if (!add || !add.getType().isF32() || !llvm::is_contained(add->getOperands(), sum))
    return std::nullopt;
  Value product = add.getLhs() == sum ? add.getRhs() : add.getLhs();
  auto mul = product.getDefiningOp<arith::MulFOp>();
  if (!mul || mul->getBlock() != op.getBody())
    return std::nullopt;
  Contraction result;
  result.op = op;
  result.left = mul.getLhs();
  result.right = mul.getRhs();
  lookThroughExtension(result.left, result.right);
  if (!result.sortLoops())
    return std::nullopt;
  return result;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

namespace {
class ContractionKernel {
public:
  ContractionKernel(Contraction &c, KernelBody body, int64_t depth, int64_t threads)
      : c(c), b(body.kernel, body.builder), nest(c.op, {b, body.mapping, body.kernel}),
        type(c.left.getType()), depth(depth), threads(threads) {}
  virtual ~ContractionKernel() = default;

  void emit();

protected:
  /// Before any tile.
  virtual void start() {}
  virtual SmallVector<Value> zeros() = 0;
  /// Adds the products of what is in shared memory.
  virtual SmallVector<Value> multiply(ValueRange sums) = 0;
  virtual void store(ValueRange sums) = 0;

  void storeSum(Value row, Value column, Value sum);

  Contraction &c;
  GPUBuilder b;
  LoopNest nest;
  Type type;
  const int64_t depth, threads;
  Value left, right; ///< [kTile, depth] in shared memory

private:
  void fill(Value memory, Value factor, ArrayRef<unsigned> own, Value first, Value size, Value k0);
  bool isContiguousAlongDepth(Value factor);

  Value numRows, numColumns, numDepth;
  Value batch, firstRow, firstColumn;
};
} // namespace

/// Whether neighbours in memory are neighbours along the depth, not along rows or columns.
bool ContractionKernel::isContiguousAlongDepth(Value factor) {
  for (Value value : getBodyOperands(c.op, factor)) {
    auto scalar = dyn_cast<BlockArgument>(value);
    if (!scalar || scalar.getOwner() != c.op.getBody())
      continue;
    AffineMap map = c.op.getMatchingIndexingMap(c.op.getMatchingOpOperand(scalar));
    if (map.getNumResults() == 0)
      continue;
    AffineExpr last = map.getResult(map.getNumResults() - 1);
    return llvm::any_of(c.depth, [&](unsigned loop) { return last.isFunctionOfDim(loop); });
  }
  return true;
}

/// A tile of a factor; zeros where there is none.
void ContractionKernel::fill(Value memory, Value factor, ArrayRef<unsigned> own, Value first,
                             Value size, Value k0) {
  bool alongDepth = isContiguousAlongDepth(factor);
  for (int64_t i = 0; i < kTile * depth / threads; ++i) {
    Value item = b.add(b.thread(), i * threads);
    Value at = alongDepth ? b.div(item, depth) : b.mod(item, kTile);
    Value k = alongDepth ? b.mod(item, depth) : b.div(item, kTile);
    Value place = b.add(first, at), step = b.add(k0, k);
    Value element = b.branch(
        b.both(b.less(place, size), b.less(step, numDepth)),
        [&] {
          nest.setPoint(batch, c.batches);
          nest.setPoint(place, own);
          nest.setPoint(step, c.depth);
          return nest.evaluate(factor);
        },
        [&]() -> Value { return arith::ConstantOp::create(b, b.getZeroAttr(type)); });
    b.store(element, memory, {at, k});
  }
}

void ContractionKernel::storeSum(Value row, Value column, Value sum) {
  Value r = b.add(firstRow, row), column_ = b.add(firstColumn, column);
  b.ifThen(b.both(b.less(r, numRows), b.less(column_, numColumns)), [&] {
    nest.setPoint(batch, c.batches);
    nest.setPoint(r, c.rows);
    nest.setPoint(column_, c.columns);
    nest.storeResults(b.addf(nest.loadInits()[0], sum));
  });
}

void ContractionKernel::emit() {
  start();
  numRows = nest.countPoints(c.rows);
  numColumns = nest.countPoints(c.columns);
  numDepth = nest.countPoints(c.depth);
  Value down = b.ceilDiv(numRows, kTile), across = b.ceilDiv(numColumns, kTile);
  Value perBatch = b.mul(down, across);
  Value tiles = b.mul(perBatch, nest.countPoints(c.batches));
  b.forLoop(b.block(), tiles, b.numBlocks(), [&](Value tile) {
    batch = b.createOrFold<arith::DivUIOp>(tile, perBatch);
    Value inBatch = b.createOrFold<arith::RemUIOp>(tile, perBatch);
    firstRow = b.mul(b.createOrFold<arith::DivUIOp>(inBatch, across), kTile);
    firstColumn = b.mul(b.createOrFold<arith::RemUIOp>(inBatch, across), kTile);
    store(b.forLoop(b.index(0), numDepth, b.index(depth), zeros(), [&](Value k, ValueRange sums) {
      // The slice before has been read.
      b.barrier();
      fill(left, c.left, c.rows, firstRow, numRows, k);
      fill(right, c.right, c.columns, firstColumn, numColumns, k);
      b.barrier();
      return multiply(sums);
    }));
  });
}

namespace {
/// Fused multiply-adds: a thread has every 16th row and column.
class FMAContraction : public ContractionKernel {
public:
  static constexpr int64_t kDepth = 16, kThreads = 256;

  FMAContraction(Contraction &c, KernelBody body) : ContractionKernel(c, body, kDepth, kThreads) {
    // One more, so that rows begin in different banks.
    left = b.shared({kTile, kDepth + 1}, type);
    right = b.shared({kTile, kDepth + 1}, type);
  }

private:
  static constexpr int64_t kAcross = 16, kEach = kTile / kAcross;

  Value row(int64_t i) { return b.add(b.div(b.thread(), kAcross), i * kAcross); }
  Value column(int64_t j) { return b.add(b.mod(b.thread(), kAcross), j * kAcross); }
  SmallVector<Value> zeros() override { return SmallVector<Value>(kEach * kEach, b.f32(0.0)); }
  SmallVector<Value> multiply(ValueRange before) override {
    return b.forLoop(b.index(0), b.index(kDepth), b.index(1), before,
                     [&](Value k, ValueRange carried) {
                       SmallVector<Value> sums(carried), r;
                       for (int64_t j = 0; j < kEach; ++j)
                         r.push_back(b.load(right, {column(j), k}));
                       for (int64_t i = 0; i < kEach; ++i) {
                         Value l = b.load(left, {row(i), k});
                         for (int64_t j = 0; j < kEach; ++j)
                           sums[i * kEach + j] = b.fma(l, r[j], sums[i * kEach + j]);
                       }
                       return sums;
                     });
  }
  void store(ValueRange sums) override {
    for (int64_t i = 0; i < kEach; ++i)
      for (int64_t j = 0; j < kEach; ++j)
        storeSum(row(i), column(j), sums[i * kEach + j]);
  }
};

/// Two warps along rows and two along columns.
class TensorContraction : public ContractionKernel {
public:
  static constexpr int64_t kDepth = 32, kThreads = 128;

  TensorContraction(Contraction &c, KernelBody body)
      : ContractionKernel(c, body, kDepth, kThreads) {
    // Eight rows begin in different banks, 16 bytes each.
    left = b.shared({kTile, kDepth + 8}, type);
    right = b.shared({kTile, kDepth + 8}, type);
  }

private:
  static constexpr int64_t kPart = kTile / 2;
  static constexpr int64_t kDown = kPart / TensorCores::kRows;
  static constexpr int64_t kAcross = kPart / TensorCores::kColumns;

  void start() override {
    cores.emplace(b, type);
    Value warp = b.div(b.thread(), kLanes);
    partRow = b.mul(b.div(warp, 2), kPart);
    partColumn = b.mul(b.mod(warp, 2), kPart);
  }
  SmallVector<Value> zeros() override {
    return SmallVector<Value>(kDown * kAcross * 4, b.f32(0.0));
  }
  SmallVector<Value> multiply(ValueRange before) override {
    SmallVector<Value> sums(before);
    for (int64_t k = 0; k < kDepth; k += TensorCores::kDepth) {
      SmallVector<SmallVector<Value>> rows, columns;
      for (int64_t i = 0; i < kDown; ++i)
        rows.push_back(cores->loadRows(left, b.add(partRow, i * TensorCores::kRows), b.index(k)));
      for (int64_t j = 0; j < kAcross; ++j)
        columns.push_back(
            cores->loadColumns(right, b.add(partColumn, j * TensorCores::kColumns), b.index(k)));
      for (int64_t i = 0; i < kDown; ++i)
        for (int64_t j = 0; j < kAcross; ++j)
          cores->multiply(rows[i], columns[j],
                          MutableArrayRef(sums).slice(4 * (i * kAcross + j), 4));
    }
    return sums;
  }
  void store(ValueRange sums) override {
    Value r = b.add(partRow, cores->group);
    Value column = b.add(partColumn, b.mul(cores->inGroup, 2));
    for (int64_t i = 0; i < kDown; ++i)
      for (int64_t j = 0; j < kAcross; ++j)
        for (int64_t n = 0; n < 4; ++n)
          storeSum(b.add(r, i * TensorCores::kRows + n / 2 * 8),
                   b.add(column, j * TensorCores::kColumns + n % 2),
                   sums[4 * (i * kAcross + j) + n]);
  }

  std::optional<TensorCores> cores;
  Value partRow, partColumn;
};
} // namespace

LogicalResult Contraction::outline(KernelOutliner &outliner) {
  auto countBlocks = [&](OpBuilder &builder) {
    cpu::KernelBuilder b(op.getLoc(), builder, {{kLanes}});
    Value down = b.ceilDiv(countPoints(b, op, rows), kTile);
    Value across = b.ceilDiv(countPoints(b, op, columns), kTile);
    return b.mul(b.mul(down, across), countPoints(b, op, batches));
  };
  if (left.getType().isF32())
    return outliner.outlineBlocks({op.getOperation()}, "product", FMAContraction::kThreads,
                                  countBlocks,
                                  [&](KernelBody body) { FMAContraction(*this, body).emit(); });
  return outliner.outlineBlocks({op.getOperation()}, "product", TensorContraction::kThreads,
                                countBlocks,
                                [&](KernelBody body) { TensorContraction(*this, body).emit(); });
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "TileProduct.h"
#include "BF16.h"

#include "mlir/Dialect/AMX/AMXDialect.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

/// Tiles beside each other that a panel takes.
static constexpr int64_t columnTiles = kPanelWidth / kTileRows;

/// All tiles have one shape, 16 rows of 64 bytes, so that one configuration is enough.
static amx::TileType type(Type element) {
  return amx::TileType::get({kTileRows, 512 / int64_t(element.getIntOrFloatBitWidth())}, element);
}

static SmallVector<Value> emitZeroTiles(KernelBuilder &b, int64_t rows, Type element) {
  SmallVector<Value> tiles;
  for (int64_t i = 0; i < rows / kTileRows * columnTiles; ++i)
    tiles.push_back(amx::TileZeroOp::create(b, b.getLoc(), type(element)));
  return tiles;
}

/// Tiles of `element`, stored on the stack; returns where.
static Value emitStoreTiles(KernelBuilder &b, int64_t rows, Type element, ValueRange tiles) {
  auto buffer = MemRefType::get({rows, kPanelWidth}, element);
  Value memory = memref::AllocaOp::create(b, b.getLoc(), buffer, b.getI64IntegerAttr(64));
  for (auto [i, tile] : llvm::enumerate(tiles)) {
    int64_t row = i / columnTiles, column = i % columnTiles;
    amx::TileStoreOp::create(b, b.getLoc(), memory,
                             ValueRange{b.index(row * kTileRows), b.index(column * kTileRows)},
                             tile, /*stride=*/Value());
  }
  return memory;
}

/// Vectors of what is in `memory` [rows, kPanelWidth].
static SmallVector<Value> emitLoadVectors(KernelBuilder &b, int64_t rows, Value memory) {
  auto vector = b.vectorType(cast<MemRefType>(memory.getType()).getElementType());
  SmallVector<Value> vectors;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < b.target.panelVectors(); ++v)
      vectors.push_back(vector::LoadOp::create(
          b, b.getLoc(), vector, memory, ValueRange{b.index(r), b.index(v * b.target.lanes)}));
  return vectors;
}

namespace {
/// The sums of a block, and how a step of K adds to them.
class TileMath {
public:
  TileMath(KernelBuilder &b, const TileOperands &op) : b(b), op(op) {}
  virtual ~TileMath() = default;
  virtual SmallVector<Value> zeros() = 0;
  /// sums + rows · panel over `pairs` pairs of columns from k on.
  virtual SmallVector<Value> step(Value k, int64_t pairs, ValueRange sums) = 0;
  virtual SmallVector<Value> toVectors(ValueRange sums) = 0;

  KernelBuilder &b;
  const TileOperands &op;
};

/// Tiles of 16 rows by 16 columns, two beside each other for the panel.
class AMXMath : public TileMath {
public:
  using TileMath::TileMath;
  SmallVector<Value> zeros() override;
  SmallVector<Value> step(Value k, int64_t pairs, ValueRange sums) override;
  SmallVector<Value> toVectors(ValueRange sums) override;

private:
  int64_t rowTiles() { return op.rows / kTileRows; }
};

/// The same with the sums in vectors.
class VectorMath : public TileMath {
public:
  using TileMath::TileMath;
  SmallVector<Value> zeros() override {
    return SmallVector<Value>(op.rows * b.target.panelVectors(), b.splat(0.0));
  }
  SmallVector<Value> step(Value k, int64_t pairs, ValueRange sums) override;
  SmallVector<Value> toVectors(ValueRange sums) override { return SmallVector<Value>(sums); }
};
} // namespace

SmallVector<Value> AMXMath::zeros() { return emitZeroTiles(b, op.rows, b.getF32Type()); }

SmallVector<Value> AMXMath::step(Value k, int64_t pairs, ValueRange sums) {
  Type bf16 = b.getBF16Type();
  auto [panel, at] = op.panel(k, pairs);
  SmallVector<Value> right, result;
  for (int64_t j = 0; j < columnTiles; ++j) {
    SmallVector<Value> indices(at);
    indices.push_back(b.index(j * kTileColumns));
    right.push_back(
        amx::TileLoadOp::create(b, b.getLoc(), type(bf16), panel, indices, /*stride=*/Value()));
  }
  for (int64_t i = 0; i < rowTiles(); ++i) {
    Value first = b.add(b.add(op.aBase, k), i * kTileRows * op.stride);
    Value left =
        amx::TileLoadOp::create(b, b.getLoc(), type(bf16), op.a, first, b.index(op.stride));
    for (int64_t j = 0; j < columnTiles; ++j) {
      Value sum = sums[i * columnTiles + j];
      result.push_back(amx::TileMulFOp::create(b, b.getLoc(), sum.getType(), left, right[j], sum));
    }
  }
  return result;
}

SmallVector<Value> AMXMath::toVectors(ValueRange sums) {
  return emitLoadVectors(b, op.rows, emitStoreTiles(b, op.rows, b.getF32Type(), sums));
}

SmallVector<Value> VectorMath::step(Value k, int64_t pairs, ValueRange sums) {
  auto [panel, at] = op.panel(k, pairs);
  auto [memory, first] = std::pair<Value, SmallVector<Value>>(panel, at);
  return b.forLoop(
      b.index(0), b.index(pairs), b.index(1), sums, [&](Value pair, ValueRange carried) {
        SmallVector<Value> acc(carried), right;
        int64_t width = 2 * b.target.lanes;
        auto type = VectorType::get({width}, b.getBF16Type());
        for (int64_t v = 0; v < b.target.panelVectors(); ++v) {
          SmallVector<Value> indices(first);
          indices.back() = b.add(indices.back(), pair);
          indices.push_back(b.index(v * width));
          right.push_back(vector::LoadOp::create(b, b.getLoc(), type, memory, indices));
        }
        emitAccumulatePairs(b, op.a, b.add(b.add(op.aBase, k), b.mul(pair, 2)), op.stride, op.rows,
                            right, acc);
        return acc;
      });
}

SmallVector<Value> mlir::moe::cpu::emitTileProduct(KernelBuilder &b, const TileOperands &op) {
  std::unique_ptr<TileMath> math;
  if (b.target.tiles == Tiles::AMX)
    math = std::make_unique<AMXMath>(b, op);
  else
    math = std::make_unique<VectorMath>(b, op);
  int64_t whole = llvm::alignDown(op.k, kTileColumns), rest = op.k - whole;
  SmallVector<Value> sums = math->zeros();
  if (whole > 0)
    sums = b.forLoop(
        b.index(0), b.index(whole), b.index(kTileColumns), sums,
        [&](Value k, ValueRange carried) { return math->step(k, kTileColumns / 2, carried); });
  sums = math->toVectors(sums);
  if (rest > 0)
    sums = VectorMath(b, op).step(b.index(whole), llvm::divideCeil(rest, 2), sums);
  return sums;
}

//===----------------------------------------------------------------------===//
// Integers
//===----------------------------------------------------------------------===//

SmallVector<Value> mlir::moe::cpu::emitIntegerTiles(KernelBuilder &b, int64_t rows) {
  return emitZeroTiles(b, rows, b.getI32Type());
}

SmallVector<Value> mlir::moe::cpu::emitIntegerTileStep(KernelBuilder &b, Value a, Value at,
                                                       int64_t stride, int64_t rows, Value codes,
                                                       ValueRange sums) {
  amx::TileType bytes = type(b.getI8Type());
  SmallVector<Value> right, result;
  for (int64_t j = 0; j < columnTiles; ++j)
    right.push_back(amx::TileLoadOp::create(b, b.getLoc(), bytes, codes,
                                            ValueRange{b.index(0), b.index(64 * j)},
                                            /*stride=*/Value()));
  for (int64_t i = 0; i < rows / kTileRows; ++i) {
    Value left = amx::TileLoadOp::create(b, b.getLoc(), bytes, a, b.add(at, i * kTileRows * stride),
                                         b.index(stride));
    for (int64_t j = 0; j < columnTiles; ++j) {
      Value sum = sums[i * columnTiles + j];
      result.push_back(amx::TileMulIOp::create(b, b.getLoc(), sum.getType(), left, right[j], sum,
                                               /*isZextLhs=*/false, /*isZextRhs=*/true));
    }
  }
  return result;
}

SmallVector<Value> mlir::moe::cpu::emitIntegerTileVectors(KernelBuilder &b, int64_t rows,
                                                          ValueRange sums) {
  return emitLoadVectors(b, rows, emitStoreTiles(b, rows, b.getI32Type(), sums));
}

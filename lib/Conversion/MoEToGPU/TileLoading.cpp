// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Rows and weights, to registers and shared memory.

#include "TileKernel.h"

#include "mlir/Dialect/NVGPU/IR/NVGPUDialect.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

bool mlir::moe::cuda::copiesRows(const Product &product) {
  return !product.scales && typeOf(product.source).getElementType() == productType(product);
}

bool mlir::moe::cuda::copiesWeights(const Product &product) {
  return product.layout == Layout::OutIn && !product.weight.bits &&
         typeOf(product.weight.values).getElementType() == productType(product);
}

bool mlir::moe::cuda::hasChunksAlongK(const Product &product) {
  return product.k % kChunk == 0 && (product.layout == Layout::OutIn || product.weight.bits);
}

static VectorType chunkOf(Type element) { return VectorType::get({kChunk}, element); }

Value TileKernel::toType(Value value) {
  Type element = getElementTypeOrSelf(value);
  if (element == type)
    return value;
  Value real = b.toF32(value);
  if (type.isF32())
    return real;
  Type result = type;
  if (auto vector = dyn_cast<VectorType>(value.getType()))
    result = vector.clone(type);
  return arith::TruncFOp::create(b, b.getLoc(), result, real);
}

void TileKernel::storeChunk(Value chunk, Value memory, ValueRange at) {
  chunk = toType(chunk);
  int64_t rowBits = typeOf(memory).getShape().back() * type.getIntOrFloatBitWidth();
  if (rowBits % 128 == 0) {
    vector::StoreOp::create(b, b.getLoc(), chunk, memory, at, /*nontemporal=*/false,
                            llvm::MaybeAlign(16));
    return;
  }
  for (int64_t i = 0; i < kChunk; ++i) {
    SmallVector<Value> place(at);
    place.back() = b.add(place.back(), i);
    b.store(vector::ExtractOp::create(b, b.getLoc(), chunk, i), memory, place);
  }
}

static Value loadChunk(GPUBuilder &b, Value memref, ValueRange at) {
  return vector::LoadOp::create(b, b.getLoc(), chunkOf(typeOf(memref).getElementType()), memref, at,
                                /*nontemporal=*/false, llvm::MaybeAlign(16));
}

/// 16 bytes, zeros unless they exist.
void TileKernel::copyAsync(Value from, ValueRange fromAt, Value to, ValueRange toAt, Value exists) {
  Value count = b.select(exists, b.index(kChunk), b.index(0));
  nvgpu::DeviceAsyncCopyOp::create(b, b.getLoc(), nvgpu::DeviceAsyncTokenType::get(b.getContext()),
                                   to, toAt, from, fromAt, b.getIndexAttr(kChunk), count,
                                   b.getUnitAttr());
}

Value TileKernel::zeroChunk() {
  return arith::ConstantOp::create(b, b.getLoc(), b.getZeroAttr(chunkOf(b.getF32Type())));
}

Value TileKernel::loadRowChunk(Value row, Value r, Value k) {
  Value chunk = b.toF32(loadChunk(b, p.source, {row, k}));
  if (!p.scales)
    return chunk;
  Value scale = b.load(p.scales, b.add(firstRow, r));
  return b.mulf(chunk, vector::BroadcastOp::create(b, b.getLoc(), chunkOf(b.getF32Type()), scale));
}

void TileKernel::fillRows(Value memory, Value stage, Value k0) {
  auto sourceOf = [&](Value r) { return b.loadIndex(rowIndex, r); };
  auto place = [&](Value r, Value k) { return placeOf(stage, r, k, /*isWeight=*/false); };
  if (!hasChunks()) {
    forItems(tiling.rows * tiling.depth, [&](Value i) {
      Value r = b.div(i, tiling.depth), k = b.mod(i, tiling.depth), column = b.add(k0, k);
      Value exists = b.both(b.less(r, numRows), isInside(column, p.k, tiling.depth));
      Value element = b.branch(
          exists,
          [&] {
            Value v = b.loadF32(p.source, {sourceOf(r), column});
            return p.scales ? b.mulf(v, b.load(p.scales, b.add(firstRow, r))) : v;
          },
          [&] { return b.f32(0.0); });
      b.store(toType(element), memory, place(r, k));
    });
    return;
  }
  int64_t perRow = tiling.depth / kChunk;
  forItems(tiling.rows * perRow, [&](Value i) {
    Value r = b.div(i, perRow), k = b.mul(b.mod(i, perRow), kChunk), column = b.add(k0, k);
    Value exists = b.both(b.less(r, numRows), isInside(column, p.k, tiling.depth));
    Value clamped = b.select(exists, column, b.index(0));
    if (copiesRows(p) && !type.isF32())
      return copyAsync(p.source, {sourceOf(r), clamped}, memory, place(r, k), exists);
    Value chunk = b.branch(
        exists, [&] { return loadRowChunk(sourceOf(r), r, clamped); }, [&] { return zeroChunk(); });
    storeChunk(chunk, memory, place(r, k));
  });
}

/// The column of the result that tile column `c` is for, and, with a gate, whether it is the
/// linear part.
std::pair<Value, Value> TileKernel::columnOf(Value c) {
  if (!isGated())
    return {b.add(firstColumn, c), Value()};
  int64_t group = groupColumns(), half = group / 2;
  Value pair = b.add(b.mul(b.div(c, group), half), b.mod(c, half));
  Value isLinear = b.less(b.index(half - 1), b.mod(c, group));
  return {b.add(firstColumn, pair), isLinear};
}

std::pair<const Bank *, Value> TileKernel::partOf(Value column, int64_t part) {
  Glu glu = isGated() ? p.activation.getGlu() : Glu::None;
  switch (glu) {
  case Glu::Interleaved:
    return {&p.weight, b.add(b.mul(column, 2), part)};
  case Glu::Concat:
    return {&p.weight, b.add(column, part * p.n)};
  case Glu::Separate:
    return {part ? &p.weight : &p.gate, column};
  case Glu::None:
    return {&p.weight, column};
  }
  llvm_unreachable("unknown glu");
}

template <typename T>
SmallVector<T> TileKernel::ofColumn(Value c,
                                    function_ref<SmallVector<T>(const Bank &, Value, Value)> body) {
  auto [column, isLinear] = columnOf(c);
  Value exists = isInside(column, p.n, outColumns());
  Value safe = b.select(exists, column, b.index(0));
  if (!isLinear)
    return body(p.weight, safe, exists);
  std::pair<const Bank *, Value> gate = partOf(safe, 0), linear = partOf(safe, 1);
  if (gate.first == linear.first)
    return body(*gate.first, b.select(isLinear, linear.second, gate.second), exists);
  return b.branch(
      isLinear, [&] { return body(*linear.first, safe, exists); },
      [&] { return body(*gate.first, safe, exists); });
}

/// `at` of the expert, or of the only one.
SmallVector<Value> TileKernel::placeIn(Value memref, ValueRange at) {
  SmallVector<Value> place(at);
  if (typeOf(memref).getRank() > int64_t(at.size()))
    place.insert(place.begin(), expert);
  return place;
}

/// Of a byte of codes.
static Value toI32(GPUBuilder &b, Value byte) {
  if (byte.getType().isUnsignedInteger())
    byte = UnrealizedConversionCastOp::create(b, b.getLoc(), b.getI8Type(), byte).getResult(0);
  return arith::ExtUIOp::create(b, b.getLoc(), b.getI32Type(), byte);
}

/// Code number `number` along the last dimension, as f32.
Value TileKernel::loadCode(Value codes, ValueRange at, Value number, int64_t bits) {
  int64_t perByte = 8 / bits;
  SmallVector<Value> place(at);
  place.push_back(b.div(number, perByte));
  Value byte = toI32(b, b.load(codes, place));
  if (bits < 8) {
    Value shift = b.mul(b.toI32(b.mod(number, perByte)), b.i32(bits));
    byte = b.both(arith::ShRUIOp::create(b, b.getLoc(), byte, shift), b.i32((1 << bits) - 1));
  }
  return arith::UIToFPOp::create(b, b.getLoc(), b.getF32Type(), byte);
}

/// Scale and zero point of element (row, k).
std::pair<Value, Value> TileKernel::loadScale(const Bank &bank, Value row, Value k) {
  bool rowWise = bank.block == p.k && typeOf(bank.scales).getRank() == 2;
  Value block = b.div(k, bank.block);
  Value scale = rowWise ? b.loadF32(bank.scales, {expert, row})
                        : b.loadF32(bank.scales, {expert, row, block});
  Value zero = b.f32(double(1 << (bank.bits - 1)));
  if (bank.zeroPoints)
    zero = rowWise ? loadCode(bank.zeroPoints, expert, row, bank.bits)
                   : loadCode(bank.zeroPoints, {expert, row}, block, bank.bits);
  return {scale, zero};
}

Value TileKernel::loadWeight(const Bank &bank, Value row, Value k) {
  if (!bank.bits) {
    SmallVector<Value> at = {row, k};
    if (p.layout == Layout::InOut)
      std::swap(at[0], at[1]);
    return b.loadF32(bank.values, placeIn(bank.values, at));
  }
  auto [scale, zero] = loadScale(bank, row, k);
  return b.mulf(b.subf(loadCode(bank.values, {expert, row}, k, bank.bits), zero), scale);
}

Value TileKernel::loadWeightChunk(const Bank &bank, Value row, Value k) {
  if (!bank.bits)
    return b.toF32(loadChunk(b, bank.values, placeIn(bank.values, {row, k})));
  auto [scale, zero] = loadScale(bank, row, k);
  int64_t perByte = 8 / bank.bits;
  Value mask = b.i32((1 << bank.bits) - 1);
  // As many bytes as a code has bits.
  auto bytesType = VectorType::get(bank.bits, typeOf(bank.values).getElementType());
  Value bytes = vector::LoadOp::create(b, b.getLoc(), bytesType, bank.values,
                                       ValueRange{expert, row, b.div(k, perByte)},
                                       /*nontemporal=*/false, llvm::MaybeAlign(bank.bits));
  SmallVector<Value> elements;
  for (int64_t byte = 0; byte < bank.bits; ++byte) {
    Value word = toI32(b, vector::ExtractOp::create(b, b.getLoc(), bytes, byte));
    for (int64_t i = 0; i < perByte; ++i) {
      Value code = arith::ShRUIOp::create(b, b.getLoc(), word, b.i32(i * bank.bits));
      code = arith::UIToFPOp::create(b, b.getLoc(), b.getF32Type(), b.both(code, mask));
      elements.push_back(b.mulf(b.subf(code, zero), scale));
    }
  }
  return vector::FromElementsOp::create(b, b.getLoc(), chunkOf(b.getF32Type()), elements);
}

void TileKernel::fillWeights(Value memory, Value stage, Value k0) {
  auto place = [&](Value c, Value k) { return placeOf(stage, c, k, /*isWeight=*/true); };
  bool isInOut = p.layout == Layout::InOut && !p.weight.bits;
  if (!hasChunks() || isInOut) {
    forItems(tiling.columns * tiling.depth, [&](Value i) {
      // Neighbours in memory are read by neighbours.
      Value c = isInOut ? b.mod(i, tiling.columns) : b.div(i, tiling.depth);
      Value k = isInOut ? b.div(i, tiling.columns) : b.mod(i, tiling.depth);
      Value column = b.add(k0, k), inside = isInside(column, p.k, tiling.depth);
      Value element = ofColumn<Value>(c, [&](const Bank &bank, Value row, Value exists) {
        return SmallVector<Value>{b.branch(
            b.both(exists, inside), [&] { return loadWeight(bank, row, column); },
            [&] { return b.f32(0.0); })};
      })[0];
      b.store(toType(element), memory, place(c, k));
    });
    return;
  }
  int64_t perRow = tiling.depth / kChunk;
  forItems(tiling.columns * perRow, [&](Value i) {
    Value c = b.div(i, perRow), k = b.mul(b.mod(i, perRow), kChunk), column = b.add(k0, k);
    Value inside = isInside(column, p.k, tiling.depth);
    Value clamped = b.select(inside, column, b.index(0));
    if (copiesWeights(p) && !type.isF32()) {
      ofColumn<Value>(c, [&](const Bank &bank, Value row, Value exists) {
        copyAsync(bank.values, placeIn(bank.values, {row, clamped}), memory, place(c, k),
                  b.both(exists, inside));
        return SmallVector<Value>();
      });
      return;
    }
    Value chunk = ofColumn<Value>(c, [&](const Bank &bank, Value row, Value exists) {
      return SmallVector<Value>{b.branch(
          b.both(exists, inside), [&] { return loadWeightChunk(bank, row, clamped); },
          [&] { return zeroChunk(); })};
    })[0];
    storeChunk(chunk, memory, place(c, k));
  });
}

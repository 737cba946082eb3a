// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "IntegerProduct.h"
#include "TileProduct.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

/// Columns of K that one dot product takes: the bytes of a lane.
static constexpr int64_t kQuad = 4;

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

/// One lane of 32 bits at a byte of `memory`.
static void storeWord(KernelBuilder &b, Value word, Value memory, Value byte) {
  Value vector = vector::FromElementsOp::create(b, b.getLoc(), VectorType::get({1}, word.getType()),
                                                ValueRange{word});
  vector::StoreOp::create(b, b.getLoc(), b.bitcast(vector, b.getI8Type()), memory, byte);
}

static Value loadWord(KernelBuilder &b, Value memory, Value byte, Type type) {
  auto bytes = VectorType::get({kQuad}, b.getI8Type());
  Value vector = vector::LoadOp::create(b, b.getLoc(), bytes, memory, byte);
  return vector::ExtractOp::create(b, b.getLoc(), b.bitcast(vector, type), 0);
}

namespace {
/// The rounding of a block of columns with one scale.
struct BlockRounding {
  KernelBuilder &b;
  const RowSource &source;
  Value packed, start; ///< the row
  IntegerRow row;
  Value number; ///< of the block

  void emit();

private:
  int64_t columns() { return std::min(row.block, row.columns); }
  Value firstColumn() { return b.mul(number, columns()); }
  Value load(Value k, int64_t count);
  Value emitLargest();
  void storeCodes(Value inverse);
  void storeRange(Value range, Value scale);
};
} // namespace

Value BlockRounding::load(Value k, int64_t count) {
  Value values = b.loadVectorPart(source.x, {source.row, b.add(firstColumn(), k)}, count, 0.0);
  return source.scale ? b.mulf(values, b.splat(source.scale)) : values;
}

/// The largest |x|. Bits of positive floats are in their order, and those of NaN are the largest.
Value BlockRounding::emitLargest() {
  Value largest =
      b.foldVectors(columns(), b.splatI32(0), [&](Value k, int64_t count, Value carried) -> Value {
        Value bits = arith::AndIOp::create(b, b.getLoc(), b.bitcast(load(k, count), b.getI32Type()),
                                           b.splatI32(INT32_MAX));
        return arith::MaxSIOp::create(b, b.getLoc(), carried, bits);
      });
  Value bits = emitReduction(b, vector::CombiningKind::MAXSI, largest);
  return arith::BitcastOp::create(b, b.getLoc(), b.getF32Type(), bits);
}

void BlockRounding::storeCodes(Value inverse) {
  auto codes = b.vectorType(b.getI8Type());
  b.forVectors(columns(), [&](Value k, int64_t count) {
    Value v = b.mulf(load(k, count), b.splat(inverse));
    v = math::RoundEvenOp::create(b, b.getLoc(), v);
    // Tiny blocks have an infinite inverse; the integer of a NaN is any.
    v = arith::MinNumFOp::create(b, b.getLoc(), b.maxNumber(v, b.splat(-127.0)), b.splat(127.0));
    v = arith::FPToSIOp::create(b, b.getLoc(), b.vectorType(b.getI32Type()), v);
    v = arith::TruncIOp::create(b, b.getLoc(), codes, v);
    vector::StoreOp::create(b, b.getLoc(), v, packed, b.add(start, b.add(firstColumn(), k)));
  });
}

/// The scale and the negative sum of a range.
void BlockRounding::storeRange(Value range, Value scale) {
  int64_t lanes = b.target.lanes, size = row.rangeColumns();
  Value first = b.mul(range, size);
  Value end = b.min(b.add(first, size), b.index(llvm::alignTo(row.columns, lanes)));
  Value sum = b.forLoop(first, end, b.index(lanes), b.splatI32(0),
                        [&](Value k, ValueRange carried) -> SmallVector<Value> {
                          Value codes = vector::LoadOp::create(
                              b, b.getLoc(), b.vectorType(b.getI8Type()), packed, b.add(start, k));
                          Value wide = arith::ExtSIOp::create(b, b.getLoc(),
                                                              b.vectorType(b.getI32Type()), codes);
                          return {b.add(carried[0], wide)};
                        })[0];
  Value negative = b.sub(b.i32(0), emitReduction(b, vector::CombiningKind::ADD, sum));
  Value offset = b.add(start, b.mul(range, kQuad));
  storeWord(b, scale, packed, b.add(offset, row.scalesAt()));
  storeWord(b, negative, packed, b.add(offset, row.sumsAt()));
}

void BlockRounding::emit() {
  Value largest = emitLargest();
  Value isPositive = b.compare(arith::CmpFPredicate::OGT, largest, b.f32(0.0));
  storeCodes(b.select(isPositive, b.divf(b.f32(127.0), largest), b.f32(0.0)));
  Value scale = b.divf(largest, b.f32(127.0));
  int64_t ranges = llvm::divideCeil(columns(), row.rangeColumns());
  Value firstRange = b.mul(number, ranges);
  b.forLoop(b.index(ranges), [&](Value i) { storeRange(b.add(firstRange, i), scale); });
}

void mlir::moe::cpu::emitIntegerRow(KernelBuilder &b, const RowSource &source, Value packed,
                                    Value start, IntegerRow row) {
  int64_t blocks = llvm::divideCeil(row.columns, row.block);
  b.forLoop(b.index(blocks),
            [&](Value number) { BlockRounding{b, source, packed, start, row, number}.emit(); });
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

bool mlir::moe::cpu::multipliesIntegers(const PackedWeight &weight) {
  return weight.bits && (weight.block == weight.k || weight.block % 16 == 0);
}

namespace {
struct IntegerProduct {
  KernelBuilder &b;
  const PackedWeight &weight;
  const IntegerOperands &op;
  IntegerRow row = {weight.k, weight.block};

  SmallVector<Value> emit();

private:
  int64_t vectors() { return b.target.panelVectors(); }
  VectorType quadType() { return VectorType::get({kQuad * b.target.lanes}, b.getI8Type()); }
  Value bytes(Value value) { return b.bitcast(value, b.getI8Type()); }
  Value words(Value value) { return b.bitcast(value, b.getI16Type()); }
  Value splatI16(int64_t value);
  Value call(StringRef name, ValueRange operands);

  Value pairsOfProducts(Value a, Value w);
  Value dot(Value sum, Value codes, Value integers);
  Value loadSteps(Value k, int64_t steps, bool mayEnd);
  Value shuffle(Value from, ArrayRef<int64_t> order);
  SmallVector<Value> codes(Value k, bool mayEnd);
  SmallVector<Value> begin(Value range, Value block);
  void step(Value k, bool mayEnd, MutableArrayRef<Value> sums);
  void addDots(ArrayRef<Value> panel, Value at, MutableArrayRef<Value> sums);
  bool usesTiles() { return b.target.tiles != Tiles::None && op.rows % kTileRows == 0; }
  /// Columns of K of a step by tiles: those of one scale at most.
  int64_t tileColumns() { return std::min(row.rangeColumns(), kQuad * kTileRows); }
  SmallVector<Value> tileSums(Value first, int64_t columns);
  SmallVector<Value> addRange(Value range, int64_t columns, ValueRange totals);
};
} // namespace

Value IntegerProduct::splatI16(int64_t value) {
  auto type = VectorType::get({2 * b.target.lanes}, b.getI16Type());
  return arith::ConstantOp::create(
      b, b.getLoc(), DenseElementsAttr::get(type, b.getI16IntegerAttr(int16_t(value))));
}

/// An intrinsic that gives a vector of i32.
Value IntegerProduct::call(StringRef name, ValueRange operands) {
  return LLVM::CallIntrinsicOp::create(b, b.getLoc(), Type(b.vectorType(b.getI32Type())),
                                       b.getStringAttr(name), operands)
      .getResults();
}

/// In each lane the sum of two products of signed 16-bit integers.
Value IntegerProduct::pairsOfProducts(Value a, Value w) {
  StringRef name = b.target.lanes == 16  ? "llvm.x86.avx512.pmaddw.d.512"
                   : b.target.lanes == 8 ? "llvm.x86.avx2.pmadd.wd"
                                         : "llvm.x86.sse2.pmadd.wd";
  return call(name, {words(a), words(w)});
}

/// sum + the products of the four unsigned and the four signed bytes of each lane, exactly.
Value IntegerProduct::dot(Value sum, Value codes, Value integers) {
  if (b.target.hasVNNI) {
    std::string name = "llvm.x86.avx512.vpdpbusd." + std::to_string(32 * b.target.lanes);
    return call(name, {sum, codes, bytes(integers)});
  }
  // Even and odd bytes, widened; vpmaddubsw would saturate.
  Value w = words(codes), a = words(integers), eight = splatI16(8);
  Value evenW = arith::AndIOp::create(b, b.getLoc(), w, splatI16(0xff));
  Value oddW = arith::ShRUIOp::create(b, b.getLoc(), w, eight);
  Value shifted = arith::ShLIOp::create(b, b.getLoc(), a, eight);
  Value evenA = arith::ShRSIOp::create(b, b.getLoc(), shifted, eight);
  Value oddA = arith::ShRSIOp::create(b, b.getLoc(), a, eight);
  return b.add(b.add(sum, pairsOfProducts(evenA, evenW)), pairsOfProducts(oddA, oddW));
}

Value IntegerProduct::shuffle(Value from, ArrayRef<int64_t> order) {
  return vector::ShuffleOp::create(b, b.getLoc(), from, from, order);
}

/// `steps` rows of the panel from row `k / rowsPerStep()` on, one after the other. Those behind the
/// last row, which zeros are multiplied with, repeat it.
Value IntegerProduct::loadSteps(Value k, int64_t steps, bool mayEnd) {
  int64_t width = cast<MemRefType>(weight.panels.getType()).getDimSize(3);
  Value first = b.shiftRight(k, weight.rowsPerStep() / 2);
  auto load = [&](Value row, int64_t count) -> Value {
    auto type = VectorType::get({count * width}, b.getI8Type());
    return vector::LoadOp::create(b, b.getLoc(), type, weight.panels,
                                  ValueRange{op.expert, op.panel, row, b.index(0)});
  };
  if (!mayEnd)
    return load(first, steps);
  auto type = VectorType::get({steps * width}, b.getI8Type());
  Value all = arith::ConstantOp::create(b, b.getLoc(), cast<TypedAttr>(b.getZeroAttr(type)));
  for (int64_t i = 0; i < steps; ++i) {
    Value row = load(b.min(b.add(first, i), b.index(weight.k / weight.rowsPerStep() - 1)), 1);
    all = vector::InsertStridedSliceOp::create(b, b.getLoc(), row, all, {i * width}, {1});
  }
  return all;
}

/// The codes of four rows of K from row k on: bytes 4c … 4c + 3 of a vector are those of its
/// column c.
SmallVector<Value> IntegerProduct::codes(Value k, bool mayEnd) {
  int64_t lanes = b.target.lanes, steps = kQuad / weight.rowsPerStep();
  int64_t width = weight.bits == 8 ? kPanelWidth : kPanelWidth / 2;
  Value rows = loadSteps(k, steps, mayEnd);
  SmallVector<Value> result;
  for (int64_t first = 0; first < width; first += lanes) {
    SmallVector<int64_t> order;
    for (int64_t column = first; column < first + lanes; ++column)
      for (int64_t i = 0; i < kQuad; ++i)
        order.push_back(i * steps / kQuad * width + column);
    result.push_back(shuffle(rows, order));
  }
  if (weight.bits == 8)
    return result;
  // The other columns are in other bits of the same bytes.
  size_t half = result.size();
  for (size_t v = 0; v < half; ++v) {
    Value all = words(result[v]);
    auto field = [&](int64_t bit, int64_t mask) -> Value {
      Value moved = arith::ShRUIOp::create(b, b.getLoc(), all, splatI16(bit));
      return arith::AndIOp::create(b, b.getLoc(), moved, splatI16(mask));
    };
    if (weight.bits == 4) {
      result[v] = bytes(field(0, 0x0f0f));
      result.push_back(bytes(field(4, 0x0f0f)));
      continue;
    }
    // Of two bits: the second of two rows is in the upper half of the byte.
    auto both = [&](int64_t bit) -> Value {
      return bytes(arith::OrIOp::create(b, b.getLoc(), field(bit, 0x0003), field(bit + 4, 0x0300)));
    };
    result[v] = both(0);
    result.push_back(both(2));
  }
  return result;
}

/// What sums of integers begin with: the zero points times the negative sum of the row.
SmallVector<Value> IntegerProduct::begin(Value range, Value block) {
  SmallVector<Value> zeroPoints, sums;
  for (int64_t v = 0; weight.zeroPoints && v < vectors(); ++v) {
    Value codes =
        vector::LoadOp::create(b, b.getLoc(), b.vectorType(b.getI8Type()), weight.zeroPoints,
                               ValueRange{op.expert, op.panel, block, b.index(v * b.target.lanes)});
    zeroPoints.push_back(
        arith::ExtUIOp::create(b, b.getLoc(), b.vectorType(b.getI32Type()), codes));
  }
  Value at = b.add(b.add(op.aBase, row.sumsAt()), b.mul(range, kQuad));
  for (int64_t r = 0; r < op.rows; ++r) {
    Value sum = loadWord(b, op.a, b.add(at, r * op.stride), b.getI32Type());
    if (zeroPoints.empty())
      sum = arith::ShLIOp::create(b, b.getLoc(), sum, b.i32(weight.bits - 1));
    for (int64_t v = 0; v < vectors(); ++v)
      // 127 · 256 fits into 16 bits.
      sums.push_back(zeroPoints.empty() ? b.splat(sum)
                                        : pairsOfProducts(b.splat(sum), zeroPoints[v]));
  }
  return sums;
}

/// Adds four rows of K to the sums.
void IntegerProduct::step(Value k, bool mayEnd, MutableArrayRef<Value> sums) {
  addDots(codes(k, mayEnd), b.add(op.aBase, k), sums);
}

/// The same with the codes in `panel`, and the integers of row 0 from byte `at` on.
void IntegerProduct::addDots(ArrayRef<Value> panel, Value at, MutableArrayRef<Value> sums) {
  for (int64_t r = 0; r < op.rows; ++r) {
    Value integers = b.splat(loadWord(b, op.a, b.add(at, r * op.stride), b.getI32Type()));
    for (int64_t v = 0; v < vectors(); ++v) {
      Value &sum = sums[r * vectors() + v];
      sum = dot(sum, panel[v], integers);
    }
  }
}

/// By tiles: the sums of the integers of `columns` columns from `first` on, a multiple of
/// tileColumns(); their codes are put side by side in a part of the stack.
SmallVector<Value> IntegerProduct::tileSums(Value first, int64_t columns) {
  bool isAMX = b.target.tiles == Tiles::AMX;
  // What a shorter step leaves of it stays zero.
  auto type = MemRefType::get({kTileRows, kQuad * kPanelWidth}, b.getI8Type());
  Value memory = memref::AllocaOp::create(b, b.getLoc(), type, b.getI64IntegerAttr(64));
  auto store = [&](Value vector, Value quad, int64_t v) {
    vector::StoreOp::create(b, b.getLoc(), vector, memory,
                            ValueRange{quad, b.index(v * kQuad * b.target.lanes)});
  };
  int64_t quads = tileColumns() / kQuad;
  Value zero = arith::ConstantOp::create(b, b.getLoc(), cast<TypedAttr>(b.getZeroAttr(quadType())));
  for (int64_t quad = quads; quad < kTileRows; ++quad)
    for (int64_t v = 0; v < vectors(); ++v)
      store(zero, b.index(quad), v);
  SmallVector<Value> init =
      isAMX ? emitIntegerTiles(b, op.rows) : SmallVector<Value>(op.rows * vectors(), b.splatI32(0));
  SmallVector<Value> sums = b.forLoop(
      b.index(0), b.index(columns), b.index(tileColumns()), init, [&](Value k, ValueRange carried) {
        Value begin = b.add(first, k), at = b.add(op.aBase, begin);
        b.forLoop(b.index(quads), [&](Value quad) {
          for (auto [v, vector] : llvm::enumerate(codes(b.add(begin, b.mul(quad, kQuad)), false)))
            store(vector, quad, v);
        });
        if (isAMX)
          return emitIntegerTileStep(b, op.a, at, op.stride, op.rows, memory, carried);
        return b.forLoop(b.index(0), b.index(kTileRows), b.index(1), carried,
                         [&](Value quad, ValueRange carried) {
                           SmallVector<Value> sums(carried), panel;
                           for (int64_t v = 0; v < vectors(); ++v)
                             panel.push_back(vector::LoadOp::create(
                                 b, b.getLoc(), quadType(), memory,
                                 ValueRange{quad, b.index(v * kQuad * b.target.lanes)}));
                           addDots(panel, b.add(at, b.mul(quad, kQuad)), sums);
                           return sums;
                         });
      });
  return isAMX ? emitIntegerTileVectors(b, op.rows, sums) : sums;
}

/// totals + the products of a range of `columns` columns.
SmallVector<Value> IntegerProduct::addRange(Value range, int64_t columns, ValueRange totals) {
  Value first = b.mul(range, row.rangeColumns());
  Value block = arith::DivUIOp::create(b, b.getLoc(), first, b.index(weight.block));
  // Weights are asked for ahead, in the order of the panel.
  int64_t rowBytes = kPanelWidth * weight.bits / 8, perStep = weight.rowsPerStep();
  Value ahead = b.add(first, b.target.prefetchBytes() / rowBytes);
  emitPrefetch(b, weight.scales, op.expert, op.panel,
               arith::DivUIOp::create(b, b.getLoc(), ahead, b.index(weight.block)), 1);
  int64_t whole = llvm::alignDown(columns, kQuad), tiled = 0;
  SmallVector<Value> sums = begin(range, block);
  if (usesTiles() && tileColumns() % 16 == 0) {
    tiled = llvm::alignDown(columns, tileColumns());
    for (auto [sum, more] : llvm::zip_equal(sums, tileSums(first, tiled)))
      sum = b.add(sum, more);
  }
  sums = b.forLoop(b.index(tiled), b.index(whole), b.index(kQuad), sums,
                   [&](Value k, ValueRange carried) {
                     SmallVector<Value> sums(carried);
                     emitPrefetch(b, weight.panels, op.expert, op.panel,
                                  b.shiftRight(b.add(ahead, k), perStep / 2), kQuad / perStep);
                     step(b.add(first, k), /*mayEnd=*/false, sums);
                     return sums;
                   });
  if (whole < columns)
    step(b.add(first, whole), /*mayEnd=*/true, sums);

  SmallVector<Value> scales, results;
  for (int64_t v = 0; v < vectors(); ++v)
    scales.push_back(
        b.loadVector(weight.scales, {op.expert, op.panel, block, b.index(v * b.target.lanes)}));
  Value at = b.add(b.add(op.aBase, row.scalesAt()), b.mul(range, kQuad));
  for (int64_t r = 0; r < op.rows; ++r) {
    Value ofRow = b.splat(loadWord(b, op.a, b.add(at, r * op.stride), b.getF32Type()));
    for (int64_t v = 0; v < vectors(); ++v) {
      int64_t i = r * vectors() + v;
      Value sum = arith::SIToFPOp::create(b, b.getLoc(), b.vectorType(), sums[i]);
      results.push_back(b.fma(sum, b.mulf(scales[v], ofRow), totals[i]));
    }
  }
  return results;
}

SmallVector<Value> IntegerProduct::emit() {
  int64_t whole = weight.k / row.rangeColumns(), rest = weight.k % row.rangeColumns();
  SmallVector<Value> totals(op.rows * vectors(), b.splat(0.0));
  if (whole > 0)
    totals = b.forLoop(b.index(0), b.index(whole), b.index(1), totals,
                       [&](Value range, ValueRange carried) {
                         return addRange(range, row.rangeColumns(), carried);
                       });
  return rest ? addRange(b.index(whole), rest, totals) : totals;
}

SmallVector<Value> mlir::moe::cpu::emitIntegerProduct(KernelBuilder &b, const PackedWeight &weight,
                                                      const IntegerOperands &operands) {
  return IntegerProduct{b, weight, operands}.emit();
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products of rows with the weights of their experts.
//
// A block of threads makes tiles of `rows` x `columns` sums: slices of both operands go to shared
// memory, weights dequantized on the way. With a gate, the columns that a warp makes are gate
// columns in their first half and the linear columns that belong to them in the second.

#include "../MoEToCPU/Kernels.h"
#include "Kernels.h"

#include "mlir/Dialect/NVGPU/IR/NVGPUDialect.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/xxhash.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

/// Elements along K that are moved at once.
static constexpr int64_t kChunk = 8;

//===----------------------------------------------------------------------===//
// Operands
//===----------------------------------------------------------------------===//

static MemRefType typeOf(Value memref) { return cast<MemRefType>(memref.getType()); }

SmallVector<Value> Bank::operands() const {
  SmallVector<Value> present;
  llvm::copy_if(ArrayRef{values, scales, zeroPoints}, std::back_inserter(present),
                [](Value v) { return bool(v); });
  return present;
}

Bank Bank::withArguments(Block::BlockArgListType &arguments) const {
  Bank result = *this;
  for (Value *value : {&result.values, &result.scales, &result.zeroPoints})
    if (*value)
      *value = arguments.consume_front();
  return result;
}

static SmallVector<Value> operandsOf(const Product &product) {
  SmallVector<Value> operands;
  auto add = [&](Value value) {
    if (value)
      operands.push_back(value);
  };
  for (Value value :
       {product.source, product.rowOfSource, product.scales, product.out, product.blocks,
        product.tiles, product.counts, product.bias, product.gateBias})
    add(value);
  for (const Bank *bank : {&product.weight, &product.gate})
    llvm::append_range(operands, bank->operands());
  return operands;
}

static Product withArguments(Product product, Block::BlockArgListType arguments) {
  for (Value *value :
       {&product.source, &product.rowOfSource, &product.scales, &product.out, &product.blocks,
        &product.tiles, &product.counts, &product.bias, &product.gateBias})
    if (*value)
      *value = arguments.consume_front();
  product.weight = product.weight.withArguments(arguments);
  product.gate = product.gate.withArguments(arguments);
  return product;
}

Type mlir::moe::cuda::productType(const Product &product) {
  Type rows = typeOf(product.source).getElementType();
  bool isHalf = rows.isF16() || rows.isBF16();
  auto fits = [&](const Bank &bank) {
    return !bank.values || bank.bits || typeOf(bank.values).getElementType() == rows;
  };
  if (isHalf && fits(product.weight) && fits(product.gate))
    return rows;
  return Float32Type::get(rows.getContext());
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

namespace {

/// How a block of threads shares its work.
struct Tiling {
  int64_t rows, columns, depth; ///< of a tile; depth along K
  int64_t threads;
  int64_t stages;     ///< slices in shared memory
  int64_t warpsAlong; ///< rows of warps; tensor cores only
};

/// What all kinds of products share: finding tiles, filling shared memory, storing results.
class TileKernel {
public:
  TileKernel(GPUBuilder &b, const Product &p, const Tiling &tiling, int64_t kind)
      : b(b), p(p), tiling(tiling), kind(kind), type(productType(p)) {}
  virtual ~TileKernel() = default;

  void emit();

protected:
  /// The sums of a tile to their place.
  virtual void product() = 0;
  virtual void allocate() = 0;
  /// Columns of a tile that have their gates and linear parts among themselves.
  virtual int64_t groupColumns() = 0;

  bool isGated() { return p.activation && p.activation.getGlu() != Glu::None; }
  int64_t outColumns() { return isGated() ? tiling.columns / 2 : tiling.columns; }
  int64_t numSlices() { return llvm::divideCeil(p.k, tiling.depth); }
  /// Whether all chunks of 8 along K are whole and aligned.
  bool hasChunks() { return p.k % kChunk == 0; }

  void fillRows(Value memory, Value stage, Value k0);
  void fillWeights(Value memory, Value stage, Value k0);
  /// Result (r, column) of the tile, if both exist.
  void storeResult(Value r, Value column, Value sum, Value linear);

  GPUBuilder &b;
  Product p;
  Tiling tiling;
  int64_t kind;
  Type type;

private:
  void findTile(Value number);
  void forItems(int64_t count, function_ref<void(Value)> body);
  void storeChunk(Value chunk, Value memory, ValueRange at);
  void storeElement(Value element, Value memory, ValueRange at);
  Value toType(Value value);
  bool copiesRows() { return !p.scales && typeOf(p.source).getElementType() == type; }
  bool copiesWeights() {
    return p.layout == Layout::OutIn && !p.weight.bits &&
           typeOf(p.weight.values).getElementType() == type;
  }
  void copyAsync(Value from, ValueRange fromAt, Value to, ValueRange toAt, Value exists);
  /// Runs `body(bank, row, exists)` for the row of weights of column `c` of the tile.
  template <typename T>
  SmallVector<T> ofColumn(Value c, function_ref<SmallVector<T>(const Bank &, Value, Value)> body);
  std::pair<Value, Value> columnOf(Value c);
  SmallVector<Value> placeIn(Value memref, ValueRange at);
  Value loadWeight(const Bank &bank, Value row, Value k);
  Value loadWeightChunk(const Bank &bank, Value row, Value k);
  Value loadCode(Value codes, ValueRange at, Value number, int64_t bits);
  Value loadByte(Value codes, ValueRange at);
  std::pair<Value, Value> loadScale(const Bank &bank, Value row, Value k);
  Value loadBias(Value bias, Value row);

  Value rowIndex; ///< i32 [rows] in shared memory: rows of the source
  Value firstRow, numRows, expert, firstColumn;

protected:
  Value thread() { return b.thread(); }
};

} // namespace

/// body(i) for i < count, as many in turn as a thread gets.
void TileKernel::forItems(int64_t count, function_ref<void(Value)> body) {
  int64_t whole = count / tiling.threads;
  for (int64_t i = 0; i < whole; ++i)
    body(b.add(thread(), i * tiling.threads));
  if (count % tiling.threads == 0)
    return;
  Value last = b.add(thread(), whole * tiling.threads);
  b.ifThen(b.less(last, b.index(count)), [&] { body(last); });
}

void TileKernel::findTile(Value number) {
  int64_t columnTiles = llvm::divideCeil(p.n, outColumns());
  Value t = b.div(number, columnTiles);
  firstColumn = b.mul(b.mod(number, columnTiles), outColumns());
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
  // The tile before is done with the memory.
  b.barrier();
  forItems(tiling.rows, [&](Value r) {
    Value row = b.add(firstRow, r);
    Value index = b.branch(
        b.less(r, numRows),
        [&] { return p.rowOfSource ? b.load(p.rowOfSource, row) : b.toI32(row); },
        [&] { return b.i32(0); });
    b.store(index, rowIndex, r);
  });
  b.barrier();
}

void TileKernel::emit() {
  rowIndex = b.shared(tiling.rows, b.getI32Type());
  allocate();
  Value blocks = p.blocks ? b.loadIndex(p.counts, b.index(2 + kind))
                          : b.ceilDiv(b.dim(p.source, 0), tiling.rows);
  Value tiles = b.mul(blocks, llvm::divideCeil(p.n, outColumns()));
  b.forLoop(b.block(), tiles, b.numBlocks(), [&](Value number) {
    findTile(number);
    product();
  });
}

//===----------------------------------------------------------------------===//
// Loading
//===----------------------------------------------------------------------===//

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

void TileKernel::storeElement(Value element, Value memory, ValueRange at) {
  b.store(toType(element), memory, at);
}

void TileKernel::storeChunk(Value chunk, Value memory, ValueRange at) {
  chunk = toType(chunk);
  if (typeOf(memory).getShape().back() % kChunk == 0) {
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

void TileKernel::fillRows(Value memory, Value stage, Value k0) {
  auto sourceOf = [&](Value r) { return b.loadIndex(rowIndex, r); };
  auto place = [&](Value r, Value k) { return SmallVector<Value>{stage, r, k}; };
  if (!hasChunks()) {
    forItems(tiling.rows * tiling.depth, [&](Value i) {
      Value r = b.div(i, tiling.depth), k = b.mod(i, tiling.depth), column = b.add(k0, k);
      Value exists = b.both(b.less(r, numRows), b.less(column, b.index(p.k)));
      Value element = b.branch(
          exists,
          [&] {
            Value v = b.loadF32(p.source, {sourceOf(r), column});
            return p.scales ? b.mulf(v, b.load(p.scales, b.add(firstRow, r))) : v;
          },
          [&] { return b.f32(0.0); });
      storeElement(element, memory, place(r, k));
    });
    return;
  }
  int64_t perRow = tiling.depth / kChunk;
  forItems(tiling.rows * perRow, [&](Value i) {
    Value r = b.div(i, perRow), k = b.mul(b.mod(i, perRow), kChunk), column = b.add(k0, k);
    Value exists = b.both(b.less(r, numRows), b.less(column, b.index(p.k)));
    Value clamped = b.select(exists, column, b.index(0));
    if (copiesRows() && !type.isF32())
      return copyAsync(p.source, {sourceOf(r), clamped}, memory, place(r, k), exists);
    Value chunk = b.branch(
        exists,
        [&] {
          Value v = b.toF32(loadChunk(b, p.source, {sourceOf(r), clamped}));
          if (!p.scales)
            return v;
          Value scale = b.load(p.scales, b.add(firstRow, r));
          Value splat = vector::BroadcastOp::create(b, b.getLoc(), chunkOf(b.getF32Type()), scale);
          return b.mulf(v, splat);
        },
        [&] {
          return arith::ConstantOp::create(b, b.getLoc(), b.getZeroAttr(chunkOf(b.getF32Type())))
              .getResult();
        });
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

template <typename T>
SmallVector<T> TileKernel::ofColumn(Value c,
                                    function_ref<SmallVector<T>(const Bank &, Value, Value)> body) {
  auto [column, isLinear] = columnOf(c);
  Value exists = b.less(column, b.index(p.n));
  Value safe = b.select(exists, column, b.index(0));
  if (!isLinear)
    return body(p.weight, safe, exists);
  Value one = b.index(1), zero = b.index(0);
  Value part = b.select(isLinear, one, zero);
  switch (p.activation.getGlu()) {
  case Glu::Interleaved:
    return body(p.weight, b.add(b.mul(safe, 2), part), exists);
  case Glu::Concat:
    return body(p.weight, b.add(b.mul(part, p.n), safe), exists);
  default:
    return b.branch(
        isLinear, [&] { return body(p.weight, safe, exists); },
        [&] { return body(p.gate, safe, exists); });
  }
}

/// `at` of the expert, or of the only one.
SmallVector<Value> TileKernel::placeIn(Value memref, ValueRange at) {
  SmallVector<Value> place(at);
  if (typeOf(memref).getRank() > int64_t(at.size()))
    place.insert(place.begin(), expert);
  return place;
}

Value TileKernel::loadByte(Value codes, ValueRange at) {
  Value byte = b.load(codes, at);
  if (byte.getType().isUnsignedInteger())
    byte = UnrealizedConversionCastOp::create(b, b.getLoc(), b.getI8Type(), byte).getResult(0);
  return arith::ExtUIOp::create(b, b.getLoc(), b.getI32Type(), byte);
}

/// Code number `number` along the last dimension, as f32.
Value TileKernel::loadCode(Value codes, ValueRange at, Value number, int64_t bits) {
  int64_t perByte = 8 / bits;
  SmallVector<Value> place(at);
  place.push_back(b.div(number, perByte));
  Value byte = loadByte(codes, place);
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

/// 8 weights of a row from k on, as f32; blocks of codes are at least as long.
Value TileKernel::loadWeightChunk(const Bank &bank, Value row, Value k) {
  if (!bank.bits)
    return b.toF32(loadChunk(b, bank.values, placeIn(bank.values, {row, k})));
  auto [scale, zero] = loadScale(bank, row, k);
  int64_t perByte = 8 / bank.bits;
  Value mask = b.i32((1 << bank.bits) - 1);
  SmallVector<Value> elements;
  for (int64_t byte = 0; byte < bank.bits; ++byte) {
    Value word = loadByte(bank.values, {expert, row, b.add(b.div(k, perByte), byte)});
    for (int64_t i = 0; i < perByte; ++i) {
      Value code = arith::ShRUIOp::create(b, b.getLoc(), word, b.i32(i * bank.bits));
      code = arith::UIToFPOp::create(b, b.getLoc(), b.getF32Type(), b.both(code, mask));
      elements.push_back(b.mulf(b.subf(code, zero), scale));
    }
  }
  return vector::FromElementsOp::create(b, b.getLoc(), chunkOf(b.getF32Type()), elements);
}

void TileKernel::fillWeights(Value memory, Value stage, Value k0) {
  auto place = [&](Value c, Value k) { return SmallVector<Value>{stage, c, k}; };
  bool isInOut = p.layout == Layout::InOut && !p.weight.bits;
  if (!hasChunks() || isInOut) {
    forItems(tiling.columns * tiling.depth, [&](Value i) {
      // Neighbours in memory are read by neighbours.
      Value c = isInOut ? b.mod(i, tiling.columns) : b.div(i, tiling.depth);
      Value k = isInOut ? b.div(i, tiling.columns) : b.mod(i, tiling.depth);
      Value column = b.add(k0, k), inside = b.less(column, b.index(p.k));
      Value element = ofColumn<Value>(c, [&](const Bank &bank, Value row, Value exists) {
        return SmallVector<Value>{b.branch(
            b.both(exists, inside), [&] { return loadWeight(bank, row, column); },
            [&] { return b.f32(0.0); })};
      })[0];
      storeElement(element, memory, place(c, k));
    });
    return;
  }
  int64_t perRow = tiling.depth / kChunk;
  forItems(tiling.columns * perRow, [&](Value i) {
    Value c = b.div(i, perRow), k = b.mul(b.mod(i, perRow), kChunk), column = b.add(k0, k);
    Value inside = b.less(column, b.index(p.k));
    Value clamped = b.select(inside, column, b.index(0));
    if (copiesWeights() && !type.isF32()) {
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
          [&] {
            return arith::ConstantOp::create(b, b.getLoc(), b.getZeroAttr(chunkOf(b.getF32Type())))
                .getResult();
          })};
    })[0];
    storeChunk(chunk, memory, place(c, k));
  });
}

//===----------------------------------------------------------------------===//
// Storing
//===----------------------------------------------------------------------===//

Value TileKernel::loadBias(Value bias, Value row) { return b.loadF32(bias, placeIn(bias, row)); }

/// `sum` is the gate when there is one.
void TileKernel::storeResult(Value r, Value column, Value sum, Value linear) {
  Value at = b.add(firstColumn, column);
  b.ifThen(b.both(b.less(r, numRows), b.less(at, b.index(p.n))), [&] {
    Value gateRow = at, linearRow = at;
    if (linear && p.activation.getGlu() == Glu::Interleaved) {
      gateRow = b.mul(at, 2);
      linearRow = b.add(gateRow, 1);
    }
    if (linear && p.activation.getGlu() == Glu::Concat)
      linearRow = b.add(at, p.n);
    bool separate = linear && p.activation.getGlu() == Glu::Separate;
    Value gateBias = separate ? p.gateBias : p.bias;
    if (gateBias)
      sum = b.addf(sum, loadBias(gateBias, gateRow));
    if (linear && p.bias)
      linear = b.addf(linear, loadBias(p.bias, linearRow));
    if (p.activation)
      sum = cpu::emitActivation(b, p.activation, sum, linear);
    b.storeF32(sum, p.out, {b.add(firstRow, r), at});
  });
}

//===----------------------------------------------------------------------===//
// f32
//===----------------------------------------------------------------------===//

namespace {
/// Fused multiply-adds; a thread has every 16th column.
class FMAKernel : public TileKernel {
public:
  using TileKernel::TileKernel;

private:
  static constexpr int64_t kColumnThreads = 16;

  int64_t groupColumns() override { return tiling.columns; }
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
      storeResult(row(i), column(j), sums[i * columns + j],
                  isGated() ? sums[i * columns + results + j] : Value());
}

//===----------------------------------------------------------------------===//
// Tensor cores
//===----------------------------------------------------------------------===//

namespace {
/// mma.sync of 16 x 8 x 16. Where a lane's elements are is in the PTX ISA, "Matrix fragments
/// for mma.m16n8k16".
class MMAKernel : public TileKernel {
public:
  using TileKernel::TileKernel;

private:
  static constexpr int64_t kRows = 16, kColumns = 8, kDepth = 16;

  int64_t warpsAcross() { return tiling.threads / kLanes / tiling.warpsAlong; }
  int64_t warpRows() { return tiling.rows / tiling.warpsAlong; }
  int64_t warpColumns() { return tiling.columns / warpsAcross(); }
  int64_t groupColumns() override { return warpColumns(); }
  void allocate() override {
    // Eight rows begin in different banks, 16 bytes each.
    rows = b.shared({tiling.stages, tiling.rows, tiling.depth + kChunk}, type);
    weights = b.shared({tiling.stages, tiling.columns, tiling.depth + kChunk}, type);
  }
  void product() override;
  void fill(Value slice);
  SmallVector<Value> slice(Value stage, ValueRange sums);
  Value loadPair(Value memory, Value stage, Value row, Value k);
  void multiply(ArrayRef<Value> a, ArrayRef<Value> w, MutableArrayRef<Value> sums);
  void store(ValueRange sums);

  Value rows, weights;
  Value firstR, firstC, group, inGroup;
};
} // namespace

/// Starts the copies of slice `slice`, if there is one.
void MMAKernel::fill(Value slice) {
  b.ifThen(b.less(slice, b.index(numSlices())), [&] {
    Value stage = b.mod(slice, tiling.stages), k0 = b.mul(slice, tiling.depth);
    fillRows(rows, stage, k0);
    fillWeights(weights, stage, k0);
  });
  NVVM::CpAsyncCommitGroupOp::create(b, b.getLoc());
}

/// Two elements of a row, as mma takes them.
Value MMAKernel::loadPair(Value memory, Value stage, Value row, Value k) {
  Value pair =
      vector::LoadOp::create(b, b.getLoc(), VectorType::get(2, type), memory,
                             ValueRange{stage, row, k}, /*nontemporal=*/false, llvm::MaybeAlign(4));
  if (type.isF16())
    return pair;
  return LLVM::BitcastOp::create(b, b.getLoc(), b.getI32Type(), pair);
}

void MMAKernel::multiply(ArrayRef<Value> a, ArrayRef<Value> w, MutableArrayRef<Value> sums) {
  Type f32 = b.getF32Type();
  auto result = LLVM::LLVMStructType::getLiteral(b.getContext(), {f32, f32, f32, f32});
  auto element = type.isF16() ? NVVM::MMATypes::f16 : NVVM::MMATypes::bf16;
  auto op = NVVM::MmaOp::create(
      b, b.getLoc(), result, a, w, ValueRange(ArrayRef<Value>(sums)),
      ArrayRef<int64_t>{kRows, kColumns, kDepth}, /*b1Op=*/std::nullopt,
      /*intOverflow=*/std::nullopt, std::array<NVVM::MMATypes, 2>{element, element},
      std::array<NVVM::MMALayout, 2>{NVVM::MMALayout::row, NVVM::MMALayout::col});
  for (auto [i, sum] : llvm::enumerate(sums))
    sum = LLVM::ExtractValueOp::create(b, b.getLoc(), op, int64_t(i));
}

/// Adds the products of a slice in shared memory.
SmallVector<Value> MMAKernel::slice(Value stage, ValueRange before) {
  SmallVector<Value> sums(before);
  int64_t down = warpRows() / kRows, across = warpColumns() / kColumns;
  Value pair = b.mul(inGroup, 2);
  for (int64_t k0 = 0; k0 < tiling.depth; k0 += kDepth) {
    auto at = [&](int64_t k) { return b.add(pair, k0 + k); };
    SmallVector<SmallVector<Value>> a, w;
    for (int64_t i = 0; i < down; ++i) {
      auto row = [&](int64_t r) { return b.add(b.add(firstR, group), i * kRows + r); };
      a.push_back({loadPair(rows, stage, row(0), at(0)), loadPair(rows, stage, row(8), at(0)),
                   loadPair(rows, stage, row(0), at(8)), loadPair(rows, stage, row(8), at(8))});
    }
    for (int64_t j = 0; j < across; ++j) {
      Value column = b.add(b.add(firstC, group), j * kColumns);
      w.push_back(
          {loadPair(weights, stage, column, at(0)), loadPair(weights, stage, column, at(8))});
    }
    for (int64_t i = 0; i < down; ++i)
      for (int64_t j = 0; j < across; ++j)
        multiply(a[i], w[j], MutableArrayRef(sums).slice(4 * (i * across + j), 4));
  }
  return sums;
}

void MMAKernel::store(ValueRange sums) {
  int64_t down = warpRows() / kRows, across = warpColumns() / kColumns;
  int64_t results = isGated() ? across / 2 : across;
  Value first = isGated() ? b.div(firstC, 2) : firstC;
  for (int64_t i = 0; i < down; ++i)
    for (int64_t j = 0; j < results; ++j)
      for (int64_t element = 0; element < 4; ++element) {
        Value r = b.add(b.add(firstR, group), i * kRows + element / 2 * 8);
        Value column = b.add(b.add(first, b.mul(inGroup, 2)), j * kColumns + element % 2);
        auto sum = [&](int64_t j) { return sums[4 * (i * across + j) + element]; };
        storeResult(r, column, sum(j), isGated() ? sum(results + j) : Value());
      }
}

void MMAKernel::product() {
  Value warp = b.div(thread(), kLanes), lane = b.mod(thread(), kLanes);
  firstR = b.mul(b.div(warp, warpsAcross()), warpRows());
  firstC = b.mul(b.mod(warp, warpsAcross()), warpColumns());
  group = b.div(lane, 4);
  inGroup = b.mod(lane, 4);
  for (int64_t i = 0; i + 1 < tiling.stages; ++i)
    fill(b.index(i));
  int64_t numSums = warpRows() / kRows * (warpColumns() / kColumns) * 4;
  SmallVector<Value> zeros(numSums, b.f32(0.0));
  SmallVector<Value> sums = b.forLoop(
      b.index(0), b.index(numSlices()), b.index(1), zeros, [&](Value number, ValueRange carried) {
        NVVM::CpAsyncWaitGroupOp::create(b, b.getLoc(), tiling.stages - 2);
        b.barrier();
        fill(b.add(number, tiling.stages - 1));
        return slice(b.mod(number, tiling.stages), carried);
      });
  store(sums);
}

//===----------------------------------------------------------------------===//
// Launching
//===----------------------------------------------------------------------===//

static Tiling tilingFor(bool isHalf, int64_t kind) {
  static const Tiling f32[] = {{16, 64, 32, 128, 1, 1}, {64, 64, 32, 256, 1, 1}};
  static const Tiling half[] = {{16, 128, 32, 128, 4, 1}, {64, 128, 32, 128, 3, 2}};
  return (isHalf ? half : f32)[kind];
}

/// What a kernel's code depends on.
static std::string nameOf(const Product &product, int64_t kind) {
  std::string text;
  llvm::raw_string_ostream os(text);
  for (Value value : operandsOf(product))
    os << value.getType() << ";";
  for (Value value : {product.rowOfSource, product.scales, product.blocks, product.bias,
                      product.gateBias, product.gate.values, product.weight.zeroPoints})
    os << (value ? '1' : '0');
  os << product.weight.bits << "," << product.weight.block << "," << stringifyLayout(product.layout)
     << "," << product.activation << "," << product.experts << "," << product.n << "," << product.k;
  std::string name;
  llvm::raw_string_ostream(name) << "moec_product_" << product.n << "x" << product.k << "_"
                                 << productType(product) << "_rows" << kBlockRows[kind] << "_"
                                 << llvm::utohexstr(llvm::xxh3_64bits(text), /*LowerCase=*/true,
                                                    16);
  return name;
}

void mlir::moe::cuda::launchProduct(cpu::KernelBuilder &b, ModuleOp module,
                                    const Product &product) {
  SmallVector<Value> operands = operandsOf(product);
  bool isHalf = !productType(product).isF32();
  for (int64_t kind : {1, 0}) {
    // Without routing there is one size of blocks.
    if (!product.blocks && kind == 0)
      continue;
    Tiling tiling = tilingFor(isHalf, kind);
    gpu::GPUFuncOp kernel =
        getOrCreateGPUKernel(module, nameOf(product, kind), ValueRange(operands).getTypes(),
                             tiling.threads, [&](GPUBuilder &b, Block::BlockArgListType arguments) {
                               Product inside = withArguments(product, arguments);
                               if (isHalf)
                                 MMAKernel(b, inside, tiling, kind).emit();
                               else
                                 FMAKernel(b, inside, tiling, kind).emit();
                             });
    Value blocks = b.index(kFullGrid);
    if (!product.blocks) {
      blocks = b.mul(b.ceilDiv(b.dim(product.source, 0), tiling.rows),
                     llvm::divideCeil(product.n, tiling.columns));
      blocks = b.min(b.createOrFold<arith::MaxSIOp>(blocks, b.index(1)), b.index(kFullGrid));
    }
    launch(b, kernel, blocks, operands);
  }
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention by blocks of query rows and tiles of keys, with a running maximum and sum (Dao et al.,
// "FlashAttention", 2022). The query heads that share a key head are rows of the same block.
//
// Few rows (a step of a decoder) with many keys would leave most of a GPU idle: then several blocks
// share the keys of a task, and a second kernel puts their parts together.

#include "moec/Conversion/MoEToGPU/AttentionKernel.h"

#include "TensorCores.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/xxhash.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;
using cpu::AttentionArguments;
using cpu::AttentionForm;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();
static constexpr int64_t kWarps = 4;
/// Elements that are loaded at once where memory is aligned.
static constexpr int64_t kChunk = 8;
/// Blocks that fill a GPU, and how few keys are not worth another one.
static constexpr int64_t kEnoughBlocks = 256, kLeastKeys = 256;

static MemRefType typeOf(Value memref) { return cast<MemRefType>(memref.getType()); }
static int64_t lastSize(Value memref) { return typeOf(memref).getDimSize(3); }
static Type elementOf(Value memref) { return typeOf(memref).getElementType(); }

namespace {

/// A row of queries of one head.
struct Row {
  Value exists, head, query;
  Value begin, end; ///< its keys; null: no bound of its own
};

/// Blocks that share the keys of each task, and what they leave: f32 [tasks, splits, rows, values +
/// 2], a row's sums not yet divided, its maximum and its total. Not used for one block.
struct Split {
  Value parts, count;
};

class AttentionKernel : protected AttentionArguments {
public:
  AttentionKernel(GPUBuilder &b, const AttentionForm &form, ValueRange arguments, Split split);
  virtual ~AttentionKernel() = default;

  void emit();

protected:
  /// Rows of a block.
  virtual int64_t numRows() = 0;
  /// Before any task.
  virtual void start() {}
  /// All of a block's rows, for the keys `begin` … `end`.
  virtual void task(Value begin, Value end) = 0;

  Row locate(Value row);
  /// The score of a key from its product: scaled, capped, biased; -inf where the key is out.
  Value finishScore(Value product, const Row &row, Value key, Value end);
  /// exp(score - max), where there may be no key yet.
  Value relative(Value score, Value max);
  Value larger(Value x, Value y) {
    return b.select(b.compare(arith::CmpFPredicate::OGT, x, y), x, y);
  }
  /// The sink is a score of the first split.
  Value firstMax(const Row &row) {
    Value none = b.f32(-kInfinity);
    return sink ? b.select(isFirstSplit(), b.loadF32(sink, row.head), none) : none;
  }
  /// What a lane's part of the sum begins with.
  Value firstTotal(Value isFirstLane) {
    Value zero = b.f32(0.0);
    return sink ? b.select(b.both(isFirstLane, isFirstSplit()), b.f32(1.0), zero) : zero;
  }
  Value isFirstSplit() { return b.equal(splitNumber, b.index(0)); }
  Value quotient(Value sum, Value total);
  /// Column `column` of row number `r` of the block, or of its part.
  void storeColumn(const Row &row, Value r, Value column, Value sum, Value max, Value total);
  /// Before any other.
  Value countTasks();
  void enter(Value task);
  /// That are read together.
  virtual int64_t keysOfTile() { return 1; }

  GPUBuilder &b;
  const AttentionForm &form;
  Split split;
  // Of the task.
  Value batch, keyHead, firstRow;

private:
  Value partOf(Value r) { return b.add(b.mul(number, numRows()), r); }
  std::pair<Value, Value> keyRange();
  Value loadBias(Value bias, const Row &row, Value key);
  void setBounds(Row &row);
  void enterBatch();

  Value numQueries, numKeys, group, rows, length, position;
  Value number, splitNumber; ///< of the task and its split
};

} // namespace

AttentionKernel::AttentionKernel(GPUBuilder &b, const AttentionForm &form, ValueRange arguments,
                                 Split split)
    : AttentionArguments(form, arguments), b(b), form(form), split(split) {}

/// What depends on the batch alone.
void AttentionKernel::enterBatch() {
  length = numKeys;
  position = offset;
  if (!form.hasLengths)
    return;
  Value given = b.toIndex(b.load(lengths, batch));
  // The position follows the length that was given; reads stay inside of the keys.
  if (form.endsAtLength)
    position = b.sub(given, numQueries);
  length = b.min(given, length);
}

/// The keys that the query may read.
void AttentionKernel::setBounds(Row &row) {
  Value place = b.add(position, row.query);
  if (form.left)
    row.begin = b.sub(place, b.index(*form.left));
  if (form.right)
    row.end = b.add(place, *form.right + 1);
}

/// Row `row` of the block; one that does not exist is the last one.
Row AttentionKernel::locate(Value row) {
  Value number = b.add(firstRow, row);
  Row result;
  result.exists = b.less(number, rows);
  number = b.min(number, b.sub(rows, b.index(1)));
  result.query = b.createOrFold<arith::DivUIOp>(number, group);
  result.head = b.add(b.mul(keyHead, group), b.createOrFold<arith::RemUIOp>(number, group));
  setBounds(result);
  return result;
}

Value AttentionKernel::countTasks() {
  Value batches = b.dim(query, 0), heads = b.dim(query, 1), keyHeads = b.dim(key, 1);
  numQueries = b.dim(query, 2);
  numKeys = b.dim(key, 2);
  group =
      b.createOrFold<arith::DivUIOp>(heads, b.createOrFold<arith::MaxSIOp>(keyHeads, b.index(1)));
  rows = b.mul(numQueries, group);
  return b.mul(b.mul(batches, keyHeads), b.ceilDiv(rows, numRows()));
}

/// Sets what depends on the task.
void AttentionKernel::enter(Value task) {
  Value keyHeads = b.dim(key, 1), blocks = b.ceilDiv(rows, numRows());
  // Blocks of late rows, which read most keys where keys are bounded, come first.
  Value block = b.createOrFold<arith::RemUIOp>(task, blocks);
  block = b.sub(b.sub(blocks, b.index(1)), block);
  Value head = b.createOrFold<arith::DivUIOp>(task, blocks);
  batch = b.createOrFold<arith::DivUIOp>(head, keyHeads);
  keyHead = b.createOrFold<arith::RemUIOp>(head, keyHeads);
  firstRow = b.mul(block, numRows());
  enterBatch();
}

/// The keys that some row of the block may read, or this split's share of them.
std::pair<Value, Value> AttentionKernel::keyRange() {
  Value begin = b.index(0), end = length;
  if (form.left)
    begin = b.createOrFold<arith::MaxSIOp>(locate(b.index(0)).begin, begin);
  if (form.right)
    end = b.min(locate(b.index(numRows() - 1)).end, end);
  Value count = b.createOrFold<arith::MaxSIOp>(b.sub(end, begin), b.index(0));
  Value share = b.mul(b.ceilDiv(b.ceilDiv(count, split.count), keysOfTile()), keysOfTile());
  begin = b.add(begin, b.mul(splitNumber, share));
  return {begin, b.min(b.add(begin, share), end)};
}

void AttentionKernel::emit() {
  start();
  Value tasks = countTasks();
  b.forLoop(b.block(), b.mul(tasks, split.count), b.numBlocks(), [&](Value at) {
    number = at;
    splitNumber = b.createOrFold<arith::RemUIOp>(at, split.count);
    enter(b.createOrFold<arith::DivUIOp>(at, split.count));
    auto [begin, end] = keyRange();
    task(begin, end);
  });
}

void AttentionKernel::storeColumn(const Row &row, Value r, Value column, Value sum, Value max,
                                  Value total) {
  Value isInside = b.both(row.exists, b.less(column, b.index(valueSize)));
  Value isWhole = b.equal(split.count, b.index(1));
  b.ifThen(b.both(isInside, isWhole), [&] {
    b.storeF32(quotient(sum, total), result, {batch, row.head, row.query, column});
  });
  Value isPart = b.both(isInside, b.less(b.index(1), split.count));
  b.ifThen(isPart, [&] {
    Value at = partOf(r);
    b.store(sum, split.parts, {at, column});
    b.ifThen(b.equal(column, b.index(0)), [&] {
      b.store(max, split.parts, {at, b.index(valueSize)});
      b.store(total, split.parts, {at, b.index(valueSize + 1)});
    });
  });
}

Value AttentionKernel::loadBias(Value bias, const Row &row, Value key) {
  SmallVector<Value> at = {batch, row.head, row.query, key};
  for (int64_t dim = 0; dim < 4; ++dim)
    if (typeOf(bias).getDimSize(dim) == 1)
      at[dim] = b.index(0);
  return b.load(bias, at);
}

Value AttentionKernel::finishScore(Value product, const Row &row, Value key, Value end) {
  Value isIn = b.less(key, end);
  if (row.begin)
    isIn = b.both(isIn, b.less(b.sub(row.begin, b.index(1)), key));
  if (row.end)
    isIn = b.both(isIn, b.less(key, row.end));
  Value score = b.mulf(product, scale);
  if (form.softcap != 0) {
    score = math::TanhOp::create(b, b.getLoc(), b.mulf(score, b.f32(1 / form.softcap)));
    score = b.mulf(score, b.f32(form.softcap));
  }
  if (biases.empty())
    return b.select(isIn, score, b.f32(-kInfinity));
  auto biased = [&] {
    Value sum = score;
    for (Value bias : biases)
      sum = b.addf(sum, loadBias(bias, row, key));
    return sum;
  };
  return b.branch(isIn, biased, [&] { return b.f32(-kInfinity); });
}

Value AttentionKernel::relative(Value score, Value max) {
  Value none = b.compare(arith::CmpFPredicate::OEQ, max, b.f32(-kInfinity));
  return b.exp(b.subf(score, b.select(none, b.f32(0.0), max)));
}

Value AttentionKernel::quotient(Value sum, Value total) {
  double none = form.emptyIsNaN ? std::numeric_limits<double>::quiet_NaN() : 0.0;
  Value isEmpty = b.compare(arith::CmpFPredicate::OEQ, total, b.f32(0.0));
  return b.select(isEmpty, b.f32(none), b.divf(sum, total));
}

//===----------------------------------------------------------------------===//
// f32
//===----------------------------------------------------------------------===//

namespace {
/// Fused multiply-adds. A warp has a few rows; its lanes are the keys of a tile while scores are
/// made, and columns of the values afterwards.
class FMAAttention : public AttentionKernel {
public:
  using AttentionKernel::AttentionKernel;

private:
  static constexpr int64_t kKeys = kLanes;

  int64_t keysOfTile() override { return kKeys; }

  int64_t rowsOfWarp() { return size <= 128 ? 4 : 2; }
  int64_t numRows() override { return kWarps * rowsOfWarp(); }
  int64_t parts() { return llvm::divideCeil(valueSize, kLanes); }
  void start() override {
    queries = b.shared({numRows(), size}, b.getF32Type());
    // One more, so that rows begin in different banks.
    keys = b.shared({kKeys, size + 1}, b.getF32Type());
    lane = b.mod(b.thread(), kLanes);
    firstOwn = b.mul(b.div(b.thread(), kLanes), rowsOfWarp());
  }
  void task(Value begin, Value end) override;
  void fillQueries();
  void fillKeys(Value first, Value end);
  SmallVector<Value> scores(ArrayRef<Row> rows, Value first, Value end);
  SmallVector<Value> tile(ArrayRef<Row> rows, Value first, Value end, ValueRange state);
  void store(ArrayRef<Row> rows, ValueRange state);

  Value queries, keys, lane, firstOwn;
};
} // namespace

/// body(row, column) for a matrix in shared memory, all threads together.
static void forElements(GPUBuilder &b, int64_t rows, int64_t columns,
                        function_ref<void(Value, Value)> body) {
  b.forLoop(b.thread(), b.index(rows * columns), b.index(kWarps * kLanes),
            [&](Value i) { body(b.div(i, columns), b.mod(i, columns)); });
}

void FMAAttention::fillQueries() {
  forElements(b, numRows(), size, [&](Value r, Value d) {
    Row row = locate(r);
    b.store(b.loadF32(query, {batch, row.head, row.query, d}), queries, {r, d});
  });
}

void FMAAttention::fillKeys(Value first, Value end) {
  // Those behind the last one repeat it: their scores are never used.
  Value last = b.sub(end, b.index(1));
  forElements(b, kKeys, size, [&](Value j, Value d) {
    b.store(b.loadF32(key, {batch, keyHead, b.min(b.add(first, j), last), d}), keys, {j, d});
  });
}

/// Of the lane's key, for each row of the warp.
SmallVector<Value> FMAAttention::scores(ArrayRef<Row> rows, Value first, Value end) {
  SmallVector<Value> zeros(rows.size(), b.f32(0.0));
  SmallVector<Value> products =
      b.forLoop(b.index(0), b.index(size), b.index(1), zeros, [&](Value d, ValueRange sums) {
        Value factor = b.load(keys, {lane, d});
        SmallVector<Value> next;
        for (auto [r, sum] : llvm::enumerate(sums))
          next.push_back(b.fma(b.load(queries, {b.add(firstOwn, int64_t(r)), d}), factor, sum));
        return next;
      });
  for (auto [product, row] : llvm::zip(products, rows))
    product = finishScore(product, row, b.add(first, lane), end);
  return products;
}

/// `state`: for each row its maximum, the lane's part of the sum, and the lane's columns.
SmallVector<Value> FMAAttention::tile(ArrayRef<Row> rows, Value first, Value end,
                                      ValueRange state) {
  // The keys before have been read.
  b.barrier();
  fillKeys(first, end);
  b.barrier();
  SmallVector<Value> weights = scores(rows, first, end), next(state);
  int64_t perRow = 2 + parts();
  for (auto [r, weight] : llvm::enumerate(weights)) {
    MutableArrayRef<Value> own = MutableArrayRef(next).slice(r * perRow, perRow);
    Value max = larger(own[0], b.reduce(weight, [&](Value x, Value y) { return larger(x, y); }));
    Value factor = relative(own[0], max);
    weight = relative(weight, max);
    own[0] = max;
    own[1] = b.fma(own[1], factor, weight);
    for (Value &sum : own.drop_front(2))
      sum = b.mulf(sum, factor);
  }
  Value count = b.min(b.index(kKeys), b.sub(end, first));
  return b.forLoop(b.index(0), count, b.index(1), next, [&](Value j, ValueRange carried) {
    SmallVector<Value> next(carried), factors;
    for (Value weight : weights)
      factors.push_back(b.shuffleFrom(weight, b.toI32(j)));
    for (int64_t part = 0; part < parts(); ++part) {
      Value column = b.add(lane, part * kLanes);
      auto load = [&] { return b.loadF32(value, {batch, keyHead, b.add(first, j), column}); };
      bool isWhole = (part + 1) * kLanes <= valueSize;
      Value v =
          isWhole ? load()
                  : b.branch(b.less(column, b.index(valueSize)), load, [&] { return b.f32(0.0); });
      for (auto [r, factor] : llvm::enumerate(factors)) {
        Value &sum = next[r * perRow + 2 + part];
        sum = b.fma(factor, v, sum);
      }
    }
    return next;
  });
}

void FMAAttention::store(ArrayRef<Row> rows, ValueRange state) {
  int64_t perRow = 2 + parts();
  for (auto [r, row] : llvm::enumerate(rows)) {
    Value total = b.reduce(state[r * perRow + 1], [&](Value x, Value y) { return b.addf(x, y); });
    for (int64_t part = 0; part < parts(); ++part) {
      Value column = b.add(lane, part * kLanes);
      storeColumn(row, b.add(firstOwn, int64_t(r)), column, state[r * perRow + 2 + part],
                  state[r * perRow], total);
    }
  }
}

void FMAAttention::task(Value begin, Value end) {
  // The task before is done with the queries.
  b.barrier();
  fillQueries();
  SmallVector<Row> rows;
  SmallVector<Value> state;
  for (int64_t r = 0; r < rowsOfWarp(); ++r) {
    rows.push_back(locate(b.add(firstOwn, r)));
    state.push_back(firstMax(rows.back()));
    state.push_back(firstTotal(b.equal(lane, b.index(0))));
    state.append(parts(), b.f32(0.0));
  }
  store(rows, b.forLoop(begin, end, b.index(kKeys), state, [&](Value first, ValueRange carried) {
    return tile(rows, first, end, carried);
  }));
}

//===----------------------------------------------------------------------===//
// Tensor cores
//===----------------------------------------------------------------------===//

namespace {
/// mma.sync. A warp has 16 rows; a lane has two of them and, of 8 columns, two neighbours.
class TensorAttention : public AttentionKernel {
public:
  TensorAttention(GPUBuilder &b, const AttentionForm &form, ValueRange arguments, Split split)
      : AttentionKernel(b, form, arguments, split), type(elementOf(query)), cores(b, type),
        paddedSize(llvm::alignTo(size, TensorCores::kDepth)),
        paddedValueSize(llvm::alignTo(valueSize, kChunk)), numKeys(keysOf(arguments)) {}

  /// Of dynamic shared memory.
  static int64_t sharedBytes(ValueRange arguments) {
    int64_t size = llvm::alignTo(lastSize(arguments[0]), TensorCores::kDepth);
    int64_t valueSize = llvm::alignTo(lastSize(arguments[2]), kChunk), keys = keysOf(arguments);
    return 2 * ((kRows + keys) * (size + kPad) + valueSize * (keys + kPad));
  }

private:
  static constexpr int64_t kRows = kWarps * TensorCores::kRows;
  /// Eight rows begin in different banks, 16 bytes each.
  static constexpr int64_t kPad = 8;

  /// Keys of a tile: sums and scores of a warp stay in registers.
  static int64_t keysOf(ValueRange arguments) {
    return std::max(lastSize(arguments[0]), lastSize(arguments[2])) <= 128 ? 64 : 32;
  }

  int64_t numRows() override { return kRows; }
  int64_t keysOfTile() override { return numKeys; }
  int64_t fragments() { return paddedValueSize / TensorCores::kColumns; }
  void start() override;
  void task(Value begin, Value end) override;
  Value isAligned(Value memref);
  Value loadChunk(Value memref, Value aligned, int64_t size, Value head, Value row, Value d,
                  Value exists);
  void fillRows(Value memory, int64_t count, Value from, Value aligned,
                function_ref<std::tuple<Value, Value, Value>(Value)> place);
  void fillValues(Value first, Value end);
  SmallVector<Value> scores(ArrayRef<Row> rows, Value first, Value end);
  SmallVector<Value> tile(ArrayRef<Row> rows, Value first, Value end, ValueRange state);
  void store(ArrayRef<Row> rows, ValueRange state);
  /// Over the four lanes that share rows.
  Value reduceRow(Value v, function_ref<Value(Value, Value)> step) {
    v = step(v, b.shuffleXor(v, 1));
    return step(v, b.shuffleXor(v, 2));
  }

  Type type;
  TensorCores cores;
  int64_t paddedSize, paddedValueSize, numKeys;
  Value queries, keys; ///< [rows, size] in shared memory
  Value values;        ///< [value size, keys]
  Value firstOwn;
  Value queriesAligned, keysAligned, valuesAligned;
};
} // namespace

/// Whether all chunks of the tensor are at multiples of 16 bytes.
Value TensorAttention::isAligned(Value memref) {
  auto parts = memref::ExtractStridedMetadataOp::create(b, b.getLoc(), memref);
  Value base = memref::ExtractAlignedPointerAsIndexOp::create(b, b.getLoc(), memref);
  Value bits = b.add(base, b.mul(parts.getOffset(), 2));
  for (Value stride : parts.getStrides().drop_back())
    bits = arith::OrIOp::create(b, b.getLoc(), bits, b.mul(stride, 2));
  return b.equal(b.mod(bits, 2 * kChunk), b.index(0));
}

void TensorAttention::start() {
  auto space =
      gpu::AddressSpaceAttr::get(b.getContext(), gpu::GPUDialect::getWorkgroupAddressSpace());
  MemRefLayoutAttrInterface plain;
  auto bytesType = MemRefType::get(ShapedType::kDynamic, b.getI8Type(), plain, space);
  Value bytes = gpu::DynamicSharedMemoryOp::create(b, b.getLoc(), bytesType);
  int64_t used = 0;
  auto take = [&](int64_t rows, int64_t columns) -> Value {
    auto view = MemRefType::get({rows, columns}, type, plain, space);
    Value memory = memref::ViewOp::create(b, b.getLoc(), view, bytes, b.index(used), ValueRange());
    used += 2 * rows * columns;
    return memory;
  };
  queries = take(kRows, paddedSize + kPad);
  keys = take(numKeys, paddedSize + kPad);
  values = take(paddedValueSize, numKeys + kPad);
  firstOwn = b.mul(b.div(b.thread(), kLanes), TensorCores::kRows);
  queriesAligned = isAligned(query);
  keysAligned = isAligned(key);
  valuesAligned = isAligned(value);
}

/// 8 elements of a row from d on; zeros where there are none.
Value TensorAttention::loadChunk(Value memref, Value aligned, int64_t size, Value head, Value row,
                                 Value d, Value exists) {
  auto chunk = VectorType::get({kChunk}, type);
  auto zero = [&]() -> Value { return arith::ConstantOp::create(b, b.getZeroAttr(type)); };
  auto whole = [&]() -> Value {
    return vector::LoadOp::create(b, b.getLoc(), chunk, memref, ValueRange{batch, head, row, d},
                                  /*nontemporal=*/false, llvm::MaybeAlign(16));
  };
  auto single = [&]() -> Value {
    SmallVector<Value> elements;
    for (int64_t i = 0; i < kChunk; ++i) {
      Value at = b.add(d, i);
      auto load = [&] { return b.load(memref, {batch, head, row, at}); };
      elements.push_back(size % kChunk == 0 ? load()
                                            : b.branch(b.less(at, b.index(size)), load, zero));
    }
    return vector::FromElementsOp::create(b, b.getLoc(), chunk, elements);
  };
  return b.branch(
      exists, [&] { return size % kChunk == 0 ? b.branch(aligned, whole, single) : single(); },
      [&]() -> Value { return arith::ConstantOp::create(b, b.getZeroAttr(chunk)); });
}

/// Rows of queries or keys; `place` gives head and row of the source, and whether it exists.
void TensorAttention::fillRows(Value memory, int64_t count, Value from, Value aligned,
                               function_ref<std::tuple<Value, Value, Value>(Value)> place) {
  forElements(b, count, paddedSize / kChunk, [&](Value r, Value number) {
    auto [head, row, exists] = place(r);
    Value d = b.mul(number, kChunk);
    exists = b.both(exists, b.less(d, b.index(size)));
    Value chunk = loadChunk(from, aligned, size, head, row, d, exists);
    vector::StoreOp::create(b, b.getLoc(), chunk, memory, ValueRange{r, d}, /*nontemporal=*/false,
                            llvm::MaybeAlign(16));
  });
}

/// Transposed, since keys are the depth of the second product.
void TensorAttention::fillValues(Value first, Value end) {
  forElements(b, paddedValueSize / kChunk, numKeys, [&](Value number, Value j) {
    Value row = b.add(first, j), d = b.mul(number, kChunk);
    Value chunk = loadChunk(value, valuesAligned, valueSize, keyHead, row, d, b.less(row, end));
    for (int64_t i = 0; i < kChunk; ++i)
      b.store(vector::ExtractOp::create(b, b.getLoc(), chunk, i), values, {b.add(d, i), j});
  });
}

/// Four for each 8 keys, as the tensor cores leave them.
SmallVector<Value> TensorAttention::scores(ArrayRef<Row> rows, Value first, Value end) {
  int64_t tiles = numKeys / TensorCores::kColumns;
  SmallVector<Value> sums(4 * tiles, b.f32(0.0));
  for (int64_t d = 0; d < paddedSize; d += TensorCores::kDepth) {
    SmallVector<Value> own = cores.loadRows(queries, firstOwn, b.index(d));
    for (int64_t j = 0; j < tiles; ++j)
      cores.multiply(own, cores.loadColumns(keys, b.index(j * TensorCores::kColumns), b.index(d)),
                     MutableArrayRef(sums).slice(4 * j, 4));
  }
  for (auto [i, sum] : llvm::enumerate(sums)) {
    int64_t column = i / 4 * TensorCores::kColumns + i % 2;
    Value at = b.add(b.add(first, b.mul(cores.inGroup, 2)), column);
    sum = finishScore(sum, rows[i % 4 / 2], at, end);
  }
  return sums;
}

/// `state`: the maxima of both rows, the lane's part of their sums, and the sums of values.
SmallVector<Value> TensorAttention::tile(ArrayRef<Row> rows, Value first, Value end,
                                         ValueRange state) {
  // The keys before have been read.
  b.barrier();
  fillRows(keys, numKeys, key, keysAligned, [&](Value j) {
    Value row = b.add(first, j);
    return std::tuple(keyHead, row, b.less(row, end));
  });
  fillValues(first, end);
  b.barrier();
  SmallVector<Value> weights = scores(rows, first, end), next(state);
  for (int64_t r = 0; r < 2; ++r) {
    auto isOwn = [&](size_t i) { return int64_t(i % 4 / 2) == r; };
    Value max = b.f32(-kInfinity);
    for (auto [i, weight] : llvm::enumerate(weights))
      if (isOwn(i))
        max = larger(max, weight);
    max = larger(state[r], reduceRow(max, [&](Value x, Value y) { return larger(x, y); }));
    Value factor = relative(state[r], max), total = b.mulf(state[2 + r], factor);
    for (auto [i, weight] : llvm::enumerate(weights))
      if (isOwn(i)) {
        weight = relative(weight, max);
        total = b.addf(total, weight);
      }
    next[r] = max;
    next[2 + r] = total;
    for (auto [i, sum] : llvm::enumerate(MutableArrayRef(next).drop_front(4)))
      if (isOwn(i))
        sum = b.mulf(sum, factor);
  }
  MutableArrayRef<Value> sums = MutableArrayRef(next).drop_front(4);
  for (int64_t k = 0; k < numKeys; k += TensorCores::kDepth) {
    // What was a result is an operand, at the same places.
    ArrayRef<Value> w = ArrayRef(weights).slice(k / TensorCores::kColumns * 4, 8);
    SmallVector<Value> own = {cores.pack(w[0], w[1]), cores.pack(w[2], w[3]),
                              cores.pack(w[4], w[5]), cores.pack(w[6], w[7])};
    for (int64_t n = 0; n < fragments(); ++n)
      cores.multiply(own, cores.loadColumns(values, b.index(n * TensorCores::kColumns), b.index(k)),
                     sums.slice(4 * n, 4));
  }
  return next;
}

void TensorAttention::store(ArrayRef<Row> rows, ValueRange state) {
  for (int64_t r = 0; r < 2; ++r) {
    const Row &row = rows[r];
    Value place = b.add(b.add(firstOwn, cores.group), 8 * r);
    Value total = reduceRow(state[2 + r], [&](Value x, Value y) { return b.addf(x, y); });
    for (int64_t n = 0; n < fragments(); ++n)
      for (int64_t i = 0; i < 2; ++i) {
        Value column = b.add(b.mul(cores.inGroup, 2), n * TensorCores::kColumns + i);
        storeColumn(row, place, column, state[4 + 4 * n + 2 * r + i], state[r], total);
      }
  }
}

void TensorAttention::task(Value begin, Value end) {
  // The task before is done with the queries.
  b.barrier();
  fillRows(queries, kRows, query, queriesAligned, [&](Value r) {
    Row row = locate(r);
    return std::tuple(row.head, row.query, row.exists);
  });
  Row rows[2] = {locate(b.add(firstOwn, cores.group)),
                 locate(b.add(b.add(firstOwn, cores.group), 8))};
  Value first = firstTotal(b.equal(cores.inGroup, b.index(0)));
  SmallVector<Value> state = {firstMax(rows[0]), firstMax(rows[1]), first, first};
  state.append(4 * fragments(), b.f32(0.0));
  store(rows, b.forLoop(begin, end, b.index(numKeys), state, [&](Value at, ValueRange carried) {
    return tile(rows, at, end, carried);
  }));
}

//===----------------------------------------------------------------------===//
// Putting parts together
//===----------------------------------------------------------------------===//

namespace {
/// A warp for each row of each task.
class CombineAttention : public AttentionKernel {
public:
  CombineAttention(GPUBuilder &b, const AttentionForm &form, ValueRange arguments, Split split,
                   int64_t rows)
      : AttentionKernel(b, form, arguments, split), rowsOfBlock(rows) {}

  void emit();

private:
  int64_t numRows() override { return rowsOfBlock; }
  void task(Value, Value) override {}
  void combine(Value task, Value r);
  Value part(Value task, Value number, Value r, Value column) {
    Value at = b.add(b.mul(b.add(b.mul(task, split.count), number), rowsOfBlock), r);
    return b.load(split.parts, {at, column});
  }

  int64_t rowsOfBlock;
};
} // namespace

void CombineAttention::combine(Value task, Value r) {
  enter(task);
  Row row = locate(r);
  Value lane = b.mod(b.thread(), kLanes);
  Value max = b.fold(split.count, b.f32(-kInfinity), [&](Value number, Value max) {
    return larger(max, part(task, number, r, b.index(valueSize)));
  });
  for (int64_t first = 0; first < valueSize; first += kLanes) {
    Value column = b.add(lane, first);
    b.ifThen(b.both(row.exists, b.less(column, b.index(valueSize))), [&] {
      SmallVector<Value> zeros = {b.f32(0.0), b.f32(0.0)};
      auto add = [&](Value number, ValueRange sums) -> SmallVector<Value> {
        Value factor = relative(part(task, number, r, b.index(valueSize)), max);
        Value total = part(task, number, r, b.index(valueSize + 1));
        return {b.fma(factor, part(task, number, r, column), sums[0]),
                b.fma(factor, total, sums[1])};
      };
      SmallVector<Value> sums = b.forLoop(b.index(0), split.count, b.index(1), zeros, add);
      b.storeF32(quotient(sums[0], sums[1]), result, {batch, row.head, row.query, column});
    });
  }
}

void CombineAttention::emit() {
  // Of one block nothing is to be put together.
  Value isSplit = b.min(b.sub(split.count, b.index(1)), b.index(1));
  Value count = b.mul(b.mul(countTasks(), numRows()), isSplit);
  Value first = b.add(b.mul(b.block(), kWarps), b.div(b.thread(), kLanes));
  b.forLoop(first, count, b.mul(b.numBlocks(), kWarps),
            [&](Value number) { combine(b.div(number, numRows()), b.mod(number, numRows())); });
}

//===----------------------------------------------------------------------===//
// Launching
//===----------------------------------------------------------------------===//

/// What the kernel's code depends on.
static std::string kernelName(const AttentionForm &form, TypeRange arguments) {
  std::string text;
  llvm::raw_string_ostream os(text);
  for (Type type : arguments)
    os << type << ";";
  os << llvm::format("%a", form.softcap) << ",";
  for (std::optional<int64_t> bound : {form.left, form.right})
    os << (bound ? std::to_string(*bound) : "-") << ",";
  os << form.emptyIsNaN << form.endsAtLength << form.numBiases << form.hasLengths << form.hasSink;
  return "moec_attention_" + llvm::utohexstr(llvm::xxh3_64bits(text), /*LowerCase=*/true, 16);
}

static bool usesTensorCores(ValueRange arguments) {
  Type type = elementOf(arguments[0]);
  return (type.isF16() || type.isBF16()) && elementOf(arguments[1]) == type &&
         elementOf(arguments[2]) == type;
}

/// Rows of a block; see numRows.
static int64_t rowsOf(ValueRange arguments, bool tensor) {
  return tensor ? kWarps * TensorCores::kRows : kWarps * (lastSize(arguments[0]) <= 128 ? 4 : 2);
}

/// The last two of the arguments.
static Split splitOf(ValueRange arguments) {
  return {arguments[arguments.size() - 2], arguments.back()};
}

void mlir::moe::cuda::launchAttention(ImplicitLocOpBuilder &builder, ModuleOp module,
                                      const AttentionForm &form, ValueRange given) {
  bool tensor = usesTensorCores(given);
  int64_t blockRows = rowsOf(given, tensor);
  cpu::KernelBuilder b(builder.getLoc(), builder, {{kLanes}});
  Value heads = b.dim(given[0], 1), keyHeads = b.dim(given[1], 1), one = b.index(1);
  // Heads are a multiple of those of the keys: as many rows for each key head.
  Value group =
      b.createOrFold<arith::DivUIOp>(heads, b.createOrFold<arith::MaxSIOp>(keyHeads, one));
  Value blocks = b.ceilDiv(b.mul(b.dim(given[0], 2), group), blockRows);
  Value tasks = b.mul(b.mul(b.dim(given[0], 0), keyHeads), blocks);
  tasks = b.createOrFold<arith::MaxSIOp>(tasks, one);
  Value splits = b.min(b.createOrFold<arith::DivUIOp>(b.index(kEnoughBlocks), tasks),
                       b.createOrFold<arith::DivUIOp>(b.dim(given[1], 2), b.index(kLeastKeys)));
  splits = b.createOrFold<arith::MaxSIOp>(splits, one);
  // Shared keys are at most those of kEnoughBlocks blocks. More tokens never need less memory, and
  // launches are the same for all sizes: a captured run can be that of other sizes.
  Value isLong =
      b.min(b.createOrFold<arith::DivUIOp>(b.dim(given[1], 2), b.index(2 * kLeastKeys)), one);
  Value parts = b.mul(isLong, kEnoughBlocks * blockRows);
  auto partsType = MemRefType::get({ShapedType::kDynamic, lastSize(given[2]) + 2}, b.getF32Type());
  SmallVector<Value> arguments(given);
  arguments.push_back(memref::AllocOp::create(b, partsType, parts, b.getI64IntegerAttr(64)));
  arguments.push_back(splits);

  TypeRange types = ValueRange(arguments).getTypes();
  std::string name = kernelName(form, types);
  gpu::GPUFuncOp kernel = getOrCreateGPUKernel(
      module, name, types, kWarps * kLanes, [&](GPUBuilder &b, Block::BlockArgListType inside) {
        SmallVector<Value> values(inside.begin(), inside.end());
        if (tensor)
          TensorAttention(b, form, values, splitOf(values)).emit();
        else
          FMAAttention(b, form, values, splitOf(values)).emit();
      });
  launch(b, kernel, b.mul(tasks, splits), arguments,
         tensor ? TensorAttention::sharedBytes(arguments) : 0);
  gpu::GPUFuncOp combine =
      getOrCreateGPUKernel(module, name + "_combine", types, kWarps * kLanes,
                           [&](GPUBuilder &b, Block::BlockArgListType inside) {
                             SmallVector<Value> values(inside.begin(), inside.end());
                             CombineAttention(b, form, values, splitOf(values), blockRows).emit();
                           });
  Value warps = b.mul(b.mul(tasks, blockRows), b.min(b.sub(splits, one), one));
  Value grid = b.createOrFold<arith::MaxSIOp>(b.ceilDiv(warps, kWarps), one);
  launch(b, combine, grid, arguments);
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention by blocks of query rows and tiles of keys, with a running maximum and sum (Dao et al.,
// "FlashAttention", 2022). Scores have keys in the lanes of vectors: a tile of keys is transposed
// once for all rows of a block. The query heads that share a key head are in the same block.

#include "moec/Conversion/MoEToCPU/AttentionKernel.h"

#include "KernelBuilder.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/xxhash.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();

namespace {

/// Emits the body of one kernel.
class AttentionEmitter : AttentionArguments {
public:
  AttentionEmitter(KernelBuilder &b, const AttentionForm &form, ValueRange arguments);

  void emit();

private:
  void emitTask(Value task);
  void enterBatch();
  void allocate();
  void packRow(Value row);
  void setBounds(Value row, Value query);
  std::pair<Value, Value> keyRange(Value firstRow);
  void emitKeyTile(Value key, Value end);
  void packKeys();
  SmallVector<Value> transposed(SmallVector<Value> rows);
  void forRowBlocks(function_ref<void(Value, int64_t)> body);
  void emitRows(Value row, int64_t count);
  SmallVector<Value> scores(Value row, int64_t count);
  void finishScores(Value row, MutableArrayRef<Value> scores);
  Value bias(Value bias, Value row, int64_t vector);
  Value softmax(Value row, int64_t place, ArrayRef<Value> scores);
  void addValues(Value row, ArrayRef<Value> factors);
  void storeRow(Value row);

  Value larger(Value x, Value y) {
    return b.select(b.compare(arith::CmpFPredicate::OGT, x, y), x, y);
  }
  Value acrossLanes(Value vector, function_ref<Value(Value, Value)> combine);
  Value maxIndex(Value x, Value y) { return b.createOrFold<arith::MaxSIOp>(x, y); }
  Value rem(Value x, Value y) { return b.createOrFold<arith::RemUIOp>(x, y); }
  Value div(Value x, Value y) { return b.createOrFold<arith::DivUIOp>(x, y); }
  Value at(Value row, int64_t size) { return b.mul(row, size); }

  KernelBuilder &b;
  const AttentionForm &form;
  int64_t lanes, paddedValueSize;
  /// Rows of a task, and rows whose scores are in registers together.
  int64_t taskRows, rowsAtOnce;
  /// Vectors of scores of a row that are computed together, and the keys in them.
  int64_t vectors, tile;

  Value numQueries, numKeys, group;
  /// Of the task: its rows are `firstRow` … + `count` of the queries × heads of `keyHead`.
  Value batch, keyHead, firstRow, count, length, position;
  /// Scaled queries, sums of values [row, size]; maximum and sum of each row, a vector each: all
  /// lanes of the maximum are equal, those of the sum are to be added up.
  Value queries, sums, maxima, totals;
  /// Transposed keys [size, tile]; exponentials [rowsAtOnce, tile].
  Value keys, weights;
  /// Of each row: query, head, first key and end of its keys.
  Value rowQueries, rowHeads, rowBegins, rowEnds;
  /// Of the tile.
  Value tileKey, tileCount;
};

} // namespace

static int64_t lastSize(Value memref) { return cast<MemRefType>(memref.getType()).getDimSize(3); }

AttentionArguments::AttentionArguments(const AttentionForm &form, ValueRange arguments)
    : query(arguments[0]), key(arguments[1]), value(arguments[2]), result(arguments[3]),
      scale(arguments[4]), offset(arguments[5]), size(lastSize(query)), valueSize(lastSize(value)) {
  arguments = arguments.drop_front(6);
  biases.assign(arguments.begin(), arguments.begin() + form.numBiases);
  arguments = arguments.drop_front(form.numBiases);
  if (form.hasLengths) {
    lengths = arguments.front();
    arguments = arguments.drop_front();
  }
  if (form.hasSink)
    sink = arguments.front();
}

AttentionEmitter::AttentionEmitter(KernelBuilder &b, const AttentionForm &form,
                                   ValueRange arguments)
    : AttentionArguments(form, arguments), b(b), form(form), lanes(b.target.lanes),
      paddedValueSize(llvm::alignTo(valueSize, b.target.lanes)), taskRows(b.target.attentionRows()),
      rowsAtOnce(b.target.rowsAtOnce()), vectors(b.target.keyVectors()),
      tile(b.target.keysPerTile()) {}

void AttentionEmitter::emit() {
  Value batches = b.dim(query, 0), heads = b.dim(query, 1), keyHeads = b.dim(key, 1);
  numQueries = b.dim(query, 2);
  numKeys = b.dim(key, 2);
  group = div(heads, maxIndex(keyHeads, b.index(1)));
  Value rows = b.mul(numQueries, group), blocks = b.ceilDiv(rows, taskRows);
  b.parallelLoop(b.mul(b.mul(batches, keyHeads), blocks), [&](Value task) {
    Value block = rem(task, blocks), head = div(task, blocks);
    batch = div(head, keyHeads);
    keyHead = rem(head, keyHeads);
    firstRow = b.mul(block, taskRows);
    count = b.min(b.index(taskRows), b.sub(rows, firstRow));
    emitTask(task);
  });
}

void AttentionEmitter::emitTask(Value task) {
  allocate();
  enterBatch();
  b.forLoop(count, [&](Value row) { packRow(row); });
  auto [begin, end] = keyRange(firstRow);
  b.forLoop(begin, end, b.index(tile), [&, end = end](Value key) { emitKeyTile(key, end); });
  b.forLoop(count, [&](Value row) { storeRow(row); });
}

void AttentionEmitter::allocate() {
  Type f32 = b.getF32Type(), index = b.getIndexType();
  queries = b.stack(taskRows * size, f32);
  sums = b.stack(taskRows * paddedValueSize, f32);
  maxima = b.stack(taskRows * lanes, f32);
  totals = b.stack(taskRows * lanes, f32);
  keys = b.stack(size * tile, f32);
  weights = b.stack(rowsAtOnce * tile, f32);
  for (Value *perRow : {&rowQueries, &rowHeads, &rowBegins, &rowEnds})
    *perRow = b.stack(taskRows, index);
}

/// What depends on the batch alone.
void AttentionEmitter::enterBatch() {
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

//===----------------------------------------------------------------------===//
// Rows of queries
//===----------------------------------------------------------------------===//

/// Prepares the row: by queries, so that rows of a block see about the same keys.
void AttentionEmitter::packRow(Value row) {
  Value number = b.add(firstRow, row), at = div(number, group);
  Value head = b.add(b.mul(keyHead, group), rem(number, group));
  b.store(at, rowQueries, row);
  b.store(head, rowHeads, row);
  setBounds(row, at);
  Value factor = b.splat(scale), start = this->at(row, size);
  b.forVectors(size, [&](Value i, int64_t n) {
    Value part = b.mulf(b.loadVectorPart(query, {batch, head, at, i}, n, 0.0), factor);
    b.storeVector(part, queries, b.add(start, i), n);
  });
  Value zero = b.splat(0.0), sums = this->at(row, paddedValueSize);
  b.forVectors(paddedValueSize,
               [&](Value i, int64_t n) { b.storeVector(zero, this->sums, b.add(sums, i), n); });
  Value max = sink ? b.splat(b.loadF32(sink, head)) : b.splat(-kInfinity);
  Value total = sink ? b.firstLanes(b.splat(1.0), 1, 0.0) : zero;
  b.storeVector(max, maxima, this->at(row, lanes), lanes);
  b.storeVector(total, totals, this->at(row, lanes), lanes);
}

/// The keys that query number `query` may read.
void AttentionEmitter::setBounds(Value row, Value query) {
  Value place = b.add(position, query), begin = b.index(0), end = length;
  if (form.left)
    begin = b.sub(place, b.index(*form.left));
  if (form.right)
    end = b.min(b.add(place, b.index(*form.right + 1)), end);
  b.store(begin, rowBegins, row);
  b.store(end, rowEnds, row);
}

/// The keys that some row of the task may read.
std::pair<Value, Value> AttentionEmitter::keyRange(Value firstRow) {
  Value begin = b.index(0), end = length;
  if (form.left)
    begin = maxIndex(b.load(rowBegins, b.index(0)), begin);
  if (form.right)
    end = b.load(rowEnds, b.sub(count, b.index(1)));
  return {begin, end};
}

void AttentionEmitter::storeRow(Value row) {
  Value total = acrossLanes(b.loadVector(totals, at(row, lanes)),
                            [&](Value x, Value y) { return b.addf(x, y); });
  Value isEmpty = b.compare(arith::CmpFPredicate::OEQ, total, b.splat(0.0));
  Value none = b.splat(form.emptyIsNaN ? std::numeric_limits<double>::quiet_NaN() : 0.0);
  Value head = b.load(rowHeads, row), query = b.load(rowQueries, row);
  b.forVectors(valueSize, [&](Value i, int64_t n) {
    Value quotient = b.divf(b.loadVector(sums, b.add(at(row, paddedValueSize), i)), total);
    b.storeVector(b.select(isEmpty, none, quotient), result, {batch, head, query, i}, n);
  });
}

//===----------------------------------------------------------------------===//
// Tiles of keys
//===----------------------------------------------------------------------===//

void AttentionEmitter::emitKeyTile(Value key, Value end) {
  tileKey = key;
  tileCount = b.min(b.index(tile), b.sub(end, key));
  packKeys();
  forRowBlocks([&](Value row, int64_t rows) {
    if (!form.right)
      return emitRows(row, rows);
    // Later rows read further.
    Value last = b.load(rowEnds, b.add(row, rows - 1));
    b.ifThen(b.less(key, last), [&] { emitRows(row, rows); });
  });
}

void AttentionEmitter::forRowBlocks(function_ref<void(Value, int64_t)> body) {
  Value whole = b.mul(div(count, b.index(rowsAtOnce)), rowsAtOnce);
  b.forLoop(b.index(0), whole, b.index(rowsAtOnce), [&](Value row) { body(row, rowsAtOnce); });
  b.forLoop(whole, count, b.index(1), [&](Value row) { body(row, 1); });
}

/// Every vector combined with itself, rotated by half of the lanes, by a quarter …
Value AttentionEmitter::acrossLanes(Value vector, function_ref<Value(Value, Value)> combine) {
  for (int64_t distance = lanes / 2; distance > 0; distance /= 2) {
    SmallVector<int64_t> order;
    for (int64_t lane = 0; lane < lanes; ++lane)
      order.push_back(lane ^ distance);
    vector = combine(vector, vector::ShuffleOp::create(b, b.getLoc(), vector, vector, order));
  }
  return vector;
}

/// The columns of as many rows as there are lanes: log2(lanes) times, row i and row
/// i + lanes / 2 are interleaved to rows 2 i and 2 i + 1.
SmallVector<Value> AttentionEmitter::transposed(SmallVector<Value> rows) {
  SmallVector<int64_t> low, high;
  for (int64_t lane = 0; lane < lanes / 2; ++lane) {
    low.append({lane, lanes + lane});
    high.append({lanes / 2 + lane, lanes + lanes / 2 + lane});
  }
  for (int64_t step = 1; step < lanes; step *= 2) {
    SmallVector<Value> next;
    for (int64_t i = 0; i < lanes / 2; ++i)
      for (ArrayRef<int64_t> order : {ArrayRef(low), ArrayRef(high)})
        next.push_back(
            vector::ShuffleOp::create(b, b.getLoc(), rows[i], rows[i + lanes / 2], order));
    rows = std::move(next);
  }
  return rows;
}

/// Transposes the keys of the tile. Those behind the last one repeat it: their scores are
/// never used.
void AttentionEmitter::packKeys() {
  Value last = b.sub(b.add(tileKey, tileCount), b.index(1));
  b.forLoop(b.index(0), tileCount, b.index(lanes), [&](Value column) {
    Value first = b.add(tileKey, column);
    b.forVectors(size, [&](Value i, int64_t n) {
      SmallVector<Value> rows;
      for (int64_t lane = 0; lane < lanes; ++lane)
        rows.push_back(
            b.loadVectorPart(key, {batch, keyHead, b.min(b.add(first, lane), last), i}, n, 0.0));
      rows = transposed(std::move(rows));
      for (int64_t lane = 0; lane < n; ++lane)
        b.storeVector(rows[lane], keys, b.add(at(b.add(i, lane), tile), column), lanes);
    });
  });
}

//===----------------------------------------------------------------------===//
// Rows and keys
//===----------------------------------------------------------------------===//

void AttentionEmitter::emitRows(Value row, int64_t rows) {
  SmallVector<Value> all = scores(row, rows), factors;
  for (int64_t r = 0; r < rows; ++r) {
    Value at = b.add(row, r);
    MutableArrayRef<Value> own = MutableArrayRef(all).slice(r * vectors, vectors);
    finishScores(at, own);
    factors.push_back(softmax(at, r, own));
  }
  addValues(row, factors);
}

/// The products of `rows` rows with the keys of the tile, `vectors` for each row.
SmallVector<Value> AttentionEmitter::scores(Value row, int64_t rows) {
  SmallVector<Value> init(rows * vectors, b.splat(0.0));
  Value start = at(row, size);
  return b.forLoop(b.index(0), b.index(size), b.index(1), init, [&](Value i, ValueRange sums) {
    SmallVector<Value> parts, next;
    for (int64_t v = 0; v < vectors; ++v)
      parts.push_back(b.loadVector(keys, b.add(at(i, tile), v * lanes)));
    for (int64_t r = 0; r < rows; ++r) {
      Value factor = b.splat(b.load(queries, b.add(b.add(start, i), r * size)));
      for (int64_t v = 0; v < vectors; ++v)
        next.push_back(b.fma(factor, parts[v], sums[r * vectors + v]));
    }
    return next;
  });
}

/// Vector number `vector` of the tile of a bias.
Value AttentionEmitter::bias(Value bias, Value row, int64_t vector) {
  auto type = cast<MemRefType>(bias.getType());
  Value column = b.add(tileKey, vector * lanes);
  SmallVector<Value> at = {batch, b.load(rowHeads, row), b.load(rowQueries, row), column};
  for (int64_t dim = 0; dim < 4; ++dim)
    if (type.getDimSize(dim) == 1)
      at[dim] = b.index(0);
  if (type.getDimSize(3) == 1)
    return b.splat(b.load(bias, at));
  Value left = b.sub(tileCount, b.index(vector * lanes));
  Value mask = vector::CreateMaskOp::create(b, b.getLoc(), b.vectorType(b.getI1Type()), left);
  return vector::MaskedLoadOp::create(b, b.getLoc(), b.vectorType(), bias, at, mask, b.splat(0.0));
}

/// Scores of a row: capped, biased, -inf where the key is out.
void AttentionEmitter::finishScores(Value row, MutableArrayRef<Value> scores) {
  Value end = form.right ? b.load(rowEnds, row) : b.add(tileKey, tileCount);
  Value none = b.splat(-kInfinity);
  for (int64_t v = 0; v < vectors; ++v) {
    Value score = scores[v];
    if (form.softcap != 0) {
      score = b.mulf(score, b.splat(1 / form.softcap));
      score = math::TanhOp::create(b, b.getLoc(), score);
      score = b.mulf(score, b.splat(form.softcap));
    }
    for (Value bias : biases)
      score = b.addf(score, this->bias(bias, row, v));
    auto before = [&](Value bound) {
      Value left = b.sub(b.sub(bound, tileKey), b.index(v * lanes));
      return vector::CreateMaskOp::create(b, b.getLoc(), b.vectorType(b.getI1Type()), left);
    };
    score = b.select(before(end), score, none);
    if (form.left)
      score = b.select(before(b.load(rowBegins, row)), none, score);
    scores[v] = score;
  }
}

/// Takes the scores of a row into its maximum and sum; the exponentials become row `place` of
/// the weights. Returns what the sums so far are to be multiplied by.
Value AttentionEmitter::softmax(Value row, int64_t place, ArrayRef<Value> scores) {
  Value start = at(row, lanes), highest = scores.front();
  for (Value score : scores.drop_front())
    highest = larger(score, highest);
  highest = acrossLanes(highest, [&](Value x, Value y) { return larger(x, y); });
  Value before = b.loadVector(maxima, start), max = larger(highest, before);
  b.storeVector(max, maxima, start, lanes);
  // Relative to 0 when there is no key yet.
  Value isNone = b.compare(arith::CmpFPredicate::OEQ, max, b.splat(-kInfinity));
  Value shift = b.select(isNone, b.splat(0.0), max);
  Value factor = b.exp(b.subf(before, shift));
  Value total = b.mulf(b.loadVector(totals, start), factor);
  for (auto [v, score] : llvm::enumerate(scores)) {
    Value weight = b.exp(b.subf(score, shift));
    b.storeVector(weight, weights, b.index(place * tile + v * lanes), lanes);
    total = b.addf(total, weight);
  }
  b.storeVector(total, totals, start, lanes);
  return factor;
}

/// Adds the weighted values of the tile to the sums of `row` … .
void AttentionEmitter::addValues(Value row, ArrayRef<Value> factors) {
  int64_t rows = factors.size();
  for (int64_t first = 0; first < valueSize; first += vectors * lanes) {
    int64_t parts = llvm::divideCeil(std::min(valueSize - first, vectors * lanes), lanes);
    auto place = [&](int64_t r, int64_t v) {
      return b.add(at(b.add(row, r), paddedValueSize), first + v * lanes);
    };
    SmallVector<Value> init;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t v = 0; v < parts; ++v)
        init.push_back(b.mulf(b.loadVector(sums, place(r, v)), factors[r]));
    SmallVector<Value> results =
        b.forLoop(b.index(0), tileCount, b.index(1), init, [&](Value i, ValueRange so) {
          SmallVector<Value> loaded, next;
          for (int64_t v = 0; v < parts; ++v) {
            int64_t column = first + v * lanes;
            loaded.push_back(b.loadVectorPart(value,
                                              {batch, keyHead, b.add(tileKey, i), b.index(column)},
                                              valueSize - column, 0.0));
          }
          for (int64_t r = 0; r < rows; ++r) {
            Value weight = b.splat(b.load(weights, b.add(i, r * tile)));
            for (int64_t v = 0; v < parts; ++v)
              next.push_back(b.fma(weight, loaded[v], so[r * parts + v]));
          }
          return next;
        });
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t v = 0; v < parts; ++v)
        b.storeVector(results[r * parts + v], sums, place(r, v), lanes);
  }
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

/// What the code depends on is in the hash.
static std::string kernelName(const AttentionForm &form, TypeRange arguments) {
  std::string text;
  llvm::raw_string_ostream os(text);
  auto bound = [&](std::optional<int64_t> bound) {
    os << (bound ? Twine(*bound) : Twine("-")) << ' ';
  };
  os << llvm::format("%a ", form.softcap);
  bound(form.left);
  bound(form.right);
  os << form.emptyIsNaN << form.endsAtLength << form.numBiases << form.hasLengths << form.hasSink;
  llvm::interleave(arguments, os, " ");
  return "moec_attention_" + llvm::utohexstr(llvm::xxh3_64bits(text), /*LowerCase=*/true, 16);
}

func::FuncOp cpu::getOrCreateAttentionKernel(ModuleOp module, int64_t vectorBits,
                                             const AttentionForm &form, TypeRange arguments) {
  func::FuncOp kernel;
  getOrCreateKernel(module, kernelName(form, arguments), arguments, KernelTarget{{vectorBits / 32}},
                    kernel, [&](KernelBuilder &b, Block::BlockArgListType arguments) {
                      SmallVector<Value> values(arguments.begin(), arguments.end());
                      AttentionEmitter(b, form, values).emit();
                    });
  return kernel;
}

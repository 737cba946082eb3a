// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention and rotary embeddings.

#include "Attention.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

//===----------------------------------------------------------------------===//
// Heads
//===----------------------------------------------------------------------===//

/// Splits the last dimension of [batch, rows, heads * size] into `count` heads.
static FailureOr<Heads> splitHeads(NodeLowering &n, Value tensor, int64_t count) {
  auto type = cast<RankedTensorType>(tensor.getType());
  if (type.getRank() == 4)
    return Heads{tensor};
  if (type.getRank() != 3)
    return n.fail("needs inputs of rank 3 or 4, got rank " + Twine(type.getRank()));
  if (count <= 0)
    return n.fail("inputs of rank 3 need the number of heads");
  ImplicitLocOpBuilder &b = n.b;
  Sizes sizes = getSizes(b, tensor);
  OpFoldResult all = sizes[2], each = quotientOf(b, all, OpFoldResult(b.getIndexAttr(count)));
  if (std::optional<int64_t> known = getConstantIntValue(all); known && *known % count != 0)
    return n.fail("size " + Twine(*known) + " cannot be split into " + Twine(count) + " heads");
  if (!getConstantIntValue(all))
    n.check(equalSizes(b, mulSizes(b, each, b.getIndexAttr(count)), all),
            "the last size is no multiple of the number of heads");
  sizes[2] = b.getIndexAttr(count);
  sizes.push_back(each);
  return Heads{reshapeTo(b, tensor, sizes), /*rowsFirst=*/true};
}

/// [batch, rows, heads, size] as [batch, rows, heads * size].
static Value joinHeads(ImplicitLocOpBuilder &b, Value tensor) {
  Sizes sizes = getSizes(b, tensor);
  sizes[2] = mulSizes(b, sizes[2], sizes[3]);
  sizes.pop_back();
  return reshapeTo(b, tensor, sizes);
}

/// The sizes of [batch, heads, rows, size].
static Sizes getHeadSizes(ImplicitLocOpBuilder &b, const Heads &heads) {
  Sizes sizes = getSizes(b, heads.tensor);
  return {sizes[0], sizes[heads.headDim()], sizes[heads.rowDim()], sizes[3]};
}

/// Keys or values as [batch, heads, rows, size], behind those of `past` unless it is null.
static FailureOr<Value> appendRows(NodeLowering &n, Value past, Heads heads) {
  if (!past && !heads.rowsFirst)
    return heads.tensor;
  ImplicitLocOpBuilder &b = n.b;
  if (past) {
    if (cast<RankedTensorType>(past.getType()).getRank() != 4)
      return n.fail("past keys and values must have rank 4");
    for (auto [dim, own] : {std::pair<int64_t, int64_t>(0, 0), {1, heads.headDim()}, {3, 3}})
      if (failed(unifyDim(n, past, dim, heads.tensor, own, "past and new keys or values differ")))
        return failure();
  }
  Sizes part = getHeadSizes(b, heads), sizes = part;
  Sizes offsets(4, b.getIndexAttr(0)), strides(4, b.getIndexAttr(1));
  if (past)
    sizes[2] = addSizes(b, sizes[2], getSize(b, past, 2));
  Type type = getElementTypeOrSelf(heads.tensor.getType());
  Value result = emptyTensor(b, sizes, type);
  if (past) {
    Sizes pastSizes = getSizes(b, past);
    result = tensor::InsertSliceOp::create(b, past, result, offsets, pastSizes, strides);
    offsets[2] = pastSizes[2];
  }
  Value rows = heads.tensor;
  if (heads.rowsFirst) {
    SmallVector<int64_t> permutation = {0, 2, 1, 3};
    rows =
        linalg::TransposeOp::create(b, rows, emptyTensor(b, part, type), permutation)->getResult(0);
  }
  if (!past)
    return rows;
  return tensor::InsertSliceOp::create(b, rows, result, offsets, part, strides).getResult();
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

/// A mask with a value for each of `numKeys` keys: those it says nothing of are out. Before
/// version 24 a size of 1 broadcasts.
static Value padMask(NodeLowering &n, Value mask, OpFoldResult numKeys) {
  ImplicitLocOpBuilder &b = n.b;
  int64_t last = cast<RankedTensorType>(mask.getType()).getRank() - 1;
  OpFoldResult size = getSize(b, mask, last);
  if (isSameSize(size, numKeys) || (isSize(size, 1) && n.node.getVersion() < 24))
    return mask;
  n.check(b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::sle, toValue(b, size),
                                        toValue(b, numKeys)),
          "the mask has more columns than there are keys");
  Sizes sizes = getSizes(b, mask);
  sizes[last] = numKeys;
  Type type = getElementTypeOrSelf(mask.getType());
  Attribute out = isa<FloatType>(type)
                      ? Attribute(b.getFloatAttr(type, -std::numeric_limits<double>::infinity()))
                      : Attribute(b.getIntegerAttr(type, 0));
  Value columns = toValue(b, size), zero = arith::ConstantIndexOp::create(b, 0);
  Value none = arith::ConstantOp::create(b, cast<TypedAttr>(out));
  // A mask without columns has no element to read.
  bool isEmpty = isSize(size, 0);
  return generateTensor(b, sizes, type, [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    if (isEmpty)
      return none;
    SmallVector<Value> place(at);
    Value isInside = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, at[last], columns);
    place[last] = arith::SelectOp::create(b, isInside, at[last], zero);
    return arith::SelectOp::create(b, isInside, tensor::ExtractOp::create(b, mask, place), none);
  });
}

/// The window of keys around each query, from is_causal and the window sizes.
static LogicalResult setWindow(NodeLowering &n, AttentionSpec &spec) {
  for (auto [name, side] :
       {std::pair<StringRef, std::optional<int64_t> *>{"left_window_size", &spec.left},
        {"right_window_size", &spec.right}}) {
    int64_t size = n.node.getIntAttr(name, -1);
    if (size < -1)
      return n.fail(name + " must be -1 or not negative, got " + Twine(size));
    if (size >= 0)
      *side = size;
  }
  if (n.node.getIntAttr("is_causal", 0))
    spec.right = 0;
  return success();
}

/// The factor of the scores: 1 / sqrt(size) by default.
static Value getScale(NodeLowering &n, Value query) {
  ImplicitLocOpBuilder &b = n.b;
  Type type = getComputeType(getElementTypeOrSelf(query.getType()));
  if (n.node.hasNodeAttr("scale"))
    return constantOf(b, type, n.node.getFloatAttr("scale", 1));
  OpFoldResult size = getSize(b, query, 3);
  if (std::optional<int64_t> known = getConstantIntValue(size))
    return constantOf(b, type, 1 / std::sqrt(static_cast<double>(*known)));
  Value number = arith::SIToFPOp::create(b, type, fromIndex(b, size, b.getI64Type()));
  return arith::DivFOp::create(b, constantOf(b, type, 1), math::SqrtOp::create(b, number));
}

/// In a product that broadcasts, keys have one head or as many as queries.
static LogicalResult checkBroadcastHeads(NodeLowering &n, const Heads &query, const Heads &key) {
  OpFoldResult heads = getSize(n.b, query.tensor, query.headDim());
  OpFoldResult keyHeads = getSize(n.b, key.tensor, key.headDim());
  if (isSameSize(heads, keyHeads) || isSize(keyHeads, 1))
    return success();
  StringRef message = "the heads of queries and keys differ";
  if (getConstantIntValue(heads) && getConstantIntValue(keyHeads))
    return n.fail(message);
  Value isOne = equalSizes(n.b, keyHeads, n.b.getIndexAttr(1));
  Value isSame = equalSizes(n.b, keyHeads, heads);
  n.check(n.b.createOrFold<arith::OrIOp>(isOne, isSame), message);
  return success();
}

/// The scaled product of each query and key, in the compute type.
static Value multiplyHeads(ImplicitLocOpBuilder &b, const AttentionSpec &spec) {
  Type compute = spec.scale.getType();
  Sizes query = getHeadSizes(b, spec.query), key = getHeadSizes(b, spec.key);
  Value group = toValue(b, maxSizes(b, quotientOf(b, query[1], key[1]), b.getIndexAttr(1)));
  Value size = toValue(b, query[3]), zero = arith::ConstantIndexOp::create(b, 0),
        one = arith::ConstantIndexOp::create(b, 1), none = constantOf(b, compute, 0);
  auto read = [&](ImplicitLocOpBuilder &b, const Heads &heads, Value batch, Value head, Value row,
                  Value column) {
    SmallVector<Value> at = {batch, head, row, column};
    if (heads.rowsFirst)
      std::swap(at[1], at[2]);
    return toComputeType(b, tensor::ExtractOp::create(b, heads.tensor, at));
  };
  return generateTensor(
      b, {query[0], query[1], query[2], key[2]}, compute,
      [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
        Value keyHead = arith::DivUIOp::create(b, at[1], group);
        auto loop = scf::ForOp::create(b, zero, size, one, none);
        auto inner = ImplicitLocOpBuilder::atBlockBegin(b.getLoc(), loop.getBody());
        Value column = loop.getInductionVar();
        Value product =
            multiplyElements(inner, read(inner, spec.query, at[0], at[1], at[2], column),
                             read(inner, spec.key, at[0], keyHead, at[3], column));
        scf::YieldOp::create(inner, addElements(inner, loop.getRegionIterArg(0), product));
        return arith::MulFOp::create(b, loop.getResult(0), spec.scale);
      });
}

/// -inf for the keys that are no one's, or outside of the window of a query.
static Value maskWindow(ImplicitLocOpBuilder &b, const AttentionSpec &spec, Value scores) {
  if (!spec.left && !spec.right && !spec.lengths)
    return scores;
  Value rows = toValue(b, getSize(b, scores, 2));
  Value given = spec.offset ? toValue(b, spec.offset) : Value();
  Value out = constantOf(b, spec.scale.getType(), -std::numeric_limits<double>::infinity());
  auto index = [](ImplicitLocOpBuilder &b, int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, value);
  };
  return generateTensor(b, getSizes(b, scores), spec.scale.getType(),
                        [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
                          Value score = tensor::ExtractOp::create(b, scores, at), offset = given;
                          auto keepIf = [&](arith::CmpIPredicate predicate, Value lhs, Value rhs) {
                            Value isKept = arith::CmpIOp::create(b, predicate, lhs, rhs);
                            score = arith::SelectOp::create(b, isKept, score, out);
                          };
                          if (spec.lengths) {
                            Value length = tensor::ExtractOp::create(b, spec.lengths, at[0]);
                            length = arith::IndexCastOp::create(b, b.getIndexType(), length);
                            keepIf(arith::CmpIPredicate::slt, at[3], length);
                            if (!offset)
                              offset = arith::SubIOp::create(b, length, rows);
                          }
                          Value position = arith::AddIOp::create(b, at[2], offset);
                          if (spec.right)
                            keepIf(arith::CmpIPredicate::sle, at[3],
                                   arith::AddIOp::create(b, position, index(b, *spec.right)));
                          if (spec.left)
                            keepIf(arith::CmpIPredicate::sge, at[3],
                                   arith::SubIOp::create(b, position, index(b, *spec.left)));
                          return score;
                        });
}

/// Softmax of the last dimension; rows without any key are zeros.
static FailureOr<Value> softmaxRows(NodeLowering &n, Value scores) {
  ImplicitLocOpBuilder &b = n.b;
  Type compute = getElementTypeOrSelf(scores.getType());
  double infinity = std::numeric_limits<double>::infinity();
  Value highest = reduce(b, scores, 3, constantOf(b, compute, -infinity),
                         [](ImplicitLocOpBuilder &b, Value acc, Value element) {
                           return extreme(b, acc, element, /*isUnsigned=*/false, /*isMax=*/true);
                         });
  FailureOr<Value> powers =
      mapElements(n, {scores, unsqueeze(b, highest, 3)}, compute,
                  [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
                    Value isEmpty = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, x[1],
                                                          constantOf(b, compute, -infinity));
                    Value power = math::ExpOp::create(b, arith::SubFOp::create(b, x[0], x[1]));
                    return arith::SelectOp::create(b, isEmpty, constantOf(b, compute, 0), power);
                  });
  if (failed(powers))
    return failure();
  Value sum = reduce(b, *powers, 3, constantOf(b, compute, 0),
                     [](ImplicitLocOpBuilder &b, Value acc, Value element) {
                       return addElements(b, acc, element);
                     });
  return mapElements(n, {*powers, unsqueeze(b, sum, 3)}, compute,
                     [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
                       Value zero = constantOf(b, compute, 0);
                       Value isEmpty =
                           arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, x[1], zero);
                       Value weight = arith::DivFOp::create(b, x[0], x[1]);
                       return arith::SelectOp::create(b, isEmpty, zero, weight);
                     });
}

/// The scores as an output: products, with softcap from mode 1 on, masked from 2 on, and
/// after the softmax in 3.
static FailureOr<Value> buildScores(NodeLowering &n, const AttentionSpec &spec) {
  ImplicitLocOpBuilder &b = n.b;
  int64_t mode = n.node.getIntAttr("qk_matmul_output_mode", 0);
  if (mode < 0 || mode > 3)
    return n.fail("qk_matmul_output_mode must be 0 to 3, got " + Twine(mode));
  Type compute = spec.scale.getType();
  FailureOr<Value> scores = multiplyHeads(b, spec);
  if (mode >= 1 && spec.softcap != 0)
    scores = mapElements(n, *scores, compute, [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
      Value cap = constantOf(b, compute, spec.softcap);
      Value part = math::TanhOp::create(b, arith::DivFOp::create(b, x[0], cap));
      return arith::MulFOp::create(b, part, cap);
    });
  for (Value bias : mode >= 2 ? ArrayRef<Value>(spec.biases) : ArrayRef<Value>()) {
    if (failed(scores))
      return failure();
    Type type = getElementTypeOrSelf(bias.getType());
    scores = mapElements(
        n, {*scores, bias}, compute, [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
          if (type.isInteger(1))
            return arith::SelectOp::create(
                b, x[1], x[0], constantOf(b, compute, -std::numeric_limits<double>::infinity()));
          return arith::AddFOp::create(b, x[0], castElement(b, x[1], type, compute));
        });
  }
  if (mode >= 2 && succeeded(scores))
    scores = maskWindow(b, spec, *scores);
  if (mode == 3 && succeeded(scores))
    scores = softmaxRows(n, *scores);
  if (failed(scores))
    return failure();
  return convertTensor(n, *scores, getElementTypeOrSelf(spec.query.tensor.getType()));
}

static LogicalResult lowerAttention(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  int64_t queryHeads = n.node.getIntAttr("q_num_heads", 0);
  int64_t keyHeads = n.node.getIntAttr("kv_num_heads", 0);
  FailureOr<Heads> query = splitHeads(n, n.input(0), queryHeads);
  FailureOr<Heads> key = splitHeads(n, n.input(1), keyHeads);
  FailureOr<Heads> value = splitHeads(n, n.input(2), keyHeads);
  if (failed(query) || failed(key) || failed(value))
    return failure();
  if (n.node.getIntAttr("__broadcast_heads", 0) && failed(checkBroadcastHeads(n, *query, *key)))
    return failure();
  if (n.input(3) && n.inputType(3).getRank() == 0)
    return n.fail("the mask is a scalar");
  for (unsigned i = 0; i < 3; ++i)
    if (!isa<FloatType>(n.inputType(i).getElementType()))
      return n.fail("input " + Twine(i) + " must be a floating-point tensor");
  Value mask = n.input(3), pastKey = n.input(4), pastValue = n.input(5), lengths = n.input(6);
  if (!pastKey != !pastValue)
    return n.fail("past keys and past values go together");
  if (lengths && pastKey)
    return n.fail("numbers of keys cannot be given together with past keys");

  AttentionSpec spec;
  spec.query = *query, spec.key = *key, spec.value = *value;
  bool needsPresent = pastKey || (n.node.getNumResults() > 1 && !n.node.getResult(1).use_empty()) ||
                      (n.node.getNumResults() > 2 && !n.node.getResult(2).use_empty());
  FailureOr<Value> presentKey = Value(), presentValue = Value();
  spec.offset = pastKey ? getSize(b, pastKey, 2) : OpFoldResult(b.getIndexAttr(0));
  if (needsPresent) {
    presentKey = appendRows(n, pastKey, *key);
    presentValue = appendRows(n, pastValue, *value);
    if (failed(presentKey) || failed(presentValue))
      return failure();
    spec.key = {*presentKey};
    spec.value = {*presentValue};
  }
  if (lengths)
    spec.offset = {};
  spec.lengths = lengths;
  spec.softcap = n.node.getFloatAttr("softcap", 0);
  spec.emptyIsNaN = n.node.getIntAttr("__empty_is_nan", 0) != 0;
  if (failed(setWindow(n, spec)))
    return failure();
  if (mask)
    spec.biases.push_back(padMask(n, mask, getSize(b, spec.key.tensor, spec.key.rowDim())));
  spec.scale = getScale(n, spec.query.tensor);
  FailureOr<Value> result = buildAttention(n, spec);
  if (failed(result))
    return failure();
  FailureOr<Value> scores = Value();
  if (n.node.getNumResults() > 3 && !n.node.getResult(3).use_empty())
    scores = buildScores(n, spec);
  if (failed(scores))
    return failure();
  SmallVector<Value> results = {query->rowsFirst ? joinHeads(b, *result) : *result, *presentKey,
                                *presentValue, *scores};
  results.resize(n.node.getNumResults());
  return n.replace(results);
}

//===----------------------------------------------------------------------===//
// GroupQueryAttention
//===----------------------------------------------------------------------===//

namespace {
/// Where the new rows of each batch go among those of the cache.
struct CachePlaces {
  /// Rows of past and new keys by batch, [batch].
  Value lengths;
  OpFoldResult numRows, numNew;
};
} // namespace

/// The rows that are there once the new ones are: of a buffer that is larger, all.
static FailureOr<OpFoldResult> getCacheRows(NodeLowering &n, OpFoldResult past, OpFoldResult rows) {
  ImplicitLocOpBuilder &b = n.b;
  FailureOr<OpFoldResult> total = n.scalarInput(6, "total_sequence_length");
  if (failed(total))
    return failure();
  if (!dependsOnData(*total))
    return maxSizes(b, *total, past);
  // The sizes of outputs are known before the run: those of a cache that just grows.
  OpFoldResult sum = addSizes(b, past, rows);
  n.check(equalSizes(b, *total, sum), "total_sequence_length is an input, and not the number of "
                                      "past and new rows");
  return sum;
}

static FailureOr<CachePlaces> findPlaces(NodeLowering &n, Value past, const Heads &query) {
  ImplicitLocOpBuilder &b = n.b;
  CachePlaces places;
  Sizes sizes = getHeadSizes(b, query);
  places.numNew = sizes[2];
  OpFoldResult numPast = past ? getSize(b, past, 2) : OpFoldResult(b.getIndexAttr(0));
  FailureOr<OpFoldResult> rows = getCacheRows(n, numPast, places.numNew);
  if (failed(rows))
    return failure();
  places.numRows = *rows;
  n.check(b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::sge, toValue(b, *rows),
                                        toValue(b, places.numNew)),
          "total_sequence_length is less than the number of new rows");
  Value given = n.input(5);
  auto type = cast<RankedTensorType>(given.getType());
  if (!isa<IntegerType>(type.getElementType()) || type.getRank() < 1 || type.getRank() > 2)
    return n.fail("seqlens_k must be integers of rank 1 or 2");
  if (type.getRank() == 2)
    given = reshapeTo(b, given, productOf(b, getSizes(b, given)));
  OpFoldResult batches = sizes[0];
  Value queries = query.tensor;
  if (failed(unifyDim(n, given, 0, queries, 0, "seqlens_k has not one length for each batch")))
    return failure();
  // Rows behind the end of a padded prompt count: nothing that is of use sees them.
  Value newRows = fromIndex(b, places.numNew, b.getI64Type());
  Value lengths =
      generateTensor(b, {batches}, b.getI64Type(), [&](ImplicitLocOpBuilder &b, ValueRange at) {
        Value last = tensor::ExtractOp::create(b, given, at);
        last = castElement(b, last, last.getType(), b.getI64Type());
        Value length = arith::AddIOp::create(b, last, constantOf(b, b.getI64Type(), 1));
        return arith::MaxSIOp::create(b, length, newRows).getResult();
      });
  // No batch may have more rows than there are, nor more past ones than were given.
  Value longest = reduce(b, lengths, 0, constantOf(b, b.getI64Type(), 0),
                         [](ImplicitLocOpBuilder &b, Value acc, Value element) -> Value {
                           return arith::MaxSIOp::create(b, acc, element);
                         });
  Value most = tensor::ExtractOp::create(b, longest, ValueRange());
  OpFoldResult limit = minSizes(b, places.numRows, addSizes(b, numPast, places.numNew));
  Value bound = fromIndex(b, limit, b.getI64Type());
  n.check(arith::CmpIOp::create(b, arith::CmpIPredicate::sle, most, bound),
          "seqlens_k has a length that is more than the past and new rows");
  places.lengths =
      generateTensor(b, {batches}, b.getI64Type(), [&](ImplicitLocOpBuilder &b, ValueRange at) {
        return arith::MinSIOp::create(b, tensor::ExtractOp::create(b, lengths, at), bound)
            .getResult();
      });
  return places;
}

/// The cache [batch, heads, rows, size] with the new rows behind the past ones of each batch.
static FailureOr<Value> addToCache(NodeLowering &n, Value past, const Heads &heads,
                                   const CachePlaces &places) {
  ImplicitLocOpBuilder &b = n.b;
  FailureOr<Value> rows = appendRows(n, {}, heads);
  if (failed(rows))
    return failure();
  if (past && cast<RankedTensorType>(past.getType()).getRank() != 4)
    return n.fail("past keys and values must have rank 4");
  for (int64_t dim : {0, 1, 3})
    if (past && failed(unifyDim(n, past, dim, *rows, dim, "past and new keys or values differ")))
      return failure();
  Type type = getElementTypeOrSelf(rows->getType());
  Sizes sizes = getSizes(b, *rows);
  OpFoldResult batches = sizes[0];
  sizes[2] = places.numRows;
  Value cache = emptyTensor(b, sizes, type), newRows = toValue(b, places.numNew);
  Value all = toValue(b, places.numRows);
  sizes[0] = b.getIndexAttr(1);
  auto place = [&](ImplicitLocOpBuilder &b, Value source, Value from, Value cache, Value batch,
                   Value to, Value count) -> Value {
    Sizes part(sizes), ones(4, b.getIndexAttr(1)), offsets(4, b.getIndexAttr(0));
    part[2] = count;
    offsets[0] = batch;
    offsets[2] = from;
    Value slice = tensor::ExtractSliceOp::create(b, source, offsets, part, ones);
    offsets[2] = to;
    return tensor::InsertSliceOp::create(b, slice, cache, offsets, part, ones);
  };
  auto step = [&](ImplicitLocOpBuilder &b, ValueRange at, Value cache) -> Value {
    Value length = arith::IndexCastOp::create(b, b.getIndexType(),
                                              tensor::ExtractOp::create(b, places.lengths, at));
    Value start = arith::SubIOp::create(b, length, newRows);
    Value zero = arith::ConstantIndexOp::create(b, 0);
    if (past)
      cache = place(b, past, zero, cache, at[0], zero, start);
    cache = place(b, *rows, zero, cache, at[0], start, newRows);
    // What is behind is not seen, but is part of an output.
    Sizes part(sizes), ones(4, b.getIndexAttr(1)), offsets(4, b.getIndexAttr(0));
    offsets[0] = at[0];
    offsets[2] = length;
    part[2] = arith::SubIOp::create(b, all, length).getResult();
    Value rest = filledTensor(b, part, type, 0);
    return tensor::InsertSliceOp::create(b, rest, cache, offsets, part, ones);
  };
  return loopOver(b, batches, cache, step);
}

/// Normalized nodes are neither packed nor rotate. Source: ONNX Runtime 1.31.
static LogicalResult lowerGroupQueryAttention(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  int64_t keyHeads = n.node.getIntAttr("kv_num_heads", 0);
  for (StringRef quantized : {"k_quant_type", "v_quant_type"})
    if (StringRef kind = n.node.getStringAttr(quantized, "NONE"); kind != "NONE")
      return n.unsupported(quantized + " " + kind);
  if (n.node.getIntAttr("qk_output", 0))
    return n.unsupported("qk_output");
  for (unsigned i = 0; i < 3; ++i)
    if (!n.input(i) || !isa<FloatType>(n.inputType(i).getElementType()))
      return n.fail("input " + Twine(i) + " must be a floating-point tensor");
  FailureOr<Heads> query = splitHeads(n, n.input(0), n.node.getIntAttr("num_heads", 0));
  FailureOr<Heads> key = splitHeads(n, n.input(1), keyHeads);
  FailureOr<Heads> value = splitHeads(n, n.input(2), keyHeads);
  if (failed(query) || failed(key) || failed(value))
    return failure();
  if (!n.input(3) != !n.input(4))
    return n.fail("past keys and past values go together");
  FailureOr<CachePlaces> places = findPlaces(n, n.input(3), *query);
  if (failed(places))
    return failure();
  FailureOr<Value> keys = addToCache(n, n.input(3), *key, *places);
  FailureOr<Value> values = addToCache(n, n.input(4), *value, *places);
  if (failed(keys) || failed(values))
    return failure();

  AttentionSpec spec;
  spec.query = *query;
  spec.key = {*keys};
  spec.value = {*values};
  spec.lengths = places->lengths;
  spec.softcap = n.node.getFloatAttr("softcap", 0);
  spec.right = 0;
  // The window holds the position itself.
  if (int64_t window = n.node.getIntAttr("local_window_size", -1); window > 0)
    spec.left = window - 1;
  if (n.node.getFloatAttr("scale", 0) == 0)
    n.node.removeNodeAttr("scale");
  spec.scale = getScale(n, spec.query.tensor);
  if (Value bias = n.input(10))
    spec.biases.push_back(bias);
  spec.sink = n.input(11);
  if (!spec.sink && n.node.getIntAttr("smooth_softmax", 0) == 1)
    spec.sink = filledTensor(b, getHeadSizes(b, *query)[1], n.inputType(0).getElementType(), 0);
  FailureOr<Value> result = buildAttention(n, spec);
  if (failed(result))
    return failure();
  SmallVector<Value> results = {joinHeads(b, *result), *keys, *values, Value()};
  results.resize(n.node.getNumResults());
  return n.replace(results);
}

//===----------------------------------------------------------------------===//
// RotaryEmbedding
//===----------------------------------------------------------------------===//

/// Rotates pairs of elements: x[d] cos - x[partner] sin in the first half (or at even
/// places), x[d] cos + x[partner] sin in the second.
static Value rotate(NodeLowering &n, const Heads &heads, Value cos, Value sin, OpFoldResult half) {
  ImplicitLocOpBuilder &b = n.b;
  bool interleaved = n.node.getIntAttr("interleaved", 0) != 0;
  Type type = getElementTypeOrSelf(heads.tensor.getType());
  Value halfSize = toValue(b, half);
  Value rotated = toValue(b, addSizes(b, half, half));
  Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
  Sizes cosSizes = getSizes(b, cos);
  auto element = [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    Value d = at[3], isFirst, angle, partner;
    if (interleaved) {
      Value parity = arith::AndIOp::create(b, d, one);
      isFirst = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, parity, zero);
      angle = arith::ShRUIOp::create(b, d, one);
      partner = arith::XOrIOp::create(b, d, one);
    } else {
      isFirst = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, d, halfSize);
      Value before = arith::SubIOp::create(b, d, halfSize);
      angle = arith::SelectOp::create(b, isFirst, d, before);
      partner = arith::SelectOp::create(b, isFirst, arith::AddIOp::create(b, d, halfSize), before);
    }
    // What is behind the rotated part stays; there nothing else may be read.
    Value isRotated = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, d, rotated);
    angle = arith::SelectOp::create(b, isRotated, angle, zero);
    partner = arith::SelectOp::create(b, isRotated, partner, d);
    auto read = [&](Value tensor, ArrayRef<Value> place) {
      return toComputeType(b, tensor::ExtractOp::create(b, tensor, place));
    };
    SmallVector<Value> place = {isSize(cosSizes[0], 1) ? zero : at[0],
                                isSize(cosSizes[1], 1) ? zero : at[heads.rowDim()], angle};
    SmallVector<Value> other(at);
    other[3] = partner;
    Value x = read(heads.tensor, SmallVector<Value>(at)), y = read(heads.tensor, other);
    Value direct = arith::MulFOp::create(b, x, read(cos, place));
    Value crossed = arith::MulFOp::create(b, y, read(sin, place));
    Value first = arith::SubFOp::create(b, direct, crossed);
    Value second = arith::AddFOp::create(b, direct, crossed);
    Value result = arith::SelectOp::create(b, isFirst, first, second);
    return fromComputeType(b, arith::SelectOp::create(b, isRotated, result, x), type);
  };
  return generateTensor(b, getSizes(b, heads.tensor), type, element);
}

/// Normalized nodes have no positions: the rows of cos and sin are those of X.
static LogicalResult lowerRotaryEmbedding(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value cos = n.input(1), sin = n.input(2);
  if (n.input(3))
    return n.unsupported("positions of this type");
  FailureOr<Heads> heads = splitHeads(n, n.input(0), n.node.getIntAttr("num_heads", 0));
  if (failed(heads))
    return failure();
  Type type = getComputeType(n.inputType(0).getElementType());
  for (Value cache : {cos, sin}) {
    auto cacheType = cast<RankedTensorType>(cache.getType());
    if (cacheType.getRank() != 3)
      return n.fail("cos and sin must have rank 3 without positions, got rank " +
                    Twine(cacheType.getRank()));
    if (!isa<FloatType>(type) || getComputeType(cacheType.getElementType()) != type)
      return n.unsupported("X, cos and sin of these element types");
  }
  for (int64_t dim = 0; dim < 3; ++dim)
    if (failed(unifyDim(n, cos, dim, sin, dim, "the sizes of cos and sin differ")))
      return failure();
  Sizes sizes = getHeadSizes(b, *heads);
  OpFoldResult half = getSize(b, cos, 2), size = sizes[3];
  int64_t rotated = n.node.getIntAttr("rotary_embedding_dim", 0);
  if (getConstantIntValue(size) && rotated > *getConstantIntValue(size))
    return n.fail("rotary_embedding_dim " + Twine(rotated) + " is more than the size of a head");
  OpFoldResult expected = rotated > 0 ? OpFoldResult(b.getIndexAttr(rotated)) : size;
  OpFoldResult twice = addSizes(b, half, half);
  StringRef message = "cos and sin have not half the size that is rotated";
  if (getConstantIntValue(twice) && getConstantIntValue(expected) && !isSameSize(twice, expected))
    return n.fail(message);
  if (!isSameSize(twice, expected))
    n.check(equalSizes(b, twice, expected), message);
  for (Value *cache : {&cos, &sin}) {
    FailureOr<Value> fitting =
        broadcastUnknown(n, *cache, {sizes[0], sizes[2], half}, "of cos or sin");
    if (failed(fitting))
      return failure();
    *cache = *fitting;
  }
  Value result = rotate(n, *heads, cos, sin, half);
  return n.replace(heads->rowsFirst ? joinHeads(b, result) : result);
}

void lowering::addAttention(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"Attention", 23, kNewestOpset, lowerAttention});
  table.push_back({"com.microsoft.GroupQueryAttention", 1, 1, lowerGroupQueryAttention});
  table.push_back({"RotaryEmbedding", 23, kNewestOpset, lowerRotaryEmbedding});
}

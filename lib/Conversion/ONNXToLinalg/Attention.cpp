// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention by tiles of queries and keys with a running maximum and sum (Dao et al.,
// "FlashAttention", 2022).

#include "Attention.h"

#include "moec/Conversion/MoEToGPU/AttentionKernel.h"
#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// Rows computed together where there is no kernel, on any machine: a tile of scores and what
/// makes it stay in a core's cache.
static constexpr int64_t kQueryTile = 32, kKeyTile = 64;

/// NodeLowering::vectorBits of a GPU, whose warps are its vectors.
static constexpr int64_t kWarpBits = 1024;

//===----------------------------------------------------------------------===//
// Building blocks
//===----------------------------------------------------------------------===//

using LoopBodyFn = function_ref<SmallVector<Value>(ImplicitLocOpBuilder &, Value, ValueRange)>;

/// A loop that carries tensors.
static SmallVector<Value> loop(ImplicitLocOpBuilder &b, Value lower, Value upper, int64_t step,
                               ValueRange inits, LoopBodyFn body) {
  Value stride = arith::ConstantIndexOp::create(b, step);
  return scf::ForOp::create(b, lower, upper, stride, inits,
                            [&](OpBuilder &builder, Location loc, Value iv, ValueRange carried) {
                              ImplicitLocOpBuilder inner(loc, builder);
                              scf::YieldOp::create(inner, body(inner, iv, carried));
                            })
      .getResults();
}

static Value sub(ImplicitLocOpBuilder &b, Value lhs, Value rhs) {
  return b.createOrFold<arith::SubIOp>(lhs, rhs);
}
static Value add(ImplicitLocOpBuilder &b, Value lhs, Value rhs) {
  return b.createOrFold<arith::AddIOp>(lhs, rhs);
}
static Value index(ImplicitLocOpBuilder &b, int64_t value) {
  return arith::ConstantIndexOp::create(b, value);
}

/// A tensor of `sizes` inside of a new one of the fixed size `bounds`, so that its memory
/// does not depend on a loop.
static Value tile(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> bounds,
                  ArrayRef<OpFoldResult> sizes, Type type) {
  Sizes offsets(sizes.size(), b.getIndexAttr(0)), strides(sizes.size(), b.getIndexAttr(1));
  return tensor::ExtractSliceOp::create(b, emptyTensor(b, bounds, type), offsets, sizes, strides);
}

static Value fill(ImplicitLocOpBuilder &b, Value tensor, Value element) {
  return linalg::FillOp::create(b, element, tensor).getResult(0);
}

/// Loops over all dimensions of `maps`; those that no output has are reductions.
static SmallVector<Value>
generic(ImplicitLocOpBuilder &b, ValueRange inputs, ValueRange outputs, ArrayRef<AffineMap> maps,
        function_ref<SmallVector<Value>(ImplicitLocOpBuilder &, ValueRange)> body) {
  SmallVector<utils::IteratorType> iterators(maps.back().getNumDims(),
                                             utils::IteratorType::reduction);
  for (AffineMap map : maps.take_back(outputs.size()))
    for (AffineExpr result : map.getResults())
      if (auto dim = dyn_cast<AffineDimExpr>(result))
        iterators[dim.getPosition()] = utils::IteratorType::parallel;
  return linalg::GenericOp::create(b, TypeRange(outputs), inputs, outputs, maps, iterators,
                                   [&](OpBuilder &builder, Location loc, ValueRange args) {
                                     ImplicitLocOpBuilder inner(loc, builder);
                                     linalg::YieldOp::create(inner, body(inner, args));
                                   })
      .getResults();
}

/// acc + lhs * rhs for the elements lhs, rhs and acc of a product.
static SmallVector<Value> multiplyAdd(ImplicitLocOpBuilder &b, ValueRange args) {
  Value lhs = toComputeType(b, args[0]), rhs = toComputeType(b, args[1]);
  return {addElements(b, args[2], multiplyElements(b, lhs, rhs))};
}

static AffineMap getMap(ImplicitLocOpBuilder &b, unsigned numDims, ArrayRef<unsigned> dims) {
  return AffineMap::getMultiDimMapWithTargets(numDims, dims, b.getContext());
}

FailureOr<Value> lowering::broadcastUnknown(NodeLowering &n, Value tensor,
                                            ArrayRef<OpFoldResult> full, const Twine &what) {
  Sizes own = getSizes(n.b, tensor), sizes = own;
  for (auto [dim, size] : llvm::enumerate(full)) {
    if (isSize(own[dim], 1) || isSameSize(own[dim], size))
      continue;
    std::string message = ("dimension " + Twine(dim) + " " + what + " does not fit").str();
    if (getConstantIntValue(own[dim]) && getConstantIntValue(size))
      return n.fail(message);
    Value isOne = equalSizes(n.b, own[dim], n.b.getIndexAttr(1));
    Value isFull = equalSizes(n.b, own[dim], size);
    n.check(n.b.createOrFold<arith::OrIOp>(isOne, isFull), message);
    sizes[dim] = size;
  }
  return sizes == own ? tensor : broadcastTo(n, tensor, sizes);
}

//===----------------------------------------------------------------------===//
// Repeated heads
//===----------------------------------------------------------------------===//

/// Whether dimension 1 of a tensor of rank 4 is split into two, or is made of two.
template <typename OpTy> static bool isOfHeads(OpTy op) {
  SmallVector<ReassociationIndices> heads = {{0}, {1, 2}, {3}, {4}};
  return op && op.getReassociationIndices() == heads;
}

/// The heads [batch, heads, rows, size] of which those of `tensor` are copies, each a number
/// of times in a row; `tensor` when they are not.
static Value stripRepeats(Value tensor) {
  auto merged = tensor.getDefiningOp<tensor::CollapseShapeOp>();
  auto copy = isOfHeads(merged) ? merged.getSrc().getDefiningOp<linalg::GenericOp>() : nullptr;
  if (!copy || copy.getNumDpsInputs() != 1 || copy.getNumDpsInits() != 1 ||
      copy.getNumParallelLoops() != 5 ||
      copy.getBody()->getTerminator()->getOperand(0) != copy.getBody()->getArgument(0))
    return tensor;
  auto split = copy.getDpsInputs().front().getDefiningOp<tensor::ExpandShapeOp>();
  AffineMap from = copy.getIndexingMapsArray()[0], to = copy.getIndexingMapsArray()[1];
  bool isWhole = to.isIdentity() && from.getNumResults() == 5;
  for (unsigned dim : {0u, 1u, 3u, 4u})
    isWhole = isWhole && from.getResult(dim) == to.getResult(dim);
  if (!isWhole || !isOfHeads(split) || split.getResultType().getDimSize(2) != 1)
    return tensor;
  return split.getSrc();
}

/// Reads keys and values that were repeated for the query heads as they were before.
static void stripRepeats(AttentionSpec &spec) {
  Value key = stripRepeats(spec.key.tensor), value = stripRepeats(spec.value.tensor);
  auto heads = [](Value tensor) { return cast<RankedTensorType>(tensor.getType()).getDimSize(1); };
  bool isRepeated = key != spec.key.tensor && value != spec.value.tensor;
  if (!isRepeated || spec.key.rowsFirst || spec.value.rowsFirst || heads(key) != heads(value) ||
      ShapedType::isDynamic(heads(key)))
    return;
  spec.key.tensor = key;
  spec.value.tensor = value;
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

namespace {
class AttentionBuilder {
public:
  AttentionBuilder(NodeLowering &n, AttentionSpec &spec) : n(n), spec(spec) {}

  FailureOr<Value> run();

private:
  LogicalResult checkTypes();
  LogicalResult checkSizes();
  LogicalResult fitBias(Value &bias);

  Value buildTile(ImplicitLocOpBuilder &b, Value result);
  SmallVector<Value> buildKeyTile(ImplicitLocOpBuilder &b, Value query, ValueRange state);
  Value buildScores(ImplicitLocOpBuilder &b, Value query);
  Value finishScore(ImplicitLocOpBuilder &b, Value score, ValueRange biases);
  Value finish(ImplicitLocOpBuilder &b, ValueRange state, Value result);

  Value takeRows(ImplicitLocOpBuilder &b, const Heads &heads, Value head, Value row, Value count);
  Value takeBias(ImplicitLocOpBuilder &b, unsigned number);
  bool fitsKernel();
  Value callKernel();

  void enterBatch(ImplicitLocOpBuilder &b);
  std::pair<Value, Value> getKeyRange(ImplicitLocOpBuilder &b);
  bool hasPositions() const { return spec.left || spec.right; }

  NodeLowering &n;
  AttentionSpec &spec;
  Type compute;
  /// Sizes of each bias: 1 or the full one.
  SmallVector<Sizes> biasSizes;
  OpFoldResult numBatches, numHeads, numQueries, numKeys, valueSize;
  Value headsPerKey;
  /// What the loops are at.
  Value batch, head, keyHead, query, queryCount, key, keyCount;
  /// Of the batch: the position of query 0, and the number of keys.
  Value position, length;
};
} // namespace

LogicalResult AttentionBuilder::checkTypes() {
  Type type = getElementTypeOrSelf(spec.query.tensor.getType());
  if (!isa<FloatType>(type))
    return n.fail("the queries must be floating-point numbers");
  compute = getComputeType(type);
  for (Value other : {spec.key.tensor, spec.value.tensor})
    if (getComputeType(getElementTypeOrSelf(other.getType())) != compute)
      return n.unsupported("queries, keys and values of these element types");
  for (Value bias : spec.biases) {
    Type element = getElementTypeOrSelf(bias.getType());
    if (!element.isInteger(1) && !isa<FloatType>(element))
      return n.fail("a mask must be boolean or a floating-point tensor");
  }
  return success();
}

LogicalResult AttentionBuilder::fitBias(Value &bias) {
  int64_t rank = cast<RankedTensorType>(bias.getType()).getRank();
  if (rank > 4)
    return n.fail("a mask has rank " + Twine(rank));
  bias = unsqueeze(n.b, bias, llvm::to_vector(llvm::seq<int64_t>(0, 4 - rank)));
  FailureOr<Value> fitting =
      broadcastUnknown(n, bias, {numBatches, numHeads, numQueries, numKeys}, "of the mask");
  if (failed(fitting))
    return failure();
  bias = *fitting;
  biasSizes.push_back(getSizes(n.b, bias));
  return success();
}

LogicalResult AttentionBuilder::checkSizes() {
  Value &query = spec.query.tensor, &key = spec.key.tensor, &value = spec.value.tensor;
  auto differ = [](StringRef what, StringRef lhs, StringRef rhs) {
    return (what + " of " + lhs + " and " + rhs + " differ").str();
  };
  if (failed(unifyDim(n, query, 0, key, 0, differ("batches", "queries", "keys"))) ||
      failed(unifyDim(n, query, 0, value, 0, differ("batches", "queries", "values"))) ||
      failed(unifyDim(n, query, 3, key, 3, differ("sizes", "queries", "keys"))) ||
      failed(unifyDim(n, key, spec.key.rowDim(), value, spec.value.rowDim(),
                      differ("numbers", "keys", "values"))) ||
      failed(unifyDim(n, key, spec.key.headDim(), value, spec.value.headDim(),
                      differ("heads", "keys", "values"))))
    return failure();
  ImplicitLocOpBuilder &b = n.b;
  numBatches = getSize(b, query, 0);
  numHeads = getSize(b, query, spec.query.headDim());
  numQueries = getSize(b, query, spec.query.rowDim());
  numKeys = getSize(b, key, spec.key.rowDim());
  valueSize = getSize(b, value, 3);

  OpFoldResult keyHeads = getSize(b, key, spec.key.headDim());
  OpFoldResult group = quotientOf(b, numHeads, keyHeads);
  StringRef message = "the heads of queries are no multiple of those of keys";
  OpFoldResult product = mulSizes(b, group, keyHeads);
  if (getConstantIntValue(product) && getConstantIntValue(numHeads)) {
    if (!isSameSize(product, numHeads))
      return n.fail(message);
  } else if (!isSameSize(product, numHeads)) {
    n.check(equalSizes(b, product, numHeads), message);
  }
  headsPerKey = toValue(b, maxSizes(b, group, b.getIndexAttr(1)));
  for (Value &bias : spec.biases)
    if (failed(fitBias(bias)))
      return failure();
  if (spec.sink)
    if (failed(unifyDim(n, query, spec.query.headDim(), spec.sink, 0,
                        "there must be one sink for each head")))
      return failure();
  return success();
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

Value AttentionBuilder::takeRows(ImplicitLocOpBuilder &b, const Heads &heads, Value head, Value row,
                                 Value count) {
  auto type = cast<RankedTensorType>(heads.tensor.getType());
  OpFoldResult size = getSize(b, heads.tensor, 3);
  Sizes offsets(4, b.getIndexAttr(0)), sizes(4, b.getIndexAttr(1)), strides(4, b.getIndexAttr(1));
  offsets[0] = batch;
  offsets[heads.headDim()] = head;
  offsets[heads.rowDim()] = row;
  sizes[heads.rowDim()] = count;
  sizes[3] = size;
  auto result = RankedTensorType::get(
      {ShapedType::kDynamic, getConstantIntValue(size).value_or(ShapedType::kDynamic)},
      type.getElementType());
  return tensor::ExtractSliceOp::create(b, result, heads.tensor, offsets, sizes, strides);
}

/// The rows and columns of a bias that belong to the current tile.
Value AttentionBuilder::takeBias(ImplicitLocOpBuilder &b, unsigned number) {
  Value bias = spec.biases[number];
  Sizes offsets = {batch, head, query, key}, sizes(4, b.getIndexAttr(1)),
        strides(4, b.getIndexAttr(1));
  sizes[2] = queryCount;
  sizes[3] = keyCount;
  SmallVector<int64_t> shape(2, ShapedType::kDynamic);
  for (int64_t dim = 0; dim < 4; ++dim) {
    if (!isSize(biasSizes[number][dim], 1))
      continue;
    offsets[dim] = b.getIndexAttr(0);
    sizes[dim] = b.getIndexAttr(1);
    if (dim >= 2)
      shape[dim - 2] = 1;
  }
  auto type = RankedTensorType::get(shape, getElementTypeOrSelf(bias.getType()));
  return tensor::ExtractSliceOp::create(b, type, bias, offsets, sizes, strides);
}

/// A score from the product: scaled, capped, biased, -inf where the key is out.
Value AttentionBuilder::finishScore(ImplicitLocOpBuilder &b, Value score, ValueRange biases) {
  score = arith::MulFOp::create(b, score, spec.scale);
  if (spec.softcap != 0) {
    score = arith::MulFOp::create(b, score, constantOf(b, compute, 1 / spec.softcap));
    score = math::TanhOp::create(b, score);
    score = arith::MulFOp::create(b, score, constantOf(b, compute, spec.softcap));
  }
  Value out = constantOf(b, compute, -std::numeric_limits<double>::infinity());
  for (Value bias : biases) {
    if (bias.getType().isInteger(1))
      score = arith::SelectOp::create(b, bias, score, out);
    else
      score = arith::AddFOp::create(
          b, score, castElement(b, toComputeType(b, bias), bias.getType(), compute));
  }
  auto keepIf = [&](arith::CmpIPredicate predicate, Value lhs, Value rhs) {
    Value keep = arith::CmpIOp::create(b, predicate, lhs, rhs);
    score = arith::SelectOp::create(b, keep, score, out);
  };
  if (!hasPositions())
    return score;
  Value row = linalg::IndexOp::create(b, 0), column = linalg::IndexOp::create(b, 1);
  Value at = add(b, add(b, position, query), row), keyAt = add(b, key, column);
  if (spec.right)
    keepIf(arith::CmpIPredicate::sle, sub(b, keyAt, at), index(b, *spec.right));
  if (spec.left)
    keepIf(arith::CmpIPredicate::sle, sub(b, at, keyAt), index(b, *spec.left));
  return score;
}

/// The scores of a tile, [queries, keys].
Value AttentionBuilder::buildScores(ImplicitLocOpBuilder &b, Value queryRows) {
  Value keyRows = takeRows(b, spec.key, keyHead, key, keyCount);
  Value scores = tile(b, {b.getIndexAttr(kQueryTile), b.getIndexAttr(kKeyTile)},
                      {queryCount, keyCount}, compute);
  scores = fill(b, scores, constantOf(b, compute, 0));
  scores = generic(b, {queryRows, keyRows}, scores,
                   {getMap(b, 3, {0, 2}), getMap(b, 3, {1, 2}), getMap(b, 3, {0, 1})}, multiplyAdd)
               .front();
  SmallVector<Value> biases;
  SmallVector<AffineMap> maps;
  for (unsigned i = 0; i < spec.biases.size(); ++i) {
    biases.push_back(takeBias(b, i));
    SmallVector<AffineExpr> exprs;
    for (unsigned dim = 0; dim < 2; ++dim)
      exprs.push_back(isSize(biasSizes[i][dim + 2], 1) ? b.getAffineConstantExpr(0)
                                                       : b.getAffineDimExpr(dim));
    maps.push_back(AffineMap::get(2, 0, exprs, b.getContext()));
  }
  maps.push_back(b.getMultiDimIdentityMap(2));
  return generic(b, biases, scores, maps,
                 [&](ImplicitLocOpBuilder &b, ValueRange args) -> SmallVector<Value> {
                   return {finishScore(b, args.back(), args.drop_back())};
                 })
      .front();
}

/// `state` is the maximum and the sum of each query so far, and the sum of values.
SmallVector<Value> AttentionBuilder::buildKeyTile(ImplicitLocOpBuilder &b, Value queryRows,
                                                  ValueRange state) {
  AffineMap perQuery = getMap(b, 2, 0), perPair = b.getMultiDimIdentityMap(2);
  AffineMap one = b.getMultiDimIdentityMap(1);
  OpFoldResult bound = b.getIndexAttr(kQueryTile);
  auto flags = arith::FastMathFlags::reassoc;
  Value lowest = constantOf(b, compute, -std::numeric_limits<double>::infinity());

  Value scores = buildScores(b, queryRows);
  Value highest = fill(b, tile(b, bound, OpFoldResult(queryCount), compute), lowest);
  highest = generic(b, scores, highest, {perPair, perQuery},
                    [](ImplicitLocOpBuilder &b, ValueRange args) -> SmallVector<Value> {
                      return {arith::MaximumFOp::create(b, args[1], args[0])};
                    })
                .front();

  // Every tile starts from one that is read: what is not would get memory of its own.
  SmallVector<Value> maxima =
      generic(b, {}, {state[0], highest}, {one, one},
              [](ImplicitLocOpBuilder &b, ValueRange args) -> SmallVector<Value> {
                return {arith::MaximumFOp::create(b, args[0], args[1]), args[0]};
              });
  // Scores are taken relative to the new maximum; relative to 0 when there is no key yet.
  auto relativeTo = [&](ImplicitLocOpBuilder &b, Value score, Value max) -> Value {
    Value none = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, max, lowest);
    Value shift = arith::SelectOp::create(b, none, constantOf(b, compute, 0), max);
    return math::ExpOp::create(b, arith::SubFOp::create(b, score, shift));
  };
  SmallVector<Value> scaled =
      generic(b, maxima[0], {maxima[1], state[1]}, {one, one, one},
              [&](ImplicitLocOpBuilder &b, ValueRange args) -> SmallVector<Value> {
                Value factor = relativeTo(b, args[1], args[0]);
                return {factor, arith::MulFOp::create(b, args[2], factor)};
              });
  Value factor = scaled[0];
  scores = generic(b, maxima[0], scores, {perQuery, perPair},
                   [&](ImplicitLocOpBuilder &b, ValueRange args) -> SmallVector<Value> {
                     return {relativeTo(b, args[1], args[0])};
                   })
               .front();
  Value sums = generic(b, scores, scaled[1], {perPair, perQuery},
                       [&](ImplicitLocOpBuilder &b, ValueRange args) -> SmallVector<Value> {
                         return {arith::AddFOp::create(b, args[1], args[0], flags)};
                       })
                   .front();
  Value values = generic(b, factor, state[2], {perQuery, perPair},
                         [](ImplicitLocOpBuilder &b, ValueRange args) -> SmallVector<Value> {
                           return {arith::MulFOp::create(b, args[1], args[0])};
                         })
                     .front();
  Value valueRows = takeRows(b, spec.value, keyHead, key, keyCount);
  values = generic(b, {scores, valueRows}, values,
                   {getMap(b, 3, {0, 1}), getMap(b, 3, {1, 2}), getMap(b, 3, {0, 2})}, multiplyAdd)
               .front();
  return {maxima[0], sums, values};
}

/// Writes the quotients of a tile to `result`.
Value AttentionBuilder::finish(ImplicitLocOpBuilder &b, ValueRange state, Value result) {
  Heads heads{result, spec.query.rowsFirst};
  Value rows = takeRows(b, heads, head, query, queryCount);
  Type type = getElementTypeOrSelf(result.getType());
  AffineMap perQuery = getMap(b, 2, 0), perPair = b.getMultiDimIdentityMap(2);
  double none = spec.emptyIsNaN ? std::numeric_limits<double>::quiet_NaN() : 0;
  rows = generic(b, {state[1], state[2]}, rows, {perQuery, perPair, perPair},
                 [&](ImplicitLocOpBuilder &b, ValueRange args) -> SmallVector<Value> {
                   Value zero = constantOf(b, compute, 0);
                   Value isEmpty =
                       arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, args[0], zero);
                   Value quotient = arith::DivFOp::create(b, args[1], args[0]);
                   quotient =
                       arith::SelectOp::create(b, isEmpty, constantOf(b, compute, none), quotient);
                   return {fromComputeType(b, quotient, type)};
                 })
             .front();
  Sizes offsets(4, b.getIndexAttr(0)), sizes(4, b.getIndexAttr(1)), strides(4, b.getIndexAttr(1));
  offsets[0] = batch;
  offsets[heads.headDim()] = head;
  offsets[heads.rowDim()] = query;
  sizes[heads.rowDim()] = queryCount;
  sizes[3] = getSize(b, rows, 1);
  return tensor::InsertSliceOp::create(b, rows, result, offsets, sizes, strides);
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

/// What depends on the batch alone.
void AttentionBuilder::enterBatch(ImplicitLocOpBuilder &b) {
  length = toValue(b, numKeys);
  if (spec.lengths) {
    Value given = tensor::ExtractOp::create(b, spec.lengths, batch);
    given = arith::IndexCastOp::create(b, b.getIndexType(), given);
    // The position follows the length that was given; reads stay inside of the keys.
    position = sub(b, given, toValue(b, numQueries));
    length = arith::MinSIOp::create(b, given, length);
  }
  if (spec.offset)
    position = toValue(b, spec.offset);
}

/// The keys that some query of the tile may read.
std::pair<Value, Value> AttentionBuilder::getKeyRange(ImplicitLocOpBuilder &b) {
  Value begin = index(b, 0), end = length;
  if (!hasPositions())
    return {begin, end};
  Value first = add(b, position, query);
  if (spec.left)
    begin = arith::MaxSIOp::create(b, sub(b, first, index(b, *spec.left)), begin);
  if (spec.right)
    end = arith::MinSIOp::create(b, add(b, add(b, first, queryCount), index(b, *spec.right)), end);
  return {begin, end};
}

Value AttentionBuilder::buildTile(ImplicitLocOpBuilder &b, Value result) {
  Value tileSize = index(b, kQueryTile);
  queryCount = arith::MinSIOp::create(b, tileSize, sub(b, toValue(b, numQueries), query));
  Value queryRows = takeRows(b, spec.query, head, query, queryCount);

  OpFoldResult bound = b.getIndexAttr(kQueryTile), count = queryCount;
  Value lowest = constantOf(b, compute, -std::numeric_limits<double>::infinity());
  Value zero = constantOf(b, compute, 0), sum = zero;
  if (spec.sink) {
    Value sink = tensor::ExtractOp::create(b, spec.sink, head);
    lowest = castElement(b, toComputeType(b, sink), sink.getType(), compute);
    sum = constantOf(b, compute, 1);
  }
  SmallVector<Value> state = {
      fill(b, tile(b, bound, count, compute), lowest), fill(b, tile(b, bound, count, compute), sum),
      fill(b, tile(b, {bound, valueSize}, {count, valueSize}, compute), zero)};
  auto [begin, end] = getKeyRange(b);
  state = loop(b, begin, end, kKeyTile, state,
               [&, end = end](ImplicitLocOpBuilder &b, Value at, ValueRange carried) {
                 key = at;
                 keyCount = arith::MinSIOp::create(b, index(b, kKeyTile), sub(b, end, key));
                 return buildKeyTile(b, queryRows, carried);
               });
  return finish(b, state, result);
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

bool AttentionBuilder::fitsKernel() {
  auto fits = [](Value heads) {
    int64_t size = cast<RankedTensorType>(heads.getType()).getDimSize(3);
    return size > 0 && size <= cpu::kMaxHeadSize;
  };
  return n.vectorBits > 0 && compute.isF32() && isa<func::FuncOp>(n.node->getParentOp()) &&
         fits(spec.query.tensor) && fits(spec.key.tensor) && fits(spec.value.tensor);
}

/// Of the same rank with unknown strides, but the last one.
static MemRefType strided(ArrayRef<int64_t> shape, Type element) {
  SmallVector<int64_t> strides(shape.size(), ShapedType::kDynamic);
  strides.back() = 1;
  auto layout = StridedLayoutAttr::get(element.getContext(), ShapedType::kDynamic, strides);
  return MemRefType::get(shape, element, layout);
}

/// A tensor in memory, with unknown strides.
static Value getBuffer(ImplicitLocOpBuilder &b, Value tensor) {
  auto type = cast<RankedTensorType>(tensor.getType());
  return bufferization::ToBufferOp::create(b, strided(type.getShape(), type.getElementType()),
                                           tensor, /*read_only=*/true);
}

/// Memory of heads as the kernel sees it: [batch, heads, rows, size].
static Value viewHeads(ImplicitLocOpBuilder &b, Value memory, bool rowsFirst) {
  if (rowsFirst) {
    auto swapped = AffineMap::getPermutationMap(ArrayRef<unsigned>{0, 2, 1, 3}, b.getContext());
    memory = memref::TransposeOp::create(b, memory, AffineMapAttr::get(swapped));
  }
  auto type = cast<MemRefType>(memory.getType());
  SmallVector<int64_t> shape(4, ShapedType::kDynamic);
  shape[3] = type.getDimSize(3);
  return memref::CastOp::create(b, strided(shape, type.getElementType()), memory);
}

/// A bias in f32, -inf for false; sizes that are not known to be 1 are the full ones.
static Value getBiasBuffer(NodeLowering &n, Value bias) {
  Type element = getElementTypeOrSelf(bias.getType()), f32 = n.b.getF32Type();
  if (!element.isF32())
    bias =
        mapElements(n, bias, f32, [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
          double out = -std::numeric_limits<double>::infinity();
          if (element.isInteger(1))
            return arith::SelectOp::create(b, x[0], constantOf(b, f32, 0), constantOf(b, f32, out));
          return castElement(b, x[0], element, f32);
        }).value();
  Value memory = getBuffer(n.b, bias);
  SmallVector<int64_t> shape(cast<MemRefType>(memory.getType()).getShape());
  for (int64_t &size : shape)
    size = size == 1 ? 1 : ShapedType::kDynamic;
  return memref::CastOp::create(n.b, strided(shape, f32), memory);
}

/// The result of a call of the kernel.
Value AttentionBuilder::callKernel() {
  ImplicitLocOpBuilder &b = n.b;
  auto type = cast<RankedTensorType>(spec.query.tensor.getType());
  SmallVector<int64_t> shape(type.getShape());
  Sizes sizes = getSizes(b, spec.query.tensor);
  sizes[3] = valueSize;
  SmallVector<Value> dynamicSizes;
  for (auto [dim, size] : llvm::enumerate(sizes)) {
    shape[dim] = getConstantIntValue(size).value_or(ShapedType::kDynamic);
    if (ShapedType::isDynamic(shape[dim]))
      dynamicSizes.push_back(toValue(b, size));
  }
  Value result = memref::AllocOp::create(b, MemRefType::get(shape, type.getElementType()),
                                         dynamicSizes, b.getI64IntegerAttr(64));
  cpu::AttentionForm form;
  form.softcap = spec.softcap;
  form.left = spec.left;
  form.right = spec.right;
  form.emptyIsNaN = spec.emptyIsNaN;
  form.endsAtLength = !spec.offset;
  form.numBiases = spec.biases.size();
  form.hasLengths = bool(spec.lengths);
  form.hasSink = bool(spec.sink);

  SmallVector<Value> arguments;
  for (const Heads &heads : {spec.query, spec.key, spec.value})
    arguments.push_back(viewHeads(b, getBuffer(b, heads.tensor), heads.rowsFirst));
  arguments.push_back(viewHeads(b, result, spec.query.rowsFirst));
  arguments.push_back(spec.scale);
  arguments.push_back(spec.offset ? toValue(b, spec.offset) : index(b, 0));
  for (Value bias : spec.biases)
    arguments.push_back(getBiasBuffer(n, bias));
  for (Value vector : {spec.lengths, spec.sink})
    if (vector)
      arguments.push_back(memref::CastOp::create(
          b, strided(ShapedType::kDynamic, getElementTypeOrSelf(vector.getType())),
          getBuffer(b, vector)));
  auto module = n.node->getParentOfType<ModuleOp>();
  if (n.vectorBits == kWarpBits) {
    cuda::launchAttention(b, module, form, arguments);
  } else {
    func::FuncOp kernel = cpu::getOrCreateAttentionKernel(module, n.vectorBits, form,
                                                          ValueRange(arguments).getTypes());
    arguments.push_back(CurrentCallOp::create(b, LLVM::LLVMPointerType::get(b.getContext())));
    func::CallOp::create(b, kernel, arguments);
  }
  return bufferization::ToTensorOp::create(b, RankedTensorType::get(shape, type.getElementType()),
                                           result, /*restrict=*/true, /*writable=*/true);
}

FailureOr<Value> AttentionBuilder::run() {
  stripRepeats(spec);
  if (failed(checkTypes()) || failed(checkSizes()))
    return failure();
  if (fitsKernel())
    return callKernel();
  ImplicitLocOpBuilder &b = n.b;
  Sizes sizes = getSizes(b, spec.query.tensor);
  sizes[3] = valueSize;
  Value empty = emptyTensor(b, sizes, getElementTypeOrSelf(spec.query.tensor.getType()));
  Value zero = index(b, 0), batches = toValue(b, numBatches), heads = toValue(b, numHeads);
  Value queries = toValue(b, numQueries);
  auto tiles = [&](ImplicitLocOpBuilder &b, Value at, ValueRange carried) -> SmallVector<Value> {
    query = at;
    return {buildTile(b, carried[0])};
  };
  auto perHead = [&](ImplicitLocOpBuilder &b, Value at, ValueRange carried) {
    head = at;
    keyHead = b.createOrFold<arith::DivUIOp>(head, headsPerKey);
    return loop(b, zero, queries, kQueryTile, carried, tiles);
  };
  auto perBatch = [&](ImplicitLocOpBuilder &b, Value at, ValueRange carried) {
    batch = at;
    enterBatch(b);
    return loop(b, zero, heads, 1, carried, perHead);
  };
  return loop(b, zero, batches, 1, empty, perBatch).front();
}

FailureOr<Value> lowering::buildAttention(NodeLowering &n, AttentionSpec spec) {
  return AttentionBuilder(n, spec).run();
}

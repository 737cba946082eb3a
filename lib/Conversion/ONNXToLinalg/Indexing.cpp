// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that cut and join tensors.

#include "Lowering.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

//===----------------------------------------------------------------------===//
// Slice
//===----------------------------------------------------------------------===//

namespace {
/// The part of one dimension that is kept.
struct Span {
  OpFoldResult start, size;
  int64_t step;
};
} // namespace

/// `bound`, counted from the end when negative, cut to low … high.
static OpFoldResult clampBound(ImplicitLocOpBuilder &b, OpFoldResult bound, OpFoldResult size,
                               OpFoldResult low, OpFoldResult high) {
  std::optional<int64_t> known = getConstantIntValue(bound);
  if (known && *known == 0 && isSize(low, 0) && isNeverNegative(high))
    return low;
  // A sum with a size does not overflow, since the bound is negative.
  if (known && *known < 0)
    bound = addSizes(b, bound, size);
  else if (!known && !isNeverNegative(bound)) {
    Value isNegative = b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::slt, toValue(b, bound),
                                                     toValue(b, b.getIndexAttr(0)));
    bound = b.createOrFold<arith::SelectOp>(isNegative, toValue(b, addSizes(b, bound, size)),
                                            toValue(b, bound));
  }
  if (isSameSize(bound, high))
    return high;
  return maxSizes(b, minSizes(b, bound, high), low);
}

static Span getRange(ImplicitLocOpBuilder &b, OpFoldResult start, OpFoldResult end, int64_t step,
                     OpFoldResult size) {
  OpFoldResult zero = b.getIndexAttr(0), minusOne = b.getIndexAttr(-1);
  OpFoldResult last = subSizes(b, size, b.getIndexAttr(1));
  Span range{{}, {}, step};
  OpFoldResult span;
  if (step > 0) {
    range.start = clampBound(b, start, size, zero, size);
    span = subSizes(b, clampBound(b, end, size, zero, size), range.start);
  } else {
    // Without elements the start is -1, and so is the end.
    range.start = clampBound(b, start, size, zero, last);
    range.start = minSizes(b, range.start, last);
    span = subSizes(b, range.start, clampBound(b, end, size, minusOne, last));
  }
  int64_t stride = std::abs(step);
  if (stride != 1) {
    span = addSizes(b, maxSizes(b, span, zero), b.getIndexAttr(stride - 1));
    Value divisor = arith::ConstantIndexOp::create(b, stride);
    span = getAsOpFoldResult(b.createOrFold<arith::DivSIOp>(toValue(b, span), divisor));
    range.size = span;
    return range;
  }
  range.size = maxSizes(b, span, zero);
  return range;
}

/// The scalars of a small vector that a constant range keeps.
static Value sliceScalars(ImplicitLocOpBuilder &b, Value data, const Span &range) {
  std::optional<int64_t> start = getConstantIntValue(range.start);
  std::optional<int64_t> size = getConstantIntValue(range.size);
  if (!start || !size)
    return {};
  std::optional<SmallVector<Value>> scalars = getScalars(b, data);
  if (!scalars)
    return {};
  SmallVector<Value> kept;
  for (int64_t i = 0; i < *size; ++i)
    kept.push_back((*scalars)[*start + i * range.step]);
  return fromScalars(b, kept, RankedTensorType::get(*size, getElementTypeOrSelf(data.getType())));
}

static bool isKnownEmpty(ArrayRef<OpFoldResult> sizes) {
  return llvm::any_of(sizes, [](OpFoldResult size) { return isSize(size, 0); });
}

static Value buildSlice(ImplicitLocOpBuilder &b, Value data, ArrayRef<Span> ranges) {
  Sizes offsets, sizes, strides;
  for (const Span &range : ranges) {
    offsets.push_back(range.start);
    sizes.push_back(range.size);
    strides.push_back(b.getIndexAttr(range.step));
  }
  // Slices of nothing, or at the very end, are illegal ops.
  if (isKnownEmpty(sizes))
    return emptyTensor(b, sizes, getElementTypeOrSelf(data.getType()));
  if (llvm::all_of(ranges, [](const Span &range) { return range.step > 0; }))
    return tensor::ExtractSliceOp::create(b, data, offsets, sizes, strides);
  // A slice cannot run backwards.
  return generateTensor(b, sizes, getElementTypeOrSelf(data.getType()),
                        [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
                          SmallVector<Value> place;
                          for (auto [index, range] : llvm::zip(at, ranges)) {
                            Value step = arith::ConstantIndexOp::create(b, range.step);
                            Value moved = b.createOrFold<arith::MulIOp>(index, step);
                            place.push_back(
                                b.createOrFold<arith::AddIOp>(toValue(b, range.start), moved));
                          }
                          return tensor::ExtractOp::create(b, data, place);
                        });
}

static LogicalResult lowerSlice(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  int64_t rank = n.inputType(0).getRank();
  std::optional<Sizes> starts = getScalarsAsSizes(b, n.input(1));
  std::optional<Sizes> ends = getScalarsAsSizes(b, n.input(2));
  if (!starts || !ends)
    return n.unsupported("the number of starts and ends must be known, and at most 16");
  if (starts->size() != ends->size())
    return n.fail("has " + Twine(starts->size()) + " starts but " + Twine(ends->size()) + " ends");
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(0, starts->size()));
  if (Value input = n.input(3)) {
    std::optional<SmallVector<int64_t>> given = lowering::getConstantInts(input);
    if (!given)
      return n.unsupported("the axes must be constants");
    axes = *given;
  }
  SmallVector<int64_t> steps(starts->size(), 1);
  if (Value input = n.input(4)) {
    std::optional<SmallVector<int64_t>> given = lowering::getConstantInts(input);
    if (!given)
      return n.unsupported("the steps must be constants");
    steps = *given;
  }
  if (axes.size() != starts->size() || steps.size() != starts->size())
    return n.fail("starts, axes and steps differ in number");

  SmallVector<Span> ranges;
  for (OpFoldResult size : getSizes(b, data))
    ranges.push_back({b.getIndexAttr(0), size, 1});
  SmallVector<bool> seen(rank);
  for (auto [start, end, axis, step] : llvm::zip(*starts, *ends, axes, steps)) {
    int64_t dim = axis < 0 ? axis + rank : axis;
    if (dim < 0 || dim >= rank || seen[dim])
      return n.fail("axis " + Twine(axis) + " is out of range or given twice");
    if (step == 0)
      return n.fail("a step is 0");
    seen[dim] = true;
    ranges[dim] = getRange(b, start, end, step, ranges[dim].size);
  }
  if (rank == 1)
    if (Value result = sliceScalars(b, data, ranges[0]))
      return n.replace(result);
  return n.replace(buildSlice(b, data, ranges));
}

//===----------------------------------------------------------------------===//
// Concat, Split
//===----------------------------------------------------------------------===//

/// Small integer vectors joined as scalars; null when one of them is not small.
static Value concatScalars(ImplicitLocOpBuilder &b, ArrayRef<Value> inputs) {
  SmallVector<Value> all;
  for (Value input : inputs) {
    std::optional<SmallVector<Value>> scalars = getScalars(b, input);
    if (!scalars)
      return {};
    llvm::append_range(all, *scalars);
  }
  int64_t count = all.size();
  return fromScalars(b, all,
                     RankedTensorType::get(count, getElementTypeOrSelf(inputs[0].getType())));
}

static LogicalResult lowerConcat(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  SmallVector<Value> inputs = n.inputs();
  RankedTensorType type = n.inputType(0);
  int64_t rank = type.getRank();
  FailureOr<int64_t> axis = n.axis("axis", 0, rank);
  if (failed(axis))
    return failure();
  for (Value input : inputs) {
    auto other = cast<RankedTensorType>(input.getType());
    if (other.getRank() != rank || other.getElementType() != type.getElementType())
      return n.fail("the inputs differ in rank or element type");
  }
  if (rank == 1)
    if (Value result = concatScalars(b, inputs))
      return n.replace(result);

  // Twice, so that an input before a smaller one is cut too.
  for (int pass = 0; pass < 2; ++pass)
    for (Value &input : MutableArrayRef(inputs).drop_front())
      for (int64_t dim = 0; dim < rank; ++dim)
        if (dim != *axis && failed(unifyDim(n, inputs[0], dim, input, dim,
                                            "the sizes of dimension " + Twine(dim) + " differ")))
          return failure();
  Sizes sizes = getSizes(b, inputs[0]), offsets(rank, b.getIndexAttr(0));
  SmallVector<OpFoldResult> strides(rank, b.getIndexAttr(1));
  for (Value input : ArrayRef(inputs).drop_front())
    sizes[*axis] = addSizes(b, sizes[*axis], getSize(b, input, *axis));
  Value result = emptyTensor(b, sizes, type.getElementType());
  for (Value input : inputs) {
    Sizes part = getSizes(b, input);
    if (isKnownEmpty(part))
      continue;
    result = tensor::InsertSliceOp::create(b, refineType(b, input), result, offsets, part, strides);
    offsets[*axis] = addSizes(b, offsets[*axis], part[*axis]);
  }
  return n.replace(result);
}

/// Sizes of the parts: given, or equal with a smaller last one.
static FailureOr<Sizes> getParts(NodeLowering &n, OpFoldResult size) {
  ImplicitLocOpBuilder &b = n.b;
  int64_t count = n.node.getNumResults();
  if (Value input = n.input(1)) {
    std::optional<Sizes> parts = getScalarsAsSizes(b, input);
    if (std::optional<SmallVector<int64_t>> known = lowering::getConstantInts(input))
      parts = getAsIndexOpFoldResult(b.getContext(), *known);
    if (!parts)
      return n.unsupported("the number of parts must be known, and at most 16");
    if (static_cast<int64_t>(parts->size()) != count)
      return n.fail("has " + Twine(parts->size()) + " parts but " + Twine(count) + " outputs");
    OpFoldResult sum = b.getIndexAttr(0);
    Value ok;
    for (OpFoldResult &part : *parts) {
      // What does not fit is cut off, so that no access is out of bounds.
      OpFoldResult rest = subSizes(b, size, sum), given = part;
      if (!getConstantIntValue(given) || !getConstantIntValue(rest)) {
        bool isExact = isSameSize(given, rest);
        if (!isExact)
          part = maxSizes(b, minSizes(b, given, rest), b.getIndexAttr(0));
      }
      if (!isSameSize(part, given)) {
        Value same = equalSizes(b, part, given);
        ok = ok ? b.createOrFold<arith::AndIOp>(ok, same) : same;
      }
      sum = addSizes(b, sum, part);
    }
    if (getConstantIntValue(sum) && getConstantIntValue(size)) {
      if (*getConstantIntValue(sum) != *getConstantIntValue(size))
        return n.fail("the parts do not add up to size " + Twine(*getConstantIntValue(size)));
    } else if (!isSameSize(sum, size)) {
      Value same = equalSizes(b, sum, size);
      ok = ok ? b.createOrFold<arith::AndIOp>(ok, same) : same;
    }
    if (ok)
      n.check(ok, "the parts do not add up to the size of the dimension");
    return *parts;
  }
  if (isSize(size, count))
    return Sizes(count, b.getIndexAttr(1));
  OpFoldResult rounded = addSizes(b, size, b.getIndexAttr(count - 1));
  Value divisor = arith::ConstantIndexOp::create(b, count);
  OpFoldResult part =
      getAsOpFoldResult(b.createOrFold<arith::DivSIOp>(toValue(b, rounded), divisor));
  Sizes parts;
  OpFoldResult rest = size;
  for (int64_t i = 0; i < count; ++i) {
    parts.push_back(i + 1 == count ? rest : minSizes(b, part, rest));
    rest = subSizes(b, rest, parts.back());
  }
  return parts;
}

static LogicalResult lowerSplit(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  RankedTensorType type = n.inputType(0);
  FailureOr<int64_t> axis = n.axis("axis", 0, type.getRank());
  if (failed(axis))
    return failure();
  FailureOr<Sizes> parts = getParts(n, getSize(b, data, *axis));
  if (failed(parts))
    return failure();
  SmallVector<Span> ranges;
  for (OpFoldResult size : getSizes(b, data))
    ranges.push_back({b.getIndexAttr(0), size, 1});
  SmallVector<Value> results;
  OpFoldResult offset = b.getIndexAttr(0);
  for (OpFoldResult part : *parts) {
    ranges[*axis] = {offset, part, 1};
    Value scalars = type.getRank() == 1 ? sliceScalars(b, data, ranges[0]) : Value();
    results.push_back(scalars ? scalars : buildSlice(b, data, ranges));
    offset = addSizes(b, offset, part);
  }
  return n.replace(results);
}

//===----------------------------------------------------------------------===//
// Range
//===----------------------------------------------------------------------===//

/// max(ceil((limit - start) / delta), 0) for integers of the type of `start`.
static OpFoldResult countInts(ImplicitLocOpBuilder &b, Value start, Value limit, Value delta) {
  APInt known;
  if (matchPattern(delta, m_ConstantInt(&known)) && known.isOne()) {
    OpFoldResult count = subSizes(b, toIndex(b, limit), toIndex(b, start));
    return maxSizes(b, count, b.getIndexAttr(0));
  }
  Value zero = constantOf(b, start.getType(), 0), one = constantOf(b, start.getType(), 1);
  Value isZero = b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::eq, delta, zero);
  Value divisor = b.createOrFold<arith::SelectOp>(isZero, one, delta);
  Value span = b.createOrFold<arith::SubIOp>(limit, start);
  // Rounded up: one more when a rest of the divisor's sign is left.
  Value count = b.createOrFold<arith::DivSIOp>(span, divisor);
  Value rest = b.createOrFold<arith::RemSIOp>(span, divisor);
  auto compare = [&](arith::CmpIPredicate predicate, Value value) {
    return b.createOrFold<arith::CmpIOp>(predicate, value, zero);
  };
  Value hasRest = compare(arith::CmpIPredicate::ne, rest);
  Value differ = b.createOrFold<arith::XOrIOp>(compare(arith::CmpIPredicate::slt, rest),
                                               compare(arith::CmpIPredicate::slt, divisor));
  Value none = constantOf(b, b.getI1Type(), 0);
  Value isMore = b.createOrFold<arith::SelectOp>(differ, none, hasRest);
  Value rounded = b.createOrFold<arith::AddIOp>(count, one);
  count = b.createOrFold<arith::SelectOp>(isMore, rounded, count);
  return toIndex(b, b.createOrFold<arith::MaxSIOp>(count, zero));
}

static OpFoldResult countFloats(ImplicitLocOpBuilder &b, Value start, Value limit, Value delta) {
  Value span = arith::SubFOp::create(b, limit, start);
  Value count = math::CeilOp::create(b, arith::DivFOp::create(b, span, delta));
  count = arith::MaximumFOp::create(b, count, constantOf(b, count.getType(), 0));
  return toIndex(b, arith::FPToSIOp::create(b, b.getI64Type(), count));
}

static LogicalResult lowerRange(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Type type = n.inputType(0).getElementType();
  SmallVector<Value> scalars;
  for (Value input : n.inputs()) {
    auto inputType = cast<RankedTensorType>(input.getType());
    if (!inputType.hasStaticShape() || inputType.getNumElements() != 1)
      return n.fail("an input is not a scalar");
    input = squeeze(b, input, llvm::to_vector(llvm::seq<int64_t>(0, inputType.getRank())));
    std::optional<SmallVector<Value>> elements = getScalars(b, input);
    Value scalar =
        elements ? elements->front() : Value(tensor::ExtractOp::create(b, input, ValueRange()));
    scalars.push_back(toComputeType(b, scalar));
  }
  if (scalars.size() != 3)
    return n.fail("has " + Twine(scalars.size()) + " inputs");
  Value start = scalars[0], delta = scalars[2];
  bool isFloat = isa<FloatType>(start.getType());
  OpFoldResult count =
      isFloat ? countFloats(b, start, scalars[1], delta) : countInts(b, start, scalars[1], delta);
  auto element = [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    Value index = arith::IndexCastOp::create(b, b.getI64Type(), at[0]);
    Value steps = castElement(b, index, b.getI64Type(), start.getType());
    Value value =
        isFloat ? Value(arith::AddFOp::create(b, start, arith::MulFOp::create(b, steps, delta)))
                : Value(arith::AddIOp::create(b, start, arith::MulIOp::create(b, steps, delta)));
    return fromComputeType(b, value, type);
  };
  return n.replace(generateTensor(b, {count}, type, element));
}

void lowering::addIndexing(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"Slice", 10, kNewestOpset, lowerSlice});
  table.push_back({"Concat", 4, kNewestOpset, lowerConcat});
  table.push_back({"Split", 13, kNewestOpset, lowerSplit});
  table.push_back({"Range", 11, kNewestOpset, lowerRange});
}

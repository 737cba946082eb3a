// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that repeat elements, or put others around them.

#include "Lowering.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

//===----------------------------------------------------------------------===//
// Tile
//===----------------------------------------------------------------------===//

static LogicalResult lowerTile(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  std::optional<Sizes> repeats = getScalarsAsSizes(b, n.input(1));
  if (!repeats)
    return n.unsupported("the number of repeats must be known, and at most 16");
  Sizes source = getSizes(b, data), target, spread;
  if (repeats->size() != source.size())
    return n.fail("has " + Twine(repeats->size()) + " repeats for " + Twine(source.size()) +
                  " dimensions");
  // Each dimension becomes (repeat, size), read without the repeats.
  SmallVector<AffineExpr> exprs;
  for (auto [dim, size, repeat] : llvm::enumerate(source, *repeats)) {
    if (std::optional<int64_t> known = getConstantIntValue(repeat); known && *known < 0)
      return n.fail("repeat " + Twine(*known) + " of dimension " + Twine(dim) + " is negative");
    if (!isNeverNegative(repeat)) {
      n.check(b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::sge, toValue(b, repeat),
                                            toValue(b, b.getIndexAttr(0))),
              "a repeat is negative");
      repeat = maxSizes(b, repeat, b.getIndexAttr(0));
    }
    target.push_back(mulSizes(b, repeat, size));
    if (!isSize(repeat, 1))
      spread.push_back(repeat);
    exprs.push_back(b.getAffineDimExpr(spread.size()));
    spread.push_back(size);
  }
  if (spread.size() == source.size())
    return n.replace(data);
  Value init = emptyTensor(b, spread, n.inputType(0).getElementType());
  int64_t rank = spread.size();
  SmallVector<AffineMap> maps{AffineMap::get(rank, 0, exprs, b.getContext()),
                              b.getMultiDimIdentityMap(rank)};
  SmallVector<utils::IteratorType> iterators(rank, utils::IteratorType::parallel);
  Value result = linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{data},
                                           ValueRange{init}, maps, iterators,
                                           [](OpBuilder &builder, Location loc, ValueRange args) {
                                             linalg::YieldOp::create(builder, loc, args[0]);
                                           })
                     .getResult(0);
  return n.replace(reshapeTo(b, result, target));
}

//===----------------------------------------------------------------------===//
// Pad
//===----------------------------------------------------------------------===//

namespace {
/// What is put around one dimension; cut off where negative.
struct Padding {
  OpFoldResult before, after;
};
} // namespace

static FailureOr<SmallVector<Padding>> getPadding(NodeLowering &n, int64_t rank) {
  ImplicitLocOpBuilder &b = n.b;
  std::optional<Sizes> pads = getScalarsAsSizes(b, n.input(1));
  if (!pads)
    return n.unsupported("the number of pads must be known, and at most 16");
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(0, rank));
  if (Value input = n.input(3)) {
    std::optional<SmallVector<int64_t>> given = lowering::getConstantInts(input);
    if (!given)
      return n.unsupported("the axes must be constants");
    axes = *given;
  }
  if (pads->size() != 2 * axes.size())
    return n.fail("has " + Twine(pads->size()) + " pads for " + Twine(axes.size()) + " dimensions");
  SmallVector<Padding> padding(rank, {b.getIndexAttr(0), b.getIndexAttr(0)});
  SmallVector<bool> seen(rank);
  for (auto [i, axis] : llvm::enumerate(axes)) {
    int64_t dim = axis < 0 ? axis + rank : axis;
    if (dim < 0 || dim >= rank || seen[dim])
      return n.fail("axis " + Twine(axis) + " is out of range or given twice");
    seen[dim] = true;
    padding[dim] = {(*pads)[i], (*pads)[i + axes.size()]};
  }
  return padding;
}

/// The part of `data` that pads do not cut off. `padding` is not negative any more.
static FailureOr<Value> cut(NodeLowering &n, Value data, MutableArrayRef<Padding> padding) {
  ImplicitLocOpBuilder &b = n.b;
  OpFoldResult zero = b.getIndexAttr(0);
  Sizes sizes = getSizes(b, data), offsets, strides(sizes.size(), b.getIndexAttr(1));
  bool isCut = false;
  for (auto [size, pad] : llvm::zip(sizes, padding)) {
    OpFoldResult front = maxSizes(b, subSizes(b, zero, pad.before), zero);
    OpFoldResult back = maxSizes(b, subSizes(b, zero, pad.after), zero);
    offsets.push_back(front);
    pad = {maxSizes(b, pad.before, zero), maxSizes(b, pad.after, zero)};
    if (isSize(front, 0) && isSize(back, 0))
      continue;
    isCut = true;
    OpFoldResult kept = subSizes(b, subSizes(b, size, front), back);
    if (std::optional<int64_t> known = getConstantIntValue(kept); known && *known < 0)
      return n.fail("more is cut off than there is");
    Value fits = b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::sge, toValue(b, kept),
                                               toValue(b, zero));
    n.check(fits, "more is cut off than there is");
    size = maxSizes(b, kept, zero);
    offsets.back() = minSizes(b, front, getSize(b, data, offsets.size() - 1));
  }
  if (!isCut)
    return data;
  if (llvm::any_of(sizes, [](OpFoldResult size) { return isSize(size, 0); }))
    return emptyTensor(b, sizes, getElementTypeOrSelf(data.getType()));
  return Value(tensor::ExtractSliceOp::create(b, data, offsets, sizes, strides));
}

/// Which element of a dimension of size `size` stands at `index`, which may be outside.
static Value sourceOf(ImplicitLocOpBuilder &b, StringRef mode, Value index, Value size) {
  Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
  Value last = b.createOrFold<arith::SubIOp>(size, one);
  if (mode == "edge")
    return arith::MaxSIOp::create(b, arith::MinSIOp::create(b, index, last), zero);
  bool reflects = mode == "reflect";
  Value period = reflects ? Value(b.createOrFold<arith::AddIOp>(last, last)) : size;
  period = b.createOrFold<arith::MaxSIOp>(period, one);
  Value rest = arith::RemSIOp::create(b, index, period);
  Value isNegative = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, rest, zero);
  rest = arith::SelectOp::create(b, isNegative, arith::AddIOp::create(b, rest, period), rest);
  if (!reflects)
    return rest;
  return arith::MinSIOp::create(b, rest, arith::SubIOp::create(b, period, rest));
}

static LogicalResult lowerPad(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Type elementType = n.inputType(0).getElementType();
  StringRef mode = n.node.getStringAttr("mode", "constant");
  if (!llvm::is_contained({"constant", "reflect", "edge", "wrap"}, mode))
    return n.fail("mode '" + mode + "' is none of constant, reflect, edge and wrap");
  FailureOr<SmallVector<Padding>> padding = getPadding(n, n.inputType(0).getRank());
  if (failed(padding))
    return failure();
  FailureOr<Value> data = cut(n, n.input(0), *padding);
  if (failed(data))
    return failure();
  Sizes source = getSizes(b, *data), sizes, offsets, strides(source.size(), b.getIndexAttr(1));
  for (auto [size, pad] : llvm::zip(source, *padding)) {
    offsets.push_back(pad.before);
    sizes.push_back(addSizes(b, addSizes(b, pad.before, size), pad.after));
  }
  if (mode == "constant") {
    Value given = n.input(2);
    auto isOne = [](OpFoldResult size) { return isSize(size, 1); };
    if (given && !llvm::all_of(getSizes(b, given), isOne))
      return n.fail("constant_value is not a single number");
    Value room = given ? broadcastTo(n, reshapeTo(b, given, {}), sizes)
                       : filledTensor(b, sizes, elementType, 0);
    if (llvm::any_of(source, [](OpFoldResult size) { return isSize(size, 0); }))
      return n.replace(room);
    return n.replace(
        tensor::InsertSliceOp::create(b, refineType(b, *data), room, offsets, source, strides)
            .getResult());
  }
  // Of nothing there is nothing to repeat.
  for (auto [size, padded] : llvm::zip(source, sizes)) {
    if (getConstantIntValue(size) && !isSize(size, 0))
      continue;
    if (isSameSize(size, padded))
      continue;
    Value isSome = b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::ne, toValue(b, size),
                                                 toValue(b, b.getIndexAttr(0)));
    n.check(isSome, "there is nothing to repeat");
    padded = b.createOrFold<arith::SelectOp>(isSome, toValue(b, padded), toValue(b, size));
  }
  auto element = [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    SmallVector<Value> place;
    for (auto [index, offset, size] : llvm::zip(at, offsets, source)) {
      Value moved = b.createOrFold<arith::SubIOp>(index, toValue(b, offset));
      place.push_back(isSize(offset, 0) && isSameSize(size, sizes[place.size()])
                          ? index
                          : sourceOf(b, mode, moved, toValue(b, size)));
    }
    return tensor::ExtractOp::create(b, *data, place);
  };
  return n.replace(generateTensor(b, sizes, elementType, element));
}

//===----------------------------------------------------------------------===//
// Trilu
//===----------------------------------------------------------------------===//

static LogicalResult lowerTrilu(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  RankedTensorType type = n.inputType(0);
  int64_t rank = type.getRank();
  if (rank < 2)
    return n.fail("the input has rank " + Twine(rank) + ", expected at least 2");
  FailureOr<OpFoldResult> diagonal = OpFoldResult(b.getIndexAttr(0));
  if (n.input(1))
    diagonal = n.scalarInput(1, "k");
  if (failed(diagonal))
    return failure();
  Value k = toValue(b, *diagonal);
  auto predicate =
      n.node.getIntAttr("upper", 1) ? arith::CmpIPredicate::sge : arith::CmpIPredicate::sle;
  return n.replace(*mapElements(
      n, n.input(0), type.getElementType(), [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        Value row = linalg::IndexOp::create(b, rank - 2),
              column = linalg::IndexOp::create(b, rank - 1);
        Value distance = arith::SubIOp::create(b, column, row);
        Value isKept = arith::CmpIOp::create(b, predicate, distance, k);
        return arith::SelectOp::create(b, isKept, x[0], constantOf(b, x[0].getType(), 0));
      }));
}

void lowering::addFilling(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"Tile", 6, kNewestOpset, lowerTile});
  table.push_back({"Pad", 11, kNewestOpset, lowerPad});
  table.push_back({"Trilu", 14, kNewestOpset, lowerTrilu});
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators about shapes: they compute sizes, or move no elements relative to their
// neighbours.

#include "Lowering.h"

#include "mlir/Dialect/Utils/IndexingUtils.h"
#include "mlir/IR/SymbolTable.h"

#include "moec/Dialect/MoE/IR/MoE.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

static LogicalResult lowerIdentity(NodeLowering &n) { return n.replace(n.input(0)); }

/// Outside training nothing is dropped.
static LogicalResult lowerDropout(NodeLowering &n) {
  if (Value training = n.input(2)) {
    std::optional<SmallVector<int64_t>> known = lowering::getConstantInts(training);
    if (!known || known->size() != 1 || known->front() != 0)
      return n.unsupported("training_mode must be a constant false");
  }
  SmallVector<Value> results{n.input(0)};
  if (n.node.getNumResults() > 1)
    results.push_back(filledTensor(n.b, getSizes(n.b, n.input(0)), n.b.getI1Type(), 1));
  return n.replace(results);
}

//===----------------------------------------------------------------------===//
// Constants
//===----------------------------------------------------------------------===//

static LogicalResult lowerConstant(NodeLowering &n) {
  Attribute value = n.node.getNodeAttr("value");
  if (auto weight = dyn_cast_or_null<FlatSymbolRefAttr>(value)) {
    auto symbol = SymbolTable::lookupNearestSymbolFrom<WeightOp>(n.node, weight);
    if (!symbol)
      return n.fail("its value is not a weight of this model");
    return n.replace(LoadWeightOp::create(n.b, symbol.getTensorType(), weight).getResult());
  }
  auto elements = dyn_cast_or_null<DenseElementsAttr>(value);
  if (!elements)
    return n.unsupported("its value must be a tensor of numbers");
  return n.replace(arith::ConstantOp::create(n.b, elements).getResult());
}

static LogicalResult lowerConstantOfShape(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  std::optional<Sizes> sizes = getScalarsAsSizes(b, n.input(0));
  if (!sizes)
    return n.unsupported("the rank of the result is not known");
  for (OpFoldResult &size : *sizes) {
    if (isNeverNegative(size))
      continue;
    n.check(arith::CmpIOp::create(b, arith::CmpIPredicate::sge, toValue(b, size),
                                  toValue(b, b.getIndexAttr(0))),
            "a size is negative");
    size = maxSizes(b, size, b.getIndexAttr(0));
  }
  TypedAttr value = b.getF32FloatAttr(0);
  if (DenseElementsAttr given = n.node.getTensorAttr("value"))
    value = cast<TypedAttr>(given.getSplatValue<Attribute>());
  Type elementType = value.getType();
  if (auto integer = dyn_cast<IntegerAttr>(value))
    value = IntegerAttr::get(getComputeType(elementType), integer.getValue());
  RankedTensorType type = getTensorType(*sizes, elementType);
  if (type.hasStaticShape() && type.getNumElements() <= 1024) {
    Attribute element =
        elementType.isUnsignedInteger()
            ? Attribute(IntegerAttr::get(elementType, cast<IntegerAttr>(value).getValue()))
            : Attribute(value);
    return n.replace(
        arith::ConstantOp::create(b, DenseElementsAttr::get(type, element)).getResult());
  }
  Value scalar = arith::ConstantOp::create(b, value);
  if (elementType.isUnsignedInteger())
    scalar = fromComputeType(b, scalar, elementType);
  return n.replace(
      linalg::FillOp::create(b, scalar, emptyTensor(b, *sizes, elementType)).getResult(0));
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

/// `value` counted from the front, cut to 0 … rank.
static int64_t clampAxis(int64_t value, int64_t rank) {
  return std::clamp<int64_t>(value < 0 ? value + rank : value, 0, rank);
}

static LogicalResult lowerShape(NodeLowering &n) {
  int64_t rank = n.inputType(0).getRank();
  int64_t start = clampAxis(n.node.getIntAttr("start", 0), rank);
  int64_t end = clampAxis(n.node.getIntAttr("end", rank), rank);
  SmallVector<Value> scalars;
  for (int64_t dim = start; dim < end; ++dim)
    scalars.push_back(fromIndex(n.b, getSize(n.b, n.input(0), dim), n.b.getI64Type()));
  int64_t count = scalars.size();
  return n.replace(fromScalars(n.b, scalars, RankedTensorType::get(count, n.b.getI64Type())));
}

static LogicalResult lowerSize(NodeLowering &n) {
  OpFoldResult count = productOf(n.b, getSizes(n.b, n.input(0)));
  Value scalar = fromIndex(n.b, count, n.b.getI64Type());
  return n.replace(fromScalars(n.b, scalar, RankedTensorType::get({}, n.b.getI64Type())));
}

//===----------------------------------------------------------------------===//
// Reshape
//===----------------------------------------------------------------------===//

/// The size that a requested one stands for, -1 left as it is: 0 copies the input's
/// size. A size computed from sizes that divides the element count is meant as it is:
/// when it is 0 there are no elements either way.
static OpFoldResult resolveZero(ImplicitLocOpBuilder &b, OpFoldResult requested,
                                ArrayRef<OpFoldResult> source, size_t dim) {
  if (std::optional<int64_t> known = getConstantIntValue(requested))
    return *known == 0 && dim < source.size() ? source[dim] : requested;
  if (dim >= source.size() || isSameSize(requested, source[dim]) ||
      (isNeverNegative(requested) && isFactorOf(requested, source)))
    return requested;
  Value isZero = equalSizes(b, requested, b.getIndexAttr(0));
  return getAsOpFoldResult(
      b.createOrFold<arith::SelectOp>(isZero, toValue(b, source[dim]), toValue(b, requested)));
}

/// Replaces -1 in `sizes` by what the element count leaves; at most one is known to be.
static void resolveInferred(ImplicitLocOpBuilder &b, Sizes &sizes, ArrayRef<OpFoldResult> source) {
  OpFoldResult minusOne = b.getIndexAttr(-1), one = b.getIndexAttr(1);
  Sizes others;
  SmallVector<Value> isInferred(sizes.size());
  for (auto [dim, size] : llvm::enumerate(sizes)) {
    if (isSize(size, -1))
      continue;
    if (isNeverNegative(size)) {
      others.push_back(size);
      continue;
    }
    isInferred[dim] = equalSizes(b, size, minusOne);
    others.push_back(
        b.createOrFold<arith::SelectOp>(isInferred[dim], toValue(b, one), toValue(b, size)));
  }
  for (auto [dim, size] : llvm::enumerate(sizes)) {
    if (isSize(size, -1))
      size = quotientOf(b, source, others);
    else if (isInferred[dim])
      size = b.createOrFold<arith::SelectOp>(
          isInferred[dim], toValue(b, quotientOf(b, source, others)), toValue(b, size));
  }
}

/// Checks that the element counts agree, at run time if need be; there a result that
/// does not fit has no elements. Fails when they never agree.
static LogicalResult checkCounts(NodeLowering &n, ArrayRef<OpFoldResult> source, Sizes &sizes) {
  ImplicitLocOpBuilder &b = n.b;
  OpFoldResult have = productOf(b, source), want = productOf(b, sizes);
  if (isSameSize(have, want))
    return success();
  if (getConstantIntValue(have) && getConstantIntValue(want))
    return n.fail("cannot make " + Twine(*getConstantIntValue(have)) + " elements into " +
                  Twine(*getConstantIntValue(want)));
  // Equal up to the order of the factors: each side divides the other.
  OpFoldResult quotient = quotientOf(b, source, sizes);
  if (isSize(quotient, 1) && isSize(quotientOf(b, sizes, source), 1))
    return success();
  Value ok = equalSizes(b, have, want);
  n.check(ok, "the number of elements changes");
  for (OpFoldResult &size : sizes) {
    if (getConstantIntValue(size))
      continue;
    size = b.createOrFold<arith::SelectOp>(ok, toValue(b, size), toValue(b, b.getIndexAttr(0)));
    break;
  }
  return success();
}

static LogicalResult lowerReshape(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  std::optional<Sizes> sizes = getScalarsAsSizes(b, n.input(1));
  if (!sizes)
    return n.unsupported("the rank of the result is not known, or above 16");
  if (llvm::count_if(*sizes, [](OpFoldResult size) { return isSize(size, -1); }) > 1)
    return n.fail("more than one size is -1");
  for (OpFoldResult size : *sizes)
    if (std::optional<int64_t> known = getConstantIntValue(size); known && *known < -1)
      return n.fail("a size is " + Twine(*known));

  Sizes source = getSizes(b, data);
  if (!n.node.getIntAttr("allowzero", 0)) {
    for (auto [dim, size] : llvm::enumerate(*sizes)) {
      if (isSize(size, 0) && dim >= source.size())
        return n.fail("size 0 of dimension " + Twine(dim) + " has no input dimension to copy");
      size = resolveZero(b, size, source, dim);
    }
  }
  bool isInferred = llvm::any_of(*sizes, [](OpFoldResult size) { return isSize(size, -1); });
  Sizes known;
  for (OpFoldResult size : *sizes)
    if (!isSize(size, -1))
      known.push_back(size);
  resolveInferred(b, *sizes, source);
  // An inferred size fits by construction when the rest divides the element count.
  bool fits =
      isInferred && llvm::all_of(known, isNeverNegative) && isFactorOf(productOf(b, known), source);
  if (!fits && failed(checkCounts(n, source, *sizes)))
    return failure();
  return n.replace(reshapeTo(b, data, *sizes));
}

static LogicalResult lowerFlatten(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  FailureOr<int64_t> axis = n.axis("axis", 1, n.inputType(0).getRank(), /*end=*/true);
  if (failed(axis))
    return failure();
  Sizes source = getSizes(b, n.input(0));
  ArrayRef<OpFoldResult> all(source);
  return n.replace(reshapeTo(
      b, n.input(0), {productOf(b, all.take_front(*axis)), productOf(b, all.drop_front(*axis))}));
}

//===----------------------------------------------------------------------===//
// Dimensions of size 1
//===----------------------------------------------------------------------===//

static LogicalResult lowerSqueeze(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  RankedTensorType type = n.inputType(0);
  FailureOr<SmallVector<int64_t>> axes = n.axesInput(1, type.getRank());
  if (failed(axes))
    return failure();
  if (!n.input(1)) {
    for (int64_t dim = 0; dim < type.getRank(); ++dim)
      if (isSize(getSize(b, data, dim), 1))
        axes->push_back(dim);
  }
  for (int64_t axis : *axes) {
    OpFoldResult size = getSize(b, data, axis);
    if (isSize(size, 1))
      continue;
    if (getConstantIntValue(size))
      return n.fail("dimension " + Twine(axis) + " has size " + Twine(*getConstantIntValue(size)));
    n.check(equalSizes(b, size, b.getIndexAttr(1)), "a squeezed dimension is not of size 1");
  }
  if (std::optional<SmallVector<Value>> scalars = getScalars(b, data); scalars && axes->size() == 1)
    return n.replace(fromScalars(b, *scalars, RankedTensorType::get({}, type.getElementType())));
  return n.replace(squeeze(b, data, *axes));
}

static LogicalResult lowerUnsqueeze(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  RankedTensorType type = n.inputType(0);
  if (!n.input(1))
    return n.fail("the axes are missing");
  std::optional<SmallVector<int64_t>> count = lowering::getConstantInts(n.input(1));
  if (!count)
    return n.unsupported("the axes must be constants");
  FailureOr<SmallVector<int64_t>> axes = n.axesInput(1, type.getRank() + count->size());
  if (failed(axes))
    return failure();
  if (type.getRank() == 0 && axes->size() == 1)
    if (std::optional<SmallVector<Value>> scalars = getScalars(b, data))
      return n.replace(fromScalars(b, *scalars, RankedTensorType::get(1, type.getElementType())));
  return n.replace(unsqueeze(b, data, *axes));
}

//===----------------------------------------------------------------------===//
// Expand, Transpose
//===----------------------------------------------------------------------===//

static LogicalResult lowerExpand(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  std::optional<Sizes> requested = getScalarsAsSizes(b, n.input(1));
  if (!requested)
    return n.unsupported("the rank of the result is not known, or above 16");
  FailureOr<Sizes> sizes = broadcastSizes(n, {getSizes(b, n.input(0)), *requested});
  if (failed(sizes))
    return failure();
  for (OpFoldResult &size : *sizes)
    size = maxSizes(b, size, b.getIndexAttr(0));
  return n.replace(broadcastTo(n, n.input(0), *sizes));
}

static LogicalResult lowerTranspose(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  int64_t rank = n.inputType(0).getRank();
  SmallVector<int64_t> permutation(llvm::reverse(llvm::to_vector(llvm::seq<int64_t>(0, rank))));
  if (std::optional<ArrayRef<int64_t>> given = n.node.getIntsAttr("perm"))
    permutation.assign(given->begin(), given->end());
  if (static_cast<int64_t>(permutation.size()) != rank || !isPermutationVector(permutation))
    return n.fail("perm is not a permutation of the " + Twine(rank) + " dimensions");
  if (llvm::equal(permutation, llvm::seq<int64_t>(0, rank)))
    return n.replace(data);
  Sizes source = getSizes(b, data), sizes;
  for (int64_t dim : permutation)
    sizes.push_back(source[dim]);
  Value init = emptyTensor(b, sizes, n.inputType(0).getElementType());
  return n.replace(linalg::TransposeOp::create(b, data, init, permutation).getResult());
}

/// Sequences of a known number of tensors are gone once nodes are normalized.
static LogicalResult lowerSequence(NodeLowering &n) {
  return n.unsupported("how many tensors the sequence has is not known at compile time");
}

void lowering::addShape(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"Identity", 1, kNewestOpset, lowerIdentity});
  table.push_back({"Dropout", 7, kNewestOpset, lowerDropout});
  table.push_back({"Constant", 1, kNewestOpset, lowerConstant});
  table.push_back({"ConstantOfShape", 9, kNewestOpset, lowerConstantOfShape});
  table.push_back({"Shape", 1, kNewestOpset, lowerShape});
  table.push_back({"Size", 1, kNewestOpset, lowerSize});
  table.push_back({"Reshape", 5, kNewestOpset, lowerReshape});
  table.push_back({"Flatten", 9, kNewestOpset, lowerFlatten});
  table.push_back({"Squeeze", 13, kNewestOpset, lowerSqueeze});
  table.push_back({"Unsqueeze", 13, kNewestOpset, lowerUnsqueeze});
  table.push_back({"Expand", 8, kNewestOpset, lowerExpand});
  table.push_back({"Transpose", 1, kNewestOpset, lowerTranspose});
  for (StringRef op : {"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
                       "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence"})
    table.push_back({op, 11, kNewestOpset, lowerSequence});
}

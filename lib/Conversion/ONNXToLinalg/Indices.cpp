// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Indices.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// An index that may count from the end, as one that counts from the front.
static Value fromFront(ImplicitLocOpBuilder &b, Value element, Value size) {
  Value index = b.createOrFold<arith::IndexCastOp>(b.getIndexType(), element);
  Value isNegative = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, index,
                                           arith::ConstantIndexOp::create(b, 0));
  return arith::SelectOp::create(b, isNegative, arith::AddIOp::create(b, index, size), index);
}

/// Checks constant indices; nullopt when that has to wait for the run.
static std::optional<LogicalResult> checkConstants(NodeLowering &n, Value tensor,
                                                   ArrayRef<OpFoldResult> limits) {
  std::optional<SmallVector<int64_t>> values = lowering::getConstantInts(tensor);
  if (!values || !llvm::all_of(limits, getConstantIntValue))
    return std::nullopt;
  for (auto [i, index] : llvm::enumerate(*values)) {
    int64_t limit = *getConstantIntValue(limits[i % limits.size()]);
    if (index < -limit || index >= limit)
      return n.fail("index " + Twine(index) + " is out of range for size " + Twine(limit));
  }
  return success();
}

FailureOr<Indices> Indices::create(NodeLowering &n, Value tensor, ArrayRef<OpFoldResult> limits,
                                   bool isTuple) {
  Type type = getElementTypeOrSelf(tensor.getType());
  if (!type.isSignlessInteger(32) && !type.isSignlessInteger(64))
    return n.fail("its indices are neither int32 nor int64");
  Indices indices(tensor, limits);
  if (limits.empty())
    return indices;
  if (std::optional<LogicalResult> checked = checkConstants(n, tensor, limits)) {
    if (failed(*checked))
      return failure();
    indices.known = true;
    return indices;
  }
  indices.checkAtRunTime(n, isTuple);
  return indices;
}

void Indices::checkAtRunTime(NodeLowering &n, bool isTuple) {
  ImplicitLocOpBuilder &b = n.b;
  // A check of sizes alone keeps the call from running, so that nothing is read from
  // tensors without elements.
  OpFoldResult zero = b.getIndexAttr(0);
  for (OpFoldResult limit : limits) {
    if (getConstantIntValue(limit) && !isSize(limit, 0))
      continue;
    Value isEmpty = equalSizes(b, productOf(b, getSizes(b, tensor)), zero);
    Value isSome = b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::ne, toValue(b, limit),
                                                 toValue(b, zero));
    n.check(b.createOrFold<arith::OrIOp>(isSome, isEmpty), "an index is out of range");
  }

  // One check over all indices.
  SmallVector<Value> sizes;
  for (OpFoldResult limit : limits)
    sizes.push_back(toValue(b, limit));
  int64_t rank = cast<RankedTensorType>(tensor.getType()).getRank();
  Value yes = arith::ConstantOp::create(b, b.getBoolAttr(true));
  Value init = linalg::FillOp::create(b, yes, emptyTensor(b, {}, b.getI1Type())).getResult(0);
  SmallVector<AffineMap> maps{b.getMultiDimIdentityMap(rank),
                              AffineMap::get(rank, 0, {}, b.getContext())};
  SmallVector<utils::IteratorType> iterators(rank, utils::IteratorType::reduction);
  auto body = [&](OpBuilder &builder, Location loc, ValueRange args) {
    ImplicitLocOpBuilder inner(loc, builder);
    Value size = sizes.front();
    for (auto [i, other] : llvm::drop_begin(llvm::enumerate(sizes))) {
      Value position = linalg::IndexOp::create(inner, rank - 1);
      Value isOther = arith::CmpIOp::create(inner, arith::CmpIPredicate::eq, position,
                                            arith::ConstantIndexOp::create(inner, i));
      size = arith::SelectOp::create(inner, isOther, other, size);
    }
    Value index = fromFront(inner, args[0], size);
    // Unsigned, so that what is still negative is too large.
    Value fits = arith::CmpIOp::create(inner, arith::CmpIPredicate::ult, index, size);
    linalg::YieldOp::create(inner, Value(arith::AndIOp::create(inner, args[1], fits)));
  };
  Value all = linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{tensor},
                                        ValueRange{init}, maps, iterators, body)
                  .getResult(0);
  n.check(tensor::ExtractOp::create(b, all, ValueRange()), "an index is out of range");
}

Value Indices::pick(ImplicitLocOpBuilder &b, ValueRange place, OpFoldResult limit) {
  Value size = toValue(b, limit);
  Value index = fromFront(b, tensor::ExtractOp::create(b, tensor, place), size);
  if (known)
    return index;
  Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
  index = arith::MinSIOp::create(b, index, b.createOrFold<arith::SubIOp>(size, one));
  return arith::MaxSIOp::create(b, index, zero);
}

SmallVector<Value> Indices::tupleAt(ImplicitLocOpBuilder &b, ValueRange place) {
  SmallVector<Value> tuple;
  for (auto [i, limit] : llvm::enumerate(limits)) {
    SmallVector<Value> position(place);
    position.push_back(arith::ConstantIndexOp::create(b, i));
    tuple.push_back(pick(b, position, limit));
  }
  return tuple;
}

Value Indices::hasElements(ImplicitLocOpBuilder &b) {
  // Sizes that do not depend on data have been checked before anything runs.
  Value result;
  for (OpFoldResult limit : limits) {
    if (!dependsOnData(limit))
      continue;
    Value isSome = b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::ne, toValue(b, limit),
                                                 toValue(b, b.getIndexAttr(0)));
    result = result ? b.createOrFold<arith::AndIOp>(result, isSome) : isSome;
  }
  return result;
}

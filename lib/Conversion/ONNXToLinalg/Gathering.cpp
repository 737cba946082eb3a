// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that pick elements by tensors of indices.

#include "Indices.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// A tensor of the elements of `data` at place(indices of the result).
static Value gather(ImplicitLocOpBuilder &b, Value data, Indices &indices,
                    ArrayRef<OpFoldResult> sizes,
                    function_ref<SmallVector<Value>(ImplicitLocOpBuilder &, ValueRange)> place) {
  Type type = getElementTypeOrSelf(data.getType());
  Value hasElements = indices.hasElements(b);
  auto element = [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    auto read = [&](ImplicitLocOpBuilder &b) -> Value {
      return tensor::ExtractOp::create(b, data, place(b, at));
    };
    if (!hasElements)
      return read(b);
    // Nothing may be read from a tensor without elements.
    auto branch = scf::IfOp::create(
        b, hasElements,
        [&](OpBuilder &builder, Location loc) {
          ImplicitLocOpBuilder inner(loc, builder);
          scf::YieldOp::create(inner, read(inner));
        },
        [&](OpBuilder &builder, Location loc) {
          ImplicitLocOpBuilder inner(loc, builder);
          Value none = constantOf(inner, getComputeType(type), 0);
          scf::YieldOp::create(inner, fromComputeType(inner, none, type));
        });
    return branch.getResult(0);
  };
  return generateTensor(b, sizes, type, element);
}

//===----------------------------------------------------------------------===//
// Gather
//===----------------------------------------------------------------------===//

/// Gather from a small integer vector at constant places.
static Value gatherScalars(ImplicitLocOpBuilder &b, Value data, Value indices) {
  auto indicesType = cast<RankedTensorType>(indices.getType());
  std::optional<SmallVector<int64_t>> places = lowering::getConstantInts(indices);
  if (indicesType.getRank() > 1 || !places)
    return {};
  std::optional<SmallVector<Value>> scalars = getScalars(b, data);
  if (!scalars)
    return {};
  SmallVector<Value> picked;
  int64_t count = scalars->size();
  for (int64_t place : *places)
    picked.push_back((*scalars)[place < 0 ? place + count : place]);
  return fromScalars(
      b, picked,
      RankedTensorType::get(indicesType.getShape(), getElementTypeOrSelf(data.getType())));
}

static LogicalResult lowerGather(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  RankedTensorType type = n.inputType(0);
  FailureOr<int64_t> axis = n.axis("axis", 0, type.getRank());
  if (failed(axis))
    return failure();
  FailureOr<Indices> indices = Indices::create(n, n.input(1), getSize(b, data, *axis));
  if (failed(indices))
    return failure();
  if (indices->isKnown() && type.getRank() == 1)
    if (Value result = gatherScalars(b, data, n.input(1)))
      return n.replace(result);

  Sizes dataSizes = getSizes(b, data), sizes(dataSizes.begin(), dataSizes.begin() + *axis);
  int64_t indexRank = n.inputType(1).getRank();
  llvm::append_range(sizes, getSizes(b, n.input(1)));
  sizes.append(dataSizes.begin() + *axis + 1, dataSizes.end());
  auto place = [&](ImplicitLocOpBuilder &b, ValueRange at) {
    SmallVector<Value> place(at.take_front(*axis));
    place.push_back(indices->at(b, at.slice(*axis, indexRank)));
    llvm::append_range(place, at.drop_front(*axis + indexRank));
    return place;
  };
  return n.replace(gather(b, data, *indices, sizes, place));
}

//===----------------------------------------------------------------------===//
// GatherElements, GatherND
//===----------------------------------------------------------------------===//

static LogicalResult lowerGatherElements(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  int64_t rank = n.inputType(0).getRank();
  FailureOr<int64_t> axis = n.axis("axis", 0, rank);
  if (failed(axis))
    return failure();
  if (n.inputType(1).getRank() != rank)
    return n.fail("data and indices differ in rank");
  FailureOr<Indices> indices = Indices::create(n, n.input(1), getSize(b, data, *axis));
  if (failed(indices))
    return failure();
  Sizes sizes = getSizes(b, n.input(1));
  for (int64_t dim = 0; dim < rank; ++dim)
    if (dim != *axis && failed(limitSize(n, sizes[dim], getSize(b, data, dim),
                                         "dimension " + Twine(dim) +
                                             " of the indices is larger than that of the data")))
      return failure();
  auto place = [&](ImplicitLocOpBuilder &b, ValueRange at) {
    SmallVector<Value> place(at);
    place[*axis] = indices->at(b, at);
    return place;
  };
  return n.replace(gather(b, data, *indices, sizes, place));
}

static LogicalResult lowerGatherND(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0), tuples = n.input(1);
  int64_t rank = n.inputType(0).getRank(), tupleRank = n.inputType(1).getRank() - 1;
  int64_t batch = n.node.getIntAttr("batch_dims", 0);
  if (tupleRank < 0)
    return n.fail("the indices have rank 0");
  std::optional<int64_t> depth = getConstantIntValue(getSize(b, tuples, tupleRank));
  if (!depth)
    return n.unsupported("the length of its index tuples is not known");
  if (batch < 0 || batch > tupleRank || batch + *depth > rank)
    return n.fail("tuples of " + Twine(*depth) + " indices after " + Twine(batch) +
                  " batch dimensions do not fit data of rank " + Twine(rank));
  for (int64_t dim = 0; dim < batch; ++dim)
    if (failed(unifyDim(n, data, dim, tuples, dim,
                        "the sizes of batch dimension " + Twine(dim) + " differ")))
      return failure();
  Sizes dataSizes = getSizes(b, data);
  FailureOr<Indices> indices =
      Indices::create(n, tuples, ArrayRef(dataSizes).slice(batch, *depth), /*isTuple=*/true);
  if (failed(indices))
    return failure();
  Sizes sizes = getSizes(b, tuples);
  sizes.pop_back();
  sizes.append(dataSizes.begin() + batch + *depth, dataSizes.end());
  auto place = [&](ImplicitLocOpBuilder &b, ValueRange at) {
    SmallVector<Value> place(at.take_front(batch));
    llvm::append_range(place, indices->tupleAt(b, at.take_front(tupleRank)));
    llvm::append_range(place, at.drop_front(tupleRank));
    return place;
  };
  return n.replace(gather(b, data, *indices, sizes, place));
}

//===----------------------------------------------------------------------===//
// OneHot
//===----------------------------------------------------------------------===//

static LogicalResult lowerOneHot(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value indices = n.input(0), values = n.input(2);
  int64_t rank = n.inputType(0).getRank() + 1;
  FailureOr<int64_t> axis = n.axis("axis", -1, rank);
  if (failed(axis))
    return failure();
  FailureOr<OpFoldResult> depth = n.scalarInput(1, "depth");
  if (failed(depth))
    return failure();
  RankedTensorType valuesType = n.inputType(2);
  if (valuesType.getRank() != 1 || !isSize(getSize(b, values, 0), 2))
    return n.fail("its values must be a vector of two elements");
  if (!isNeverNegative(*depth)) {
    n.check(b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::sge, toValue(b, *depth),
                                          toValue(b, b.getIndexAttr(0))),
            "the depth is negative");
    depth = maxSizes(b, *depth, b.getIndexAttr(0));
  }
  Sizes sizes = getSizes(b, indices);
  sizes.insert(sizes.begin() + *axis, *depth);
  auto valueAt = [&](int64_t i) -> Value {
    Value place = arith::ConstantIndexOp::create(b, i);
    return toComputeType(b, tensor::ExtractOp::create(b, values, place));
  };
  Value off = valueAt(0), on = valueAt(1), limit = toValue(b, *depth);
  Type indexType = n.inputType(0).getElementType();
  auto element = [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    SmallVector<Value> place(at);
    place.erase(place.begin() + *axis);
    Value index = toComputeType(b, tensor::ExtractOp::create(b, indices, place));
    index = castElement(b, index, indexType, b.getI64Type());
    // What is out of range is equal to no position.
    index = b.createOrFold<arith::IndexCastOp>(b.getIndexType(), index);
    Value fromEnd = arith::AddIOp::create(b, index, limit);
    auto isHere = [&](Value index) {
      return arith::CmpIOp::create(b, arith::CmpIPredicate::eq, index, at[*axis]);
    };
    Value isOn = arith::OrIOp::create(b, isHere(index), isHere(fromEnd));
    Value chosen = arith::SelectOp::create(b, isOn, on, off);
    return fromComputeType(b, chosen, valuesType.getElementType());
  };
  return n.replace(generateTensor(b, sizes, valuesType.getElementType(), element));
}

void lowering::addGathering(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"Gather", 1, kNewestOpset, lowerGather});
  table.push_back({"GatherElements", 11, kNewestOpset, lowerGatherElements});
  table.push_back({"GatherND", 11, kNewestOpset, lowerGatherND});
  table.push_back({"OneHot", 9, kNewestOpset, lowerOneHot});
}

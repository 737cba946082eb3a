// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that write elements to places given by tensors of indices, one after the
// other, so that the last one of equal places wins and sums have a fixed order.

#include "Indices.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

namespace {
/// How an update joins the element that is there.
struct Update {
  StringRef reduction;
  Type elementType;

  Value operator()(ImplicitLocOpBuilder &b, Value old, Value update) const {
    if (reduction == "none")
      return update;
    Value lhs = toComputeType(b, old), rhs = toComputeType(b, update);
    return fromComputeType(b, combine(b, lhs, rhs), elementType);
  }

private:
  Value combine(ImplicitLocOpBuilder &b, Value lhs, Value rhs) const {
    bool isFloat = isa<FloatType>(lhs.getType());
    if (reduction == "add")
      return isFloat ? Value(arith::AddFOp::create(b, lhs, rhs))
                     : Value(arith::AddIOp::create(b, lhs, rhs));
    if (reduction == "mul")
      return isFloat ? Value(arith::MulFOp::create(b, lhs, rhs))
                     : Value(arith::MulIOp::create(b, lhs, rhs));
    return extreme(b, lhs, rhs, isUnsignedElement(elementType), reduction == "max");
  }
};
} // namespace

static FailureOr<Update> getUpdate(NodeLowering &n) {
  Type type = n.inputType(0).getElementType();
  if (n.inputType(2).getElementType() != type)
    return n.fail("data and updates differ in element type");
  StringRef reduction = n.node.getStringAttr("reduction", "none");
  if (!llvm::is_contained({"none", "add", "mul", "min", "max"}, reduction))
    return n.fail("reduction '" + reduction + "' is none of none, add, mul, min and max");
  if (reduction != "none" && type.isInteger(1))
    return n.unsupported("reduction '" + reduction + "' of bool is not supported");
  return Update{reduction, type};
}

/// `tensor` with the element at `place` updated.
static Value updateAt(ImplicitLocOpBuilder &b, const Update &update, Value tensor,
                      ArrayRef<Value> place, Value element) {
  Value old =
      update.reduction == "none" ? Value() : Value(tensor::ExtractOp::create(b, tensor, place));
  return tensor::InsertOp::create(b, update(b, old, element), tensor, place);
}

/// No iterations where there is nothing to write to.
static void guardSizes(ImplicitLocOpBuilder &b, Indices &indices, Sizes &sizes) {
  Value hasElements = indices.hasElements(b);
  if (!hasElements || sizes.empty())
    return;
  sizes[0] = b.createOrFold<arith::SelectOp>(hasElements, toValue(b, sizes[0]),
                                             toValue(b, b.getIndexAttr(0)));
}

static LogicalResult lowerScatterElements(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0), updates = n.input(2);
  int64_t rank = n.inputType(0).getRank();
  FailureOr<int64_t> axis = n.axis("axis", 0, rank);
  FailureOr<Update> update = getUpdate(n);
  if (failed(axis) || failed(update))
    return failure();
  if (n.inputType(1).getRank() != rank || n.inputType(2).getRank() != rank)
    return n.fail("data, indices and updates differ in rank");
  FailureOr<Indices> indices = Indices::create(n, n.input(1), getSize(b, data, *axis));
  if (failed(indices))
    return failure();
  Sizes sizes = getSizes(b, n.input(1));
  for (int64_t dim = 0; dim < rank; ++dim) {
    if (failed(agreeOnSize(n, sizes[dim], getSize(b, updates, dim),
                           "dimension " + Twine(dim) + " of indices and updates differs")))
      return failure();
    if (dim != *axis && failed(limitSize(n, sizes[dim], getSize(b, data, dim),
                                         "dimension " + Twine(dim) +
                                             " of the indices is larger than that of the data")))
      return failure();
  }
  guardSizes(b, *indices, sizes);
  auto body = [&](ImplicitLocOpBuilder &b, ValueRange at, Value result) {
    SmallVector<Value> place(at);
    place[*axis] = indices->at(b, at);
    return updateAt(b, *update, result, place, tensor::ExtractOp::create(b, updates, at));
  };
  return n.replace(loopOver(b, sizes, data, body));
}

static LogicalResult lowerScatterND(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0), tuples = n.input(1), updates = n.input(2);
  int64_t rank = n.inputType(0).getRank(), tupleRank = n.inputType(1).getRank() - 1;
  FailureOr<Update> update = getUpdate(n);
  if (failed(update))
    return failure();
  if (tupleRank < 0)
    return n.fail("the indices have rank 0");
  std::optional<int64_t> depth = getConstantIntValue(getSize(b, tuples, tupleRank));
  if (!depth)
    return n.unsupported("the length of its index tuples is not known");
  if (*depth > rank)
    return n.fail("tuples of " + Twine(*depth) + " indices do not fit data of rank " + Twine(rank));
  if (n.inputType(2).getRank() != tupleRank + rank - *depth)
    return n.fail("the updates have rank " + Twine(n.inputType(2).getRank()) + ", expected " +
                  Twine(tupleRank + rank - *depth));
  Sizes dataSizes = getSizes(b, data), sizes = getSizes(b, updates);
  for (auto [dim, size] : llvm::enumerate(sizes)) {
    bool isOfTuples = int64_t(dim) < tupleRank;
    OpFoldResult other = isOfTuples ? getSize(b, tuples, dim) : dataSizes[dim - tupleRank + *depth];
    if (failed(agreeOnSize(n, size, other,
                           "dimension " + Twine(dim) + " of the updates does not fit the " +
                               (isOfTuples ? "indices" : "data"))))
      return failure();
  }
  FailureOr<Indices> indices =
      Indices::create(n, tuples, ArrayRef(dataSizes).take_front(*depth), /*isTuple=*/true);
  if (failed(indices))
    return failure();
  guardSizes(b, *indices, sizes);

  auto writeSlice = [&](ImplicitLocOpBuilder &b, ValueRange at, Value result) {
    SmallVector<Value> tuple = indices->tupleAt(b, at);
    SmallVector<Value> outer(at);
    return loopOver(b, ArrayRef(sizes).drop_front(tupleRank), result,
                    [&](ImplicitLocOpBuilder &b, ValueRange inner, Value result) {
                      SmallVector<Value> place(tuple), source(outer);
                      llvm::append_range(place, inner);
                      llvm::append_range(source, inner);
                      Value element = tensor::ExtractOp::create(b, updates, source);
                      return updateAt(b, *update, result, place, element);
                    });
  };
  return n.replace(loopOver(b, ArrayRef(sizes).take_front(tupleRank), data, writeSlice));
}

void lowering::addScattering(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"ScatterElements", 11, kNewestOpset, lowerScatterElements});
  table.push_back({"ScatterND", 11, kNewestOpset, lowerScatterND});
}

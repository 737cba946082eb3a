// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that reduce dimensions.

#include "Lowering.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

Value lowering::reduce(ImplicitLocOpBuilder &b, Value tensor, ArrayRef<int64_t> axes, Value start,
                       CombineFn combine) {
  Sizes sizes = getSizes(b, tensor), kept;
  int64_t rank = sizes.size();
  SmallVector<AffineExpr> exprs;
  SmallVector<utils::IteratorType> iterators(rank, utils::IteratorType::reduction);
  for (int64_t dim = 0; dim < rank; ++dim) {
    if (llvm::is_contained(axes, dim))
      continue;
    kept.push_back(sizes[dim]);
    exprs.push_back(b.getAffineDimExpr(dim));
    iterators[dim] = utils::IteratorType::parallel;
  }
  Value init = linalg::FillOp::create(b, start, emptyTensor(b, kept, start.getType())).getResult(0);
  SmallVector<AffineMap> maps{b.getMultiDimIdentityMap(rank),
                              AffineMap::get(rank, 0, exprs, b.getContext())};
  auto body = [&](OpBuilder &builder, Location loc, ValueRange args) {
    ImplicitLocOpBuilder inner(loc, builder);
    linalg::YieldOp::create(inner, combine(inner, args[1], toComputeType(inner, args[0])));
  };
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{tensor},
                                   ValueRange{init}, maps, iterators, body)
      .getResult(0);
}

namespace {
enum class Reduction { Sum, Mean, Max, Min, Prod, SumSquare, L1, L2, LogSum, LogSumExp };
} // namespace

/// Where a maximum or minimum starts: the value that loses against every other.
static Value extremeOf(ImplicitLocOpBuilder &b, Type elementType, bool lowest) {
  Type type = getComputeType(elementType);
  if (isa<FloatType>(type)) {
    double infinity = std::numeric_limits<double>::infinity();
    return constantOf(b, type, lowest ? -infinity : infinity);
  }
  unsigned width = type.getIntOrFloatBitWidth();
  bool isUnsigned = isUnsignedElement(elementType);
  APInt value = lowest ? (isUnsigned ? APInt::getMinValue(width) : APInt::getSignedMinValue(width))
                       : (isUnsigned ? APInt::getMaxValue(width) : APInt::getSignedMaxValue(width));
  return arith::ConstantOp::create(b, b.getIntegerAttr(type, value));
}

Value lowering::extreme(ImplicitLocOpBuilder &b, Value acc, Value element, bool isUnsigned,
                        bool isMax) {
  if (isa<FloatType>(acc.getType()))
    return isMax ? Value(arith::MaximumFOp::create(b, acc, element))
                 : Value(arith::MinimumFOp::create(b, acc, element));
  if (isUnsigned)
    return isMax ? Value(arith::MaxUIOp::create(b, acc, element))
                 : Value(arith::MinUIOp::create(b, acc, element));
  return isMax ? Value(arith::MaxSIOp::create(b, acc, element))
               : Value(arith::MinSIOp::create(b, acc, element));
}

static Value startOf(ImplicitLocOpBuilder &b, Reduction kind, Type elementType) {
  if (kind == Reduction::Max || kind == Reduction::Min)
    return extremeOf(b, elementType, kind == Reduction::Max);
  return constantOf(b, getComputeType(elementType), kind == Reduction::Prod ? 1 : 0);
}

/// What of an element is combined, for operators whose name says more than that.
static Value prepare(ImplicitLocOpBuilder &b, Reduction kind, bool isUnsigned, Value element) {
  if (kind == Reduction::SumSquare || kind == Reduction::L2)
    return multiplyElements(b, element, element);
  if (kind != Reduction::L1 || isUnsigned)
    return element;
  if (isa<FloatType>(element.getType()))
    return math::AbsFOp::create(b, element);
  return math::AbsIOp::create(b, element);
}

static Value combine(ImplicitLocOpBuilder &b, Reduction kind, bool isUnsigned, Value acc,
                     Value element) {
  switch (kind) {
  case Reduction::Max:
  case Reduction::Min:
    return extreme(b, acc, element, isUnsigned, kind == Reduction::Max);
  case Reduction::Prod:
    return multiplyElements(b, acc, element);
  default:
    return addElements(b, acc, element);
  }
}

/// What is done with an accumulated value: the mean's division, a root or a logarithm.
static Value finish(ImplicitLocOpBuilder &b, Reduction kind, bool isUnsigned, Value acc,
                    OpFoldResult count) {
  if (kind == Reduction::L2)
    return math::SqrtOp::create(b, acc);
  if (kind == Reduction::LogSum || kind == Reduction::LogSumExp)
    return math::LogOp::create(b, acc);
  if (kind != Reduction::Mean)
    return acc;
  if (isa<FloatType>(acc.getType())) {
    Value divisor = arith::SIToFPOp::create(b, acc.getType(), fromIndex(b, count, b.getI64Type()));
    return arith::DivFOp::create(b, acc, divisor);
  }
  // Without elements there is nothing to divide, but a division by 0 would trap.
  Value divisor = fromIndex(b, maxSizes(b, count, b.getIndexAttr(1)), acc.getType());
  return isUnsigned ? Value(arith::DivUIOp::create(b, acc, divisor))
                    : Value(arith::DivSIOp::create(b, acc, divisor));
}

/// Small integer vectors stay scalars.
static Value reduceScalars(ImplicitLocOpBuilder &b, Reduction kind, Value tensor, bool keepDims,
                           OpFoldResult count) {
  std::optional<SmallVector<Value>> scalars = getScalars(b, tensor);
  if (!scalars)
    return {};
  Type elementType = getElementTypeOrSelf(tensor.getType());
  bool isUnsigned = isUnsignedElement(elementType);
  Value acc = scalars->empty() ? startOf(b, kind, elementType) : Value();
  for (Value scalar : *scalars) {
    Value element = prepare(b, kind, isUnsigned, scalar);
    acc = acc ? combine(b, kind, isUnsigned, acc, element) : element;
  }
  acc = finish(b, kind, isUnsigned, acc, count);
  SmallVector<int64_t> shape(keepDims ? 1 : 0, 1);
  return fromScalars(b, acc, RankedTensorType::get(shape, elementType));
}

namespace {
/// The dimensions that go away. The axes may be computed at run time: then dimensions are
/// first reduced to size 1, which needs no more than their sizes, and removed afterwards.
class ReducedDims {
public:
  /// Reports wrong axes.
  static FailureOr<ReducedDims> get(NodeLowering &n, unsigned position);

  /// True when every element stays as it is.
  bool isNothing() const { return axes.empty() && isReduced.empty(); }
  /// True when the axes are known to be all.
  bool isAll() const { return isReduced.empty() && int64_t(axes.size()) == rank; }
  /// Number of elements that become one.
  OpFoldResult getCount(Value data) const;
  /// Reduced dimensions of the result are gone, or of size 1 when the axes are computed.
  Value reduce(Value data, Value start, CombineFn combine) const;
  /// What `reduce` returned with the reduced dimensions as 1, or without them.
  Value keep(Value reduced) const;
  Value drop(Value reduced) const;

private:
  ReducedDims(NodeLowering &n, int64_t rank) : n(&n), rank(rank) {}
  LogicalResult readAxes(Value axes);

  NodeLowering *n;
  int64_t rank;
  SmallVector<int64_t> axes;
  /// For computed axes: whether each dimension is reduced, how many are, and whether the
  /// axes are in range and differ.
  SmallVector<Value> isReduced;
  int64_t count = 0;
  Value valid;
};
} // namespace

FailureOr<ReducedDims> ReducedDims::get(NodeLowering &n, unsigned position) {
  ReducedDims dims(n, n.inputType(0).getRank());
  Value axes = n.input(position);
  if (axes && !getConstantInts(axes) && !llvm::is_contained(n.inputType(position).getShape(), 0)) {
    if (failed(dims.readAxes(axes)))
      return failure();
    return dims;
  }
  FailureOr<SmallVector<int64_t>> known = SmallVector<int64_t>();
  if (axes && getConstantInts(axes))
    known = n.axesInput(position, dims.rank);
  if (failed(known))
    return failure();
  dims.axes = *known;
  if (dims.axes.empty() && !n.node.getIntAttr("noop_with_empty_axes", 0))
    llvm::append_range(dims.axes, llvm::seq<int64_t>(0, dims.rank));
  return dims;
}

LogicalResult ReducedDims::readAxes(Value tensor) {
  ImplicitLocOpBuilder &b = n->b;
  std::optional<SmallVector<Value>> scalars = getScalars(b, tensor);
  if (!scalars)
    return n->unsupported("the number of axes is not known");
  auto at = [&](int64_t value) { return constantOf(b, scalars->front().getType(), value); };
  auto equal = [&](Value lhs, Value rhs) -> Value {
    return arith::CmpIOp::create(b, arith::CmpIPredicate::eq, lhs, rhs);
  };
  Value no = arith::ConstantOp::create(b, b.getBoolAttr(false));
  Value yes = arith::ConstantOp::create(b, b.getBoolAttr(true));
  isReduced.assign(rank, no);
  valid = yes;
  count = scalars->size();
  for (Value axis : *scalars) {
    Value isNew = no;
    for (int64_t dim = 0; dim < rank; ++dim) {
      Value isMeant = arith::OrIOp::create(b, equal(axis, at(dim)), equal(axis, at(dim - rank)));
      Value isFirst =
          arith::AndIOp::create(b, isMeant, arith::XOrIOp::create(b, isReduced[dim], yes));
      isNew = arith::OrIOp::create(b, isNew, isFirst);
      isReduced[dim] = arith::OrIOp::create(b, isReduced[dim], isMeant);
    }
    valid = arith::AndIOp::create(b, valid, isNew);
  }
  n->check(valid, "an axis is out of range, or given twice");
  return success();
}

OpFoldResult ReducedDims::getCount(Value data) const {
  ImplicitLocOpBuilder &b = n->b;
  Sizes sizes = getSizes(b, data), counts;
  for (int64_t axis : axes)
    counts.push_back(sizes[axis]);
  for (auto [reduced, size] : llvm::zip(isReduced, sizes)) {
    Value count =
        arith::SelectOp::create(b, reduced, toValue(b, size), toValue(b, b.getIndexAttr(1)));
    counts.push_back(count);
  }
  return productOf(b, counts);
}

Value ReducedDims::reduce(Value data, Value start, CombineFn combine) const {
  ImplicitLocOpBuilder &b = n->b;
  if (isReduced.empty())
    return lowering::reduce(b, data, axes, start, combine);
  // Each dimension of the data is one of the result plus one of a window, one of them of
  // size 1. The window is there for its sizes only.
  Value one = toValue(b, b.getIndexAttr(1));
  Sizes kept, window;
  SmallVector<AffineExpr> dataExprs, keptExprs, windowExprs;
  for (auto [dim, size] : llvm::enumerate(getSizes(b, data))) {
    Value value = toValue(b, size);
    kept.push_back(arith::SelectOp::create(b, isReduced[dim], one, value).getResult());
    window.push_back(arith::SelectOp::create(b, isReduced[dim], value, one).getResult());
    keptExprs.push_back(b.getAffineDimExpr(dim));
    windowExprs.push_back(b.getAffineDimExpr(rank + dim));
    dataExprs.push_back(keptExprs.back() + windowExprs.back());
  }
  SmallVector<AffineMap> maps;
  for (auto &exprs : {dataExprs, windowExprs, keptExprs})
    maps.push_back(AffineMap::get(2 * rank, 0, exprs, b.getContext()));
  SmallVector<utils::IteratorType> iterators(2 * rank, utils::IteratorType::reduction);
  std::fill_n(iterators.begin(), rank, utils::IteratorType::parallel);
  Value init = linalg::FillOp::create(b, start, emptyTensor(b, kept, start.getType())).getResult(0);
  auto body = [&](OpBuilder &builder, Location loc, ValueRange args) {
    ImplicitLocOpBuilder inner(loc, builder);
    linalg::YieldOp::create(inner, combine(inner, args[2], toComputeType(inner, args[0])));
  };
  Value windows = emptyTensor(b, window, b.getI8Type());
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{data, windows},
                                   ValueRange{init}, maps, iterators, body)
      .getResult(0);
}

Value ReducedDims::keep(Value reduced) const {
  return isReduced.empty() ? unsqueeze(n->b, reduced, axes) : reduced;
}

Value ReducedDims::drop(Value reduced) const {
  if (isReduced.empty())
    return reduced;
  // Size i of the result is that of the dimension with i kept ones before it. Nothing is read
  // when the axes are not valid.
  ImplicitLocOpBuilder &b = n->b;
  Value zero = toValue(b, b.getIndexAttr(0)), one = toValue(b, b.getIndexAttr(1));
  Value yes = arith::ConstantOp::create(b, b.getBoolAttr(true));
  SmallVector<Value> sizes(std::max<int64_t>(rank - count, 0), zero);
  Value position = zero;
  for (auto [dim, size] : llvm::enumerate(getSizes(b, reduced))) {
    for (auto [i, result] : llvm::enumerate(sizes)) {
      Value isHere = equalSizes(b, position, b.getIndexAttr(i));
      Value isMeant =
          arith::AndIOp::create(b, isHere, arith::XOrIOp::create(b, isReduced[dim], yes));
      result = arith::SelectOp::create(b, isMeant, toValue(b, size), result);
    }
    Value next = arith::AddIOp::create(b, position, one);
    position = arith::SelectOp::create(b, isReduced[dim], position, next);
  }
  Sizes target;
  for (Value size : sizes)
    target.push_back(arith::SelectOp::create(b, valid, size, zero).getResult());
  return reshapeTo(b, reduced, target);
}

/// What LogSumExp subtracts before the exponential: the maximum, if it is finite.
static Value getShift(NodeLowering &n, const ReducedDims &dims, Value data) {
  Type type = getComputeType(getElementTypeOrSelf(data.getType()));
  Value start = extremeOf(n.b, type, /*lowest=*/true);
  Value max = dims.reduce(data, start, [](ImplicitLocOpBuilder &b, Value acc, Value element) {
    return extreme(b, acc, element, /*isUnsigned=*/false, /*isMax=*/true);
  });
  return *mapElements(n, max, type, [](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
    Value isFinite = math::IsFiniteOp::create(b, x[0]);
    return arith::SelectOp::create(b, isFinite, x[0], constantOf(b, x[0].getType(), 0));
  });
}

template <Reduction kind> static LogicalResult lowerReduction(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  Type elementType = n.inputType(0).getElementType();
  constexpr bool isExtreme = kind == Reduction::Max || kind == Reduction::Min;
  constexpr bool isReal =
      kind == Reduction::L2 || kind == Reduction::LogSum || kind == Reduction::LogSumExp;
  if (elementType.isInteger(1) && !isExtreme)
    return n.unsupported("a reduction of this element type is not supported");
  FailureOr<ReducedDims> dims = ReducedDims::get(n, 1);
  if (failed(dims))
    return failure();
  constexpr bool isPlain =
      isExtreme || kind == Reduction::Sum || kind == Reduction::Mean || kind == Reduction::Prod;
  if (isPlain && dims->isNothing())
    return n.replace(data);
  bool keepDims = n.node.getIntAttr("keepdims", 1) != 0;
  OpFoldResult count = dims->getCount(data);
  if (!isReal && n.inputType(0).getRank() == 1 && dims->isAll())
    if (Value result = reduceScalars(b, kind, data, keepDims, count))
      return n.replace(result);

  // Roots and logarithms of integers are those of the numbers, rounded to 0.
  if (isReal && !isa<FloatType>(elementType))
    data = convertTensor(n, data, b.getF64Type());
  Type type = getElementTypeOrSelf(data.getType());
  bool isUnsigned = isUnsignedElement(type);
  Value shift;
  if (kind == Reduction::LogSumExp) {
    shift = getShift(n, *dims, data);
    data = *mapElements(n, {data, dims->keep(shift)}, getComputeType(type),
                        [](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
                          return math::ExpOp::create(b, arith::SubFOp::create(b, x[0], x[1]));
                        });
  }
  Value result = dims->reduce(data, startOf(b, kind, type),
                              [&](ImplicitLocOpBuilder &b, Value acc, Value element) {
                                element = prepare(b, kind, isUnsigned, element);
                                return combine(b, kind, isUnsigned, acc, element);
                              });
  if (isReal || kind == Reduction::Mean || elementType != getElementTypeOrSelf(result.getType())) {
    SmallVector<Value> operands{result};
    if (shift)
      operands.push_back(shift);
    result = *mapElements(n, operands, elementType, [&](ImplicitLocOpBuilder &b, ValueRange x) {
      Value value = finish(b, kind, isUnsigned, x[0], count);
      if (shift)
        value = arith::AddFOp::create(b, value, x[1]);
      return castElement(b, value, type, elementType);
    });
  }
  return n.replace(keepDims ? dims->keep(result) : dims->drop(result));
}

//===----------------------------------------------------------------------===//
// Softmax
//===----------------------------------------------------------------------===//

/// exp(x - max) / sum, or its logarithm, over one axis.
template <bool isLog> static LogicalResult lowerSoftmax(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  RankedTensorType type = n.inputType(0);
  if (!isa<FloatType>(type.getElementType()))
    return n.fail("the input must be a floating-point tensor");
  FailureOr<int64_t> axis = n.axis("axis", -1, type.getRank());
  if (failed(axis))
    return failure();
  Value data = n.input(0);
  Type compute = getComputeType(type.getElementType());
  Value max = reduce(b, data, *axis, extremeOf(b, compute, /*lowest=*/true),
                     [](ImplicitLocOpBuilder &b, Value acc, Value element) -> Value {
                       return arith::MaximumFOp::create(b, acc, element);
                     });
  max = unsqueeze(b, max, *axis);
  Value shifted =
      *mapElements(n, {data, max}, compute, [](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        Value shifted = arith::SubFOp::create(b, x[0], x[1]);
        return isLog ? shifted : Value(math::ExpOp::create(b, shifted));
      });
  Value sum =
      reduce(b, shifted, *axis, constantOf(b, compute, 0),
             [](ImplicitLocOpBuilder &b, Value acc, Value element) {
               return addElements(b, acc, isLog ? Value(math::ExpOp::create(b, element)) : element);
             });
  sum = unsqueeze(b, sum, *axis);
  return n.replace(*mapElements(
      n, {shifted, sum}, type.getElementType(), [](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        if (isLog)
          return arith::SubFOp::create(b, x[0], math::LogOp::create(b, x[1]));
        return arith::DivFOp::create(b, x[0], x[1]);
      }));
}

void lowering::addReductions(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"ReduceSum", 13, kNewestOpset, lowerReduction<Reduction::Sum>});
  table.push_back({"ReduceMean", 18, kNewestOpset, lowerReduction<Reduction::Mean>});
  table.push_back({"ReduceMax", 18, kNewestOpset, lowerReduction<Reduction::Max>});
  table.push_back({"ReduceMin", 18, kNewestOpset, lowerReduction<Reduction::Min>});
  table.push_back({"ReduceProd", 18, kNewestOpset, lowerReduction<Reduction::Prod>});
  table.push_back({"ReduceSumSquare", 18, kNewestOpset, lowerReduction<Reduction::SumSquare>});
  table.push_back({"ReduceL1", 18, kNewestOpset, lowerReduction<Reduction::L1>});
  table.push_back({"ReduceL2", 18, kNewestOpset, lowerReduction<Reduction::L2>});
  table.push_back({"ReduceLogSum", 18, kNewestOpset, lowerReduction<Reduction::LogSum>});
  table.push_back({"ReduceLogSumExp", 18, kNewestOpset, lowerReduction<Reduction::LogSumExp>});
  // Before version 13 the axes from `axis` on were taken together.
  table.push_back({"Softmax", 13, kNewestOpset, lowerSoftmax<false>});
  table.push_back({"LogSoftmax", 13, kNewestOpset, lowerSoftmax<true>});
}

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
enum class Reduction { Sum, Mean, Max, Min, Prod, SumSquare, L2 };
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

static Value combine(ImplicitLocOpBuilder &b, Reduction kind, bool isUnsigned, Value acc,
                     Value element) {
  switch (kind) {
  case Reduction::Max:
  case Reduction::Min:
    return extreme(b, acc, element, isUnsigned, kind == Reduction::Max);
  case Reduction::Prod:
    return multiplyElements(b, acc, element);
  case Reduction::SumSquare:
  case Reduction::L2:
    return addElements(b, acc, multiplyElements(b, element, element));
  default:
    return addElements(b, acc, element);
  }
}

/// What is done with an accumulated value: the mean's division, L2's square root.
static Value finish(ImplicitLocOpBuilder &b, Reduction kind, bool isUnsigned, Value acc,
                    OpFoldResult count) {
  if (kind == Reduction::L2)
    return math::SqrtOp::create(b, acc);
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
  bool squares = kind == Reduction::SumSquare;
  for (Value scalar : *scalars) {
    if (!acc)
      acc = squares ? multiplyElements(b, scalar, scalar) : scalar;
    else
      acc = combine(b, kind, isUnsigned, acc, scalar);
  }
  acc = finish(b, kind, isUnsigned, acc, count);
  SmallVector<int64_t> shape(keepDims ? 1 : 0, 1);
  return fromScalars(b, acc, RankedTensorType::get(shape, elementType));
}

template <Reduction kind> static LogicalResult lowerReduction(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  RankedTensorType type = n.inputType(0);
  Type elementType = type.getElementType();
  if (elementType.isInteger(1) || !elementType.isIntOrFloat() ||
      (kind == Reduction::L2 && !isa<FloatType>(elementType)))
    return n.unsupported("a reduction of this element type is not supported");
  FailureOr<SmallVector<int64_t>> axes = n.axesInput(1, type.getRank());
  if (failed(axes))
    return failure();
  if (axes->empty() && n.node.getIntAttr("noop_with_empty_axes", 0))
    return n.replace(data);
  if (axes->empty())
    llvm::append_range(*axes, llvm::seq<int64_t>(0, type.getRank()));

  Sizes counts;
  for (int64_t axis : *axes)
    counts.push_back(getSize(b, data, axis));
  OpFoldResult count = productOf(b, counts);
  bool keepDims = n.node.getIntAttr("keepdims", 1) != 0;
  if (type.getRank() == 1 && kind != Reduction::L2)
    if (Value result = reduceScalars(b, kind, data, keepDims, count))
      return n.replace(result);

  bool isUnsigned = isUnsignedElement(elementType);
  Value result = reduce(b, data, *axes, startOf(b, kind, elementType),
                        [&](ImplicitLocOpBuilder &b, Value acc, Value element) {
                          return combine(b, kind, isUnsigned, acc, element);
                        });
  bool changes = kind == Reduction::Mean || kind == Reduction::L2;
  if (changes || elementType != getElementTypeOrSelf(result.getType()))
    result = *mapElements(n, result, elementType, [&](ImplicitLocOpBuilder &b, ValueRange x) {
      return finish(b, kind, isUnsigned, x[0], count);
    });
  return n.replace(keepDims ? unsqueeze(b, result, *axes) : result);
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
  table.push_back({"ReduceL2", 18, kNewestOpset, lowerReduction<Reduction::L2>});
  // Before version 13 the axes from `axis` on were taken together.
  table.push_back({"Softmax", 13, kNewestOpset, lowerSoftmax<false>});
  table.push_back({"LogSoftmax", 13, kNewestOpset, lowerSoftmax<true>});
}

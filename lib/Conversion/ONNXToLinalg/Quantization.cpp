// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Linear quantization: numbers as integers, with scales and zero points.

#include "Lowering.h"

#include "moec/Dialect/ONNX/IR/ElementType.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// One number for each of `block` elements along `axis`, as one for each element.
static FailureOr<Value> spreadBlocks(NodeLowering &n, Value numbers, Value data, int64_t axis,
                                     int64_t block) {
  ImplicitLocOpBuilder &b = n.b;
  Sizes own = getSizes(b, numbers), sizes = getSizes(b, data);
  SmallVector<AffineExpr> exprs;
  for (auto [dim, size] : llvm::enumerate(sizes)) {
    exprs.push_back(b.getAffineDimExpr(dim));
    if (int64_t(dim) == axis)
      exprs.back() = exprs.back().floorDiv(block);
    OpFoldResult expected = int64_t(dim) == axis ? ceilDivSize(b, size, block) : size;
    if (isSameSize(own[dim], expected))
      continue;
    if (getConstantIntValue(own[dim]) && getConstantIntValue(expected))
      return n.fail("dimension " + Twine(dim) + " of the scale has size " +
                    Twine(*getConstantIntValue(own[dim])) + ", expected " +
                    Twine(*getConstantIntValue(expected)));
    if (dependsOnData(own[dim]) || dependsOnData(expected))
      return n.unsupported("blocks of a size that is computed from data are not supported");
    n.check(equalSizes(b, own[dim], expected), "the scale does not fit the blocks");
  }
  int64_t rank = sizes.size();
  Value init = emptyTensor(b, sizes, getElementTypeOrSelf(numbers.getType()));
  SmallVector<AffineMap> maps{AffineMap::get(rank, 0, exprs, b.getContext()),
                              b.getMultiDimIdentityMap(rank)};
  SmallVector<utils::IteratorType> iterators(rank, utils::IteratorType::parallel);
  auto body = [](OpBuilder &builder, Location loc, ValueRange args) {
    linalg::YieldOp::create(builder, loc, args[0]);
  };
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{numbers},
                                   ValueRange{init}, maps, iterators, body)
      .getResult(0);
}

/// Scales or zero points in a form that broadcasts to `data`: there is one for the
/// tensor, one for each index of `axis`, or one for each block along it.
static FailureOr<Value> spread(NodeLowering &n, Value numbers, Value data) {
  auto type = cast<RankedTensorType>(numbers.getType());
  int64_t rank = cast<RankedTensorType>(data.getType()).getRank();
  if (type.getRank() == 0)
    return numbers;
  if (type.getRank() == 1 && type.getDimSize(0) == 1)
    return squeeze(n.b, numbers, 0);
  FailureOr<int64_t> axis = rank == 1 ? FailureOr<int64_t>(0) : n.axis("axis", 1, rank);
  if (failed(axis))
    return failure();
  int64_t block = n.node.getIntAttr("block_size", 0);
  if (block > 0 && type.getRank() == rank)
    return spreadBlocks(n, numbers, data, *axis, block);
  if (block != 0 || type.getRank() != 1)
    return n.fail("a scale of rank " + Twine(type.getRank()) + " with block_size " + Twine(block) +
                  " does not fit data of rank " + Twine(rank));
  SmallVector<int64_t> added;
  for (int64_t dim = 0; dim < rank; ++dim)
    if (dim != *axis)
      added.push_back(dim);
  return unsqueeze(n.b, numbers, added);
}

/// The data, the scale and the zero point if there is one, broadcasting.
static FailureOr<SmallVector<Value>> getOperands(NodeLowering &n) {
  SmallVector<Value> operands{n.input(0)};
  for (unsigned position : {1, 2}) {
    if (!n.input(position))
      continue;
    FailureOr<Value> spreadOut = spread(n, n.input(position), n.input(0));
    if (failed(spreadOut))
      return failure();
    operands.push_back(*spreadOut);
  }
  return operands;
}

/// Type that the attribute `name` says; `defaultType` when it says none.
static Type getTypeAttr(NodeLowering &n, StringRef name, Type defaultType) {
  int64_t number = n.node.getIntAttr(name, 0);
  return number ? onnx::getElementType(number, n.b.getContext()) : defaultType;
}

/// `value` as if it were of type `type`, which may be narrower than its compute type.
static Value roundTo(ImplicitLocOpBuilder &b, Value value, Type type) {
  return toComputeType(b, fromComputeType(b, value, type));
}

/// round(x / scale) + zero, cut to what `type` holds, as an integer of its compute type.
static Value quantize(ImplicitLocOpBuilder &b, Value x, Value scale, Value zero, Type precision,
                      Type type) {
  unsigned width = type.getIntOrFloatBitWidth();
  bool isUnsigned = isUnsignedElement(type);
  double low = isUnsigned ? 0 : -std::ldexp(1.0, width - 1);
  double high = std::ldexp(1.0, isUnsigned ? width : width - 1) - 1;
  Value ratio = roundTo(b, arith::DivFOp::create(b, x, scale), precision);
  Value value = math::RoundEvenOp::create(b, ratio);
  if (zero)
    value = arith::AddFOp::create(b, value, zero);
  // NaN becomes the lowest number; a conversion of NaN is not defined.
  value = arith::MaxNumFOp::create(b, value, constantOf(b, value.getType(), low));
  value = arith::MinNumFOp::create(b, value, constantOf(b, value.getType(), high));
  return castElement(b, value, value.getType(), type);
}

static LogicalResult lowerQuantize(NodeLowering &n) {
  Type from = n.inputType(0).getElementType(), scaleType = n.inputType(1).getElementType();
  Type zeroType = n.input(2) ? n.inputType(2).getElementType() : Type();
  Type to = getTypeAttr(n, "output_dtype", zeroType ? zeroType : n.b.getIntegerType(8, false));
  Type precision = getTypeAttr(n, "precision", scaleType);
  if (zeroType && zeroType != to)
    return n.fail("the zero point and output_dtype differ in type");
  if (!to || !isa<IntegerType>(to) || to.getIntOrFloatBitWidth() > 16 || to.isInteger(1))
    return n.unsupported("quantization to " + toString(to) + " is not supported");
  for (Type type : {scaleType, precision})
    if (!isArithmeticFloat(type))
      return n.unsupported("a scale or precision of type " + toString(type) + " is not supported");
  if (!isArithmeticFloat(from) && !from.isInteger(32))
    return n.unsupported("quantization of " + toString(from) + " is not supported");
  FailureOr<SmallVector<Value>> operands = getOperands(n);
  if (failed(operands))
    return failure();
  Type compute = getComputeType(precision);
  FailureOr<Value> result =
      mapElements(n, *operands, to, [&](ImplicitLocOpBuilder &b, ValueRange x) {
        Value data = roundTo(b, castElement(b, x[0], from, compute), precision);
        Value scale = roundTo(b, castElement(b, x[1], scaleType, compute), precision);
        Value zero = zeroType ? castElement(b, x[2], zeroType, compute) : Value();
        return quantize(b, data, scale, zero, precision, to);
      });
  return failed(result) ? failure() : n.replace(*result);
}

static LogicalResult lowerDequantize(NodeLowering &n) {
  Type from = n.inputType(0).getElementType(), scaleType = n.inputType(1).getElementType();
  Type to = getTypeAttr(n, "output_dtype", scaleType);
  if (!isa<IntegerType>(from) || from.getIntOrFloatBitWidth() > 32 || from.isInteger(1))
    return n.unsupported("dequantization of " + toString(from) + " is not supported");
  if (n.input(2) && n.inputType(2).getElementType() != from)
    return n.fail("the data and the zero point differ in type");
  for (Type type : {scaleType, to})
    if (!type || !isArithmeticFloat(type))
      return n.unsupported("a scale or result of type " + toString(type) + " is not supported");
  FailureOr<SmallVector<Value>> operands = getOperands(n);
  if (failed(operands))
    return failure();
  Type wide = n.b.getI32Type(), compute = getComputeType(to);
  FailureOr<Value> result =
      mapElements(n, *operands, to, [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        Value data = castElement(b, x[0], from, wide);
        if (x.size() > 2)
          data = arith::SubIOp::create(b, data, castElement(b, x[2], from, wide));
        Value number = arith::SIToFPOp::create(b, compute, data);
        return arith::MulFOp::create(b, number, castElement(b, x[1], scaleType, compute));
      });
  return failed(result) ? failure() : n.replace(*result);
}

//===----------------------------------------------------------------------===//
// DynamicQuantizeLinear
//===----------------------------------------------------------------------===//

/// The extreme of all elements and 0.
template <typename OpTy> static Value reduceWithZero(NodeLowering &n, Value data) {
  ImplicitLocOpBuilder &b = n.b;
  auto axes = llvm::to_vector(llvm::seq<int64_t>(0, n.inputType(0).getRank()));
  return reduce(b, data, axes, constantOf(b, b.getF32Type(), 0),
                [](ImplicitLocOpBuilder &b, Value acc, Value element) -> Value {
                  return OpTy::create(b, acc, element);
                });
}

static LogicalResult lowerDynamicQuantize(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Type real = b.getF32Type(), whole = b.getIntegerType(8, false);
  Value data = n.input(0);
  if (n.inputType(0).getElementType() != real)
    return n.fail("the input must be a float32 tensor");
  Value min = reduceWithZero<arith::MinimumFOp>(n, data);
  Value max = reduceWithZero<arith::MaximumFOp>(n, data);
  Value scale =
      *mapElements(n, {min, max}, real, [](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        Value range = arith::SubFOp::create(b, x[1], x[0]);
        Value scale = arith::DivFOp::create(b, range, constantOf(b, range.getType(), 255));
        // Zeros alone have no range; any scale will do for them.
        Value isZero = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, scale,
                                             constantOf(b, range.getType(), 0));
        return arith::SelectOp::create(b, isZero, constantOf(b, range.getType(), 1), scale);
      });
  Value zero = *mapElements(n, {min, scale}, whole, [&](ImplicitLocOpBuilder &b, ValueRange x) {
    Value negated = arith::NegFOp::create(b, x[0]);
    return quantize(b, negated, x[1], {}, real, whole);
  });
  Value result =
      *mapElements(n, {data, scale, zero}, whole, [&](ImplicitLocOpBuilder &b, ValueRange x) {
        Value zero = castElement(b, x[2], whole, real);
        return quantize(b, x[0], x[1], zero, real, whole);
      });
  return n.replace({result, scale, zero});
}

void lowering::addQuantization(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"QuantizeLinear", 10, kNewestOpset, lowerQuantize});
  table.push_back({"DequantizeLinear", 10, kNewestOpset, lowerDequantize});
  table.push_back({"DynamicQuantizeLinear", 11, kNewestOpset, lowerDynamicQuantize});
  table.push_back({"com.microsoft.QuantizeLinear", 1, kNewestOpset, lowerQuantize});
  table.push_back({"com.microsoft.DequantizeLinear", 1, kNewestOpset, lowerDequantize});
}

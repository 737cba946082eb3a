// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "ReferenceBuilder.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/TypeUtilities.h"
#include "moec/Dialect/MoE/IR/MoE.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

static FloatType realTypeOf(ArrayRef<Value> operands, OpBuilder &builder) {
  for (Value operand : operands)
    if (operand && getElementTypeOrSelf(operand.getType()).isF64())
      return builder.getF64Type();
  return builder.getF32Type();
}

ReferenceBuilder::ReferenceBuilder(Location loc, OpBuilder &builder, ArrayRef<Value> operands)
    : ImplicitLocOpBuilder(loc, builder), real(realTypeOf(operands, builder)) {}

//===----------------------------------------------------------------------===//
// Constants and sizes
//===----------------------------------------------------------------------===//

Value ReferenceBuilder::index(int64_t value) {
  return arith::ConstantIndexOp::create(*this, value);
}

Value ReferenceBuilder::i32(int64_t value) {
  return arith::ConstantIntOp::create(*this, getI32Type(), value);
}

Value ReferenceBuilder::constant(double value) {
  return arith::ConstantOp::create(*this, getFloatAttr(real, value));
}

/// A tensor of the same sizes, closer to the operands that determine them: what a loop
/// or an op in destination style started from.
static Value sameSizes(Value tensor) {
  auto result = dyn_cast<OpResult>(tensor);
  if (!result)
    return {};
  if (auto loop = dyn_cast<scf::ForOp>(result.getOwner()))
    return loop.getInitArgs()[result.getResultNumber()];
  if (auto op = dyn_cast<DestinationStyleOpInterface>(result.getOwner()))
    return op.getTiedOpOperand(result)->get();
  if (auto cast = dyn_cast<tensor::CastOp>(result.getOwner()))
    return cast.getSource();
  return {};
}

OpFoldResult ReferenceBuilder::size(Value tensor, int64_t dim) {
  while (Value earlier = sameSizes(tensor))
    tensor = earlier;
  if (auto empty = tensor.getDefiningOp<tensor::EmptyOp>())
    return empty.getMixedSizes()[dim];
  return tensor::getMixedSize(*this, getLoc(), tensor, dim);
}

Value ReferenceBuilder::value(OpFoldResult size) {
  return getValueOrCreateConstantIndexOp(*this, getLoc(), size);
}

OpFoldResult ReferenceBuilder::scaled(OpFoldResult size, int64_t factor) {
  if (std::optional<int64_t> constant = getConstantIntValue(size))
    return getIndexAttr(*constant * factor);
  return mul(value(size), index(factor));
}

//===----------------------------------------------------------------------===//
// Scalar arithmetic
//===----------------------------------------------------------------------===//

Value ReferenceBuilder::add(Value a, Value b) {
  if (!isa<FloatType>(a.getType()))
    return arith::AddIOp::create(*this, a, b);
  return arith::AddFOp::create(*this, a, b);
}

Value ReferenceBuilder::sub(Value a, Value b) {
  if (!isa<FloatType>(a.getType()))
    return arith::SubIOp::create(*this, a, b);
  return arith::SubFOp::create(*this, a, b);
}

Value ReferenceBuilder::mul(Value a, Value b) {
  if (!isa<FloatType>(a.getType()))
    return arith::MulIOp::create(*this, a, b);
  return arith::MulFOp::create(*this, a, b);
}

Value ReferenceBuilder::div(Value a, Value b) { return arith::DivFOp::create(*this, a, b); }
Value ReferenceBuilder::max(Value a, Value b) { return arith::MaximumFOp::create(*this, a, b); }
Value ReferenceBuilder::min(Value a, Value b) { return arith::MinimumFOp::create(*this, a, b); }
Value ReferenceBuilder::exp(Value x) { return math::ExpOp::create(*this, x); }
Value ReferenceBuilder::log(Value x) { return math::LogOp::create(*this, x); }
Value ReferenceBuilder::abs(Value x) { return math::AbsFOp::create(*this, x); }

Value ReferenceBuilder::sigmoid(Value x) {
  Value one = constant(1);
  return div(one, add(one, exp(arith::NegFOp::create(*this, x))));
}

Value ReferenceBuilder::select(Value condition, Value a, Value b) {
  return arith::SelectOp::create(*this, condition, a, b);
}

Value ReferenceBuilder::convert(Value x, Type type) {
  if (x.getType() == type || !isa<FloatType>(type))
    return x;
  unsigned from = x.getType().getIntOrFloatBitWidth(), to = type.getIntOrFloatBitWidth();
  if (from < to)
    return arith::ExtFOp::create(*this, type, x);
  if (from > to)
    return arith::TruncFOp::create(*this, type, x);
  // f16 and bf16: through a type that holds both.
  return arith::TruncFOp::create(*this, type, arith::ExtFOp::create(*this, getF32Type(), x));
}

Value ReferenceBuilder::toReal(Value number) {
  if (number.getType().isIndex())
    number = arith::IndexCastOp::create(*this, getI64Type(), number);
  return arith::SIToFPOp::create(*this, real, number);
}

Value ReferenceBuilder::toIndex(Value number) {
  return arith::IndexCastOp::create(*this, getIndexType(), number);
}

Value ReferenceBuilder::toI32(Value index) {
  return arith::IndexCastOp::create(*this, getI32Type(), index);
}

//===----------------------------------------------------------------------===//
// Index arithmetic
//===----------------------------------------------------------------------===//

Value ReferenceBuilder::quotient(Value a, Value b) { return arith::DivUIOp::create(*this, a, b); }
Value ReferenceBuilder::remainder(Value a, Value b) { return arith::RemUIOp::create(*this, a, b); }
Value ReferenceBuilder::minIndex(Value a, Value b) { return arith::MinSIOp::create(*this, a, b); }
Value ReferenceBuilder::maxIndex(Value a, Value b) { return arith::MaxSIOp::create(*this, a, b); }

Value ReferenceBuilder::ceilDiv(Value a, Value b) { return quotient(add(a, sub(b, index(1))), b); }

//===----------------------------------------------------------------------===//
// Conditions
//===----------------------------------------------------------------------===//

Value ReferenceBuilder::boolean(bool value) {
  return arith::ConstantIntOp::create(*this, getI1Type(), value);
}

Value ReferenceBuilder::both(Value a, Value b) { return arith::AndIOp::create(*this, a, b); }
Value ReferenceBuilder::either(Value a, Value b) { return arith::OrIOp::create(*this, a, b); }
Value ReferenceBuilder::negate(Value a) { return arith::XOrIOp::create(*this, a, boolean(true)); }

Value ReferenceBuilder::isValid(Value number) {
  Value zero = arith::ConstantOp::create(*this, getZeroAttr(number.getType()));
  return arith::CmpIOp::create(*this, arith::CmpIPredicate::sge, number, zero);
}

Value ReferenceBuilder::isLess(Value a, Value b) {
  if (isa<FloatType>(a.getType()))
    return arith::CmpFOp::create(*this, arith::CmpFPredicate::OLT, a, b);
  return arith::CmpIOp::create(*this, arith::CmpIPredicate::slt, a, b);
}

Value ReferenceBuilder::isEqual(Value a, Value b) {
  if (isa<FloatType>(a.getType()))
    return arith::CmpFOp::create(*this, arith::CmpFPredicate::OEQ, a, b);
  return arith::CmpIOp::create(*this, arith::CmpIPredicate::eq, a, b);
}

Value ReferenceBuilder::isLarger(Value a, Value b) {
  Value aIsNaN = arith::CmpFOp::create(*this, arith::CmpFPredicate::UNO, a, a);
  Value bIsNumber = arith::CmpFOp::create(*this, arith::CmpFPredicate::ORD, b, b);
  return either(isLess(b, a), both(aIsNaN, bIsNumber));
}

Value ReferenceBuilder::comesBefore(Value a, Value i, Value b, Value j) {
  return either(isLarger(a, b), both(negate(isLarger(b, a)), isLess(i, j)));
}

void ReferenceBuilder::check(Value condition, StringRef message) {
  Value call = CurrentCallOp::create(*this, LLVM::LLVMPointerType::get(getContext()));
  CheckOp::create(*this, call, condition, message);
}

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

Value ReferenceBuilder::rawAt(Value tensor, ValueRange indices) {
  return tensor::ExtractOp::create(*this, tensor, indices);
}

Value ReferenceBuilder::at(Value tensor, ValueRange indices) {
  return convert(rawAt(tensor, indices), real);
}

Value ReferenceBuilder::filled(ArrayRef<OpFoldResult> sizes, Value value) {
  Value empty = tensor::EmptyOp::create(*this, sizes, value.getType());
  return linalg::FillOp::create(*this, value, empty).getResult(0);
}

Value ReferenceBuilder::insert(Value value, Value tensor, ValueRange indices) {
  Value element = convert(value, getElementTypeOrSelf(tensor.getType()));
  return tensor::InsertOp::create(*this, element, tensor, indices);
}

Value ReferenceBuilder::generate(ArrayRef<OpFoldResult> sizes, Type type,
                                 function_ref<Value(ValueRange)> element) {
  Value empty = tensor::EmptyOp::create(*this, sizes, type);
  AffineMap map = getMultiDimIdentityMap(sizes.size());
  SmallVector<utils::IteratorType> iterators(sizes.size(), utils::IteratorType::parallel);
  auto op = linalg::GenericOp::create(*this, empty.getType(), ValueRange{}, empty, map, iterators);
  OpBuilder::InsertionGuard guard(*this);
  createBlock(&op.getRegion(), {}, {type}, {getLoc()});
  SmallVector<Value> indices;
  for (unsigned dim = 0; dim < sizes.size(); ++dim)
    indices.push_back(linalg::IndexOp::create(*this, dim));
  linalg::YieldOp::create(*this, convert(element(indices), type));
  return op.getResult(0);
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

SmallVector<Value>
ReferenceBuilder::loop(Value count, ValueRange init,
                       function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  Value zero = index(0), one = index(1);
  auto op = scf::ForOp::create(*this, zero, count, one, init);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(op.getBody());
  scf::YieldOp::create(*this, body(op.getInductionVar(), op.getRegionIterArgs()));
  return op.getResults();
}

Value ReferenceBuilder::fold(Value count, Value init, function_ref<Value(Value, Value)> step) {
  return loop(count, init, [&](Value i, ValueRange carried) -> SmallVector<Value> {
    return {step(i, carried[0])};
  })[0];
}

Value ReferenceBuilder::sum(Value count, function_ref<Value(Value)> term) {
  return fold(count, constant(0), [&](Value i, Value total) { return add(total, term(i)); });
}

Value ReferenceBuilder::count(Value count, function_ref<Value(Value)> property) {
  Value one = index(1);
  return fold(count, index(0),
              [&](Value i, Value found) { return select(property(i), add(found, one), found); });
}

Value ReferenceBuilder::largest(Value count, function_ref<Value(Value)> term) {
  Value none = constant(-std::numeric_limits<double>::infinity());
  return fold(count, none, [&](Value i, Value found) { return max(found, term(i)); });
}

SmallVector<Value> ReferenceBuilder::branch(Value condition,
                                            function_ref<SmallVector<Value>()> then,
                                            function_ref<SmallVector<Value>()> otherwise) {
  auto op = scf::IfOp::create(
      *this, condition,
      [&](OpBuilder &inner, Location) {
        OpBuilder::InsertionGuard guard(*this);
        restoreInsertionPoint(inner.saveInsertionPoint());
        scf::YieldOp::create(*this, then());
      },
      [&](OpBuilder &inner, Location) {
        OpBuilder::InsertionGuard guard(*this);
        restoreInsertionPoint(inner.saveInsertionPoint());
        scf::YieldOp::create(*this, otherwise());
      });
  return op.getResults();
}

Value ReferenceBuilder::branch(Value condition, function_ref<Value()> then,
                               function_ref<Value()> otherwise) {
  return branch(
      condition, [&]() -> SmallVector<Value> { return {then()}; },
      [&]() -> SmallVector<Value> { return {otherwise()}; })[0];
}

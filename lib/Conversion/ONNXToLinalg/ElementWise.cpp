// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that compute each element from the elements at the same index.

#include "ElementWise.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

template <typename FloatOp, typename SignedOp, typename UnsignedOp = SignedOp>
static Value binary(Element &e, Value lhs, Value rhs) {
  if (e.isFloat)
    return e.b.createOrFold<FloatOp>(lhs, rhs);
  if (e.isUnsigned)
    return e.b.createOrFold<UnsignedOp>(lhs, rhs);
  return e.b.createOrFold<SignedOp>(lhs, rhs);
}

template <typename OpTy> static Value unary(Element &e, ValueRange x) {
  return e.b.createOrFold<OpTy>(x[0]);
}

/// True for a size and a negative number: exporters ask whether a size is the -1 of Expand.
static bool isSizeAndNegative(Value x, Value y) {
  std::optional<int64_t> number = getConstantIntValue(y);
  return number && *number < 0 && isNeverNegative(x);
}

static Value compare(Element &e, ValueRange x, arith::CmpFPredicate floats,
                     arith::CmpIPredicate signedInts, arith::CmpIPredicate unsignedInts) {
  if (e.isFloat)
    return e.b.createOrFold<arith::CmpFOp>(floats, x[0], x[1]);
  if (signedInts == arith::CmpIPredicate::eq && !e.isUnsigned &&
      (isSizeAndNegative(x[0], x[1]) || isSizeAndNegative(x[1], x[0])))
    return arith::ConstantOp::create(e.b, e.b.getBoolAttr(false));
  return e.b.createOrFold<arith::CmpIOp>(e.isUnsigned ? unsignedInts : signedInts, x[0], x[1]);
}

/// A divisor that does not trap: x / 0 is not defined by ONNX, here it is x.
static Value safeDivisor(Element &e, Value divisor) {
  APInt known;
  if (matchPattern(divisor, m_ConstantInt(&known)) && !known.isZero() && !known.isAllOnes())
    return divisor;
  Value isZero = e.b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::eq, divisor, e.constant(0));
  return e.b.createOrFold<arith::SelectOp>(isZero, e.constant(1), divisor);
}

static Value divide(Element &e, ValueRange x) {
  if (e.isFloat)
    return e.b.createOrFold<arith::DivFOp>(x[0], x[1]);
  Value divisor = safeDivisor(e, x[1]);
  if (e.isUnsigned)
    return e.b.createOrFold<arith::DivUIOp>(x[0], divisor);
  return e.b.createOrFold<arith::DivSIOp>(x[0], divisor);
}

/// Floating-point remainder with the sign of the divisor, also when it is 0.
static Value floorModulo(Element &e, ValueRange x) {
  Value rest = e.b.createOrFold<arith::RemFOp>(x[0], x[1]), zero = e.constant(0);
  Value isZero = e.b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::OEQ, rest, zero);
  Value product =
      e.b.createOrFold<arith::MulFOp>(e.b.createOrFold<math::CopySignOp>(e.constant(1), rest),
                                      e.b.createOrFold<math::CopySignOp>(e.constant(1), x[1]));
  Value differ = e.b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::OLT, product, zero);
  Value shifted = e.b.createOrFold<arith::AddFOp>(rest, x[1]);
  Value result = e.b.createOrFold<arith::SelectOp>(differ, shifted, rest);
  return e.b.createOrFold<arith::SelectOp>(isZero, e.b.createOrFold<math::CopySignOp>(zero, x[1]),
                                           result);
}

/// `fmod` takes the sign of the dividend (C fmod), else of the divisor (Python).
static Value modulo(Element &e, ValueRange x) {
  if (e.isFloat && !e.node.getIntAttr("fmod", 0))
    return floorModulo(e, x);
  if (e.isFloat)
    return e.b.createOrFold<arith::RemFOp>(x[0], x[1]);
  Value divisor = safeDivisor(e, x[1]);
  if (e.isUnsigned)
    return e.b.createOrFold<arith::RemUIOp>(x[0], divisor);
  Value rest = e.b.createOrFold<arith::RemSIOp>(x[0], divisor);
  if (e.node.getIntAttr("fmod", 0))
    return rest;
  auto isNegative = [&](Value value) {
    return e.b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::slt, value, e.constant(0));
  };
  Value differ = e.b.createOrFold<arith::XOrIOp>(isNegative(rest), isNegative(divisor));
  Value isZero = e.b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::ne, rest, e.constant(0));
  Value shift = e.b.createOrFold<arith::AndIOp>(differ, isZero);
  Value shifted = e.b.createOrFold<arith::AddIOp>(rest, divisor);
  return e.b.createOrFold<arith::SelectOp>(shift, shifted, rest);
}

static Value negate(Element &e, ValueRange x) {
  if (e.isFloat)
    return e.b.createOrFold<arith::NegFOp>(x[0]);
  return e.b.createOrFold<arith::SubIOp>(e.constant(0), x[0]);
}

static Value absolute(Element &e, ValueRange x) {
  if (e.isUnsigned)
    return x[0];
  return e.isFloat ? unary<math::AbsFOp>(e, x) : unary<math::AbsIOp>(e, x);
}

static Value reciprocal(Element &e, ValueRange x) {
  return e.b.createOrFold<arith::DivFOp>(e.constant(1), x[0]);
}

static Value maximum(Element &e, Value lhs, Value rhs) {
  return binary<arith::MaximumFOp, arith::MaxSIOp, arith::MaxUIOp>(e, lhs, rhs);
}

static Value minimum(Element &e, Value lhs, Value rhs) {
  return binary<arith::MinimumFOp, arith::MinSIOp, arith::MinUIOp>(e, lhs, rhs);
}

static Value relu(Element &e, ValueRange x) { return maximum(e, x[0], e.constant(0)); }

static Value mean(Element &e, ValueRange x) {
  Value sum = x[0];
  for (Value other : x.drop_front())
    sum = e.b.createOrFold<arith::AddFOp>(sum, other);
  return e.b.createOrFold<arith::DivFOp>(sum, e.constant(x.size()));
}

static Value bitwiseNot(Element &e, ValueRange x) {
  return e.b.createOrFold<arith::XOrIOp>(x[0], e.constant(-1));
}

/// A shift by a negative number of bits, or by all of them, leaves copies of the sign, or 0.
static Value shiftBits(Element &e, ValueRange x) {
  bool isLeft = e.node.getStringAttr("direction", "") == "LEFT";
  int64_t width = x[0].getType().getIntOrFloatBitWidth();
  Value last = e.constant(width - 1);
  Value fits = e.b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::ule, x[1], last);
  Value amount = e.b.createOrFold<arith::SelectOp>(fits, x[1], last);
  if (!isLeft && !e.isUnsigned)
    return e.b.createOrFold<arith::ShRSIOp>(x[0], amount);
  Value shifted = isLeft ? e.b.createOrFold<arith::ShLIOp>(x[0], amount)
                         : e.b.createOrFold<arith::ShRUIOp>(x[0], amount);
  return e.b.createOrFold<arith::SelectOp>(fits, shifted, e.constant(0));
}

static Value isInfinite(Element &e, ValueRange x) {
  double infinity = std::numeric_limits<double>::infinity();
  Value result = arith::ConstantOp::create(e.b, e.b.getBoolAttr(false));
  for (auto [name, limit] :
       {std::pair("detect_positive", infinity), {"detect_negative", -infinity}}) {
    if (!e.node.getIntAttr(name, 1))
      continue;
    Value equal =
        e.b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::OEQ, x[0], e.constant(limit));
    result = e.b.createOrFold<arith::OrIOp>(result, equal);
  }
  return result;
}

static Value isNan(Element &e, ValueRange x) {
  return e.b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::UNO, x[0], x[0]);
}

static Value logicalNot(Element &e, ValueRange x) {
  return e.b.createOrFold<arith::XOrIOp>(x[0], e.constant(1));
}

/// Sign, with NaN for NaN.
static Value sign(Element &e, ValueRange x) {
  auto zero = e.constant(0), one = e.constant(1);
  if (e.isUnsigned)
    return minimum(e, x[0], one);
  Value minusOne = e.constant(-1);
  if (!e.isFloat)
    return maximum(e, minimum(e, x[0], one), minusOne);
  Value isPositive = e.b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::OGT, x[0], zero);
  Value isNegative = e.b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::OLT, x[0], zero);
  Value rest = e.b.createOrFold<arith::SelectOp>(isNegative, minusOne, x[0]);
  return e.b.createOrFold<arith::SelectOp>(isPositive, one, rest);
}

/// min(max(x, low), high), so that `high` wins; an absent bound does not bound.
static Value clip(Element &e, ValueRange x) {
  Value result = x[0];
  bool hasLow = e.node.getInput(1) != nullptr;
  if (hasLow)
    result = maximum(e, result, x[1]);
  if (e.node.getInput(2))
    result = minimum(e, result, x[hasLow ? 2 : 1]);
  return result;
}

using FPred = arith::CmpFPredicate;
using IPred = arith::CmpIPredicate;

/// Operators of one data type (Where: beside its condition) whose result has that type
/// or is bool.
static const ElementWiseOp kOps[] = {
    {"Add", 7, kNumber, false, 2, 2,
     [](Element &e, ValueRange x) { return binary<arith::AddFOp, arith::AddIOp>(e, x[0], x[1]); }},
    {"Sub", 7, kNumber, false, 2, 2,
     [](Element &e, ValueRange x) { return binary<arith::SubFOp, arith::SubIOp>(e, x[0], x[1]); }},
    {"Mul", 7, kNumber, false, 2, 2,
     [](Element &e, ValueRange x) { return binary<arith::MulFOp, arith::MulIOp>(e, x[0], x[1]); }},
    {"Div", 7, kNumber, false, 2, 2, divide},
    {"Mod", 10, kNumber, false, 2, 2, modulo},
    {"Max", 8, kNumber, false, 1, kMany,
     [](Element &e, ValueRange x) {
       Value result = x[0];
       for (Value other : x.drop_front())
         result = maximum(e, result, other);
       return result;
     }},
    {"Min", 8, kNumber, false, 1, kMany,
     [](Element &e, ValueRange x) {
       Value result = x[0];
       for (Value other : x.drop_front())
         result = minimum(e, result, other);
       return result;
     }},
    {"Sum", 8, kNumber, false, 1, kMany,
     [](Element &e, ValueRange x) {
       Value result = x[0];
       for (Value other : x.drop_front())
         result = binary<arith::AddFOp, arith::AddIOp>(e, result, other);
       return result;
     }},
    {"Mean", 8, kFloat, false, 1, kMany, mean},
    {"Clip", 11, kNumber, false, 1, 3, clip},
    {"Neg", 6, kNumber, false, 1, 1, negate},
    {"Abs", 6, kNumber, false, 1, 1, absolute},
    {"Sign", 9, kNumber, false, 1, 1, sign},
    {"Relu", 6, kNumber, false, 1, 1, relu},
    {"Sqrt", 6, kFloat, false, 1, 1, unary<math::SqrtOp>},
    {"Reciprocal", 6, kFloat, false, 1, 1, reciprocal},
    {"Exp", 6, kFloat, false, 1, 1, unary<math::ExpOp>},
    {"Log", 6, kFloat, false, 1, 1, unary<math::LogOp>},
    {"Erf", 9, kFloat, false, 1, 1, unary<math::ErfOp>},
    {"Sin", 7, kFloat, false, 1, 1, unary<math::SinOp>},
    {"Cos", 7, kFloat, false, 1, 1, unary<math::CosOp>},
    {"Tanh", 6, kFloat, false, 1, 1, unary<math::TanhOp>},
    {"Tan", 7, kFloat, false, 1, 1, unary<math::TanOp>},
    {"Asin", 7, kFloat, false, 1, 1, unary<math::AsinOp>},
    {"Acos", 7, kFloat, false, 1, 1, unary<math::AcosOp>},
    {"Atan", 7, kFloat, false, 1, 1, unary<math::AtanOp>},
    {"Sinh", 9, kFloat, false, 1, 1, unary<math::SinhOp>},
    {"Cosh", 9, kFloat, false, 1, 1, unary<math::CoshOp>},
    {"Asinh", 9, kFloat, false, 1, 1, unary<math::AsinhOp>},
    {"Acosh", 9, kFloat, false, 1, 1, unary<math::AcoshOp>},
    {"Atanh", 9, kFloat, false, 1, 1, unary<math::AtanhOp>},
    {"Floor", 6, kFloat, false, 1, 1, unary<math::FloorOp>},
    {"Ceil", 6, kFloat, false, 1, 1, unary<math::CeilOp>},
    {"Round", 11, kFloat, false, 1, 1, unary<math::RoundEvenOp>},
    {"IsInf", 10, kFloat, true, 1, 1, isInfinite},
    {"IsNaN", 9, kFloat, true, 1, 1, isNan},
    {"Equal", 7, kAny, true, 2, 2,
     [](Element &e, ValueRange x) { return compare(e, x, FPred::OEQ, IPred::eq, IPred::eq); }},
    {"Less", 9, kNumber, true, 2, 2,
     [](Element &e, ValueRange x) { return compare(e, x, FPred::OLT, IPred::slt, IPred::ult); }},
    {"LessOrEqual", 12, kNumber, true, 2, 2,
     [](Element &e, ValueRange x) { return compare(e, x, FPred::OLE, IPred::sle, IPred::ule); }},
    {"Greater", 9, kNumber, true, 2, 2,
     [](Element &e, ValueRange x) { return compare(e, x, FPred::OGT, IPred::sgt, IPred::ugt); }},
    {"GreaterOrEqual", 12, kNumber, true, 2, 2,
     [](Element &e, ValueRange x) { return compare(e, x, FPred::OGE, IPred::sge, IPred::uge); }},
    {"And", 7, kBool, true, 2, 2,
     [](Element &e, ValueRange x) { return e.b.createOrFold<arith::AndIOp>(x[0], x[1]); }},
    {"Or", 7, kBool, true, 2, 2,
     [](Element &e, ValueRange x) { return e.b.createOrFold<arith::OrIOp>(x[0], x[1]); }},
    {"Xor", 7, kBool, true, 2, 2,
     [](Element &e, ValueRange x) { return e.b.createOrFold<arith::XOrIOp>(x[0], x[1]); }},
    {"Not", 1, kBool, true, 1, 1, logicalNot},
    {"BitwiseAnd", 18, kInteger, false, 2, 2,
     [](Element &e, ValueRange x) { return e.b.createOrFold<arith::AndIOp>(x[0], x[1]); }},
    {"BitwiseOr", 18, kInteger, false, 2, 2,
     [](Element &e, ValueRange x) { return e.b.createOrFold<arith::OrIOp>(x[0], x[1]); }},
    {"BitwiseXor", 18, kInteger, false, 2, 2,
     [](Element &e, ValueRange x) { return e.b.createOrFold<arith::XOrIOp>(x[0], x[1]); }},
    {"BitwiseNot", 18, kInteger, false, 1, 1, bitwiseNot},
    {"BitShift", 11, kInteger, false, 2, 2, shiftBits},
    {"Where", 9, kAny, false, 3, 3,
     [](Element &e, ValueRange x) { return e.b.createOrFold<arith::SelectOp>(x[0], x[1], x[2]); }},
};

static bool isOfKind(Type type, unsigned kinds) {
  if (isArithmeticFloat(type))
    return kinds & kFloat;
  if (type.isInteger(1))
    return kinds & kBool;
  return isa<IntegerType>(type) && (kinds & kInteger);
}

/// Those of this file and of Activations.cpp.
static const ElementWiseOp &getOp(StringRef name) {
  for (ArrayRef<ElementWiseOp> ops : {ArrayRef<ElementWiseOp>(kOps), getActivations()})
    for (const ElementWiseOp &op : ops)
      if (op.name == name)
        return op;
  llvm_unreachable("not in a table");
}

static LogicalResult lowerElementWise(NodeLowering &n) {
  const ElementWiseOp &op = getOp(n.node.getOpType());
  SmallVector<Value> operands;
  for (Value input : n.inputs())
    if (input)
      operands.push_back(input);
  if (operands.size() < op.minInputs || operands.size() > op.maxInputs)
    return n.fail("has " + Twine(operands.size()) + " inputs");

  bool isWhere = op.name == "Where";
  if (isWhere && !getElementTypeOrSelf(operands[0].getType()).isInteger(1))
    return n.fail("the condition must be a bool tensor");
  Type type = getElementTypeOrSelf(operands[isWhere ? 1 : 0].getType());
  if (!isOfKind(type, op.kinds))
    return n.unsupported("element type " + toString(type) + " is not supported");
  for (Value operand : ArrayRef(operands).drop_front(isWhere ? 1 : 0))
    if (getElementTypeOrSelf(operand.getType()) != type)
      return n.fail("the inputs differ in element type");

  Type resultType = op.returnsBool ? n.b.getI1Type() : type;
  FailureOr<Value> result =
      mapElements(n, operands, resultType, [&](ImplicitLocOpBuilder &b, ValueRange x) {
        Element element{b, type, isa<FloatType>(type), isUnsignedElement(type), n.node};
        return op.body(element, x);
      });
  if (failed(result))
    return failure();
  return n.replace(*result);
}

//===----------------------------------------------------------------------===//
// Pow
//===----------------------------------------------------------------------===//

/// The exponent when it is one number for all elements.
static std::optional<double> getConstantExponent(Value exponent) {
  DenseElementsAttr constant = getConstant(exponent);
  if (!constant || !constant.isSplat())
    return std::nullopt;
  if (auto real = dyn_cast<FloatAttr>(constant.getSplatValue<Attribute>()))
    return real.getValueAsDouble();
  if (auto integer = dyn_cast<IntegerAttr>(constant.getSplatValue<Attribute>()))
    return static_cast<double>(integer.getValue().getSExtValue());
  return std::nullopt;
}

/// x * x * … in as few products as squaring allows; `exponent` is at least 1.
static Value powByProducts(ImplicitLocOpBuilder &b, Value x, int64_t exponent) {
  auto mul = [&](Value lhs, Value rhs) {
    return isa<FloatType>(x.getType()) ? b.createOrFold<arith::MulFOp>(lhs, rhs)
                                       : b.createOrFold<arith::MulIOp>(lhs, rhs);
  };
  Value result, square = x;
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2)
      result = result ? mul(result, square) : square;
    if (exponent > 1)
      square = mul(square, square);
  }
  return result;
}

/// x to a power that needs no call; null for other powers. No square root for 0.5: that
/// of -0 and of -infinity differ from the power.
static Value powByConstant(ImplicitLocOpBuilder &b, Value x, double exponent) {
  bool isFloat = isa<FloatType>(x.getType());
  bool isWhole = exponent == std::floor(exponent);
  if (isFloat && exponent == -1)
    return b.createOrFold<arith::DivFOp>(constantOf(b, x.getType(), 1), x);
  if (isWhole && exponent >= 1 && exponent <= (isFloat ? 3 : 16))
    return powByProducts(b, x, static_cast<int64_t>(exponent));
  if (!isFloat && exponent == 0)
    return constantOf(b, x.getType(), 1);
  return {};
}

/// Integer power by squaring, wrapping around as products do. A negative exponent counts
/// as 0: ONNX does not say what the result is.
static Value integerPower(ImplicitLocOpBuilder &b, Value x, Value exponent) {
  Type type = x.getType(), wide = exponent.getType();
  Value zero = constantOf(b, wide, 0), one = constantOf(b, wide, 1);
  auto hasMore = [&](OpBuilder &builder, Location loc, ValueRange args) {
    Value more = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::sgt, args[2], zero);
    scf::ConditionOp::create(builder, loc, more, args);
  };
  auto step = [&](OpBuilder &builder, Location loc, ValueRange args) {
    ImplicitLocOpBuilder inner(loc, builder);
    Value bit = arith::AndIOp::create(inner, args[2], one);
    Value isSet = arith::CmpIOp::create(inner, arith::CmpIPredicate::ne, bit, zero);
    Value product = arith::MulIOp::create(inner, args[0], args[1]);
    Value result = arith::SelectOp::create(inner, isSet, product, args[0]);
    Value square = arith::MulIOp::create(inner, args[1], args[1]);
    Value rest = arith::ShRUIOp::create(inner, args[2], one);
    scf::YieldOp::create(inner, ValueRange{result, square, rest});
  };
  return scf::WhileOp::create(b, TypeRange{type, type, wide},
                              ValueRange{constantOf(b, type, 1), x, exponent}, hasMore, step)
      .getResult(0);
}

static Value power(ImplicitLocOpBuilder &b, Value x, Value y, Type base, Type exponent) {
  if (isa<FloatType>(base)) {
    // In the wider of both types, so that no exponent is rounded.
    Type wide = getComputeType(base);
    if (exponent.isF64() || (exponent.isInteger() && exponent.getIntOrFloatBitWidth() > 16))
      wide = b.getF64Type();
    Value result = b.createOrFold<math::PowFOp>(castElement(b, x, base, wide),
                                                castElement(b, y, exponent, wide));
    return castElement(b, result, wide, base);
  }
  if (isa<FloatType>(exponent)) {
    Type wide = b.getF64Type();
    Value result = b.createOrFold<math::PowFOp>(castElement(b, x, base, wide),
                                                castElement(b, y, exponent, wide));
    return castElement(b, result, wide, base);
  }
  // An unsigned exponent must not become a negative one.
  return integerPower(b, x, castElement(b, y, exponent, b.getI64Type()));
}

static LogicalResult lowerPow(NodeLowering &n) {
  Type base = n.inputType(0).getElementType(), exponent = n.inputType(1).getElementType();
  if (!isOfKind(base, kNumber) || !isOfKind(exponent, kNumber))
    return n.unsupported("element types " + toString(base) + " and " + toString(exponent) +
                         " are not supported");
  std::optional<double> constant = getConstantExponent(n.input(1));
  FailureOr<Value> result =
      mapElements(n, {n.input(0), n.input(1)}, base, [&](ImplicitLocOpBuilder &b, ValueRange x) {
        Value simple = constant ? powByConstant(b, x[0], *constant) : Value();
        return simple ? simple : power(b, x[0], x[1], base, exponent);
      });
  if (failed(result))
    return failure();
  return n.replace(*result);
}

//===----------------------------------------------------------------------===//
// Cast
//===----------------------------------------------------------------------===//

/// Element type of a TensorProto.DataType; null for those without arithmetic here.
static Type getElementType(MLIRContext *context, int64_t dataType) {
  Builder b(context);
  switch (dataType) {
  case 1:
    return b.getF32Type();
  case 2:
    return b.getIntegerType(8, false);
  case 3:
    return b.getI8Type();
  case 4:
    return b.getIntegerType(16, false);
  case 5:
    return b.getI16Type();
  case 6:
    return b.getI32Type();
  case 7:
    return b.getI64Type();
  case 9:
    return b.getI1Type();
  case 10:
    return b.getF16Type();
  case 11:
    return b.getF64Type();
  case 12:
    return b.getIntegerType(32, false);
  case 13:
    return b.getIntegerType(64, false);
  case 16:
    return b.getBF16Type();
  default:
    return {};
  }
}

static LogicalResult lowerCastTo(NodeLowering &n, Type to) {
  Type from = n.inputType(0).getElementType();
  if (!to || !isOfKind(to, kAny) || !isOfKind(from, kAny))
    return n.unsupported("a cast from " + toString(from) + " to " +
                         (to ? toString(to) : "this type") + " is not supported");
  return n.replace(convertTensor(n, n.input(0), to));
}

/// `to` is a number, or a type once normalized.
static LogicalResult lowerCast(NodeLowering &n) {
  if (auto type = dyn_cast_or_null<TypeAttr>(n.node.getNodeAttr("to")))
    return lowerCastTo(n, type.getValue());
  return lowerCastTo(n, getElementType(n.b.getContext(), n.node.getIntAttr("to", 0)));
}

static LogicalResult lowerCastLike(NodeLowering &n) {
  return lowerCastTo(n, n.inputType(1).getElementType());
}

void lowering::addElementWise(SmallVectorImpl<LoweringEntry> &table) {
  for (ArrayRef<ElementWiseOp> ops : {ArrayRef<ElementWiseOp>(kOps), getActivations()})
    for (const ElementWiseOp &op : ops)
      table.push_back({op.name, op.since, kNewestOpset, lowerElementWise});
  table.push_back({"Pow", 7, kNewestOpset, lowerPow});
  table.push_back({"Cast", 6, kNewestOpset, lowerCast});
  table.push_back({"CastLike", 15, kNewestOpset, lowerCastLike});
}

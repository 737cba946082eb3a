// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that compute each element from the elements at the same index.

#include "Lowering.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

namespace {

/// The element types an operator takes, as a set.
enum Kinds : unsigned {
  kFloat = 1,
  kInteger = 2,
  kBool = 4,
  kNumber = kFloat | kInteger,
  kAny = 7
};

/// What the body of an operator knows about its operands.
struct Element {
  ImplicitLocOpBuilder &b;
  Type type;       // of the data operand in the model
  bool isFloat;    // else integer or bool
  bool isUnsigned; // unsigned integer or bool
  onnx::NodeOp node;

  Value constant(double value) { return constantOf(b, getComputeType(type), value); }
};
using Body = Value (*)(Element &e, ValueRange x);

struct ElementWiseOp {
  StringRef name;
  int64_t since;
  Kinds kinds;
  bool returnsBool;
  unsigned minInputs, maxInputs;
  Body body;
};

} // namespace

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

static Value compare(Element &e, ValueRange x, arith::CmpFPredicate floats,
                     arith::CmpIPredicate signedInts, arith::CmpIPredicate unsignedInts) {
  if (e.isFloat)
    return e.b.createOrFold<arith::CmpFOp>(floats, x[0], x[1]);
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

/// `fmod` takes the sign of the dividend (C fmod), else of the divisor (Python).
static Value modulo(Element &e, ValueRange x) {
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

/// 1 / (1 + exp(-x)): for very negative x the exponential is infinite and the result 0.
static Value sigmoid(Element &e, ValueRange x) {
  Value negated = e.b.createOrFold<arith::NegFOp>(x[0]);
  Value exponential = e.b.createOrFold<math::ExpOp>(negated);
  Value sum = e.b.createOrFold<arith::AddFOp>(exponential, e.constant(1));
  return e.b.createOrFold<arith::DivFOp>(e.constant(1), sum);
}

/// max(x, 0) + log1p(exp(-|x|)), which does not overflow.
static Value softplus(Element &e, ValueRange x) {
  Value magnitude = e.b.createOrFold<math::AbsFOp>(x[0]);
  Value negated = e.b.createOrFold<arith::NegFOp>(magnitude);
  Value exponential = e.b.createOrFold<math::ExpOp>(negated);
  Value log = e.b.createOrFold<math::Log1pOp>(exponential);
  Value positive = e.b.createOrFold<arith::MaximumFOp>(x[0], e.constant(0));
  return e.b.createOrFold<arith::AddFOp>(positive, log);
}

static Value maximum(Element &e, Value lhs, Value rhs) {
  return binary<arith::MaximumFOp, arith::MaxSIOp, arith::MaxUIOp>(e, lhs, rhs);
}

static Value minimum(Element &e, Value lhs, Value rhs) {
  return binary<arith::MinimumFOp, arith::MinSIOp, arith::MinUIOp>(e, lhs, rhs);
}

static Value relu(Element &e, ValueRange x) { return maximum(e, x[0], e.constant(0)); }

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

// Gelu, exact or its tanh approximation.
static Value gelu(Element &e, ValueRange x) {
  auto mul = [&](Value lhs, Value rhs) { return e.b.createOrFold<arith::MulFOp>(lhs, rhs); };
  auto add = [&](Value lhs, Value rhs) { return e.b.createOrFold<arith::AddFOp>(lhs, rhs); };
  Value inner;
  if (e.node.getStringAttr("approximate", "none") == "tanh") {
    Value cube = mul(mul(x[0], x[0]), x[0]);
    Value sum = add(x[0], mul(e.constant(0.044715), cube));
    inner = e.b.createOrFold<math::TanhOp>(mul(e.constant(0.79788456080286535588), sum));
  } else {
    inner = e.b.createOrFold<math::ErfOp>(mul(x[0], e.constant(0.70710678118654752440)));
  }
  return mul(mul(e.constant(0.5), x[0]), add(inner, e.constant(1)));
}

static Value leakyRelu(Element &e, ValueRange x) {
  Value scaled =
      e.b.createOrFold<arith::MulFOp>(x[0], e.constant(e.node.getFloatAttr("alpha", 0.01f)));
  Value isNegative =
      e.b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::OLT, x[0], e.constant(0));
  return e.b.createOrFold<arith::SelectOp>(isNegative, scaled, x[0]);
}

static constexpr unsigned kMany = ~0u;

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
    {"Clip", 11, kNumber, false, 1, 3, clip},
    {"Neg", 6, kNumber, false, 1, 1, negate},
    {"Abs", 6, kNumber, false, 1, 1, absolute},
    {"Sign", 9, kNumber, false, 1, 1, sign},
    {"Relu", 6, kNumber, false, 1, 1, relu},
    {"LeakyRelu", 6, kFloat, false, 1, 1, leakyRelu},
    {"Sqrt", 6, kFloat, false, 1, 1, unary<math::SqrtOp>},
    {"Reciprocal", 6, kFloat, false, 1, 1, reciprocal},
    {"Exp", 6, kFloat, false, 1, 1, unary<math::ExpOp>},
    {"Log", 6, kFloat, false, 1, 1, unary<math::LogOp>},
    {"Erf", 9, kFloat, false, 1, 1, unary<math::ErfOp>},
    {"Sin", 7, kFloat, false, 1, 1, unary<math::SinOp>},
    {"Cos", 7, kFloat, false, 1, 1, unary<math::CosOp>},
    {"Tanh", 6, kFloat, false, 1, 1, unary<math::TanhOp>},
    {"Sigmoid", 6, kFloat, false, 1, 1, sigmoid},
    {"Softplus", 1, kFloat, false, 1, 1, softplus},
    {"Gelu", 20, kFloat, false, 1, 1, gelu},
    {"Floor", 6, kFloat, false, 1, 1, unary<math::FloorOp>},
    {"Ceil", 6, kFloat, false, 1, 1, unary<math::CeilOp>},
    {"Round", 11, kFloat, false, 1, 1, unary<math::RoundEvenOp>},
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
    {"Where", 9, kAny, false, 3, 3,
     [](Element &e, ValueRange x) { return e.b.createOrFold<arith::SelectOp>(x[0], x[1], x[2]); }},
};

static std::string toString(Type type) {
  std::string text;
  llvm::raw_string_ostream(text) << type;
  return text;
}

static bool isOfKind(Type type, unsigned kinds) {
  if (type.isF16() || type.isBF16() || type.isF32() || type.isF64())
    return kinds & kFloat;
  if (type.isInteger(1))
    return kinds & kBool;
  return isa<IntegerType>(type) && (kinds & kInteger);
}

static LogicalResult lowerElementWise(NodeLowering &n) {
  const ElementWiseOp &op =
      *llvm::find_if(kOps, [&](auto &entry) { return entry.name == n.node.getOpType(); });
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
  if (isWhole && exponent >= 1 && exponent <= (isFloat ? 3 : 64))
    return powByProducts(b, x, static_cast<int64_t>(exponent));
  if (!isFloat && exponent == 0)
    return constantOf(b, x.getType(), 1);
  return {};
}

/// Null for two integers.
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
  return {};
}

static LogicalResult lowerPow(NodeLowering &n) {
  Type base = n.inputType(0).getElementType(), exponent = n.inputType(1).getElementType();
  if (!isOfKind(base, kNumber) || !isOfKind(exponent, kNumber))
    return n.unsupported("element types " + toString(base) + " and " + toString(exponent) +
                         " are not supported");
  std::optional<double> constant = getConstantExponent(n.input(1));
  if (isa<IntegerType>(base) && isa<IntegerType>(exponent) &&
      !(constant && *constant >= 0 && *constant <= 64))
    return n.unsupported("an integer power needs one constant exponent from 0 to 64");
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
  for (const ElementWiseOp &op : kOps)
    table.push_back({op.name, op.since, kNewestOpset, lowerElementWise});
  table.push_back({"Pow", 7, kNewestOpset, lowerPow});
  table.push_back({"Cast", 6, kNewestOpset, lowerCast});
  table.push_back({"CastLike", 15, kNewestOpset, lowerCastLike});
}

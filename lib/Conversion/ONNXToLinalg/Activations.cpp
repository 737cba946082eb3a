// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Activation functions, on floating-point elements.

#include "ElementWise.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

static Value add(Element &e, Value lhs, Value rhs) {
  return e.b.createOrFold<arith::AddFOp>(lhs, rhs);
}

static Value sub(Element &e, Value lhs, Value rhs) {
  return e.b.createOrFold<arith::SubFOp>(lhs, rhs);
}

static Value mul(Element &e, Value lhs, Value rhs) {
  return e.b.createOrFold<arith::MulFOp>(lhs, rhs);
}

static Value div(Element &e, Value lhs, Value rhs) {
  return e.b.createOrFold<arith::DivFOp>(lhs, rhs);
}

static Value neg(Element &e, Value x) { return e.b.createOrFold<arith::NegFOp>(x); }

static Value max(Element &e, Value lhs, Value rhs) {
  return e.b.createOrFold<arith::MaximumFOp>(lhs, rhs);
}

static Value min(Element &e, Value lhs, Value rhs) {
  return e.b.createOrFold<arith::MinimumFOp>(lhs, rhs);
}

/// `x < limit ? below : above`; NaN gives `above`.
static Value selectBelow(Element &e, Value x, Value limit, Value below, Value above) {
  Value isBelow = e.b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::OLT, x, limit);
  return e.b.createOrFold<arith::SelectOp>(isBelow, below, above);
}

/// A number of the node as a constant.
static Value attribute(Element &e, StringRef name, float defaultValue) {
  return e.constant(e.node.getFloatAttr(name, defaultValue));
}

//===----------------------------------------------------------------------===//
// Functions
//===----------------------------------------------------------------------===//

/// 1 / (1 + exp(-x)): for very negative x the exponential is infinite and the result 0.
static Value sigmoidOf(Element &e, Value x) {
  Value exponential = e.b.createOrFold<math::ExpOp>(neg(e, x));
  return div(e, e.constant(1), add(e, exponential, e.constant(1)));
}

static Value sigmoid(Element &e, ValueRange x) { return sigmoidOf(e, x[0]); }

/// max(x, 0) + log1p(exp(-|x|)), which does not overflow.
static Value softplus(Element &e, ValueRange x) {
  Value magnitude = e.b.createOrFold<math::AbsFOp>(x[0]);
  Value exponential = e.b.createOrFold<math::ExpOp>(neg(e, magnitude));
  return add(e, max(e, x[0], e.constant(0)), e.b.createOrFold<math::Log1pOp>(exponential));
}

static Value softsign(Element &e, ValueRange x) {
  return div(e, x[0], add(e, e.b.createOrFold<math::AbsFOp>(x[0]), e.constant(1)));
}

static Value mish(Element &e, ValueRange x) {
  return mul(e, x[0], e.b.createOrFold<math::TanhOp>(softplus(e, x)));
}

/// x * sigmoid(alpha * x)
static Value swishOf(Element &e, Value x, float defaultAlpha) {
  return mul(e, x, sigmoidOf(e, mul(e, attribute(e, "alpha", defaultAlpha), x)));
}

static Value swish(Element &e, ValueRange x) { return swishOf(e, x[0], 1); }

static Value quickGelu(Element &e, ValueRange x) { return swishOf(e, x[0], 1.702f); }

static Value swiglu(Element &e, ValueRange x) { return mul(e, swishOf(e, x[0], 1), x[1]); }

/// x * (1 + erf(x / sqrt(2))) / 2
static Value geluOf(Element &e, Value x) {
  Value erf = e.b.createOrFold<math::ErfOp>(mul(e, e.constant(0.70710678118654752440), x));
  return mul(e, mul(e, e.constant(0.5), x), add(e, erf, e.constant(1)));
}

/// The approximation by tanh.
static Value geluTanhOf(Element &e, Value x) {
  Value cube = mul(e, mul(e, x, x), x);
  Value sum = add(e, x, mul(e, e.constant(0.044715), cube));
  Value tanh = e.b.createOrFold<math::TanhOp>(mul(e, e.constant(0.79788456080286535588), sum));
  return mul(e, mul(e, e.constant(0.5), x), add(e, tanh, e.constant(1)));
}

static Value gelu(Element &e, ValueRange x) {
  bool isTanh = e.node.getStringAttr("approximate", "none") == "tanh";
  return isTanh ? geluTanhOf(e, x[0]) : geluOf(e, x[0]);
}

static Value biasGelu(Element &e, ValueRange x) { return geluOf(e, add(e, x[0], x[1])); }

static Value fastGelu(Element &e, ValueRange x) {
  return geluTanhOf(e, x.size() > 1 ? add(e, x[0], x[1]) : x[0]);
}

static Value leakyRelu(Element &e, ValueRange x) {
  Value scaled = mul(e, x[0], attribute(e, "alpha", 0.01f));
  return selectBelow(e, x[0], e.constant(0), scaled, x[0]);
}

static Value prelu(Element &e, ValueRange x) {
  return selectBelow(e, x[0], e.constant(0), mul(e, x[0], x[1]), x[0]);
}

static Value thresholdedRelu(Element &e, ValueRange x) {
  return selectBelow(e, attribute(e, "alpha", 1), x[0], x[0], e.constant(0));
}

static Value elu(Element &e, ValueRange x) {
  Value scaled = mul(e, attribute(e, "alpha", 1), e.b.createOrFold<math::ExpM1Op>(x[0]));
  return selectBelow(e, x[0], e.constant(0), scaled, x[0]);
}

/// max(0, x) + min(0, alpha * (exp(x / alpha) - 1))
static Value celu(Element &e, ValueRange x) {
  Value alpha = attribute(e, "alpha", 1), zero = e.constant(0);
  Value scaled = mul(e, alpha, e.b.createOrFold<math::ExpM1Op>(div(e, x[0], alpha)));
  return add(e, max(e, x[0], zero), min(e, scaled, zero));
}

static Value selu(Element &e, ValueRange x) {
  Value alpha = attribute(e, "alpha", 1.67326319217681884765625f);
  Value gamma = attribute(e, "gamma", 1.05070102214813232421875f);
  Value scaled = mul(e, alpha, e.b.createOrFold<math::ExpM1Op>(x[0]));
  return mul(e, gamma, selectBelow(e, x[0], e.constant(0), scaled, x[0]));
}

/// max(0, min(1, alpha * x + beta))
static Value hardSigmoidOf(Element &e, Value x, Value alpha, Value beta) {
  Value line = add(e, mul(e, alpha, x), beta);
  return max(e, min(e, line, e.constant(1)), e.constant(0));
}

static Value hardSigmoid(Element &e, ValueRange x) {
  return hardSigmoidOf(e, x[0], attribute(e, "alpha", 0.2f), attribute(e, "beta", 0.5f));
}

static Value hardSwish(Element &e, ValueRange x) {
  return mul(e, x[0], hardSigmoidOf(e, x[0], e.constant(1.0 / 6), e.constant(0.5)));
}

/// 0 up to `lambd` in magnitude, beyond that `bias` nearer to 0.
static Value shrink(Element &e, ValueRange x) {
  Value lambd = attribute(e, "lambd", 0.5f), bias = attribute(e, "bias", 0);
  Value high = selectBelow(e, lambd, x[0], sub(e, x[0], bias), e.constant(0));
  return selectBelow(e, x[0], neg(e, lambd), add(e, x[0], bias), high);
}

ArrayRef<ElementWiseOp> lowering::getActivations() {
  static const ElementWiseOp ops[] = {
      {"Sigmoid", 6, kFloat, false, 1, 1, sigmoid},
      {"HardSigmoid", 6, kFloat, false, 1, 1, hardSigmoid},
      {"HardSwish", 14, kFloat, false, 1, 1, hardSwish},
      {"Softplus", 1, kFloat, false, 1, 1, softplus},
      {"Softsign", 1, kFloat, false, 1, 1, softsign},
      {"Mish", 18, kFloat, false, 1, 1, mish},
      {"Swish", 24, kFloat, false, 1, 1, swish},
      {"SwiGLU", 28, kFloat, false, 2, 2, swiglu},
      {"Gelu", 20, kFloat, false, 1, 1, gelu},
      {"LeakyRelu", 6, kFloat, false, 1, 1, leakyRelu},
      {"PRelu", 7, kFloat, false, 2, 2, prelu},
      {"ThresholdedRelu", 10, kFloat, false, 1, 1, thresholdedRelu},
      {"Elu", 6, kFloat, false, 1, 1, elu},
      {"Celu", 12, kFloat, false, 1, 1, celu},
      {"Selu", 6, kFloat, false, 1, 1, selu},
      {"Shrink", 9, kFloat, false, 1, 1, shrink},
      {"com.microsoft.Gelu", 1, kFloat, false, 1, 1, gelu},
      {"com.microsoft.BiasGelu", 1, kFloat, false, 2, 2, biasGelu},
      {"com.microsoft.FastGelu", 1, kFloat, false, 1, 2, fastGelu},
      {"com.microsoft.QuickGelu", 1, kFloat, false, 1, 1, quickGelu},
  };
  return ops;
}

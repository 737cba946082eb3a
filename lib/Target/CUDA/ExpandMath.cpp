// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --expand-gpu-math

#include "moec/Support/Unsupported.h"
#include "moec/Target/CUDA/Kernels.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

#include <cmath>
#include <limits>

namespace mlir::moe {
#define GEN_PASS_DEF_EXPANDGPUMATH
#include "moec/Target/CUDA/Kernels.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Arithmetic on f64 and i64 scalars.
struct Double {
  ImplicitLocOpBuilder &b;

  Value number(double value) { return arith::ConstantOp::create(b, b.getF64FloatAttr(value)); }
  Value integer(int64_t value) { return arith::ConstantOp::create(b, b.getI64IntegerAttr(value)); }
  Value add(Value x, Value y) { return arith::AddFOp::create(b, x, y); }
  Value sub(Value x, Value y) { return arith::SubFOp::create(b, x, y); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, x, y); }
  Value div(Value x, Value y) { return arith::DivFOp::create(b, x, y); }
  Value is(arith::CmpFPredicate predicate, Value x, double y) {
    return arith::CmpFOp::create(b, predicate, x, number(y));
  }
  Value select(Value condition, Value x, Value y) {
    return arith::SelectOp::create(b, condition, x, y);
  }

  /// log2 of x ≥ 0 that is no subnormal: x = m · 2^e, m around 1; ln m = 2 artanh(s) with
  /// s = (m - 1) / (m + 1), |s| ≤ 0.172, to s^15.
  Value log2(Value x) {
    Value bits = arith::BitcastOp::create(b, b.getI64Type(), x);
    Value exponent = arith::ShRUIOp::create(b, bits, integer(52));
    exponent = arith::SIToFPOp::create(b, b.getF64Type(),
                                       arith::SubIOp::create(b, exponent, integer(1023)));
    Value mantissa = arith::AndIOp::create(b, bits, integer((int64_t(1) << 52) - 1));
    mantissa = arith::OrIOp::create(b, mantissa, integer(int64_t(1023) << 52));
    Value m = arith::BitcastOp::create(b, b.getF64Type(), mantissa);
    Value isLarge = is(arith::CmpFPredicate::OGT, m, M_SQRT2);
    m = select(isLarge, mul(m, number(0.5)), m);
    exponent = select(isLarge, add(exponent, number(1)), exponent);
    Value s = div(sub(m, number(1)), add(m, number(1))), squared = mul(s, s);
    Value sum = number(1.0 / 15);
    for (int i = 13; i >= 1; i -= 2)
      sum = add(mul(sum, squared), number(1.0 / i));
    Value result = add(exponent, mul(mul(s, number(2 / M_LN2)), sum));
    double infinity = std::numeric_limits<double>::infinity();
    result = select(is(arith::CmpFPredicate::OEQ, x, 0), number(-infinity), result);
    // A NaN stays one.
    return select(is(arith::CmpFPredicate::UEQ, x, infinity), x, result);
  }

  /// 2^t as far as f32 can tell: t = n + f, |f| ≤ 1/2, the series of e^(f ln 2) to its
  /// 11th power.
  Value exp2(Value t) {
    Value clamped = select(is(arith::CmpFPredicate::OGT, t, 200), number(200), t);
    clamped = select(is(arith::CmpFPredicate::OLT, t, -200), number(-200), clamped);
    Value isNaN = arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, t, t);
    clamped = select(isNaN, number(0), clamped);
    Value n = math::RoundEvenOp::create(b, clamped);
    Value z = mul(sub(clamped, n), number(M_LN2)), sum = number(1);
    for (int i = 11; i >= 1; --i)
      sum = add(mul(mul(sum, z), number(1.0 / i)), number(1));
    Value power = arith::FPToSIOp::create(b, b.getI64Type(), n);
    power = arith::ShLIOp::create(b, arith::AddIOp::create(b, power, integer(1023)), integer(52));
    return select(isNaN, t, mul(sum, arith::BitcastOp::create(b, b.getF64Type(), power)));
  }
};

/// C's powf.
struct ExpandPower : OpRewritePattern<math::PowFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::PowFOp op, PatternRewriter &rewriter) const override {
    if (!op.getType().isF32())
      return rewriter.notifyMatchFailure(op, "not on f32");
    ImplicitLocOpBuilder b(op.getLoc(), rewriter);
    Double d = {b};
    Value x = arith::ExtFOp::create(b, b.getF64Type(), op.getLhs());
    Value y = arith::ExtFOp::create(b, b.getF64Type(), op.getRhs());
    Value magnitude = math::AbsFOp::create(b, x);
    Value result = d.exp2(d.mul(y, d.log2(magnitude)));
    auto isInteger = [&](Value v) -> Value {
      return arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, v, math::FloorOp::create(b, v));
    };
    // Infinite exponents are even integers.
    Value whole = isInteger(y), even = isInteger(d.mul(y, d.number(0.5)));
    Value bits = arith::BitcastOp::create(b, b.getI64Type(), x);
    Value negative =
        arith::CmpIOp::create(b, arith::CmpIPredicate::slt, bits, d.integer(0)).getResult();
    result = d.select(d.is(arith::CmpFPredicate::OEQ, magnitude, 1), d.number(1), result);
    Value odd = arith::AndIOp::create(
        b, whole,
        arith::CmpIOp::create(b, arith::CmpIPredicate::eq, even,
                              arith::ConstantOp::create(b, b.getBoolAttr(false))));
    Value flips = arith::AndIOp::create(b, negative, odd);
    result = d.select(flips, d.sub(d.number(-0.0), result), result);
    // A finite negative number to a fraction is none.
    Value below = d.is(arith::CmpFPredicate::OLT, x, 0);
    Value finite =
        d.is(arith::CmpFPredicate::ONE, magnitude, std::numeric_limits<double>::infinity());
    Value fraction = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, whole,
                                           arith::ConstantOp::create(b, b.getBoolAttr(false)));
    Value none = arith::AndIOp::create(b, arith::AndIOp::create(b, below, finite), fraction);
    result = d.select(none, d.number(std::numeric_limits<double>::quiet_NaN()), result);
    Value yIsNaN = arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, y, y);
    Value xIsOne = d.is(arith::CmpFPredicate::OEQ, x, 1),
          yIsZero = d.is(arith::CmpFPredicate::OEQ, y, 0);
    result = d.select(yIsNaN, y, result);
    result = d.select(arith::OrIOp::create(b, xIsOne, yIsZero), d.number(1), result);
    rewriter.replaceOpWithNewOp<arith::TruncFOp>(op, op.getType(), result);
    return success();
  }
};

/// Whether there is an instruction, or an LLVM intrinsic that becomes some.
bool isNative(Operation *op) {
  return isa<math::AbsFOp, math::AbsIOp, math::CeilOp, math::CopySignOp, math::CtPopOp,
             math::CountLeadingZerosOp, math::CountTrailingZerosOp, math::FloorOp, math::FmaOp,
             math::RoundEvenOp, math::SqrtOp, math::TruncOp>(op);
}

struct ExpandGPUMathPass : moe::impl::ExpandGPUMathBase<ExpandGPUMathPass> {
  void runOnOperation() override {
    expand();
    getOperation().walk([&](Operation *op) {
      if (!isa<math::MathDialect>(op->getDialect()) || isNative(op))
        return;
      emitUnsupported(op) << "on " << op->getOperandTypes().front() << " has no GPU form";
      signalPassFailure();
    });
  }

private:
  void expand() {
    SmallVector<Operation *> ops;
    getOperation().walk([&](Operation *op) {
      bool isFloat = op->getNumResults() == 1 && op->getResult(0).getType().isF32();
      if (isFloat && isa<math::MathDialect>(op->getDialect()) && !isNative(op))
        ops.push_back(op);
    });
    RewritePatternSet patterns(&getContext());
    auto all = [](StringRef name) { return name != math::PowFOp::getOperationName(); };
    patterns.add<ExpandPower>(&getContext());
    populateMathF32ExpansionPatterns(patterns, all);
    populateMathPolynomialApproximationPatterns(patterns, all);
    GreedyRewriteConfig config;
    config.setStrictness(GreedyRewriteStrictness::ExistingAndNewOps);
    if (failed(applyOpPatternsGreedily(ops, std::move(patterns), config)))
      signalPassFailure();
  }
};

} // namespace

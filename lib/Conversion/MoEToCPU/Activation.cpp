// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Kernels.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

/// v · sigmoid(alpha · v) = v / (1 + exp(-alpha · v)).
static Value emitSilu(KernelBuilder &b, Value v, double alpha) {
  Value scaled = b.mulf(v, b.like(v, -alpha));
  Value exp = math::ExpOp::create(b, b.getLoc(), scaled);
  return b.divf(v, b.addf(exp, b.like(v, 1.0)));
}

/// ½v(1 + tanh(u)) = v · sigmoid(2u), u = √(2/π)(v + 0.044715 v³).
static Value emitGeluTanh(KernelBuilder &b, Value v) {
  double c = std::sqrt(2.0 / M_PI);
  Value squared = b.mulf(v, v);
  Value u = b.mulf(v, b.fma(squared, b.like(v, c * 0.044715), b.like(v, c)));
  Value exp = math::ExpOp::create(b, b.getLoc(), b.mulf(u, b.like(v, -2.0)));
  return b.divf(v, b.addf(exp, b.like(v, 1.0)));
}

static Value emitGeluErf(KernelBuilder &b, Value v) {
  Value erf = math::ErfOp::create(b, b.getLoc(), b.mulf(v, b.like(v, M_SQRT1_2)));
  return b.mulf(b.mulf(v, b.like(v, 0.5)), b.addf(erf, b.like(v, 1.0)));
}

static Value emitPointwise(KernelBuilder &b, ActivationAttr activation, Value v) {
  auto relu = [&] {
    return arith::MaximumFOp::create(b, b.getLoc(), v, b.like(v, 0.0)).getResult();
  };
  switch (activation.getKind()) {
  case ActivationKind::Identity:
    return v;
  case ActivationKind::Relu:
    return relu();
  case ActivationKind::Relu2: {
    Value positive = relu();
    return b.mulf(positive, positive);
  }
  case ActivationKind::Gelu:
    return emitGeluErf(b, v);
  case ActivationKind::GeluTanh:
    return emitGeluTanh(b, v);
  case ActivationKind::Silu:
    return emitSilu(b, v, activation.getAlphaValue());
  }
  llvm_unreachable("unknown activation");
}

Value mlir::moe::cpu::emitActivation(KernelBuilder &b, ActivationAttr activation, Value gate,
                                     Value linear) {
  if (!linear)
    return emitPointwise(b, activation, gate);
  double limit = activation.getLimitValue();
  bool post = activation.getClamp() == ActivationClamp::Post;
  auto limited = [&](Value v) {
    return arith::MinimumFOp::create(b, b.getLoc(), v, b.like(v, limit)).getResult();
  };
  if (std::isfinite(limit)) {
    if (!post)
      gate = limited(gate);
    linear = arith::MinimumFOp::create(b, b.getLoc(), linear, b.like(linear, limit));
    linear = arith::MaximumFOp::create(b, b.getLoc(), linear, b.like(linear, -limit));
  }
  if (double beta = activation.getBetaValue(); beta != 0)
    linear = b.addf(linear, b.like(linear, beta));
  Value activated = emitPointwise(b, activation, gate);
  return b.mulf(post ? limited(activated) : activated, linear);
}

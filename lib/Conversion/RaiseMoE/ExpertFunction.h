// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What one expert computes, read from the term that facts recorded.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_EXPERTFUNCTION_H
#define MOEC_LIB_CONVERSION_RAISEMOE_EXPERTFUNCTION_H

#include "Dataflow.h"
#include "Facts.h"

namespace mlir::moe {

/// x · W + b: `product` is a Linear node, `bias` a leaf or null. When `count` is not 0, only
/// the results from `start` are meant.
struct LinearLayer {
  const Node *product = nullptr, *bias = nullptr;
  int64_t start = 0, count = 0;
};

/// scale · down(act(up(x), gate(x))), as `moe.expert_ffn`; `gate.product` is null unless gate and
/// linear part are separate products.
struct ExpertFunction {
  const Fact *x = nullptr;
  ActivationAttr activation;
  LinearLayer up, gate, down;
  /// What the result is multiplied with.
  double scale = 1;
};

/// Reads the function of expert `expert`. Fails at the first node that does not fit.
FailureOr<ExpertFunction> matchExpertFunction(const Node *root, int64_t expert, Refusal &refusal);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_EXPERTFUNCTION_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plain meaning of moe.logits and moe.score.

#include "Reference.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

Value reference::logits(ReferenceBuilder &b, Value x, const Bank &router, Value noise,
                        std::optional<double> softcap, Type type) {
  bool outIn = router.layout == Layout::OutIn;
  Value width = b.value(b.size(x, 1));
  OpFoldResult experts = b.size(router.weight, outIn ? 0 : 1);
  return b.generate({b.size(x, 0), experts}, type, [&](ValueRange i) {
    Value t = i[0], e = i[1];
    Value logit = b.sum(width, [&](Value h) {
      Value w = b.at(router.weight, outIn ? ValueRange{e, h} : ValueRange{h, e});
      return b.mul(b.at(x, {t, h}), w);
    });
    if (router.bias)
      logit = b.add(logit, b.at(router.bias, e));
    if (softcap) {
      Value cap = b.constant(*softcap);
      logit = b.mul(cap, math::TanhOp::create(b, b.div(logit, cap)));
    }
    return noise ? b.add(logit, b.at(noise, i)) : logit;
  });
}

/// ln(1 + e^x), written so that e^x does not overflow.
static Value softplus(ReferenceBuilder &b, Value x) {
  Value tail = math::Log1pOp::create(b, b.exp(arith::NegFOp::create(b, b.abs(x))));
  return b.add(b.max(x, b.constant(0)), tail);
}

/// e^(L - max L) / Σ e^(L - max L) over the experts.
static Value softmaxOverExperts(ReferenceBuilder &b, Value logits, Type type) {
  OpFoldResult tokens = b.size(logits, 0);
  Value experts = b.value(b.size(logits, 1));
  Value largest = b.generate(tokens, b.getReal(), [&](ValueRange i) {
    return b.largest(experts, [&](Value e) { return b.at(logits, {i[0], e}); });
  });
  Value total = b.generate(tokens, b.getReal(), [&](ValueRange i) {
    return b.sum(experts, [&](Value e) {
      return b.exp(b.sub(b.at(logits, {i[0], e}), b.at(largest, i[0])));
    });
  });
  return b.generate({tokens, b.size(logits, 1)}, type, [&](ValueRange i) {
    return b.div(b.exp(b.sub(b.at(logits, i), b.at(largest, i[0]))), b.at(total, i[0]));
  });
}

/// The same over the tokens of each group.
static Value softmaxOverTokens(ReferenceBuilder &b, Value logits, const Groups &groups, Type type) {
  SmallVector<OpFoldResult> sizes = {b.size(logits, 0), b.size(logits, 1)};
  // Row g holds the value of group g; there are at most as many groups as tokens.
  auto ofGroups = [&](function_ref<Value(Value, Value)> value) {
    return b.generate(sizes, b.getReal(), [&](ValueRange i) {
      return b.branch(
          b.isLess(i[0], groups.count), [&] { return value(i[0], i[1]); },
          [&] { return b.constant(0); });
    });
  };
  auto logit = [&](Value group, Value i, Value e) {
    return b.at(logits, {b.add(groups.begin(b, group), i), e});
  };
  Value largest = ofGroups([&](Value group, Value e) {
    return b.largest(groups.length(b, group), [&](Value i) { return logit(group, i, e); });
  });
  Value total = ofGroups([&](Value group, Value e) {
    return b.sum(groups.length(b, group), [&](Value i) {
      return b.exp(b.sub(logit(group, i, e), b.at(largest, {group, e})));
    });
  });
  return b.generate(sizes, type, [&](ValueRange i) {
    Value group = groups.of(b, i[0]), e = i[1];
    Value shifted = b.sub(b.at(logits, i), b.at(largest, {group, e}));
    return b.div(b.exp(shifted), b.at(total, {group, e}));
  });
}

/// A score of one logit alone.
static Value scoreOf(ReferenceBuilder &b, Value x, ScoreFn fn) {
  switch (fn) {
  case ScoreFn::Identity:
    return x;
  case ScoreFn::Sigmoid:
    return b.sigmoid(x);
  case ScoreFn::SqrtSoftplus:
    return math::SqrtOp::create(b, softplus(b, x));
  case ScoreFn::LogSigmoid: {
    Value negative = arith::NegFOp::create(b, x);
    return arith::NegFOp::create(b, softplus(b, negative));
  }
  case ScoreFn::Softmax:
    break;
  }
  llvm_unreachable("a softmax is not of one logit");
}

Value reference::score(ReferenceBuilder &b, Value logits, ScoreFn fn, Axis axis, Value groupSize,
                       Type type) {
  if (fn == ScoreFn::Softmax && axis == Axis::Experts)
    return softmaxOverExperts(b, logits, type);
  if (fn == ScoreFn::Softmax)
    return softmaxOverTokens(b, logits, groupsOf(b, b.size(logits, 0), groupSize), type);
  return b.generate({b.size(logits, 0), b.size(logits, 1)}, type,
                    [&](ValueRange i) { return scoreOf(b, b.at(logits, i), fn); });
}

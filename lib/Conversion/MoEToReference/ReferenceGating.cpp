// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plain meaning of moe.logits, moe.score, moe.select and moe.weigh.

#include "Reference.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

static constexpr double kInf = std::numeric_limits<double>::infinity();

Value reference::logits(ReferenceBuilder &b, Value x, const Bank &router, Type type) {
  bool outIn = router.layout == Layout::OutIn;
  Value width = b.value(b.size(x, 1));
  OpFoldResult experts = b.size(router.weight, outIn ? 0 : 1);
  return b.generate({b.size(x, 0), experts}, type, [&](ValueRange i) {
    Value t = i[0], e = i[1];
    Value product = b.sum(width, [&](Value h) {
      Value w = b.at(router.weight, outIn ? ValueRange{e, h} : ValueRange{h, e});
      return b.mul(b.at(x, {t, h}), w);
    });
    return router.bias ? b.add(product, b.at(router.bias, e)) : product;
  });
}

//===----------------------------------------------------------------------===//
// Score
//===----------------------------------------------------------------------===//

/// √ln(1 + e^x), written so that e^x does not overflow.
static Value sqrtSoftplus(ReferenceBuilder &b, Value x) {
  Value magnitude = math::AbsFOp::create(b, x);
  Value tail = math::Log1pOp::create(b, b.exp(arith::NegFOp::create(b, magnitude)));
  return math::SqrtOp::create(b, b.add(b.max(x, b.constant(0)), tail));
}

/// e^(L - max L) / Σ e^(L - max L) along `axis`.
static Value softmax(ReferenceBuilder &b, Value logits, Axis axis, Type type) {
  unsigned along = axis == Axis::Experts ? 1 : 0, other = 1 - along;
  Value count = b.value(b.size(logits, along));
  auto element = [&](Value line, Value i) {
    return b.at(logits, along == 1 ? ValueRange{line, i} : ValueRange{i, line});
  };
  Value largest = b.generate({b.size(logits, other)}, b.getReal(), [&](ValueRange i) {
    return b.fold(count, b.constant(-kInf),
                  [&](Value j, Value max) { return b.max(max, element(i[0], j)); });
  });
  Value total = b.generate({b.size(logits, other)}, b.getReal(), [&](ValueRange i) {
    return b.sum(count,
                 [&](Value j) { return b.exp(b.sub(element(i[0], j), b.at(largest, i[0]))); });
  });
  return b.generate({b.size(logits, 0), b.size(logits, 1)}, type, [&](ValueRange i) {
    Value line = i[other];
    return b.div(b.exp(b.sub(b.at(logits, i), b.at(largest, line))), b.at(total, line));
  });
}

Value reference::score(ReferenceBuilder &b, Value logits, ScoreFn fn, Axis axis, Type type) {
  if (fn == ScoreFn::Softmax)
    return softmax(b, logits, axis, type);
  return b.generate({b.size(logits, 0), b.size(logits, 1)}, type, [&](ValueRange i) {
    Value x = b.at(logits, i);
    if (fn == ScoreFn::Sigmoid)
      return b.sigmoid(x);
    return fn == ScoreFn::SqrtSoftplus ? sqrtSoftplus(b, x) : x;
  });
}

//===----------------------------------------------------------------------===//
// Select
//===----------------------------------------------------------------------===//

/// a > b, where NaN is larger than every number and equal to itself.
static Value isLarger(ReferenceBuilder &b, Value x, Value y) {
  Value larger = arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, x, y);
  Value xIsNaN = arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, x, x);
  Value yIsNumber = arith::CmpFOp::create(b, arith::CmpFPredicate::ORD, y, y);
  return arith::OrIOp::create(b, larger, arith::AndIOp::create(b, xIsNaN, yIsNumber));
}

/// Expert of token t with the largest key among those without a slot, the lowest of
/// equals. There is one as long as fewer than E slots are taken.
static Value bestFree(ReferenceBuilder &b, Value keys, Value slots, Value t, Value experts) {
  SmallVector<Value> none = {b.index(-1), b.constant(0)};
  return b.loop(experts, none, [&](Value e, ValueRange best) -> SmallVector<Value> {
    Value key = b.at(keys, {t, e});
    Value taken = b.isValid(b.rawAt(slots, {t, e}));
    Value better = b.select(b.isValid(best[0]), isLarger(b, key, best[1]),
                            arith::ConstantIntOp::create(b, b.getI1Type(), 1));
    Value no = arith::ConstantIntOp::create(b, b.getI1Type(), 0);
    Value take = b.select(taken, no, better);
    return {b.select(take, e, best[0]), b.select(take, key, best[1])};
  })[0];
}

Value reference::select(ReferenceBuilder &b, Value key, Value bias, int64_t k) {
  OpFoldResult tokens = b.size(key, 0), experts = b.size(key, 1);
  Value keys = key;
  if (bias)
    keys = b.generate({tokens, experts}, b.getReal(),
                      [&](ValueRange i) { return b.add(b.at(key, i), b.at(bias, i[1])); });
  Value slots = b.filled({tokens, experts}, b.i32(-1));
  Value numExperts = b.value(experts);
  return b.fold(b.value(tokens), slots, [&](Value t, Value slots) {
    return b.fold(b.index(k), slots, [&](Value slot, Value slots) {
      Value e = bestFree(b, keys, slots, t, numExperts);
      Value number = arith::IndexCastOp::create(b, b.getI32Type(), slot);
      return b.insert(number, slots, {t, e});
    });
  });
}

//===----------------------------------------------------------------------===//
// Weigh
//===----------------------------------------------------------------------===//

/// e^(s - max) / Σ e^(s - max) over the selected experts of token t, for expert e.
static Value softmaxOfSelected(ReferenceBuilder &b, Value slots, Value source, Value t, Value e) {
  Value experts = b.value(b.size(slots, 1));
  auto ifSelected = [&](Value other, Value value, Value otherwise) {
    return b.select(b.isValid(b.rawAt(slots, {t, other})), value, otherwise);
  };
  Value largest = b.fold(experts, b.constant(-kInf), [&](Value other, Value max) {
    return ifSelected(other, b.max(max, b.at(source, {t, other})), max);
  });
  Value total = b.sum(experts, [&](Value other) {
    return ifSelected(other, b.exp(b.sub(b.at(source, {t, other}), largest)), b.constant(0));
  });
  return b.div(b.exp(b.sub(b.at(source, {t, e}), largest)), total);
}

/// One round of the sparse mixer: M is the largest value not yet taken when expert e is
/// chosen, and the weight 1 / Σ e^(s - M) over the values s not yet taken with
/// M - s ≤ 2·eps·max(|s|, M).
static Value maskedSoftmax(ReferenceBuilder &b, Value slots, Value source, Value t, Value e,
                           double eps) {
  Value experts = b.value(b.size(slots, 1));
  Value round = b.rawAt(slots, {t, e});
  // Slots count from 0 and -1 stands for never: as unsigned numbers, "not before".
  auto ifFree = [&](Value other, Value value, Value otherwise) {
    Value slot = b.rawAt(slots, {t, other});
    Value free = arith::CmpIOp::create(b, arith::CmpIPredicate::uge, slot, round);
    return b.select(free, value, otherwise);
  };
  Value largest = b.fold(experts, b.constant(-kInf), [&](Value other, Value max) {
    return ifFree(other, b.max(max, b.at(source, {t, other})), max);
  });
  Value total = b.sum(experts, [&](Value other) {
    Value s = b.at(source, {t, other});
    Value factor = b.max(math::AbsFOp::create(b, s), largest);
    Value bound = b.mul(b.constant(2 * eps), factor);
    // Written as "far", so that NaN is not masked out.
    Value far = arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, b.sub(largest, s), bound);
    Value term = b.select(far, b.constant(0), b.exp(b.sub(s, largest)));
    return ifFree(other, term, b.constant(0));
  });
  return b.div(b.constant(1), total);
}

static Value weightOf(ReferenceBuilder &b, Value slots, Value source, Value t, Value e,
                      const WeighOptions &options) {
  switch (options.fn) {
  case WeighFn::None:
    return b.at(source, {t, e});
  case WeighFn::Sigmoid:
    return b.sigmoid(b.at(source, {t, e}));
  case WeighFn::Softmax:
    return softmaxOfSelected(b, slots, source, t, e);
  case WeighFn::MaskedSoftmax:
    return maskedSoftmax(b, slots, source, t, e, options.eps);
  }
  llvm_unreachable("all functions are handled");
}

/// w / (Σ w + norm_eps) of the selected experts, and 0 where that sum is 0.
static Value normalize(ReferenceBuilder &b, Value slots, Value weights, double normEps) {
  OpFoldResult tokens = b.size(weights, 0), experts = b.size(weights, 1);
  Value count = b.value(experts), zero = b.constant(0);
  Value sums = b.generate({tokens}, b.getReal(), [&](ValueRange i) {
    Value sum = b.sum(count, [&](Value e) { return b.at(weights, {i[0], e}); });
    return b.add(sum, b.constant(normEps));
  });
  return b.generate({tokens, experts}, b.getReal(), [&](ValueRange i) {
    Value sum = b.at(sums, i[0]);
    Value isZero = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, sum, zero);
    Value weight = b.select(isZero, zero, b.div(b.at(weights, i), sum));
    return b.select(b.isValid(b.rawAt(slots, i)), weight, zero);
  });
}

Value reference::weigh(ReferenceBuilder &b, const Routing &routing, Value source,
                       const WeighOptions &options) {
  Value slots = routing.slots;
  SmallVector<OpFoldResult> sizes = {b.size(slots, 0), b.size(slots, 1)};
  Value weights = b.generate(sizes, b.getReal(), [&](ValueRange i) {
    return b.branch(
        b.isValid(b.rawAt(slots, i)),
        [&] { return weightOf(b, slots, source, i[0], i[1], options); },
        [&] { return b.constant(0); });
  });
  if (options.norm == WeighNorm::Sum)
    weights = normalize(b, slots, weights, options.normEps);
  return b.generate(sizes, b.getF32Type(), [&](ValueRange i) {
    return b.mul(b.at(weights, i), b.constant(options.scale));
  });
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plain meaning of moe.weigh, moe.filter and moe.blend.

#include "Reference.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

//===----------------------------------------------------------------------===//
// Functions of the source values
//===----------------------------------------------------------------------===//

/// Values of a softmax over the entries of a token, and over all columns of `shared` when
/// there is one.
struct SelectedSoftmax {
  Value largest, total;
};
static SelectedSoftmax softmaxOfSelected(ReferenceBuilder &b, Value slots, Value source,
                                         Value shared, Value t) {
  Value experts = b.value(b.size(slots, 1));
  auto ifSelected = [&](Value e, Value value, Value otherwise) {
    return b.select(b.isValid(b.rawAt(slots, {t, e})), value, otherwise);
  };
  Value none = b.constant(-std::numeric_limits<double>::infinity());
  Value largest = b.largest(experts, [&](Value e) {
    return ifSelected(e, b.at(source, {t, e}), none);
  });
  if (shared)
    largest = b.max(largest, b.largest(b.value(b.size(shared, 1)), [&](Value s) {
      return b.at(shared, {t, s});
    }));
  Value total = b.sum(experts, [&](Value e) {
    return ifSelected(e, b.exp(b.sub(b.at(source, {t, e}), largest)), b.constant(0));
  });
  if (shared)
    total = b.add(total, b.sum(b.value(b.size(shared, 1)), [&](Value s) {
      return b.exp(b.sub(b.at(shared, {t, s}), largest));
    }));
  return {largest, total};
}

static Value shareOf(ReferenceBuilder &b, Value value, const SelectedSoftmax &softmax) {
  return b.div(b.exp(b.sub(value, softmax.largest)), softmax.total);
}

/// One round of the sparse mixer: M is the largest value not yet taken when expert e is
/// chosen, and the weight 1 / Σ e^(s - M) over the values s not yet taken with
/// M - s ≤ 2·eps·max(|s|, M).
static Value maskedSoftmax(ReferenceBuilder &b, Value slots, Value source, Value t, Value e,
                           const WeighOptions &options) {
  Value experts = b.value(b.size(slots, 1));
  Value round = b.rawAt(slots, {t, e});
  // Slots count from 0 and -1 stands for never: as unsigned numbers, "not before".
  auto ifFree = [&](Value other, Value value, Value otherwise) {
    Value slot = b.rawAt(slots, {t, other});
    Value free = arith::CmpIOp::create(b, arith::CmpIPredicate::uge, slot, round);
    return b.select(free, value, otherwise);
  };
  Value none = b.constant(-std::numeric_limits<double>::infinity());
  Value largest = b.largest(experts, [&](Value other) {
    return ifFree(other, b.at(source, {t, other}), none);
  });
  Value total = b.sum(experts, [&](Value other) {
    Value s = b.at(source, {t, other});
    Value bound = b.mul(b.constant(2 * options.eps), b.max(b.abs(s), largest));
    // Written as "far", so that NaN is not masked out.
    Value far = b.isLess(bound, b.sub(largest, s));
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
    return shareOf(b, b.at(source, {t, e}), softmaxOfSelected(b, slots, source, {}, t));
  case WeighFn::MaskedSoftmax:
    return maskedSoftmax(b, slots, source, t, e, options);
  }
  llvm_unreachable("all functions are handled");
}

//===----------------------------------------------------------------------===//
// Normalisation
//===----------------------------------------------------------------------===//

/// (Σ |w|^p)^(1/p) of a token's weights.
static Value norm(ReferenceBuilder &b, Value weights, Value t, Value experts, double p) {
  Value exponent = b.constant(p);
  Value sum = b.sum(experts, [&](Value e) {
    Value magnitude = b.abs(b.at(weights, {t, e}));
    return p == 1 ? magnitude : math::PowFOp::create(b, magnitude, exponent).getResult();
  });
  return p == 1 ? sum : math::PowFOp::create(b, sum, b.constant(1 / p)).getResult();
}

/// What a token's weights are divided by.
static Value divisorOf(ReferenceBuilder &b, Value slots, Value weights, Value t,
                       const WeighOptions &options) {
  Value experts = b.value(b.size(weights, 1));
  auto sum = [&] { return b.sum(experts, [&](Value e) { return b.at(weights, {t, e}); }); };
  switch (options.norm) {
  case WeighNorm::None:
    break;
  case WeighNorm::Sum:
    return b.add(sum(), b.constant(options.normEps));
  case WeighNorm::Clamp:
    return b.max(sum(), b.constant(options.normEps));
  case WeighNorm::PNorm:
    return norm(b, weights, t, experts, options.normP);
  case WeighNorm::Count: {
    Value entries = b.count(experts, [&](Value e) { return b.isValid(b.rawAt(slots, {t, e})); });
    return b.toReal(b.maxIndex(entries, b.index(1)));
  }
  }
  llvm_unreachable("there is a norm");
}

/// Weights divided by their token's divisor; 0 where that is 0.
static Value normalize(ReferenceBuilder &b, Value slots, Value weights,
                       const WeighOptions &options) {
  OpFoldResult tokens = b.size(weights, 0);
  Value zero = b.constant(0);
  Value divisors = b.generate(tokens, b.getReal(), [&](ValueRange i) {
    return divisorOf(b, slots, weights, i[0], options);
  });
  return b.generate({tokens, b.size(weights, 1)}, b.getReal(), [&](ValueRange i) {
    Value divisor = b.at(divisors, i[0]);
    Value weight = b.select(b.isEqual(divisor, zero), zero, b.div(b.at(weights, i), divisor));
    return b.select(b.isValid(b.rawAt(slots, i)), weight, zero);
  });
}

/// Source values plus bias [E].
static Value biased(ReferenceBuilder &b, Value source, Value bias) {
  if (!bias)
    return source;
  return b.generate({b.size(source, 0), b.size(source, 1)}, b.getReal(),
                    [&](ValueRange i) { return b.add(b.at(source, i), b.at(bias, i[1])); });
}

Value reference::weigh(ReferenceBuilder &b, const Routing &routing, Value source, Value bias,
                       const WeighOptions &options) {
  Value slots = routing.slots;
  SmallVector<OpFoldResult> sizes = {b.size(slots, 0), b.size(slots, 1)};
  Value weights = routing.weights;
  if (source) {
    Value values = biased(b, source, bias);
    weights = b.generate(sizes, b.getReal(), [&](ValueRange i) {
      return b.branch(
          b.isValid(b.rawAt(slots, i)),
          [&] { return weightOf(b, slots, values, i[0], i[1], options); },
          [&] { return b.constant(0); });
    });
  }
  if (options.norm != WeighNorm::None)
    weights = normalize(b, slots, weights, options);
  return b.generate(sizes, b.getF32Type(), [&](ValueRange i) {
    Value weight = b.mul(b.at(weights, i), b.constant(options.scale));
    if (options.expertScale)
      weight = b.mul(weight, b.at(options.expertScale, i[1]));
    // A scale of an expert that is not chosen may be NaN or infinite.
    return b.select(b.isValid(b.rawAt(slots, i)), weight, b.constant(0));
  });
}

//===----------------------------------------------------------------------===//
// Filter
//===----------------------------------------------------------------------===//

Routing reference::filter(ReferenceBuilder &b, const Routing &routing, Value random,
                          int64_t fromSlot, double threshold) {
  SmallVector<OpFoldResult> sizes = {b.size(routing.slots, 0), b.size(routing.slots, 1)};
  Value first = b.i32(fromSlot);
  Value slots = b.generate(sizes, b.getI32Type(), [&](ValueRange i) {
    Value slot = b.rawAt(routing.slots, i), weight = b.at(routing.weights, i);
    Value divisor = b.constant(std::max(threshold, 1e-9));
    Value stays = random ? b.isLess(b.at(random, i[0]), b.div(weight, divisor))
                         : b.isLess(b.constant(threshold), weight);
    return b.select(b.either(b.isLess(slot, first), stays), slot, b.i32(-1));
  });
  return {slots, weightsOf(b, slots, routing.weights), routing.experts, routing.k};
}

//===----------------------------------------------------------------------===//
// Blend
//===----------------------------------------------------------------------===//

std::pair<Value, Value> reference::blend(ReferenceBuilder &b, const Routing &routing, Value source,
                                         Value shared, BlendMode mode, Type sharedType) {
  Value slots = routing.slots;
  SmallVector<OpFoldResult> sizes = {b.size(slots, 0), b.size(slots, 1)};
  // The softmax over the entries and the shared experts, where there is an entry.
  Value shares = b.generate(sizes, b.getReal(), [&](ValueRange i) {
    return b.branch(
        b.isValid(b.rawAt(slots, i)),
        [&] {
          return shareOf(b, b.at(source, i), softmaxOfSelected(b, slots, source, shared, i[0]));
        },
        [&] { return b.constant(0); });
  });
  Value sharedWeights =
      b.generate({b.size(shared, 0), b.size(shared, 1)}, sharedType, [&](ValueRange i) {
        return shareOf(b, b.at(shared, i), softmaxOfSelected(b, slots, source, shared, i[0]));
      });
  Value weights = b.generate(sizes, b.getF32Type(), [&](ValueRange i) {
    if (mode == BlendMode::Joint)
      return b.at(shares, i);
    Value mass = b.sum(b.value(sizes[1]), [&](Value e) { return b.at(shares, {i[0], e}); });
    return b.mul(b.at(routing.weights, i), mass);
  });
  return {weights, sharedWeights};
}

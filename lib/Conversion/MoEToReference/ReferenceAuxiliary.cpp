// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plain meaning of moe.aux and moe.bias_update.

#include "Reference.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

static Value tokensOf(ReferenceBuilder &b, Value matrix) { return b.value(b.size(matrix, 0)); }
static Value expertsOf(ReferenceBuilder &b, Value matrix) { return b.value(b.size(matrix, 1)); }

static Value scalar(ReferenceBuilder &b, Value value, Type type) {
  return tensor::FromElementsOp::create(b, RankedTensorType::get({}, type),
                                        ValueRange{b.convert(value, type)});
}

/// total / count, and 0 where count (an index) is 0.
static Value mean(ReferenceBuilder &b, Value total, Value count) {
  Value divisor = b.toReal(b.maxIndex(count, b.index(1)));
  return b.div(total, divisor);
}

/// variance / (mean² + 1e-10) of value(0) … value(count-1).
static Value squaredVariation(ReferenceBuilder &b, Value count, function_ref<Value(Value)> value) {
  Value average = mean(b, b.sum(count, value), count);
  Value squares = b.sum(count, [&](Value e) {
    Value difference = b.sub(value(e), average);
    return b.mul(difference, difference);
  });
  Value divisor = b.add(b.mul(average, average), b.constant(1e-10));
  return b.div(mean(b, squares, count), divisor);
}

//===----------------------------------------------------------------------===//
// Losses
//===----------------------------------------------------------------------===//

Value reference::loadBalance(ReferenceBuilder &b, Value probabilities, const Routing &routing,
                             const Groups &groups, AuxFraction fraction, bool perSlot, Type type) {
  Value experts = b.index(routing.experts);
  // Whether token t counts for expert e.
  auto isCounted = [&](Value t, Value e) {
    Value slot = b.rawAt(routing.slots, {t, e});
    return fraction == AuxFraction::First ? b.isEqual(slot, b.i32(0)) : b.isValid(slot);
  };
  auto lossOf = [&](Value group) {
    Value begin = groups.begin(b, group), length = groups.length(b, group);
    Value sum = b.sum(experts, [&](Value e) {
      Value entries = b.count(length, [&](Value i) { return isCounted(b.add(begin, i), e); });
      Value probability = b.sum(length, [&](Value i) {
        return b.at(probabilities, {b.add(begin, i), e});
      });
      return b.mul(mean(b, b.toReal(entries), length), mean(b, probability, length));
    });
    return b.mul(sum, b.constant(perSlot ? double(routing.experts) / double(routing.k)
                                         : double(routing.experts)));
  };
  return scalar(b, mean(b, b.sum(groups.count, lossOf), groups.count), type);
}

Value reference::zLoss(ReferenceBuilder &b, Value logits, Type type) {
  Value tokens = tokensOf(b, logits), experts = expertsOf(b, logits);
  Value total = b.sum(tokens, [&](Value t) {
    Value largest = b.largest(experts, [&](Value e) { return b.at(logits, {t, e}); });
    Value sum = b.sum(experts, [&](Value e) {
      return b.exp(b.sub(b.at(logits, {t, e}), largest));
    });
    Value logSumExp = b.add(largest, b.log(sum));
    return b.mul(logSumExp, logSumExp);
  });
  return scalar(b, mean(b, total, tokens), type);
}

Value reference::importance(ReferenceBuilder &b, Value weights, Type type) {
  Value tokens = tokensOf(b, weights);
  auto column = [&](Value e) {
    return b.sum(tokens, [&](Value t) { return b.at(weights, {t, e}); });
  };
  return scalar(b, squaredVariation(b, expertsOf(b, weights), column), type);
}

/// ½ · (1 + erf(x / √2))
static Value normalDistribution(ReferenceBuilder &b, Value x) {
  Value erf = math::ErfOp::create(b, b.mul(x, b.constant(std::sqrt(0.5))));
  return b.mul(b.constant(0.5), b.add(b.constant(1), erf));
}

Value reference::loadUnderNoise(ReferenceBuilder &b, Value logits, Value noisy, Value noiseStd,
                                int64_t k, LoadVariant variant, Type type) {
  Value tokens = tokensOf(b, logits), experts = expertsOf(b, logits);
  int64_t numExperts = cast<ShapedType>(logits.getType()).getDimSize(1);
  SelectOptions best;
  best.k = k + 1;
  Routing top = {select(b, {noisy, {}}, best), {}, numExperts, k + 1};
  Value expertOf = expertsOfSlots(b, top);
  bool isScalar = cast<ShapedType>(noiseStd.getType()).getRank() == 0;
  auto threshold = [&](Value t, Value e) {
    Value last = b.index(k - 1);
    if (variant == LoadVariant::Shazeer) {
      // Without the expert itself, the next one is the k-th.
      Value slot = b.rawAt(top.slots, {t, e});
      Value isAmongK = b.both(b.isValid(slot), b.isLess(slot, b.i32(k)));
      last = b.select(isAmongK, b.index(k), last);
    }
    return b.at(noisy, {t, b.rawAt(expertOf, {t, last})});
  };
  Value load = b.generate(b.size(logits, 1), b.getReal(), [&](ValueRange i) {
    return b.sum(tokens, [&](Value t) {
      Value e = i[0], margin = b.sub(b.at(logits, {t, e}), threshold(t, e));
      Value std = isScalar ? b.at(noiseStd, {}) : b.at(noiseStd, {t, e});
      return normalDistribution(b, b.div(margin, std));
    });
  });
  return scalar(b, squaredVariation(b, experts, [&](Value e) { return b.at(load, e); }), type);
}

//===----------------------------------------------------------------------===//
// Statistics
//===----------------------------------------------------------------------===//

Value reference::tokensPerExpert(ReferenceBuilder &b, const Routing &routing) {
  Value tokens = tokensOf(b, routing.slots);
  OpFoldResult experts = b.getIndexAttr(routing.experts);
  return b.generate(experts, b.getI64Type(), [&](ValueRange i) -> Value {
    Value entries = b.count(tokens, [&](Value t) {
      return b.isValid(b.rawAt(routing.slots, {t, i[0]}));
    });
    return arith::IndexCastOp::create(b, b.getI64Type(), entries);
  });
}

Value reference::meanProbability(ReferenceBuilder &b, Value probabilities, Type type) {
  Value tokens = tokensOf(b, probabilities);
  return b.generate(b.size(probabilities, 1), type, [&](ValueRange i) {
    Value total = b.sum(tokens, [&](Value t) { return b.at(probabilities, {t, i[0]}); });
    return mean(b, total, tokens);
  });
}

Value reference::entropy(ReferenceBuilder &b, Value probabilities, Type type) {
  Value tokens = tokensOf(b, probabilities), zero = b.constant(0);
  Value total = b.sum(tokens, [&](Value t) {
    return b.sum(expertsOf(b, probabilities), [&](Value e) {
      Value p = b.at(probabilities, {t, e});
      Value term = arith::NegFOp::create(b, b.mul(p, b.log(p)));
      return b.select(b.isEqual(p, zero), zero, term);
    });
  });
  return scalar(b, mean(b, total, tokens), type);
}

//===----------------------------------------------------------------------===//
// Bias update
//===----------------------------------------------------------------------===//

Value reference::updateBias(ReferenceBuilder &b, Value bias, Value count, BiasRule rule,
                            double rate, bool recenter, Type type) {
  OpFoldResult size = b.size(bias, 0);
  Value experts = b.value(size), zero = b.constant(0);
  auto countOf = [&](Value e) { return b.toReal(b.rawAt(count, e)); };
  Value total = b.sum(experts, countOf), average = mean(b, total, experts);
  Value deltas = b.generate(size, b.getReal(), [&](ValueRange i) {
    Value missing = b.sub(average, countOf(i[0]));
    if (rule == BiasRule::Proportional) {
      Value share = b.div(b.mul(b.constant(rate), missing), total);
      return b.select(b.isEqual(total, zero), zero, share);
    }
    Value sign = b.select(b.isLess(zero, missing), b.constant(rate),
                          b.select(b.isLess(missing, zero), b.constant(-rate), zero));
    return sign;
  });
  Value shift = zero;
  if (recenter)
    shift = mean(b, b.sum(experts, [&](Value e) { return b.at(deltas, e); }), experts);
  return b.generate(size, type, [&](ValueRange i) {
    return b.add(b.at(bias, i), b.sub(b.at(deltas, i), shift));
  });
}

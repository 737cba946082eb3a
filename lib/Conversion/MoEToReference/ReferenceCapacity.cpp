// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plain meaning of #moe.capacity and moe.capacity.

#include "Reference.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

//===----------------------------------------------------------------------===//
// The number of entries that an expert accepts
//===----------------------------------------------------------------------===//

static Value factorOf(ReferenceBuilder &b, const CapacityTerm &term, Value tokens, int64_t experts,
                      int64_t k) {
  auto constant = [&](double value) -> Value {
    return arith::ConstantOp::create(b, b.getF64FloatAttr(value));
  };
  switch (term.kind) {
  case CapacityTerm::Number:
    return constant(term.number);
  case CapacityTerm::Tokens: {
    Value count = arith::IndexCastOp::create(b, b.getI64Type(), tokens);
    return arith::SIToFPOp::create(b, b.getF64Type(), count);
  }
  case CapacityTerm::Experts:
    return constant(experts);
  case CapacityTerm::K:
    return constant(k);
  }
  llvm_unreachable("all factors are handled");
}

/// A number of at least 0 to an i64.
static Value rounded(ReferenceBuilder &b, Value value, CapacityRound round) {
  Value down = arith::FPToSIOp::create(b, b.getI64Type(), value);
  if (round == CapacityRound::Floor)
    return down;
  Value rest =
      arith::SubFOp::create(b, value, arith::SIToFPOp::create(b, b.getF64Type(), down).getResult());
  auto isRest = [&](arith::CmpFPredicate predicate, double bound) -> Value {
    Value limit = arith::ConstantOp::create(b, b.getF64FloatAttr(bound));
    return arith::CmpFOp::create(b, predicate, rest, limit);
  };
  Value one = arith::ConstantOp::create(b, b.getI64IntegerAttr(1));
  Value isUp;
  if (round == CapacityRound::Ceil) {
    isUp = isRest(arith::CmpFPredicate::OGT, 0);
  } else { // nearest, half to even
    Value isOdd = b.isEqual(arith::AndIOp::create(b, down, one), one);
    isUp = b.either(isRest(arith::CmpFPredicate::OGT, 0.5),
                    b.both(isRest(arith::CmpFPredicate::OEQ, 0.5), isOdd));
  }
  return b.select(isUp, arith::AddIOp::create(b, down, one), down);
}

Value reference::evaluate(ReferenceBuilder &b, CapacityAttr capacity, Value tokens, int64_t experts,
                          int64_t k) {
  auto f64 = [&](double value) -> Value {
    return arith::ConstantOp::create(b, b.getF64FloatAttr(value));
  };
  Value value;
  for (const CapacityTerm &term : capacity.getTerms()) {
    Value factor = factorOf(b, term, tokens, experts, k);
    if (!value)
      value = factor;
    else if (term.divides)
      value = arith::DivFOp::create(b, value, factor);
    else
      value = arith::MulFOp::create(b, value, factor);
  }
  // As CapacityAttr::evaluate: no NaN (0 / 0 of no token), and no overflow below.
  Value isNumber = arith::CmpFOp::create(b, arith::CmpFPredicate::ORD, value, value);
  value = b.select(isNumber, value, f64(0));
  value = arith::MinimumFOp::create(b, value, f64(CapacityAttr::kLargest));
  Value count = b.toIndex(rounded(b, value, capacity.getRound()));
  count = b.maxIndex(b.mul(count, b.index(capacity.getTimes())), b.index(capacity.getMin()));
  Value multiple = b.index(capacity.getMultiple());
  return b.mul(b.ceilDiv(count, multiple), multiple);
}

//===----------------------------------------------------------------------===//
// The entries that are accepted
//===----------------------------------------------------------------------===//

namespace {

/// Decides about all entries of a routing.
class Limiter {
public:
  Limiter(ReferenceBuilder &b, const Routing &routing, const CapacityOptions &options,
          const Groups &groups)
      : b(b), routing(routing), options(options), groups(groups) {
    sizes = {b.size(routing.slots, 0), b.size(routing.slots, 1)};
    Value tokens = b.minIndex(groups.size, groups.tokens);
    room = evaluate(b, options.capacity, tokens, routing.experts, routing.k);
  }

  /// i1 [T,E]: whether the entry is accepted.
  Value accepted() { return options.order == CapacityOrder::PerExpert ? byPriority() : oneByOne(); }

private:
  Value isEntry(Value t, Value e) { return b.isValid(b.rawAt(routing.slots, {t, e})); }
  Value priorityOf(Value t, Value e) {
    return b.at(options.priority ? options.priority : routing.weights, {t, e});
  }

  /// An entry is accepted when fewer than C of its expert come before it.
  Value byPriority() {
    return b.generate(sizes, b.getI1Type(), [&](ValueRange i) {
      Value t = i[0], e = i[1], group = groups.of(b, t);
      Value before = b.count(groups.length(b, group), [&](Value member) {
        Value other = b.add(groups.begin(b, group), member);
        Value isFirst = b.comesBefore(priorityOf(other, e), other, priorityOf(t, e), t);
        return b.both(isEntry(other, e), isFirst);
      });
      return b.both(isEntry(t, e), b.isLess(before, room));
    });
  }

  /// index [T]: the token at each place of its group's order.
  Value tokensByPriority() {
    Value experts = b.index(routing.experts);
    Value largest = b.generate(sizes[0], b.getReal(), [&](ValueRange i) {
      return b.largest(experts, [&](Value e) {
        Value none = b.constant(-std::numeric_limits<double>::infinity());
        return b.select(isEntry(i[0], e), priorityOf(i[0], e), none);
      });
    });
    Value start = b.filled(sizes[0], b.index(0));
    return b.fold(groups.tokens, start, [&](Value t, Value order) {
      Value group = groups.of(b, t), begin = groups.begin(b, group);
      Value place = b.count(groups.length(b, group), [&](Value member) {
        Value other = b.add(begin, member);
        return b.comesBefore(b.at(largest, other), other, b.at(largest, t), t);
      });
      return b.insert(t, order, b.add(begin, place));
    });
  }

  /// What has been decided so far.
  struct State {
    Value accepted; ///< i1 [T,E]
    Value counts;   ///< index [E]: entries of each expert
    Value kept;     ///< index [T]: entries of each token
  };
  static State stateOf(ValueRange values) { return {values[0], values[1], values[2]}; }

  /// The entry of token t in `slot` asks, if there is one.
  SmallVector<Value> ask(Value t, Value slot, ValueRange carried) {
    Value e = b.rawAt(expertOf, {t, slot}), one = b.index(1);
    State now = stateOf(carried);
    auto decide = [&]() -> SmallVector<Value> {
      Value count = b.rawAt(now.counts, e), kept = b.rawAt(now.kept, t);
      Value fits = b.both(b.isLess(count, room), b.isLess(kept, b.index(options.keep)));
      return {b.insert(fits, now.accepted, {t, e}),
              b.insert(b.select(fits, b.add(count, one), count), now.counts, e),
              b.insert(b.select(fits, b.add(kept, one), kept), now.kept, t)};
    };
    return b.branch(b.isValid(e), decide, [&] { return SmallVector<Value>(carried); });
  }

  /// The entries of a group ask in the given order.
  SmallVector<Value> askAll(Value group, ValueRange carried) {
    Value begin = groups.begin(b, group), length = groups.length(b, group);
    Value slots = b.index(routing.k);
    auto tokenAt = [&](Value place) {
      Value t = b.add(begin, place);
      return order ? b.rawAt(order, t) : t;
    };
    if (options.order == CapacityOrder::Token)
      return b.loop(length, carried, [&](Value place, ValueRange outer) {
        return b.loop(slots, outer, [&](Value slot, ValueRange inner) {
          return ask(tokenAt(place), slot, inner);
        });
      });
    return b.loop(slots, carried, [&](Value slot, ValueRange outer) {
      return b.loop(length, outer, [&](Value place, ValueRange inner) {
        return ask(tokenAt(place), slot, inner);
      });
    });
  }

  Value oneByOne() {
    expertOf = expertsOfSlots(b, routing);
    if (options.order == CapacityOrder::BPR)
      order = tokensByPriority();
    SmallVector<Value> start = {b.filled(sizes, b.boolean(false)), b.filled(sizes[1], b.index(0)),
                                b.filled(sizes[0], b.index(0))};
    return b.loop(groups.count, start, [&](Value group, ValueRange carried) {
      SmallVector<Value> state(carried);
      // Every group has all of the room.
      state[1] = b.fold(b.index(routing.experts), state[1],
                        [&](Value e, Value counts) { return b.insert(b.index(0), counts, e); });
      return askAll(group, state);
    })[0];
  }

  ReferenceBuilder &b;
  const Routing &routing;
  const CapacityOptions &options;
  const Groups &groups;
  SmallVector<OpFoldResult> sizes;
  Value room;
  Value expertOf;
  Value order;
};

} // namespace

Routing reference::limit(ReferenceBuilder &b, const Routing &routing,
                         const CapacityOptions &options, const Groups &groups) {
  Value accepted = Limiter(b, routing, options, groups).accepted();
  Value slots = renumbered(b, routing.slots, accepted);
  return {slots, weightsOf(b, slots, routing.weights), routing.experts, options.keep};
}

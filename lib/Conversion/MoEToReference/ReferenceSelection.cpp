// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plain meaning of moe.select: an expert's slot is the number of experts that come
// before it.

#include "Reference.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

static constexpr double kInf = std::numeric_limits<double>::infinity();

static SmallVector<OpFoldResult> sizesOf(ReferenceBuilder &b, const Candidates &from) {
  return {b.size(from.keys, 0), b.size(from.keys, 1)};
}

Candidates reference::candidates(ReferenceBuilder &b, Value key, Value bias, Value tokenMask,
                                 Value expertMask) {
  SmallVector<OpFoldResult> sizes = {b.size(key, 0), b.size(key, 1)};
  Candidates result = {key, {}};
  if (bias)
    result.keys = b.generate(sizes, b.getReal(),
                             [&](ValueRange i) { return b.add(b.at(key, i), b.at(bias, i[1])); });
  if (!tokenMask && !expertMask)
    return result;
  bool perToken = expertMask && cast<ShapedType>(expertMask.getType()).getRank() == 2;
  result.allowed = b.generate(sizes, b.getI1Type(), [&](ValueRange i) {
    Value token = tokenMask ? b.rawAt(tokenMask, i[0]) : b.boolean(true);
    if (!expertMask)
      return token;
    Value expert = perToken ? b.rawAt(expertMask, i) : b.rawAt(expertMask, i[1]);
    return b.both(token, expert);
  });
  return result;
}

//===----------------------------------------------------------------------===//
// The order of a token's experts
//===----------------------------------------------------------------------===//

/// Number of experts that token t may take before expert e.
static Value rankOf(ReferenceBuilder &b, const Candidates &from, Value t, Value e, TieBreak tie) {
  Value key = b.at(from.keys, {t, e});
  return b.count(b.value(b.size(from.keys, 1)), [&](Value other) {
    Value otherKey = b.at(from.keys, {t, other});
    Value before = tie == TieBreak::Lower
                       ? b.comesBefore(otherKey, other, key, e)
                       : b.either(b.isLarger(otherKey, key),
                                  b.both(b.negate(b.isLarger(key, otherKey)), b.isLess(e, other)));
    return b.both(from.mayTake(b, t, other), before);
  });
}

/// The slot of each expert that may be taken and is among the first limit(t).
static Value firstOf(ReferenceBuilder &b, const Candidates &from, TieBreak tie,
                     function_ref<Value(Value)> limit) {
  return b.generate(sizesOf(b, from), b.getI32Type(), [&](ValueRange i) {
    Value rank = rankOf(b, from, i[0], i[1], tie);
    Value taken = b.both(from.mayTake(b, i[0], i[1]), b.isLess(rank, limit(i[0])));
    return b.select(taken, b.toI32(rank), b.i32(-1));
  });
}

//===----------------------------------------------------------------------===//
// Groups of experts
//===----------------------------------------------------------------------===//

/// Sum of the two largest keys that token t may take among `count` experts from `first`;
/// the largest when there is one.
static Value sumOfTwo(ReferenceBuilder &b, const Candidates &from, Value t, Value first,
                      Value count) {
  SmallVector<Value> none = {b.constant(-kInf), b.constant(-kInf), b.index(0)};
  SmallVector<Value> top = b.loop(count, none, [&](Value i, ValueRange best) -> SmallVector<Value> {
    Value e = b.add(first, i), key = b.at(from.keys, {t, e}), allowed = from.mayTake(b, t, e);
    Value isFirst = b.both(allowed, b.isLarger(key, best[0]));
    Value isSecond = b.both(allowed, b.isLarger(key, best[1]));
    return {b.select(isFirst, key, best[0]),
            b.select(isFirst, best[0], b.select(isSecond, key, best[1])),
            b.select(allowed, b.add(best[2], b.index(1)), best[2])};
  });
  return b.select(b.isLess(top[2], b.index(2)), top[0], b.add(top[0], top[1]));
}

/// The largest key that token t may take among `count` experts from `first`.
static Value largestOf(ReferenceBuilder &b, const Candidates &from, Value t, Value first,
                       Value count) {
  return b.largest(count, [&](Value i) {
    Value e = b.add(first, i);
    return b.select(from.mayTake(b, t, e), b.at(from.keys, {t, e}), b.constant(-kInf));
  });
}

/// i1 [T,E]: whether the expert's group stays.
static Value inKeptGroup(ReferenceBuilder &b, const Candidates &from, const ExpertGroups &groups) {
  SmallVector<OpFoldResult> sizes = sizesOf(b, from);
  Value size = b.quotient(b.value(sizes[1]), b.index(groups.count));
  SmallVector<OpFoldResult> groupSizes = {sizes[0], b.getIndexAttr(groups.count)};
  Candidates candidates;
  candidates.keys = b.generate(groupSizes, b.getReal(), [&](ValueRange i) {
    Value first = b.mul(i[1], size);
    return groups.score == GroupScore::Max ? largestOf(b, from, i[0], first, size)
                                           : sumOfTwo(b, from, i[0], first, size);
  });
  // A group without an expert to take is not chosen, which is as good as the last.
  if (from.allowed)
    candidates.allowed = b.generate(groupSizes, b.getI1Type(), [&](ValueRange i) {
      Value first = b.mul(i[1], size);
      Value members =
          b.count(size, [&](Value member) { return from.mayTake(b, i[0], b.add(first, member)); });
      return b.isLess(b.index(0), members);
    });
  Value kept = firstOf(b, candidates, TieBreak::Lower, [&](Value) { return b.index(groups.kept); });
  return b.generate(sizes, b.getI1Type(), [&](ValueRange i) {
    return b.isValid(b.rawAt(kept, {i[0], b.quotient(i[1], size)}));
  });
}

Candidates reference::limitedToGroups(ReferenceBuilder &b, const Candidates &all,
                                      const ExpertGroups &groups) {
  if (groups.count == 1)
    return all;
  Value kept = inKeptGroup(b, all, groups);
  Candidates result = all;
  if (groups.fill == GroupFill::Zero)
    result.keys = b.generate(sizesOf(b, all), b.getReal(), [&](ValueRange i) {
      return b.select(b.rawAt(kept, i), b.at(all.keys, i), b.constant(0));
    });
  else
    result.allowed = b.generate(sizesOf(b, all), b.getI1Type(), [&](ValueRange i) {
      return b.both(all.mayTake(b, i[0], i[1]), b.rawAt(kept, i));
    });
  return result;
}

//===----------------------------------------------------------------------===//
// Modes
//===----------------------------------------------------------------------===//

/// The slot of an expert that may be taken is its index.
static Value selectAll(ReferenceBuilder &b, const Candidates &from) {
  return b.generate(sizesOf(b, from), b.getI32Type(), [&](ValueRange i) {
    return b.select(from.mayTake(b, i[0], i[1]), b.toI32(i[1]), b.i32(-1));
  });
}

/// The first 1 + #{j : c_j < p}, c_j the sum of the j largest keys; at most k.
static Value selectTopP(ReferenceBuilder &b, const Candidates &from, const SelectOptions &options) {
  OpFoldResult tokens = b.size(from.keys, 0);
  int64_t experts = cast<ShapedType>(from.keys.getType()).getDimSize(1);
  auto all = [&](Value) { return b.index(experts); };
  Routing order = {firstOf(b, from, options.tie, all), {}, experts, experts};
  Value expertOf = expertsOfSlots(b, order);
  Value limits = b.generate(tokens, b.getIndexType(), [&](ValueRange i) {
    SmallVector<Value> start = {b.constant(0), b.index(1)};
    Value limit = b.loop(b.index(experts), start, [&](Value j, ValueRange so) {
      Value e = b.rawAt(expertOf, {i[0], j});
      auto addKey = [&]() -> SmallVector<Value> {
        Value sum = b.add(so[0], b.at(from.keys, {i[0], e}));
        Value isBelow = b.isLess(sum, b.constant(options.p));
        return {sum, b.select(isBelow, b.add(so[1], b.index(1)), so[1])};
      };
      return b.branch(b.isValid(e), addKey, [&] { return SmallVector<Value>(so); });
    })[1];
    return b.minIndex(limit, b.index(options.k));
  });
  return b.generate(sizesOf(b, from), b.getI32Type(), [&](ValueRange i) {
    Value slot = b.rawAt(order.slots, i);
    Value taken = b.isLess(slot, b.toI32(b.rawAt(limits, i[0])));
    return b.select(taken, slot, b.i32(-1));
  });
}

/// Only keys > tau may be taken.
static Candidates above(ReferenceBuilder &b, const Candidates &from, double tau) {
  Value allowed = b.generate(sizesOf(b, from), b.getI1Type(), [&](ValueRange i) {
    Value isAbove = b.isLarger(b.at(from.keys, i), b.constant(tau));
    return b.both(from.mayTake(b, i[0], i[1]), isAbove);
  });
  return {from.keys, allowed};
}

Value reference::select(ReferenceBuilder &b, const Candidates &from, const SelectOptions &options) {
  auto k = [&](Value) { return b.index(options.k); };
  switch (options.mode) {
  case SelectMode::All:
    return selectAll(b, from);
  case SelectMode::TopK:
    return firstOf(b, from, options.tie, k);
  case SelectMode::TopP:
    // p ≥ 1 takes k whatever the sums round to.
    return options.p < 1 ? selectTopP(b, from, options) : firstOf(b, from, options.tie, k);
  case SelectMode::Threshold:
    return firstOf(b, above(b, from, options.tau), options.tie, k);
  case SelectMode::ExpertTopK:
    break;
  }
  llvm_unreachable("experts select by selectByExperts");
}

Value reference::selectByExperts(ReferenceBuilder &b, const Candidates &from, CapacityAttr capacity,
                                 const Groups &groups, int64_t k) {
  SmallVector<OpFoldResult> sizes = sizesOf(b, from);
  int64_t experts = cast<ShapedType>(from.keys.getType()).getDimSize(1);
  Value size = b.minIndex(groups.size, groups.tokens);
  Value room = evaluate(b, capacity, size, experts, k);
  // Among the first C of the expert's tokens.
  Value taken = b.generate(sizes, b.getI1Type(), [&](ValueRange i) {
    Value t = i[0], e = i[1], key = b.at(from.keys, i), group = groups.of(b, t);
    Value before = b.count(groups.length(b, group), [&](Value member) {
      Value other = b.add(groups.begin(b, group), member);
      return b.both(from.mayTake(b, other, e),
                    b.comesBefore(b.at(from.keys, {other, e}), other, key, t));
    });
    return b.both(from.mayTake(b, t, e), b.isLess(before, room));
  });
  return firstOf(b, {from.keys, taken}, TieBreak::Lower, [&](Value) { return b.index(k); });
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What all routings have in common, and plain meaning of moe.given, moe.compose and
// moe.remap.

#include "Reference.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

//===----------------------------------------------------------------------===//
// Groups of tokens
//===----------------------------------------------------------------------===//

Value Groups::length(ReferenceBuilder &b, Value group) const {
  return b.sub(end(b, group), begin(b, group));
}

Groups reference::groupsOf(ReferenceBuilder &b, OpFoldResult tokens, Value groupSize) {
  Value count = b.value(tokens), one = b.index(1);
  Value size = b.maxIndex(groupSize ? groupSize : count, one);
  if (groupSize) {
    Value isWhole = b.isEqual(b.remainder(count, size), b.index(0));
    Value isPositive = b.isLess(b.index(0), groupSize);
    // No tokens fit any size: groups of a [0, 0] batch are empty.
    Value isNone = b.isEqual(count, b.index(0));
    b.check(b.either(isNone, b.both(isWhole, isPositive)),
            "the number of tokens is not a multiple of group_size");
  }
  return {size, b.ceilDiv(count, size), count};
}

//===----------------------------------------------------------------------===//
// Slots
//===----------------------------------------------------------------------===//

Value reference::expertsOfSlots(ReferenceBuilder &b, const Routing &routing) {
  Value experts = b.index(routing.experts);
  SmallVector<OpFoldResult> sizes = {b.size(routing.slots, 0), b.getIndexAttr(routing.k)};
  return b.generate(sizes, b.getIndexType(), [&](ValueRange i) {
    Value slot = b.toI32(i[1]);
    return b.fold(experts, b.index(-1), [&](Value e, Value found) {
      return b.select(b.isEqual(b.rawAt(routing.slots, {i[0], e}), slot), e, found);
    });
  });
}

Value reference::renumbered(ReferenceBuilder &b, Value slots, Value keep) {
  SmallVector<OpFoldResult> sizes = {b.size(slots, 0), b.size(slots, 1)};
  Value experts = b.value(sizes[1]);
  return b.generate(sizes, b.getI32Type(), [&](ValueRange i) {
    Value slot = b.rawAt(slots, i);
    Value before = b.count(experts, [&](Value other) {
      return b.both(b.rawAt(keep, {i[0], other}), b.isLess(b.rawAt(slots, {i[0], other}), slot));
    });
    return b.select(b.rawAt(keep, i), b.toI32(before), b.i32(-1));
  });
}

Value reference::weightsOf(ReferenceBuilder &b, Value slots, Value weights) {
  if (!weights)
    return {};
  return b.generate({b.size(slots, 0), b.size(slots, 1)}, b.getF32Type(), [&](ValueRange i) {
    return b.select(b.isValid(b.rawAt(slots, i)), b.at(weights, i), b.constant(0));
  });
}

/// Whether each entry of slots [T,E] is there; i1 [T,E].
static Value entriesOf(ReferenceBuilder &b, Value slots) {
  return b.generate({b.size(slots, 0), b.size(slots, 1)}, b.getI1Type(),
                    [&](ValueRange i) { return b.isValid(b.rawAt(slots, i)); });
}

//===----------------------------------------------------------------------===//
// Given
//===----------------------------------------------------------------------===//

Value reference::given(ReferenceBuilder &b, Value ids, int64_t experts) {
  Value k = b.value(b.size(ids, 1));
  SmallVector<OpFoldResult> sizes = {b.size(ids, 0), b.getIndexAttr(experts)};
  return b.generate(sizes, b.getI32Type(), [&](ValueRange i) {
    Value t = i[0], e = i[1];
    // The first slot that names the expert.
    return b.fold(k, b.i32(-1), [&](Value slot, Value found) {
      Value isNamed = b.isEqual(b.toIndex(b.rawAt(ids, {t, slot})), e);
      Value isFirst = b.both(isNamed, b.negate(b.isValid(found)));
      return b.select(isFirst, b.toI32(slot), found);
    });
  });
}

//===----------------------------------------------------------------------===//
// Compose
//===----------------------------------------------------------------------===//

Routing reference::compose(ReferenceBuilder &b, const Routing &outer, ArrayRef<Routing> inner,
                           int64_t k) {
  int64_t experts = 0, innerK = 0;
  for (const Routing &routing : inner) {
    experts += routing.experts;
    innerK = std::max(innerK, routing.k);
  }
  SmallVector<OpFoldResult> sizes = {b.size(outer.slots, 0), b.getIndexAttr(experts)};
  Value tokens = b.value(sizes[0]);
  bool weighted = outer.weights != nullptr;
  SmallVector<Value> dense = {b.filled(sizes, b.i32(-1))};
  if (weighted)
    dense.push_back(b.filled(sizes, b.constant(0)));

  int64_t offset = 0;
  for (int64_t number = 0, groups = inner.size(); number < groups; ++number) {
    const Routing &routing = inner[number];
    Value group = b.index(number), first = b.index(offset), wide = b.i32(innerK);
    dense = b.loop(tokens, dense, [&](Value t, ValueRange carried) {
      return b.loop(b.index(routing.experts), carried, [&](Value i, ValueRange dense) {
        Value outerSlot = b.rawAt(outer.slots, {t, group});
        Value innerSlot = b.rawAt(routing.slots, {t, i});
        auto insert = [&] {
          Value e = b.add(first, i);
          Value slot = b.add(b.mul(outerSlot, wide), innerSlot);
          SmallVector<Value> next = {b.insert(slot, dense[0], {t, e})};
          if (weighted)
            next.push_back(
                b.insert(b.mul(b.at(outer.weights, {t, group}), b.at(routing.weights, {t, i})),
                         dense[1], {t, e}));
          return next;
        };
        return b.branch(b.both(b.isValid(outerSlot), b.isValid(innerSlot)), insert,
                        [&] { return SmallVector<Value>(dense); });
      });
    });
    offset += routing.experts;
  }
  Value slots = renumbered(b, dense[0], entriesOf(b, dense[0]));
  return {slots, weightsOf(b, slots, weighted ? dense[1] : Value()), experts, k};
}

//===----------------------------------------------------------------------===//
// Remap
//===----------------------------------------------------------------------===//

namespace {

/// Finds the expert that an entry goes to.
struct Replicas {
  ReferenceBuilder &b;
  Value map;
  Value experts; ///< E' of the result.

  Value idAt(Value e, Value replica) { return b.toIndex(b.rawAt(map, {e, replica})); }
  Value isExpert(Value id) { return b.both(b.isValid(id), b.isLess(id, experts)); }
  Value width() { return b.value(b.size(map, 1)); }

  /// Number t mod c of the c replicas of expert e; -1 when there is none.
  Value roundRobin(Value t, Value e) {
    Value count = b.count(width(), [&](Value r) { return isExpert(idAt(e, r)); });
    Value wanted = b.remainder(t, b.maxIndex(count, b.index(1)));
    SmallVector<Value> none = {b.index(-1), b.index(0)};
    return b.loop(width(), none, [&](Value r, ValueRange found) -> SmallVector<Value> {
      Value id = idAt(e, r), seen = found[1], valid = isExpert(id);
      Value isWanted = b.both(valid, b.isEqual(seen, wanted));
      return {b.select(isWanted, id, found[0]), b.select(valid, b.add(seen, b.index(1)), seen)};
    })[0];
  }

  /// The replica of expert e with the fewest entries in `load` [E'], the first of equals.
  Value leastLoaded(Value load, Value e) {
    SmallVector<Value> none = {b.index(-1), b.index(0)};
    return b.loop(width(), none, [&](Value r, ValueRange best) -> SmallVector<Value> {
      Value id = idAt(e, r), valid = isExpert(id);
      Value entries = b.rawAt(load, b.select(valid, id, b.index(0)));
      Value better = b.either(b.negate(b.isValid(best[0])), b.isLess(entries, best[1]));
      Value take = b.both(valid, better);
      return {b.select(take, id, best[0]), b.select(take, entries, best[1])};
    })[0];
  }
};

} // namespace

Routing reference::remap(ReferenceBuilder &b, const Routing &routing, Value map, RemapPolicy policy,
                         int64_t experts) {
  SmallVector<OpFoldResult> sizes = {b.size(routing.slots, 0), b.getIndexAttr(experts)};
  bool weighted = routing.weights != nullptr;
  Value expertOf = expertsOfSlots(b, routing);
  SmallVector<Value> dense = {b.filled(sizes, b.i32(-1)), b.filled(sizes[1], b.index(0))};
  if (weighted)
    dense.push_back(b.filled(sizes, b.constant(0)));
  Replicas replicas = {b, map, b.index(experts)};

  dense = b.loop(b.value(sizes[0]), dense, [&](Value t, ValueRange carried) {
    return b.loop(b.index(routing.k), carried, [&](Value slot, ValueRange dense) {
      Value e = b.rawAt(expertOf, {t, slot});
      Value logical = b.select(b.isValid(e), e, b.index(0));
      Value id = policy == RemapPolicy::RoundRobin ? replicas.roundRobin(t, logical)
                                                   : replicas.leastLoaded(dense[1], logical);
      auto insert = [&] {
        Value old = b.rawAt(dense[0], {t, id}), isNew = b.negate(b.isValid(old));
        Value entries = b.rawAt(dense[1], id);
        Value more = b.select(isNew, b.add(entries, b.index(1)), entries);
        SmallVector<Value> next = {b.insert(b.select(isNew, b.toI32(slot), old), dense[0], {t, id}),
                                   b.insert(more, dense[1], id)};
        if (weighted)
          next.push_back(
              b.insert(b.add(b.at(dense[2], {t, id}), b.at(routing.weights, {t, logical})),
                       dense[2], {t, id}));
        return next;
      };
      return b.branch(b.both(b.isValid(e), b.isValid(id)), insert,
                      [&] { return SmallVector<Value>(dense); });
    });
  });
  Value slots = renumbered(b, dense[0], entriesOf(b, dense[0]));
  return {slots, weightsOf(b, slots, weighted ? dense[2] : Value()), experts,
          std::min(routing.k, experts)};
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Ops from routings to routings: moe.filter, moe.compose, moe.remap, moe.blend.

#include "Lowering.h"
#include "Select.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();

//===----------------------------------------------------------------------===//
// TokenSlots
//===----------------------------------------------------------------------===//

TokenSlots::TokenSlots(KernelBuilder &b, Value ids, Value weights, Value token, int64_t k)
    : b(b), ids(ids), weights(weights), token(token), k(k), used(b.stack(1, b.getI32Type())) {
  b.store(b.i32(0), used, b.index(0));
}

void TokenSlots::append(Value id, Value weight) {
  Value slot = b.toIndex(b.increment(used, b.index(0)));
  b.store(id, ids, {token, slot});
  if (weights)
    b.store(weight, weights, {token, slot});
}

void TokenSlots::merge(Value id, Value weight, Value loads) {
  Value count = b.loadIndex(used, b.index(0));
  Value found = b.fold(count, b.index(-1), [&](Value slot, Value found) {
    return b.select(b.equal(b.load(ids, {token, slot}), id), slot, found);
  });
  b.branch(
      b.isValid(found),
      [&] {
        if (weights)
          b.store(b.addf(b.load(weights, {token, found}), weight), weights, {token, found});
        return SmallVector<Value>();
      },
      [&] {
        append(id, weight);
        if (loads)
          b.increment(loads, b.toIndex(id));
        return SmallVector<Value>();
      });
}

void TokenSlots::finish() {
  b.forLoop(b.loadIndex(used, b.index(0)), b.index(k), b.index(1), [&](Value slot) {
    b.store(b.i32(-1), ids, {token, slot});
    if (weights)
      b.store(b.f32(0.0), weights, {token, slot});
  });
}

//===----------------------------------------------------------------------===//
// moe.filter
//===----------------------------------------------------------------------===//

LogicalResult Lowering::lowerOp(FilterOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers routing = routingOf(op.getRouting());
  RoutingBuffers result = newRouting(b, op.getResult(), routing.tokens, routing.bound);
  int64_t k = op.getRouting().getType().getK();
  double threshold = op.getThreshold().convertToDouble();
  kernel(
      b, op, "filter",
      {routing.experts, routing.weights, buffer(b, op.getRandom()), result.experts, result.weights},
      [&](KernelBuilder &b, ArrayRef<Value> args) {
        Value random = args[2];
        b.forTokens(b.dim(args[0], 0), [&](Value token) {
          Value u = random ? b.loadF32(random, token) : Value();
          b.forLoop(b.index(k), [&](Value slot) {
            SmallVector<Value> at = {token, slot};
            Value id = b.load(args[0], at), weight = b.load(args[1], at);
            Value chance = random ? b.divf(weight, b.f32(std::max(threshold, 1e-9))) : Value();
            Value stays = random ? b.compare(arith::CmpFPredicate::OLT, u, chance)
                                 : b.compare(arith::CmpFPredicate::OGT, weight, b.f32(threshold));
            stays = b.either(stays, b.less(slot, b.index(op.getFromSlot())));
            b.store(b.select(stays, id, b.i32(-1)), args[3], at);
            b.store(b.select(stays, weight, b.f32(0.0)), args[4], at);
          });
        });
      });
  return success();
}

//===----------------------------------------------------------------------===//
// moe.compose
//===----------------------------------------------------------------------===//

LogicalResult Lowering::lowerOp(ComposeOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers outer = routingOf(op.getOuter());
  RoutingBuffers result = newRouting(b, op.getResult(), outer.tokens);
  SmallVector<Value> operands = {result.experts, result.weights, outer.experts, outer.weights};
  for (Value inner : op.getInner()) {
    RoutingBuffers routing = routingOf(inner);
    operands.push_back(routing.experts);
    operands.push_back(routing.weights);
  }
  kernel(b, op, "compose", operands, [&](KernelBuilder &b, ArrayRef<Value> args) {
    auto typeOf = [](Value routing) { return cast<RoutingType>(routing.getType()); };
    b.forTokens(b.dim(args[0], 0), [&](Value token) {
      TokenSlots out(b, args[0], args[1], token, typeOf(op.getResult()).getK());
      auto appendGroup = [&](int64_t offset, int64_t k, Value ids, Value weights, Value weight) {
        b.forLoop(b.index(k), [&](Value slot) {
          Value id = b.load(ids, {token, slot});
          b.ifThen(b.isValid(id), [&] {
            Value product = weights ? b.mulf(weight, b.load(weights, {token, slot})) : Value();
            out.append(b.add(id, b.i32(offset)), product);
          });
        });
      };
      b.forLoop(b.index(typeOf(op.getOuter()).getK()), [&](Value slot) {
        Value group = b.load(args[2], {token, slot});
        Value weight = args[3] ? b.load(args[3], {token, slot}) : Value();
        int64_t offset = 0;
        for (auto [g, inner] : llvm::enumerate(op.getInner())) {
          b.ifThen(b.equal(group, b.i32(g)), [&, g = g, inner = inner] {
            appendGroup(offset, typeOf(inner).getK(), args[4 + 2 * g], args[5 + 2 * g], weight);
          });
          offset += typeOf(inner).getExperts();
        }
      });
      out.finish();
    });
  });
  return success();
}

//===----------------------------------------------------------------------===//
// moe.remap
//===----------------------------------------------------------------------===//

/// The replica number `number` of an expert, ids that are none left out.
static Value emitReplica(KernelBuilder &b, Value map, Value expert, Value number,
                         int64_t replicas) {
  return b.forLoop(
      b.index(0), b.dim(map, 1), b.index(1), {b.i32(-1), number},
      [&](Value r, ValueRange carried) -> SmallVector<Value> {
        Value id = emitId(b, map, {expert, r}, replicas), left = carried[1];
        Value isId = b.isValid(id);
        Value isThis = b.both(isId, b.equal(left, b.i32(0)));
        return {b.select(isThis, id, carried[0]), b.select(isId, b.sub(left, b.i32(1)), left)};
      })[0];
}

static Value emitNumReplicas(KernelBuilder &b, Value map, Value expert, int64_t replicas) {
  return b.fold(b.dim(map, 1), b.i32(0), [&](Value r, Value count) {
    Value isId = b.isValid(emitId(b, map, {expert, r}, replicas));
    return b.select(isId, b.add(count, b.i32(1)), count);
  });
}

/// The replica of an expert with the smallest load, of equals the first.
static Value emitLeastLoaded(KernelBuilder &b, Value map, Value expert, Value loads,
                             int64_t replicas) {
  int32_t most = std::numeric_limits<int32_t>::max();
  return b.forLoop(
      b.index(0), b.dim(map, 1), b.index(1), {b.i32(-1), b.i32(most)},
      [&](Value r, ValueRange carried) -> SmallVector<Value> {
        Value id = emitId(b, map, {expert, r}, replicas);
        return b.branch(
            b.isValid(id),
            [&]() -> SmallVector<Value> {
              Value load = b.load(loads, b.toIndex(id));
              Value less = b.less(load, carried[1]);
              return {b.select(less, id, carried[0]), b.select(less, load, carried[1])};
            },
            [&] { return SmallVector<Value>(carried); });
      })[0];
}

LogicalResult Lowering::lowerOp(RemapOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers routing = routingOf(op.getRouting());
  RoutingBuffers result = newRouting(b, op.getResult(), routing.tokens, routing.bound);
  int64_t replicas = op.getResult().getType().getExperts();
  int64_t k = op.getRouting().getType().getK();
  bool roundRobin = op.getPolicy() == RemapPolicy::RoundRobin;
  kernel(b, op, "remap",
         {routing.experts, routing.weights, buffer(b, op.getMap()), result.experts, result.weights},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value ids = args[0], weights = args[1], map = args[2], loads;
           Value tokens = b.dim(ids, 0);
           auto choose = [&](Value token, Value expert) {
             if (!roundRobin)
               return emitLeastLoaded(b, map, expert, loads, replicas);
             Value count = emitNumReplicas(b, map, expert, replicas);
             Value divisor = arith::MaxSIOp::create(b, b.getLoc(), count, b.i32(1));
             Value number = arith::RemUIOp::create(b, b.getLoc(), b.toI32(token), divisor);
             return emitReplica(b, map, expert, number, replicas);
           };
           auto remap = [&](Value token) {
             TokenSlots out(b, args[3], args[4], token, op.getResult().getType().getK());
             b.forLoop(b.index(k), [&](Value slot) {
               Value expert = b.load(ids, {token, slot});
               b.ifThen(b.isValid(expert), [&] {
                 Value id = choose(token, b.toIndex(expert));
                 Value weight = weights ? b.load(weights, {token, slot}) : Value();
                 b.ifThen(b.isValid(id), [&] { out.merge(id, weight, loads); });
               });
             });
             out.finish();
           };
           if (roundRobin)
             return b.forTokens(tokens, remap);
           // Loads depend on all tokens before.
           loads = b.stack(replicas, b.getI32Type());
           b.forLoop(b.index(replicas), [&](Value id) { b.store(b.i32(0), loads, id); });
           b.forLoop(tokens, remap);
         });
  return success();
}

//===----------------------------------------------------------------------===//
// moe.blend
//===----------------------------------------------------------------------===//

LogicalResult Lowering::lowerOp(BlendOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers routing = routingOf(op.getRouting());
  Value before = routing.weights;
  int64_t k = op.getRouting().getType().getK();
  routing.weights = allocate(b, {ShapedType::kDynamic, k}, f32(), routing.tokens);
  routings[op.getResult()] = routing;
  Value sharedWeights = destination(b, op.getSharedWeights(), routing.tokens);
  bool joint = op.getMode() == BlendMode::Joint;
  kernel(b, op, "blend",
         {routing.experts, before, buffer(b, op.getSource()), buffer(b, op.getSharedSource()),
          routing.weights, sharedWeights},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value ids = args[0], before = args[1], source = args[2], shared = args[3],
                 weights = args[4], sharedWeights = args[5];
           Value slots = b.index(k), columns = b.dim(shared, 1);
           b.forTokens(b.dim(ids, 0), [&](Value token) {
             // What `value` gives for an entry, `otherwise` for an empty slot.
             auto ofEntry = [&](Value slot, function_ref<Value(Value)> value, Value otherwise) {
               Value id = b.load(ids, {token, slot});
               return b.branch(
                   b.isValid(id),
                   [&] {
                     return value(b.loadF32(source, {token, b.toIndex(id)}));
                   },
                   [&] { return otherwise; });
             };
             auto sharedAt = [&](Value s) { return b.loadF32(shared, {token, s}); };
             Value largest = b.fold(slots, b.f32(-kInfinity), [&](Value slot, Value max) {
               return ofEntry(
                   slot, [&](Value v) { return b.maxNumber(max, v); }, max);
             });
             largest = b.fold(columns, largest,
                              [&](Value s, Value max) { return b.maxNumber(max, sharedAt(s)); });
             auto exp = [&](Value v) { return b.exp(b.subf(v, largest)); };
             Value mass = b.fold(slots, b.f32(0.0), [&](Value slot, Value sum) {
               return ofEntry(
                   slot, [&](Value v) { return b.addf(sum, exp(v)); }, sum);
             });
             Value total = b.fold(
                 columns, mass, [&](Value s, Value sum) { return b.addf(sum, exp(sharedAt(s))); });
             b.forLoop(slots, [&](Value slot) {
               Value weight = ofEntry(
                   slot,
                   [&](Value v) {
                     return joint ? b.divf(exp(v), total)
                                  : b.mulf(b.load(before, {token, slot}), b.divf(mass, total));
                   },
                   b.f32(0.0));
               b.store(weight, weights, {token, slot});
             });
             b.forLoop(columns, [&](Value s) {
               b.storeF32(b.divf(exp(sharedAt(s)), total), sharedWeights, {token, s});
             });
           });
         });
  replace(b, op.getSharedWeights(), sharedWeights);
  return success();
}

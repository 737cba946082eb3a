// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.select and moe.given.

#include "Select.h"
#include "Lowering.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();
static constexpr int32_t kLargestOrder = std::numeric_limits<int32_t>::max();

//===----------------------------------------------------------------------===//
// Masks and groups
//===----------------------------------------------------------------------===//

void mlir::moe::cpu::emitExpertMask(KernelBuilder &b, Value mask, Value token, Value experts,
                                    Keys &keys) {
  bool perToken = cast<MemRefType>(mask.getType()).getRank() == 2;
  b.forLoop(experts, [&](Value e) {
    Value allowed = b.load(mask, perToken ? ValueRange{token, e} : ValueRange{e});
    Value masked = b.equal(allowed, b.boolean(false));
    b.ifThen(masked, [&] { keys.remove(e); });
  });
}

/// The order of a group's score from the orders of its keys.
static Value emitGroupScore(KernelBuilder &b, const GroupOptions &groups, Value keys, Value first) {
  Value none = b.i32(kNeverTaken);
  SmallVector<Value> best =
      b.forLoop(b.index(0), b.index(groups.size), b.index(1), {none, none},
                [&](Value i, ValueRange carried) -> SmallVector<Value> {
                  Value key = b.load(keys, b.add(first, i)), largest = carried[0],
                        second = carried[1];
                  Value lower = arith::MinSIOp::create(b, b.getLoc(), key, largest);
                  return {arith::MaxSIOp::create(b, b.getLoc(), key, largest),
                          arith::MaxSIOp::create(b, b.getLoc(), lower, second)};
                });
  if (groups.score == GroupScore::Max)
    return best[0];
  Value sum = emitOrder(b, b.addf(emitUnorder(b, best[0]), emitUnorder(b, best[1])));
  return b.select(b.equal(best[1], none), best[0], sum);
}

void mlir::moe::cpu::emitGroupLimit(KernelBuilder &b, const GroupOptions &groups, Keys &keys) {
  Keys scores(b, groups.number, /*higherFirst=*/false);
  scores.clear();
  b.forLoop(b.index(groups.number), [&](Value group) {
    b.store(emitGroupScore(b, groups, keys.buffer, b.mul(group, groups.size)), scores.buffer,
            group);
  });
  Value kept = b.stack(groups.number, b.getI1Type());
  b.forLoop(b.index(groups.number), [&](Value group) { b.store(b.boolean(false), kept, group); });
  scores.take(groups.kept, {}, [&](Value, Value group, Value, ValueRange) {
    b.ifThen(b.isValid(group), [&] { b.store(b.boolean(true), kept, b.toIndex(group)); });
    return SmallVector<Value>();
  });
  b.forLoop(b.index(groups.number), [&](Value group) {
    b.ifThen(b.equal(b.load(kept, group), b.boolean(false)), [&] {
      Value first = b.mul(group, groups.size);
      b.forLoop(first, b.add(first, groups.size), b.index(1), [&](Value e) {
        if (groups.fill == GroupFill::NegInf)
          return keys.remove(e);
        Value exists =
            b.compare(arith::CmpIPredicate::ne, b.load(keys.buffer, e), b.i32(kNeverTaken));
        b.ifThen(exists, [&] { keys.set(e, b.f32(0.0)); });
      });
    });
  });
}

//===----------------------------------------------------------------------===//
// Selection
//===----------------------------------------------------------------------===//

void mlir::moe::cpu::emitTake(KernelBuilder &b, const TakeOptions &options, Keys &keys,
                              function_ref<void(Value, Value, Value)> body) {
  bool isTopP = options.mode == SelectMode::TopP && options.p < 1;
  SmallVector<Value> init;
  if (isTopP)
    init = {b.f32(0.0), b.boolean(true)};
  Value tau;
  if (options.mode == SelectMode::Threshold)
    tau = emitOrder(b, b.f32(options.tau));
  keys.take(options.k, init, [&](Value slot, Value expert, Value order, ValueRange carried) {
    SmallVector<Value> next;
    Value taken = expert;
    if (tau)
      taken = b.select(b.less(tau, order), expert, b.i32(-1));
    if (isTopP) {
      taken = b.select(carried[1], expert, b.i32(-1));
      // NaN is not below p either.
      Value sum = b.addf(carried[0], emitUnorder(b, order));
      Value below = b.compare(arith::CmpFPredicate::OLT, sum, b.f32(options.p));
      next = {sum, b.both(carried[1], below)};
    }
    body(slot, taken, order);
    return next;
  });
}

/// The keys of one token, masks and groups applied.
static void emitKeys(KernelBuilder &b, SelectOp op, Keys &keys, Value token, Value key, Value bias,
                     Value expertMask) {
  int64_t experts = cast<MemRefType>(key.getType()).getDimSize(1);
  b.forVectors(experts, [&](Value i, int64_t count) {
    Value v = b.loadVectorPart(key, {token, i}, count, -kInfinity);
    if (bias)
      v = b.addf(v, b.loadVectorPart(bias, i, count, 0.0));
    keys.set(i, count, v);
  });
  if (expertMask)
    emitExpertMask(b, expertMask, token, b.index(experts), keys);
  if (op.isGrouped())
    emitGroupLimit(b, GroupOptions::of(op, experts), keys);
}

void mlir::moe::cpu::emitUnlessMasked(KernelBuilder &b, Value mask, Value token, Value ids,
                                      Value weights, function_ref<void()> body) {
  if (!mask)
    return body();
  Value allowed = b.load(mask, token);
  b.ifThen(allowed, body);
  b.ifThen(b.equal(allowed, b.boolean(false)), [&] {
    b.forLoop(b.dim(ids, 1), [&](Value slot) {
      b.store(b.i32(-1), ids, {token, slot});
      if (weights)
        b.store(b.f32(0.0), weights, {token, slot});
    });
  });
}

void Lowering::selectAll(KernelBuilder &b, SelectOp op, Value ids) {
  kernel(
      b, op, "select", {buffer(b, op.getTokenMask()), buffer(b, op.getExpertMask()), ids},
      [&](KernelBuilder &b, ArrayRef<Value> args) {
        Value tokenMask = args[0], expertMask = args[1], ids = args[2];
        b.forTokens(b.dim(ids, 0), [&](Value token) {
          emitUnlessMasked(b, tokenMask, token, ids, Value(), [&] {
            b.forLoop(b.dim(ids, 1), [&](Value e) {
              Value id = b.toI32(e);
              if (expertMask) {
                bool perToken = cast<MemRefType>(expertMask.getType()).getRank() == 2;
                Value allowed = b.load(expertMask, perToken ? ValueRange{token, e} : ValueRange{e});
                id = b.select(allowed, id, b.i32(-1));
              }
              b.store(id, ids, {token, e});
            });
          });
        });
      });
}

void Lowering::selectByToken(KernelBuilder &b, SelectOp op, Value ids) {
  kernel(b, op, "select",
         {buffer(b, op.getKey()), buffer(b, op.getBias()), buffer(b, op.getTokenMask()),
          buffer(b, op.getExpertMask()), ids},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value key = args[0], tokenMask = args[2], ids = args[4];
           int64_t experts = cast<MemRefType>(key.getType()).getDimSize(1);
           b.forTokens(b.dim(key, 0), [&](Value token) {
             emitUnlessMasked(b, tokenMask, token, ids, Value(), [&] {
               Keys keys(b, experts, op.getTieBreak() == TieBreak::Higher);
               emitKeys(b, op, keys, token, key, args[1], args[3]);
               emitTake(b, TakeOptions::of(op), keys, [&](Value slot, Value expert, Value) {
                 b.store(expert, ids, {token, slot});
               });
             });
           });
         });
}

//===----------------------------------------------------------------------===//
// Experts that choose tokens
//===----------------------------------------------------------------------===//

/// Number of orders in row `e` of `keys`, columns [first, last), that are at least `least`.
static Value emitCount(KernelBuilder &b, Value keys, Value e, Value first, Value last,
                       Value least) {
  return b.forLoop(first, last, b.index(1), {b.i32(0)}, [&](Value t, ValueRange carried) {
    Value reached = b.compare(arith::CmpIPredicate::sge, b.load(keys, {e, t}), least);
    return SmallVector<Value>{b.add(
        carried[0], arith::ExtUIOp::create(b, b.getLoc(), b.getI32Type(), reached).getResult())};
  })[0];
}

/// The largest order that at least `capacity` keys reach, by bisection over its 32 bits;
/// that of nothing when there are fewer keys.
static Value emitThreshold(KernelBuilder &b, Value keys, Value e, Value first, Value last,
                           Value capacity) {
  // Bits from the highest down, in the order of unsigned numbers.
  Value flip = b.i32(kNeverTaken);
  return b.fold(b.index(32), b.i32(kNeverTaken), [&](Value step, Value least) {
    Value bit = arith::ShLIOp::create(b, b.getLoc(), b.i32(1), b.sub(b.i32(31), b.toI32(step)));
    Value position = arith::XOrIOp::create(b, b.getLoc(), least, flip);
    Value raised = arith::XOrIOp::create(b, b.getLoc(), b.either(position, bit), flip);
    Value count = emitCount(b, keys, e, first, last, raised);
    return b.select(b.compare(arith::CmpIPredicate::sge, count, capacity), raised, least);
  });
}

/// Leaves expert `e` its `capacity` largest keys of the tokens [first, last), of equals
/// those of the lower tokens; the others can no longer be taken.
static void emitTakeTokens(KernelBuilder &b, Value keys, Value e, Value first, Value last,
                           Value capacity) {
  Value least = emitThreshold(b, keys, e, first, last, capacity);
  Value above = b.i32(0);
  // The largest order has none above it, and adding one to it would overflow.
  Value next = b.select(b.equal(least, b.i32(kLargestOrder)), least, b.add(least, b.i32(1)));
  above = b.select(b.equal(next, least), above, emitCount(b, keys, e, first, last, next));
  b.forLoop(first, last, b.index(1), {b.sub(capacity, above)}, [&](Value t, ValueRange carried) {
    Value key = b.load(keys, {e, t}), room = carried[0];
    Value equal = b.equal(key, least);
    Value fits = b.less(b.i32(0), room);
    Value stays = b.either(b.less(least, key), b.both(equal, fits));
    b.store(b.select(stays, key, b.i32(kNeverTaken)), keys, {e, t});
    return SmallVector<Value>{b.select(equal, b.sub(room, b.i32(1)), room)};
  });
}

void Lowering::selectByExpert(KernelBuilder &b, SelectOp op, const RoutingBuffers &routing,
                              Value group, Value capacity) {
  int64_t experts = op.getRouting().getType().getExperts();
  Value byExpert = allocate(b, {ShapedType::kDynamic, ShapedType::kDynamic}, i32(),
                            {b.index(experts), routing.tokens});
  kernel(b, op, "keys",
         {buffer(b, op.getKey()), buffer(b, op.getBias()), buffer(b, op.getTokenMask()),
          buffer(b, op.getExpertMask()), byExpert},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value key = args[0], tokenMask = args[2], byExpert = args[4];
           b.forTokens(b.dim(key, 0), [&](Value token) {
             Keys keys(b, experts, /*higherFirst=*/false);
             emitKeys(b, op, keys, token, key, args[1], args[3]);
             Value allowed = tokenMask ? b.load(tokenMask, token) : b.boolean(true);
             b.forLoop(b.index(experts), [&](Value e) {
               Value order = b.select(allowed, b.load(keys.buffer, e), b.i32(kNeverTaken));
               b.store(order, byExpert, {e, token});
             });
           });
         });
  kernel(b, op, "tokens", {byExpert, group, capacity}, [&](KernelBuilder &b, ArrayRef<Value> args) {
    Value byExpert = args[0], group = args[1], capacity = b.toI32(args[2]);
    Value tokens = b.dim(byExpert, 1), count = b.index(experts);
    b.parallelLoop(b.mul(b.ceilDiv(tokens, group), count), [&](Value task) {
      Value e = arith::RemUIOp::create(b, b.getLoc(), task, count);
      Value number = arith::DivUIOp::create(b, b.getLoc(), task, count);
      Value first = b.mul(number, group);
      emitTakeTokens(b, byExpert, e, first, b.min(b.add(first, group), tokens), capacity);
    });
  });
  kernel(b, op, "slots", {byExpert, routing.experts}, [&](KernelBuilder &b, ArrayRef<Value> args) {
    Value byExpert = args[0], ids = args[1];
    b.forTokens(b.dim(ids, 0), [&](Value token) {
      Keys keys(b, experts, /*higherFirst=*/false);
      keys.clear();
      b.forLoop(b.index(experts), [&](Value e) {
        b.store(b.load(byExpert, {e, token}), keys.buffer, e);
      });
      keys.take(experts, {}, [&](Value slot, Value expert, Value, ValueRange) {
        b.store(expert, ids, {token, slot});
        return SmallVector<Value>();
      });
    });
  });
}

LogicalResult Lowering::lowerOp(SelectOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  Value tokens = numTokens(b, op.getKey());
  RoutingType type = op.getRouting().getType();
  if (op.getMode() == SelectMode::ExpertTopK) {
    Value group = groupSize(b, op.getGroupSize(), tokens);
    Value capacity = emitCapacity(b, *op.getCapacity(), group, type.getExperts(), type.getK());
    Value bound = capacityBound(b, op.getGroupSize(), group, tokens, capacity, type.getExperts());
    RoutingBuffers routing = newRouting(b, op.getRouting(), tokens, bound);
    selectByExpert(b, op, routing, group, capacity);
    return success();
  }
  RoutingBuffers routing = newRouting(b, op.getRouting(), tokens);
  bool isWhole = op.getMode() == SelectMode::All || op.getMode() == SelectMode::TopK;
  routings[op.getRouting()].full = isWhole && !op.isMasked();
  if (op.getMode() == SelectMode::All)
    selectAll(b, op, routing.experts);
  else
    selectByToken(b, op, routing.experts);
  return success();
}

LogicalResult Lowering::lowerOp(GivenOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingType type = op.getRouting().getType();
  RoutingBuffers routing = newRouting(b, op.getRouting(), numTokens(b, op.getIds()));
  kernel(b, op, "given", {buffer(b, op.getIds()), routing.experts},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value given = args[0], ids = args[1];
           b.forTokens(b.dim(ids, 0), [&](Value token) {
             b.forLoop(b.index(type.getK()), [&](Value slot) {
               Value id = emitId(b, given, {token, slot}, type.getExperts());
               Value seen = b.fold(slot, b.boolean(false), [&](Value lower, Value seen) {
                 return b.either(seen, b.equal(b.load(ids, {token, lower}), id));
               });
               b.store(b.select(seen, b.i32(-1), id), ids, {token, slot});
             });
           });
         });
  return success();
}

Value mlir::moe::cpu::emitId(KernelBuilder &b, Value ids, ValueRange at, int64_t experts) {
  Value id = b.load(ids, at);
  Type type = id.getType();
  auto constant = [&](int64_t value) {
    return arith::ConstantIntOp::create(b, b.getLoc(), type, value).getResult();
  };
  // As unsigned numbers, negative ids are too large.
  Value exists = b.compare(arith::CmpIPredicate::ult, id, constant(experts));
  id = b.select(exists, id, constant(-1));
  return type.isInteger(32)
             ? id
             : arith::TruncIOp::create(b, b.getLoc(), b.getI32Type(), id).getResult();
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.capacity: who gets room at an expert.

#include "Keys.h"
#include "Lowering.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr int64_t kDynamic = ShapedType::kDynamic;

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

Value Lowering::groupSize(KernelBuilder &b, Value given, Value tokens) {
  auto atLeastOne = [&](Value n) { return b.createOrFold<arith::MaxSIOp>(n, b.index(1)); };
  if (!given)
    return atLeastOne(tokens);
  Value size = atLeastOne(given);
  Value rest = arith::RemSIOp::create(b, b.getLoc(), tokens, size);
  Value fits = b.both(b.equal(rest, b.index(0)), b.equal(size, given));
  // No tokens fit any size: groups of a [0, 0] batch are empty.
  fits = b.either(fits, b.equal(tokens, b.index(0)));
  CheckOp::create(b, b.getLoc(), fits, "the number of tokens is not a multiple of group_size");
  return size;
}

Value Lowering::emitCapacity(KernelBuilder &b, CapacityAttr capacity, Value tokens, int64_t experts,
                             int64_t k) {
  auto constant = [&](double value) {
    return arith::ConstantOp::create(b, b.getLoc(), b.getF64FloatAttr(value)).getResult();
  };
  auto factor = [&](const CapacityTerm &term) -> Value {
    switch (term.kind) {
    case CapacityTerm::Number:
      return constant(term.number);
    case CapacityTerm::Tokens: {
      Value integer = b.createOrFold<arith::IndexCastOp>(b.getI64Type(), tokens);
      return arith::SIToFPOp::create(b, b.getLoc(), b.getF64Type(), integer);
    }
    case CapacityTerm::Experts:
      return constant(double(experts));
    case CapacityTerm::K:
      return constant(double(k));
    }
    llvm_unreachable("all factors are handled");
  };
  Value value = constant(1);
  for (const CapacityTerm &term : capacity.getTerms())
    value = term.divides ? b.divf(value, factor(term)) : b.mulf(value, factor(term));
  // As CapacityAttr::evaluate: no more than 2^31-1, which is always enough; 0/0 is 0.
  value =
      arith::MinNumFOp::create(b, b.getLoc(), value, constant(std::numeric_limits<int32_t>::max()));
  switch (capacity.getRound()) {
  case CapacityRound::Floor:
    value = math::FloorOp::create(b, b.getLoc(), value);
    break;
  case CapacityRound::Ceil:
    value = math::CeilOp::create(b, b.getLoc(), value);
    break;
  case CapacityRound::Nearest:
    value = math::RoundEvenOp::create(b, b.getLoc(), value);
    break;
  }
  Value integer = arith::FPToSIOp::create(b, b.getLoc(), b.getI64Type(), value);
  Value rounded = b.createOrFold<arith::IndexCastOp>(b.getIndexType(), integer);
  Value room = b.createOrFold<arith::MaxSIOp>(b.mul(rounded, capacity.getTimes()),
                                              b.index(capacity.getMin()));
  room = b.mul(b.ceilDiv(room, capacity.getMultiple()), capacity.getMultiple());
  // Kernels count in 32 bits.
  return b.min(room, b.index(std::numeric_limits<int32_t>::max()));
}

/// Whether `value` is arithmetic on sizes of tensors, so that memory can be planned by it.
static bool isShapeArithmetic(Value value) {
  Operation *op = value.getDefiningOp();
  if (!op)
    return false;
  if (isa<tensor::DimOp>(op))
    return true;
  return isPure(op) && op->getNumRegions() == 0 &&
         llvm::all_of(op->getOperands(), [](Value operand) {
           return operand.getType().isIntOrIndexOrFloat() && isShapeArithmetic(operand);
         });
}

Value Lowering::capacityBound(KernelBuilder &b, Value given, Value group, Value tokens,
                              Value capacity, int64_t experts) {
  if (given && !isShapeArithmetic(given))
    return Value();
  return b.mul(b.mul(b.ceilDiv(tokens, group), capacity), experts);
}

//===----------------------------------------------------------------------===//
// Sorting
//===----------------------------------------------------------------------===//

/// Sorts the numbers in order[first, last) by falling key, stable: four passes over the
/// bytes of the keys' orders, from the lowest. `spare` is as large as `order`.
static void emitSort(KernelBuilder &b, Value keys, Value order, Value spare, Value first,
                     Value last) {
  Value starts = b.stack(256, b.getI32Type());
  Value from = order, to = spare;
  // Falling, and in the order of unsigned numbers: all bits but the sign flipped.
  Value flip = b.i32(std::numeric_limits<int32_t>::max());
  for (int64_t shift = 0; shift < 32; shift += 8) {
    auto bucketOf = [&](Value number) {
      Value bits = arith::XOrIOp::create(b, b.getLoc(), b.load(keys, b.toIndex(number)), flip);
      bits = arith::ShRUIOp::create(b, b.getLoc(), bits, b.i32(shift));
      return b.toIndex(b.both(bits, b.i32(255)));
    };
    b.forLoop(b.index(256), [&](Value i) { b.store(b.i32(0), starts, i); });
    b.forLoop(first, last, b.index(1),
              [&](Value i) { b.increment(starts, bucketOf(b.load(from, i))); });
    b.fold(b.index(256), b.toI32(first), [&](Value i, Value start) {
      Value count = b.load(starts, i);
      b.store(start, starts, i);
      return b.add(start, count);
    });
    b.forLoop(first, last, b.index(1), [&](Value i) {
      Value number = b.load(from, i);
      Value place = b.increment(starts, bucketOf(number));
      b.store(number, to, b.toIndex(place));
    });
    std::swap(from, to);
  }
}

//===----------------------------------------------------------------------===//
// moe.capacity
//===----------------------------------------------------------------------===//

namespace {
/// Buffers of one moe.capacity inside of its kernel.
struct CapacityKernel {
  KernelBuilder &b;
  int64_t experts, k, kept;
  Value ids;      ///< i32 [T,k]
  Value accepted; ///< i32 [T,k]: 1 for the entries that stay.
  Value held;     ///< i32 [T]: entries of a token that stay.
  Value capacity; ///< i32
  Value counts;   ///< i32 [E] on the stack

  void start();
  /// An entry asks for room.
  void ask(Value token, Value slot);
};
} // namespace

void CapacityKernel::start() {
  counts = b.stack(experts, b.getI32Type());
  b.forLoop(b.index(experts), [&](Value e) { b.store(b.i32(0), counts, e); });
}

void CapacityKernel::ask(Value token, Value slot) {
  Value id = b.load(ids, {token, slot});
  b.ifThen(b.isValid(id), [&] {
    Value e = b.toIndex(id);
    Value fits = b.less(b.load(counts, e), capacity);
    if (kept < k)
      fits = b.both(fits, b.less(b.load(held, token), b.i32(kept)));
    b.ifThen(fits, [&] {
      b.increment(counts, e);
      b.increment(held, token);
      b.store(b.i32(1), accepted, {token, slot});
    });
  });
}

/// Orders of the priorities: of each entry (number t·k + slot), or of each token, the
/// largest of its entries.
void Lowering::priorityKeys(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                            const CapacityForm &form, Value priority, Value keys, Value order) {
  bool perEntry = form.order == CapacityOrder::PerExpert;
  int64_t k = form.k;
  kernel(
      b, op, "keys", {routing.experts, priority, priority ? Value() : routing.weights, keys, order},
      [&](KernelBuilder &b, ArrayRef<Value> args) {
        Value ids = args[0], priority = args[1], weights = args[2], keys = args[3], order = args[4];
        b.forTokens(b.dim(ids, 0), [&](Value token) {
          auto keyOf = [&](Value slot) {
            Value id = b.load(ids, {token, slot});
            return b.branch(
                b.isValid(id),
                [&] {
                  Value v = priority ? b.loadF32(priority, {token, b.toIndex(id)})
                                     : b.load(weights, {token, slot});
                  return emitOrder(b, v);
                },
                [&] { return b.i32(kNeverTaken); });
          };
          auto put = [&](Value number, Value key) {
            b.store(key, keys, number);
            b.store(b.toI32(number), order, number);
          };
          if (perEntry)
            return b.forLoop(b.index(k),
                             [&](Value slot) { put(b.add(b.mul(token, k), slot), keyOf(slot)); });
          put(token, b.fold(b.index(k), b.i32(kNeverTaken), [&](Value slot, Value largest) {
            return arith::MaxSIOp::create(b, b.getLoc(), largest, keyOf(slot)).getResult();
          }));
        });
      });
}

/// Marks the entries that stay.
void Lowering::accept(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                      const CapacityForm &form, Value priority, Value group, Value capacity,
                      Value accepted) {
  int64_t k = form.k;
  bool perEntry = form.order == CapacityOrder::PerExpert;
  Value held = allocate(b, kDynamic, i32(), routing.tokens);
  Value keys, order, spare;
  if (perEntry || form.order == CapacityOrder::BPR) {
    Value numbers = perEntry ? b.mul(routing.tokens, k) : routing.tokens;
    keys = allocate(b, kDynamic, i32(), numbers);
    order = allocate(b, kDynamic, i32(), numbers);
    spare = allocate(b, kDynamic, i32(), numbers);
    priorityKeys(b, op, routing, form, priority, keys, order);
  }
  kernel(b, op, "accept", {routing.experts, accepted, held, group, capacity, keys, order, spare},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value ids = args[0], accepted = args[1], held = args[2], group = args[3];
           Value keys = args[5], order = args[6], spare = args[7];
           CapacityKernel kernel = {b,    form.experts,     k,      form.kept, ids, accepted,
                                    held, b.toI32(args[4]), Value()};
           Value tokens = b.dim(ids, 0), slots = b.index(k);
           b.forTokens(tokens, [&](Value token) {
             b.store(b.i32(0), held, token);
             b.forLoop(slots, [&](Value slot) { b.store(b.i32(0), accepted, {token, slot}); });
           });
           b.parallelLoop(b.ceilDiv(tokens, group), [&](Value number) {
             Value first = b.mul(number, group), last = b.min(b.add(first, group), tokens);
             kernel.start();
             auto forTokens = [&](function_ref<void(Value)> body) {
               b.forLoop(first, last, b.index(1), body);
             };
             switch (form.order) {
             case CapacityOrder::Token:
               return forTokens([&](Value token) {
                 b.forLoop(slots, [&](Value slot) { kernel.ask(token, slot); });
               });
             case CapacityOrder::Choice:
               return b.forLoop(slots, [&](Value slot) {
                 forTokens([&](Value token) { kernel.ask(token, slot); });
               });
             case CapacityOrder::BPR:
               emitSort(b, keys, order, spare, first, last);
               return b.forLoop(slots, [&](Value slot) {
                 forTokens([&](Value i) { kernel.ask(b.loadIndex(order, i), slot); });
               });
             case CapacityOrder::PerExpert:
               emitSort(b, keys, order, spare, b.mul(first, k), b.mul(last, k));
               return b.forLoop(b.mul(first, k), b.mul(last, k), b.index(1), [&](Value i) {
                 Value entry = b.loadIndex(order, i);
                 kernel.ask(arith::DivUIOp::create(b, b.getLoc(), entry, slots),
                            arith::RemUIOp::create(b, b.getLoc(), entry, slots));
               });
             }
           });
         });
}

RoutingBuffers Lowering::limit(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                               const CapacityForm &form, Value priority, Value group, Value given) {
  Value capacity = emitCapacity(b, form.capacity, group, form.experts, form.k);
  Value accepted = allocate(b, {kDynamic, form.k}, i32(), routing.tokens);
  accept(b, op, routing, form, priority, group, capacity, accepted);

  RoutingBuffers result = routing;
  result.full = false;
  result.bound = b.min(routing.bound, b.mul(routing.tokens, form.kept));
  if (Value bound = capacityBound(b, given, group, routing.tokens, capacity, form.experts))
    result.bound = b.min(result.bound, bound);
  result.experts = allocate(b, {kDynamic, form.kept}, i32(), routing.tokens);
  if (routing.weights)
    result.weights = allocate(b, {kDynamic, form.kept}, f32(), routing.tokens);
  kernel(b, op, "compact",
         {routing.experts, routing.weights, accepted, result.experts, result.weights},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value accepted = args[2];
           b.forTokens(b.dim(accepted, 0), [&](Value token) {
             TokenSlots out(b, args[3], args[4], token, form.kept);
             b.forLoop(b.index(form.k), [&](Value slot) {
               Value stays = b.equal(b.load(accepted, {token, slot}), b.i32(1));
               b.ifThen(stays, [&] {
                 Value weight = args[1] ? b.load(args[1], {token, slot}) : Value();
                 out.append(b.load(args[0], {token, slot}), weight);
               });
             });
             out.finish();
           });
         });
  return result;
}

LogicalResult Lowering::lowerOp(CapacityOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers routing = routingOf(op.getRouting());
  RoutingType type = op.getRouting().getType();
  Value group = groupSize(b, op.getGroupSize(), routing.tokens);
  CapacityForm form = {op.getCapacity(), op.getOrder(), type.getExperts(), type.getK(),
                       op.getKept()};
  routings[op.getResult()] =
      limit(b, op, routing, form, buffer(b, op.getPriority()), group, op.getGroupSize());
  return success();
}

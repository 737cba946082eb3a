// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Keys.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static Type integerLike(KernelBuilder &b, Type type) {
  if (auto vector = dyn_cast<VectorType>(type))
    return vector.clone(b.getI32Type());
  return b.getI32Type();
}

static Value constantLike(KernelBuilder &b, Type type, int32_t value) {
  if (auto vector = dyn_cast<VectorType>(type))
    return arith::ConstantOp::create(b, b.getLoc(), DenseElementsAttr::get(vector, value));
  return b.i32(value);
}

/// Negative floats are ordered backwards: flip their magnitude. Its own inverse.
static Value flipNegative(KernelBuilder &b, Value bits) {
  Type type = bits.getType();
  Value sign = arith::ShRSIOp::create(b, b.getLoc(), bits, constantLike(b, type, 31));
  Value magnitude = b.both(sign, constantLike(b, type, std::numeric_limits<int32_t>::max()));
  return arith::XOrIOp::create(b, b.getLoc(), bits, magnitude);
}

Value mlir::moe::cpu::emitOrder(KernelBuilder &b, Value key) {
  // Adding zero makes -0.0 to 0.0.
  Value sum = b.addf(key, b.like(key, 0.0));
  Type type = integerLike(b, key.getType());
  Value order = flipNegative(b, arith::BitcastOp::create(b, b.getLoc(), type, sum));
  Value isNaN = b.compare(arith::CmpFPredicate::UNO, key, key);
  return b.select(isNaN, constantLike(b, type, std::numeric_limits<int32_t>::max()), order);
}

Value mlir::moe::cpu::emitUnorder(KernelBuilder &b, Value order) {
  return arith::BitcastOp::create(b, b.getLoc(), b.getF32Type(), flipNegative(b, order));
}

Keys::Keys(KernelBuilder &b, int64_t size, bool higherFirst, bool inRegisters)
    : b(b), padded(llvm::alignTo(size, b.target.lanes)), higherFirst(higherFirst),
      type(b.vectorType(b.getI32Type())) {
  if (!inRegisters)
    buffer = b.stack(padded, b.getI32Type());
}

void Keys::clear() {
  b.forVectors(padded, [&](Value i, int64_t) {
    vector::StoreOp::create(b, b.getLoc(), b.splatI32(kNeverTaken), buffer, i);
  });
}

void Keys::set(Value i, int64_t count, Value key) {
  Value order = emitOrder(b, key);
  if (count < b.target.lanes) {
    Value exists = vector::ConstantMaskOp::create(b, b.getLoc(), b.vectorType(b.getI1Type()),
                                                  DenseI64ArrayAttr::get(b.getContext(), {count}));
    order = b.select(exists, order, constantLike(b, type, kNeverTaken));
  }
  if (buffer)
    vector::StoreOp::create(b, b.getLoc(), order, buffer, i);
  else
    registers.push_back(order);
}

Value Keys::numbersAt(Value i) {
  SmallVector<int32_t> lanes = llvm::to_vector(llvm::seq<int32_t>(0, b.target.lanes));
  Value lane = arith::ConstantOp::create(b, b.getLoc(),
                                         DenseElementsAttr::get(type, ArrayRef<int32_t>(lanes)));
  Value first = vector::BroadcastOp::create(b, b.getLoc(), type, b.toI32(i));
  return b.add(first, lane);
}

std::pair<Value, Value> Keys::largest(ArrayRef<Value> registers) {
  auto isLarger = higherFirst ? arith::CmpIPredicate::sge : arith::CmpIPredicate::sgt;
  int32_t noNumber = higherFirst ? -1 : std::numeric_limits<int32_t>::max();
  Value none = constantLike(b, type, noNumber);
  // The best of each lane, the first (or last) of equals.
  auto step = [&](Value order, Value numbers, Value best, Value which) -> SmallVector<Value> {
    Value better = b.compare(isLarger, order, best);
    return {b.select(better, order, best), b.select(better, numbers, which)};
  };
  SmallVector<Value> best = {constantLike(b, type, kNeverTaken), none};
  if (buffer)
    best = b.forLoop(b.index(0), b.index(padded), b.index(b.target.lanes), best,
                     [&](Value i, ValueRange carried) {
                       Value order = vector::LoadOp::create(b, b.getLoc(), type, buffer, i);
                       return step(order, numbersAt(i), carried[0], carried[1]);
                     });
  for (auto [i, order] : llvm::enumerate(registers))
    best = step(order, numbersAt(b.index(i * b.target.lanes)), best[0], best[1]);
  auto reduce = [&](vector::CombiningKind kind, Value vector) {
    return vector::ReductionOp::create(b, b.getLoc(), kind, vector).getResult();
  };
  Value order = reduce(vector::CombiningKind::MAXSI, best[0]);
  Value splat = vector::BroadcastOp::create(b, b.getLoc(), type, order);
  Value numbers = b.select(b.equal(best[0], splat), best[1], none);
  Value number =
      reduce(higherFirst ? vector::CombiningKind::MAXSI : vector::CombiningKind::MINSI, numbers);
  Value exists = b.compare(arith::CmpIPredicate::ne, order, b.i32(kNeverTaken));
  return {b.select(exists, number, b.i32(-1)), order};
}

void Keys::removeTaken(Value number, MutableArrayRef<Value> registers) {
  if (buffer) {
    // When no key is left, the first one is not either.
    Value at = arith::MaxSIOp::create(b, b.getLoc(), number, b.i32(0));
    return remove(b.toIndex(at));
  }
  Value taken = vector::BroadcastOp::create(b, b.getLoc(), type, number);
  for (auto [i, order] : llvm::enumerate(registers)) {
    Value isTaken = b.equal(numbersAt(b.index(i * b.target.lanes)), taken);
    order = b.select(isTaken, constantLike(b, type, kNeverTaken), order);
  }
}

SmallVector<Value>
Keys::take(int64_t rounds, ValueRange init,
           function_ref<SmallVector<Value>(Value, Value, Value, ValueRange)> body) {
  SmallVector<Value> carried(init);
  llvm::append_range(carried, registers);
  SmallVector<Value> results = b.forLoop(
      b.index(0), b.index(rounds), b.index(1), carried, [&](Value round, ValueRange carried) {
        SmallVector<Value> left(carried.drop_front(init.size()));
        auto [number, order] = largest(left);
        SmallVector<Value> next = body(round, number, order, carried.take_front(init.size()));
        removeTaken(number, left);
        llvm::append_range(next, left);
        return next;
      });
  results.resize(init.size());
  return results;
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.weigh.

#include "Weigh.h"
#include "Lowering.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();

//===----------------------------------------------------------------------===//
// TokenWeights
//===----------------------------------------------------------------------===//

TokenWeights::TokenWeights(KernelBuilder &b, const WeighOptions &options, int64_t k)
    : b(b), options(options), padded(llvm::alignTo(k, b.target.lanes)),
      values(b.stack(padded, b.getF32Type())), entries(b.stack(padded, b.getI32Type())) {}

void TokenWeights::clear() {
  b.forVectors(padded, [&](Value i, int64_t) {
    b.storeVector(b.splat(0.0), values, i, b.target.lanes);
    vector::StoreOp::create(b, b.getLoc(), b.splatI32(0), entries, i);
  });
}

void TokenWeights::set(Value slot, Value value) {
  b.store(value, values, slot);
  b.store(b.i32(1), entries, slot);
}

Value TokenWeights::present(Value i) {
  Value entry = vector::LoadOp::create(b, b.getLoc(), b.vectorType(b.getI32Type()), entries, i);
  return b.compare(arith::CmpIPredicate::ne, entry, b.splatI32(0));
}

void TokenWeights::transform(function_ref<Value(Value)> f) {
  b.forVectors(padded, [&](Value i, int64_t) {
    Value result = b.select(present(i), f(b.loadVector(values, i)), b.splat(0.0));
    b.storeVector(result, values, i, b.target.lanes);
  });
}

Value TokenWeights::sum(function_ref<Value(Value)> f) {
  Value sums = b.foldVectors(padded, b.splat(0.0), [&](Value i, int64_t, Value sum) {
    return b.addf(sum, b.select(present(i), f(b.loadVector(values, i)), b.splat(0.0)));
  });
  return emitReduction(b, vector::CombiningKind::ADD, sums);
}

void TokenWeights::softmax() {
  Value maxima = b.foldVectors(padded, b.splat(-kInfinity), [&](Value i, int64_t, Value max) {
    return b.maxNumber(max, b.select(present(i), b.loadVector(values, i), b.splat(-kInfinity)));
  });
  Value maximum = b.splat(emitReduction(b, vector::CombiningKind::MAXNUMF, maxima));
  transform([&](Value v) { return b.exp(b.subf(v, maximum)); });
  Value total = b.splat(sum([](Value v) { return v; }));
  transform([&](Value v) { return b.divf(v, total); });
}

void TokenWeights::normalize() {
  auto same = [](Value v) { return v; };
  // w / divisor, and 0 where it is 0.
  auto divide = [&](Value divisor) {
    Value isZero = b.compare(arith::CmpFPredicate::OEQ, divisor, b.f32(0.0));
    Value zero = vector::BroadcastOp::create(b, b.getLoc(), b.vectorType(b.getI1Type()), isZero);
    Value splat = b.splat(divisor);
    transform([&](Value v) { return b.select(zero, b.splat(0.0), b.divf(v, splat)); });
  };
  switch (options.norm) {
  case WeighNorm::None:
    return;
  case WeighNorm::Sum:
    return divide(b.addf(sum(same), b.f32(options.normEps)));
  case WeighNorm::Clamp:
    return divide(arith::MaximumFOp::create(b, b.getLoc(), sum(same), b.f32(options.normEps)));
  case WeighNorm::Count: {
    Value count = sum([&](Value) { return b.splat(1.0); });
    return divide(b.maxNumber(count, b.f32(1.0)));
  }
  case WeighNorm::PNorm:
    break;
  }
  double p = options.normP;
  if (p == 1)
    return divide(sum([&](Value v) { return b.abs(v); }));
  if (p == 2)
    return divide(math::SqrtOp::create(b, b.getLoc(), sum([&](Value v) { return b.mulf(v, v); })));
  // Scalar: the polynomials of vectors are not accurate enough for powers.
  Value total = b.fold(b.index(padded), b.f32(0.0), [&](Value slot, Value sum) {
    Value isEntry = b.compare(arith::CmpIPredicate::ne, b.load(entries, slot), b.i32(0));
    Value power =
        math::PowFOp::create(b, b.getLoc(), b.abs(b.load(values, slot)), b.f32(p)).getResult();
    return b.addf(sum, b.select(isEntry, power, b.f32(0.0)));
  });
  divide(math::PowFOp::create(b, b.getLoc(), total, b.f32(1 / p)));
}

void TokenWeights::weigh() {
  if (options.fn == WeighFn::Softmax)
    softmax();
  if (options.fn == WeighFn::Sigmoid)
    transform([&](Value v) { return b.sigmoid(v); });
  normalize();
  if (options.scale != 1.0)
    transform([&](Value v) { return b.mulf(v, b.splat(options.scale)); });
}

//===----------------------------------------------------------------------===//
// MaskedSoftmax
//===----------------------------------------------------------------------===//

MaskedSoftmax::MaskedSoftmax(KernelBuilder &b, const WeighOptions &options, int64_t experts)
    : b(b), options(options), padded(llvm::alignTo(experts, b.target.lanes)),
      sources(b.stack(padded, b.getF32Type())), free(b.stack(padded, b.getI32Type())) {}

void MaskedSoftmax::set(Value i, int64_t count, Value source) {
  b.storeVector(source, sources, i, b.target.lanes);
  Value exists = count < b.target.lanes ? b.firstLanesI32(count) : b.splatI32(1);
  vector::StoreOp::create(b, b.getLoc(), exists, free, i);
}

Value MaskedSoftmax::take(Value expert) {
  auto isFree = [&](Value i) {
    Value flags = vector::LoadOp::create(b, b.getLoc(), b.vectorType(b.getI32Type()), free, i);
    return b.compare(arith::CmpIPredicate::ne, flags, b.splatI32(0));
  };
  Value maxima = b.foldVectors(padded, b.splat(-kInfinity), [&](Value i, int64_t, Value max) {
    return b.maxNumber(max, b.select(isFree(i), b.loadVector(sources, i), b.splat(-kInfinity)));
  });
  Value largest = b.splat(emitReduction(b, vector::CombiningKind::MAXNUMF, maxima));
  Value sums = b.foldVectors(padded, b.splat(0.0), [&](Value i, int64_t, Value sum) {
    Value s = b.loadVector(sources, i);
    Value factor = arith::MaximumFOp::create(b, b.getLoc(), b.abs(s), largest);
    Value bound = b.mulf(factor, b.splat(2 * options.eps));
    // "Not greater" keeps NaN, so that a NaN value gives a NaN weight.
    Value near = b.compare(arith::CmpFPredicate::ULE, b.subf(largest, s), bound);
    Value term = b.exp(b.subf(s, largest));
    return b.addf(sum, b.select(b.both(isFree(i), near), term, b.splat(0.0)));
  });
  Value total = emitReduction(b, vector::CombiningKind::ADD, sums);
  b.store(b.i32(0), free, expert);
  return b.divf(b.f32(1.0), total);
}

//===----------------------------------------------------------------------===//
// moe.weigh
//===----------------------------------------------------------------------===//

LogicalResult Lowering::lowerOp(WeighOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers routing = routingOf(op.getRouting());
  RoutingType type = op.getRouting().getType();
  int64_t k = type.getK(), experts = type.getExperts();
  Value before = op.getSource() ? Value() : routing.weights;
  routing.weights = allocate(b, {ShapedType::kDynamic, k}, f32(), routing.tokens);
  routings[op.getResult()] = routing;
  WeighOptions options = WeighOptions::of(op);
  kernel(b, op, "weigh",
         {routing.experts, before, buffer(b, op.getSource()), buffer(b, op.getBias()),
          buffer(b, op.getExpertScale()), routing.weights},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value ids = args[0], before = args[1], source = args[2], bias = args[3], scale = args[4],
                 weights = args[5];
           b.forTokens(b.dim(ids, 0), [&](Value token) {
             TokenWeights slots(b, options, k);
             slots.clear();
             std::optional<MaskedSoftmax> mixer;
             if (options.fn == WeighFn::MaskedSoftmax) {
               mixer.emplace(b, options, experts);
               b.forVectors(experts, [&](Value i, int64_t count) {
                 Value v = b.loadVectorPart(source, {token, i}, count, 0.0);
                 if (bias)
                   v = b.addf(v, b.loadVectorPart(bias, i, count, 0.0));
                 mixer->set(i, count, v);
               });
             }
             auto value = [&](Value slot, Value expert) -> Value {
               if (before)
                 return b.load(before, {token, slot});
               if (mixer)
                 return mixer->take(expert);
               Value v = b.loadF32(source, {token, expert});
               return bias ? b.addf(v, b.loadF32(bias, expert)) : v;
             };
             auto forEntries = [&](function_ref<void(Value, Value)> body) {
               b.forLoop(b.index(k), [&](Value slot) {
                 Value expert = b.load(ids, {token, slot});
                 b.ifThen(b.isValid(expert), [&] { body(slot, b.toIndex(expert)); });
               });
             };
             forEntries([&](Value slot, Value expert) { slots.set(slot, value(slot, expert)); });
             slots.weigh();
             b.forLoop(b.index(k), [&](Value slot) {
               b.store(slots.get(slot), weights, {token, slot});
             });
             if (scale)
               forEntries([&](Value slot, Value expert) {
                 Value w = b.mulf(slots.get(slot), b.loadF32(scale, expert));
                 b.store(w, weights, {token, slot});
               });
           });
         });
  return success();
}

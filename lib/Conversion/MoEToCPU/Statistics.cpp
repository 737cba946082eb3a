// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.aux and moe.bias_update. Sums over tokens are made in f64, in the order of the
// tokens.

#include "Keys.h"
#include "Lowering.h"
#include "moec/Support/Unsupported.h"

#include "moec/Support/Unsupported.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();

//===----------------------------------------------------------------------===//
// Sums in f64
//===----------------------------------------------------------------------===//

static Value f64(KernelBuilder &b, double value) {
  return arith::ConstantOp::create(b, b.getLoc(), b.getF64FloatAttr(value));
}

static Value toF64(KernelBuilder &b, Value value) {
  if (isa<IntegerType>(value.getType()))
    return arith::SIToFPOp::create(b, b.getLoc(), b.getF64Type(), value);
  if (value.getType().isIndex())
    return toF64(b, b.createOrFold<arith::IndexCastOp>(b.getI64Type(), value));
  return arith::ExtFOp::create(b, b.getLoc(), b.getF64Type(), value);
}

static Value fromF64(KernelBuilder &b, Value value) {
  return arith::TruncFOp::create(b, b.getLoc(), b.getF32Type(), value);
}

/// A sum for each expert, on the stack.
static Value zeroSums(KernelBuilder &b, int64_t experts) {
  Value sums = b.stack(experts, b.getF64Type());
  b.forLoop(b.index(experts), [&](Value e) { b.store(f64(b, 0), sums, e); });
  return sums;
}

static void addTo(KernelBuilder &b, Value sums, Value e, Value value) {
  b.store(b.addf(b.load(sums, e), value), sums, e);
}

static Value sumOf(KernelBuilder &b, Value values, int64_t count) {
  return b.fold(b.index(count), f64(b, 0),
                [&](Value i, Value sum) { return b.addf(sum, b.load(values, i)); });
}

/// sum / count, and 0 when there is nothing.
static Value meanOf(KernelBuilder &b, Value sum, Value count) {
  Value divisor = b.createOrFold<arith::MaxSIOp>(count, b.index(1));
  return b.divf(sum, toF64(b, divisor));
}

/// variance / (mean² + 1e-10) of the values of all experts.
static Value squaredVariation(KernelBuilder &b, Value values, int64_t experts) {
  Value mean = b.divf(sumOf(b, values, experts), f64(b, experts));
  Value squares = b.fold(b.index(experts), f64(b, 0), [&](Value e, Value sum) {
    Value distance = b.subf(b.load(values, e), mean);
    return b.addf(sum, b.mulf(distance, distance));
  });
  return b.divf(b.divf(squares, f64(b, experts)), b.addf(b.mulf(mean, mean), f64(b, 1e-10)));
}

//===----------------------------------------------------------------------===//
// Kinds
//===----------------------------------------------------------------------===//

namespace {
/// Operands of moe.aux inside of its kernel.
struct AuxKernel {
  KernelBuilder &b;
  AuxOp op;
  Value logits, probabilities, ids, weights, group, noisy, deviation, perToken, result;
  int64_t experts, k;

  Value tokens() {
    for (Value v : {probabilities, ids, logits})
      if (v)
        return b.dim(v, 0);
    llvm_unreachable("there is an operand");
  }
  void store(Value value) { b.storeF32(fromF64(b, value), result, {}); }
  /// `body(token, expert)` for every entry; of slot 0 only, or of all slots.
  void forEntries(Value first, Value last, bool firstSlot, function_ref<void(Value, Value)> body);
  /// Adds the probabilities of the tokens [first, last) to the sums.
  void addProbabilities(Value first, Value last, Value sums);
  void storeMeanOfTokens(function_ref<Value(Value)> value);

  void loadBalance();
  Value groupLoss(Value first, Value last);
  void zLoss();
  void importance();
  void load();
  void tokensPerExpert();
  void meanProbability();
  void entropy();
};
} // namespace

void AuxKernel::forEntries(Value first, Value last, bool firstSlot,
                           function_ref<void(Value, Value)> body) {
  b.forLoop(first, last, b.index(1), [&](Value token) {
    b.forLoop(b.index(firstSlot ? 1 : k), [&](Value slot) {
      Value id = b.load(ids, {token, slot});
      b.ifThen(b.isValid(id), [&] {
        Value at[] = {token, slot};
        body(weights ? b.load(weights, at) : Value(), b.toIndex(id));
      });
    });
  });
}

void AuxKernel::addProbabilities(Value first, Value last, Value sums) {
  b.forLoop(first, last, b.index(1), [&](Value token) {
    b.forLoop(b.index(experts), [&](Value e) {
      addTo(b, sums, e, toF64(b, b.loadF32(probabilities, {token, e})));
    });
  });
}

/// The mean of a value (f32) of each token; the values are computed in parallel.
void AuxKernel::storeMeanOfTokens(function_ref<Value(Value)> value) {
  Value count = tokens();
  b.forTokens(count, [&](Value token) { b.store(value(token), perToken, token); });
  Value sum = b.fold(count, f64(b, 0), [&](Value token, Value sum) {
    return b.addf(sum, toF64(b, b.load(perToken, token)));
  });
  store(meanOf(b, sum, count));
}

/// E · Σ f · P of the tokens [first, last).
Value AuxKernel::groupLoss(Value first, Value last) {
  Value counts = zeroSums(b, experts), sums = zeroSums(b, experts);
  bool firstSlot = op.getFraction().value_or(AuxFraction::All) == AuxFraction::First;
  forEntries(first, last, firstSlot, [&](Value, Value e) { addTo(b, counts, e, f64(b, 1)); });
  addProbabilities(first, last, sums);
  Value products = b.fold(b.index(experts), f64(b, 0), [&](Value e, Value sum) {
    return b.addf(sum, b.mulf(b.load(counts, e), b.load(sums, e)));
  });
  Value size = b.sub(last, first);
  Value loss = b.mulf(meanOf(b, meanOf(b, products, size), size), f64(b, experts));
  return op.getPerSlot() ? b.divf(loss, f64(b, k)) : loss;
}

void AuxKernel::loadBalance() {
  Value count = tokens(), groups = b.ceilDiv(count, group);
  Value sum = b.fold(groups, f64(b, 0), [&](Value number, Value sum) {
    Value first = b.mul(number, group);
    return b.addf(sum, groupLoss(first, b.min(b.add(first, group), count)));
  });
  store(meanOf(b, sum, groups));
}

void AuxKernel::zLoss() {
  storeMeanOfTokens([&](Value token) {
    SoftmaxStatistics softmax = emitSoftmaxStatistics(b, logits, token);
    Value log = math::LogOp::create(b, b.getLoc(), softmax.denominator);
    Value z = b.addf(softmax.maximum, log);
    return b.mulf(z, z);
  });
}

void AuxKernel::importance() {
  Value sums = zeroSums(b, experts);
  Value zero = b.index(0);
  if (ids)
    forEntries(zero, tokens(), /*firstSlot=*/false,
               [&](Value weight, Value e) { addTo(b, sums, e, toF64(b, weight)); });
  else
    addProbabilities(zero, tokens(), sums);
  store(squaredVariation(b, sums, experts));
}

void AuxKernel::load() {
  Value sums = zeroSums(b, experts);
  int64_t k = *op.getK();
  bool shazeer = *op.getVariant() == LoadVariant::Shazeer;
  auto at = [&](Value from, Value token, Value i, int64_t count) {
    return b.loadVectorPart(from, {token, i}, count, -kInfinity);
  };
  b.forLoop(tokens(), [&](Value token) {
    Keys keys(b, experts, /*higherFirst=*/false);
    b.forVectors(experts,
                 [&](Value i, int64_t count) { keys.set(i, count, at(noisy, token, i, count)); });
    // The k-th largest of all, and the one after it.
    SmallVector<Value> last =
        keys.take(shazeer ? k + 1 : k, {b.i32(0), b.i32(0)},
                  [&](Value, Value, Value order, ValueRange carried) -> SmallVector<Value> {
                    return {carried[1], order};
                  });
    Value kth = b.splat(emitUnorder(b, shazeer ? last[0] : last[1]));
    Value after = b.splat(emitUnorder(b, last[1]));
    b.forVectors(experts, [&](Value i, int64_t count) {
      Value threshold = kth;
      if (shazeer) {
        // Without an expert of the top k, the k-th largest is the next one.
        Value isTop = b.compare(arith::CmpFPredicate::OGE, at(noisy, token, i, count), kth);
        threshold = b.select(isTop, after, kth);
      }
      Value sigma = cast<MemRefType>(deviation.getType()).getRank() == 2
                        ? b.loadVectorPart(deviation, {token, i}, count, 1.0)
                        : b.splat(b.loadF32(deviation, {}));
      Value z = b.divf(b.subf(b.loadVectorPart(logits, {token, i}, count, 0.0), threshold), sigma);
      Value erf = math::ErfOp::create(b, b.getLoc(), b.mulf(z, b.splat(M_SQRT1_2)));
      Value probability = b.mulf(b.addf(erf, b.splat(1.0)), b.splat(0.5));
      for (int64_t lane = 0; lane < count; ++lane)
        addTo(b, sums, b.add(i, lane),
              toF64(b, vector::ExtractOp::create(b, b.getLoc(), probability, lane)));
    });
  });
  store(squaredVariation(b, sums, experts));
}

void AuxKernel::tokensPerExpert() {
  Value zero = arith::ConstantIntOp::create(b, b.getLoc(), b.getI64Type(), 0);
  Value one = arith::ConstantIntOp::create(b, b.getLoc(), b.getI64Type(), 1);
  b.forLoop(b.index(experts), [&](Value e) { b.store(zero, result, e); });
  forEntries(b.index(0), tokens(), /*firstSlot=*/false,
             [&](Value, Value e) { b.store(b.add(b.load(result, e), one), result, e); });
}

void AuxKernel::meanProbability() {
  Value sums = zeroSums(b, experts), count = tokens();
  addProbabilities(b.index(0), count, sums);
  b.forLoop(b.index(experts),
            [&](Value e) { b.storeF32(fromF64(b, meanOf(b, b.load(sums, e), count)), result, e); });
}

void AuxKernel::entropy() {
  storeMeanOfTokens([&](Value token) {
    Value sums = b.foldVectors(experts, b.splat(0.0), [&](Value i, int64_t count, Value sum) {
      Value p = b.loadVectorPart(probabilities, {token, i}, count, 0.0);
      Value isZero = b.compare(arith::CmpFPredicate::OEQ, p, b.splat(0.0));
      Value log = math::LogOp::create(b, b.getLoc(), b.select(isZero, b.splat(1.0), p));
      return b.subf(sum, b.mulf(p, log));
    });
    return emitReduction(b, vector::CombiningKind::ADD, sums);
  });
}

LogicalResult Lowering::lowerOp(AuxOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers routing;
  int64_t experts = 0, k = 0;
  Value tokens;
  for (Value matrix : {op.getLogits(), op.getProbabilities()})
    if (matrix) {
      experts = cast<RankedTensorType>(matrix.getType()).getDimSize(1);
      tokens = numTokens(b, matrix);
    }
  if (op.getRouting()) {
    routing = routingOf(op.getRouting());
    auto type = cast<RoutingType>(op.getRouting().getType());
    experts = type.getExperts();
    k = type.getK();
    tokens = routing.tokens;
  }
  Value group;
  if (op.getKind() == AuxKind::LoadBalance)
    group = groupSize(b, op.getGroupSize(), tokens);
  Value perToken;
  if (op.getKind() == AuxKind::ZLoss || op.getKind() == AuxKind::Entropy)
    perToken = allocate(b, ShapedType::kDynamic, f32(), tokens);
  auto type = cast<RankedTensorType>(op.getResult().getType());
  Value result = allocate(b, type.getShape(), type.getElementType());
  kernel(b, op, "aux",
         {buffer(b, op.getLogits()), buffer(b, op.getProbabilities()), routing.experts,
          routing.weights, group, buffer(b, op.getNoisyLogits()), buffer(b, op.getNoiseStd()),
          perToken, result},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           AuxKernel aux = {b,       op,      args[0], args[1], args[2], args[3], args[4],
                            args[5], args[6], args[7], args[8], experts, k};
           switch (op.getKind()) {
           case AuxKind::LoadBalance:
             return aux.loadBalance();
           case AuxKind::ZLoss:
             return aux.zLoss();
           case AuxKind::ImportanceCV2:
             return aux.importance();
           case AuxKind::LoadCV2:
             return aux.load();
           case AuxKind::TokensPerExpert:
             return aux.tokensPerExpert();
           case AuxKind::MeanProbability:
             return aux.meanProbability();
           case AuxKind::Entropy:
             return aux.entropy();
           }
         });
  replace(b, op.getResult(), result);
  return success();
}

//===----------------------------------------------------------------------===//
// moe.bias_update
//===----------------------------------------------------------------------===//

LogicalResult Lowering::lowerOp(BiasUpdateOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  auto type = cast<RankedTensorType>(op.getResult().getType());
  if (!type.hasStaticShape())
    return emitUnsupported(op) << "has a bias of unknown size: no " << target.processor()
                               << " kernel";
  int64_t experts = type.getDimSize(0);
  Value result = allocate(b, type.getShape(), type.getElementType());
  double rate = op.getRate().convertToDouble();
  kernel(b, op, "bias_update", {buffer(b, op.getBias()), buffer(b, op.getCount()), result},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value bias = args[0], count = args[1], result = args[2];
           Value delta = b.stack(experts, b.getF64Type());
           Value total = b.fold(b.index(experts), f64(b, 0), [&](Value e, Value sum) {
             return b.addf(sum, toF64(b, b.load(count, e)));
           });
           Value mean = b.divf(total, f64(b, experts)), zero = f64(b, 0);
           b.forLoop(b.index(experts), [&](Value e) {
             Value distance = b.subf(mean, toF64(b, b.load(count, e)));
             Value change;
             if (op.getRule() == BiasRule::Sign) {
               Value above = b.compare(arith::CmpFPredicate::OGT, distance, zero);
               Value below = b.compare(arith::CmpFPredicate::OLT, distance, zero);
               change = b.select(above, f64(b, rate), b.select(below, f64(b, -rate), zero));
             } else {
               Value none = b.compare(arith::CmpFPredicate::OEQ, total, zero);
               change = b.select(none, zero, b.mulf(f64(b, rate), b.divf(distance, total)));
             }
             b.store(change, delta, e);
           });
           Value shift = zero;
           if (op.getRecenter())
             shift = b.divf(sumOf(b, delta, experts), f64(b, experts));
           b.forLoop(b.index(experts), [&](Value e) {
             Value change = b.subf(b.load(delta, e), shift);
             Value value = b.addf(toF64(b, b.loadF32(bias, e)), change);
             b.storeF32(fromF64(b, value), result, e);
           });
         });
  replace(b, op.getResult(), result);
  return success();
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.score, and the score functions that fused gating shares with it.

#include "Lowering.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();

Value mlir::moe::cpu::emitScore(KernelBuilder &b, ScoreFn fn, Value v) {
  auto minimum = [&](Value x, Value y) {
    return arith::MinimumFOp::create(b, b.getLoc(), x, y).getResult();
  };
  // ln(1 + exp(-|v|)), which never overflows.
  auto tail = [&] {
    Value exp = b.exp(b.mulf(b.abs(v), b.like(v, -1.0)));
    return math::Log1pOp::create(b, b.getLoc(), exp).getResult();
  };
  switch (fn) {
  case ScoreFn::Identity:
    return v;
  case ScoreFn::Sigmoid:
    return b.sigmoid(v);
  case ScoreFn::SqrtSoftplus: {
    Value positive = arith::MaximumFOp::create(b, b.getLoc(), v, b.like(v, 0.0));
    return math::SqrtOp::create(b, b.getLoc(), b.addf(positive, tail()));
  }
  case ScoreFn::LogSigmoid:
    return b.subf(minimum(v, b.like(v, 0.0)), tail());
  case ScoreFn::Softmax:
    break;
  }
  llvm_unreachable("a softmax is not a function of one logit");
}

Value mlir::moe::cpu::emitReduction(KernelBuilder &b, vector::CombiningKind kind, Value vector) {
  return vector::ReductionOp::create(b, b.getLoc(), kind, vector);
}

SoftmaxStatistics mlir::moe::cpu::emitSoftmaxStatistics(
    KernelBuilder &b, function_ref<Value(Value, function_ref<Value(Value, int64_t, Value)>)> fold) {
  Value maxima =
      fold(b.splat(-kInfinity), [&](Value max, int64_t, Value v) { return b.maxNumber(max, v); });
  Value maximum = emitReduction(b, vector::CombiningKind::MAXNUMF, maxima);
  Value splat = b.splat(maximum);
  // Lanes past the end are -inf, which must not become NaN when all logits are.
  Value sums = fold(b.splat(0.0), [&](Value sum, int64_t count, Value v) {
    Value term = b.exp(b.subf(v, splat));
    return b.addf(sum, count < b.target.lanes ? b.firstLanes(term, count, 0.0) : term);
  });
  return {maximum, emitReduction(b, vector::CombiningKind::ADD, sums)};
}

SoftmaxStatistics mlir::moe::cpu::emitSoftmaxStatistics(KernelBuilder &b, Value logits,
                                                        Value token) {
  int64_t experts = cast<MemRefType>(logits.getType()).getDimSize(1);
  return emitSoftmaxStatistics(b, [&](Value init, function_ref<Value(Value, int64_t, Value)> step) {
    return b.foldVectors(experts, init, [&](Value i, int64_t count, Value value) {
      return step(value, count, b.loadVectorPart(logits, {token, i}, count, -kInfinity));
    });
  });
}

/// A softmax over the tokens [first, last), of the columns at `column`.
static void emitSoftmaxOfColumns(KernelBuilder &b, Value logits, Value scores, Value first,
                                 Value last, Value column, int64_t count) {
  auto load = [&](Value token) { return b.loadVectorPart(logits, {token, column}, count, 0.0); };
  auto fold = [&](double init, function_ref<Value(Value, Value)> step) {
    return b.forLoop(first, last, b.index(1), b.splat(init), [&](Value token, ValueRange carried) {
      return SmallVector<Value>{step(carried[0], load(token))};
    })[0];
  };
  Value maximum = fold(-kInfinity, [&](Value max, Value v) { return b.maxNumber(max, v); });
  Value total =
      fold(0.0, [&](Value sum, Value v) { return b.addf(sum, b.exp(b.subf(v, maximum))); });
  b.forLoop(first, last, b.index(1), [&](Value token) {
    Value score = b.divf(b.exp(b.subf(load(token), maximum)), total);
    b.storeVector(score, scores, {token, column}, count);
  });
}

void Lowering::softmaxOverTokens(KernelBuilder &b, ScoreOp op, Value scores) {
  Value tokens = numTokens(b, op.getLogits());
  Value size = groupSize(b, op.getGroupSize(), tokens);
  kernel(b, op, "score", {buffer(b, op.getLogits()), size, scores},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value logits = args[0], size = args[1], scores = args[2];
           int64_t experts = cast<MemRefType>(logits.getType()).getDimSize(1);
           Value tokens = b.dim(logits, 0);
           b.parallelLoop(b.ceilDiv(tokens, size), [&](Value group) {
             Value first = b.mul(group, size), last = b.min(b.add(first, size), tokens);
             b.forVectors(experts, [&](Value column, int64_t count) {
               emitSoftmaxOfColumns(b, logits, scores, first, last, column, count);
             });
           });
         });
}

LogicalResult Lowering::lowerOp(ScoreOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  Value scores = destination(b, op.getScores(), numTokens(b, op.getLogits()));
  if (op.getFn() == ScoreFn::Softmax && op.getAxis() == Axis::Tokens) {
    softmaxOverTokens(b, op, scores);
    replace(b, op.getScores(), scores);
    return success();
  }
  kernel(b, op, "score", {buffer(b, op.getLogits()), scores},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value logits = args[0], scores = args[1];
           int64_t experts = cast<MemRefType>(logits.getType()).getDimSize(1);
           b.forTokens(b.dim(logits, 0), [&](Value token) {
             auto load = [&](Value i, int64_t count) {
               return b.loadVectorPart(logits, {token, i}, count, -kInfinity);
             };
             SoftmaxStatistics softmax;
             if (op.getFn() == ScoreFn::Softmax)
               softmax = emitSoftmaxStatistics(b, logits, token);
             b.forVectors(experts, [&](Value i, int64_t count) {
               Value v = load(i, count);
               v = softmax.maximum ? softmax.of(b, v) : emitScore(b, op.getFn(), v);
               b.storeVector(v, scores, {token, i}, count);
             });
           });
         });
  replace(b, op.getScores(), scores);
  return success();
}

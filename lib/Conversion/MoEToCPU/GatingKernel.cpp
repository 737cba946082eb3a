// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.gating: score, select and weigh in one pass over a token's logits.

#include "Lowering.h"
#include "Select.h"
#include "Weigh.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();

namespace {

/// Emits the code of one token.
class TokenGating {
public:
  TokenGating(KernelBuilder &b, GatingOp op, ArrayRef<Value> args, Value token)
      : b(b), op(op), logits(args[0]), bias(args[1]), source(args[2]), expertMask(args[4]),
        sourceBias(args[5]), expertScale(args[6]), ids(args[7]), weights(args[8]), token(token),
        experts(cast<MemRefType>(args[0].getType()).getDimSize(1)), k(op.getK()),
        options(WeighOptions::of(op)) {}

  void emit();

private:
  bool fromScore() { return op.getWeighSource() == WeighSource::Score; }
  /// Scores are monotone in the logits: the plain largest are those of the logits.
  bool keysAreScores() {
    if (op.getScore() == ScoreFn::Identity)
      return false;
    return bias || op.isGrouped() || op.getMode() == SelectMode::TopP ||
           op.getMode() == SelectMode::Threshold;
  }
  bool inRegisters() {
    return !op.isGrouped() && !expertMask && experts <= b.target.expertsInRegisters();
  }

  void loadLogits();
  Value fold(Value init, function_ref<Value(Value, int64_t, Value)> step);
  void forVectors(function_ref<void(Value, int64_t, Value)> body);
  Value score(Value logit);
  void makeKeys(Keys &keys);
  void takeAll();
  void take(Keys &keys);
  void put(Value slot, Value expert, function_ref<Value()> value);
  Value valueOf(Value expert, Value order);
  void storeWeights();

  KernelBuilder &b;
  GatingOp op;
  Value logits, bias, source, expertMask, sourceBias, expertScale, ids, weights, token;
  int64_t experts, k;
  WeighOptions options;
  SmallVector<Value> registers; // the logits, when they fit
  SoftmaxStatistics softmax;
  std::optional<TokenWeights> slots;
  std::optional<MaskedSoftmax> mixer;
};

/// step(value so far, count of logits, logits) over all vectors of logits.
Value TokenGating::fold(Value init, function_ref<Value(Value, int64_t, Value)> step) {
  int64_t lanes = b.target.lanes;
  if (registers.empty())
    return b.foldVectors(experts, init, [&](Value i, int64_t count, Value value) {
      return step(value, count, b.loadVectorPart(logits, {token, i}, count, -kInfinity));
    });
  for (auto [i, v] : llvm::enumerate(registers))
    init = step(init, std::min<int64_t>(lanes, experts - i * lanes), v);
  return init;
}

void TokenGating::forVectors(function_ref<void(Value, int64_t, Value)> body) {
  int64_t lanes = b.target.lanes;
  if (registers.empty())
    return b.forVectors(experts, [&](Value i, int64_t count) {
      body(i, count, b.loadVectorPart(logits, {token, i}, count, -kInfinity));
    });
  for (auto [i, v] : llvm::enumerate(registers))
    body(b.index(i * lanes), std::min<int64_t>(lanes, experts - i * lanes), v);
}

void TokenGating::loadLogits() {
  if (!inRegisters())
    return;
  for (int64_t i = 0; i < experts; i += b.target.lanes)
    registers.push_back(b.loadVectorPart(logits, {token, b.index(i)}, experts - i, -kInfinity));
}

/// A scalar or a vector.
Value TokenGating::score(Value logit) {
  if (op.getScore() != ScoreFn::Softmax)
    return emitScore(b, op.getScore(), logit);
  if (isa<VectorType>(logit.getType()))
    return softmax.of(b, logit);
  return b.divf(b.exp(b.subf(logit, softmax.maximum)), softmax.denominator);
}

void TokenGating::makeKeys(Keys &keys) {
  forVectors([&](Value i, int64_t count, Value logit) {
    Value key = keysAreScores() ? score(logit) : logit;
    if (bias)
      key = b.addf(key, b.loadVectorPart(bias, i, count, 0.0));
    keys.set(i, count, key);
  });
  if (expertMask)
    emitExpertMask(b, expertMask, token, b.index(experts), keys);
  if (op.isGrouped())
    emitGroupLimit(b, GroupOptions::of(op, experts), keys);
}

/// What the weight of a selected expert is made of; `order` is that of its key, or null.
Value TokenGating::valueOf(Value expert, Value order) {
  if (mixer)
    return mixer->take(expert);
  if (source)
    return b.loadF32(source, {token, expert});
  // Without a bias the key is the logit or already the score.
  bool isKey = order && !bias && !op.isGrouped() && (fromScore() || !keysAreScores());
  Value v = isKey ? emitUnorder(b, order) : b.loadF32(logits, {token, expert});
  // The score of many slots is computed by vectors, in storeWeights.
  if (sourceBias && fromScore() && !(isKey && keysAreScores()))
    v = score(v);
  return v;
}

/// Slot `slot` gets `expert` (i32), and its value unless it is empty.
void TokenGating::put(Value slot, Value expert, function_ref<Value()> value) {
  b.store(expert, ids, {token, slot});
  b.ifThen(b.isValid(expert), [&] {
    Value v = value();
    if (sourceBias && !mixer)
      v = b.addf(v, b.loadF32(sourceBias, b.toIndex(expert)));
    slots->set(slot, v);
  });
}

void TokenGating::takeAll() {
  b.forLoop(b.index(experts), [&](Value e) {
    Value id = b.toI32(e);
    if (expertMask) {
      bool perToken = cast<MemRefType>(expertMask.getType()).getRank() == 2;
      Value allowed = b.load(expertMask, perToken ? ValueRange{token, e} : ValueRange{e});
      id = b.select(allowed, id, b.i32(-1));
    }
    put(e, id, [&] { return valueOf(e, Value()); });
  });
}

void TokenGating::take(Keys &keys) {
  emitTake(b, TakeOptions::of(op), keys, [&](Value slot, Value expert, Value order) {
    put(slot, expert, [&] { return valueOf(b.toIndex(expert), order); });
  });
}

void TokenGating::storeWeights() {
  bool keysWere = keysAreScores() && !bias && !op.isGrouped() && op.getMode() != SelectMode::All;
  if (fromScore() && !mixer && !sourceBias && op.getScore() != ScoreFn::Identity && !keysWere)
    slots->transform([&](Value v) { return score(v); });
  slots->weigh();
  b.forLoop(b.index(k), [&](Value slot) {
    Value weight = slots->get(slot);
    if (expertScale) {
      Value id = b.load(ids, {token, slot});
      weight = b.branch(
          b.isValid(id), [&] { return b.mulf(weight, b.loadF32(expertScale, b.toIndex(id))); },
          [&] { return weight; });
    }
    b.store(weight, weights, {token, slot});
  });
}

void TokenGating::emit() {
  loadLogits();
  if (op.getScore() == ScoreFn::Softmax && (fromScore() || keysAreScores()))
    softmax =
        emitSoftmaxStatistics(b, [&](Value init, function_ref<Value(Value, int64_t, Value)> step) {
          return fold(init, step);
        });
  slots.emplace(b, options, k);
  slots->clear();
  if (options.fn == WeighFn::MaskedSoftmax) {
    mixer.emplace(b, options, experts);
    forVectors([&](Value i, int64_t count, Value v) {
      if (source)
        v = b.loadVectorPart(source, {token, i}, count, 0.0);
      else if (fromScore())
        v = score(v);
      if (sourceBias)
        v = b.addf(v, b.loadVectorPart(sourceBias, i, count, 0.0));
      mixer->set(i, count, v);
    });
  }
  if (op.getMode() == SelectMode::All) {
    takeAll();
  } else {
    Keys keys(b, experts, op.getTieBreak() == TieBreak::Higher, inRegisters());
    makeKeys(keys);
    take(keys);
  }
  storeWeights();
}

} // namespace

LogicalResult Lowering::lowerOp(GatingOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  Value tokens = numTokens(b, op.getLogits());
  RoutingType type = op.getRouting().getType();
  RoutingBuffers routing = newRouting(b, op.getRouting(), tokens);
  bool isWhole = op.getMode() == SelectMode::All || op.getMode() == SelectMode::TopK;
  routing.full = isWhole && !op.isMasked();
  kernel(b, op, "gating",
         {buffer(b, op.getLogits()), buffer(b, op.getBias()), buffer(b, op.getSource()),
          buffer(b, op.getTokenMask()), buffer(b, op.getExpertMask()),
          buffer(b, op.getSourceBias()), buffer(b, op.getExpertScale()), routing.experts,
          routing.weights},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           b.forTokens(b.dim(args[0], 0), [&](Value token) {
             emitUnlessMasked(b, args[3], token, args[7], args[8],
                              [&] { TokenGating(b, op, args, token).emit(); });
           });
         });
  routings[op.getRouting()] = routing;
  if (op.getCapacity()) {
    Value group = groupSize(b, Value(), tokens);
    CapacityForm form = {*op.getCapacity(), *op.getOrder(), type.getExperts(), type.getK(),
                         type.getK()};
    routings[op.getRouting()] = limit(b, op, routing, form, Value(), group, /*given=*/Value());
  }
  return success();
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.gating: score, select and weigh in one pass over a token's logits.

#include "Kernels.h"

#include "llvm/ADT/StringExtras.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
/// Tokens of a parallel task.
constexpr int64_t kTokensPerTask = 16;

/// Emits the code of one token. `values`, `keys` and `chosen` are stack buffers of
/// f32: the weight source of every expert, the selection key of every expert
/// (rounded up to whole vectors), and the values of the k selected ones.
class TokenGating {
public:
  TokenGating(KernelBuilder &b, GatingOp op)
      : b(b), op(op), experts(cast<ShapedType>(op.getLogits().getType()).getDimSize(1)),
        k(op.getK()), lanes(b.target.lanes), padded(llvm::alignTo(experts, lanes)),
        paddedK(llvm::alignTo(k, lanes)) {}

  void allocateBuffers() {
    auto buffer = [&](int64_t size) {
      return memref::AllocaOp::create(b, b.getLoc(), MemRefType::get({size}, b.getF32Type()));
    };
    keys = buffer(padded);
    values = buffer(padded);
    chosen = buffer(paddedK);
  }

  void emit(Value token, Value logits, Value bias, Value source, Value experts, Value weights);

private:
  bool softmaxScore() { return op.getScore() == ScoreFn::Softmax; }
  /// Softmax is monotone: without a bias its order is that of the logits.
  bool scoresNeeded() { return op.getBias() || op.getScore() == ScoreFn::SqrtSoftplus; }

  void loadLogits(Value token, Value logits);
  void scoreSoftmaxStatistics();
  Value score(Value v);
  void makeKeys(Value bias);
  void loadSource(Value token, Value source);
  Value selectNext(Value &lastKey, Value &lastExpert, Value &maskedSum);
  void weigh(Value token, Value weights);

  Value reduce(vector::CombiningKind kind, Value vector) {
    return vector::ReductionOp::create(b, b.getLoc(), kind, vector);
  }
  Value exp(Value v) { return math::ExpOp::create(b, b.getLoc(), v); }
  Value compare(arith::CmpFPredicate predicate, Value x, Value y) {
    return arith::CmpFOp::create(b, b.getLoc(), predicate, x, y);
  }
  Value select(Value condition, Value x, Value y) {
    return arith::SelectOp::create(b, b.getLoc(), condition, x, y);
  }
  /// Folds a vector accumulator over all vectors of `buffer`, then over its lanes.
  Value reduceBuffer(Value buffer, int64_t size, double init, vector::CombiningKind kind,
                     function_ref<Value(Value, Value)> step);

  KernelBuilder &b;
  GatingOp op;
  int64_t experts, k, lanes, padded, paddedK;
  Value keys, values, chosen;
  Value maximum, denominator; // of the softmax over all experts
};

Value TokenGating::reduceBuffer(Value buffer, int64_t size, double init, vector::CombiningKind kind,
                                function_ref<Value(Value, Value)> step) {
  Value result = b.forLoop(b.index(0), b.index(size), b.index(lanes), b.splat(init),
                           [&](Value i, ValueRange carried) -> SmallVector<Value> {
                             return {step(carried[0], b.loadVector(buffer, i))};
                           })[0];
  return reduce(kind, result);
}

/// values[e] = logits[token, e], -inf past E.
void TokenGating::loadLogits(Value token, Value logits) {
  for (int64_t i = 0; i < padded; i += lanes) {
    Value v = b.loadVectorPart(logits, {token, b.index(i)}, experts - i, -kInfinity);
    b.storeVector(v, values, b.index(i), lanes);
  }
}

/// maximum and Σ exp(L - maximum) over all experts; the sum is NaN when a logit is.
void TokenGating::scoreSoftmaxStatistics() {
  maximum = reduceBuffer(values, padded, -kInfinity, vector::CombiningKind::MAXNUMF,
                         [&](Value acc, Value v) {
                           return arith::MaxNumFOp::create(b, b.getLoc(), acc, v).getResult();
                         });
  Value splatMaximum = b.splat(maximum);
  denominator =
      reduceBuffer(values, padded, 0.0, vector::CombiningKind::ADD,
                   [&](Value acc, Value v) { return b.addf(acc, exp(b.subf(v, splatMaximum))); });
}

Value TokenGating::score(Value v) {
  switch (op.getScore()) {
  case ScoreFn::Identity:
    return v;
  case ScoreFn::Softmax:
    return b.divf(exp(b.subf(v, b.splat(maximum))), b.splat(denominator));
  case ScoreFn::Sigmoid:
    return b.divf(b.splat(1.0), b.addf(b.splat(1.0), exp(b.mulf(v, b.splat(-1.0)))));
  case ScoreFn::SqrtSoftplus: {
    // softplus(v) = max(v, 0) + log1p(exp(-|v|)).
    Value magnitude = math::AbsFOp::create(b, b.getLoc(), v);
    Value tail = math::Log1pOp::create(b, b.getLoc(), exp(b.mulf(magnitude, b.splat(-1.0))));
    Value positive = arith::MaximumFOp::create(b, b.getLoc(), v, b.splat(0.0));
    return math::SqrtOp::create(b, b.getLoc(), b.addf(positive, tail));
  }
  }
  llvm_unreachable("unknown score function");
}

/// keys[e] = score + bias with NaN as +inf; -inf past E.
void TokenGating::makeKeys(Value bias) {
  for (int64_t i = 0; i < padded; i += lanes) {
    Value v = b.loadVector(values, b.index(i));
    Value key = scoresNeeded() ? score(v) : v;
    if (bias)
      key = b.addf(key, b.loadVectorPart(bias, b.index(i), experts - i, -kInfinity));
    Value isNaN = compare(arith::CmpFPredicate::UNO, key, key);
    key = select(isNaN, b.splat(kInfinity), key);
    if (experts - i < lanes) {
      Value valid =
          vector::ConstantMaskOp::create(b, b.getLoc(), b.vectorType(b.getI1Type()),
                                         DenseI64ArrayAttr::get(b.getContext(), {experts - i}));
      key = select(valid, key, b.splat(-kInfinity));
    }
    b.storeVector(key, keys, b.index(i), lanes);
  }
}

void TokenGating::loadSource(Value token, Value source) {
  for (int64_t i = 0; i < padded; i += lanes) {
    Value v = b.loadVectorPart(source, {token, b.index(i)}, experts - i, 0.0);
    b.storeVector(v, values, b.index(i), lanes);
  }
}

/// The largest (key, lowest index) after the previous choice in that order, so that
/// equal keys, -inf and NaN all give distinct experts in range. With masked_softmax
/// also Σ exp(s - M) over what was not yet taken and is close enough to M.
Value TokenGating::selectNext(Value &lastKey, Value &lastExpert, Value &maskedSum) {
  VectorType i32Vector = b.vectorType(b.getI32Type());
  auto splatI32 = [&](Value scalar) {
    return vector::BroadcastOp::create(b, b.getLoc(), i32Vector, scalar).getResult();
  };
  auto constantI32 = [&](int64_t value) {
    return arith::ConstantOp::create(b, b.getLoc(),
                                     DenseElementsAttr::get(i32Vector, int32_t(value)))
        .getResult();
  };
  SmallVector<int32_t> laneNumbers = llvm::to_vector(llvm::seq<int32_t>(0, lanes));
  Value laneIds = arith::ConstantOp::create(
      b, b.getLoc(), DenseElementsAttr::get(i32Vector, ArrayRef<int32_t>(laneNumbers)));
  int64_t none = std::numeric_limits<int32_t>::max();
  Value previousKey = b.splat(lastKey), previousExpert = splatI32(lastExpert);
  Value limit = splatI32(b.i32(experts)), noExpert = constantI32(none);
  auto cmpI = [&](arith::CmpIPredicate predicate, Value x, Value y) {
    return arith::CmpIOp::create(b, b.getLoc(), predicate, x, y).getResult();
  };
  auto logicalAnd = [&](Value x, Value y) {
    return arith::AndIOp::create(b, b.getLoc(), x, y).getResult();
  };
  auto logicalOr = [&](Value x, Value y) {
    return arith::OrIOp::create(b, b.getLoc(), x, y).getResult();
  };
  auto idsAt = [&](Value i) { return b.add(splatI32(b.toI32(i)), laneIds); };
  // Experts after the previous choice in (falling key, rising index) order.
  auto candidates = [&](Value key, Value ids) {
    Value lower = compare(arith::CmpFPredicate::OLT, key, previousKey);
    Value equal = compare(arith::CmpFPredicate::OEQ, key, previousKey);
    Value later = cmpI(arith::CmpIPredicate::sgt, ids, previousExpert);
    Value open = logicalOr(lower, logicalAnd(equal, later));
    return experts == padded ? open : logicalAnd(open, cmpI(arith::CmpIPredicate::slt, ids, limit));
  };

  SmallVector<Value> best =
      b.forLoop(b.index(0), b.index(padded), b.index(lanes), {b.splat(-kInfinity), noExpert},
                [&](Value i, ValueRange carried) -> SmallVector<Value> {
                  Value key = b.loadVector(keys, i), ids = idsAt(i);
                  Value higher = compare(arith::CmpFPredicate::OGT, key, carried[0]);
                  Value first = cmpI(arith::CmpIPredicate::eq, carried[1], noExpert);
                  Value better = logicalAnd(candidates(key, ids), logicalOr(higher, first));
                  return {select(better, key, carried[0]), select(better, ids, carried[1])};
                });
  Value key = reduce(vector::CombiningKind::MAXNUMF, best[0]);
  Value isBest = compare(arith::CmpFPredicate::OEQ, best[0], b.splat(key));
  Value expert = reduce(vector::CombiningKind::MINSI, select(isBest, best[1], noExpert));

  if (op.getFn() == WeighFn::MaskedSoftmax) {
    Value source = b.load(values, b.toIndex(expert));
    Value m = b.splat(source);
    Value total =
        b.forLoop(b.index(0), b.index(padded), b.index(lanes), b.splat(0.0),
                  [&](Value i, ValueRange carried) -> SmallVector<Value> {
                    Value s = b.loadVector(values, i);
                    Value magnitude = math::AbsFOp::create(b, b.getLoc(), s);
                    Value factor = arith::MaximumFOp::create(b, b.getLoc(), magnitude, m);
                    Value bound = b.mulf(factor, b.splat(2 * op.getEps().convertToDouble()));
                    // "Not greater" keeps NaN, so that a NaN value gives a NaN weight.
                    Value close = compare(arith::CmpFPredicate::ULE, b.subf(m, s), bound);
                    Value taking = logicalAnd(candidates(b.loadVector(keys, i), idsAt(i)), close);
                    return {b.addf(carried[0], select(taking, exp(b.subf(s, m)), b.splat(0.0)))};
                  })[0];
    maskedSum = reduce(vector::CombiningKind::ADD, total);
  }
  lastKey = key;
  lastExpert = expert;
  return expert;
}

/// chosen[0 … k) to weights[token, :].
void TokenGating::weigh(Value token, Value weights) {
  WeighFn fn = op.getFn();
  bool fromScore = op.getWeighSource() == WeighSource::Score;
  double scale = op.getScale().convertToDouble();
  // Lanes past k are whatever they are: no sum reads them, and they are not stored.
  auto transform = [&](function_ref<Value(Value)> f) {
    b.forLoop(b.index(0), b.index(paddedK), b.index(lanes),
              [&](Value i) { b.storeVector(f(b.loadVector(chosen, i)), chosen, i, lanes); });
  };
  /// Σ over the first k only, whatever the padding lanes became.
  auto sumChosen = [&] {
    Value total = b.splat(0.0);
    for (int64_t i = 0; i < k; i += lanes)
      total = b.addf(total, b.loadVectorPart(chosen, b.index(i), k - i, 0.0));
    return reduce(vector::CombiningKind::ADD, total);
  };

  if (fromScore && op.getScore() != ScoreFn::Identity)
    transform([&](Value v) { return score(v); });
  if (fn == WeighFn::Softmax) {
    Value top = b.splat(-kInfinity);
    for (int64_t i = 0; i < k; i += lanes)
      top = arith::MaxNumFOp::create(b, b.getLoc(), top,
                                     b.loadVectorPart(chosen, b.index(i), k - i, -kInfinity));
    Value m = b.splat(reduce(vector::CombiningKind::MAXNUMF, top));
    transform([&](Value v) { return exp(b.subf(v, m)); });
    Value total = b.splat(sumChosen());
    transform([&](Value v) { return b.divf(v, total); });
  }
  if (fn == WeighFn::Sigmoid)
    transform([&](Value v) {
      return b.divf(b.splat(1.0), b.addf(b.splat(1.0), exp(b.mulf(v, b.splat(-1.0)))));
    });
  if (op.getNorm() == WeighNorm::Sum) {
    Value total = b.addf(sumChosen(), b.f32(op.getNormEps().convertToDouble()));
    Value isZero = compare(arith::CmpFPredicate::OEQ, total, b.f32(0.0));
    Value divisor = b.splat(total);
    Value zero = vector::BroadcastOp::create(b, b.getLoc(), b.vectorType(b.getI1Type()), isZero);
    transform([&](Value v) { return select(zero, b.splat(0.0), b.divf(v, divisor)); });
  }
  if (scale != 1.0)
    transform([&](Value v) { return b.mulf(v, b.splat(scale)); });
  for (int64_t i = 0; i < k; i += lanes)
    b.storeVector(b.loadVector(chosen, b.index(i)), weights, {token, b.index(i)}, k - i);
}

void TokenGating::emit(Value token, Value logits, Value bias, Value source, Value expertsOut,
                       Value weights) {
  bool needsStatistics =
      softmaxScore() && (op.getWeighSource() == WeighSource::Score || scoresNeeded());
  loadLogits(token, logits);
  if (needsStatistics)
    scoreSoftmaxStatistics();
  makeKeys(bias);
  if (source)
    loadSource(token, source);

  b.forLoop(b.index(0), b.index(k), b.index(1), {b.f32(kInfinity), b.i32(-1)},
            [&](Value slot, ValueRange carried) -> SmallVector<Value> {
              Value lastKey = carried[0], lastExpert = carried[1], maskedSum;
              Value expert = selectNext(lastKey, lastExpert, maskedSum);
              b.store(expert, expertsOut, {token, slot});
              Value value =
                  maskedSum ? b.divf(b.f32(1.0), maskedSum) : b.load(values, b.toIndex(expert));
              b.store(value, chosen, slot);
              return {lastKey, lastExpert};
            });
  weigh(token, weights);
}

} // namespace

func::FuncOp mlir::moe::cpu::getGatingKernel(ModuleOp module, GatingOp op, KernelTarget target) {
  MLIRContext *context = module.getContext();
  int64_t k = op.getK();
  auto memrefOf = [](Value tensor) {
    auto type = cast<RankedTensorType>(tensor.getType());
    SmallVector<int64_t> shape(type.getShape());
    if (shape.size() == 2)
      shape[0] = ShapedType::kDynamic;
    return MemRefType::get(shape, type.getElementType());
  };
  SmallVector<Type> types = {memrefOf(op.getLogits())};
  if (op.getBias())
    types.push_back(memrefOf(op.getBias()));
  if (op.getSource())
    types.push_back(memrefOf(op.getSource()));
  types.push_back(MemRefType::get({ShapedType::kDynamic, k}, IntegerType::get(context, 32)));
  types.push_back(MemRefType::get({ShapedType::kDynamic, k}, Float32Type::get(context)));

  std::string name;
  llvm::raw_string_ostream text(name);
  text << "moec_gating_" << cast<ShapedType>(op.getLogits().getType()).getDimSize(1) << "_" << k
       << "_" << typeName(cast<ShapedType>(op.getLogits().getType()).getElementType()) << "_"
       << stringifyScoreFn(op.getScore()) << "_" << stringifyWeighSource(op.getWeighSource()) << "_"
       << stringifyWeighFn(op.getFn()) << "_" << stringifyWeighNorm(op.getNorm());
  for (APFloat value : {op.getEps(), op.getNormEps(), op.getScale()})
    text << "_" << llvm::utohexstr(value.bitcastToAPInt().getZExtValue());
  if (op.getBias())
    text << "_bias_" << typeName(cast<ShapedType>(op.getBias().getType()).getElementType());
  if (op.getSource())
    text << "_source_" << typeName(cast<ShapedType>(op.getSource().getType()).getElementType());

  func::FuncOp kernel;
  getOrCreateKernel(module, name, types, target, kernel,
                    [&](KernelBuilder &b, Block::BlockArgListType args) {
                      unsigned next = 0;
                      Value logits = args[next++];
                      Value bias = op.getBias() ? Value(args[next++]) : Value();
                      Value source = op.getSource() ? Value(args[next++]) : Value();
                      Value experts = args[next++], weights = args[next++];
                      Value tokens = memref::DimOp::create(b, b.getLoc(), logits, b.index(0));
                      b.parallelLoop(b.ceilDiv(tokens, kTokensPerTask), [&](Value task) {
                        TokenGating gating(b, op);
                        gating.allocateBuffers();
                        Value first = b.mul(task, kTokensPerTask);
                        Value last = b.min(b.add(first, kTokensPerTask), tokens);
                        b.forLoop(first, last, b.index(1), [&](Value token) {
                          gating.emit(token, logits, bias, source, experts, weights);
                        });
                      });
                    });
  return kernel;
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.tree_select.

#include "Keys.h"
#include "Lowering.h"
#include "Select.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

/// Row `weightAt` of a weight [R,n,H] times row `token` of x, plus a bias [R,n].
static Value emitAffine(KernelBuilder &b, Value x, Value token, Value weight, ValueRange weightAt,
                        Value bias) {
  int64_t size = cast<MemRefType>(x.getType()).getDimSize(1);
  SmallVector<Value> at(weightAt);
  at.push_back(Value());
  Value sums = b.foldVectors(size, b.splat(0.0), [&](Value i, int64_t count, Value sum) {
    at.back() = i;
    Value w = b.loadVectorPart(weight, at, count, 0.0);
    return b.fma(b.loadVectorPart(x, {token, i}, count, 0.0), w, sum);
  });
  Value product = emitReduction(b, vector::CombiningKind::ADD, sums);
  return bias ? b.addf(product, b.loadF32(bias, weightAt)) : product;
}

/// S(v): 0 for v ≤ -γ/2, 1 for v ≥ γ/2, -2v³/γ³ + 3v/(2γ) + 1/2 between; NaN stays NaN.
/// 1 - S(v) is S(-v), without cancellation.
static Value emitSmoothStep(KernelBuilder &b, Value v, double gamma) {
  // With u = v/γ + 1/2 the curve is u² · (3 - 2u), which is accurate near 0.
  Value u = b.fma(v, b.f32(1 / gamma), b.f32(0.5));
  Value curve = b.mulf(b.mulf(u, u), b.fma(u, b.f32(-2.0), b.f32(3.0)));
  Value low = b.compare(arith::CmpFPredicate::OLE, v, b.f32(-gamma / 2));
  Value high = b.compare(arith::CmpFPredicate::OGE, v, b.f32(gamma / 2));
  return b.select(low, b.f32(0.0), b.select(high, b.f32(1.0), curve));
}

namespace {
/// The leaves that a token reaches, on the stack.
class TreeWalk {
public:
  TreeWalk(KernelBuilder &b, TreeSelectOp op, ArrayRef<Value> args)
      : b(b), op(op), x(args[0]), nodeWeight(args[1]), leafWeight(args[2]), nodeBias(args[3]),
        leafBias(args[4]), permutation(args[5]) {
    ArrayRef<int64_t> shape = cast<MemRefType>(leafWeight.getType()).getShape();
    trees = cast<RankedTensorType>(op.getLeafWeight().getType()).getDimSize(0);
    leaves = shape[1];
    nodes = b.stack(2 * leaves - 1, b.getI32Type());
    probabilities = b.stack(2 * leaves - 1, b.getF32Type());
    logits = b.stack(trees * leaves, b.getF32Type());
    experts = b.stack(trees * leaves, b.getI32Type());
    state = b.stack(3, b.getI32Type());
  }

  void walk(Value token);
  /// experts' weights, which add up to 1.
  void weigh(Value weights);
  Value visited() { return load(Visited); }

private:
  /// Counters: end of the queue of nodes, number of leaves, of visited nodes.
  enum Counter { Tail = 0, Leaves = 1, Visited = 2 };
  Value load(Counter counter) { return b.load(state, b.index(counter)); }
  void reset(Counter counter) { b.store(b.i32(0), state, b.index(counter)); }
  Value increment(Counter counter) { return b.increment(state, b.index(counter)); }

  void push(Value node, Value probability);
  void enter(Value token, Value tree, Value node, Value probability);
  void reachLeaf(Value token, Value tree, Value node, Value probability);

  KernelBuilder &b;
  TreeSelectOp op;
  Value x, nodeWeight, leafWeight, nodeBias, leafBias, permutation;
  int64_t trees, leaves;
  Value nodes, probabilities, logits, experts, state;
};
} // namespace

/// Puts a node at the end of the queue, unless it cannot be reached.
void TreeWalk::push(Value node, Value probability) {
  // NaN is reached too: it has to be seen in the weights.
  Value reached = b.compare(arith::CmpFPredicate::UGT, probability, b.f32(0.0));
  b.ifThen(reached, [&] {
    increment(Visited);
    Value place = b.toIndex(increment(Tail));
    b.store(node, nodes, place);
    b.store(probability, probabilities, place);
  });
}

void TreeWalk::enter(Value token, Value tree, Value node, Value probability) {
  Value v = emitAffine(b, x, token, nodeWeight, {tree, b.toIndex(node)}, nodeBias);
  double gamma = op.getGamma().convertToDouble();
  Value left = emitSmoothStep(b, v, gamma);
  Value right = emitSmoothStep(b, b.mulf(v, b.f32(-1.0)), gamma);
  Value child = b.add(b.mul(node, b.i32(2)), b.i32(1));
  push(child, b.mulf(probability, left));
  push(b.add(child, b.i32(1)), b.mulf(probability, right));
}

void TreeWalk::reachLeaf(Value token, Value tree, Value node, Value probability) {
  // The deepest level fills from the left, so its leaves come before the others.
  int64_t deepest = (int64_t(1) << llvm::Log2_64(2 * leaves - 1)) - 1;
  Value isDeep = b.compare(arith::CmpIPredicate::sge, node, b.i32(deepest));
  Value leaf = b.select(isDeep, b.sub(node, b.i32(deepest)), b.sub(node, b.i32(deepest - leaves)));
  Value j = b.toIndex(leaf);
  Value possible =
      b.compare(arith::CmpFPredicate::UGT, probability, b.f32(op.getPMin().convertToDouble()));
  b.ifThen(possible, [&] {
    Value id = leaf;
    if (permutation) {
      auto type = cast<RankedTensorType>(op.getPermutation().getType());
      Value row = type.getDimSize(0) == 1 ? b.index(0) : tree;
      id = emitId(b, permutation, {row, j}, leaves);
    }
    Value shifted = b.addf(probability, b.f32(op.getLogEps().convertToDouble()));
    Value log = math::LogOp::create(b, b.getLoc(), shifted);
    Value logit = b.addf(emitAffine(b, x, token, leafWeight, {tree, j}, leafBias), log);
    Value place = b.toIndex(increment(Leaves));
    b.store(logit, logits, place);
    b.store(id, experts, place);
  });
}

void TreeWalk::walk(Value token) {
  reset(Leaves);
  reset(Visited);
  b.forLoop(b.index(trees), [&](Value tree) {
    reset(Tail);
    push(b.i32(0), b.f32(1.0));
    // Level by level: a level's nodes are in the queue before any of the next one.
    int64_t levels = llvm::Log2_64(2 * leaves - 1) + 1;
    b.fold(b.index(levels), b.index(0), [&](Value, Value head) {
      Value tail = b.toIndex(load(Tail));
      b.forLoop(head, tail, b.index(1), [&](Value i) {
        Value node = b.load(nodes, i), probability = b.load(probabilities, i);
        Value isInner = b.less(node, b.i32(leaves - 1));
        auto nothing = [] { return SmallVector<Value>(); };
        b.branch(
            isInner,
            [&] {
              enter(token, tree, node, probability);
              return nothing();
            },
            [&] {
              reachLeaf(token, tree, node, probability);
              return nothing();
            });
      });
      return tail;
    });
  });
}

void TreeWalk::weigh(Value weights) {
  Value count = b.toIndex(load(Leaves));
  Value lowest = b.f32(-std::numeric_limits<double>::infinity());
  Value largest = b.fold(count, lowest,
                         [&](Value i, Value max) { return b.maxNumber(max, b.load(logits, i)); });
  b.forLoop(b.index(leaves), [&](Value e) { b.store(b.f32(0.0), weights, e); });
  // The softmax's own sum cancels in the division by the sum over the experts.
  Value total = b.fold(count, b.f32(0.0), [&](Value i, Value total) {
    Value id = b.load(experts, i);
    return b.branch(
        b.isValid(id),
        [&] {
          Value term = b.exp(b.subf(b.load(logits, i), largest)), e = b.toIndex(id);
          b.store(b.addf(b.load(weights, e), term), weights, e);
          return b.addf(total, term);
        },
        [&] { return total; });
  });
  b.forLoop(b.index(leaves),
            [&](Value e) { b.store(b.divf(b.load(weights, e), total), weights, e); });
}

LogicalResult Lowering::lowerOp(TreeSelectOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  Value tokens = numTokens(b, op.getX());
  int64_t experts = op.getRouting().getType().getExperts();
  RoutingBuffers routing = newRouting(b, op.getRouting(), tokens);
  Value visited;
  if (op.getVisited())
    visited = allocate(b, ShapedType::kDynamic, b.getI64Type(), tokens);
  kernel(b, op, "tree_select",
         {buffer(b, op.getX()), buffer(b, op.getNodeWeight()), buffer(b, op.getLeafWeight()),
          buffer(b, op.getNodeBias()), buffer(b, op.getLeafBias()), buffer(b, op.getPermutation()),
          routing.experts, routing.weights, visited},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value ids = args[6], weightsOut = args[7], visited = args[8];
           b.forTokens(b.dim(ids, 0), [&](Value token) {
             TreeWalk tree(b, op, args);
             tree.walk(token);
             Value weights = b.stack(experts, b.getF32Type());
             tree.weigh(weights);
             if (visited)
               b.store(arith::ExtSIOp::create(b, b.getLoc(), b.getI64Type(), tree.visited()),
                       visited, token);
             Keys keys(b, experts, /*higherFirst=*/false);
             keys.clear();
             b.forLoop(b.index(experts), [&](Value e) {
               Value weight = b.load(weights, e);
               Value positive = b.compare(arith::CmpFPredicate::UGT, weight, b.f32(0.0));
               b.ifThen(positive, [&] { keys.set(e, weight); });
             });
             keys.take(experts, {}, [&](Value slot, Value expert, Value order, ValueRange) {
               b.store(expert, ids, {token, slot});
               Value weight = b.select(b.isValid(expert), emitUnorder(b, order), b.f32(0.0));
               b.store(weight, weightsOut, {token, slot});
               return SmallVector<Value>();
             });
           });
         });
  if (visited)
    replace(b, op.getVisited(), visited);
  return success();
}

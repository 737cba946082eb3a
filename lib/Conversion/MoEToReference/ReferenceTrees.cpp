// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plain meaning of moe.tree_select.

#include "Reference.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/Support/MathExtras.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

namespace {

/// The trees of one op over the tokens x [T,H].
class Forest {
public:
  Forest(ReferenceBuilder &b, Value x, const Trees &trees)
      : b(b), x(x), trees(trees), tokens(b.size(x, 0)), count(b.size(trees.nodeWeight, 0)) {}

  /// real [T,R,2n-1]: the probability of each node.
  Value probabilities() {
    int64_t nodes = 2 * trees.leaves - 1;
    Value start = b.filled({tokens, count, b.getIndexAttr(nodes)}, b.constant(1));
    return overTrees(start, [&](Value t, Value r, Value p) {
      return b.fold(b.index(trees.leaves - 1), p, [&](Value node, Value p) {
        Value mine = b.at(p, {t, r, node});
        Value left = smoothStep(linear(trees.nodeWeight, trees.nodeBias, t, r, node));
        Value right = b.sub(b.constant(1), left);
        Value child = b.add(b.mul(node, b.index(2)), b.index(1));
        p = b.insert(b.mul(mine, left), p, {t, r, child});
        return b.insert(b.mul(mine, right), p, {t, r, b.add(child, b.index(1))});
      });
    });
  }

  /// real [T,R,n]: the logit of each leaf, from left to right.
  Value leafLogits(Value probabilities) {
    SmallVector<OpFoldResult> sizes = {tokens, count, b.getIndexAttr(trees.leaves)};
    return b.generate(sizes, b.getReal(), [&](ValueRange i) {
      Value p = b.at(probabilities, {i[0], i[1], nodeOfLeaf(i[2])});
      Value logit = linear(trees.leafWeight, trees.leafBias, i[0], i[1], i[2]);
      logit = b.add(logit, b.log(b.add(p, b.constant(trees.logEps))));
      Value isOut = b.negate(b.isLarger(p, b.constant(trees.pMin)));
      return b.select(isOut, b.constant(-std::numeric_limits<double>::infinity()), logit);
    });
  }

  /// real [T,E]: the experts' weights.
  Value weights(Value logits) {
    Value leaves = b.index(trees.leaves), numTrees = b.value(count);
    auto overLeaves = [&](Value t, Value init, function_ref<Value(Value, Value)> step) {
      return b.fold(numTrees, init, [&](Value r, Value outer) {
        return b.fold(leaves, outer, [&](Value j, Value so) {
          return step(so, b.at(logits, {t, r, j}));
        });
      });
    };
    Value largest = b.generate(tokens, b.getReal(), [&](ValueRange i) {
      Value none = b.constant(-std::numeric_limits<double>::infinity());
      return overLeaves(i[0], none, [&](Value max, Value logit) { return b.max(max, logit); });
    });
    // The softmax's denominator cancels in the division below.
    SmallVector<OpFoldResult> sizes = {tokens, b.getIndexAttr(trees.leaves)};
    Value sums = b.generate(sizes, b.getReal(), [&](ValueRange i) {
      return b.sum(numTrees, [&](Value r) {
        return b.sum(leaves, [&](Value j) {
          Value share = b.exp(b.sub(b.at(logits, {i[0], r, j}), b.at(largest, i[0])));
          return b.select(b.isEqual(expertOf(r, j), i[1]), share, b.constant(0));
        });
      });
    });
    return b.generate(sizes, b.getReal(), [&](ValueRange i) {
      Value total = b.sum(leaves, [&](Value e) { return b.at(sums, {i[0], e}); });
      return b.div(b.at(sums, i), total);
    });
  }

  /// i64 [T]: how many nodes have a probability above 0.
  Value visited(Value probabilities) {
    Value nodes = b.index(2 * trees.leaves - 1), zero = b.constant(0);
    return b.generate(tokens, b.getI64Type(), [&](ValueRange i) -> Value {
      Value total = b.fold(b.value(count), b.index(0), [&](Value r, Value so) {
        return b.add(so, b.count(nodes, [&](Value node) {
          return b.isLarger(b.at(probabilities, {i[0], r, node}), zero);
        }));
      });
      return arith::IndexCastOp::create(b, b.getI64Type(), total);
    });
  }

private:
  Value overTrees(Value start, function_ref<Value(Value, Value, Value)> step) {
    return b.fold(b.value(tokens), start, [&](Value t, Value outer) {
      return b.fold(b.value(count), outer, [&](Value r, Value so) { return step(t, r, so); });
    });
  }

  /// weight[r,i] · x[t] + bias[r,i]
  Value linear(Value weight, Value bias, Value t, Value r, Value i) {
    Value product = b.sum(b.value(b.size(x, 1)), [&](Value h) {
      return b.mul(b.at(weight, {r, i, h}), b.at(x, {t, h}));
    });
    return bias ? b.add(product, b.at(bias, {r, i})) : product;
  }

  /// -2v³/γ³ + 3v/(2γ) + 1/2 for |v| < γ/2; 0 below and 1 above.
  Value smoothStep(Value v) {
    double gamma = trees.gamma;
    Value cube = b.mul(v, b.mul(v, v));
    Value between = b.add(b.mul(b.constant(-2 / (gamma * gamma * gamma)), cube),
                          b.add(b.mul(b.constant(1.5 / gamma), v), b.constant(0.5)));
    Value half = b.constant(gamma / 2), minusHalf = b.constant(-gamma / 2);
    Value isLow = b.negate(b.isLarger(v, minusHalf)), isHigh = b.negate(b.isLess(v, half));
    Value isNumber = b.isEqual(v, v);
    Value result = b.select(b.both(isHigh, isNumber), b.constant(1), between);
    return b.select(isLow, b.constant(0), result);
  }

  /// Heap number of leaf j from the left: the leaves of the deepest level come first.
  Value nodeOfLeaf(Value j) {
    int64_t n = trees.leaves, deepest = int64_t(llvm::bit_floor(uint64_t(2 * n - 1))) - 1;
    int64_t numDeepest = 2 * n - 1 - deepest;
    Value isDeepest = b.isLess(j, b.index(numDeepest));
    return b.select(isDeepest, b.add(j, b.index(deepest)),
                    b.sub(b.add(j, b.index(n - 1)), b.index(numDeepest)));
  }

  /// The expert of leaf j of tree r; an index that is none for an id outside 0 … n-1.
  Value expertOf(Value r, Value j) {
    if (!trees.permutation)
      return j;
    Value rows = b.value(b.size(trees.permutation, 0));
    Value row = b.select(b.isEqual(rows, b.index(1)), b.index(0), r);
    return b.toIndex(b.rawAt(trees.permutation, {row, j}));
  }

  ReferenceBuilder &b;
  Value x;
  const Trees &trees;
  OpFoldResult tokens, count;
};

} // namespace

std::pair<Routing, Value> reference::treeSelect(ReferenceBuilder &b, Value x, const Trees &trees) {
  Forest forest(b, x, trees);
  Value probabilities = forest.probabilities();
  Value weights = forest.weights(forest.leafLogits(probabilities));
  SmallVector<OpFoldResult> sizes = {b.size(weights, 0), b.size(weights, 1)};
  // NaN is an entry too, so that it is not lost.
  Value zero = b.constant(0);
  Value allowed = b.generate(sizes, b.getI1Type(),
                             [&](ValueRange i) { return b.isLarger(b.at(weights, i), zero); });
  SelectOptions byWeight;
  byWeight.k = trees.leaves;
  Value slots = select(b, {weights, allowed}, byWeight);
  return {{slots, weightsOf(b, slots, weights), trees.leaves, trees.leaves},
          forest.visited(probabilities)};
}

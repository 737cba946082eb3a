// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Which experts a router selects: scores, biases and groups.

#include "Router.h"
#include "Routing.h"

#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

//===----------------------------------------------------------------------===//
// Scores
//===----------------------------------------------------------------------===//

static RankedTensorType getType(Value value) { return dyn_cast<RankedTensorType>(value.getType()); }

/// The function of logits that `node` computes along its last dimension of `experts`.
static std::optional<ScoreFn> getScoreFn(NodeOp node, int64_t experts, Value &logits) {
  auto type = getType(node.getResult(0));
  if (!type || type.getRank() == 0 || type.getShape().back() != experts)
    return std::nullopt;
  logits = node.getInput(0);
  if (node.isOp("Softmax") && node.getIntAttr("axis", -1) == type.getRank() - 1)
    return ScoreFn::Softmax;
  if (node.isOp("Sigmoid"))
    return ScoreFn::Sigmoid;
  if (NodeOp softplus = node.isOp("Sqrt") ? getNode(node.getInput(0), "Softplus") : NodeOp()) {
    logits = softplus.getInput(0);
    return ScoreFn::SqrtSoftplus;
  }
  return std::nullopt;
}

/// One number per expert, whatever the rank.
static bool isVector(Value value, int64_t experts) {
  auto type = getType(value);
  return type && type.hasStaticShape() && type.getNumElements() == experts &&
         getLastDim(value) == experts;
}

/// Reshapes and casts to wider floats: the order of the values stays.
static Value stripWidening(Value value) {
  while (true) {
    value = stripReshapes(value);
    NodeOp cast = getNode(value, "Cast");
    auto from =
        cast ? dyn_cast<FloatType>(getElementTypeOrSelf(cast.getInput(0).getType())) : FloatType();
    auto to = dyn_cast<FloatType>(getElementTypeOrSelf(value.getType()));
    if (!from || !to || from.getWidth() >= to.getWidth())
      return value;
    value = cast.getInput(0);
  }
}

/// The narrowest float type on the way from `value` to what `stripReshapesAndCasts` finds.
static Type getNarrowest(Value value) {
  auto narrowest = cast<FloatType>(getElementTypeOrSelf(value.getType()));
  for (Value root = stripReshapesAndCasts(value); value != root;) {
    value = stripReshapes(value);
    auto type = cast<FloatType>(getElementTypeOrSelf(value.getType()));
    if (type.getWidth() < narrowest.getWidth())
      narrowest = type;
    if (value != root)
      value = value.getDefiningOp<NodeOp>().getInput(0);
  }
  return narrowest;
}

ScoredTensor mlir::moe::readScores(Value tensor, int64_t experts) {
  ScoredTensor scores;
  Value root = stripWidening(tensor);
  auto readFn = [&](Value value) {
    auto node = stripReshapesAndCasts(value).getDefiningOp<NodeOp>();
    Value logits;
    std::optional<ScoreFn> fn = node ? getScoreFn(node, experts, logits) : std::nullopt;
    if (!fn)
      return false;
    scores.fn = *fn;
    scores.logits = stripWidening(logits);
    scores.elementType = getNarrowest(value);
    return true;
  };
  if (readFn(tensor))
    return scores;
  if (NodeOp add = getNode(root, "Add"))
    for (int i : {0, 1})
      if (isVector(add.getInput(i), experts) && readFn(add.getInput(1 - i))) {
        scores.bias = add.getInput(i);
        return scores;
      }
  scores.logits = root;
  scores.elementType = getElementTypeOrSelf(root.getType());
  return scores;
}

//===----------------------------------------------------------------------===//
// Groups
//===----------------------------------------------------------------------===//

namespace {

/// Reads `Where(mask, key, fill)` and `key · mask` whose mask is of the best groups.
struct GroupReader {
  Selection &selection;
  Refusal &refusal;

  /// Sets the groups, and returns the keys before them.
  FailureOr<Value> read(Value masked);

private:
  FailureOr<Value> readMasked(NodeOp node, Value mask, Value key, bool inverted);
  FailureOr<Value> readExpanded(Value mask, bool &inverted);
  FailureOr<Value> readChosen(Value mask, bool inverted);
  LogicalResult readScore(Value score, Value key);
};

} // namespace

/// What `mask` is made of, through reshapes, casts, and changes of polarity.
static Value stripMask(Value mask, bool &inverted) {
  while (true) {
    mask = stripReshapes(mask);
    auto node = mask.getDefiningOp<NodeOp>();
    if (!node)
      return mask;
    std::optional<double> other =
        node.getNumInputs() > 1 && node.getInput(1) ? getSplat(node.getInput(1)) : std::nullopt;
    bool isPositive = (node.isOp("Greater") && other == 0.0) ||
                      (node.isOp("GreaterOrEqual") && other == 1.0) ||
                      (node.isOp("Equal") && other == 1.0);
    bool isNegative = node.isOp("Not") || (node.isOp("Equal") && other == 0.0) ||
                      (node.isOp("Less") && other == 1.0) ||
                      (node.isOp("LessOrEqual") && other == 0.0);
    if (node.isOp("Cast") || isPositive) {
      mask = node.getInput(0);
    } else if (isNegative) {
      mask = node.getInput(0);
      inverted = !inverted;
    } else if (node.isOp("Sub") && getSplat(node.getInput(0)) == 1.0) {
      mask = node.getInput(1);
      inverted = !inverted;
    } else {
      return mask;
    }
  }
}

FailureOr<Value> GroupReader::read(Value masked) {
  Value root = stripWidening(masked);
  if (NodeOp where = getNode(root, "Where")) {
    for (int i : {1, 2}) {
      std::optional<double> fill = getSplat(where.getInput(i));
      if (!fill || (*fill != 0.0 && *fill > -1e30))
        continue;
      selection.groupFill = *fill == 0.0 ? GroupFill::Zero : GroupFill::NegInf;
      return readMasked(where, where.getInput(0), where.getInput(3 - i), /*inverted=*/i == 1);
    }
  }
  if (NodeOp mul = getNode(root, "Mul")) {
    selection.groupFill = GroupFill::Zero;
    for (int i : {0, 1}) {
      FailureOr<Value> key = readMasked(mul, mul.getInput(i), mul.getInput(1 - i), false);
      if (succeeded(key))
        return key;
    }
  }
  return refusal.refuse(root, "is no Where or Mul that masks keys");
}

FailureOr<Value> GroupReader::readMasked(NodeOp node, Value mask, Value key, bool inverted) {
  FailureOr<Value> groups = readExpanded(mask, inverted);
  if (failed(groups))
    return failure();
  FailureOr<Value> chosen = readChosen(*groups, inverted);
  if (failed(chosen))
    return failure();
  NodeOp topk = getNode(stripReshapesAndCasts(*chosen), "TopK");
  if (!topk || stripReshapesAndCasts(*chosen) != topk.getResult(1) ||
      topk.getIntAttr("largest", 1) != 1)
    return refusal.refuse(*chosen, "yields the groups, expected the positions of TopK");
  selection.topGroups = getLastDim(topk.getResult(1));
  if (getLastDim(topk.getInput(0)) != selection.numGroups ||
      ShapedType::isDynamic(selection.topGroups))
    return refusal.refuse(*chosen, "chooses among another number of groups");
  if (failed(readScore(topk.getInput(0), key)))
    return failure();
  return key;
}

/// The mask [T, G] of groups that is repeated for the experts of each group.
FailureOr<Value> GroupReader::readExpanded(Value mask, bool &inverted) {
  Value repeated = stripMask(mask, inverted);
  auto node = repeated.getDefiningOp<NodeOp>();
  auto type = getType(repeated);
  if (!node || !(node.isOp("Expand") || node.isOp("Tile")) || !type || type.getRank() < 2)
    return refusal.refuse(repeated, "is the mask of the keys, expected Expand of a mask of groups");
  auto inner = getType(node.getInput(0));
  int64_t rank = type.getRank(), groups = type.getDimSize(rank - 2);
  if (!inner || inner.getRank() != rank || inner.getShape().back() != 1 ||
      inner.getDimSize(rank - 2) != groups || ShapedType::isDynamic(groups) ||
      type.getShape().back() * groups != selection.experts)
    return refusal.refuse(repeated, "repeats a mask, expected [T, groups, 1] to [T, groups, " +
                                        Twine(selection.experts) + " / groups]");
  selection.numGroups = groups;
  return stripMask(node.getInput(0), inverted);
}

/// The ids of the groups that the mask [T, G] lets through.
FailureOr<Value> GroupReader::readChosen(Value mask, bool inverted) {
  if (NodeOp scatter = getNode(mask, "ScatterElements")) {
    auto type = getType(mask);
    bool lastAxis = type && scatter.getIntAttr("axis", 0) == type.getRank() - 1 &&
                    type.getShape().back() == selection.numGroups;
    double off = inverted ? 1.0 : 0.0;
    if (lastAxis && scatter.getStringAttr("reduction", "none") == "none" &&
        getSplat(scatter.getInput(0)) == off && getSplat(scatter.getInput(2)) == 1.0 - off)
      return scatter.getInput(1);
    return refusal.refuse(mask, "makes a mask of groups, expected ones scattered into zeros along "
                                "the last dimension");
  }
  // The sum or maximum over one-hot vectors.
  auto reduce = mask.getDefiningOp<NodeOp>();
  if (!inverted && reduce && (reduce.isOp("ReduceSum") || reduce.isOp("ReduceMax"))) {
    auto type = getType(reduce.getInput(0));
    std::optional<SmallVector<int64_t>> axes = getAxes(reduce);
    Value ids = getOneHotIds(reduce.getInput(0), selection.numGroups);
    if (type && axes && axes->size() == 1 && axes->front() == type.getRank() - 2 && ids)
      return ids;
  }
  return refusal.refuse(mask, "is a mask of groups, expected ScatterElements or one-hot vectors");
}

/// The score of a group is the maximum of its keys, or the sum of the two largest.
LogicalResult GroupReader::readScore(Value score, Value key) {
  score = stripReshapesAndCasts(score);
  auto reduce = score.getDefiningOp<NodeOp>();
  Value grouped;
  int64_t best = 1;
  if (reduce && reduce.isOp("ReduceMax") && reducesLastDim(reduce)) {
    grouped = reduce.getInput(0);
  } else {
    bool sums = reduce && reduce.isOp("ReduceSum") && reducesLastDim(reduce);
    Value values = sums ? stripReshapesAndCasts(reduce.getInput(0)) : score;
    NodeOp topk = getNode(values, "TopK");
    auto type = topk ? getType(topk.getInput(0)) : RankedTensorType();
    if (!type || values != topk.getResult(0) || topk.getIntAttr("largest", 1) != 1 ||
        topk.getIntAttr("axis", -1) != type.getRank() - 1)
      return refusal.refuse(score, "is the score of the groups, expected ReduceMax or the sum of "
                                   "TopK's values");
    best = getLastDim(values);
    if (best != 1 && !(best == 2 && sums))
      return refusal.refuse(values, "takes " + Twine(best) + " keys of a group, expected 1 or 2");
    grouped = topk.getInput(0);
  }
  auto type = getType(grouped);
  int64_t rank = type ? type.getRank() : 0;
  if (rank < 2 || type.getDimSize(rank - 2) != selection.numGroups ||
      type.getShape().back() * selection.numGroups != selection.experts)
    return refusal.refuse(grouped, "are keys by group, expected [T, " + Twine(selection.numGroups) +
                                       ", experts / groups]");
  if (stripWidening(grouped) != stripWidening(key))
    return refusal.refuse(grouped, "scores the groups by other keys than those that are masked");
  selection.groupScore = best == 2 ? GroupScore::Top2Sum : GroupScore::Max;
  return success();
}

//===----------------------------------------------------------------------===//
// Selection
//===----------------------------------------------------------------------===//

FailureOr<Selection> mlir::moe::matchSelection(Value ids, int64_t experts, Refusal &refusal) {
  Selection selection;
  selection.ids = stripReshapesAndCasts(ids);
  selection.experts = experts;
  auto node = selection.ids.getDefiningOp<NodeOp>();
  bool isTopK = node && node.isOp("TopK") && selection.ids == node.getResult(1);
  bool isArgMax = node && node.isOp("ArgMax");
  if (!isTopK && !isArgMax)
    return refusal.refuse(selection.ids,
                          "yields the ids, expected the positions of TopK or ArgMax");
  auto type = getType(node.getInput(0));
  if (!type || node.getIntAttr("axis", -1) != type.getRank() - 1 ||
      type.getShape().back() != experts)
    return refusal.refuse(selection.ids, "chooses along another dimension than the last, of the " +
                                             Twine(experts) + " experts");
  if (node.getIntAttr("largest", 1) != 1)
    return refusal.refuse(selection.ids, "chooses the smallest, expected the largest");
  selection.chooser = node;
  selection.k = isArgMax ? 1 : getLastDim(selection.ids);
  if (node.getIntAttr("select_last_index", 0) != 0)
    selection.tieBreak = TieBreak::Higher;

  Selection grouped = selection;
  Refusal notGrouped;
  FailureOr<Value> key = GroupReader{grouped, notGrouped}.read(node.getInput(0));
  if (succeeded(key))
    selection = grouped;
  selection.key = readScores(succeeded(key) ? *key : node.getInput(0), experts);
  return selection;
}

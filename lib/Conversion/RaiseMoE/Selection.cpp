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
  if (node.isOp("Softmax") && isAlongLastDim(node))
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
      if (isVector(add.getInput(i), experts) && getLastDim(add.getInput(1 - i)) == experts &&
          readFn(add.getInput(1 - i))) {
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
      if (!fill || (*fill != 0.0 && !isLowest(*fill)))
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
      topk.getIntAttr("largest", 1) != 1 || !isAlongLastDim(topk))
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
    bool lastAxis = isAlongLastDim(scatter) && getLastDim(mask) == selection.numGroups;
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
    if (!topk || values != topk.getResult(0) || topk.getIntAttr("largest", 1) != 1 ||
        !isAlongLastDim(topk))
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

/// TopK or ArgMax along the last dimension, of the experts.
static FailureOr<Choice> matchChoice(Value ids, int64_t experts, Refusal &refusal) {
  Choice choice;
  choice.ids = stripReshapesAndCasts(ids);
  auto node = choice.ids.getDefiningOp<NodeOp>();
  bool isTopK = node && node.isOp("TopK") && choice.ids == node.getResult(1);
  if (!isTopK && !(node && node.isOp("ArgMax")))
    return refusal.refuse(choice.ids, "yields the ids, expected the positions of TopK or ArgMax");
  if (!isAlongLastDim(node) || getLastDim(node.getInput(0)) != experts)
    return refusal.refuse(choice.ids, "chooses along another dimension than the last, of the " +
                                          Twine(experts) + " experts");
  if (node.getIntAttr("largest", 1) != 1)
    return refusal.refuse(choice.ids, "chooses the smallest, expected the largest");
  choice.chooser = node;
  choice.left = choice.keys = node.getInput(0);
  return choice;
}

/// What `masked` was before the experts `ids` were taken out: by -inf, or by 0 when it is
/// positive.
static Value getBeforeMask(Value masked, const Choice &taken, int64_t experts) {
  Value root = stripWidening(masked);
  auto isTaken = [&](Value mask, bool &inverted) {
    Value ids = getOneHotIds(stripMask(mask, inverted), experts);
    return ids && taken.chooses(ids);
  };
  auto isLowestFill = [](Value value) { return isLowest(getSplat(value).value_or(0)); };
  if (NodeOp scatter = getNode(root, "ScatterElements")) {
    bool replaces = scatter.getStringAttr("reduction", "none") == "none";
    if (isAlongLastDim(scatter) && replaces && taken.chooses(scatter.getInput(1)) &&
        isLowestFill(scatter.getInput(2)))
      return scatter.getInput(0);
  }
  if (NodeOp where = getNode(root, "Where"))
    for (int i : {1, 2}) {
      bool inverted = i == 2;
      if (isLowestFill(where.getInput(i)) && isTaken(where.getInput(0), inverted) && !inverted)
        return where.getInput(3 - i);
    }
  if (NodeOp mul = getNode(root, "Mul"))
    for (int i : {0, 1}) {
      bool inverted = false;
      ScoredTensor scores = readScores(mul.getInput(1 - i), experts);
      bool isPositive = scores.fn != ScoreFn::Identity && !scores.bias;
      if (isPositive && isTaken(mul.getInput(i), inverted) && inverted)
        return mul.getInput(1 - i);
    }
  return {};
}

FailureOr<Selection> mlir::moe::matchRounds(ArrayRef<Value> ids, int64_t experts,
                                            Refusal &refusal) {
  Selection selection;
  selection.experts = experts;
  ScoredTensor first;
  for (Value input : ids) {
    FailureOr<Choice> choice = matchChoice(input, experts, refusal);
    if (failed(choice))
      return failure();
    if (choice->chooser.isOp("TopK") && getLastDim(choice->ids) != 1)
      return refusal.refuse(choice->ids, "chooses several experts, expected one in each round");
    for (const Choice &taken : llvm::reverse(selection.choices)) {
      Value before = getBeforeMask(choice->keys, taken, experts);
      if (!before)
        return refusal.refuse(choice->keys, "is chosen from in a later round, expected keys "
                                            "without the experts already taken");
      choice->keys = before;
    }
    ScoredTensor keys = readScores(choice->keys, experts);
    if (selection.choices.empty())
      first = keys;
    // Score functions are monotone: the order is that of the logits.
    bool sameOrder = keys.logits == first.logits && keys.bias == first.bias &&
                     (!keys.bias || keys.fn == first.fn);
    if (!sameOrder)
      return refusal.refuse(choice->keys, "is chosen from in a later round, expected the keys of "
                                          "the first");
    selection.choices.push_back(*choice);
  }
  selection.k = selection.choices.size();
  selection.key = first;
  return selection;
}

FailureOr<Selection> mlir::moe::matchSelection(Value ids, int64_t experts, Refusal &refusal) {
  Selection selection;
  selection.experts = experts;
  Value root = stripReshapesAndCasts(ids);
  if (NodeOp concat = getNode(root, "Concat")) {
    if (!isAlongLastDim(concat))
      return refusal.refuse(root, "joins ids, expected along the last dimension");
    return matchRounds(SmallVector<Value>(concat.getInputs()), experts, refusal);
  }
  FailureOr<Choice> choice = matchChoice(ids, experts, refusal);
  if (failed(choice))
    return failure();
  selection.choices = {*choice};
  selection.k = choice->chooser.isOp("ArgMax") ? 1 : getLastDim(choice->ids);
  if (choice->chooser.getIntAttr("select_last_index", 0) != 0)
    selection.tieBreak = TieBreak::Higher;

  Selection grouped = selection;
  Refusal notGrouped;
  FailureOr<Value> key = GroupReader{grouped, notGrouped}.read(choice->keys);
  if (succeeded(key))
    selection = grouped;
  selection.key = readScores(succeeded(key) ? *key : choice->keys, experts);
  return selection;
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// With which weights a router mixes: a small algebra over the values at the selected
// experts (scale, normaliser, function).

#include "Router.h"

#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

bool SlotWeights::operator==(const SlotWeights &other) const {
  return source == other.source && fn == other.fn && eps == other.eps && norm == other.norm &&
         normEps == other.normEps && normP == other.normP && scale == other.scale &&
         expertScale == other.expertScale;
}

namespace {

struct WeightReader {
  const Selection &selection;
  /// Whose weights are read; null for all slots of a selection in rounds.
  const Choice *choice;
  int64_t slots;
  Refusal &refusal;

  FailureOr<SlotWeights> read(Value weights);

private:
  FailureOr<SlotWeights> readPlain(Value weights, StringRef what);
  FailureOr<SlotWeights> readJoined(NodeOp concat);
  FailureOr<SlotWeights> readValues(Value values);
  FailureOr<SlotWeights> readLargest(NodeOp reduce);
  FailureOr<SlotWeights> readGathered(Value tensor, Value ids);
  FailureOr<SlotWeights> readProduct(NodeOp mul);
  FailureOr<SlotWeights> readQuotient(NodeOp div);
  FailureOr<SlotWeights> scaleBy(Value weights, double factor);
  FailureOr<SlotWeights> normalizeBy(Value weights, Value divisor);

  bool areIds(Value ids) const { return choice && choice->chooses(ids); }
  Value getExpertScale(Value value) const;
};

} // namespace

static RankedTensorType getType(Value value) { return dyn_cast<RankedTensorType>(value.getType()); }

FailureOr<SlotWeights> WeightReader::readPlain(Value weights, StringRef what) {
  FailureOr<SlotWeights> inner = read(weights);
  if (failed(inner))
    return failure();
  if (!inner->isPlain())
    return refusal.refuse(weights,
                          "is the operand of " + what + ", expected values at the experts");
  return inner;
}

/// The weights of one slot after the other, all made alike.
FailureOr<SlotWeights> WeightReader::readJoined(NodeOp concat) {
  Value root = concat.getResult(0);
  if (choice || !isAlongLastDim(concat) || concat.getNumInputs() != selection.choices.size())
    return refusal.refuse(root, "joins weights, expected one of each round of the selection");
  std::optional<SlotWeights> all;
  for (auto [input, round] : llvm::zip_equal(concat.getInputs(), selection.choices)) {
    FailureOr<SlotWeights> one = WeightReader{selection, &round, 1, refusal}.read(input);
    if (failed(one))
      return failure();
    if (all && !(*one == *all))
      return refusal.refuse(input, "is the weight of a later round, expected it as in the first");
    all = *one;
  }
  return *all;
}

/// The keys of the choice, where TopK found them. Groups masked by 0 have scores that are
/// not negative, so that they are only selected where all else is 0.
FailureOr<SlotWeights> WeightReader::readValues(Value values) {
  ScoredTensor keys =
      selection.isGrouped() ? selection.key : readScores(choice->keys, selection.experts);
  bool isExact = !selection.isGrouped() || selection.groupFill == GroupFill::NegInf ||
                 (keys.fn != ScoreFn::Identity && !keys.bias);
  if (!isExact)
    return refusal.refuse(values, "yields keys that may be those of masked groups");
  SlotWeights weights;
  weights.source = keys;
  return weights;
}

/// The maximum of scores is the score of the one expert with the largest key.
FailureOr<SlotWeights> WeightReader::readLargest(NodeOp reduce) {
  Value tensor = reduce.getInput(0);
  if (choice && slots == 1 && reducesLastDim(reduce)) {
    if (haveSameElements(tensor, choice->left))
      return readValues(reduce.getResult(0));
    // Score functions are monotone, so keys and scores may be any of one tensor's.
    SlotWeights weights;
    weights.source = readScores(tensor, selection.experts);
    if (selection.choices.size() == 1 && !selection.isGrouped() && !selection.key.bias &&
        !weights.source.bias && weights.source.logits == selection.key.logits)
      return weights;
  }
  return refusal.refuse(reduce.getResult(0),
                        "is a maximum, expected that of the keys of the one expert chosen");
}

FailureOr<SlotWeights> WeightReader::readGathered(Value tensor, Value ids) {
  if (!areIds(ids))
    return refusal.refuse(ids, "gathers the weights, expected the ids of the experts");
  if (getLastDim(tensor) != selection.experts)
    return refusal.refuse(tensor, "is gathered from, expected one column per expert");
  SlotWeights weights;
  if (std::optional<double> eps = matchSparseMixer(tensor, *choice)) {
    weights.source = readScores(choice->keys, selection.experts);
    weights.fn = WeighFn::MaskedSoftmax;
    weights.eps = *eps;
    return weights;
  }
  weights.source = readScores(tensor, selection.experts);
  return weights;
}

FailureOr<SlotWeights> WeightReader::scaleBy(Value value, double factor) {
  FailureOr<SlotWeights> weights = read(value);
  if (succeeded(weights))
    weights->scale *= factor;
  return weights;
}

/// The vector [E] that is gathered by the ids; null when there is none.
Value WeightReader::getExpertScale(Value value) const {
  NodeOp gather = getNode(stripReshapesAndCasts(value), "Gather");
  if (!gather || gather.getIntAttr("axis", 0) != 0 || !areIds(gather.getInput(1)))
    return {};
  auto type = getType(gather.getInput(0));
  bool isVector = type && type.getRank() == 1 && type.getDimSize(0) == selection.experts;
  return isVector ? gather.getInput(0) : Value();
}

FailureOr<SlotWeights> WeightReader::readProduct(NodeOp mul) {
  for (int i : {0, 1}) {
    Value other = mul.getInput(1 - i);
    if (std::optional<double> factor = getSplat(other))
      return scaleBy(mul.getInput(i), *factor);
    if (NodeOp reciprocal = getNode(stripReshapesAndCasts(other), "Reciprocal"))
      return normalizeBy(mul.getInput(i), reciprocal.getInput(0));
    if (Value scale = getExpertScale(other)) {
      FailureOr<SlotWeights> weights = read(mul.getInput(i));
      if (failed(weights))
        return failure();
      if (weights->expertScale)
        return refusal.refuse(other, "scales the experts a second time");
      weights->expertScale = scale;
      return weights;
    }
  }
  return refusal.refuse(mul.getResult(0), "multiplies the weights, expected a constant, a "
                                          "reciprocal or a factor per expert");
}

FailureOr<SlotWeights> WeightReader::readQuotient(NodeOp div) {
  if (std::optional<double> divisor = getSplat(div.getInput(1)))
    return scaleBy(div.getInput(0), 1.0 / *divisor);
  return normalizeBy(div.getInput(0), div.getInput(1));
}

/// `value` / `divisor`, which is a norm of the token's values.
FailureOr<SlotWeights> WeightReader::normalizeBy(Value value, Value divisor) {
  Value used = divisor;
  // One divisor per token, perhaps repeated for its slots.
  Value root = stripReshapesAndCasts(divisor);
  if (NodeOp expand = getNode(root, "Expand")) {
    used = expand.getInput(0);
    root = stripReshapesAndCasts(used);
  }
  if (slots > 1 && (getLastDim(used) != 1 || getLastDim(value) != slots))
    return refusal.refuse(divisor, "divides the weights, expected one number per token");

  FailureOr<SlotWeights> weights = read(value);
  if (failed(weights))
    return failure();
  if (weights->norm != WeighNorm::None || weights->expertScale)
    return refusal.refuse(divisor, "normalises the weights a second time");

  auto node = root.getDefiningOp<NodeOp>();
  weights->norm = WeighNorm::Sum;
  std::optional<double> bound;
  if (node && (node.isOp("Add") || node.isOp("Max") || node.isOp("Clip"))) {
    bool swapped = !node.isOp("Clip") && getSplat(node.getInput(0));
    Value other = node.getInput(swapped ? 0 : 1);
    bound = other ? getSplat(other) : std::nullopt;
    bool isClipped = node.isOp("Clip") && node.getInput(2);
    if (!bound || *bound < 0 || isClipped)
      return refusal.refuse(root, "bounds the divisor, expected a constant that is not negative");
    bool isLower = !node.isOp("Add") && *bound > 0;
    weights->norm = isLower ? WeighNorm::Clamp : WeighNorm::Sum;
    root = stripReshapesAndCasts(node.getInput(swapped ? 1 : 0));
    node = root.getDefiningOp<NodeOp>();
  }
  bool isNorm = node && (node.isOp("ReduceL1") || node.isOp("ReduceL2"));
  if (!node || !(node.isOp("ReduceSum") || isNorm) || !reducesLastDim(node) ||
      getLastDim(node.getInput(0)) != slots ||
      stripReshapesAndCasts(node.getInput(0)) != stripReshapesAndCasts(value))
    return refusal.refuse(root, "is the divisor of the weights, expected the sum of a token's");
  if (isNorm) {
    if (bound.value_or(0) > 0)
      return refusal.refuse(root, "is a norm with a bound, expected a plain one");
    weights->norm = WeighNorm::PNorm;
    weights->normP = node.isOp("ReduceL1") ? 1.0 : 2.0;
  }
  // A factor of both is one of the bound.
  if (!(weights->scale > 0))
    return refusal.refuse(value, "is scaled by a number that is not positive, then normalised");
  weights->normEps = bound.value_or(0) / weights->scale;
  weights->scale = 1;
  return weights;
}

FailureOr<SlotWeights> WeightReader::read(Value value) {
  Value root = stripReshapesAndCasts(value);
  auto node = root.getDefiningOp<NodeOp>();
  if (!node)
    return refusal.refuse(root, "yields the weights, expected a function of the router's scores");
  if (choice && node == choice->chooser && node.isOp("TopK") && root == node.getResult(0))
    return readValues(root);
  if (node.isOp("Concat"))
    return readJoined(node);
  if (node.isOp("ReduceMax"))
    return readLargest(node);
  if (node.isOp("GatherElements") && isAlongLastDim(node))
    return readGathered(node.getInput(0), node.getInput(1));
  if (node.isOp("GatherND")) {
    auto type = getType(node.getInput(0));
    if (type && node.getIntAttr("batch_dims", 0) == type.getRank() - 1 &&
        getLastDim(node.getInput(1)) == 1)
      return readGathered(node.getInput(0), node.getInput(1));
  }
  if (node.isOp("Softmax")) {
    if (!isAlongLastDim(node) || getLastDim(root) != slots)
      return refusal.refuse(root, "yields the weights, expected a softmax over the " +
                                      Twine(slots) + " selected");
    FailureOr<SlotWeights> weights = readPlain(node.getInput(0), "Softmax");
    if (succeeded(weights))
      weights->fn = WeighFn::Softmax;
    return weights;
  }
  if (node.isOp("Sigmoid")) {
    FailureOr<SlotWeights> weights = readPlain(node.getInput(0), "Sigmoid");
    if (succeeded(weights))
      weights->fn = WeighFn::Sigmoid;
    return weights;
  }
  if (node.isOp("Mul"))
    return readProduct(node);
  if (node.isOp("Div"))
    return readQuotient(node);
  return refusal.refuse(root, "yields the weights, expected values at the selected experts, their "
                              "softmax, sigmoid, quotient by their sum, or multiple");
}

FailureOr<SlotWeights> mlir::moe::matchSlotWeights(Value weights, const Selection &selection,
                                                   Refusal &refusal) {
  const Choice *choice = selection.choices.size() == 1 ? selection.choices.data() : nullptr;
  return WeightReader{selection, choice, selection.k, refusal}.read(weights);
}

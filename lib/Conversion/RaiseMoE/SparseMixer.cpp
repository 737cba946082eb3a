// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One round of PhiMoE's sparse mixer: the softmax over the scores s that are near the
// largest, M, of those not yet taken:
//   Softmax(Where((M - s) / max(|s|, M) > 2 · eps, -inf, s)).

#include "Router.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

namespace {

struct MixerReader {
  /// The scores, without and with those already taken.
  Value scores, left;

  std::optional<double> read(Value probabilities) const;

private:
  std::optional<double> readFar(Value far, bool inverted) const;
  bool isReach(Value divisor) const;
  bool isScore(Value value) const;
  bool isLargest(Value value) const;
};

} // namespace

/// Who is taken has the score -inf, which is far in any case: both kinds mean the same.
bool MixerReader::isScore(Value value) const {
  value = stripReshapesAndCasts(value);
  return value == scores || value == left;
}

bool MixerReader::isLargest(Value value) const {
  value = stripReshapesAndCasts(value);
  auto node = value.getDefiningOp<NodeOp>();
  if (!node)
    return false;
  bool isMax = node.isOp("ReduceMax") && reducesLastDim(node);
  bool isFirst = node.isOp("TopK") && value == node.getResult(0) && getLastDim(value) == 1;
  return (isMax || isFirst) && stripReshapesAndCasts(node.getInput(0)) == left;
}

std::optional<double> MixerReader::read(Value probabilities) const {
  NodeOp softmax = getNode(stripReshapesAndCasts(probabilities), "Softmax");
  if (!softmax || !isAlongLastDim(softmax))
    return std::nullopt;
  NodeOp where = getNode(stripReshapesAndCasts(softmax.getInput(0)), "Where");
  if (!where)
    return std::nullopt;
  bool maskFirst = getSplat(where.getInput(1)).has_value();
  std::optional<double> fill = getSplat(where.getInput(maskFirst ? 1 : 2));
  bool keepsLeft = stripReshapesAndCasts(where.getInput(maskFirst ? 2 : 1)) == left;
  if (!fill || !isLowest(*fill) || !keepsLeft)
    return std::nullopt;
  return readFar(where.getInput(0), !maskFirst);
}

std::optional<double> MixerReader::readFar(Value far, bool inverted) const {
  far = stripReshapes(far);
  while (NodeOp inverse = getNode(far, "Not")) {
    far = stripReshapes(inverse.getInput(0));
    inverted = !inverted;
  }
  auto compare = far.getDefiningOp<NodeOp>();
  StringRef greater = inverted ? "LessOrEqual" : "Greater",
            less = inverted ? "GreaterOrEqual" : "Less";
  if (!compare || !(compare.isOp(greater) || compare.isOp(less)))
    return std::nullopt;
  bool swapped = compare.isOp(less);
  std::optional<double> bound = getSplat(compare.getInput(swapped ? 0 : 1));
  NodeOp div = getNode(stripReshapesAndCasts(compare.getInput(swapped ? 1 : 0)), "Div");
  if (!bound || !(*bound > 0) || !div)
    return std::nullopt;
  NodeOp distance = getNode(stripReshapesAndCasts(div.getInput(0)), "Sub");
  if (!distance || !isLargest(distance.getInput(0)) || !isScore(distance.getInput(1)) ||
      !isReach(div.getInput(1)))
    return std::nullopt;
  return *bound / 2;
}

/// max(|s|, M) or max(|s|, |M|), which is the same as s ≤ M.
bool MixerReader::isReach(Value divisor) const {
  NodeOp max = getNode(stripReshapesAndCasts(divisor), "Max");
  if (!max)
    return false;
  for (int i : {0, 1}) {
    NodeOp ofScore = getNode(stripReshapesAndCasts(max.getInput(i)), "Abs");
    Value largest = max.getInput(1 - i);
    NodeOp ofLargest = getNode(stripReshapesAndCasts(largest), "Abs");
    if (ofScore && isScore(ofScore.getInput(0)) &&
        isLargest(ofLargest ? ofLargest.getInput(0) : largest))
      return true;
  }
  return false;
}

std::optional<double> mlir::moe::matchSparseMixer(Value probabilities, const Choice &choice) {
  return MixerReader{stripReshapesAndCasts(choice.keys), stripReshapesAndCasts(choice.left)}.read(
      probabilities);
}

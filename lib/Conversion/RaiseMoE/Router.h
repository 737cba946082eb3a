// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Routers in ONNX graphs: how the ids and weights of a routing are computed.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_ROUTER_H
#define MOEC_LIB_CONVERSION_RAISEMOE_ROUTER_H

#include "Dataflow.h"

#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe {

/// A tensor [T·E] read as a function of logits, plus a bias.
struct ScoredTensor {
  /// The logits, or the tensor itself with `fn = identity`.
  Value logits;
  ScoreFn fn = ScoreFn::Identity;
  /// Type in which the scores are given on; the narrowest of the casts.
  Type elementType;
  /// [E], added to the scores; null when there is none.
  Value bias;

  bool operator==(const ScoredTensor &other) const {
    return logits == other.logits && fn == other.fn && elementType == other.elementType &&
           bias == other.bias;
  }
};

/// Reads `tensor`. A bias is only told from the logits' own when it is added to a score.
ScoredTensor readScores(Value tensor, int64_t experts);

/// The choice of one slot, or of all at once: TopK or ArgMax.
struct Choice {
  onnx::NodeOp chooser;
  /// The ids, without reshapes and casts.
  Value ids;
  /// What was chosen from; and the same before earlier slots took theirs out.
  Value left, keys;

  bool chooses(Value value) const { return stripReshapesAndCasts(value) == ids; }
};

/// The experts chosen by the largest keys.
struct Selection {
  /// One choice of k experts, or k choices of one each.
  SmallVector<Choice, 2> choices;
  int64_t experts = 0, k = 0;
  ScoredTensor key;
  TieBreak tieBreak = TieBreak::Lower;
  int64_t numGroups = 1, topGroups = 1;
  GroupScore groupScore = GroupScore::Max;
  GroupFill groupFill = GroupFill::NegInf;

  bool isGrouped() const { return numGroups > 1; }
};

/// Reads how `ids` were chosen: the largest along the last dimension of a tensor with as
/// many columns as experts, perhaps limited to groups of experts.
FailureOr<Selection> matchSelection(Value ids, int64_t experts, Refusal &refusal);

/// Reads the ids of each slot as the largest, then the largest of the others, and so on.
FailureOr<Selection> matchRounds(ArrayRef<Value> ids, int64_t experts, Refusal &refusal);

/// Reads `probabilities` as those of the round of PhiMoE's sparse mixer that made the choice: the
/// eps of moe.weigh.
std::optional<double> matchSparseMixer(Value probabilities, const Choice &choice);

/// The weights of selected experts.
struct SlotWeights {
  ScoredTensor source;
  WeighFn fn = WeighFn::None;
  /// Of masked_softmax.
  double eps = 0;
  WeighNorm norm = WeighNorm::None;
  double normEps = 0, scale = 1;
  std::optional<double> normP;
  /// [E]; null when there is none.
  Value expertScale;

  bool isPlain() const {
    return fn == WeighFn::None && norm == WeighNorm::None && scale == 1 && !expertScale;
  }
  /// True for weights made in the same way.
  bool operator==(const SlotWeights &other) const;
};

/// Reads `weights` [T·k] as a function of a tensor [T·E] at the selected experts.
FailureOr<SlotWeights> matchSlotWeights(Value weights, const Selection &selection,
                                        Refusal &refusal);

/// A mask of experts that accept their first `capacity` tokens.
struct CapacityMask {
  /// The expert of each token, [T] in any shape.
  Value ids;
  int64_t capacity = 0;
  /// Tokens are counted along dimension `groupDim` of this tensor; -1: all together.
  Value counted;
  int64_t groupDim = -1;
};

/// Reads `mask` [T·E]: one-hot vectors of one expert per token, 0 where the expert has
/// already accepted its capacity.
FailureOr<CapacityMask> matchCapacityMask(Value mask, int64_t experts, Refusal &refusal);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_ROUTER_H

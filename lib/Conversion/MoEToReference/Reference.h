// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The plain meaning of the moe ops, as functions of values: fused ops are composed
// of the functions of the simple ones. Shapes: T tokens, E experts, k slots,
// H hidden size, I intermediate size, R = T·k rows.

#ifndef MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCE_H
#define MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCE_H

#include "ReferenceBuilder.h"
#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe::reference {

/// What a !moe.routing is converted to.
struct Routing {
  /// i32 [T,E]: the slot at which the token chose the expert, -1 if it did not.
  Value slots;
  /// f32 [T,E], 0 where there is no slot; null when unweighted.
  Value weights;
  int64_t experts;
  int64_t k;
};

/// The (token, expert) pairs of a routing, sorted by expert, then by token.
struct Rows {
  /// index [R]: token and expert of each row; only the first `count` are set.
  Value tokens, experts;
  /// index [T,k]: row of a token's slot, -1 when the slot is empty.
  Value ofSlot;
  /// Number S of rows.
  Value count;
  OpFoldResult capacity;
};

/// Groups of `size` consecutive tokens; T is a multiple of it when a call succeeds.
struct Groups {
  /// ≥ 1.
  Value size;
  /// Number of groups, at most T.
  Value count;
  Value tokens;

  /// The group that token t is in; its first token and the one after its last.
  Value of(ReferenceBuilder &b, Value t) const { return b.quotient(t, size); }
  Value begin(ReferenceBuilder &b, Value group) const { return b.mul(group, size); }
  Value end(ReferenceBuilder &b, Value group) const {
    return b.minIndex(b.add(begin(b, group), size), tokens);
  }
  Value length(ReferenceBuilder &b, Value group) const;
};

/// Keys [T,E], and which experts may be taken.
struct Candidates {
  Value keys;
  /// i1 [T,E]; null: all.
  Value allowed;

  /// Whether token t may take expert e.
  Value mayTake(ReferenceBuilder &b, Value t, Value e) const {
    return allowed ? b.rawAt(allowed, {t, e}) : b.boolean(true);
  }
};

/// Groups of experts; see moe.select.
struct ExpertGroups {
  int64_t count, kept;
  GroupScore score;
  GroupFill fill;
};

/// How a token's experts are selected; see moe.select.
struct SelectOptions {
  SelectMode mode = SelectMode::TopK;
  int64_t k = 1;
  double p = 1, tau = 0;
  TieBreak tie = TieBreak::Lower;
};

/// How a token's weights are computed; see moe.weigh.
struct WeighOptions {
  WeighFn fn = WeighFn::None;
  double eps = 0;
  WeighNorm norm = WeighNorm::None;
  double normEps = 0, normP = 1;
  double scale = 1;
  /// [E]; null when there is none.
  Value expertScale;
};

/// How many entries an expert accepts, and in which order they ask; see moe.capacity.
struct CapacityOptions {
  CapacityAttr capacity;
  CapacityOrder order;
  int64_t keep;
  /// [T,E]; null when the order has none.
  Value priority;
};

/// Trees of moe.tree_select.
struct Trees {
  Value nodeWeight, nodeBias, leafWeight, leafBias, permutation;
  int64_t leaves;
  double gamma, logEps, pMin;
};

/// A product with the experts' matrices; see moe.grouped_matmul.
struct Bank {
  Value weight;
  Value bias;
  Layout layout = Layout::OutIn;
};

/// The experts' networks; see moe.expert_ffn.
struct Networks {
  Bank up, gate, down;
  ActivationAttr activation;
  /// What the experts compute; empty when all are networks.
  SmallVector<ExpertRange> kinds;
  Value constants;
};

/// How rows are summed; see moe.combine.
struct CombineOptions {
  CombineWeight weight = CombineWeight::Output;
  Accum accum = Accum::F32;
  double postScale = 1;
  /// [T,H] and the routing whose weights it gets; null when there is none.
  Value uncovered;
  Routing uncoveredRouting = {};
};

// Routings (ReferenceRouting.cpp).
Groups groupsOf(ReferenceBuilder &b, OpFoldResult tokens, Value groupSize);
/// index [T,k]: the expert in each slot, -1 when it is empty.
Value expertsOfSlots(ReferenceBuilder &b, const Routing &routing);
/// Slots of the entries for which `keep` [T,E] (i1) holds, renumbered 0, 1, ….
Value renumbered(ReferenceBuilder &b, Value slots, Value keep);
/// The weights of the entries that `slots` still has.
Value weightsOf(ReferenceBuilder &b, Value slots, Value weights);
Value given(ReferenceBuilder &b, Value ids, int64_t experts);
Routing compose(ReferenceBuilder &b, const Routing &outer, ArrayRef<Routing> inner, int64_t k);
Routing remap(ReferenceBuilder &b, const Routing &routing, Value map, RemapPolicy policy,
              int64_t experts);

// Scores (ReferenceScores.cpp).
Value logits(ReferenceBuilder &b, Value x, const Bank &router, Value noise,
             std::optional<double> softcap, Type type);
/// `groupSize` is null when all tokens are one group.
Value score(ReferenceBuilder &b, Value logits, ScoreFn fn, Axis axis, Value groupSize, Type type);

// Selection (ReferenceSelection.cpp): slots.
/// Keys plus bias; masks are null when there are none.
Candidates candidates(ReferenceBuilder &b, Value key, Value bias, Value tokenMask,
                      Value expertMask);
Candidates limitedToGroups(ReferenceBuilder &b, const Candidates &all, const ExpertGroups &groups);
Value select(ReferenceBuilder &b, const Candidates &from, const SelectOptions &options);
/// Every expert takes its C best tokens.
Value selectByExperts(ReferenceBuilder &b, const Candidates &from, CapacityAttr capacity,
                      const Groups &groups, int64_t k);

// Weights (ReferenceWeights.cpp).
/// Weights of the entries, f32; without a source, those of the routing.
Value weigh(ReferenceBuilder &b, const Routing &routing, Value source, Value bias,
            const WeighOptions &options);
Routing filter(ReferenceBuilder &b, const Routing &routing, Value random, int64_t fromSlot,
               double threshold);
/// Weights of the entries, f32, and those of the shared experts.
std::pair<Value, Value> blend(ReferenceBuilder &b, const Routing &routing, Value source,
                              Value shared, BlendMode mode, Type sharedType);

// Capacity (ReferenceCapacity.cpp).
/// C of a group of `tokens` tokens, an index.
Value evaluate(ReferenceBuilder &b, CapacityAttr capacity, Value tokens, int64_t experts,
               int64_t k);
Routing limit(ReferenceBuilder &b, const Routing &routing, const CapacityOptions &options,
              const Groups &groups);

// Trees (ReferenceTrees.cpp).
/// The routing, and i64 [T]: how many nodes have a probability above 0.
std::pair<Routing, Value> treeSelect(ReferenceBuilder &b, Value x, const Trees &trees);

// Experts (ReferenceExperts.cpp).
Rows sortRows(ReferenceBuilder &b, const Routing &routing);
/// x[T,H] to [R,H]; `scaled` multiplies each row by its weight.
Value dispatch(ReferenceBuilder &b, Value x, const Routing &routing, const Rows &rows, bool scaled,
               Type type);
/// input[R,K] to [R,N].
Value groupedMatmul(ReferenceBuilder &b, Value input, const Rows &rows, const Bank &bank,
                    Type type);
/// input[R,N] to [R,I]; `linear` only when the activation's glu is separate.
Value activate(ReferenceBuilder &b, Value input, Value linear, ActivationAttr activation,
               Type type);
/// The experts' networks on rows[R,H]; `gate` has no weight unless glu is separate.
Value feedForward(ReferenceBuilder &b, Value input, const Rows &rows, const Networks &networks,
                  Type type);
/// input[R,H] to y[tokens,H].
Value combine(ReferenceBuilder &b, Value input, const Routing &routing, const Rows &rows,
              OpFoldResult tokens, const CombineOptions &options, Type type);
/// The shared experts on x[T,H]; `weight` [T,S] and `y` [T,H] may be null.
Value shared(ReferenceBuilder &b, Value x, const Networks &networks, int64_t experts, Value weight,
             Value y, Merge merge, Type type);
/// Codes to real values; see moe.dequantize.
Value dequantize(ReferenceBuilder &b, Value codes, Value scales, Value zeroPoints, int64_t bits,
                 int64_t block, RankedTensorType type);

// Auxiliary outputs (ReferenceAuxiliary.cpp). Results are tensors of the given type.
Value loadBalance(ReferenceBuilder &b, Value probabilities, const Routing &routing,
                  const Groups &groups, AuxFraction fraction, bool perSlot, Type type);
Value zLoss(ReferenceBuilder &b, Value logits, Type type);
/// cv² of the sums of the columns.
Value importance(ReferenceBuilder &b, Value weights, Type type);
Value loadUnderNoise(ReferenceBuilder &b, Value logits, Value noisy, Value noiseStd, int64_t k,
                     LoadVariant variant, Type type);
/// i64 [E].
Value tokensPerExpert(ReferenceBuilder &b, const Routing &routing);
Value meanProbability(ReferenceBuilder &b, Value probabilities, Type type);
Value entropy(ReferenceBuilder &b, Value probabilities, Type type);
Value updateBias(ReferenceBuilder &b, Value bias, Value count, BiasRule rule, double rate,
                 bool recenter, Type type);

} // namespace mlir::moe::reference

#endif // MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCE_H

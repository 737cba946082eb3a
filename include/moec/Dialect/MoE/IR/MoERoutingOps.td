// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEROUTINGOPS_TD
#define MOEC_DIALECT_MOE_IR_MOEROUTINGOPS_TD

include "moec/Dialect/MoE/IR/MoEOpBase.td"

def MoE_LogitsOp : MoE_ReifyOp<"logits", [AttrSizedOperandSegments]> {
  let summary = "the router's logits: L = x · Wᵀ + b";
  let description = [{
    x[T,H], weight [E,H] (`out_in`) or [H,E] (`in_out`), bias [E]; L[T,E],
    accumulated in f32. `softcap` c turns a logit l into c · tanh(l / c). `noise`
    [T,E] is added at the end: the caller's random numbers, already multiplied by their
    standard deviation (noisy top-k); `--moe-inference` removes it.

    C1: H of x and of the weight agree. C2: E of the weight and of the result, and T
    of x and of the result agree. C3: the bias has E elements. C4: noise is [T,E].
    C5: the softcap is positive.
  }];
  let arguments = (ins MoE_Matrix:$x, MoE_Matrix:$weight, Optional<MoE_Vector>:$bias,
                       Optional<MoE_Matrix>:$noise,
                       DefaultValuedAttr<MoE_LayoutAttr, "::mlir::moe::Layout::OutIn">:$layout,
                       OptionalAttr<F64Attr>:$softcap);
  let results = (outs MoE_Matrix:$logits);
  let assemblyFormat = [{
    $x `,` $weight (`bias` `(` $bias^ `)`)? (`noise` `(` $noise^ `)`)?
    attr-dict `:` functional-type(operands, results)
  }];
  let builders = [OpBuilder<(ins "::mlir::Type":$type, "::mlir::Value":$x,
      "::mlir::Value":$weight, "::mlir::Value":$bias, "::mlir::moe::Layout":$layout)>];
  let hasCanonicalizer = 1;
  let hasVerifier = 1;
}

def MoE_ScoreOp : MoE_ReifyOp<"score"> {
  let summary = "scores of the experts: s = f(L)";
  let description = [{
    f over L[T,E]: `identity`, `softmax` (over the experts or the tokens: `axis`),
    `sigmoid`, `sqrtsoftplus` (√ln(1+e^L)), `logsigmoid` (-ln(1+e^-L)). Computed in f32
    at least. With `group_size` n, a softmax over the tokens is one over each n
    consecutive tokens; a call whose T is not a multiple of n reports an error.

    C1: shapes of logits and scores agree. C2: `group_size` needs a softmax over the
    tokens.
  }];
  let arguments = (ins MoE_Matrix:$logits, Optional<Index>:$group_size, MoE_ScoreFnAttr:$fn,
                       DefaultValuedAttr<MoE_AxisAttr, "::mlir::moe::Axis::Experts">:$axis);
  let results = (outs MoE_Matrix:$scores);
  let assemblyFormat = [{
    $fn $logits (`group_size` `(` $group_size^ `)`)? attr-dict
    `:` type($logits) `->` type($scores)
  }];
  let builders = [OpBuilder<(ins "::mlir::Type":$type, "::mlir::Value":$logits,
      "::mlir::moe::ScoreFn":$fn, CArg<"::mlir::moe::Axis", "Axis::Experts">:$axis)>];
  let hasVerifier = 1;
  let hasFolder = 1;
}

def MoE_SelectOp : MoE_PureOp<"select", [InferTypeOpAdaptor, AttrSizedOperandSegments]> {
  let summary = "the experts of each token";
  let description = [{
    Selection by the key κ = key + bias, after groups and masks:

    - `all`: every expert; its slot is its index.
    - `topk`: the k largest, slots in falling order of κ.
    - `topp`: the first min(k, 1 + #{j : c_j < p}) of that order, c_j = κ_1 + … + κ_j;
      k of them when p ≥ 1. Meant for keys that are probabilities.
    - `threshold`: those with κ > tau in that order, at most k.
    - `expert_topk`: every expert takes the C tokens with its largest keys (of equals
      the lower token), C from `capacity` (its `k` is this k), per group of `group_size`
      consecutive tokens when given (a call whose T is not a multiple of it reports an
      error). A token's slots are in falling order of κ, of equals the lower expert.

    Equal keys: the expert with the `lower` (or `higher`: `tie_break`) index first. NaN
    counts as the largest value, so a selected NaN makes the token's weights NaN.

    Groups: the experts are `n_group` consecutive groups; the `topk_group` with the
    largest score (`max` of their keys, or the sum of the two largest, `top2sum`; of
    equals the lower group) stay. Experts of the others are masked (`group_fill =
    neg_inf`) or take part with the key 0 (`zero`), which can beat a negative one.

    Masks (true: allowed): a token without `token_mask` has no expert; an expert without
    `expert_mask` ([T,E] or [E]) is never selected and not seen by group scores. A token
    with fewer than k allowed experts has fewer entries; the empty slots are the last.
    A group without an allowed expert is chosen last.

    C1: 1 ≤ k ≤ E. C2: E is static. C3: the bias has E elements.
    C4: `all` and `expert_topk` have k = E. C5: token_mask has T elements.
    C6: expert_mask is [E] or [T,E]. C7: n_group divides E, and
    1 ≤ topk_group ≤ n_group. C8: groups need topk, topp or threshold. C9: the groups
    that stay hold k experts, unless group_fill = zero. C10: a positive `p` if and only
    if topp. C11: a `tau` that is a number if and only if threshold. C12: `capacity` if
    and only if expert_topk; `group_size` only with it. C13: tie_break = higher needs
    topk, topp or threshold.
  }];
  let arguments = (ins MoE_Matrix:$key, Optional<MoE_Vector>:$bias,
                       Optional<TensorRankOf<[I1], [1]>>:$token_mask,
                       Optional<TensorRankOf<[I1], [1, 2]>>:$expert_mask,
                       Optional<Index>:$group_size,
                       DefaultValuedAttr<MoE_SelectModeAttr, "::mlir::moe::SelectMode::TopK">:$mode,
                       I64Attr:$k, OptionalAttr<F64Attr>:$p, OptionalAttr<F64Attr>:$tau,
                       OptionalAttr<MoE_CapacityAttr>:$capacity,
                       DefaultValuedAttr<I64Attr, "1">:$n_group,
                       DefaultValuedAttr<I64Attr, "1">:$topk_group,
                       DefaultValuedAttr<MoE_GroupScoreAttr, "::mlir::moe::GroupScore::Max">:$group_score,
                       DefaultValuedAttr<MoE_GroupFillAttr, "::mlir::moe::GroupFill::NegInf">:$group_fill,
                       DefaultValuedAttr<MoE_TieBreakAttr, "::mlir::moe::TieBreak::Lower">:$tie_break);
  let results = (outs MoE_RoutingType:$routing);
  let assemblyFormat = [{
    $key (`bias` `(` $bias^ `)`)? (`token_mask` `(` $token_mask^ `)`)?
    (`expert_mask` `(` $expert_mask^ `)`)? (`group_size` `(` $group_size^ `)`)?
    attr-dict `:` functional-type(operands, results)
  }];
  let builders = [OpBuilder<(ins "::mlir::Value":$key, "::mlir::Value":$bias,
      "::mlir::moe::SelectMode":$mode, "int64_t":$k)>];
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
  let extraClassDeclaration = [{
    bool isGrouped() { return getNGroup() > 1; }
    bool isMasked() { return getTokenMask() || getExpertMask(); }
  }];
}

def MoE_GivenOp : MoE_PureOp<"given"> {
  let summary = "the experts of each token, given from outside";
  let description = [{
    ids[T,k]: column j is the expert of slot j. A negative id, or one of at least E, is
    no expert. An expert that a token names twice counts once, in the lower slot. Hash
    routing (ids looked up by token) and the replay of a recorded routing.

    C1: k of ids and of the routing agree. C2: the routing is unweighted.
  }];
  let arguments = (ins MoE_Ids:$ids);
  let results = (outs MoE_RoutingType:$routing);
  let assemblyFormat = "$ids attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def MoE_EntriesOp : MoE_ReifyOp<"entries"> {
  let summary = "the entries of a routing as tensors";
  let description = [{
    ids[T,k]: the expert in each slot of each of the `tokens` tokens of the routing, -1
    where the slot is empty; weights[T,k], 0 where it is empty. `moe.given` is the way
    back.

    C1: ids and weights have the routing's k columns. C2: weights if and only if the
    routing is weighted.
  }];
  let arguments = (ins MoE_RoutingType:$routing, Index:$tokens);
  let results = (outs TensorRankOf<[I32], [2]>:$ids, Optional<TensorRankOf<[F32], [2]>>:$weights);
  let assemblyFormat = [{
    $routing `tokens` `(` $tokens `)` attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_WeighOp : MoE_PureOp<"weigh", [AttrSizedOperandSegments]> {
  let summary = "the weights of the selected experts";
  let description = [{
    w = norm(fn(source + bias at the selected experts)) · scale · expert_scale, per
    token. Without a source, the weights that the routing has take the place of
    fn(source): renormalisation.

    fn: `none`; `softmax` over the selected; `sigmoid`; `masked_softmax`, the sparse
    mixer of PhiMoE (Phi-3.5-MoE modelling code; ONNX Runtime `use_sparse_mixer`): in
    the round of each entry, rounds in the order of the slots, with M the largest of the
    source values (of all E experts) not yet taken, the weight is `1 / Σ exp(s - M)`
    over the values s not yet taken with `M - s ≤ 2·eps·max(|s|, M)`. (Uni-MoE writes
    |M| there; as s ≤ M, the maximum is the same.)
    norm: `none`; `sum`: w / (Σw + norm_eps), and 0 where that sum is 0; `clamp`:
    w / max(Σw, norm_eps); `pnorm`: w / (Σ|w|^norm_p)^(1/norm_p), and 0 where that is 0;
    `count`: w / max(number of entries, 1). Sums are over the token's entries.
    `bias` [E] makes a biased key the weight. `expert_scale` [E] comes last.

    C1: the source has E columns. C2: the operand is unweighted with a source and
    weighted without, the result weighted, and both agree otherwise.
    C3: masked_softmax has eps > 0. C4: fn and bias need a source. C5: bias and expert_scale have E elements. C6: clamp has norm_eps > 0.
    C7: a positive `norm_p` if and only if pnorm.
  }];
  let arguments = (ins MoE_RoutingType:$routing, Optional<MoE_Matrix>:$source,
                       Optional<MoE_Vector>:$bias, Optional<MoE_Vector>:$expert_scale,
                       DefaultValuedAttr<MoE_WeighFnAttr, "::mlir::moe::WeighFn::None">:$fn,
                       DefaultValuedAttr<F64Attr, "0.0">:$eps,
                       DefaultValuedAttr<MoE_WeighNormAttr, "::mlir::moe::WeighNorm::None">:$norm,
                       DefaultValuedAttr<F64Attr, "0.0">:$norm_eps,
                       OptionalAttr<F64Attr>:$norm_p,
                       DefaultValuedAttr<F64Attr, "1.0">:$scale);
  let results = (outs MoE_RoutingType:$result);
  let assemblyFormat = [{
    $routing (`,` $source^)? (`bias` `(` $bias^ `)`)?
    (`expert_scale` `(` $expert_scale^ `)`)? attr-dict `:` functional-type(operands, results)
  }];
  let builders = [OpBuilder<(ins "::mlir::Value":$routing, "::mlir::Value":$source,
      "::mlir::moe::WeighFn":$fn, "::mlir::moe::WeighNorm":$norm,
      CArg<"double", "0.0">:$eps, CArg<"double", "0.0">:$normEps,
      CArg<"double", "1.0">:$scale)>];
  let hasFolder = 1;
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
}

def MoE_FilterOp : MoE_PureOp<"filter"> {
  let summary = "drop later choices of small weight";
  let description = [{
    Second-choice policies (GShard, ST-MoE, NLLB). Entries of slots below `from_slot`
    stay. The others stay when their weight is > threshold; with `random` u[T], uniform
    in [0, 1), when u[t] < weight / max(threshold, 1e-9). The weights of what stays, and
    its slots, are unchanged. Keep no second choice: threshold = inf. NLLB's
    `2 · w > u` is threshold 0.5. `--moe-inference` removes `random`.

    C1: operand and result are the same weighted routing. C2: from_slot ≥ 0.
    C3: the threshold is a number.
  }];
  let arguments = (ins MoE_RoutingType:$routing, Optional<MoE_Vector>:$random,
                       DefaultValuedAttr<I64Attr, "1">:$from_slot, F64Attr:$threshold);
  let results = (outs MoE_RoutingType:$result);
  let assemblyFormat = [{
    $routing (`random` `(` $random^ `)`)? attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_CapacityOp : MoE_PureOp<"capacity", [AttrSizedOperandSegments]> {
  let summary = "at most C entries per expert";
  let description = [{
    Entries ask for room one after another; an expert accepts the first C (see
    `#moe.capacity`; its `k` is the operand's k), per group of `group_size` consecutive
    tokens when given (a call whose T is not a multiple of it reports an error). The
    others disappear; weights are unchanged (renormalise with `moe.weigh` without a
    source).

    order: `choice`: the entries of slot 0 by token, then those of slot 1, …; `bpr`: the
    same with the tokens sorted by their largest priority over their entries, falling;
    `per_expert`: at each expert by the entry's priority, falling; `token`: token by
    token, slot by slot. Of equal priorities the lower token is first; NaN counts as the
    largest. The priority is `priority` [T,E], or else the weight.

    `keep`: a token that has `keep` entries asks no more (no token left behind: k
    candidates, one kept); default k. The entries that stay are renumbered 0, 1, … in
    the order of their slots.

    C1: operand and result have the same E and are both weighted or not; k of the
    result is `keep`. C2: the priority has E columns. C3: bpr and per_expert need a
    priority or a weighted routing, the others take none. C4: 1 ≤ keep ≤ k, and
    keep = k with per_expert.
  }];
  let arguments = (ins MoE_RoutingType:$routing, Optional<MoE_Matrix>:$priority,
                       Optional<Index>:$group_size, MoE_CapacityAttr:$capacity,
                       DefaultValuedAttr<MoE_CapacityOrderAttr, "::mlir::moe::CapacityOrder::Choice">:$order,
                       OptionalAttr<I64Attr>:$keep);
  let results = (outs MoE_RoutingType:$result);
  let assemblyFormat = [{
    $routing (`priority` `(` $priority^ `)`)? (`group_size` `(` $group_size^ `)`)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasCanonicalizer = 1;
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// Entries that a token may keep.
    int64_t getKept() {
      return getKeep().value_or(
          ::llvm::cast<::mlir::moe::RoutingType>(getRouting().getType()).getK());
    }
  }];
}

def MoE_ComposeOp : MoE_PureOp<"compose"> {
  let summary = "two-level routing";
  let description = [{
    `outer` routes tokens to G groups, `inner` number g to the experts of group g. The
    result routes to the Σ E_g experts of all groups, numbered group by group: token t
    goes to expert i of group g when both choose it, with the product of the weights.
    Slots: by outer slot, then by inner slot, renumbered 0, 1, …

    C1: outer has as many experts as there are inner routings. C2: the result has Σ E_g
    experts and k = min(k of outer · largest k of inner, Σ E_g). C3: the routings are
    all weighted or none is, and so the result.
  }];
  let arguments = (ins MoE_RoutingType:$outer, Variadic<MoE_RoutingType>:$inner);
  let results = (outs MoE_RoutingType:$result);
  let assemblyFormat = "$outer `,` $inner attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def MoE_TreeSelectOp : MoE_PureOp<"tree_select", [AttrSizedOperandSegments]> {
  let summary = "routing by soft binary trees (COMET)";
  let description = [{
    R binary trees over n leaves. Nodes are numbered like a heap: node i has the
    children 2i+1 and 2i+2, nodes 0 … n-2 are inner nodes, the others leaves; n need not
    be a power of two. With v = node_weight[r,i] · x[t] + node_bias[r,i], node i of
    probability p gives p · S(v) to its left and p · (1 - S(v)) to its right child,
    S(v) = 0 for v ≤ -γ/2, 1 for v ≥ γ/2, and -2v³/γ³ + 3v/(2γ) + 1/2 between; the root
    has p = 1. Leaf j, counted from left to right, has the logit
    leaf_weight[r,j] · x[t] + leaf_bias[r,j] + ln(p + log_eps), or -∞ where p ≤ p_min.
    A softmax over the R·n logits of a token gives the leaves' weights. Leaf j of tree r
    is expert permutation[r,j] (row 0 for all trees when there is one row; j without a
    permutation; an id outside 0 … n-1 is no expert). An expert's weight is the sum over
    the trees, divided by the sum over all experts. Entries are the experts of positive
    weight, slots in falling order of weight, of equals the lower expert.

    `visited` [T] counts a token's tree nodes (inner nodes and leaves) with p > 0, over
    all trees.
    Source: COMET (KDD 2023) `model/gates/comet.py`.

    C1: H of x, nodes and leaves agree. C2: R of nodes, leaves and biases agree.
    C3: n leaves (n ≥ 2), n-1 nodes. C4: the permutation is [R,n] or [1,n].
    C5: the routing is weighted with experts = k = n. C6: gamma > 0, log_eps ≥ 0,
    0 ≤ p_min < 1. C7: visited has T elements.
  }];
  let arguments = (ins MoE_Matrix:$x, MoE_Bank:$node_weight, MoE_Bank:$leaf_weight,
                       Optional<MoE_BankBias>:$node_bias, Optional<MoE_BankBias>:$leaf_bias,
                       Optional<MoE_Ids>:$permutation, F64Attr:$gamma,
                       DefaultValuedAttr<F64Attr, "1e-8">:$log_eps,
                       DefaultValuedAttr<F64Attr, "0.0">:$p_min);
  let results = (outs MoE_RoutingType:$routing, Optional<TensorRankOf<[I64], [1]>>:$visited);
  let assemblyFormat = [{
    $x `nodes` `(` $node_weight `)` `leaves` `(` $leaf_weight `)`
    (`node_bias` `(` $node_bias^ `)`)? (`leaf_bias` `(` $leaf_bias^ `)`)?
    (`permutation` `(` $permutation^ `)`)? attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_BlendOp : MoE_PureOp<"blend"> {
  let summary = "weights of routed and shared experts from one softmax";
  let description = [{
    q = softmax over the source values at the token's entries and all S columns of
    shared_source together. `joint`: the weights are q. `softmax_mass`: the weights that
    the routing has, times the sum of q over the entries. The second result [T,S] is q
    of the shared experts, the `weight` of `moe.shared`.

    C1: the source has E columns. C2: `joint` takes an unweighted routing,
    `softmax_mass` a weighted one; the result is weighted, and both agree otherwise.
    C3: shapes of shared_source and shared_weights agree; the source has T rows.
  }];
  let arguments = (ins MoE_RoutingType:$routing, MoE_Matrix:$source, MoE_Matrix:$shared_source,
                       MoE_BlendModeAttr:$mode);
  let results = (outs MoE_RoutingType:$result, MoE_Matrix:$shared_weights);
  let assemblyFormat = [{
    $mode $routing `,` $source `,` $shared_source attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_RemapOp : MoE_PureOp<"remap"> {
  let summary = "experts to the replicas that hold them";
  let description = [{
    Entry (t, e) goes to one of the ids in row e of map[E,R]; ids outside 0 … E'-1 fill
    up a row. With c ids in a row, `round_robin` takes number t mod c; `least_loaded`,
    in the order of tokens and then slots, the one that has the fewest entries so far, of
    equals the first. A row without ids drops the entry (a pruned expert). Two entries
    of a token that meet at one expert become one, in the lower slot, with the sum of
    their weights (a merged expert); it counts once for `least_loaded`. Slots are renumbered 0, 1, … in their order.

    C1: the map has E rows. C2: the result is weighted like the operand; its k is the
    operand's, or E' if that is smaller.
  }];
  let arguments = (ins MoE_RoutingType:$routing, MoE_Ids:$map,
                       DefaultValuedAttr<MoE_RemapPolicyAttr, "::mlir::moe::RemapPolicy::RoundRobin">:$policy);
  let results = (outs MoE_RoutingType:$result);
  let assemblyFormat = "$routing `,` $map attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def MoE_GatingOp : MoE_PureOp<"gating", [AttrSizedOperandSegments]> {
  let summary = "score, select and weigh in one pass over a token's logits";
  let description = [{
    What `--moe-fuse-gating` makes of `moe.score`, `moe.select`, `moe.weigh` and
    `moe.capacity`; the attributes are theirs. The key is `score(logits) + bias`; the
    weights come from the score, from the logits, or from `source` (a router_weights
    tensor [T,E]), plus `source_bias`. `capacity` and `order` are applied last: at most C
    entries per expert, over all tokens.

    C1: 1 ≤ k ≤ E. C2: bias [E], source [T,E]. C3: a source operand if and only if
    `weigh_source` is `operand`. C4: masks as in `moe.select` (its C5, C6). C5: mode,
    groups, p, tau and tie_break as in `moe.select` (its C4, C7 … C11, C13), without
    expert_topk. C6: fn and norm as in `moe.weigh` (its C3, C6, C7). C7: source_bias and
    expert_scale have E elements. C8: `order` goes with `capacity`, and is choice or
    token.
  }];
  let arguments = (ins MoE_Matrix:$logits, Optional<MoE_Vector>:$bias,
                       Optional<MoE_Matrix>:$source,
                       Optional<TensorRankOf<[I1], [1]>>:$token_mask,
                       Optional<TensorRankOf<[I1], [1, 2]>>:$expert_mask,
                       Optional<MoE_Vector>:$source_bias, Optional<MoE_Vector>:$expert_scale,
                       MoE_ScoreFnAttr:$score,
                       DefaultValuedAttr<MoE_SelectModeAttr, "::mlir::moe::SelectMode::TopK">:$mode,
                       I64Attr:$k, OptionalAttr<F64Attr>:$p, OptionalAttr<F64Attr>:$tau,
                       DefaultValuedAttr<I64Attr, "1">:$n_group,
                       DefaultValuedAttr<I64Attr, "1">:$topk_group,
                       DefaultValuedAttr<MoE_GroupScoreAttr, "::mlir::moe::GroupScore::Max">:$group_score,
                       DefaultValuedAttr<MoE_GroupFillAttr, "::mlir::moe::GroupFill::NegInf">:$group_fill,
                       DefaultValuedAttr<MoE_TieBreakAttr, "::mlir::moe::TieBreak::Lower">:$tie_break,
                       MoE_WeighSourceAttr:$weigh_source, MoE_WeighFnAttr:$fn,
                       DefaultValuedAttr<F64Attr, "0.0">:$eps,
                       DefaultValuedAttr<MoE_WeighNormAttr, "::mlir::moe::WeighNorm::None">:$norm,
                       DefaultValuedAttr<F64Attr, "0.0">:$norm_eps,
                       OptionalAttr<F64Attr>:$norm_p,
                       DefaultValuedAttr<F64Attr, "1.0">:$scale,
                       OptionalAttr<MoE_CapacityAttr>:$capacity,
                       OptionalAttr<MoE_CapacityOrderAttr>:$order);
  let results = (outs MoE_RoutingType:$routing);
  let assemblyFormat = [{
    $logits (`bias` `(` $bias^ `)`)? (`source` `(` $source^ `)`)?
    (`token_mask` `(` $token_mask^ `)`)? (`expert_mask` `(` $expert_mask^ `)`)?
    (`source_bias` `(` $source_bias^ `)`)? (`expert_scale` `(` $expert_scale^ `)`)?
    attr-dict `:` functional-type(operands, results)
  }];
  let builders = [OpBuilder<(ins "::mlir::Type":$type, "::mlir::Value":$logits,
      "::mlir::Value":$bias, "::mlir::Value":$source, "::mlir::moe::ScoreFn":$score,
      "int64_t":$k, "::mlir::moe::WeighSource":$weighSource, "::mlir::moe::WeighFn":$fn)>];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    bool isGrouped() { return getNGroup() > 1; }
    bool isMasked() { return getTokenMask() || getExpertMask(); }
  }];
}

#endif

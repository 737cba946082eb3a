# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""GShard: top-2 gating with local groups, capacity and second-expert policies.

D. Lepikhin et al., "GShard" (arXiv 2006.16668), section 2.2, algorithm 1; lingvo
`core/gshard_layers.py` Top2GatingOnLogits; Mesh TensorFlow `transformer/moe.py`
_top_2_gating. x is [G,S,H]: G groups of S tokens that are dispatched one by one.

p = softmax(router·x); e1, e2 the two largest, g1, g2 their p.
before: g /= g1 + g2 + 1e-9, then the policy, then capacity (lingvo legacy_mtf_behavior, MTF).
after: the policy on g as they are, capacity, then g /= their sum over what was kept (0 where
nothing was).
Policy of the second expert: all; none; threshold: g2 > τ; random: u < g2 / max(τ, 1e-9)
(algorithm 1: 2·g2 > u, τ = 1/2).
C = int(S·2/E), at least 4, up to a multiple of 4; all first choices in the order of the
tokens, then all second choices; what finds its expert full is dropped.
loss = mean over groups of E² · mean_e(f_e·P_e), f_e the fraction of first choices before
capacity, P_e the mean p.
Experts: down·relu(up·x); router and experts [in, out] as in lingvo.

    %x -> tensor.collapse_shape [[0, 1], [2]]; %n = tensor.dim (S)
    moe.logits {layout = in_out}; moe.score softmax; moe.select {k = 2}; moe.weigh
    {norm = sum, norm_eps = 1e-9}; moe.filter (random(%u)) {threshold}; moe.capacity
    group_size(%n) {capacity = #moe.capacity<tokens * 2 / experts, round = floor, min = 4,
    multiple = 4>, order = choice}; [after: moe.weigh without source {norm = sum}]
    moe.experts relu {layout = in_out}; moe.aux load_balance {fraction = first} group_size(%n)
"""

import numpy as np

from .common import (
    NOBODY,
    by_choice,
    decide,
    divide_by_sum,
    drawing,
    each_group,
    fill,
    gather,
    groups_of,
    load_balance,
    mean,
    relu,
    round_up,
    router_like,
    run_experts,
    softmax,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x", "u")
CASES = {
    "gshard": {"normalize": "before", "policy": "random", "threshold": 0.5},
    "gshard_normalize_after": {"normalize": "after", "policy": "all", "threshold": 0.0},
    "gshard_random_after": {"normalize": "after", "policy": "random", "threshold": 0.5},
    "gshard_threshold": {"normalize": "before", "policy": "threshold", "threshold": 0.2},
    "gshard_first_only": {"normalize": "before", "policy": "none", "threshold": float("inf")},
}


def make(rng, dims, tokens, case):
    h, i, e = dims["H"], dims["I"], dims["E"]
    groups, size = groups_of(tokens)
    arrays = {
        "x": tokens_like(rng, groups, size, h),
        "router": np.ascontiguousarray(router_like(rng, e, h).T),
        "up": rng.standard_normal((e, h, i)) / np.sqrt(h),
        "down": rng.standard_normal((e, i, h)) / np.sqrt(i),
    }
    if CASES[case]["policy"] == "random":
        arrays["u"] = rng.uniform(size=tokens)
    return arrays


draw = drawing(__name__)


def capacity_of(size, experts):
    return round_up(max(int(size * 2.0 / experts), 4), 4)


def second_choice(ids, gates, policy, threshold, u):
    """ids with NOBODY where the policy gives up the second expert."""
    ids = ids.copy()
    for t in range(len(ids)):
        if policy == "none":
            stays = False
        elif policy == "threshold":
            stays = decide(t, gates[t, 1], threshold)
        elif policy == "random":
            stays = decide(t, gates[t, 1] / max(threshold, 1e-9), u[t])
        else:
            stays = True
        if not stays:
            ids[t, 1] = NOBODY
    return ids


def route(p, u, normalize, policy, threshold):
    """ids and weights of one group."""
    size, experts = p.shape
    ids = top_k(p, 2)
    gates = gather(p, ids)
    if normalize == "before":
        gates = gates / (gates.sum(axis=-1, keepdims=True) + 1e-9)
    asking = second_choice(ids, gates, policy, threshold, u)
    kept = fill(asking, experts, capacity_of(size, experts), by_choice(asking))
    gates = np.where(kept == NOBODY, 0.0, gates)
    return kept, divide_by_sum(gates) if normalize == "after" else gates


def reference(arrays, dims, case):
    y, losses, size = np.zeros_like(arrays["x"]), [], arrays["x"].shape[1]
    for g, x in each_group(arrays["x"]):
        p = softmax(x @ arrays["router"])
        u = arrays["u"][g * size :] if "u" in arrays else None
        ids, weights = route(p, u, **CASES[case])
        y[g] = run_experts(x, ids, weights, lambda e, row: relu(row @ arrays["up"][e]) @ arrays["down"][e])
        losses.append(load_balance(p, p.argmax(axis=-1)[:, None]))
    return {"y": y, "load_balance_loss": mean(losses)}

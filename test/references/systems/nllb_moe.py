# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""NLLB-MoE: top-2 of all languages' experts, normalised after capacity, biases, padding.

NLLB Team, "No Language Left Behind" (arXiv 2207.04672), section 6.2; Hugging Face
NllbMoeSparseMLP up to 4.56 (later versions run experts 0 and 1 only).

p = softmax(router·x + b); e1 = argmax p, e2 = argmax without e1 (by logit: the same order).
Padding tokens have no expert. Policy `random`: the second stays where 2·p2 > u.
C = ceil(fraction·T), or 2·ceil(T/E). First choices by position, then second; `prioritized`:
tokens by falling largest p (padding takes no room). Weights p1/s, p2/s with s = max(p1 + p2,
eps) of what was kept (default), or of both before (`before`; Hugging Face then still takes
the raw p2 under `random`, which is not repeated here).
In evaluation each expert's output is multiplied by 1 - 0.2 (moe_token_dropout).
Experts: fc2·relu(fc1·x + b) + b: `up`, `down`. Here eps = 2^-23 (float32's).

    moe.logits bias; moe.score softmax; moe.select token_mask(%mask) {k = 2}; moe.weigh;
    [random: moe.filter random(%u) {threshold = 0.5}]; moe.capacity {capacity =
    #moe.capacity<tokens * 0.25, round = ceil> or <tokens / experts, round = ceil, times = 2>,
    order = choice | bpr priority(%p)}; moe.weigh {norm = clamp, norm_eps = 1.1920929e-07,
    scale = 0.8}; moe.experts relu, biases
"""

import math

import numpy as np

from .common import (
    NOBODY,
    biases,
    by_choice,
    by_falling,
    decide,
    drawing,
    fill,
    gather,
    make_plain,
    relu_expert,
    router_like,
    run_experts,
    softmax,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x", "mask", "u")
CASES = {
    "nllb_moe": {"capacity": lambda t, e: 2 * math.ceil(t / e), "order": "choice", "policy": "all"},
    "nllb_moe_prioritized": {"capacity": lambda t, e: math.ceil(0.25 * t), "order": "bpr", "policy": "all"},
    "nllb_moe_random": {"capacity": lambda t, e: math.ceil(0.25 * t), "order": "choice", "policy": "random"},
    "nllb_moe_normalize_before": {
        "capacity": lambda t, e: math.ceil(0.25 * t),
        "order": "choice",
        "policy": "all",
        "normalize": "before",
    },
}
EPS = 2.0**-23
TOKEN_DROPOUT = 0.2


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    arrays = {
        "x": tokens_like(rng, tokens, h),
        "mask": rng.uniform(size=tokens) < 0.8,  # true: no padding
        "router": router_like(rng, e, h),
        "router_bias": biases(rng, e),
        **make_plain(rng, dims),
    }
    if CASES[case]["policy"] == "random":
        arrays["u"] = rng.uniform(size=tokens)
    return arrays


draw = drawing(__name__)


def route(p, mask, u, capacity, order, policy, normalize="after"):
    tokens, experts = p.shape
    ids = top_k(p, 2)
    weights = gather(p, ids)
    asking = np.where(mask[:, None], ids, NOBODY)
    for t in range(tokens):
        if policy == "random" and not decide(t, 2.0 * weights[t, 1], u[t]):
            asking[t, 1] = NOBODY
    if order == "bpr":
        # Padding asks for nothing, so its place in the order does not matter.
        turns = by_choice(asking, by_falling(p.max(axis=-1), np.flatnonzero(mask)))
    else:
        turns = by_choice(asking)
    kept = fill(asking, experts, capacity(tokens, experts), turns)
    counted = weights if normalize == "before" else np.where(kept == NOBODY, 0.0, weights)
    return kept, weights / np.maximum(counted.sum(axis=-1, keepdims=True), EPS)


def reference(arrays, dims, case):
    x = arrays["x"]
    p = softmax(x @ arrays["router"].T + arrays["router_bias"])
    ids, weights = route(p, arrays["mask"], arrays.get("u"), **CASES[case])
    weights = weights * (1.0 - TOKEN_DROPOUT)
    return {"y": run_experts(x, ids, weights, relu_expert(arrays))}

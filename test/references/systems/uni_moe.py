# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Uni-MoE 2.0: a number of experts that follows the token, null and shared experts.

Y. Li et al., "Uni-MoE-2.0-Omni" (arXiv 2511.12609), section 3 (dynamic-capacity MoE);
HITsz-TMG/Uni-MoE `UniMoE_Audio_core.py` UniMoEAudioSparseMoeBlock (evaluation).

D dynamic and N null experts compete, S shared ones always run (one router matrix there; here
`router` [D+N,H] and `shared_router` [S,H]).
1. q = softmax of the D+N logits; K = 1 + #{j : q_1 + … + q_j < 0.7}, q falling.
2. K rounds of the sparse mixer with eps = 0.01 give weights; w /= Σw + 1e-6.
3. Padding tokens have no dynamic expert.
4. uni_moe: expert keeps its C = max(ceil(T/(D+N)·3), 8) tokens with the largest logits;
   w of the others 0; w /= Σw + 1e-6. uni_moe_audio (inference): no capacity.
5. g = softmax of the logits of the selected and the S shared experts together: w *= Σ of g
   over the selected, and shared expert s has the weight g_s.
6. y = Σ w·expert(x) + Σ g_s·shared_s(x); a null expert gives 0, its weight is lost.
All experts SwiGLU, shared ones of width J.

    %l = moe.logits; %q = moe.score softmax %l; moe.select %q token_mask {mode = topp, p = 0.7, k =
    D+N}; moe.weigh %l {fn = masked_softmax, eps = 0.01, norm = sum, norm_eps = 1e-6}; moe.capacity priority(%l) {capacity = #moe.capacity<tokens / experts * 3, round = ceil,
    min = 8>, order = per_expert}; moe.weigh {norm = sum, norm_eps = 1e-6}; moe.blend
    softmax_mass %r, %l, %shared_logits; moe.experts silu {glu = concat, kinds = [ffn D, zero N]};
    moe.shared silu {glu = separate} weight(%shared_weights) add(%y)
"""

import math

import numpy as np

from .common import (
    NOBODY,
    divide_by_sum,
    drawing,
    fill_by_priority,
    make_shared_swiglu,
    make_swiglu,
    matrices,
    router_like,
    run_experts,
    shared_swiglu,
    softmax,
    sparse_mixer,
    swiglu_expert,
    tokens_like,
    top_p,
)

DIMS = {"H": 24, "I": 40, "J": 28, "E": 4, "A": 5, "S": 2}  # E: D, A: D + N
OTHER_DIMS = {"H": 36, "I": 26, "J": 30, "E": 4, "A": 5, "S": 2}
INPUTS = ("x", "mask")
CASES = {
    "uni_moe": {"p": 0.7, "eps": 0.01, "capacity": True},
    "uni_moe_audio": {"p": 0.7, "eps": 0.01, "capacity": False},
}


def make(rng, dims, tokens, case):
    h = dims["H"]
    router = router_like(rng, dims["A"], h)
    router[0] = router[2] + 0.01 * rng.standard_normal(h) / math.sqrt(h)  # within the margin
    return {
        "x": tokens_like(rng, tokens, h),
        "mask": rng.uniform(size=tokens) < 0.9,  # true: no padding
        "router": router,
        "shared_router": matrices(rng, dims["S"], h),
        **make_swiglu(rng, dims),
        **make_shared_swiglu(rng, dims, dims["S"]),
    }


draw = drawing(__name__)


def mixer_weights(logits, ids, eps):
    weights = np.zeros(ids.shape)
    for t, row in enumerate(logits):
        count = int((ids[t] != NOBODY).sum())
        winners, values = sparse_mixer(row, count, eps, t)
        assert winners == ids[t, :count].tolist()
        weights[t, :count] = values
    return weights


def route(x, arrays, dims, p, eps, capacity):
    """(ids, weights of the dynamic and null experts, weights of the shared experts)."""
    tokens, dynamic = len(x), dims["A"]
    logits, shared_logits = x @ arrays["router"].T, x @ arrays["shared_router"].T
    ids = top_p(softmax(logits), p)
    weights = divide_by_sum(mixer_weights(logits, ids, eps), 1e-6)
    ids = np.where(arrays["mask"][:, None], ids, NOBODY)
    if capacity:
        ids = fill_by_priority(ids, dynamic, max(math.ceil(tokens / dynamic * 3.0), 8), logits)
    weights = np.where(ids == NOBODY, 0.0, weights)
    if capacity:
        weights = divide_by_sum(weights, 1e-6)

    shared_weights = np.zeros(shared_logits.shape)
    for t in range(tokens):
        slots = np.flatnonzero(ids[t] != NOBODY)
        together = softmax(np.concatenate([logits[t, ids[t, slots]], shared_logits[t]]))
        weights[t] *= together[: len(slots)].sum()
        shared_weights[t] = together[len(slots) :]
    return ids, weights, shared_weights


def reference(arrays, dims, case):
    x, routed = arrays["x"], swiglu_expert(arrays)
    ids, weights, shared_weights = route(x, arrays, dims, **CASES[case])
    y = run_experts(x, ids, weights, lambda e, row: routed(e, row) if e < dims["E"] else 0.0 * row)
    return {"y": y + np.einsum("ts,sth->th", shared_weights, shared_swiglu(x, arrays))}

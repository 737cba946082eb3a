# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Phi-3.5-MoE: the sparse mixer, two rounds that leave out what is far below the winner.

M. Abdin et al., "Phi-3 Technical Report" (arXiv 2404.14219), section on Phi-3.5-MoE; L. Liu et
al., "GRIN" (arXiv 2409.12136), section 2; Hugging Face `sparsemixer` (evaluation).

L = router·x. Round 1: M = max L, w1 = softmax of L at its argmax, over the experts with
(M - L)/max(|L|, M) <= 2·0.01. Round 2: the same without the first winner (M the largest of
the rest). Weights are not normalised together. Experts SwiGLU.

    moe.logits; moe.select {k = 2}; moe.weigh %logits {fn = masked_softmax, eps = 0.01};
    moe.experts silu {glu = concat}
"""

import numpy as np

from .common import (
    drawing,
    make_swiglu,
    router_like,
    run_experts,
    sparse_mixer,
    swiglu_expert,
    tokens_like,
)

DIMS = {"H": 24, "I": 40, "E": 16}
OTHER_DIMS = {"H": 36, "I": 26, "E": 11}
INPUTS = ("x",)
CASES = {"phimoe": {"k": 2, "eps": 0.01}}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    router = router_like(rng, e, h)
    # Twins of some experts, so that several lie within the margin of the winner.
    for twin in range(e // 2, e):
        router[twin] = router[twin - e // 2] + 0.01 * rng.standard_normal(h) / np.sqrt(h)
    return {"x": tokens_like(rng, tokens, h), "router": router, **make_swiglu(rng, dims)}


draw = drawing(__name__)


def reference(arrays, dims, case):
    x, k, eps = arrays["x"], *CASES[case].values()
    logits = x @ arrays["router"].T
    routes = [sparse_mixer(row, k, eps, t) for t, row in enumerate(logits)]
    ids = np.array([route[0] for route in routes], dtype=int).reshape(-1, k)
    weights = np.array([route[1] for route in routes]).reshape(-1, k)
    return {"y": run_experts(x, ids, weights, swiglu_expert(arrays))}

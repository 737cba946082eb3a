# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""OLMoE: top-8 of 64, the raw probabilities as weights.

N. Muennighoff et al., "OLMoE" (arXiv 2409.02060), section 2; Hugging Face OlmoeSparseMoeBlock
(norm_topk_prob = false).

p = softmax(router·x) (f32); the k = 8 largest; w = p. Experts SwiGLU.
loss: load balance as Mixtral's; z_loss = mean (ln Σ e^L)².

    moe.logits; moe.score softmax; moe.select {k = 8}; moe.weigh; moe.experts silu {glu =
    concat}; moe.aux load_balance {fraction = all}, z_loss
"""

from .common import (
    drawing,
    gather,
    load_balance,
    make_swiglu,
    router_like,
    run_experts,
    softmax,
    swiglu_expert,
    tokens_like,
    top_k,
    z_loss,
)

DIMS = {"H": 24, "I": 20, "E": 32}
OTHER_DIMS = {"H": 36, "I": 14, "E": 19}
INPUTS = ("x",)
CASES = {"olmoe": {"k": 8}}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h, empty=(1, 6)),
        **make_swiglu(rng, dims),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]
    logits = x @ arrays["router"].T
    p = softmax(logits)
    ids = top_k(p, CASES[case]["k"])
    return {
        "y": run_experts(x, ids, gather(p, ids), swiglu_expert(arrays)),
        "load_balance_loss": load_balance(p, ids),
        "z_loss": z_loss(logits),
    }

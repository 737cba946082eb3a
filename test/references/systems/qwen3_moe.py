# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Qwen3-MoE: top-8 of many small experts, renormalised, none shared.

Qwen Team, "Qwen3 Technical Report" (arXiv 2505.09388), section 2; Hugging Face
Qwen3MoeSparseMoeBlock (norm_topk_prob = true).

p = softmax(router·x) (f32); the k = 8 largest; w = p / Σp. Experts SwiGLU.

    moe.logits; moe.score softmax; moe.select {k = 8}; moe.weigh {norm = sum};
    moe.experts silu {glu = concat}
"""

from .common import (
    divide_by_sum,
    drawing,
    gather,
    make_swiglu,
    router_like,
    run_experts,
    softmax,
    swiglu_expert,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 20, "E": 32}
OTHER_DIMS = {"H": 36, "I": 14, "E": 19}
INPUTS = ("x",)
CASES = {"qwen3_moe": {"k": 8}}


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
    p = softmax(x @ arrays["router"].T)
    ids = top_k(p, CASES[case]["k"])
    return {"y": run_experts(x, ids, divide_by_sum(gather(p, ids)), swiglu_expert(arrays))}

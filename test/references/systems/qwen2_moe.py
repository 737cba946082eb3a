# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Qwen2-MoE (Qwen1.5-MoE): raw top-k probabilities, a shared expert with a sigmoid gate.

Qwen Team, "Qwen1.5-MoE" (2024), "Qwen2 Technical Report" (arXiv 2407.10671), section 2.2.2;
Hugging Face Qwen2MoeSparseMoeBlock (norm_topk_prob = false).

p = softmax(router·x) (f32); the k = 4 largest with w = p. Shared expert of width J, times
sigmoid(shared_router·x), shared_router [1,H] without bias. All experts SwiGLU.

    moe.logits; moe.score softmax; moe.select {k = 4}; moe.weigh; moe.experts silu {glu =
    concat}; %g = moe.score sigmoid (moe.logits %x, %shared_router); moe.shared silu {glu =
    separate} weight(%g) add(%y)
"""

from .common import (
    drawing,
    gather,
    make_shared_swiglu,
    make_swiglu,
    matrices,
    router_like,
    run_experts,
    shared_swiglu,
    sigmoid,
    softmax,
    swiglu_expert,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 40, "J": 52, "E": 16}
OTHER_DIMS = {"H": 36, "I": 26, "J": 44, "E": 11}
INPUTS = ("x",)
CASES = {"qwen2_moe": {"k": 4}}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        "shared_router": matrices(rng, 1, h),
        **make_swiglu(rng, dims),
        **make_shared_swiglu(rng, dims),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]
    p = softmax(x @ arrays["router"].T)
    ids = top_k(p, CASES[case]["k"])
    gate = sigmoid(x @ arrays["shared_router"].T)
    return {"y": run_experts(x, ids, gather(p, ids), swiglu_expert(arrays)) + gate * shared_swiglu(x, arrays)[0]}

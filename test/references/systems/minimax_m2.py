# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""MiniMax-M2: sigmoid scores, a selection bias, plain normalisation, no shared expert.

MiniMax, "MiniMax-M2" (2025); Hugging Face MiniMaxM2SparseMoeBlock.

s = sigmoid(router·x) (f32); the k = 8 largest s + b; w = s / Σs. Experts SwiGLU.

    moe.logits; moe.score sigmoid; moe.select bias(%b) {k = 8}; moe.weigh {norm = sum};
    moe.experts silu {glu = concat}
"""

from . import deepseek_v3
from .common import drawing, make_swiglu, router_like, run_experts, swiglu_expert, tokens_like

DIMS = {"H": 24, "I": 20, "E": 32}
OTHER_DIMS = {"H": 36, "I": 14, "E": 19}
INPUTS = ("x",)
CASES = {"minimax_m2": {"k": 8, "groups": None, "fill": None, "eps": 0.0, "scale": 1.0}}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        "bias": 0.3 * rng.standard_normal(e),
        **make_swiglu(rng, dims),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]
    ids, weights = deepseek_v3.route(x, arrays, **CASES[case])
    return {"y": run_experts(x, ids, weights, swiglu_expert(arrays))}

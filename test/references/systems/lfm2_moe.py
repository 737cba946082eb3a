# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""LFM2-MoE: sigmoid scores in the model's type, a selection bias, Σ + 1e-6.

Liquid AI, "LFM2 Technical Report" (arXiv 2511.23404); Hugging Face Lfm2MoeSparseMoeBlock.

s = sigmoid(router·x); the k = 4 largest s + b; w = s / (Σs + 1e-6) · 1.0. Experts SwiGLU.
lfm2_moe_without_bias: use_expert_bias = false, norm_topk_prob = false, scale 2.

    moe.logits; moe.score sigmoid; moe.select bias(%b) {k = 4}; moe.weigh {norm = sum, norm_eps =
    1e-6}; moe.experts silu {glu = concat}
"""

from . import minimax_m2
from .common import divide_by_sum, drawing, gather, run_experts, sigmoid, swiglu_expert, top_k

DIMS = {"H": 24, "I": 20, "E": 32}
OTHER_DIMS = {"H": 36, "I": 14, "E": 19}
INPUTS = ("x",)
CASES = {
    "lfm2_moe": {"k": 4, "normalize": True, "scale": 1.0},
    "lfm2_moe_without_bias": {"k": 4, "normalize": False, "scale": 2.0},
}


def make(rng, dims, tokens, case):
    arrays = minimax_m2.make(rng, dims, tokens, case)
    if case == "lfm2_moe_without_bias":
        del arrays["bias"]
    return arrays


draw = drawing(__name__)


def reference(arrays, dims, case):
    x, k, normalize, scale = arrays["x"], *CASES[case].values()
    s = sigmoid(x @ arrays["router"].T)
    ids = top_k(s + arrays.get("bias", 0.0), k)
    weights = gather(s, ids)
    if normalize:
        weights = divide_by_sum(weights, 1e-6)
    return {"y": run_experts(x, ids, weights * scale, swiglu_expert(arrays))}

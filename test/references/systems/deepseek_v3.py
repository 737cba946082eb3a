# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""DeepSeek-V3 and R1: sigmoid scores, a bias that only selects, groups, one shared expert.

DeepSeek-AI, "DeepSeek-V3" (arXiv 2412.19437), sections 2.1.2 and 4.2; Hugging Face
DeepseekV3MoE; deepseek-ai/DeepSeek-V3 `inference/model.py`.

s = sigmoid(router·x); key = s + b. Of G groups the 2 with the largest sum of their two largest
keys stay; keys of the others become -inf (deepseek_v3: the authors' code, Hugging Face from
5.7 on) or 0 (deepseek_v3_fill_zero: Hugging Face before), which then beats negative keys of
allowed experts. The k largest keys; w = s (without b) / (Σs + 1e-20) · 2.5.
Routed and shared experts: SwiGLU; shared of width J, ungated, added.

    moe.logits; moe.score sigmoid; moe.select bias(%b) {k = 4, n_group = 4, topk_group = 2,
    group_score = top2sum, group_fill = neg_inf | zero}; moe.weigh %s {norm = sum, norm_eps =
    1e-20, scale = 2.5}; moe.experts silu {glu = concat}; moe.shared silu {glu = separate} add(%y)
    moe.aux tokens_per_expert
"""

import numpy as np

from .common import (
    divide_by_sum,
    drawing,
    gather,
    limit_groups,
    make_shared_swiglu,
    make_swiglu,
    router_like,
    run_experts,
    shared_swiglu,
    sigmoid,
    sum_of_top_two,
    swiglu_expert,
    tokens_like,
    tokens_per_expert,
    top_k,
)

DIMS = {"H": 24, "I": 40, "J": 52, "E": 16}
OTHER_DIMS = {"H": 36, "I": 26, "J": 44, "E": 12}
INPUTS = ("x",)
CASES = {
    "deepseek_v3": {"k": 4, "groups": (4, 2), "fill": -np.inf, "eps": 1e-20, "scale": 2.5},
    "deepseek_v3_fill_zero": {"k": 4, "groups": (4, 2), "fill": 0.0, "eps": 1e-20, "scale": 2.5},
}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        # Some keys are negative, so that the two fills differ.
        "bias": 0.2 * rng.standard_normal(e) - 0.5,
        **make_swiglu(rng, dims),
        **make_shared_swiglu(rng, dims),
    }


draw = drawing(__name__)


def route(x, arrays, k, groups, fill, eps, scale):
    s = sigmoid(x @ arrays["router"].T)
    keys = s + arrays["bias"]
    if groups:
        keys = limit_groups(keys, *groups, score=sum_of_top_two, fill=fill)
    ids = top_k(keys, k)
    return ids, divide_by_sum(gather(s, ids), eps) * scale


def layer(arrays, attributes):
    """(ids, y) with the shared expert added."""
    ids, weights = route(arrays["x"], arrays, **attributes)
    return ids, run_experts(arrays["x"], ids, weights, swiglu_expert(arrays)) + shared_swiglu(arrays["x"], arrays)[0]


def reference(arrays, dims, case):
    ids, y = layer(arrays, CASES[case])
    return {"y": y, "tokens_per_expert": tokens_per_expert(ids, dims["E"])}

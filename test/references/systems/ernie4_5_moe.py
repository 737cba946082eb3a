# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Ernie 4.5: softmax scores, a selection bias, a lower bound of the normaliser, shared experts.

Baidu, "ERNIE 4.5 Technical Report" (2025), section 2; Hugging Face Ernie4_5_MoeSparseMoeBlock.

p = softmax(router·x) (f32); the k = 6 largest p + b; w = p / max(Σp, 1e-12). Experts SwiGLU; one
shared of width J (moe_num_shared_experts · I), added. ernie4_5_moe_clamped: the bound is 0.5,
so that it binds.

    moe.logits; moe.score softmax; moe.select bias(%b) {k = 6}; moe.weigh {norm = clamp, norm_eps =
    1e-12}; moe.experts silu {glu = concat}; moe.shared silu {glu = separate} add(%y)
"""

import numpy as np

from . import deepseek_v3
from .common import drawing, gather, run_experts, shared_swiglu, softmax, swiglu_expert, top_k

DIMS = {"H": 24, "I": 20, "J": 52, "E": 32}
OTHER_DIMS = {"H": 36, "I": 14, "J": 44, "E": 19}
INPUTS = ("x",)
CASES = {"ernie4_5_moe": {"k": 6, "bound": 1e-12}, "ernie4_5_moe_clamped": {"k": 6, "bound": 0.5}}


def make(rng, dims, tokens, case):
    arrays = deepseek_v3.make(rng, dims, tokens, case)
    arrays["bias"] = 0.1 * rng.standard_normal(dims["E"])
    return arrays


draw = drawing(__name__)


def reference(arrays, dims, case):
    x, k, bound = arrays["x"], *CASES[case].values()
    p = softmax(x @ arrays["router"].T)
    ids = top_k(p + arrays["bias"], k)
    weights = gather(p, ids)
    weights = weights / np.maximum(weights.sum(axis=-1, keepdims=True), bound)
    return {"y": run_experts(x, ids, weights, swiglu_expert(arrays)) + shared_swiglu(x, arrays)[0]}

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Grok-1: top-2 of 8, raw probabilities, GELU-gated experts.

xAI, "Grok-1" (2024), `model.py` (Router, MoELayer, DenseBlock).

p = softmax(router·x) (f32), router [H,E]; the k = 2 largest; w = p, not normalised. Experts
[in, out]: (gelu_tanh(x·gate) ⊙ (x·up))·down; the published weights are int8 with scales.

    moe.logits {layout = in_out}; moe.score softmax; moe.select {k = 2}; moe.weigh; moe.experts
    gelu_tanh {glu = separate, layout = in_out}
"""

import numpy as np

from .common import drawing, gather, gelu_tanh, router_like, run_experts, softmax, tokens_like, top_k

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x",)
CASES = {"grok_1": {"k": 2}}


def make(rng, dims, tokens, case):
    h, i, e = dims["H"], dims["I"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": np.ascontiguousarray(router_like(rng, e, h).T),
        "gate": rng.standard_normal((e, h, i)) / np.sqrt(h),
        "up": rng.standard_normal((e, h, i)) / np.sqrt(h),
        "down": rng.standard_normal((e, i, h)) / np.sqrt(i),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]

    def expert(e, row):
        return (gelu_tanh(row @ arrays["gate"][e]) * (row @ arrays["up"][e])) @ arrays["down"][e]

    p = softmax(x @ arrays["router"])
    ids = top_k(p, CASES[case]["k"])
    return {"y": run_experts(x, ids, gather(p, ids), expert)}

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""gpt-oss: top-4 of the logits, softmax of those, clamped interleaved SwiGLU with biases.

OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card" (arXiv 2508.10925), section 2; Hugging Face
GptOssMLP.

L = router·x + b; the k = 4 largest; w = softmax of those four logits. Experts [in, out]:
gate_up [E,H,2I] + bias, gates in the even columns, linear parts in the odd ones;
g = min(g, 7), l = clamp(l, ±7); h = g·sigmoid(1.702·g)·(l + 1); y = h·down [E,I,H] + bias.

    moe.logits bias; moe.select {k = 4}; moe.weigh {fn = softmax}; moe.experts
    #moe.activation<silu, glu = interleaved, alpha = 1.702, beta = 1.0, limit = 7.0> up_bias
    down_bias {layout = in_out}
"""

import numpy as np

from .common import (
    biases,
    drawing,
    router_like,
    run_experts,
    sigmoid,
    softmax_of_selected,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 40, "E": 16}
OTHER_DIMS = {"H": 36, "I": 26, "E": 11}
INPUTS = ("x",)
CASES = {"gpt_oss": {"k": 4}}
ALPHA, LIMIT = 1.702, 7.0


def make(rng, dims, tokens, case):
    h, i, e = dims["H"], dims["I"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        "router_bias": biases(rng, e),
        # Large enough for both limits to bind.
        "gate_up": 4.0 * rng.standard_normal((e, h, 2 * i)) / np.sqrt(h),
        "gate_up_bias": biases(rng, e, 2 * i),
        "down": rng.standard_normal((e, i, h)) / np.sqrt(i),
        "down_bias": biases(rng, e, h),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]

    def expert(e, row):
        both = row @ arrays["gate_up"][e] + arrays["gate_up_bias"][e]
        gate, linear = np.minimum(both[0::2], LIMIT), np.clip(both[1::2], -LIMIT, LIMIT)
        return (linear + 1.0) * gate * sigmoid(ALPHA * gate) @ arrays["down"][e] + arrays["down_bias"][e]

    logits = x @ arrays["router"].T + arrays["router_bias"]
    ids = top_k(logits, CASES[case]["k"])
    return {"y": run_experts(x, ids, softmax_of_selected(logits, ids), expert)}

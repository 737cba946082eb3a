# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Llama 4: top-1, the sigmoid of its logit scales the expert's input.

Meta, "The Llama 4 herd" (2025); Hugging Face Llama4TextMoe.

L = router·x; e = argmax L, w = sigmoid(L_e) (f32); y = expert_e(w·x) + shared(x). Experts
[in, out]: gate_up [E,H,2I], gate columns first; (silu(gate) ⊙ up)·down [E,I,H]. Hugging Face
runs all experts on 0 for the tokens that are not theirs, which gives 0: no biases.
llama4_top_2: the same for k = 2 (num_experts_per_tok).

    moe.logits; moe.select {k = 1}; moe.weigh %logits {fn = sigmoid}; moe.dispatch {scale_input};
    moe.expert_ffn silu {glu = concat, layout = in_out}; moe.combine {weight =
    already_applied}; moe.shared silu {glu = separate} add(%y)
"""

import numpy as np

from .common import (
    drawing,
    gather,
    make_shared_swiglu,
    router_like,
    run_experts,
    shared_swiglu,
    sigmoid,
    silu,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 40, "J": 52, "E": 16}
OTHER_DIMS = {"H": 36, "I": 26, "J": 44, "E": 11}
INPUTS = ("x",)
CASES = {"llama4": {"k": 1}, "llama4_top_2": {"k": 2}}


def make(rng, dims, tokens, case):
    h, i, e = dims["H"], dims["I"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        "gate_up": rng.standard_normal((e, h, 2 * i)) / np.sqrt(h),
        "down": rng.standard_normal((e, i, h)) / np.sqrt(i),
        **make_shared_swiglu(rng, dims),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]

    def expert(e, row):
        gate, up = np.split(row @ arrays["gate_up"][e], 2)
        return (up * silu(gate)) @ arrays["down"][e]

    logits = x @ arrays["router"].T
    ids = top_k(logits, CASES[case]["k"])
    weights = sigmoid(gather(logits, ids))
    y = shared_swiglu(x, arrays)[0]
    for slot in range(ids.shape[1]):
        one = ids[:, slot : slot + 1]
        y = y + run_experts(weights[:, slot : slot + 1] * x, one, np.ones(one.shape), expert)
    return {"y": y}

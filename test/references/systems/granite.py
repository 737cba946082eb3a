# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Granite MoE: softmax over the top-k logits; in Granite 4 a shared expert beside it.

IBM, "Granite 3.0 Language Models" (2024), "Granite 4.0" (2025); Hugging Face GraniteMoeMoE,
GraniteMoeSharedMLP.

L = router·x (f32 after the product); the k = 8 largest; w = softmax of those. Experts SwiGLU,
gate rows first. granite_shared: a SwiGLU of width J, added by the decoder layer.

    moe.logits; moe.select {k = 8}; moe.weigh %logits {fn = softmax}; moe.experts silu {glu =
    concat} [; moe.shared silu {glu = separate} add(%y)]
"""

from .common import (
    drawing,
    make_shared_swiglu,
    make_swiglu,
    router_like,
    run_experts,
    shared_swiglu,
    softmax_of_selected,
    swiglu_expert,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 20, "J": 52, "E": 32}
OTHER_DIMS = {"H": 36, "I": 14, "J": 44, "E": 19}
INPUTS = ("x",)
CASES = {"granite": {"k": 8, "shared": False}, "granite_shared": {"k": 8, "shared": True}}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    arrays = {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        **make_swiglu(rng, dims),
    }
    if CASES[case]["shared"]:
        arrays |= make_shared_swiglu(rng, dims)
    return arrays


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]
    logits = x @ arrays["router"].T
    ids = top_k(logits, CASES[case]["k"])
    y = run_experts(x, ids, softmax_of_selected(logits, ids), swiglu_expert(arrays))
    return {"y": y + shared_swiglu(x, arrays)[0] if CASES[case]["shared"] else y}

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""LongCat-Flash: experts that cost nothing.

Meituan, "LongCat-Flash Technical Report" (arXiv 2509.01322), section 2.1; Hugging Face
LongcatFlashMoE.

E experts and Z zero-computation experts in one softmax (f32) over E + Z logits; key = p + b;
the k = 3 largest; w = p · 6 (no normalisation). Experts 0 … E-1: SwiGLU; E … E+Z-1: identity,
which adds w·x. longcat_flash_zero and longcat_flash_constant: the last Z experts give 0, or a
constant vector each (MoE++, arXiv 2410.07348, section 3.1, has all three kinds).

    moe.logits; moe.score softmax; moe.select bias(%b) {k = 3}; moe.weigh {scale = 6.0};
    moe.experts silu {glu = concat, kinds = [#moe.kind<ffn, 11>, #moe.kind<identity, 5>]}
    (or zero; or constant with constants(%c : [5,H]))
"""

from .common import (
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

DIMS = {"H": 24, "I": 40, "E": 11, "Z": 5, "A": 16}  # A: all experts, E + Z
OTHER_DIMS = {"H": 36, "I": 26, "E": 11, "Z": 5, "A": 16}
INPUTS = ("x",)
CASES = {
    "longcat_flash": {"k": 3, "scale": 6.0, "kind": "identity"},
    "longcat_flash_zero": {"k": 3, "scale": 6.0, "kind": "zero"},
    "longcat_flash_constant": {"k": 3, "scale": 6.0, "kind": "constant"},
}


def make(rng, dims, tokens, case):
    h = dims["H"]
    arrays = {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, dims["A"], h),
        "bias": 0.05 * rng.standard_normal(dims["A"]),
        **make_swiglu(rng, dims),
    }
    if CASES[case]["kind"] == "constant":
        arrays["constants"] = rng.standard_normal((dims["Z"], h))
    return arrays


draw = drawing(__name__)


def reference(arrays, dims, case):
    x, k, scale, kind = arrays["x"], *CASES[case].values()
    routed = swiglu_expert(arrays)

    def expert(e, row):
        if e < dims["E"]:
            return routed(e, row)
        if kind == "constant":
            return arrays["constants"][e - dims["E"]]
        return row if kind == "identity" else 0.0 * row

    p = softmax(x @ arrays["router"].T)
    ids = top_k(p + arrays["bias"], k)
    return {"y": run_experts(x, ids, gather(p, ids) * scale, expert)}

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""DBRX: top-4, weights divided by their p-norm, w2 stored [in, out].

Databricks, "Introducing DBRX" (2024); Hugging Face DbrxFFN.

p = softmax(router·x) in the model's type; the k = 4 largest; w = p / ‖p‖_1 (dbrx;
moe_normalize_expert_weights = 1) or / ‖p‖_2 (dbrx_two_norm). Experts: (silu(w1·x) ⊙ v1·x)·w2
with w1, v1, w2 all [E,I,H]: `gate`, `up` [out, in], `down` [in, out].

    moe.logits; moe.score softmax; moe.select {k = 4}; moe.weigh {norm = pnorm, norm_p = 1.0};
    moe.dispatch; moe.grouped_matmul %rows, %gate and %up; moe.activate silu {glu = separate};
    moe.grouped_matmul %down {layout = in_out}; moe.combine (layout holds for both banks of
    moe.experts, so the parts are written out, or `down` is transposed before)
"""

import numpy as np

from .common import drawing, gather, matrices, router_like, run_experts, silu, softmax, tokens_like, top_k

DIMS = {"H": 24, "I": 40, "E": 16}
OTHER_DIMS = {"H": 36, "I": 26, "E": 11}
INPUTS = ("x",)
CASES = {"dbrx": {"k": 4, "norm": 1.0}, "dbrx_two_norm": {"k": 4, "norm": 2.0}}


def make(rng, dims, tokens, case):
    h, i, e = dims["H"], dims["I"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        "gate": matrices(rng, e, i, h),
        "up": matrices(rng, e, i, h),
        "down": rng.standard_normal((e, i, h)) / np.sqrt(i),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x, k, norm = arrays["x"], *CASES[case].values()

    def expert(e, row):
        return (silu(arrays["gate"][e] @ row) * (arrays["up"][e] @ row)) @ arrays["down"][e]

    p = softmax(x @ arrays["router"].T)
    ids = top_k(p, k)
    weights = gather(p, ids)
    weights = weights / (weights**norm).sum(axis=-1, keepdims=True) ** (1.0 / norm)
    return {"y": run_experts(x, ids, weights, expert)}

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Mixtral: softmax, top-2, divided by their sum.

A. Jiang et al., "Mixtral of Experts" (arXiv 2401.04088), section 2.1; Hugging Face
MixtralSparseMoeBlock, load_balancing_loss_func.

p = softmax(router·x) (f32); the k = 2 largest, w = p / Σp. The same as a softmax over the two
largest logits (the paper's form). Experts: down·(silu(gate·x) ⊙ up·x), gate_up [E,2I,H] with
the gate rows first. loss = E·Σ_e f_e·P_e, f_e counting both choices (sums to k).

    moe.logits; moe.score softmax; moe.select {k = 2}; moe.weigh {norm = sum};
    moe.experts silu {glu = concat}; moe.aux load_balance {fraction = all}
"""

from .common import (
    divide_by_sum,
    drawing,
    gather,
    load_balance,
    make_swiglu,
    router_like,
    run_experts,
    softmax,
    swiglu_expert,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x",)
CASES = {"mixtral": {"k": 2}}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {"x": tokens_like(rng, tokens, h), "router": router_like(rng, e, h), **make_swiglu(rng, dims)}


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]
    p = softmax(x @ arrays["router"].T)
    ids = top_k(p, CASES[case]["k"])
    return {
        "y": run_experts(x, ids, divide_by_sum(gather(p, ids)), swiglu_expert(arrays)),
        "load_balance_loss": load_balance(p, ids),
    }

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Switch Transformer: top-1, weighted by its probability, with capacity.

W. Fedus, B. Zoph, N. Shazeer, "Switch Transformers" (arXiv 2101.03961), section 2.2; Mesh
TensorFlow `transformer/moe.py` _switch_gating; Hugging Face SwitchTransformersSparseMLP 4.52
to 4.56. x is [G,S,H]: each group (sequence) of S tokens has its own capacity.

p = softmax(router·x); the expert is e = argmax p, y = p_e · expert_e(x).
Capacity of an expert within a group: C = max(int(S·1.25/E), 4), or a fixed number (Hugging
Face: expert_capacity); tokens in their order; a token over capacity gets 0 (`zero`), or p_e·x
(`pass_through`: Hugging Face up to 4.51, and QMoE).
loss = mean over groups of E · Σ_e f_e·P_e, f_e before capacity; z_loss = mean (ln Σ e^L)².
Experts: wo·relu(wi·x), no bias: `up`, `down`.

    %x -> tensor.collapse_shape; %n = tensor.dim (S)
    moe.logits; moe.score softmax; moe.select {k = 1}; moe.weigh; moe.capacity group_size(%n)
    {capacity = #moe.capacity<tokens * 1.25 / experts, round = floor, min = 4> or <5>,
    order = choice}; moe.experts relu, or for pass_through dispatch, expert_ffn and
    moe.combine uncovered(%x, %routing before capacity)
    moe.aux load_balance group_size(%n); moe.aux z_loss
"""

import numpy as np

from .common import (
    NOBODY,
    by_choice,
    drawing,
    each_group,
    fill,
    gather,
    groups_of,
    load_balance,
    make_plain,
    mean,
    relu_expert,
    router_like,
    run_experts,
    softmax,
    tokens_like,
    top_k,
    z_loss,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x",)
CASES = {
    "switch": {"capacity": None, "overflow": "zero"},
    "switch_per_sequence": {"capacity": 5, "overflow": "zero"},
    "switch_pass_through": {"capacity": None, "overflow": "pass_through"},
}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, *groups_of(tokens), h),
        "router": router_like(rng, e, h),
        **make_plain(rng, dims, with_biases=False),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    return switch(arrays, dims, **CASES[case])


def switch(arrays, dims, capacity, overflow):
    experts, size = dims["E"], arrays["x"].shape[1]
    c = max(int(size * 1.25 / experts), 4) if capacity is None else capacity
    y, losses, logits = np.zeros_like(arrays["x"]), [], []
    for g, x in each_group(arrays["x"]):
        logits.append(x @ arrays["router"].T)
        p = softmax(logits[-1])
        ids = top_k(p, 1)
        kept = fill(ids, experts, c, by_choice(ids))
        weights = gather(p, ids)
        y[g] = run_experts(x, kept, weights, relu_expert(arrays))
        if overflow == "pass_through":
            y[g] += np.where(kept == NOBODY, weights, 0.0) * x
        losses.append(load_balance(p, ids))
    return {
        "y": y,
        "load_balance_loss": mean(losses),
        "z_loss": z_loss(np.concatenate(logits) if logits else np.zeros((0, experts))),
    }

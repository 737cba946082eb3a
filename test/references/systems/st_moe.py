# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ST-MoE: top-2 as GShard, a threshold for the second expert, router z-loss.

B. Zoph et al., "ST-MoE" (arXiv 2202.08906), sections 3.3 (z-loss), 4, and appendix; Mesh
TensorFlow `transformer/moe.py`; google/flaxformer `architectures/moe/routing.py`.

st_moe (MTF): g /= g1 + g2 + 1e-9; the second expert where g2 > 0.2; C = max(int(S·1.25/E), 4),
first choices before second ones. Router [H,E], x [G,S,H].
st_moe_unnormalized (flaxformer): weights are the raw p of both, no policy;
C = max(round(S·1.25/E), 4) (half to even). Its dense `extra_mlp` is a layer of its own.
loss = mean over groups of E·Σ f_e·P_e (f of first choices), z_loss = mean (ln Σ e^L)².
Experts: silu-gated (GEGLU in the paper's models; the gate is left to the configuration):
down·(silu(gate·x) ⊙ up·x).

    as gshard with moe.filter {threshold = 0.2} (left out, and norm = none, in
    st_moe_unnormalized, with round = nearest); moe.experts silu {glu = concat};
    moe.aux load_balance {fraction = first}, z_loss
"""

import numpy as np

from . import gshard
from .common import (
    by_choice,
    drawing,
    each_group,
    fill,
    gather,
    groups_of,
    load_balance,
    make_swiglu,
    mean,
    router_like,
    run_experts,
    softmax,
    swiglu_expert,
    tokens_like,
    top_k,
    z_loss,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x",)
CASES = {
    "st_moe": {"normalize": True, "threshold": 0.2, "round": "floor"},
    "st_moe_unnormalized": {"normalize": False, "threshold": None, "round": "nearest"},
}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, *groups_of(tokens), h),
        "router": np.ascontiguousarray(router_like(rng, e, h).T),
        **make_swiglu(rng, dims),
    }


draw = drawing(__name__)


def route(p, normalize, threshold, round):
    size, experts = p.shape
    ids = top_k(p, 2)
    weights = gather(p, ids)
    if normalize:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-9)
    asking = ids
    if threshold is not None:
        asking = gshard.second_choice(ids, weights, "threshold", threshold, None)
    wanted = size * 1.25 / experts
    capacity = max(int(np.rint(wanted) if round == "nearest" else wanted), 4)
    return fill(asking, experts, capacity, by_choice(asking)), weights


def reference(arrays, dims, case):
    y, losses, logits = np.zeros_like(arrays["x"]), [], []
    for g, x in each_group(arrays["x"]):
        logits.append(x @ arrays["router"])
        p = softmax(logits[-1])
        ids, weights = route(p, **CASES[case])
        y[g] = run_experts(x, ids, weights, swiglu_expert(arrays))
        losses.append(load_balance(p, p.argmax(axis=-1)[:, None]))
    return {
        "y": y,
        "load_balance_loss": mean(losses),
        "z_loss": z_loss(np.concatenate(logits) if logits else np.zeros((0, dims["E"]))),
    }

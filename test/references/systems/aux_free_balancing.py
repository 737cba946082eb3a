# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Balancing without an auxiliary loss: the selection bias follows the load.

L. Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (arXiv
2408.15664), section 3 (algorithm 1; the proportional rule is its ablation); torchtitan
(`recenter`).

Routing as deepseek_v3 without groups and shared experts: s = sigmoid(router·x), the k largest
s + b, w = s / (Σs + 1e-20). count_e: tokens of expert e in this batch, m their mean.
sign: b_e += rate · sign(m - count_e); proportional: b_e += rate · (m - count_e) / Σ count (0
for no token). recenter: the mean of the change is subtracted from it.

`simulate` feeds a stream of batches and the bias of each step into the next.

    moe.logits; moe.score sigmoid; moe.select bias(%b) {k = 2}; moe.weigh {norm = sum, norm_eps =
    1e-20}; moe.experts silu {glu = concat}; %c = moe.aux tokens_per_expert;
    moe.bias_update sign %b, %c {rate = 1e-3 [, recenter]}; the bias is an argument and a result
"""

import numpy as np

from . import deepseek_v3
from .common import (
    drawing,
    make_swiglu,
    router_like,
    run_experts,
    swiglu_expert,
    tokens_like,
    tokens_per_expert,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x", "bias")
CASES = {
    "aux_free_balancing": {"rule": "sign", "rate": 1e-3, "recenter": False},
    "aux_free_balancing_recentered": {"rule": "sign", "rate": 1e-3, "recenter": True},
    "aux_free_balancing_proportional": {"rule": "proportional", "rate": 1e-2, "recenter": False},
}
K = 2


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "bias": 0.2 * rng.standard_normal(e),
        "router": router_like(rng, e, h),
        **make_swiglu(rng, dims),
    }


draw = drawing(__name__)


def updated(bias, count, rule, rate, recenter):
    total, experts = int(count.sum()), len(count)
    # m - count in integers, times E: the sign of a difference of 0 is exact.
    short = total - experts * count
    if rule == "sign":
        change = rate * np.sign(short).astype(np.float64)
    else:
        change = rate * short / (experts * total) if total else np.zeros(experts)
    return bias + change - (change.mean() if recenter else 0.0)


def route(x, arrays):
    return deepseek_v3.route(x, arrays, k=K, groups=None, fill=None, eps=1e-20, scale=1.0)


def reference(arrays, dims, case):
    x = arrays["x"]
    ids, weights = route(x, arrays)
    count = tokens_per_expert(ids, dims["E"])
    return {
        "y": run_experts(x, ids, weights, swiglu_expert(arrays)),
        "tokens_per_expert": count,
        "updated_bias": updated(arrays["bias"], count, **CASES[case]),
    }


def stream(rng, dims, steps, tokens):
    """(router, x[steps,T,H]): a router that without bias prefers few experts."""
    router = router_like(rng, dims["E"], dims["H"], empty=(), spread=1.0)
    return router, tokens_like(rng, steps, tokens, dims["H"])


def simulate(router, batches, rule="sign", rate=1e-2, recenter=False):
    """(biases[steps+1,E], counts[steps,E]), the bias starting at 0."""
    history, counts = [np.zeros(len(router))], []
    for x in batches:
        ids, _ = route(x, {"router": router, "bias": history[-1]})
        counts.append(tokens_per_expert(ids, len(router)))
        history.append(updated(history[-1], counts[-1], rule, rate, recenter))
    return np.stack(history), np.stack(counts)


def violation(counts):
    """Largest load over the mean load, minus 1 (MaxVio of the paper)."""
    return counts.max() / counts.mean() - 1.0

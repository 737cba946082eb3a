# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Adaptive mixtures of local experts: every expert, weighted by a softmax.

R. Jacobs, M. Jordan, S. Nowlan, G. Hinton, "Adaptive Mixtures of Local Experts", Neural
Computation 3 (1991), section 1: p = softmax(router·x + b), y = Σ_e p_e · expert_e(x). Experts
here: down·relu(up·x + b) + b (the paper leaves the network open). All experts run.

    moe.logits bias; moe.score softmax; moe.select {mode = all}; moe.weigh;
    moe.experts #moe.activation<relu> with up_bias and down_bias
"""

import numpy as np

from .common import biases, drawing, make_plain, relu_expert, router_like, run_experts, softmax, tokens_like

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x",)
CASES = {"jacobs": {}}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h, empty=()),
        "router_bias": biases(rng, e),
        **make_plain(rng, dims),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]
    p = softmax(x @ arrays["router"].T + arrays["router_bias"])
    everyone = np.tile(np.arange(dims["E"]), (len(x), 1))
    return {"y": run_experts(x, everyone, p, relu_expert(arrays))}

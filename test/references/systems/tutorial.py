# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The layer that tutorials show, and its bias variant.

Plain: L = router·x + b; the k = 2 largest logits, w = softmax of those; each expert takes at most
int(T · factor) entries, asked for token by token and, within a token, slot by slot; what finds
its expert full is dropped, the other weight stays as it is. Experts: down·relu(up·x + b) + b.

Bias variant (no capacity): the selection adds a balancing bias c to the logits, and the kept
biased logits are what the weights are made of: tutorial_bias: softmax of them;
tutorial_bias_raw: they themselves. Then c -= rate · (load - 1/E), load_e being the fraction of
tokens whose largest logit without c is e (no change for no token).

    moe.logits bias; moe.select {k = 2}; moe.weigh {fn = softmax}; moe.capacity {capacity =
    #moe.capacity<tokens * 0.3, round = floor>, order = token}; moe.experts relu, biases
    bias variant: moe.select %l bias(%c) {k = 2}; moe.weigh %l bias(%c) {fn = softmax | none};
    %top = moe.select %l {k = 1}; %n = moe.aux tokens_per_expert routing(%top);
    moe.bias_update proportional %c, %n {rate = 0.1}
"""

import numpy as np

from .common import (
    biases,
    by_token,
    drawing,
    fill,
    gather,
    make_plain,
    relu_expert,
    router_like,
    run_experts,
    softmax_of_selected,
    tokens_like,
    tokens_per_expert,
    top_k,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x", "balance")
CASES = {
    "tutorial": {"k": 2, "factor": 0.3},
    "tutorial_bias": {"k": 2, "rate": 0.1, "softmax": True},
    "tutorial_bias_raw": {"k": 2, "rate": 0.1, "softmax": False},
}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    arrays = {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        "router_bias": biases(rng, e),
        **make_plain(rng, dims),
    }
    if case != "tutorial":
        arrays["balance"] = biases(rng, e)
    return arrays


draw = drawing(__name__)


def plain(arrays, dims, k, factor):
    x = arrays["x"]
    logits = x @ arrays["router"].T + arrays["router_bias"]
    ids = top_k(logits, k)
    weights = softmax_of_selected(logits, ids)
    kept = fill(ids, dims["E"], int(len(x) * factor), by_token(ids))
    return {"y": run_experts(x, kept, weights, relu_expert(arrays))}


def with_bias(arrays, dims, k, rate, softmax):
    x, experts = arrays["x"], dims["E"]
    logits = x @ arrays["router"].T + arrays["router_bias"]
    biased = logits + arrays["balance"]
    ids = top_k(biased, k)
    weights = softmax_of_selected(biased, ids) if softmax else gather(biased, ids)
    count = tokens_per_expert(top_k(logits, 1), experts)
    excess = count / len(x) - 1.0 / experts if len(x) else np.zeros(experts)
    return {
        "y": run_experts(x, ids, weights, relu_expert(arrays)),
        "updated_balance": arrays["balance"] - rate * excess,
    }


def reference(arrays, dims, case):
    return (plain if case == "tutorial" else with_bias)(arrays, dims, **CASES[case])

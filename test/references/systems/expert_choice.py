# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Expert choice: each expert takes its best tokens.

Y. Zhou et al., "Mixture-of-Experts with Expert Choice Routing" (arXiv 2202.09368), section 3.2;
google/flaxformer `architectures/moe/routing.py` ExpertsChooseMaskedRouter; Mesh TensorFlow
`transformer/moe.py` expert_selection.

expert_choice: S = softmax(x·W) over the experts; expert e takes the C = max(round(2·n/E), 4)
tokens (half to even, all when there are fewer) with the largest S[t,e] of each group of n;
weight S[t,e], no renormalisation. A token may have none or many experts.
expert_choice_over_tokens (MTF): S is a softmax over the tokens of the group, and the weights
of a token are divided by the number of its experts.
x is [G,n,H]. Experts: down·relu(up·x).

    moe.logits {layout = in_out}; moe.score softmax {axis = experts} or {axis = tokens}
    group_size(%n); moe.select group_size(%n) {mode = expert_topk, k = E, capacity =
    #moe.capacity<tokens * 2 / experts, round = nearest, min = 4>}; moe.weigh [{norm =
    count}]; moe.experts relu; moe.aux tokens_per_expert
"""

import numpy as np

from .common import (
    NOBODY,
    decide,
    drawing,
    each_group,
    groups_of,
    make_plain,
    relu_expert,
    router_like,
    run_experts,
    softmax,
    tokens_like,
    tokens_per_expert,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x",)
CASES = {"expert_choice": {"over_tokens": False}, "expert_choice_over_tokens": {"over_tokens": True}}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, *groups_of(tokens), h),
        "router": np.ascontiguousarray(router_like(rng, e, h, empty=()).T),
        **make_plain(rng, dims, with_biases=False),
    }


draw = drawing(__name__)


def choose(scores):
    """(ids, weights), [n,E] each: column e is expert e where it takes the token."""
    count, experts = scores.shape
    capacity = max(int(np.rint(2.0 * count / experts)), 4)
    ids = np.full(scores.shape, NOBODY)
    for e in range(experts):
        order = sorted(range(count), key=lambda t: (-scores[t, e], t))
        if capacity < count:
            decide(order[capacity], scores[order[capacity - 1], e], scores[order[capacity], e])
        ids[order[:capacity], e] = e
    return ids, np.where(ids == NOBODY, 0.0, scores)


def reference(arrays, dims, case):
    over_tokens = CASES[case]["over_tokens"]
    y, load = np.zeros_like(arrays["x"]), np.zeros(dims["E"], dtype=np.int64)
    for g, x in each_group(arrays["x"]):
        scores = softmax(x @ arrays["router"], axis=0 if over_tokens else 1)
        ids, weights = choose(scores)
        if over_tokens:
            weights = weights / np.maximum((ids != NOBODY).sum(axis=1, keepdims=True), 1)
        y[g] = run_experts(x, ids, weights, relu_expert(arrays))
        load += tokens_per_expert(ids, dims["E"])
    return {"y": y, "tokens_per_expert": load}

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A translation layer whose experts belong to language pairs.

Language-specific routing as in S. Kudugunta et al., "Beyond Distillation: Task-level Mixture-of-
Experts" (arXiv 2110.03742), section 3, with token choice inside the task: each token knows its
language pair, only experts of that pair are allowed, of those the k = 2 with the largest logits,
w = softmax of those. A pair with one expert gives it weight 1.

`experts_of_pair` [P,E] (bool) is a table of the model, `pair` [T] (int64) an input.
language_pairs: consecutive groups of E/P experts. language_pairs_uneven: any sets, pair 0 has
one expert, and some expert belongs to several pairs.
Experts: down·relu(up·x + b) + b.

    allowed[t,e] = experts_of_pair[pair[t], e] (linalg.generic with tensor.extract);
    moe.logits bias; moe.select expert_mask(%allowed) {k = 2}; moe.weigh {fn = softmax};
    moe.experts relu, biases; moe.aux tokens_per_expert
"""

import numpy as np

from .common import (
    biases,
    drawing,
    make_plain,
    relu_expert,
    router_like,
    run_experts,
    softmax_of_selected,
    tokens_like,
    tokens_per_expert,
    top_k,
)

DIMS = {"H": 24, "I": 40, "E": 12, "P": 3}
OTHER_DIMS = {"H": 36, "I": 28, "E": 15, "P": 5}
INPUTS = ("x", "pair")
CASES = {"language_pairs": {"k": 2, "even": True}, "language_pairs_uneven": {"k": 2, "even": False}}


def make(rng, dims, tokens, case):
    h, e, pairs = dims["H"], dims["E"], dims["P"]
    table = np.kron(np.eye(pairs), np.ones(e // pairs)).astype(bool)
    if not CASES[case]["even"]:
        table = rng.uniform(size=(pairs, e)) < 0.5
        table[:, :2] = True
        table[0] = np.arange(e) == 3
    return {
        "x": tokens_like(rng, tokens, h),
        "pair": rng.integers(0, pairs, tokens),
        "experts_of_pair": table,
        "router": router_like(rng, e, h),
        "router_bias": biases(rng, e),
        **make_plain(rng, dims),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x = arrays["x"]
    logits = x @ arrays["router"].T + arrays["router_bias"]
    allowed = arrays["experts_of_pair"][arrays["pair"]]
    ids = top_k(np.where(allowed, logits, -np.inf), CASES[case]["k"])
    return {
        "y": run_experts(x, ids, softmax_of_selected(logits, ids), relu_expert(arrays)),
        "tokens_per_expert": tokens_per_expert(ids, dims["E"]),
    }

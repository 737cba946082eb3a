# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""COMET: experts chosen by trees of smooth steps that reach 0 and 1.

S. Ibrahim, W. Chen, H. Hazimeh, N. Ponomareva, Z. Zhao, R. Mazumder, "COMET: Learning
Cardinality Constrained Mixture of Experts with Trees and Local Search" (KDD 2023), sections 3
and 4; mazumder-lab/COMET `model/gates/comet.py`.

R trees over n experts. Node 0 is the root, node i has the children 2i+1 and 2i+2, nodes
0 … n-2 are inner nodes, the others leaves. An inner node of probability p gives p·s to its
left child and p·(1-s) to its right one, s = smooth_step(w·x + b). A leaf has the logit
a·x + c + ln(p + 1e-8), or none where p = 0. Leaves are counted from left to right (for n not
a power of two this is not the order of their node numbers). softmax over all R·n leaves
together; the expert of leaf j of tree r is permutation[r,j]; an expert's weight is the sum
over the trees, divided by the sum over the experts.
visited: tree nodes with p > 0, leaves included.
comet_threshold (the authors' COMET-BERT): no node bias, ln(p + 1e-6), leaves with p < 1e-5
are not counted; there a leaf needs p > p_min (they differ for p = p_min alone).
Experts: down·relu(up·x + b) + b.

    moe.tree_select %x nodes(%node_weight) leaves(%leaf_weight) node_bias leaf_bias permutation
    {gamma = 1.0, log_eps = 1e-8, p_min = 0.0} -> routing, visited; moe.experts relu, biases
"""

import math

import numpy as np

from .common import NOBODY, biases, decide, drawing, make_plain, relu_expert, run_experts, softmax, tokens_like

DIMS = {"H": 24, "I": 40, "E": 8, "R": 2}  # 8: a power of two, 11: not
OTHER_DIMS = {"H": 36, "I": 28, "E": 11, "R": 3}
INPUTS = ("x",)
CASES = {
    # sharpness: how far the nodes' values reach beyond gamma / 2
    "comet": {"log_eps": 1e-8, "p_min": 0.0, "permutation": "each", "sharpness": 1.0},
    "comet_shared_permutation": {"log_eps": 1e-8, "p_min": 0.0, "permutation": "shared", "sharpness": 1.0},
    "comet_saturated": {"log_eps": 1e-8, "p_min": 0.0, "permutation": None, "sharpness": 1e4},
    "comet_threshold": {"log_eps": 1e-6, "p_min": 1e-5, "permutation": "each", "sharpness": 1.0},
}
GAMMA = 1.0


def make(rng, dims, tokens, case):
    attributes = CASES[case]
    h, n, r = dims["H"], dims["E"], dims["R"]
    arrays = {
        "x": tokens_like(rng, tokens, h),
        "node_weight": attributes["sharpness"] * rng.standard_normal((r, n - 1, h)) / math.sqrt(h),
        "leaf_weight": rng.standard_normal((r, n, h)) / math.sqrt(h),
        "leaf_bias": biases(rng, r, n),
        **make_plain(rng, dims),
    }
    if case != "comet_threshold":
        arrays["node_bias"] = biases(rng, r, n - 1)
    if attributes["permutation"] == "each":
        arrays["permutation"] = np.stack([rng.permutation(n) for _ in range(r)]).astype(np.int64)
    elif attributes["permutation"] == "shared":
        arrays["permutation"] = rng.permutation(n)[None].astype(np.int64)
    return arrays


draw = drawing(__name__)


def smooth_step(value, token):
    if not decide(token, value, -GAMMA / 2):
        return 0.0
    if not decide(token, GAMMA / 2, value):
        return 1.0
    return -2.0 * value**3 / GAMMA**3 + 3.0 * value / (2.0 * GAMMA) + 0.5


def walk(values, node, p, token):
    """(probabilities of the leaves below `node` from left to right, its subtree's nodes with
    p > 0). values[i] is w·x + b of inner node i."""
    visited = int(p > 0.0)
    if node >= len(values):
        return [p], visited
    s = smooth_step(values[node], token) if p > 0.0 else 0.0
    left, visited_left = walk(values, 2 * node + 1, p * s, token)
    right, visited_right = walk(values, 2 * node + 2, p * (1.0 - s), token)
    return left + right, visited + visited_left + visited_right


def route_token(arrays, dims, x, token, log_eps, p_min):
    n, trees = dims["E"], dims["R"]
    order = arrays.get("permutation", np.arange(n)[None])  # one row: the same for all trees
    logits, experts, visited = [], [], 0
    for r in range(trees):
        values = arrays["node_weight"][r] @ x
        if "node_bias" in arrays:
            values = values + arrays["node_bias"][r]
        leaves, count = walk(values, 0, 1.0, token)
        visited += count
        for j, p in enumerate(leaves):
            there = decide(token, p, p_min, scale=1e-2 if p_min else 0.0)
            leaf = arrays["leaf_weight"][r, j] @ x + arrays["leaf_bias"][r, j]
            logits.append(leaf + math.log(p + log_eps) if there else -np.inf)
            experts.append(order[r % len(order)][j])
    weights = np.zeros(n)
    for e, weight in zip(experts, softmax(np.array(logits))):
        weights[e] += weight
    return weights / weights.sum(), visited


def reference(arrays, dims, case):
    x, attributes = arrays["x"], CASES[case]
    weights = np.zeros((len(x), dims["E"]))
    visited = np.zeros(len(x), dtype=np.int64)
    for t, row in enumerate(x):
        weights[t], visited[t] = route_token(arrays, dims, row, t, attributes["log_eps"], attributes["p_min"])
    ids = np.where(weights > 0.0, np.arange(dims["E"]), NOBODY)
    return {"y": run_experts(x, ids, weights, relu_expert(arrays)), "visited": visited}

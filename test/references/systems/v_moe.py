# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""V-MoE: softmax before top-k, raw weights, batch-prioritised capacity.

C. Riquelme et al., "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), sections
2 and 4, appendix A.2; google-research/vmoe `vmoe/nn/routing.py`, `vmoe/moe.py`.

p = softmax(logits), logits = router·x (+ noise, normal · noise_std/E, in training); the k
largest, weights p (not renormalised). C = ceil(S·k·cf/E), up to a multiple of 4; tokens of a
group ask in the order of their largest p (batch-prioritised routing), all first choices
before all second ones.
gshard_loss: mean over groups of E·Σ f_e·P_e (f of first choices; p with the noise).
importance_loss: cv² of Σ_t p without noise, over ALL experts and not only the selected.
load_loss (with noise): cv² of mean_t (1 - Φ((k-th largest noisy logit - clean)/noise_std)).
The last two are means over groups; here one group, as moe.aux has no groups for them.
Experts: down·gelu_tanh(up·x + b) + b (ViT's MlpBlock; flax's gelu is the tanh form).

    moe.logits {layout = in_out} (noise); moe.score softmax; moe.select {k = 2}; moe.weigh;
    moe.capacity group_size(%n) {capacity = #moe.capacity<tokens * k * 0.5 / experts, round =
    ceil, multiple = 4>, order = bpr} priority(%p); moe.experts gelu_tanh, biases
    moe.aux load_balance {fraction = first}; importance_cv2 probabilities(clean p);
    load_cv2 {variant = vmoe, k = 2}
"""

import math

import numpy as np

from .common import (
    by_choice,
    by_falling,
    cv2,
    drawing,
    each_group,
    fill,
    gather,
    gelu_tanh,
    groups_of,
    load_balance,
    make_plain,
    mean,
    normal_cdf,
    plain,
    round_up,
    router_like,
    run_experts,
    softmax,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 40, "E": 8}
OTHER_DIMS = {"H": 36, "I": 28, "E": 5}
INPUTS = ("x", "noise")
CASES = {"v_moe": {"k": 2, "factor": 0.5}, "v_moe_noisy": {"k": 2, "factor": 0.5}}
NOISE_STD = 1.0  # times 1/E


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    noisy = case == "v_moe_noisy"
    groups, size = (1, tokens) if noisy else groups_of(tokens)
    arrays = {
        "x": tokens_like(rng, groups, size, h),
        "router": np.ascontiguousarray(router_like(rng, e, h).T),
        **make_plain(rng, dims),
    }
    if noisy:
        arrays["noise"] = rng.standard_normal((tokens, e)) * (NOISE_STD / e)
        arrays["noise_std"] = np.array(NOISE_STD / e)
    return arrays


draw = drawing(__name__)


def route(p, k, factor):
    size, experts = p.shape
    ids = top_k(p, k)
    capacity = round_up(math.ceil(size * k * factor / experts), 4)
    kept = fill(ids, experts, capacity, by_choice(ids, by_falling(p.max(axis=-1))))
    return kept, gather(p, ids)


def load_loss(clean, noisy, noise_std, k):
    probability = np.zeros(clean.shape)
    for t in range(len(clean)):
        threshold = sorted(noisy[t], reverse=True)[k - 1]
        for e in range(clean.shape[1]):
            probability[t, e] = 1.0 - normal_cdf((threshold - clean[t, e]) / noise_std)
    return cv2(probability.mean(axis=0)) if len(clean) else np.array(0.0)


def reference(arrays, dims, case):
    y, losses = np.zeros_like(arrays["x"]), []
    for g, x in each_group(arrays["x"]):
        logits = x @ arrays["router"]
        p = softmax(logits + arrays["noise"] if "noise" in arrays else logits)
        ids, weights = route(p, **CASES[case])
        y[g] = run_experts(x, ids, weights, lambda e, row: plain(row, e, arrays, gelu_tanh))
        losses.append(load_balance(p, p.argmax(axis=-1)[:, None]))
    outputs = {"y": y, "load_balance_loss": mean(losses)}
    if "noise" in arrays:
        clean = arrays["x"][0] @ arrays["router"]
        outputs["importance_loss"] = cv2(softmax(clean).sum(axis=0))
        outputs["load_loss"] = load_loss(clean, clean + arrays["noise"], arrays["noise_std"], CASES[case]["k"])
    return outputs

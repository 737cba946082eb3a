# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The sparsely-gated layer: noisy top-k gating, at inference and with noise given.

N. Shazeer et al., "Outrageously Large Neural Networks" (arXiv 1701.06538), section 2.1,
appendices A (load) and B (hierarchical); tensor2tensor `utils/expert_utils.py`
(noisy_top_k_gating, _prob_in_top_k, cv_squared).

Gates: logits H = x·W_g (+ noise: standard normal · noise_std, of the caller), the k largest,
softmax over those k. W_g is [H,E] as in the paper. Experts: down·relu(up·x), no bias.
importance = Σ_t gates; importance_loss = cv²(importance).
With noise: load_e = Σ_t Φ((clean - threshold)/noise_std), the threshold being the (k+1)-th
largest noisy logit where expert e is selected, else the k-th; load_loss = cv²(load).
Without: the load is the tokens per expert, returned as they are.
cv² = population variance / (mean² + 1e-10).

Hierarchical (appendix B): gates of G groups, and in each group gates of its experts;
a token's weight for expert j of group g is the product, y = Σ_g Σ_j G_g·G_gj·expert_gj(x).
Experts are numbered group by group; router_0 … router_{G-1} are [N,H], router [G,H].

    moe.logits {layout = in_out} (noise(%noise)); moe.select {k} on the logits;
    moe.weigh {fn = softmax}; moe.experts relu; moe.aux importance_cv2 routing(weighted),
    load_cv2 {variant = shazeer, k} logits(clean) noisy_logits noise_std, tokens_per_expert
    hierarchical: moe.compose %outer, %inner0, %inner1, %inner2
"""

import numpy as np

from .common import (
    cv2,
    drawing,
    importance,
    make_plain,
    normal_cdf,
    relu_expert,
    router_like,
    run_experts,
    softmax_of_selected,
    tokens_like,
    tokens_per_expert,
    top_k,
)

DIMS = {"H": 24, "I": 40, "E": 15, "G": 3, "N": 5}  # N: experts of a group, hierarchical only
OTHER_DIMS = {"H": 36, "I": 28, "E": 21, "G": 3, "N": 7}
INPUTS = ("x", "noise", "noise_std")
CASES = {
    "shazeer": {"k": 4},
    "shazeer_noisy": {"k": 4},
    "shazeer_hierarchical": {"k_outer": 2, "k": 2},
}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    arrays = {"x": tokens_like(rng, tokens, h), **make_plain(rng, dims, with_biases=False)}
    if case == "shazeer_hierarchical":
        arrays["router"] = router_like(rng, dims["G"], h)
        for g in range(dims["G"]):
            arrays[f"router_{g}"] = router_like(rng, dims["N"], h)
        return arrays
    arrays["router"] = np.ascontiguousarray(router_like(rng, e, h, empty=(1, 6)).T)
    if case == "shazeer_noisy":
        # softplus(x·W_noise) + 1e-2 in training; any positive numbers serve here.
        arrays["noise_std"] = np.log1p(np.exp(rng.standard_normal((tokens, e)))) + 1e-2
        arrays["noise"] = rng.standard_normal((tokens, e)) * arrays["noise_std"]
    return arrays


draw = drawing(__name__)


def gate(logits, k):
    ids = top_k(logits, k)
    return ids, softmax_of_selected(logits, ids)


def expected_load(clean, noisy, noise_std, k):
    load = np.zeros(clean.shape[1])
    for t in range(len(clean)):
        falling = sorted(noisy[t], reverse=True)
        for e in range(clean.shape[1]):
            threshold = falling[k] if noisy[t, e] > falling[k] else falling[k - 1]
            load[e] += normal_cdf((clean[t, e] - threshold) / noise_std[t, e])
    return load


def hierarchical(arrays, dims, k_outer, k):
    x, size = arrays["x"], dims["N"]
    outer_ids, outer_weights = gate(x @ arrays["router"].T, k_outer)
    inner = [gate(x @ arrays[f"router_{g}"].T, k) for g in range(dims["G"])]
    ids = np.zeros((len(x), k_outer * k), dtype=int)
    weights = np.zeros(ids.shape)
    for t in range(len(x)):
        for i, g in enumerate(outer_ids[t]):
            for j in range(k):
                ids[t, i * k + j] = g * size + inner[g][0][t, j]
                weights[t, i * k + j] = outer_weights[t, i] * inner[g][1][t, j]
    return {"y": run_experts(x, ids, weights, relu_expert(arrays))}


def reference(arrays, dims, case):
    if case == "shazeer_hierarchical":
        return hierarchical(arrays, dims, **CASES[case])
    x, k, experts = arrays["x"], CASES[case]["k"], dims["E"]
    clean = x @ arrays["router"]
    logits = clean + arrays["noise"] if "noise" in arrays else clean
    ids, weights = gate(logits, k)
    outputs = {
        "y": run_experts(x, ids, weights, relu_expert(arrays)),
        "importance_loss": cv2(importance(ids, weights, experts)),
    }
    if "noise" in arrays:
        outputs["load_loss"] = cv2(expected_load(clean, logits, arrays["noise_std"], k))
    else:
        outputs["tokens_per_expert"] = tokens_per_expert(ids, experts)
    return outputs

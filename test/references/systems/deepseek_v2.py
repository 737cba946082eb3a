# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""DeepSeekMoE and DeepSeek-V2: fine-grained experts, shared experts, group-limited top-k.

D. Dai et al., "DeepSeekMoE" (arXiv 2401.06066), section 3; DeepSeek-AI, "DeepSeek-V2"
(arXiv 2405.04434), section 2.2; Hugging Face DeepseekV2Moe.

p = softmax(router·x) (f32). deepseek_moe: the k largest. deepseek_v2: of G groups of experts
the 2 with the largest p of an expert stay, the others' p become 0 (p > 0, so 0 is never
chosen before an allowed one); the k largest of the rest. w = p · scale, no normalisation.
Hugging Face always scales and never normalises; the model's own code normalises or scales.
Routed: down·(silu(gate·x) ⊙ up·x). Shared: one SwiGLU of width J (n_shared · I), ungated.
loss = E·Σ_e f_e·P_e with f_e = count_e/(k·T), over all tokens (seq_aux: of one sequence).

    moe.logits; moe.score softmax; moe.select {k, n_group = 4, topk_group = 2, group_score =
    max, group_fill = zero}; moe.weigh {scale = 16.0}; moe.experts silu {glu = concat};
    moe.shared silu {glu = separate} add(%y); moe.aux load_balance {fraction = all, per_slot}
"""

from .common import (
    drawing,
    gather,
    limit_groups,
    load_balance,
    make_shared_swiglu,
    make_swiglu,
    router_like,
    run_experts,
    shared_swiglu,
    softmax,
    swiglu_expert,
    tokens_like,
    top_k,
)

DIMS = {"H": 24, "I": 40, "J": 52, "E": 16}
OTHER_DIMS = {"H": 36, "I": 26, "J": 44, "E": 12}
INPUTS = ("x",)
CASES = {
    "deepseek_moe": {"k": 4, "groups": None, "scale": 1.0},
    "deepseek_v2": {"k": 3, "groups": (4, 2), "scale": 16.0},
}


def make(rng, dims, tokens, case):
    h, e = dims["H"], dims["E"]
    return {
        "x": tokens_like(rng, tokens, h),
        "router": router_like(rng, e, h),
        **make_swiglu(rng, dims),
        **make_shared_swiglu(rng, dims),
    }


draw = drawing(__name__)


def reference(arrays, dims, case):
    x, k, groups, scale = arrays["x"], *CASES[case].values()
    p = softmax(x @ arrays["router"].T)
    keys = limit_groups(p, *groups, score=max, fill=0.0) if groups else p
    ids = top_k(keys, k)
    routed = run_experts(x, ids, gather(p, ids) * scale, swiglu_expert(arrays))
    return {"y": routed + shared_swiglu(x, arrays)[0], "load_balance_loss": load_balance(p, ids) / k}

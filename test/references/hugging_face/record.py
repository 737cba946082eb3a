# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compares the references of test/references/systems with Hugging Face, and records it.

    python test/references/hugging_face/record.py [--check] [NAME...]

For each case: a tiny configuration of the model, its MoE block alone (router, experts,
shared experts) with the weights and inputs of the system's `draw` (so biases and
correction terms are not zero), run in float64; its results are compared with those of
`reference`, and inputs, weights and results are written to cases/NAME.npz (`--check`
writes nothing). Routers that compute in float32 whatever their input is limit the
agreement to about 1e-7.

Which versions of transformers a case is run with matters: see CASES. Environments:
requirements.txt (5.16.1), requirements-4.56.txt and requirements-4.46.txt. The tests need
neither: test_hugging_face.py reads the recorded files.
"""

import argparse
import importlib
import json
import pathlib
import sys
from unittest import mock

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from references import systems  # noqa: E402

TOKENS = 24
SMALL = {"H": 16, "I": 10, "J": 20, "E": 16}


def modeling(name):
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def configure(name, **attributes):
    attributes = {"num_attention_heads": 1, "num_key_value_heads": 1} | attributes
    config = getattr(transformers, name)(**attributes)
    config._experts_implementation = "eager"
    return config


def load(block, state, dtype=torch.float64):
    """The block, evaluating; every parameter and buffer must be in `state`."""
    block = block.to(dtype).eval()
    block.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, strict=True)
    return block


def mlp(prefix, arrays):
    """The state of one SwiGLU of separate matrices from the shared expert's arrays."""
    return {
        f"{prefix}.{there}_proj.weight": arrays[f"shared_{here}"][0]
        for there, here in (("gate", "gate"), ("up", "up"), ("down", "down"))
    }


def experts(arrays, prefix="experts"):
    return {f"{prefix}.gate_up_proj": arrays["gate_up"], f"{prefix}.down_proj": arrays["down"]}


def run(block, x, *arguments):
    """y [T,H] of x [T,H], passed as one sequence in the type of the block."""
    result = block(torch.from_numpy(x)[None].to(next(block.parameters()).dtype), *arguments)
    return (result[0] if isinstance(result, tuple) else result).detach().numpy().reshape(x.shape)


def balance_loss(module, logits, dims, k):
    return module.load_balancing_loss_func((torch.from_numpy(logits),), dims["E"], k).numpy()


# --- blocks: (arrays, dims, attributes of the case) -> results by name ----------------


def mixtral(arrays, dims, k):
    module = modeling("mixtral")
    config = configure(
        "MixtralConfig",
        hidden_size=dims["H"],
        intermediate_size=dims["I"],
        num_local_experts=dims["E"],
        num_experts_per_tok=k,
    )
    block = load(module.MixtralSparseMoeBlock(config), {"gate.weight": arrays["router"], **experts(arrays)})
    logits = arrays["x"] @ arrays["router"].T
    return {"y": run(block, arrays["x"]), "load_balance_loss": balance_loss(module, logits, dims, k)}


def qwen2_moe(arrays, dims, k):
    config = configure(
        "Qwen2MoeConfig",
        hidden_size=dims["H"],
        moe_intermediate_size=dims["I"],
        shared_expert_intermediate_size=dims["J"],
        num_experts=dims["E"],
        num_experts_per_tok=k,
        norm_topk_prob=False,
    )
    state = {
        "gate.weight": arrays["router"],
        "shared_expert_gate.weight": arrays["shared_router"],
        **mlp("shared_expert", arrays),
        **experts(arrays),
    }
    return {"y": run(load(modeling("qwen2_moe").Qwen2MoeSparseMoeBlock(config), state), arrays["x"])}


def qwen3_moe(arrays, dims, k):
    config = configure(
        "Qwen3MoeConfig",
        hidden_size=dims["H"],
        moe_intermediate_size=dims["I"],
        num_experts=dims["E"],
        num_experts_per_tok=k,
        norm_topk_prob=True,
    )
    state = {"gate.weight": arrays["router"], **experts(arrays)}
    return {"y": run(load(modeling("qwen3_moe").Qwen3MoeSparseMoeBlock(config), state), arrays["x"])}


def olmoe(arrays, dims, k):
    module = modeling("olmoe")
    config = configure(
        "OlmoeConfig",
        hidden_size=dims["H"],
        intermediate_size=dims["I"],
        num_experts=dims["E"],
        num_experts_per_tok=k,
        norm_topk_prob=False,
    )
    block = load(module.OlmoeSparseMoeBlock(config), {"gate.weight": arrays["router"], **experts(arrays)})
    logits = arrays["x"] @ arrays["router"].T
    return {"y": run(block, arrays["x"]), "load_balance_loss": balance_loss(module, logits, dims, k)}


def deepseek_v2(arrays, dims, k, groups, scale):
    config = configure(
        "DeepseekV2Config",
        hidden_size=dims["H"],
        moe_intermediate_size=dims["I"],
        n_shared_experts=dims["J"] // dims["I"],
        n_routed_experts=dims["E"],
        num_experts_per_tok=k,
        topk_method="group_limited_greedy" if groups else "greedy",
        n_group=groups[0] if groups else None,
        topk_group=groups[1] if groups else None,
        routed_scaling_factor=scale,
    )
    state = {"gate.weight": arrays["router"], **mlp("shared_experts", arrays), **experts(arrays)}
    return {"y": run(load(modeling("deepseek_v2").DeepseekV2Moe(config), state), arrays["x"])}


def deepseek_v3_config(name, dims, k, groups, fill, eps, scale):
    groups = groups or (1, 1)
    return configure(
        name,
        hidden_size=dims["H"],
        moe_intermediate_size=dims["I"],
        n_shared_experts=dims["J"] // dims["I"],
        n_routed_experts=dims["E"],
        num_experts_per_tok=k,
        n_group=groups[0],
        topk_group=groups[1],
        norm_topk_prob=True,
        routed_scaling_factor=scale,
    )


def deepseek_v3_state(arrays):
    return {
        "gate.weight": arrays["router"],
        "gate.e_score_correction_bias": arrays["bias"],
        **mlp("shared_experts", arrays),
    }


def deepseek_v3(arrays, dims, **attributes):
    config = deepseek_v3_config("DeepseekV3Config", dims, **attributes)
    state = deepseek_v3_state(arrays) | experts(arrays)
    return {"y": run(load(modeling("deepseek_v3").DeepseekV3MoE(config), state), arrays["x"])}


def deepseek_v3_fill_zero(arrays, dims, **attributes):
    """transformers 4.56: one module per expert; it sums in float32, so it runs in float32.
    Which of several masked experts (key 0, all equal) torch.topk takes is not specified; here
    the lower one, as everywhere in moec."""

    def top_k(keys, k, dim, sorted):
        values, indices = torch.sort(keys, dim=dim, descending=True, stable=True)
        return values[..., :k], indices[..., :k]

    config = deepseek_v3_config("DeepseekV3Config", dims, **attributes)
    state = deepseek_v3_state(arrays)
    for e in range(dims["E"]):
        gate, up = np.split(arrays["gate_up"][e], 2)
        for name, value in (("gate", gate), ("up", up), ("down", arrays["down"][e])):
            state[f"experts.{e}.{name}_proj.weight"] = value
    block = load(modeling("deepseek_v3").DeepseekV3MoE(config), state, torch.float32)
    with mock.patch("torch.topk", top_k):
        return {"y": run(block, arrays["x"])}


def glm4_moe(arrays, dims, **attributes):
    config = deepseek_v3_config("Glm4MoeConfig", dims, **attributes)
    state = deepseek_v3_state(arrays) | experts(arrays)
    return {"y": run(load(modeling("glm4_moe").Glm4MoeMoE(config), state), arrays["x"])}


def gpt_oss(arrays, dims, k):
    config = configure(
        "GptOssConfig",
        hidden_size=dims["H"],
        intermediate_size=dims["I"],
        num_local_experts=dims["E"],
        num_experts_per_tok=k,
    )
    state = {
        "router.weight": arrays["router"],
        "router.bias": arrays["router_bias"],
        "experts.gate_up_proj_bias": arrays["gate_up_bias"],
        "experts.down_proj_bias": arrays["down_bias"],
        **experts(arrays),
    }
    return {"y": run(load(modeling("gpt_oss").GptOssMLP(config), state), arrays["x"])}


def phimoe(arrays, dims, k, eps):
    config = configure(
        "PhimoeConfig",
        hidden_size=dims["H"],
        intermediate_size=dims["I"],
        num_local_experts=dims["E"],
        num_experts_per_tok=k,
        router_jitter_noise=eps,
    )
    state = {"router.weight": arrays["router"], **experts(arrays)}
    return {"y": run(load(modeling("phimoe").PhimoeSparseMoeBlock(config), state), arrays["x"])}


def llama4(arrays, dims, k):
    config = configure(
        "Llama4TextConfig",
        hidden_size=dims["H"],
        intermediate_size=dims["I"],
        num_local_experts=dims["E"],
        num_experts_per_tok=k,
    )
    state = {"router.weight": arrays["router"], **mlp("shared_expert", arrays), **experts(arrays)}
    return {"y": run(load(modeling("llama4").Llama4TextMoe(config), state), arrays["x"])}


def dbrx(arrays, dims, k, norm):
    module = modeling("dbrx")
    config = transformers.DbrxConfig(
        d_model=dims["H"],
        ffn_config=dict(
            hidden_size=dims["H"],
            ffn_hidden_size=dims["I"],
            moe_num_experts=dims["E"],
            moe_top_k=k,
            moe_normalize_expert_weights=norm,
        ),
    )
    state = {"router.layer.weight": arrays["router"]}
    for there, here in (("w1", "gate"), ("v1", "up"), ("w2", "down")):
        state[f"experts.mlp.{there}"] = arrays[here].reshape(-1, dims["H"])
    return {"y": run(load(module.DbrxFFN(config), state), arrays["x"])}


def longcat_flash(arrays, dims, k, scale, kind):
    assert kind == "identity"
    config = configure(
        "LongcatFlashConfig",
        hidden_size=dims["H"],
        expert_ffn_hidden_size=dims["I"],
        n_routed_experts=dims["E"],
        zero_expert_num=dims["Z"],
        moe_topk=k,
        routed_scaling_factor=scale,
    )
    # The class also allocates gate and up of the identity experts.
    unused = np.full((dims["Z"], *arrays["gate_up"].shape[1:]), np.nan)
    state = {
        "router.classifier.weight": arrays["router"],
        "router.e_score_correction_bias": arrays["bias"],
        "experts.gate_up_proj": np.concatenate([arrays["gate_up"], unused]),
        "experts.down_proj": arrays["down"],
    }
    return {"y": run(load(modeling("longcat_flash").LongcatFlashMoE(config), state), arrays["x"])}


def minimax_m2(arrays, dims, k, **_):
    config = configure(
        "MiniMaxM2Config",
        hidden_size=dims["H"],
        intermediate_size=dims["I"],
        num_local_experts=dims["E"],
        num_experts_per_tok=k,
    )
    state = {"gate.weight": arrays["router"], "e_score_correction_bias": arrays["bias"], **experts(arrays)}
    return {"y": run(load(modeling("minimax_m2").MiniMaxM2SparseMoeBlock(config), state), arrays["x"])}


def lfm2_moe(arrays, dims, k, normalize, scale):
    config = configure(
        "Lfm2MoeConfig",
        hidden_size=dims["H"],
        moe_intermediate_size=dims["I"],
        num_experts=dims["E"],
        num_experts_per_tok=k,
        use_expert_bias="bias" in arrays,
        norm_topk_prob=normalize,
        routed_scaling_factor=scale,
    )
    state = {"gate.weight": arrays["router"], **experts(arrays)}
    if "bias" in arrays:
        state["expert_bias"] = arrays["bias"]
    return {"y": run(load(modeling("lfm2_moe").Lfm2MoeSparseMoeBlock(config), state), arrays["x"])}


def ernie4_5_moe(arrays, dims, k, bound):
    config = configure(
        "Ernie4_5_MoeConfig",
        hidden_size=dims["H"],
        moe_intermediate_size=dims["I"],
        moe_num_shared_experts=dims["J"] // dims["I"],
        moe_num_experts=dims["E"],
        moe_k=k,
        moe_norm_min=bound,
    )
    state = {
        "gate.weight": arrays["router"],
        "gate.moe_statics.e_score_correction_bias": arrays["bias"][None],
        **mlp("shared_experts", arrays),
        **experts(arrays),
    }
    return {"y": run(load(modeling("ernie4_5_moe").Ernie4_5_MoeSparseMoeBlock(config), state), arrays["x"])}


def granite(arrays, dims, k, shared):
    attributes = dict(
        hidden_size=dims["H"],
        intermediate_size=dims["I"],
        num_local_experts=dims["E"],
        num_experts_per_tok=k,
    )
    state = {"router.weight": arrays["router"], **experts(arrays)}
    if not shared:
        config = configure("GraniteMoeConfig", **attributes)
        return {"y": run(load(modeling("granitemoe").GraniteMoeMoE(config), state), arrays["x"])}
    module = modeling("granitemoeshared")
    config = configure("GraniteMoeSharedConfig", shared_intermediate_size=dims["J"], **attributes)
    beside = load(
        module.GraniteMoeSharedMLP(config),
        {
            "input_linear.weight": np.concatenate([arrays["shared_gate"][0], arrays["shared_up"][0]]),
            "output_linear.weight": arrays["shared_down"][0],
        },
    )
    x = arrays["x"]
    return {"y": run(load(module.GraniteMoeSharedMoE(config), state), x) + run(beside, x)}


def switch(arrays, dims, capacity, overflow):
    module = modeling("switch_transformers")
    config = transformers.SwitchTransformersConfig(
        d_model=dims["H"],
        d_ff=dims["I"],
        num_experts=dims["E"],
        expert_capacity=capacity,
    )
    state = {"router.classifier.weight": arrays["router"]}
    for e in range(dims["E"]):
        state[f"experts.expert_{e}.wi.weight"] = arrays["up"][e]
        state[f"experts.expert_{e}.wo.weight"] = arrays["down"][e]
    block = load(module.SwitchTransformersSparseMLP(config), state)
    block.router.dtype = torch.float64  # the configuration takes no more than float32
    y, (logits, _) = block(torch.from_numpy(arrays["x"]))
    probabilities = logits.softmax(-1)
    chosen = probabilities.argmax(-1)  # before capacity
    return {
        "y": y.detach().numpy(),
        "load_balance_loss": module.load_balancing_loss_func(probabilities, chosen).detach().numpy(),
        "z_loss": module.router_z_loss_func(logits).detach().numpy(),
    }


def qmoe(arrays, dims, **attributes):
    return {"y": switch(arrays, dims, **attributes)["y"]}


def nllb_moe(arrays, dims, capacity, order, policy, normalize="after"):
    module = modeling("nllb_moe")
    tokens = len(arrays["x"])
    quarter = capacity(100, dims["E"]) == 25
    config = transformers.NllbMoeConfig(
        d_model=dims["H"],
        num_experts=dims["E"],
        expert_capacity=64 if quarter else None,
        router_bias=True,
        second_expert_policy=policy,
        normalize_router_prob_before_dropping=normalize == "before",
        batch_prioritized_routing=order == "bpr",
        moe_eval_capacity_token_fraction=0.25 if quarter else -1.0,
        moe_token_dropout=0.2,
    )
    state = {"router.classifier.weight": arrays["router"], "router.classifier.bias": arrays["router_bias"]}
    for e in range(dims["E"]):
        for there, here in (("fc1", "up"), ("fc2", "down")):
            state[f"experts.expert_{e}.{there}.weight"] = arrays[here][e]
            state[f"experts.expert_{e}.{there}.bias"] = arrays[f"{here}_bias"][e]
    block = load(module.NllbMoeSparseMLP(config, dims["I"]), state)
    block.router.dtype = torch.float64  # the configuration takes no more than float32
    padding = torch.from_numpy(~arrays["mask"])
    u = torch.from_numpy(arrays.get("u", np.zeros(tokens)))
    with mock.patch("torch.rand_like", lambda _: u):
        return {"y": run(block, arrays["x"], padding)}


# --- cases ----------------------------------------------------------------------------

# name of the case -> (system, versions of transformers that compute it, block)
CASES = {
    "mixtral": ("mixtral", "5", mixtral),
    "qwen2_moe": ("qwen2_moe", "5", qwen2_moe),
    "qwen3_moe": ("qwen3_moe", "5", qwen3_moe),
    "olmoe": ("olmoe", "5", olmoe),
    "deepseek_moe": ("deepseek_v2", "5", deepseek_v2),
    "deepseek_v2": ("deepseek_v2", "5", deepseek_v2),
    "deepseek_v3": ("deepseek_v3", "5", deepseek_v3),
    "deepseek_v3_fill_zero": ("deepseek_v3", "4.56", deepseek_v3_fill_zero),
    "kimi_k2": ("kimi_k2", "5", deepseek_v3),
    "glm4_moe": ("glm4_moe", "5", glm4_moe),
    "gpt_oss": ("gpt_oss", "5", gpt_oss),
    "phimoe": ("phimoe", "5", phimoe),
    "llama4": ("llama4", "5", llama4),
    "llama4_top_2": ("llama4", "5", llama4),
    "dbrx": ("dbrx", "5", dbrx),
    "dbrx_two_norm": ("dbrx", "5", dbrx),
    "longcat_flash": ("longcat_flash", "5", longcat_flash),
    "minimax_m2": ("minimax_m2", "5", minimax_m2),
    "lfm2_moe": ("lfm2_moe", "5", lfm2_moe),
    "lfm2_moe_without_bias": ("lfm2_moe", "5", lfm2_moe),
    "ernie4_5_moe": ("ernie4_5_moe", "5", ernie4_5_moe),
    "ernie4_5_moe_clamped": ("ernie4_5_moe", "5", ernie4_5_moe),
    "granite": ("granite", "5", granite),
    "granite_shared": ("granite", "5", granite),
    "switch_per_sequence": ("switch", "4.56", switch),
    "qmoe": ("qmoe", "4.46", qmoe),
    "nllb_moe": ("nllb_moe", "4.56", nllb_moe),
    "nllb_moe_prioritized": ("nllb_moe", "4.56", nllb_moe),
    "nllb_moe_random": ("nllb_moe", "4.56", nllb_moe),
    "nllb_moe_normalize_before": ("nllb_moe", "4.56", nllb_moe),
}

SIZES = {
    "llama4": SMALL | {"J": SMALL["I"]},  # one width for all
    "llama4_top_2": SMALL | {"J": SMALL["I"]},
    "longcat_flash": {"H": 16, "I": 10, "E": 11, "Z": 5, "A": 16},
    "switch_per_sequence": SMALL | {"E": 6},
    "qmoe": SMALL | {"E": 6},
}


def relative_error(actual, expected):
    """max |Δ| / max |expected| (references.evaluate's would need onnx here)."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def compact(value):
    """float16 where that loses nothing."""
    half = value.astype(np.float16)
    return half if value.dtype.kind == "f" and (half == value).all() else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases; default all of this version")
    arguments = parser.parse_args()
    modules, failed = systems.modules(), 0
    for name, (system, version, block) in CASES.items():
        if not transformers.__version__.startswith(version + ".") or (arguments.names and name not in arguments.names):
            continue
        module, dims = modules[system], SIZES.get(name, SMALL)
        arrays = module.draw(np.random.default_rng(5), dims, TOKENS, name, dtype=np.float16)
        with torch.no_grad():
            theirs = block(arrays, dims, **module.CASES[name])
        ours = module.reference(arrays, dims, name)
        errors = {output: relative_error(ours[output], value) for output, value in theirs.items()}
        agrees = max(errors.values()) < 1e-6
        failed += not agrees
        print(f"{name}: {errors}{'' if agrees else ' DIFFERS'}")
        if agrees and not arguments.check:
            about = {
                "system": system,
                "dims": dims,
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            }
            np.savez_compressed(
                HERE / "cases" / f"{name}.npz",
                about=json.dumps(about),
                **{f"in.{key}": compact(value) for key, value in arrays.items()},
                **{f"out.{key}": np.asarray(value, dtype=np.float64) for key, value in theirs.items()},
            )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

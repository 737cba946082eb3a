# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Exports Qwen3-MoE models with random weights as their users do: transformers and torch.onnx.export, nothing replaced.

    python export_qwen3_moe.py block FOLDER [--experts 64] [--top-k 8] [--hidden 1024] [--intermediate 512]
    python export_qwen3_moe.py model FOLDER [--layers 2] [--experts 32] ...

`block` writes FOLDER/block.onnx, one Mixture-of-Experts block with the input hidden_states [1, sequence, hidden];
`model` writes FOLDER/model.onnx, a causal language model with the input input_ids [1, sequence]. Needs torch, onnxscript
and transformers 5, which no other part of the project does.
"""

import argparse
import pathlib

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock


def make_config(sizes):
    config = Qwen3MoeConfig(
        hidden_size=sizes.hidden,
        moe_intermediate_size=sizes.intermediate,
        intermediate_size=sizes.intermediate,
        num_experts=sizes.experts,
        num_experts_per_tok=sizes.top_k,
        norm_topk_prob=True,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // 64,
        num_key_value_heads=max(1, sizes.hidden // 256),
        head_dim=64,
        vocab_size=sizes.vocabulary,
        tie_word_embeddings=True,
    )
    config._experts_implementation = "batched_mm"
    config._attn_implementation = "eager"
    return config


class Block(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.block = Qwen3MoeSparseMoeBlock(config)

    def forward(self, hidden_states):
        result = self.block(hidden_states)
        return result[0] if isinstance(result, tuple) else result


class Model(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model = Qwen3MoeForCausalLM(config)

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


def export(module, example, path):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    shapes = ({1: torch.export.Dim("sequence")},)
    torch.onnx.export(module.eval(), (example,), path, dynamo=True, dynamic_shapes=shapes, external_data=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["block", "model"])
    parser.add_argument("folder", type=pathlib.Path)
    defaults = {"layers": 2, "experts": 64, "top_k": 8, "hidden": 1024, "intermediate": 512, "vocabulary": 8192}
    for name, default in defaults.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    sizes = parser.parse_args()
    sizes.folder.mkdir(parents=True, exist_ok=True)
    config = make_config(sizes)
    if sizes.what == "block":
        export(Block(config), torch.randn(1, 6, sizes.hidden), sizes.folder / "block.onnx")
    else:
        export(Model(config), torch.randint(sizes.vocabulary, (1, 6)), sizes.folder / "model.onnx")


if __name__ == "__main__":
    main()

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Whole language models, compiled to one library, give the logits that PyTorch gave."""

import numpy as np
import pytest
from harness import MODELS, TOLERANCES
from moec.runtime import load
from references.evaluate import relative_error

# By turns: all four ways for each of the fifty models take ten minutes.
WAYS = [("-O3",), ("-O0",), ("-O0", "--no-raise"), ("-O3", "--no-raise")]
CASES = sorted(path.parent for part in ("lm", "encoder") for path in (MODELS / "public").glob(f"*_{part}__*/model.onnx"))
MISSING = [pytest.param(None, (), id="none", marks=pytest.mark.skip(reason=f"models not found: {MODELS / 'public'}"))]


@pytest.mark.parametrize("case, flags", [
    pytest.param(case, WAYS[index % len(WAYS)], id=f"{case.name}{''.join(WAYS[index % len(WAYS)])}")
    for index, case in enumerate(CASES)] or MISSING)
def test_outputs(compiler, case, flags):
    with load(compiler.package(case / "model.onnx", *flags).path) as model:
        recorded = sorted(case.glob("in[0-9].npz")) or [case / "inputs.npz"]
        for inputs in recorded:
            expected = np.load(inputs.with_name(inputs.name.replace("in", "out", 1)))
            actual = model.run(dict(np.load(inputs)))
            assert set(actual) == set(expected)
            for output in expected:
                assert actual[output].shape == expected[output].shape
                assert relative_error(actual[output], expected[output]) < TOLERANCES["float32"]


@pytest.fixture(scope="module")
def golden(tinymoe):
    path = tinymoe.folder / "golden_logits.npz"
    if not path.exists():
        pytest.skip("models not found: tinymoe/golden_logits.npz")
    return {name: array.astype(np.int64) if name.endswith("_ids") else array for name, array in np.load(path).items()}


def test_trained_model(compiler, tinymoe, golden):
    prompt = golden["prompt_ids"][None]
    with load(compiler.package(tinymoe.model("model"), "-O0").path) as model:
        logits = model.run({"input_ids": prompt, "attention_mask": np.ones_like(prompt)})["logits"]
        assert relative_error(logits[0], golden["prompt_logits"]) < TOLERANCES["float32"]
        # What is padded on the left gives the same logits.
        padding = np.zeros((1, 5), np.int64)
        padded = {"input_ids": np.concatenate([padding, prompt], 1),
                  "attention_mask": np.concatenate([padding, np.ones_like(prompt)], 1)}
        short = np.concatenate([prompt, padding], 1)
        both = {name: np.concatenate([array, other]) for (name, array), other in zip(
            padded.items(), (short, np.ones_like(short)))}
        logits = model.run(both)["logits"]
        assert relative_error(logits[0, 5:], golden["prompt_logits"]) < TOLERANCES["float32"]
        assert relative_error(logits[1, :-5], golden["prompt_logits"]) < TOLERANCES["float32"]


def test_trained_model_with_cache(compiler, tinymoe, golden):
    def step(model, tokens, past):
        length = past["past_key_values.0.key"].shape[2]
        inputs = {"input_ids": tokens, "position_ids": length + np.arange(tokens.shape[1])[None],
                  "attention_mask": np.ones((1, length + tokens.shape[1]), np.int64), **past}
        outputs = model.run(inputs)
        return outputs["logits"][0], {name: outputs[name.replace("past_key_values", "present")] for name in past}

    past = {f"past_key_values.{layer}.{part}": np.zeros((1, 2, 0, 32), np.float32)
            for layer in range(4) for part in ("key", "value")}
    with load(compiler.package(tinymoe.model("model_with_past"), "-O0").path) as model:
        # The prompt in two pieces, then tokens one by one.
        logits, past = step(model, golden["prompt_ids"][None, :100], past)
        rest, past = step(model, golden["prompt_ids"][None, 100:], past)
        assert relative_error(np.concatenate([logits, rest]), golden["prompt_logits"]) < TOLERANCES["float32"]
        for i in range(8):
            logits, past = step(model, golden["continuation_ids"][None, i:i + 1], past)
            assert relative_error(logits[0], golden["step_logits"][i + 1]) < TOLERANCES["float32"]


@pytest.mark.parametrize("rows, past", [(256, 0), (64, 256)])
def test_activation_memory(compiler, tinymoe, rows, past):
    """The workspace is at most half more than what is alive together."""
    sizes = {"batch": 1, "sequence": rows, "past_sequence": past, "total_sequence": rows + past}
    flags = [f"--dim={name}={size}" for name, size in sizes.items()]
    package = compiler.package(tinymoe.model("model_with_past"), "-O3", "--threads=none", *flags)
    (entry,) = package.report["memory"]["activations"]
    assert 0 < entry["live_bytes"] <= int(entry["workspace"]) <= 1.5 * entry["live_bytes"]

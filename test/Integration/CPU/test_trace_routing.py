# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moec --trace-routing and moe-run --trace-routing: the experts and weights of every block,
as they were recorded in PyTorch, and as NumPy computes them in float64."""

import pathlib

import numpy as np
import pytest
from harness import TOLERANCES, run, tool
from references import generate
from references.evaluate import relative_error
from safetensors.numpy import save_file


def trace(package, folder, *runs):
    """The arrays that moe-run writes for these inputs."""
    words = []
    for index, inputs in enumerate(runs):
        save_file({name: np.ascontiguousarray(value) for name, value in inputs.items()}, folder / f"in{index}.safetensors")
        words += ["--input", folder / f"in{index}.safetensors"]
    run(tool("moe-run"), package.path, "--trace-routing", folder / "out.npz", *words)
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("layer", "level"), [(0, "-O0"), (0, "-O3"), (1, "-O3"), (2, "-O3"), (3, "-O3")])
def test_recorded_routing(compiler, tinymoe, tmp_path, layer, level):
    inputs, _ = tinymoe.recorded(f"layer{layer}_moe")
    package = compiler.package(tinymoe.model(f"layer{layer}_moe"), level, "--trace-routing")
    (node,) = package.info["traced"]
    assert node == package.info["moe_blocks"][0]["nodes"][0]
    # Several runs one after the other.
    hidden = inputs["hidden_states"]
    arrays = trace(package, tmp_path, {"hidden_states": hidden[:100]}, {"hidden_states": hidden[100:]})
    assert set(arrays) == {f"{node}.expert_ids", f"{node}.weights"}
    ids, weights = arrays[f"{node}.expert_ids"], arrays[f"{node}.weights"]
    assert ids.dtype == np.int32 and weights.dtype == np.float32
    recorded = tinymoe.activations
    assert relative_error(weights, recorded[f"layer{layer}.topk_weights"]) < TOLERANCES["float32"]
    np.testing.assert_array_equal(ids, recorded[f"layer{layer}.topk_ids"])


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_weights_that_are_not_normalized(compiler, tmp_path, level):
    layer = generate.Layer(experts=8, k=3, normalize=False)
    package = compiler.package(generate.build(layer), level, "--trace-routing")
    inputs = generate.draw_inputs(layer, 33)
    arrays = trace(package, tmp_path, inputs)
    probabilities = np.exp(inputs["logits"].astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    ids = np.argsort(-probabilities, axis=1, kind="stable")[:, : layer.k]
    np.testing.assert_array_equal(arrays["experts.expert_ids"], ids)
    expected = np.take_along_axis(probabilities, ids, axis=1)
    assert relative_error(arrays["experts.weights"], expected) < TOLERANCES["float32"]


def test_the_outputs_stay(compiler, tinymoe):
    package = compiler.package(tinymoe.model("layer0_moe"), "-O3", "--trace-routing")
    names = [output["name"] for output in package.info["entries"][0]["outputs"]]
    assert names[0] == "output" and len(names) == 3


def test_a_package_without_routings(compiler, tinymoe, tmp_path):
    package = compiler.package(tinymoe.model("layer0_moe"), "-O3")
    inputs, _ = tinymoe.recorded("layer0_moe")
    save_file(inputs, tmp_path / "in.safetensors")
    words = [package.path, "--input", tmp_path / "in.safetensors", "--trace-routing", tmp_path / "out.npz"]
    done = run(tool("moe-run"), *words, check=False)
    assert done.returncode == 3
    assert "compiled without --trace-routing; compile the model again with moec --trace-routing" in done.stderr
    assert not (tmp_path / "out.npz").exists()


def test_wrong_flags(tmp_path):
    for words, message in [
        (["--trace-routing", "x.npz"], "--trace-routing needs --input"),
        (["--input", "a", "--input", "b"], "several --input need --trace-routing"),
    ]:
        done = run(tool("moe-run"), "no.moec", *words, check=False)
        assert done.returncode == 2 and message in done.stderr


WINDOW, WINDOWS = 512, 16


def recorded_document(routing):
    """The bytes of a document of the recorded trace that this system has as well, and its first token."""
    for name, start, end in zip(routing["doc_ids"], routing["doc_offsets"], routing["doc_offsets"][1:]):
        path = pathlib.Path(str(name))
        if end - start >= WINDOW * WINDOWS and path.is_file() and path.stat().st_size == end - start:
            return path.read_bytes()[: WINDOW * WINDOWS], start
    pytest.skip("no document of routing_train.npz is on this system")


def test_a_whole_model_reproduces_the_recorded_statistics(compiler, tinymoe, tmp_path):
    """What PyTorch recorded over documents that were not trained on, in windows of 512 bytes."""
    path = tinymoe.folder / "routing_train.npz"
    if not path.exists():
        pytest.skip(f"models not found: {path}")
    routing = np.load(path)
    text, start = recorded_document(routing)
    # Token 0 stands before the document.
    tokens = np.frombuffer(b"\0" + text[:-1], np.uint8).astype(np.int64).reshape(WINDOWS, WINDOW)
    package = compiler.package(tinymoe.model("model"), "-O3", "--trace-routing")
    arrays = trace(package, tmp_path, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})
    for layer, node in enumerate(package.info["traced"]):
        ids, weights = arrays[f"{node}.expert_ids"], arrays[f"{node}.weights"]
        recorded = routing["expert_ids"][layer, start : start + len(ids)]
        # Two close experts may change places.
        assert np.mean(np.sort(ids) == np.sort(recorded)) > 0.999
        counts = np.bincount(ids.ravel(), minlength=16)
        np.testing.assert_allclose(counts, np.bincount(recorded.ravel(), minlength=16), atol=8)
        expected = routing["weights"][layer, start : start + len(ids)].astype(np.float64)
        assert np.mean(np.abs(weights - expected)) < 1e-3

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Whole models as --target=cuda lowers them, with every kernel on the emulated GPU, against what
PyTorch recorded: numbers, launches in order, temporaries in the workspace."""

import concurrent.futures
import multiprocessing
import os

import numpy as np
import pytest
from gpu_model import run_model
from harness import FIXTURES, MODELS, TOLERANCES
from references.evaluate import relative_error
from safetensors.numpy import load_file

# Every seventh of the recorded graphs; MOEC_GPU_MODELS=all takes all of them.
CASES = sorted(path.parent for path in (MODELS / "public").glob("*/model.onnx"))
CASES = CASES[:: 1 if os.environ.get("MOEC_GPU_MODELS") == "all" else 7]
MISSING = [pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"models not found: {MODELS / 'public'}"))]

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that the compiler has"
)


@pytest.fixture(scope="module")
def emulator():
    """A process apart from this one, which has libmoec-c.so (see jit.py)."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda *arguments: pool.submit(run_model, *arguments).result()


def tolerance_of(case):
    architecture = case.name.split("__")[0]
    computed = {"bf16": "bfloat16", "f16": "float16"}.get(architecture.split("_")[-1], "float32")
    return TOLERANCES["float16" if case.name.endswith("_f16") else computed]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES] or MISSING)
def test_recorded(emulator, compiler, case):
    inputs = sorted(case.glob("in[0-9].npz"))[0] if list(case.glob("in[0-9].npz")) else case / "inputs.npz"
    expected = np.load(inputs.with_name(inputs.name.replace("in", "out", 1)))
    actual = emulator(case / "model.onnx", dict(np.load(inputs)), 3)
    assert set(actual) == set(expected)
    for name in expected:
        assert actual[name].shape == expected[name].shape
        assert relative_error(actual[name], expected[name]) < 2 * tolerance_of(case)


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("layer", ["layer0_moe", "layer1_qmoe_int4"])
def test_trained_layer(emulator, compiler, layer, level):
    folder = MODELS / "tinymoe" if (MODELS / "tinymoe").is_dir() else FIXTURES / "tinymoe"
    if not (folder / f"{layer}.onnx").exists():
        pytest.skip(f"models not found: {layer}.onnx")
    recorded = load_file(folder / "activations.safetensors")
    number, kind = layer.split("_", 1)
    suffix = "" if kind == "moe" else f"_{kind}_dequant_reference"
    actual = emulator(folder / f"{layer}.onnx", {"hidden_states": recorded[f"{number}.input"][:40]}, level)
    assert relative_error(actual["output"], recorded[f"{number}.output{suffix}"][:40]) < TOLERANCES["float32"]

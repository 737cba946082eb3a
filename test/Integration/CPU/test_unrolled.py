# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Models of many equal layers whose experts an exporter unrolled (benchmarks/make_unrolled.py)."""

import sys
import types

import numpy as np
import onnxruntime
import pytest
from harness import ROOT, TOLERANCES
from moec.runtime import load
from references.evaluate import relative_error

# Last: its modules hide none of the tests' own.
sys.path.append(str(ROOT / "benchmarks"))
from make_unrolled import write_model  # noqa: E402

SIZES = {"experts": 8, "top_k": 2, "hidden": 64, "intermediate": 32}


@pytest.fixture(scope="module")
def packages(compiler, tmp_path_factory):
    """{number of layers: (model, package)}"""
    found = {}
    for layers in (2, 8):
        folder = tmp_path_factory.mktemp(f"layers{layers}")
        write_model(folder, types.SimpleNamespace(layers=layers, **SIZES), seed=layers)
        found[layers] = folder / "unrolled.onnx", compiler.package(folder / "unrolled.onnx", "-O3")
    return found


@pytest.mark.parametrize("layers", [2, 8])
def test_every_layer_is_raised(packages, layers):
    model, package = packages[layers]
    assert len(package.info["moe_blocks"]) == layers
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for tokens in (1, 9):
        inputs = {"x": np.random.default_rng(tokens).standard_normal((tokens, SIZES["hidden"]), dtype=np.float32)}
        (expected,) = session.run(None, inputs)
        assert relative_error(load(package.path)(**inputs)["y"], expected) < TOLERANCES["float32"]


def test_layers_share_kernels_and_memory(packages):
    few, many = (packages[layers][1] for layers in (2, 8))
    # What each layer adds is calls, and the names of its regions: more beside the smaller kernels of shorter vectors.
    growth = 1.1 if few.info["target"]["vector_bits"] >= 512 else 1.15
    assert many.library.stat().st_size < growth * few.library.stat().st_size
    inputs = {"x": np.zeros((64, SIZES["hidden"]), np.float32)}
    sizes = [load(package.path).context().workspace_size(inputs) for package in (few, many)]
    # The residual of a layer between others is neither input nor output.
    assert sizes[1] < 1.3 * sizes[0]

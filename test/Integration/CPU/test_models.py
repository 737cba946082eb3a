# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Recorded models: the trained one with its activations, the contrib graphs, and the
graphs that other exporters wrote."""

import numpy as np
import onnx
import pytest
from harness import TOLERANCES
from moec.runtime import load
from references.evaluate import evaluate, relative_error

LAYERS = [f"layer{index}_moe" for index in range(4)]
QUANTIZED = ["layer1_qmoe_int4", "layer1_qmoe_int8", "layer1_qmoe_int4_asym"]


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("name", LAYERS + QUANTIZED)
def test_trained_layers(compiler, tinymoe, name, level):
    inputs, recorded = tinymoe.recorded(name)
    model = tinymoe.model(name)
    output = load(compiler.package(model, level).path).run(inputs)["output"]
    exact = evaluate(onnx.load(model), inputs)["output"]
    assert relative_error(output, exact) < TOLERANCES["float32"]
    assert relative_error(output, recorded["output"]) < TOLERANCES["float32"]


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_contrib_graphs(compiler, contrib_case, level):
    model = onnx.load(contrib_case / "model.onnx")
    dtype = "float16" if contrib_case.name.endswith("_f16") else "float32"
    package = compiler.package(contrib_case / "model.onnx", level)
    with load(package.path) as opened:
        for index in range(3):
            inputs = dict(np.load(contrib_case / f"in{index}.npz"))
            expected = evaluate(model, inputs)
            recorded = np.load(contrib_case / f"out{index}.npz")
            actual = opened.run(inputs)
            assert set(actual) == set(expected)
            for name in actual:
                assert relative_error(actual[name], expected[name]) < TOLERANCES[dtype]
                assert relative_error(actual[name], recorded[name]) < 2 * TOLERANCES[dtype]


def test_exported_graphs(exported_case):
    pytest.skip("not raised yet")

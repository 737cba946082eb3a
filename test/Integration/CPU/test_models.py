# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Recorded models: the trained one with its activations, the contrib graphs, and the
graphs that other exporters wrote."""

import json
import os
import zlib

import numpy as np
import onnx
import onnxruntime
import pytest
from harness import TOLERANCES
from moec.runtime import load
from references.evaluate import evaluate, relative_error

LAYERS = [f"layer{index}_moe" for index in range(4)]
# All exported graphs at both levels take minutes.
LEVELS = os.environ.get("MOEC_LEVELS", "-O0").split()
UNRAISED = os.environ.get("MOEC_UNRAISED") == "all"
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


def recorded_pairs(case):
    """Inputs and the outputs to expect, in float64 where they were recorded so."""
    for inputs in sorted(case.glob("in[0-9].npz")) or [case / "inputs.npz"]:
        outputs = case / inputs.name.replace("in", "out")
        exact = outputs.with_name(f"{outputs.stem}_f64.npz")
        yield dict(np.load(inputs)), dict(np.load(exact if exact.exists() else outputs))


def computed_type(case):
    """The type that a model computes in, whatever its inputs and outputs are."""
    architecture = case.name.split("__")[0]
    return {"bf16": "bfloat16", "f16": "float16"}.get(architecture.split("_")[-1], "float32")


@pytest.mark.parametrize("level", LEVELS)
def test_exported_graphs(compiler, exported_case, level):
    """As they are written, without raising."""
    if not UNRAISED and not exported_case.name.startswith("mixtral__"):
        pytest.skip("compared when MOEC_UNRAISED=all")
    if "_lm__" in exported_case.name or "_encoder__" in exported_case.name:
        pytest.skip("a whole model")
    if exported_case.name.endswith("dynamo_sorted"):
        pytest.skip("the size of its output is computed from data")
    package = compiler.package(exported_case / "model.onnx", level, "--no-raise")
    tolerance = TOLERANCES[computed_type(exported_case)]
    with load(package.path) as opened:
        for inputs, expected in recorded_pairs(exported_case):
            actual = opened.run(inputs)
            assert set(actual) == set(expected)
            for name in actual:
                assert actual[name].shape == expected[name].shape
                assert relative_error(actual[name], expected[name]) < tolerance


# One of the two layers is dense.
BLOCKS = {"switch_encoder__prefill_loop": 1, "switch_encoder__ts_prefill_loop": 1}


def read_case(folder):
    return json.loads((folder / "case.json").read_text())


def test_exported_blocks_are_raised(compiler, exported_case):
    """Each MoE block that a graph holds becomes one moe.combine."""
    name = exported_case.name
    ir = compiler.run(exported_case / "model.onnx", "--compile-to", "raise-moe", "-o", "-").stdout
    expected = BLOCKS.get(name, read_case(exported_case)["moe_blocks"])
    assert ir.count("moe.combine") == expected


def random_inputs(model, rng, sizes):
    """Random numbers for the inputs of a block; `sizes` are those of its dimensions in turn."""
    known, inputs = {}, {}
    left = iter(sizes)
    for value in model.graph.input:
        shape = []
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.isidentifier() and dim.dim_param not in known:
                known[dim.dim_param] = next(left)
            shape.append(eval(dim.dim_param, {}, known) if dim.dim_param else dim.dim_value)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        inputs[value.name] = rng.standard_normal(shape).astype(dtype)
    return inputs


def run_onnx(model, inputs):
    """By ONNX Runtime, node by node as the graph is written."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def test_exported_blocks(compiler, exported_case):
    """Single blocks give PyTorch's numbers, and at another size, on random inputs, those of the
    graph as it is written. Whole models are compiled elsewhere."""
    case = exported_case.name
    if "_lm__" in case or "_encoder__" in case:
        pytest.skip("a whole model")
    tolerance = TOLERANCES[computed_type(exported_case)]

    def compare(actual, expected):
        assert set(actual) == set(expected)
        for name in actual:
            assert actual[name].shape == expected[name].shape
            assert relative_error(actual[name], expected[name]) < tolerance

    with load(compiler.package(exported_case / "model.onnx", "-O3").path) as opened:
        for inputs, expected in recorded_pairs(exported_case):
            compare(opened.run(inputs), expected)
        if not read_case(exported_case)["ort_runs"]:
            return
        model = onnx.load(exported_case / "model.onnx")
        rng = np.random.default_rng(zlib.crc32(case.encode()))
        # Enough tokens that each expert has some, which one of the graphs needs.
        inputs = random_inputs(model, rng, (3, 17, 5, 7))
        compare(opened.run(inputs), run_onnx(model, inputs))

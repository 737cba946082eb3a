# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""--emit=onnx: ONNX Runtime runs what is written, and agrees with the definition of what was
read. Contrib graphs, random MoE and QMoE layers that its CPU provider cannot run as they
are, and the systems of the literature."""

import collections
import dataclasses
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from harness import MODELS, ROOT, TOLERANCES, run, tool
from references import generate
from references.evaluate import evaluate, relative_error
from references.systems import modules
from safetensors.numpy import save_file

sys.path.insert(0, str(ROOT / "test" / "Systems"))
from layers import FILES, NUMPY_TYPES, Layer  # noqa: E402

# 8-bit blocks are computed with activations of 8 bits by ONNX Runtime, whatever the graph.
INT8_BLOCKS = 3e-2


def export(compiler, model, folder, *flags):
    """The path of the exported model, and the summary."""
    path = folder / "exported.onnx"
    summary = compiler.run(compiler.save(model), "--emit=onnx", "-o", path, *flags).stdout
    onnx.checker.check_model(str(path))
    return path, summary


def run_onnxruntime(path, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def count_operators(path):
    graph = onnx.load(path, load_external_data=False).graph
    return collections.Counter(node.op_type for node in graph.node)


# --- contrib graphs -----------------------------------------------------------------------------


def test_contrib_graphs(compiler, contrib_case, tmp_path):
    original = onnx.load(contrib_case / "model.onnx")
    path, summary = export(compiler, contrib_case / "model.onnx", tmp_path)
    operator = next(node.op_type for node in original.graph.node if node.op_type in ("MoE", "QMoE"))
    assert count_operators(path)[operator] == 1
    assert "1 MoE block" in summary and f"com.microsoft.{operator} 1" in summary
    tolerance = TOLERANCES["float16" if contrib_case.name.endswith("_f16") else "float32"]
    if "int8_block32" in contrib_case.name or "router_weights" in contrib_case.name:
        tolerance = INT8_BLOCKS
    for index in range(3):
        inputs = dict(np.load(contrib_case / f"in{index}.npz"))
        expected = evaluate(original, inputs)
        actual = run_onnxruntime(path, inputs)
        assert set(actual) == set(expected)
        for name in actual:
            assert relative_error(actual[name], expected[name]) < tolerance


# --- graphs of other exporters ------------------------------------------------------------------

# One of each architecture, some whole models, and the number of contrib nodes: routers that no node can say and
# capacities are standard operators.
EXPORTED = {
    "deepseek_v2__dynamo_batched": 0, "deepseek_v3_lm__cache": 0, "gpt_oss__dynamo_batched": 1, "mixtral__dynamo_loop": 1,
    "mixtral_lm__ts_cache_loop": 2, "olmoe_lm__ts_prefill_loop": 2, "qwen2_moe_lm__prefill": 2, "qwen3_moe__ts_dense": 1,
    "switch_dense__ts_native": 0, "switch_encoder__prefill_loop": 0, "switch_loop__dynamo_native": 0,
}


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_graphs(compiler, tmp_path, name):
    case = MODELS / "public" / name
    if not case.is_dir():
        pytest.skip(f"models not found: {case}")
    path, _ = export(compiler, case / "model.onnx", tmp_path)
    counts = count_operators(path)
    assert counts["MoE"] + counts["QMoE"] == EXPORTED[name]
    for inputs in sorted(case.glob("in*.npz")):
        expected = np.load(inputs.with_name(inputs.name.replace("in", "out", 1)))
        for output, value in run_onnxruntime(path, dict(np.load(inputs))).items():
            assert relative_error(value, expected[output]) < TOLERANCES["float32"], output


# --- layers that need more than a copy of their node ----------------------------------------------

Expected = dataclasses.make_dataclass("Expected", ["layer", "operator"])
L = generate.Layer
LAYERS = {
    # Rows are interleaved, and a missing bias is zero.
    "fc3": Expected(L(activation="silu", third=True, biases=True), "MoE"),
    "concat": Expected(L(activation="swiglu", fusion=2, biases=True, alpha=1.5, beta=0.5, limit=2.0), "MoE"),
    "quantized_fc3": Expected(L(activation="silu", third=True, hidden=64, intermediate=32, bits=4, block=16, zero_points=True), "QMoE"),
    "quantized_concat": Expected(L(activation="swiglu", fusion=2, hidden=64, intermediate=32, bits=2, biases=True), "QMoE"),
    "legacy": Expected(L(activation="gelu", legacy=True, rank=3), "MoE"),
    # The sum of the kept probabilities.
    "not_normalized": Expected(L(activation="swiglu", fusion=1, normalize=False), "MoE"),
    "float16_not_normalized": Expected(L(activation="relu", normalize=False, dtype="float16"), "MoE"),
    # Weights from another tensor.
    "router_weights": Expected(L(activation="relu", hidden=64, intermediate=32, bits=4, router_weights=True, normalize=False), "QMoE"),
    "quantized_mixer": Expected(L(activation="silu", k=2, hidden=64, intermediate=32, bits=4, sparse_mixer=True), "QMoE"),
    # What no contrib node of the CPU provider can say.
    "mixer": Expected(L(activation="silu", k=2, sparse_mixer=True, biases=True), None),
    "relu_gate": Expected(L(activation="relu", third=True, biases=True), None),
    "gelu_gate_float16": Expected(L(activation="gelu", third=True, dtype="float16"), None),
    "quantized_relu_gate": Expected(L(activation="relu", third=True, hidden=64, intermediate=32, bits=4, block=16, zero_points=True), None),
    "quantized_row_gate": Expected(L(activation="silu", third=True, hidden=64, intermediate=32, bits=4, zero_points=True), None),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(compiler, tmp_path, name):
    layer, operator = LAYERS[name].layer, LAYERS[name].operator
    model = generate.build(layer)
    path, summary = export(compiler, model, tmp_path)
    counts = count_operators(path)
    assert counts["MoE"] == (operator == "MoE") and counts["QMoE"] == (operator == "QMoE")
    assert (f"com.microsoft.{operator} 1" if operator else "no MoE node") in summary
    for tokens in (1, 7, 0):
        inputs = generate.draw_inputs(layer, tokens, seed=tokens)
        expected = evaluate(model, inputs)["output"]
        actual = run_onnxruntime(path, inputs)["output"]
        assert actual.shape == expected.shape
        if tokens:
            assert relative_error(actual, expected) < TOLERANCES[layer.dtype]


# --- systems of the literature ------------------------------------------------------------------

SYSTEMS = {case: module for module in modules().values() for case in module.CASES}
# Those without losses, capacities by priority, experts that choose, and experts that are no networks.
WRITTEN = """
    deepseek_v3 deepseek_v3_fill_zero ernie4_5_moe ernie4_5_moe_clamped glm4_moe gpt_oss granite
    granite_shared grok_1 jacobs kimi_k2 lfm2_moe lfm2_moe_without_bias llama4 llama4_top_2 minimax_m2 nllb_moe
    nllb_moe_normalize_before phimoe qwen2_moe qwen3_moe tutorial
""".split()


@pytest.mark.parametrize("case", WRITTEN)
def test_systems(compiler, tmp_path, case):
    module = SYSTEMS[case]
    layer = Layer(FILES[case], module.DIMS, module.DIMS, "float32")
    arrays = module.draw(np.random.default_rng(0), module.DIMS, 7, case, dtype=NUMPY_TYPES["f32"], given={})
    weights = {name: np.ascontiguousarray(arrays[name].astype(kind)) for name, kind in layer.weights().items()}
    save_file(weights, tmp_path / "w.safetensors")
    (tmp_path / "layer.mlir").write_text(layer.text)
    path, _ = export(compiler, tmp_path / "layer.mlir", tmp_path, "--weights=w.safetensors")
    session = onnxruntime.InferenceSession(str(path))
    kinds = {"tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
    inputs = {one.name: arrays[one.name].astype(kinds[one.type]) for one in session.get_inputs()}
    for name, expected in module.reference(arrays, module.DIMS, case).items():
        actual = run_onnxruntime(path, inputs)[name]
        assert relative_error(actual, expected) < TOLERANCES["float32"], name


@pytest.mark.parametrize("case,operation", [("expert_choice", "moe.select"), ("v_moe", "moe.capacity"), ("olmoe", "moe.aux")])
def test_systems_that_cannot_be_written(compiler, tmp_path, case, operation):
    done = compiler.run(FILES[case], "--emit=onnx", "-o", tmp_path / "x.onnx", check=False)
    assert done.returncode == 3
    assert operation in done.stderr and "cannot be written as ONNX nodes" in done.stderr
    assert not list(tmp_path.iterdir())


# --- files --------------------------------------------------------------------------------------


def test_names_stay(compiler, tinymoe, tmp_path):
    path, _ = export(compiler, tinymoe.model("layer0_moe"), tmp_path)
    before = onnx.load(tinymoe.model("layer0_moe")).graph
    after = onnx.load(path, load_external_data=False).graph
    node = next(node for node in after.node if node.op_type == "MoE")
    original = next(node for node in before.node if node.op_type == "MoE")
    assert node.name == original.name or node.name.startswith("MoE")
    assert [value.name for value in after.input] == [value.name for value in before.input]
    assert [value.name for value in after.output] == [value.name for value in before.output]
    weights = {tensor.name for tensor in after.initializer if tensor.external_data}
    assert weights <= {tensor.name for tensor in before.initializer}
    assert all(int(entry.value) % 4096 == 0 for t in after.initializer for entry in t.external_data if entry.key == "offset")


def test_the_same_bytes(compiler, tinymoe, tmp_path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path, _ = export(compiler, tinymoe.model("layer1_qmoe_int4"), tmp_path / folder)
        files.append((path.read_bytes(), (path.parent / "exported.onnx.data").read_bytes()))
    assert files[0] == files[1]


def test_files_of_the_model_are_not_replaced(compiler, tmp_path):
    model = generate.build(generate.Layer(hidden=128, intermediate=128))
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for output in ("in.onnx", "out.onnx"):
        done = compiler.run(tmp_path / "in.onnx", "--emit=onnx", "-o", tmp_path / output, check=False)
        assert done.returncode == 1 and "is a file of the model; choose another -o" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_translate(compiler, tinymoe, tmp_path):
    """A dumped phase, by moe-translate."""
    inputs, recorded = tinymoe.recorded("layer0_moe")
    model = tinymoe.model("layer0_moe")
    compiler.run(model, "--compile-to=raise-moe", "-o", tmp_path / "raised.mlir")
    run(tool("moe-translate"), "--export-onnx", tmp_path / "raised.mlir", "--model-dir", model.parent, "-o", tmp_path / "x.onnx")
    actual = run_onnxruntime(tmp_path / "x.onnx", inputs)
    assert relative_error(actual["output"], recorded["output"]) < TOLERANCES["float32"]

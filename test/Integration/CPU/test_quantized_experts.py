# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Exported MoE blocks whose experts' weights are quantised in the graph: raised with their
codes and scales, and right."""

import json

import numpy as np
import onnx
import pytest
from harness import MODELS, TOLERANCES, run, tool
from ml_dtypes import int4, uint4
from moec.runtime import load
from onnx import TensorProto, helper, numpy_helper
from references.evaluate import evaluate, relative_error
from rewrites import Graph, attribute
from test_models import run_onnx

# How the weights are quantised: the codes' type, codes per scale (0: one scale for each row),
# whether there are zero points.
DEQUANTIZE = {
    "int8_rows": (np.int8, 0, False),
    "int8_rows_zero_points": (np.int8, 0, True),
    "uint8_rows": (np.uint8, 0, True),
    "int8_blocks": (np.int8, 16, True),
    "int4_blocks": (int4, 16, False),
    "uint4_blocks": (uint4, 16, True),
}
# Loops over experts with a bank or with tensors of their own, masked, gathered and tiled.
LOOPS = ("mixtral__dynamo_loop", "mixtral__ts_loop", "mixtral__dynamo_dense", "qwen3_moe__ts_dense")
BATCHED = ("mixtral__dynamo_batched", "mixtral__dynamo_tiled", "gpt_oss__dynamo_tiled")


def read_case(name):
    folder = MODELS / "public" / name
    if not folder.is_dir():
        pytest.skip(f"models not found: {folder}")
    config = json.loads((folder / "case.json").read_text())["config"]
    return Graph(onnx.load(folder / "model.onnx")), dict(np.load(folder / "in1.npz")), config


def is_out_in(graph, name, out_in=False):
    """Whether a weight is [.., N, K], by the product that it ends in; None when in none."""
    for node in graph.users(name):
        position = list(node.input).index(name)
        if node.op_type == "MatMul":
            return out_in if position == 1 else not out_in
        if node.op_type == "Gemm" and position == 1:
            return out_in != bool(attribute(node, "transB", 0))
        flips = node.op_type == "Transpose"
        if flips or (position == 0 and node.op_type in ("Gather", "GatherND", "Squeeze", "Identity")):
            found = is_out_in(graph, node.output[0], out_in != flips)
            if found is not None:
                return found
    return None


def expert_weights(graph, config):
    """(initializer, whether it is [.., N, K]) of each."""
    experts = config.get("num_local_experts") or config.get("num_experts")
    for tensor in list(graph.graph.initializer):
        shape = tuple(tensor.dims)
        is_matrix = len(shape) == 2 and experts not in shape and min(shape) > 1
        if tensor.data_type == TensorProto.FLOAT and (len(shape) == 3 or is_matrix):
            layout = is_out_in(graph, tensor.name)
            if layout is not None and (is_matrix or shape[0] == experts):
                yield tensor, layout


def quantize(matrix, dtype, block, has_zero_points):
    """Codes [.., N, K], scales and zero points [.., N, K / block]."""
    info = np.iinfo(dtype) if dtype in (np.int8, np.uint8) else None
    low, high = (info.min, info.max) if info else {int4: (-8, 7), uint4: (0, 15)}[dtype]
    blocks = matrix.reshape(*matrix.shape[:-1], -1, block)
    if has_zero_points:
        least, most = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
        scales = ((most - least) / (high - low)).astype(np.float32)
        zero_points = np.clip(np.round(low - least / scales), low, high)
    else:
        scales = (abs(blocks).max(-1) / high).astype(np.float32)
        zero_points = np.zeros_like(scales)
    codes = np.clip(np.round(blocks / scales[..., None] + zero_points[..., None]), low, high)
    return codes.reshape(matrix.shape), scales, zero_points


def dequantize(codes, scales, zero_points):
    blocks = codes.reshape(*scales.shape, -1)
    return ((blocks - zero_points[..., None]) * scales[..., None].astype(np.float64)).reshape(codes.shape)


def spell_dequantize(graph, tensor, out_in, dtype, block, has_zero_points):
    """DequantizeLinear in the place of an initializer; returns what that means."""
    matrix = numpy_helper.to_array(tensor)
    matrix = matrix if out_in else np.swapaxes(matrix, -1, -2)
    n, k = matrix.shape[-2:]
    by_row = block == 0 or k % block != 0
    codes, scales, zero_points = quantize(matrix, dtype, k if by_row else block, has_zero_points)
    exact = dequantize(codes, scales, zero_points)
    rank = matrix.ndim
    if rank == 2 and by_row:
        attributes = {"axis": 0 if out_in else 1}
        scales, zero_points = scales[:, 0], zero_points[:, 0]
    else:
        attributes = {"axis": rank - 1 if out_in else rank - 2, "block_size": k if by_row else block}
    back = (lambda a: a) if out_in else (lambda a: np.swapaxes(a, -1, -2) if a.ndim == rank else a)
    name = tensor.name
    tensor.name = graph.name("float")
    inputs = [graph.constant(back(codes).astype(dtype), "codes"), graph.constant(back(scales), "scales")]
    if has_zero_points:
        inputs.append(graph.constant(back(zero_points).astype(dtype), "zero_points"))
    graph.graph.initializer.remove(tensor)
    graph.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], **attributes))
    return name, back(exact)


def check(compiler, tmp_path, graph, inputs, exact_graph, dequantized):
    path = tmp_path / "quantized.onnx"
    onnx.save(graph.model, path)
    raised = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe")
    assert raised.stdout.count("= moe.combine ") == 1, raised.stderr
    assert raised.stdout.count("= moe.dequantize ") in dequantized, raised.stderr
    expected = run_onnx(graph.model, inputs)
    exact = evaluate(exact_graph.model, inputs)
    with load(compiler.package(path, "-O3").path) as opened:
        actual = opened.run(inputs)
    for name, value in actual.items():
        assert relative_error(value, expected[name]) < TOLERANCES["float32"]
        assert relative_error(value, exact[name]) < TOLERANCES["float32"]


def set_values(graph, values):
    for tensor in graph.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))


@pytest.mark.parametrize("spelling", DEQUANTIZE)
@pytest.mark.parametrize("name", LOOPS + BATCHED)
def test_dequantize_linear(compiler, tmp_path, name, spelling):
    graph, inputs, config = read_case(name)
    dtype, block, has_zero_points = DEQUANTIZE[spelling]
    weights = list(expert_weights(graph, config))
    assert weights
    if graph.opset() < 21 and (block or any(len(tensor.dims) == 3 for tensor, _ in weights)):
        if graph.opset() < 20:
            pytest.skip("the model is of an older opset than blocks")
        graph.use_opset("", 21)
    exact = Graph(graph.model)
    set_values(exact, dict(spell_dequantize(graph, *weight, dtype, block, has_zero_points) for weight in weights))
    check(compiler, tmp_path, graph, inputs, exact, (2, 3))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_points", [False, True], ids=["symmetric", "zero_points"])
@pytest.mark.parametrize("name", ["mixtral__ts_loop", "deepseek_v2__ts_dense"])
def test_matmul_nbits(compiler, tmp_path, name, bits, zero_points):
    """In the place of products whose weights have blocks that divide them."""
    graph, inputs, config = read_case(name)
    graph.use_opset("com.microsoft", 1)
    exact, values = Graph(graph.model), {}
    for tensor, out_in in list(expert_weights(graph, config)):
        (node,) = graph.users(tensor.name)
        matrix = numpy_helper.to_array(tensor)
        matrix = matrix if out_in else matrix.T
        n, k = matrix.shape
        if k % 16 or node.op_type != "MatMul":
            continue
        dtype = {4: uint4, 8: np.uint8}[bits]
        codes, scales, zeros = quantize(matrix, dtype, 16, True)
        if not zero_points:
            scales = (abs(matrix.reshape(n, -1, 16)).max(-1) / 2 ** (bits - 1)).astype(np.float32)
            zeros = np.full_like(scales, 2 ** (bits - 1))
            codes = np.round(matrix.reshape(n, -1, 16) / scales[..., None] + zeros[..., None])
            codes = np.clip(codes, 0, 2**bits - 1).reshape(n, k)
        value = dequantize(codes, scales, zeros)
        values[tensor.name] = value if out_in else value.T

        def pack(array):
            array = array.astype(np.uint8)
            if bits == 8:
                return array
            array = np.concatenate([array, np.zeros_like(array[..., :1])], -1) if array.shape[-1] % 2 else array
            return array[..., ::2] | array[..., 1::2] << 4

        constants = [pack(codes.reshape(n, -1, 16)), scales.ravel()] + [pack(zeros).ravel()] * zero_points
        names = [node.input[0], *(graph.constant(constant, "nbits") for constant in constants)]
        attributes = {"K": k, "N": n, "bits": bits, "block_size": 16}
        graph.replace(
            node, helper.make_node("MatMulNBits", names, list(node.output), domain="com.microsoft", **attributes)
        )
        graph.graph.initializer.remove(tensor)
    assert values
    set_values(exact, values)
    check(compiler, tmp_path, graph, inputs, exact, (1, 2, 3))

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Importing gigabytes takes little memory. The weights are holes in sparse
files, so nothing is written."""

import re
import subprocess
import time

import harness
import onnx
import pytest
from onnx import TensorProto, helper

ANONYMOUS_LIMIT_KB = 300_000

HIDDEN, INTERMEDIATE = 2048, 768


def graph_without_weights(initializers):
    value = helper.make_tensor_value_info
    node = helper.make_node("MoE", ["x", "l", "fc1", "", "fc2"], ["y"], domain="com.microsoft", activation_type="swiglu", swiglu_fusion=1, k=2)
    values = [value("x", 1, ["T", HIDDEN]), value("l", 1, ["T", initializers[0].dims[0]])]
    return helper.make_graph([node], "large", values, [value("y", 1, ["T", HIDDEN])], initializers)


def model_of(graph):
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def weights(experts):
    """fc1 and fc2 without data, and their numbers of bytes."""
    shapes = {"fc1": (experts, 2 * INTERMEDIATE, HIDDEN), "fc2": (experts, HIDDEN, INTERMEDIATE)}
    for name, dims in shapes.items():
        yield TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims), 4 * dims[0] * dims[1] * dims[2]


def external_model(folder):
    """3 GB in one file beside the model."""
    tensors, offset = [], 0
    for tensor, length in weights(160):
        tensor.data_location = TensorProto.EXTERNAL
        for key, number in (("location", "weights.bin"), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(number))
        tensors.append(tensor)
        offset += length
    assert offset > 3e9
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(offset)
    path = folder / "external.onnx"
    path.write_bytes(model_of(graph_without_weights(tensors)).SerializeToString())
    return path


def varint(number):
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes(result + bytes([number]))


def inline_model(folder):
    """1.9 GB inside the model file, in `raw_data`: the message is put together by hand."""
    initializer_field, graph_field, raw_data_field = 5, 7, 9
    pieces = []  # (bytes before a hole, bytes of the hole)
    tensors = list(weights(100))
    for tensor, length in tensors:
        head = tensor.SerializeToString() + varint(raw_data_field << 3 | 2) + varint(length)
        pieces.append((varint(initializer_field << 3 | 2) + varint(len(head) + length) + head, length))
    graph = graph_without_weights([tensor for tensor, _ in tensors])
    del graph.initializer[:]
    graph_bytes = graph.SerializeToString()
    total = sum(len(head) + length for head, length in pieces) + len(graph_bytes)
    assert 1.8e9 < total < 2**31
    model = model_of(onnx.GraphProto())
    model.ClearField("graph")
    path = folder / "inline.onnx"
    with path.open("wb") as file:
        file.write(model.SerializeToString() + varint(graph_field << 3 | 2) + varint(total))
        for head, length in pieces:
            file.write(head)
            file.truncate(file.seek(length, 1))
        file.write(graph_bytes)
    return path


def peak_anonymous_kb(process):
    """The largest RssAnon of a process while it runs."""
    peak = 0
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as file:
                found = re.search(r"RssAnon:\s+(\d+)", file.read())
        except OSError:
            break
        peak = max(peak, int(found.group(1)) if found else 0)
        time.sleep(0.002)
    return peak


@pytest.mark.parametrize("make", [external_model, inline_model])
def test_import_of_gigabytes(compiler, tmp_path, make):
    path = make(tmp_path)
    command = [harness.tool("moe-translate"), "--import-onnx", path, "-o", tmp_path / "out.mlir"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    peak = peak_anonymous_kb(process)
    assert process.wait() == 0, process.stderr.read()
    assert peak < ANONYMOUS_LIMIT_KB
    text = (tmp_path / "out.mlir").read_text()
    assert len(text) < 100_000 and text.count("moe.weight @") == 2

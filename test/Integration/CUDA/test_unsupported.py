# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What --target=cuda refuses is reported together, by node and operator."""

import re

import harness
import onnx
import pytest
from harness import run

HEADER = '<ir_version: 9, opset_import: ["": 18]>'
MODELS = {
    # Sizes that depend on data: the CPU computes them.
    "data": (
        "model (float[A,B] x, bool[A] kept, int64 last) => (int64[2] sum, float[B] largest, int64 numbers, float[A,B] y)",
        """
        [find] found = NonZero (x)
        axes = Constant<value_ints = [1]> ()
        [sum] sum = ReduceSum<keepdims = 0> (found, axes)
        [pick] picked = Compress<axis = 0> (x, kept)
        rows = Constant<value_ints = [0]> ()
        [most] largest = ReduceMax<keepdims = 0> (picked, rows)
        zero = Constant<value_int = 0> ()
        one = Constant<value_int = 1> ()
        [count] range = Range (zero, last, one)
        [add] numbers = ReduceSum<keepdims = 0> (range, rows)
        [turn] y = Relu (x)
        """,
        {"find": "NonZero", "pick": "Compress", "count": "Range"},
    ),
    # Operators that moec does not have at all.
    "unknown": (
        "model (float[1,1,4,4] x) => (float[1,1,3,3] y, float[1,1,4,4] z)",
        "[pool] y = MaxPool<kernel_shape = [2, 2]> (x)\n[norm] z = LRN<size = 3> (x)",
        {"pool": "MaxPool", "norm": "LRN"},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_reported_together(tmp_path, name):
    signature, body, refused = MODELS[name]
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(f"{HEADER} {signature} {{ {body} }}"), path)
    done = run(harness.tool("moec"), path, "--target=cuda", "--gpu-format=ptx", "-o", tmp_path / "model.moec", check=False)
    assert done.returncode == 3, done.stderr
    for node, operator in refused.items():
        assert re.search(rf"\b{operator}\b.*'{node}'|'{node}'.*\b{operator}\b", done.stderr), done.stderr
    assert "'turn'" not in done.stderr
    assert not (tmp_path / "model.moec").exists()

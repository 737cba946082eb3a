# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Products with constants that DequantizeLinear unpacks: 4-bit ones are two to a byte in
the model, and large ones in the package's weights file."""

import os

import ml_dtypes
import numpy as np
import pytest
from harness import TOLERANCES
from moec import backend
from onnx import TensorProto, helper, numpy_helper
from references.evaluate import relative_error

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that libmoec-c.so has"
)

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("block", [0, 5], ids=["axis", "blocks"])
@pytest.mark.parametrize("rows", [7, 300])
@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, np.int8, np.uint8])
def test_a_product(dtype, rows, block):
    columns = rows + 1
    info = ml_dtypes.iinfo(dtype)
    weight = RANDOM.integers(info.min, info.max + 1, (rows, columns)).astype(dtype)
    scale_shape = (rows, -(-columns // block)) if block else (rows,)
    zero = RANDOM.integers(info.min, info.max + 1, scale_shape).astype(dtype)
    scale = RANDOM.uniform(0.1, 1, scale_shape).astype(np.float32)
    constants = {"w": weight, "s": scale, "z": zero}
    axis = {"axis": 1, "block_size": block} if block else {"axis": 0}
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], **axis),
            helper.make_node("MatMul", ["x", "d"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", columns])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    x = RANDOM.normal(size=(3, rows)).astype(np.float32)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (y,) = backend.run_model(model, [x], threads="none")

    def spread(numbers):
        wide = numbers.astype(np.float64)
        return np.repeat(wide, block, 1)[:, :columns] if block else wide[:, None]

    exact = x.astype(np.float64) @ ((weight.astype(np.float64) - spread(zero)) * spread(scale))
    assert relative_error(y, exact) < TOLERANCES["float32"]

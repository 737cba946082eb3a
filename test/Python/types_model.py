# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A model whose inputs and outputs have many types."""

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

DTYPES = {
    "single": ("float32", TensorProto.FLOAT, np.float32),
    "double": ("float64", TensorProto.DOUBLE, np.float64),
    "half": ("float16", TensorProto.FLOAT16, np.float16),
    "brain": ("bfloat16", TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "int64": ("int64", TensorProto.INT64, np.int64),
    "int32": ("int32", TensorProto.INT32, np.int32),
    "uint8": ("uint8", TensorProto.UINT8, np.uint8),
    "flag": ("bool", TensorProto.BOOL, np.bool_),
}


def build():
    """NAME[rows, 4] -> NAME_out[rows, 4] for each of DTYPES: twice the input, or its negation.
    And scale[] float32 -> scale_out[]: its double."""
    nodes, inputs, outputs = [], [], []
    shapes = {name: ["rows", 4] for name in DTYPES} | {"scale": []}
    for name, shape in shapes.items():
        code = DTYPES.get(name, DTYPES["single"])[1]
        operands = [name] if name == "flag" else [name, name]
        nodes.append(helper.make_node("Not" if name == "flag" else "Add", operands, [f"{name}_out"]))
        inputs.append(helper.make_tensor_value_info(name, code, shape))
        outputs.append(helper.make_tensor_value_info(f"{name}_out", code, shape))
    graph = helper.make_graph(nodes, "types", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def draw(rows, seed=0):
    """Inputs of that model."""
    random = np.random.default_rng(seed)
    values = {name: random.integers(0, 100, (rows, 4)).astype(dtype) for name, (_, _, dtype) in DTYPES.items()}
    values["flag"] = random.integers(0, 2, (rows, 4)).astype(bool)
    return values | {"scale": np.array(1.5, np.float32)}


def expect(inputs):
    """Outputs of that model: exact, since all values are small integers."""
    double = {f"{name}_out": values + values for name, values in inputs.items() if name != "flag"}
    return double | {"flag_out": ~inputs["flag"]}

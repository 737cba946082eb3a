# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Whole ONNX models on the emulated GPU."""

import subprocess
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from harness import tool

from jit import Program


def run_model(model, inputs, level):
    """The outputs of an ONNX file for inputs by name, as --target=cuda computes them."""
    graph = onnx.load(model, load_external_data=False).graph
    types = {value.name: value.type.tensor_type for value in graph.output}
    outputs = [(_dtype(type.elem_type), len(type.shape.dim)) for type in types.values()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in model.parent.iterdir():
            (folder / file.name).symlink_to(file)
        text = subprocess.run([tool("moec"), folder / model.name, "--compile-to=import"], check=True, capture_output=True, text=True).stdout
        program = Program(text, {}, folder, level, gpu="sm_80")
        arrays = [np.ascontiguousarray(inputs[value.name]) for value in graph.input if value.name in inputs]
        results = program.run("main", arrays, outputs)
        program.close()
    return dict(zip(types, results))


def _dtype(type):
    return ml_dtypes.bfloat16 if type == onnx.TensorProto.BFLOAT16 else onnx.helper.tensor_dtype_to_np_dtype(type)

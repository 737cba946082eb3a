# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiles ONNX models with Mixture-of-Experts layers, and runs them.

    model = moec.compile("layer0.onnx", "layer0.moec", dims={"batch": 1})
    output = model(x=array)["output"]

What runs models is in moec.runtime, which needs no compiler and can be shipped alone.
"""

from ._compile import CompileError, CompileWarning, Diagnostic, compile, unpack
from .runtime import Array, Context, Entry, Model, MoecError, Tensor, TensorInfo, load

__all__ = [
    "Array",
    "CompileError",
    "CompileWarning",
    "Context",
    "Diagnostic",
    "Entry",
    "Model",
    "MoecError",
    "Tensor",
    "TensorInfo",
    "compile",
    "load",
    "unpack",
]

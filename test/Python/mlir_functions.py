# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calls functions written in MLIR on NumPy arrays: compiles a module with moe-opt,
MLIR's own lowerings and clang into a shared library."""

import ctypes
import subprocess

import ml_dtypes
import numpy as np
from harness import tool, run

DTYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "f64": np.float64,
    "i32": np.int32,
    "ui8": np.uint8,
}

LOWERING = [
    "--canonicalize",
    "--cse",
    "--one-shot-bufferize=bufferize-function-boundaries function-boundary-type-conversion=identity-layout-map",
    "--canonicalize",
    "--convert-linalg-to-loops",
    "--llvm-request-c-wrappers",
    "--arith-expand=include-bf16",
    "--expand-strided-metadata",
    "--lower-affine",
    "--convert-scf-to-cf",
    "--convert-math-to-libm",
    "--convert-to-llvm",
    "--reconcile-unrealized-casts",
]


def descriptor(rank):
    """MLIR's memref of a rank."""

    class Descriptor(ctypes.Structure):
        _fields_ = [
            ("allocated", ctypes.c_void_p),
            ("aligned", ctypes.c_void_p),
            ("offset", ctypes.c_int64),
            ("sizes", ctypes.c_int64 * rank),
            ("strides", ctypes.c_int64 * rank),
        ]

    return Descriptor


def describe(array):
    strides = [stride // array.itemsize for stride in array.strides]
    rank = array.ndim
    return descriptor(rank)(
        array.ctypes.data, array.ctypes.data, 0, (ctypes.c_int64 * rank)(*array.shape), (ctypes.c_int64 * rank)(*strides)
    )


def read(result, dtype):
    """A copy of a returned memref. It is contiguous: functions return what they allocate."""
    shape = tuple(result.sizes)
    count = int(np.prod(shape))
    if count == 0:
        return np.zeros(shape, dtype)
    address = result.aligned + result.offset * np.dtype(dtype).itemsize
    buffer = ctypes.string_at(address, count * np.dtype(dtype).itemsize)
    return np.frombuffer(buffer, dtype).reshape(shape).copy()


class Functions:
    """The functions of a module; results are named by (element type, rank)."""

    def __init__(self, module, passes, folder):
        lowered = folder / "module.mlir"
        source = folder / "source.mlir"
        library = folder / "libmodule.so"
        source.write_text(module)
        run(tool("moe-opt"), source, *passes, *LOWERING, "-o", lowered)
        translate = subprocess.run(
            [tool_of_llvm("mlir-translate"), "--mlir-to-llvmir", str(lowered)], capture_output=True, text=True, check=True
        )
        (folder / "module.ll").write_text(translate.stdout)
        run("clang-22", "-O1", "-w", "-shared", "-fPIC", folder / "module.ll", "-o", library, "-lm")
        self.library = ctypes.CDLL(str(library))

    def call(self, name, arguments, results):
        class Results(ctypes.Structure):
            _fields_ = [(f"result{i}", descriptor(rank)) for i, (_, rank) in enumerate(results)]

        returned = Results()
        arrays = [np.array(argument, order="C") for argument in arguments]
        inputs = [describe(array) for array in arrays]
        getattr(self.library, f"_mlir_ciface_{name}")(ctypes.byref(returned), *map(ctypes.byref, inputs))
        return [read(getattr(returned, f"result{i}"), DTYPES[kind]) for i, (kind, _) in enumerate(results)]


def tool_of_llvm(name):
    folder = run("llvm-config-22", "--bindir").stdout.strip()
    return f"{folder}/{name}"

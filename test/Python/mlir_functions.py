# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calls functions written in MLIR on NumPy arrays: compiles a module with moe-opt,
MLIR's own lowerings and clang into a shared library."""

import ctypes
import re
import subprocess

import ml_dtypes
import numpy as np
from harness import tool, run

DTYPES = {
    "i1": np.bool_,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "f64": np.float64,
    "i32": np.int32,
    "i64": np.int64,
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
    """The descriptor of a C-contiguous array."""
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


# moe.check needs the runtime; here a failing one is counted.
CHECKS = """
#include <stdint.h>
static int64_t failures;
void _mlir_ciface_check(uint8_t holds) { failures += !(holds & 1); }
int64_t take_failures(void) { int64_t count = failures; failures = 0; return count; }
"""


def count_checks(module):
    """The module with a call of CHECKS in the place of each moe.check."""
    module = re.sub(r"moe\.check %\w+, (%\w+), \"[^\"]*\" : !llvm\.ptr", r"func.call @check(\1) : (i1) -> ()", module)
    return re.sub(r"%\w+ = moe\.current_call : !llvm\.ptr", "", module)


class Functions:
    """The functions of a module; results are named by (element type, rank)."""

    def __init__(self, module, passes, folder):
        lowered = folder / "module.mlir"
        source = folder / "source.mlir"
        library = folder / "libmodule.so"
        source.write_text(module + "func.func private @check(i1)\n")
        checked = run(tool("moe-opt"), source, *passes).stdout
        source.write_text(count_checks(checked))
        run(tool("moe-opt"), source, *LOWERING, "-o", lowered)
        (folder / "checks.c").write_text(CHECKS)
        translate = subprocess.run(
            [tool_of_llvm("mlir-translate"), "--mlir-to-llvmir", str(lowered)], capture_output=True, text=True, check=True
        )
        (folder / "module.ll").write_text(translate.stdout)
        run("clang-22", "-O1", "-w", "-shared", "-fPIC", folder / "module.ll", folder / "checks.c", "-o", library, "-lm")
        self.library = ctypes.CDLL(str(library))

    def call(self, name, arguments, results):
        class Results(ctypes.Structure):
            _fields_ = [(f"result{i}", descriptor(rank)) for i, (_, rank) in enumerate(results)]

        returned = Results()
        # An int is an index; arrays live until the call is over.
        arrays = [argument if isinstance(argument, int) else np.array(argument, order="C") for argument in arguments]
        inputs = [array if isinstance(array, int) else describe(array) for array in arrays]
        given = [ctypes.c_int64(value) if isinstance(value, int) else ctypes.byref(value) for value in inputs]
        function = getattr(self.library, f"_mlir_ciface_{name}")
        function.restype = None
        function(ctypes.byref(returned), *given)
        return [read(getattr(returned, f"result{i}"), DTYPES[kind]) for i, (kind, _) in enumerate(results)]

    def take_failures(self):
        """How many checks failed since the last question."""
        self.library.take_failures.restype = ctypes.c_int64
        return self.library.take_failures()


def tool_of_llvm(name):
    folder = run("llvm-config-22", "--bindir").stdout.strip()
    return f"{folder}/{name}"

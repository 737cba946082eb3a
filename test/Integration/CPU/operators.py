# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One-node models: lowered by --onnx-to-linalg, compiled with upstream passes only
and run through ctypes, beside onnx.reference in float64.

Upstream passes instead of our own pipeline, so that a wrong number is the lowering's.
"""

import ctypes
import os
import re
import shutil
import subprocess

import harness
import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

MLIR_TYPES = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16",
    "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "ui8", "bool": "i1",
}
ONNX_TYPES = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16, "int64": TensorProto.INT64, "int32": TensorProto.INT32,
    "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "bool": TensorProto.BOOL,
}
TOLERANCES = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}


class Case:
    """A node and its inputs. `constants` are input positions given as Constant nodes;
    `static` keeps the sizes in the types, else all of them are dynamic. `unknown` are the
    (output, dimension) that depend on data and are never in the types."""

    def __init__(self, name, op, inputs, attributes=None, constants=(), outputs=1, version=18,
                 fails=False, expected=None, kinds=("static", "dynamic"), unknown=()):
        self.name, self.op, self.inputs = name, op, inputs
        self.attributes = attributes or {}
        self.constants, self.outputs, self.version = set(constants), outputs, version
        self.fails, self._expected, self.kinds, self.unknown = fails, expected, kinds, unknown

    def expected(self):
        """Results of onnx.reference with floating-point inputs widened to float64."""
        if self._expected is not None:
            return self._expected
        feeds, names, values = {}, [], []
        for i, array in enumerate(self.inputs):
            names.append("" if array is None else f"x{i}")
            if array is None:
                continue
            wide = array.astype(np.float64) if is_float(array.dtype) else array
            feeds[f"x{i}"] = wide
            values.append(helper.make_tensor_value_info(
                f"x{i}", ONNX_TYPES[wide.dtype.name], wide.shape))
        while names and not names[-1]:
            names.pop()
        results = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op, names, results, **self.attributes)
        graph = helper.make_graph([node], "g", values, [
            helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.version)])
        return ReferenceEvaluator(model).run(None, feeds)

    def result_types(self):
        """Name of the element type of each result."""
        float_in = next((a.dtype for a in self.inputs if a is not None and is_float(a.dtype)), None)
        names = []
        for array in self.expected():
            dtype = np.asarray(array).dtype
            if self.op == "Cast":
                dtype = np.dtype({v: k for k, v in ONNX_TYPES.items()}[self.attributes["to"]])
            elif self.op.startswith("Reduce"):
                dtype = self.inputs[0].dtype
            elif dtype == np.float64 and float_in is not None:
                dtype = float_in
            names.append(dtype.name)
        return names


def is_float(dtype):
    return np.dtype(dtype).name in TOLERANCES


def tensor_type(shape, dtype, static, unknown=()):
    """`static` is True, False, or "last" for a last dimension alone that is known; the dimensions
    `unknown` never are."""
    def is_known(dim):
        return dim not in unknown and (static is True or (static and dim == len(shape) - 1))

    sizes = [size if is_known(dim) else "?" for dim, size in enumerate(shape)]
    dims = "".join(f"{size}x" for size in sizes)
    return f"tensor<{dims}{MLIR_TYPES[np.dtype(dtype).name]}>"


def dense(array):
    if array.size == 0:
        return f"dense<> : {tensor_type(array.shape, array.dtype, True)}"

    def text(x):
        if x.ndim:
            return "[" + ", ".join(text(y) for y in x) + "]"
        if x.dtype == np.bool_:
            return "true" if x else "false"
        return repr(float(x)) if is_float(x.dtype) else str(int(x))

    return f"dense<{text(array)}> : {tensor_type(array.shape, array.dtype, True)}"


def attribute(value):
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float):
        return f"{value:.9e} : f32"
    if isinstance(value, (list, tuple)):
        return "array<i64" + (": " + ", ".join(map(str, value)) if value else "") + ">"
    if isinstance(value, TensorProto):
        return dense(numpy_helper.to_array(value))
    return f"{value} : i64"


def print_function(case, name, static):
    """The case as a function of onnx.nodes."""
    arguments, body, operands, types, absent = [], [], [], [], []
    for i, array in enumerate(case.inputs):
        if array is None:
            absent.append(i)
            continue
        constant = i in case.constants
        # The length of a shape operand is part of what a lowering must know.
        is_axes = case.op.startswith("Reduce") and i == 1
        is_static = static or constant or is_axes or (case.op, i) in {
            ("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Slice", 1), ("Slice", 2),
            ("Split", 1), ("Tile", 1), ("OneHot", 2), ("TopK", 1), ("Pad", 1), ("Pad", 3)}
        if (case.op, i) in {("GatherND", 1), ("ScatterND", 1)}:
            is_static = is_static or "last"
        kind = tensor_type(array.shape, array.dtype, is_static)
        if constant:
            body.append(f'    %x{i} = onnx.node "Constant"() {{attributes = {{value = '
                        f"{dense(array)}}}, version = 13 : i64}} : () -> {kind}")
        else:
            # As in a model, inputs stay as they are.
            arguments.append(f"%x{i}: {kind} {{bufferization.writable = false}}")
        operands.append(f"%x{i}")
        types.append(kind)
    while absent and absent[-1] > max(i for i, a in enumerate(case.inputs) if a is not None):
        absent.pop()
    results = ", ".join(
        tensor_type(np.shape(array), dtype, static, [dim for output, dim in case.unknown if output == i])
        for i, (array, dtype) in enumerate(zip(case.expected(), case.result_types())))
    properties = []
    if absent:
        properties.append("absent = array<i32: " + ", ".join(map(str, absent)) + ">")
    if case.attributes:
        properties.append("attributes = {" + ", ".join(
            f"{key} = {attribute(value)}" for key, value in case.attributes.items()) + "}")
    properties.append(f"version = {case.version} : i64")
    values = ", ".join(f"%y#{i}" for i in range(case.outputs)) if case.outputs > 1 else "%y"
    head = f"%y:{case.outputs}" if case.outputs > 1 else "%y"
    body.append(f'    {head} = onnx.node "{case.op}"({", ".join(operands)}) {{{", ".join(properties)}}}'
                f' : ({", ".join(types)}) -> ({results}) loc(fused["{name}", "cases.mlir":1:1])')
    body.append(f"    return {values} : {results}")
    return f"  func.func @{name}({', '.join(arguments)}) -> ({results}) {{\n" + "\n".join(body) + "\n  }\n"


UPSTREAM = """builtin.module(canonicalize, cse,
  one-shot-bufferize{bufferize-function-boundaries function-boundary-type-conversion=identity-layout-map},
  expand-copies, func.func(convert-linalg-to-loops, convert-vector-to-scf, llvm-request-c-wrappers), resolve-expand-shape, expand-strided-metadata, lower-affine,
  convert-scf-to-cf, arith-expand{include-bf16=true}, convert-vector-to-llvm, convert-math-to-llvm, convert-math-to-libm,
  convert-to-llvm, reconcile-unrealized-casts)"""

# Only the lowest bit of an i1 argument is defined: not a C bool.
CHECK = """int moec_failed;
void _mlir_ciface_moec_test_check(unsigned char ok) { moec_failed += !(ok & 1); }
"""


def find_tools():
    """The tools that `compile_cases` needs; skips the test when one is missing."""
    tools = {name: shutil.which(f"{name}-22") for name in ("mlir-translate", "clang")}
    tools["moe-opt"] = harness.tool("moe-opt")
    missing = [name for name, path in tools.items() if path is None or not shutil.which(path)]
    if missing:
        pytest.skip("not found: " + ", ".join(missing))
    return tools


def compile_cases(cases, folder, tools, passes=("--onnx-to-linalg",), kinds=("static", "dynamic")):
    """A library with a function `NAME_static` and `NAME_dynamic` for each case, as far as among `kinds`."""
    text = "module {\n" + "".join(
        print_function(case, f"{case.name}_{kind}", kind == "static")
        for case in cases for kind in case.kinds if kind in kinds) + "}\n"
    path = folder / "cases.mlir"
    path.write_text(text)
    lowered = run([tools["moe-opt"], path, *passes])
    # Upstream passes know no checks of a call: they go to a counter.
    lowered = re.sub(r"moe\.current_call : !llvm\.ptr", "llvm.mlir.zero : !llvm.ptr", lowered)
    lowered = re.sub(r"moe\.check %\S+, (%\S+), \".*\" : !llvm\.ptr",
                     r"func.call @moec_test_check(\1) : (i1) -> ()", lowered)
    lowered = lowered.replace("module {", "module {\n  func.func private @moec_test_check(i1)", 1)
    (folder / "lowered.mlir").write_text(lowered)
    llvm = run([tools["moe-opt"], folder / "lowered.mlir", f"--pass-pipeline={UPSTREAM}"])
    (folder / "llvm.mlir").write_text(llvm)
    (folder / "cases.ll").write_text(
        run([tools["mlir-translate"], "--mlir-to-llvmir", folder / "llvm.mlir"]))
    (folder / "check.c").write_text(CHECK)
    library = folder / "cases.so"
    run([tools["clang"], "-O1", "-march=x86-64-v3", "-shared", "-fPIC", "-Wno-override-module",
         folder / "cases.ll", folder / "check.c", "-o", library, "-lm"])
    return ctypes.CDLL(os.fspath(library))


def run(command):
    done = subprocess.run([os.fspath(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stderr[:4000]}"
    return done.stdout


def descriptor(rank):
    class Descriptor(ctypes.Structure):
        _fields_ = [("allocated", ctypes.c_void_p), ("aligned", ctypes.c_void_p),
                    ("offset", ctypes.c_int64)] + (
            [("sizes", ctypes.c_int64 * rank), ("strides", ctypes.c_int64 * rank)] if rank else [])

    return Descriptor


def numpy_type(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def execute(library, case, kind):
    """Results of a compiled case, and the number of failed checks."""
    keep, pointers = [], []
    for i, array in enumerate(case.inputs):
        if array is None or i in case.constants:
            continue
        array = np.ascontiguousarray(array)
        argument = descriptor(array.ndim)()
        argument.allocated = argument.aligned = array.ctypes.data
        for dim in range(array.ndim):
            argument.sizes[dim] = array.shape[dim]
            argument.strides[dim] = array.strides[dim] // array.itemsize
        keep += [array, argument]
        pointers.append(ctypes.byref(argument))
    expected = case.expected()

    class Results(ctypes.Structure):
        _fields_ = [(f"y{i}", descriptor(np.ndim(y))) for i, y in enumerate(expected)]

    results = Results()
    failures = ctypes.c_int.in_dll(library, "moec_failed")
    failures.value = 0
    getattr(library, f"_mlir_ciface_{case.name}_{kind}")(ctypes.byref(results), *pointers)
    arrays = []
    for i, (y, name) in enumerate(zip(expected, case.result_types())):
        result, dtype = getattr(results, f"y{i}"), numpy_type(name)
        rank = np.ndim(y)
        shape = tuple(result.sizes[d] for d in range(rank))
        strides = tuple(result.strides[d] * dtype.itemsize for d in range(rank))
        count = 1 + sum((n - 1) * result.strides[d] for d, n in enumerate(shape))
        if 0 in shape:
            arrays.append(np.empty(shape, dtype))
            continue
        start = result.aligned + result.offset * dtype.itemsize
        data = np.ctypeslib.as_array((ctypes.c_uint8 * (count * dtype.itemsize)).from_address(start))
        view = np.lib.stride_tricks.as_strided(data.view(dtype), shape, strides)
        arrays.append(view.copy())
    return arrays, failures.value


def check(library, case, kind):
    """Compares the results of a compiled case with what is expected."""
    results, failures = execute(library, case, kind)
    assert bool(failures) == case.fails
    if case.fails:
        return
    for result, expected in zip(results, case.expected()):
        expected = np.asarray(expected)
        assert result.shape == expected.shape
        tolerance = TOLERANCES.get(result.dtype.name)
        if tolerance is None:
            np.testing.assert_array_equal(result, expected)
            continue
        wide = expected.astype(np.float64)
        scale = np.abs(wide[np.isfinite(wide)]).max(initial=0)
        np.testing.assert_allclose(result.astype(np.float64), wide, rtol=tolerance, atol=tolerance * scale)

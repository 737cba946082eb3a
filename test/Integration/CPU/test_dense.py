# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The operators around MoE layers, optimized: products with constant matrices, and
element-wise chains and reductions over long rows, which are tasks of vectors."""

import ml_dtypes
import numpy as np
import pytest
from moec.runtime import load
from onnx import TensorProto, helper, numpy_helper

TYPES = {
    "float32": (TensorProto.FLOAT, np.float32, 1e-5),
    "float16": (TensorProto.FLOAT16, np.float16, 2e-3),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, 1.6e-2),
}


def model(nodes, inputs, outputs, constants, element=TensorProto.FLOAT):
    def values(shapes):
        return [helper.make_tensor_value_info(name, element, shape) for name, shape in shapes.items()]

    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "dense", values(inputs), values(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def check(actual, expected, tolerance):
    assert actual.shape == expected.shape
    if expected.size:
        difference = np.abs(actual.astype(np.float64) - expected).max()
        assert difference <= tolerance * np.abs(expected).max()


def run_with_threads(package, inputs):
    """The output; it must not depend on the number of threads."""
    compiled = load(package.path)
    results = []
    for threads in (1, 2, 4):
        with compiled.context(threads=threads) as context:
            results.append(context.run(inputs)["y"])
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint8), results[0].view(np.uint8))
    return results[0]


# --- products with constant matrices -----------------------------------------------------

# N: less than a panel of 32 columns, part of a second one, many; K: odd, more than a chunk
# of 256, more rows than a task has.
SIZES = [(5, 3), (64, 32), (257, 40), (300, 100), (512, 700)]


@pytest.mark.parametrize("cpu", ["native", "x86-64-v3"])
@pytest.mark.parametrize("k,n", SIZES)
@pytest.mark.parametrize("name", TYPES)
def test_matmul_with_bias(compiler, name, k, n, cpu):
    element, dtype, tolerance = TYPES[name]
    random = np.random.default_rng(k)
    weight, bias = (random.standard_normal(shape).astype(dtype) for shape in ((k, n), (n,)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    package = compiler.package(
        model(nodes, {"x": ["batch", "rows", k]}, {"y": ["batch", "rows", n]}, {"w": weight, "b": bias}, element), f"--cpu={cpu}"
    )
    assert any(one["op"] == "moe.linear" for one in package.report["lowerings"])
    for batch, rows in ((1, 1), (1, 0), (2, 3), (1, 12), (3, 100)):
        x = random.standard_normal((batch, rows, k)).astype(dtype)
        expected = x.astype(np.float64) @ weight.astype(np.float64) + bias.astype(np.float64)
        check(run_with_threads(package, {"x": x}), expected, tolerance)


def test_gemm_and_transposed_constant(compiler):
    """The same weight in both layouts, and a chain of products of different ranks."""
    random = np.random.default_rng(1)
    first, second = (random.standard_normal(shape, dtype=np.float32) for shape in ((48, 20), (48, 48)))
    bias = random.standard_normal(48, dtype=np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "first", "bias"], ["a"], transB=1),
        helper.make_node("Transpose", ["second"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["a", "t"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["y"]),
    ]
    package = compiler.package(model(nodes, {"x": ["rows", 20]}, {"y": ["rows", 48]}, {"first": first, "second": second, "bias": bias}))
    x = random.standard_normal((9, 20), dtype=np.float32)
    expected = (x.astype(np.float64) @ first.T + bias) @ second.T.astype(np.float64) @ second
    check(run_with_threads(package, {"x": x}), expected, 1e-5)


# --- element-wise chains and reductions -----------------------------------------------------

ROWS = [(1, 1, 5), (2, 3, 16), (1, 300, 100), (2, 7, 1031), (0, 3, 40)]


def rms_norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("width", sorted({shape[-1] for shape in ROWS}))
def test_rms_norm_chain(compiler, name, width):
    element, dtype, tolerance = TYPES[name]
    random = np.random.default_rng(width)
    weight = random.uniform(0.5, 2, width).astype(dtype)
    constants = {"w": weight, "two": np.array(2, dtype), "epsilon": np.array(1e-6, dtype), "axes": np.array([-1])}
    chain = [
        ("Pow", ["x", "two"], "square"),
        ("ReduceMean", ["square", "axes"], "mean"),
        ("Add", ["mean", "epsilon"], "sum"),
        ("Sqrt", ["sum"], "root"),
        ("Reciprocal", ["root"], "scale"),
        ("Mul", ["x", "scale"], "scaled"),
        ("Mul", ["w", "scaled"], "y"),
    ]
    nodes = [helper.make_node(op, inputs, [output]) for op, inputs, output in chain]
    package = compiler.package(model(nodes, {"x": ["batch", "rows", width]}, {"y": ["batch", "rows", width]}, constants, element))
    for shape in (shape for shape in ROWS if shape[-1] == width):
        x = random.standard_normal(shape).astype(dtype)
        # Chains of 16-bit operators round after each of them.
        expected = rms_norm(x.astype(np.float64), weight.astype(np.float64))
        check(run_with_threads(package, {"x": x}), expected, tolerance if name == "float32" else 3 * tolerance)


def test_softmax_and_swish(compiler):
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["swish"]),
        helper.make_node("Softmax", ["swish"], ["y"], axis=-1),
    ]
    package = compiler.package(model(nodes, {"x": ["a", "b", "c"]}, {"y": ["a", "b", "c"]}, {}))
    random = np.random.default_rng(0)
    for shape in ROWS:
        x = (8 * random.standard_normal(shape)).astype(np.float32)
        wide = x.astype(np.float64)
        check(run_with_threads(package, {"x": x}), softmax(wide / (1 + np.exp(-wide))) if x.size else wide, 1e-5)


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Exp", "Erf", "Softmax", "Relu"])
def test_unusual_numbers(compiler, op):
    """A vector computes infinities and NaN as a single element does."""
    package = compiler.package(model([helper.make_node(op, ["x"], ["y"])], {"x": ["rows", "n"]}, {"y": ["rows", "n"]}, {}))
    row = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 200.0, -200.0, 88.5, -88.5, 1e-30, -1e-30, 3.0], np.float32)
    for special in row:
        vector = np.full((1, 16), 0.5, np.float32)
        vector[0, 5] = special
        y = run_with_threads(package, {"x": vector})
        single = run_with_threads(package, {"x": vector[:, :6]})
        if op == "Softmax":
            assert np.isnan(y).all() == np.isnan(single).all() == bool(np.isnan(special) or special == np.inf)
            continue
        np.testing.assert_allclose(y[0, 5], single[0, 5], rtol=1e-6, atol=1e-37)

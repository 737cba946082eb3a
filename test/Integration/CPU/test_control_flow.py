# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""If, Loop and Scan against ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from moec.runtime import load

RANDOM = np.random.default_rng(12)


def parse(body, inputs, outputs, constants=""):
    text = f'<ir_version: 9, opset_import: ["" : 18]> agraph ({inputs}) => ({outputs}) {constants} {{ {body} }}'
    return onnx.parser.parse_model(text)


def real(*shape):
    return RANDOM.uniform(-2, 2, shape).astype(np.float32)


X = {"x": real(3, 4)}
YES, NO = {"c": np.array(True)}, {"c": np.array(False)}

# Name: inputs, outputs, nodes, and what to run it on.
MODELS = {
    "if_on_data": ("bool c, float[N, 4] x", "float[N, 4] y", """
        y = If (c) <then_branch = g () => (float[N, 4] a) { a = Exp (x) },
                    else_branch = h () => (float[N, 4] b) { t = Abs (x) b = Sqrt (t) }>""",
                   [X | YES, X | NO]),
    # The branches give an outer value, a constant and a part of a value.
    "if_of_plain_values": ("bool c, float[N, 4] x", "float[N, 4] y, float[2] z, float[N, 2] w", """
        y, z, w = If (c) <then_branch = g () => (float[N, 4] a, float[2] a2, float[N, 2] a3) {
                        a = Identity (x) a2 = Constant <value = float[2] {1., 2.}> ()
                        e = Constant <value = int64[1] {2}> () s = Constant <value = int64[1] {0}> ()
                        i = Constant <value = int64[1] {1}> () a3 = Slice (x, s, e, i) },
                    else_branch = h () => (float[N, 4] b, float[2] b2, float[N, 2] b3) {
                        b = Neg (x) b2 = Constant <value = float[2] {3., 4.}> ()
                        e = Constant <value = int64[1] {2}> () t = Constant <value = int64[1] {4}> ()
                        i = Constant <value = int64[1] {1}> () b3 = Slice (x, e, t, i) }>""",
                           [X | YES, X | NO]),
    "if_on_a_size": ("float[N, M] x", "float[K] y", """
        s = Shape <start = 0, end = 1> (x) one = Constant <value = int64[1] {1}> ()
        c = Equal (s, one) q = Squeeze (c)
        flat = Constant <value = int64[1] {-1}> ()
        y = If (q) <then_branch = g () => (float[A] a) { r = Reshape (x, flat) t = Tile (r, two) a = Neg (t) },
                    else_branch = h () => (float[B] b) { b = Reshape (x, flat) }>""",
                     [X, {"x": real(1, 5)}], "<int64[1] two = {2}>"),
    "if_in_if": ("bool c, bool d, float[N] x", "float[N] y", """
        y = If (c) <then_branch = g () => (float[N] a) {
                        a = If (d) <then_branch = g1 () => (float[N] a1) { a1 = Add (x, x) },
                                    else_branch = h1 () => (float[N] b1) { b1 = Neg (x) }> },
                    else_branch = h () => (float[N] b) { b = Exp (x) }>""",
                 [{"c": np.array(c), "d": np.array(d), "x": real(5)} for c in (True, False) for d in (True, False)]),
    "loop_counted": ("int64 n, float[N] x", "float[N] y, float[1] last", """
        y, all = Loop (n, , x) <body = g (int64 i, bool c, float[N] v) => (bool c1, float[N] v1, float row) {
            c1 = Identity (c) f = Cast <to = 1> (i) t = Add (v, f) v1 = Mul (t, x) row = ReduceMax <keepdims = 0> (v1) }>
        last = ReduceSum <keepdims = 1> (all)""",
                     [{"n": np.array(steps), "x": real(3)} for steps in (0, 1, 4)]),
    "loop_of_known_length": ("float[N, 2] x", "float[N, 2] y, float[5, N] all", """
        y, all = Loop (n, , x) <body = g (int64 i, bool c, float[N, 2] v) => (bool c1, float[N, 2] v1, float[N] row) {
            c1 = Identity (c) h = Constant <value = float {0.5}> () v1 = Mul (v, h)
            one = Constant <value = int64[1] {1}> () row = ReduceSum <keepdims = 0> (v1, one) }>""",
                             [{"x": real(3, 2)}, {"x": real(0, 2)}], "<int64 n = {5}>"),
    # Ends when the sum is large; the values trade places in each step.
    "loop_with_condition": ("float[N] x, float[N] z", "float[N] y, float[N] w, int64[1] count", """
        y, w, count = Loop (, yes, x, z, zero) <body = g (int64 i, bool c, float[N] v, float[N] u, int64[1] k) =>
                (bool c1, float[N] v1, float[N] u1, int64[1] k1) {
            u1 = Identity (v) t = Abs (u) v1 = Add (t, v) k1 = Add (k, one)
            total = ReduceSum <keepdims = 0> (v1) limit = Constant <value = float {100.}> () c1 = Less (total, limit) }>""",
                            [{"x": real(4), "z": real(4)}], "<bool yes = {1}, int64[1] zero = {0}, int64[1] one = {1}>"),
    "loop_that_may_not_start": ("bool c, float[N] x", "float[N] y", """
        y = Loop (n, c, x) <body = g (int64 i, bool k, float[N] v) => (bool k1, float[N] v1) {
            k1 = Identity (k) v1 = Exp (v) }>""",
                                [{"c": np.array(True), "x": real(4)}, {"c": np.array(False), "x": real(4)}], "<int64 n = {2}>"),
    "loop_in_loop": ("float[N] x", "float[N] y", """
        y = Loop (n, , x) <body = g (int64 i, bool c, float[N] v) => (bool c1, float[N] v1) {
            c1 = Identity (c)
            v1 = Loop (i, , v) <body = h (int64 j, bool d, float[N] u) => (bool d1, float[N] u1) {
                d1 = Identity (d) f = Cast <to = 1> (j) s = Sin (u) u1 = Add (s, f) }> }>""",
                     [{"x": real(4)}], "<int64 n = {4}>"),
    "if_in_loop": ("float[N] x", "float[N] y", """
        y = Loop (n, , x) <body = g (int64 i, bool c, float[N] v) => (bool c1, float[N] v1) {
            c1 = Identity (c) two = Constant <value = int64 {2}> () odd = Mod (i, two) q = Cast <to = 9> (odd)
            v1 = If (q) <then_branch = g1 () => (float[N] a) { a = Add (v, x) },
                         else_branch = h1 () => (float[N] b) { b = Mul (v, x) }> }>""",
                   [{"x": real(4)}], "<int64 n = {5}>"),
    "matmul_in_loop": ("float[4, 4] x, float[N, 4] v0", "float[N, 4] y", """
        y = Loop (n, , v0) <body = g (int64 i, bool c, float[N, 4] v) => (bool c1, float[N, 4] v1) {
            c1 = Identity (c) m = MatMul (v, x) v1 = Softmax <axis = -1> (m) }>""",
                       [{"x": real(4, 4), "v0": real(17, 4)}], "<int64 n = {3}>"),
    "scan_sum": ("float[B] s, float[N, B] x", "float[B] y, float[N, B] all", """
        y, all = Scan <num_scan_inputs = 1, body = g (float[B] a, float[B] row) => (float[B] a1, float[B] out) {
            a1 = Add (a, row) out = Identity (a1) }> (s, x)""",
                 [{"s": real(4), "x": real(6, 4)}]),
    "scan_axes_and_directions": ("float[B] s, float[B, N] x, float[N, B] w", "float[B] y, float[B, N] all, float[N, B] rest", """
        y, all, rest = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
                             scan_output_axes = [-1, 0], scan_output_directions = [0, 1],
                body = g (float[B] a, float[B] row, float[B] other) => (float[B] a1, float[B] out, float[B] more) {
            t = Mul (a, row) a1 = Add (t, other) out = Neg (a1) more = Exp (row) }> (s, x, w)""",
                                 [{"s": real(3), "x": real(3, 5), "w": real(5, 3)}]),
}


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("name", MODELS)
def test_control_flow(compiler, name, level):
    inputs, outputs, body, runs, *constants = MODELS[name]
    model = parse(body, inputs, outputs, *constants)
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with load(compiler.package(model, level).path) as opened:
        for feeds in runs:
            expected = reference.run(None, feeds)
            actual = opened.run(feeds)
            for one, array in zip(reference.get_outputs(), expected):
                assert actual[one.name].shape == array.shape
                np.testing.assert_allclose(actual[one.name], array, rtol=2e-5, atol=2e-6)


def test_scan_of_nothing(compiler):
    """ONNX Runtime refuses it."""
    inputs, outputs, body, _ = MODELS["scan_sum"]
    start = real(4)
    with load(compiler.package(parse(body, inputs, outputs), "-O0").path) as opened:
        result = opened.run({"s": start, "x": real(0, 4)})
        np.testing.assert_array_equal(result["y"], start)
        assert result["all"].shape == (0, 4)


def test_known_condition(compiler):
    """The branch that is not taken is wrong."""
    model = parse("""
        s = Shape <start = 0, end = 1> (x) one = Constant <value = int64[1] {1}> ()
        c = Equal (s, one) q = Squeeze (c) axes = Constant <value = int64[1] {0}> ()
        y = If (q) <then_branch = g () => (float[4] a) { a = Squeeze (x, axes) },
                    else_branch = h () => (float[3, 4] b) { b = Relu (x) }>""", "float[3, 4] x", "float[3, 4] y")
    x = real(3, 4)
    with load(compiler.package(model, "-O0").path) as opened:
        np.testing.assert_array_equal(opened.run({"x": x})["y"], np.maximum(x, 0))
    assert "If" not in compiler.run(compiler.save(model), "--compile-to", "normalize-onnx", "-o", "-").stdout


ERRORS = {
    "carried value 0 changes its size from step to step": ("float[2] x", "float[N] y", """
        y = Loop (n, , x) <body = g (int64 i, bool c, float[K] v) => (bool c1, float[M] v1) {
            c1 = Identity (c) v1 = Concat <axis = 0> (v, x) }>""", "<int64 n = {2}>"),
    "scan output 0 needs a trip count that bounds its size": ("float[2] x", "float[2] y, float[N, 2] all", """
        y, all = Loop (, yes, x) <body = g (int64 i, bool c, float[2] v) => (bool c1, float[2] v1, float[2] row) {
            v1 = Add (v, v) row = Identity (v) m = ReduceMax <keepdims = 0> (v1)
            l = Constant <value = float {9.}> () c1 = Less (m, l) }>""", "<bool yes = {1}>"),
    "the body has 3 inputs, expected 2": ("int64 n", "float y", """
        y = Loop (n, ) <body = g (int64 i, bool c, float v) => (bool c1, float v1) { c1 = Identity (c) v1 = Identity (v) }>"""),
    "dimension 0: output dimension depends on data": ("int64 n, float x", "float[N] y", """
        y = Loop (n, ) <body = g (int64 i, bool c) => (bool c1, float v) { c1 = Identity (c) v = Neg (x) }>"""),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(compiler, message):
    inputs, outputs, body, *constants = ERRORS[message]
    done = compiler.run(compiler.save(parse(body, inputs, outputs, *constants)), "-o", compiler.folder / "none.moec", check=False)
    assert done.returncode in (2, 3)
    assert message in done.stderr


def test_size_that_changes_at_run_time(compiler):
    """Two values that the model gives the same shape trade places: they must have it."""
    body = """
        y, z = Loop (n, , a, b) <body = g (int64 i, bool c, float[A] v, float[B] w) => (bool c1, float[B] w1, float[A] v1) {
            c1 = Identity (c) w1 = Identity (w) v1 = Identity (v) }>"""
    model = parse(body, "float[A] a, float[B] b", "float[C] y, float[D] z", "<int64 n = {3}>")
    a, b = real(3), real(3)
    with load(compiler.package(model, "-O0").path) as opened:
        outputs = opened.run({"a": a, "b": b})
        np.testing.assert_array_equal(outputs["y"], b)
        np.testing.assert_array_equal(outputs["z"], a)
        with pytest.raises(Exception, match="carried value 0 changes its size from step to step"):
            opened.run({"a": a, "b": real(5)})

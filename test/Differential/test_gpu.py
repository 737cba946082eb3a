# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The kernels for GPUs, on an emulated one, against references.ops in float64: layers that take
every way through the products, and points of the attribute space."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os

import ml_dtypes
import numpy as np
import pytest
from references import ops
from references.evaluate import relative_error

from check import check_module
from jit import ProcessApart
from space import EXPERT_DIMENSIONS, SPACE, Contradiction, draw_modules

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that the compiler has"
)

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
TOLERANCES = {"f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2}


class Layer:
    """moe.gating on logits, and moe.experts."""

    def __init__(self, dtype, glu="none", kind="silu", layout="out_in", bias=False, bits=0, block=0, sizes=(5, 2, 136, 72), **more):
        self.dtype, self.glu, self.kind, self.layout = dtype, glu, kind, layout
        self.bias, self.bits, self.block = bias, bits, block
        self.experts, self.k, self.hidden, self.inner = sizes
        self.scaled, self.masked = more.get("scaled", False), more.get("masked", False)

    def shapes(self):
        """Of the banks: (N, K)."""
        fused = self.glu in ("interleaved", "concat")
        banks = {"up": ((2 if fused else 1) * self.inner, self.hidden), "down": (self.hidden, self.inner)}
        if self.glu == "separate":
            banks["gate"] = (self.inner, self.hidden)
        return banks

    def arguments(self):
        """Types of the entry's arguments, and the lines that make banks of them."""
        types = {"x": f"?x{self.hidden}x{self.dtype}", "logits": f"?x{self.experts}xf32"}
        if self.masked:
            types["mask"] = "?xi1"
        lines = []
        for name, (n, k) in self.shapes().items():
            bank = f"{self.experts}x{n}x{k}" if self.layout == "out_in" else f"{self.experts}x{k}x{n}"
            if self.bits:
                blocks = f"x{k // self.block}" if self.block else ""
                codes = f"{self.experts}x{n}x{k * self.bits // 8}xui8"
                scales = f"{self.experts}x{n}{blocks}xf32"
                count = k // self.block if self.block else n
                zeros = f"{self.experts}{f'x{n}' if self.block else ''}x{-(-count * self.bits // 8)}xui8"
                types |= {f"{name}_codes": codes, f"{name}_scales": scales, f"{name}_zeros": zeros}
                lines.append(
                    f"  %{name} = moe.dequantize %{name}_codes scales(%{name}_scales) zero_points(%{name}_zeros)"
                    f" {{bits = {self.bits}, block = {self.block}}} :"
                    f" (tensor<{codes}>, tensor<{scales}>, tensor<{zeros}>) -> tensor<{bank}x{self.dtype}>"
                )
            else:
                types[name] = f"{bank}x{self.dtype}"
            if self.bias:
                types[f"{name}_bias"] = f"{self.experts}x{n}x{self.dtype}"
        return types, lines

    def text(self, name):
        types, lines = self.arguments()
        symbols = {"x": "tokens", "logits": "tokens", "mask": "tokens"}
        dims = lambda one, type: ", ".join([f'"{symbols.get(one, "")}"'] + ['""'] * (type.count("x") - 1))
        arguments = ", ".join(
            f'%{one}: tensor<{type}> {{onnx.name = "{one}", onnx.dims = [{dims(one, type)}]}}' for one, type in types.items()
        )
        routing = f"!moe.routing<experts = {self.experts}, k = {self.k}, weighted>"
        result = f"tensor<?x{self.hidden}x{self.dtype}>"
        bank = lambda one: next(line.rsplit("-> ", 1)[1] for line in lines if f"%{one} =" in line) if self.bits else f"tensor<{types[one]}>"  # fmt: skip
        words, operands = "%x, %r", [f"tensor<{types['x']}>", routing]
        for one in ("up", "gate", "down"):
            if one not in self.shapes():
                continue
            for operand in (one, f"{one}_bias") if self.bias else (one,):
                words += f" {operand}(%{operand})"
                operands.append(f"tensor<{types[operand]}>" if operand.endswith("_bias") else bank(one))
        mask = " token_mask(%mask)" if self.masked else ""
        gating = [f"tensor<{types['logits']}>"] + (["tensor<?xi1>"] if self.masked else [])
        attributes = f"layout = #moe.layout<{self.layout}>" + (", scale_input, weight = #moe.combine_weight<already_applied>" if self.scaled else "")
        glu = "" if self.glu == "none" else f", glu = {self.glu}"
        return "\n".join(
            [
                f'func.func @{name}({arguments}) -> ({result} {{onnx.name = "y"}}) {{',
                *lines,
                f"  %r = moe.gating %logits{mask} {{score = #moe.score_fn<softmax>, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, k = {self.k}}} : ({', '.join(gating)}) -> {routing}",
                f"  %y = moe.experts {words} <{self.kind}{glu}> {{{attributes}}} : ({', '.join(operands)}) -> {result}",
                f"  return %y : {result}",
                "}",
            ]
        )

    def draw(self, rng, tokens):
        """Arguments in their types, and the real weights in float64."""
        arrays, real = {}, {}
        arrays["x"] = rng.normal(size=(tokens, self.hidden)).astype(DTYPES[self.dtype])
        arrays["logits"] = rng.normal(size=(tokens, self.experts)).astype(np.float32)
        if self.masked:
            arrays["mask"] = rng.random(tokens) < 0.7
        for name, (n, k) in self.shapes().items():
            shape = (self.experts, n, k)
            if self.bits:
                real[name] = self.quantized(rng, name, shape, arrays)
            else:
                weight = (rng.normal(size=shape) / np.sqrt(k)).astype(DTYPES[self.dtype])
                arrays[name] = weight if self.layout == "out_in" else np.ascontiguousarray(weight.swapaxes(1, 2))
                real[name] = arrays[name].astype(np.float64)
            if self.bias:
                arrays[f"{name}_bias"] = rng.normal(size=shape[:2]).astype(DTYPES[self.dtype])
                real[f"{name}_bias"] = arrays[f"{name}_bias"].astype(np.float64)
        return arrays, real

    def quantized(self, rng, name, shape, arrays):
        experts, n, k = shape
        codes = rng.integers(2**self.bits, size=shape)
        axis, block = (1, k) if not self.block else (2, self.block)
        zeros = rng.integers(2**self.bits, size=(experts, n) if not self.block else (experts, n, k // block))
        scales = (rng.uniform(0.5, 1, zeros.shape) / 2**self.bits / np.sqrt(k)).astype(np.float32)
        arrays[f"{name}_codes"] = pack(codes, self.bits, 2)
        arrays[f"{name}_scales"], arrays[f"{name}_zeros"] = scales, pack(zeros, self.bits, axis)
        return (codes - np.repeat(zeros.reshape(experts, n, -1), block, 2)) * np.repeat(
            scales.astype(np.float64).reshape(experts, n, -1), block, 2
        )

    def evaluate(self, arrays, real):
        scores = ops.score("softmax", arrays["logits"].astype(np.float64))
        routing = ops.select(scores, mode="topk", k=self.k, token_mask=arrays.get("mask"))
        routing = ops.weigh(routing, scores)
        activation = ops.Activation(self.kind, self.glu)
        more = {"scale_input": True, "weight": "already_applied"} if self.scaled else {}
        return ops.experts(activation, arrays["x"].astype(np.float64), routing, layout=self.layout, **real, **more)


def pack(codes, bits, axis):
    """Low bits first along an axis."""
    per_byte = 8 // bits
    codes = np.moveaxis(codes, axis, -1)
    padding = -codes.shape[-1] % per_byte
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, padding)]).reshape(*codes.shape[:-1], -1, per_byte)
    return np.ascontiguousarray(np.moveaxis((codes << (bits * np.arange(per_byte))).sum(-1).astype(np.uint8), -1, axis))


LAYERS = {
    "f32": Layer("f32", bias=True, kind="gelu"),
    "f32_interleaved_in_out": Layer("f32", "interleaved", layout="in_out", bias=True),
    "f32_separate_odd": Layer("f32", "separate", bias=True, sizes=(3, 1, 37, 21)),
    "f32_int4": Layer("f32", "concat", bits=4, block=16, sizes=(3, 2, 64, 32)),
    "f32_many_experts": Layer("f32", sizes=(70, 4, 8, 8)),
    "f32_scaled_input": Layer("f32", "concat", scaled=True),
    "bf16": Layer("bf16", kind="relu"),
    "bf16_concat_bias": Layer("bf16", "concat", bias=True),
    "bf16_separate": Layer("bf16", "separate", masked=True),
    "bf16_in_out": Layer("bf16", "interleaved", layout="in_out"),
    "bf16_odd": Layer("bf16", "concat", sizes=(3, 2, 37, 21)),
    "bf16_int8": Layer("bf16", "interleaved", bits=8, sizes=(3, 2, 40, 24)),
    "bf16_int2": Layer("bf16", bits=2, block=16, sizes=(3, 2, 64, 48)),
    "bf16_scaled_input": Layer("bf16", scaled=True, bias=True),
    "bf16_wide": Layer("bf16", "concat", sizes=(2, 1, 264, 200)),
    "f16_int4": Layer("f16", "separate", bits=4, block=32, bias=True, sizes=(3, 2, 64, 96)),
    "f16_interleaved": Layer("f16", "interleaved", bias=True, kind="gelu_tanh"),
}


GPUS = {"any": "sm_80", "sm_90a": "sm_90a"}
# What is otherwise on sm_90a: rows and weights that are copied as they are.
WARPGROUPS = ["bf16", "bf16_concat_bias", "bf16_separate", "bf16_wide", "f16_interleaved"]


@pytest.fixture(scope="module")
def process():
    """This one has libmoec-c.so: see jit.py."""
    with ProcessApart() as process:
        yield process


@pytest.fixture(scope="module")
def programs(process, tmp_path_factory):
    """By GPU: a program of the layers."""
    made = {}
    for gpu, names in (("any", LAYERS), ("sm_90a", WARPGROUPS)):
        text = "\n".join(LAYERS[name].text(name) for name in names)
        made[gpu] = process.Program(text, {}, tmp_path_factory.mktemp("gpu"), level=3, gpu=GPUS[gpu])
    yield made
    for program in made.values():
        program.close()


def run(program, name, arrays):
    layer = LAYERS[name]
    return program.run(name, [arrays[one] for one in layer.arguments()[0]], [(DTYPES[layer.dtype], 2)])[0]


def check(program, name, arrays, real):
    expected = LAYERS[name].evaluate(arrays, real)
    assert relative_error(run(program, name, arrays), expected) < TOLERANCES[LAYERS[name].dtype]


@pytest.mark.parametrize("gpu, name", [("any", name) for name in LAYERS] + [("sm_90a", name) for name in WARPGROUPS])
def test_layer(programs, gpu, name):
    rng = np.random.default_rng(list(name.encode()))
    arrays, real = LAYERS[name].draw(rng, tokens=101)
    check(programs[gpu], name, arrays, real)


def test_tf32(process, tmp_path):
    """Operands have 11 bits: more than bf16, fewer than f32."""
    name = "f32_interleaved_in_out"
    program = process.Program(LAYERS[name].text(name), {}, tmp_path, level=3, gpu=GPUS["any"], tf32=True)
    arrays, real = LAYERS[name].draw(np.random.default_rng(4), tokens=101)
    error = relative_error(run(program, name, arrays), LAYERS[name].evaluate(arrays, real))
    program.close()
    assert TOLERANCES["f32"] < error < 1e-3


@pytest.mark.parametrize("tokens", [0, 1, 3, 8, 9, 16, 17])
@pytest.mark.parametrize(
    "gpu, name",
    [("any", "f32"), ("any", "bf16_int2"), ("any", "bf16_separate"), ("sm_90a", "bf16_separate"), ("sm_90a", "bf16_wide")],
)
def test_few_tokens(programs, gpu, name, tokens):
    arrays, real = LAYERS[name].draw(np.random.default_rng(tokens), tokens)
    if tokens == 0:
        assert run(programs[gpu], name, arrays).shape == arrays["x"].shape
    else:
        check(programs[gpu], name, arrays, real)


@pytest.mark.parametrize("gpu, name", [("any", "f32_many_experts"), ("any", "bf16_wide"), ("sm_90a", "bf16_wide")])
def test_all_to_one_expert(programs, gpu, name):
    layer = LAYERS[name]
    arrays, real = layer.draw(np.random.default_rng(1), tokens=150)
    arrays["logits"][:, : layer.k] += 20
    check(programs[gpu], name, arrays, real)


@pytest.mark.parametrize("gpu, name", [("any", "f32"), ("any", "bf16_concat_bias"), ("sm_90a", "bf16_concat_bias")])
def test_nan_stays_in_its_row(programs, gpu, name):
    arrays, real = LAYERS[name].draw(np.random.default_rng(2), tokens=40)
    expected = LAYERS[name].evaluate(arrays, real)
    arrays["x"][17, 3] = np.nan
    actual = run(programs[gpu], name, arrays)
    assert np.isnan(actual[17].astype(np.float32)).all()
    others = np.arange(40) != 17
    assert relative_error(actual[others], expected[others]) < TOLERANCES[LAYERS[name].dtype]


@pytest.mark.parametrize("tokens", [7, 77])
@pytest.mark.parametrize("gpu", GPUS)
def test_runs_repeat(programs, gpu, tokens):
    """The emulator runs threads in another order each time."""
    arrays, _ = LAYERS["bf16_wide"].draw(np.random.default_rng(3), tokens)
    first, second = (run(programs[gpu], "bf16_wide", arrays) for _ in range(2))
    np.testing.assert_array_equal(first.view(np.uint16), second.view(np.uint16))


@pytest.mark.parametrize("gpu", GPUS)
def test_product_without_routing(process, tmp_path, gpu):
    """Which kernel has something to do depends on the number of rows."""
    n, k = 200, 136
    text = f"""
func.func @product(%x: tensor<?x{k}xbf16> {{onnx.name = "x", onnx.dims = ["rows", ""]}}, %w: tensor<{n}x{k}xbf16> {{onnx.name = "w", onnx.dims = ["", ""]}}) -> (tensor<?x{n}xbf16> {{onnx.name = "y"}}) {{
  %y = moe.linear %x, %w : (tensor<?x{k}xbf16>, tensor<{n}x{k}xbf16>) -> tensor<?x{n}xbf16>
  return %y : tensor<?x{n}xbf16>
}}"""
    program = process.Program(text, {}, tmp_path, level=3, gpu=GPUS[gpu])
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(n, k)).astype(ml_dtypes.bfloat16)
    for rows in (0, 7, 16, 17, 140):
        x = rng.normal(size=(rows, k)).astype(ml_dtypes.bfloat16)
        actual = program.run("product", [x, weight], [(ml_dtypes.bfloat16, 2)])[0]
        assert actual.shape == (rows, n)
        if rows:
            expected = x.astype(np.float64) @ weight.astype(np.float64).T
            assert relative_error(actual, expected) < TOLERANCES["bf16"]
    program.close()


# --- routers -----------------------------------------------------------------------------


def router_text(experts, k):
    routing = f"!moe.routing<experts = {experts}, k = {k}, weighted>"
    return f"""
func.func @router{experts}(%logits: tensor<?x{experts}xf32> {{onnx.name = "logits", onnx.dims = ["tokens", ""]}}) -> (tensor<?x{k}xi32> {{onnx.name = "ids"}}, tensor<?x{k}xf32> {{onnx.name = "weights"}}) {{
  %zero = arith.constant 0 : index
  %tokens = tensor.dim %logits, %zero : tensor<?x{experts}xf32>
  %r = moe.gating %logits {{score = #moe.score_fn<softmax>, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, k = {k}, norm = #moe.weigh_norm<sum>}} : (tensor<?x{experts}xf32>) -> {routing}
  %ids, %weights = moe.entries %r tokens(%tokens) : ({routing}, index) -> (tensor<?x{k}xi32>, tensor<?x{k}xf32>)
  return %ids, %weights : tensor<?x{k}xi32>, tensor<?x{k}xf32>
}}"""


@pytest.mark.parametrize("experts", [40, 256, 512, 700])
def test_router_with_ties(process, tmp_path, experts):
    """Few different logits: equal ones are taken lower expert first."""
    k, tokens = 8, 33
    program = process.Program(router_text(experts, k), {}, tmp_path, level=3, gpu=GPUS["any"])
    logits = np.random.default_rng(experts).integers(-3, 3, (tokens, experts)).astype(np.float32)
    ids, weights = program.run(f"router{experts}", [logits], [(np.int32, 2), (np.float32, 2)])
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, expected)
    scores = np.exp(np.take_along_axis(logits.astype(np.float64), expected, 1))
    assert relative_error(weights, scores / scores.sum(1, keepdims=True)) < 1e-5
    program.close()


# --- the attribute space --------------------------------------------------------------------

POINTS, SEED = int(os.environ.get("MOEC_GPU_POINTS", 6)), 20260802


# Experts that cost little, and nothing between them and the router.
PLAIN = {
    "dtype": "f32", "experts": 20, "tokens": 12, "weights": "arguments", "form": "fused", "activation": "relu", "glu": "none",
    "layout": "out_in", "biases": "no", "kinds": "ffn", "shared": "no", "accum": "f32", "combine_weight": "output",
    "scale_input": "no", "router": "given", "axis": "experts", "k": 4, "capacity": "no", "after": "no", "filter": "no",
    "blend": "no", "aux": "no", "bias_update": "no", "renormalize": "no",
}  # fmt: skip


def fused_routers(rng):
    """One for each combination of docs/gating.md that is fused, with other attributes drawn. Sums of
    scores that may be negative have no order in which `topp` could take them."""
    for names in itertools.product(
        ("identity", "softmax", "sigmoid", "sqrtsoftplus", "logsigmoid"),
        ("all", "topk", "topp", "threshold"),
        ("none", "softmax", "sigmoid", "masked_softmax"),
    ):
        with contextlib.suppress(Contradiction):
            yield SPACE.draw(rng, {**PLAIN, **dict(zip(("score", "mode", "fn"), names))})


def activations(rng):
    """One for each function and gate, the types in turn, with alpha, limits, biases and layouts drawn."""
    pairs = itertools.product(SPACE.values["activation"], SPACE.values["glu"])
    for number, (function, glu) in enumerate(pairs):
        fixed = {"dtype": ("f32", "bf16", "f16")[number % 3], "score": "softmax", "mode": "topk", "fn": "none", "norm": "none"}
        free = ("layout", "biases", "form")
        plain = {name: value for name, value in PLAIN.items() if name not in free}
        yield SPACE.draw(rng, {**plain, **fixed, "activation": function, "glu": glu})


def check_modules(modules):
    # This process has libmoec-c.so: see jit.py.
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        checks = [
            pool.submit(check_module, points, (SEED, number), gpu=GPUS["any"]) for number, points in enumerate(modules)
        ]
        wrong = [text for check in checks for text in check.result()]
    assert not wrong, "\n".join(wrong)


def test_points():
    """Random points, as in test_differential.py; MOEC_GPU_POINTS takes more."""
    check_modules(draw_modules(SPACE, np.random.default_rng(SEED), POINTS, 0, 0, EXPERT_DIMENSIONS, 3)[0])


def test_fused_routers():
    points = list(fused_routers(np.random.default_rng(SEED)))
    assert len(points) == 72
    check_modules([points[begin : begin + 9] for begin in range(0, len(points), 9)])


def test_activations():
    points = list(activations(np.random.default_rng(SEED)))
    for name in ("alpha", "beta", "limit", "clamp", "layout", "biases"):
        assert {point[name] for point in points} == set(SPACE.values[name])
    check_modules([points[begin : begin + 6] for begin in range(0, len(points), 6)])

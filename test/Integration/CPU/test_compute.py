# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""--compute=bf16: products of experts whose operands are rounded to bfloat16. Compared with NumPy
rounding in the same places: bit for bit where all sums are exact, else within what float32 sums and
a rounding that goes the other way may change."""

import pathlib

import ml_dtypes
import numpy as np
import pytest
from harness import FIXTURES, run, tool
from moec.runtime import load
from onnx import TensorProto, helper, numpy_helper
from references import moe as definition
from references import splitmix
from references.evaluate import relative_error
from safetensors.numpy import save_file

TINYMOE = FIXTURES / "tinymoe"
CPU = "--cpu=znver4"
E, K, H, I = 6, 2, 45, 37
TOKENS = [1, 2, 3, 5, 7, 9, 11, 12, 40, 150]
USAGE = 1


def runs_here():
    return "avx512_bf16" in pathlib.Path("/proc/cpuinfo").read_text()


needs_bf16 = pytest.mark.skipif(not runs_here(), reason="unsupported: this CPU has no AVX512-BF16")


def rounded(values):
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def build(weights, activation, dtype=TensorProto.FLOAT):
    up, down = weights
    names = {"up": up, "down": down}
    graph = helper.make_graph(
        [
            helper.make_node(
                "MoE", ["x", "logits", "up", "", "down"], ["y"], domain="com.microsoft", k=K,
                activation_type=activation, normalize_routing_weights=1,
            )
        ],
        "g",
        [
            helper.make_tensor_value_info("x", dtype, ["tokens", up.shape[2]]),
            helper.make_tensor_value_info("logits", dtype, ["tokens", len(up)]),
        ],
        [helper.make_tensor_value_info("y", dtype, ["tokens", down.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in names.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def evaluate(x, ids, weights, up, down, activation):
    """Rows, weights and the rows between the products rounded to bfloat16; all else float64."""
    y = np.zeros((len(x), down.shape[1]))
    for token, (experts, factors) in enumerate(zip(ids, weights)):
        for expert, factor in zip(experts, factors):
            hidden = activation(rounded(up[expert]) @ rounded(x[token]))
            y[token] += factor * (rounded(down[expert]) @ rounded(hidden))
    return y


def draw_logits(random, tokens):
    """Two experts for each token, with weights of exactly one half each."""
    logits = np.full((tokens, E), -100, np.float32)
    for row in logits:
        row[random.choice(E, K, replace=False)] = 0
    return logits


def check_bits(model, random, tokens, up, down):
    """A run on small integers, whose sums are exact; returns them."""
    logits = draw_logits(random, tokens)
    x = random.integers(-5, 6, (tokens, up.shape[2])).astype(np.float32)
    x[:, :1] = 257
    routes = definition.route_moe(logits.astype(np.float64), K, True)
    expected = evaluate(x, *routes, up, down, lambda h: np.maximum(h, 0))
    assert abs(expected).max() < 1 << 23
    np.testing.assert_array_equal(model.run({"x": x, "logits": logits})["y"], expected)
    return x


@needs_bf16
@pytest.mark.parametrize("hidden, inner", [(H, I), (64, 96), (300, 40), (48, 600)])
def test_exact_sums(compiler, hidden, inner):
    """Small integers, of which some need rounding: bits, with ties to even, for odd sizes and blocks of
    every number of rows."""
    random = np.random.default_rng(hidden)
    up = random.integers(-9, 10, (E, inner, hidden)).astype(np.float32)
    down = random.integers(-3, 4, (E, hidden, inner)).astype(np.float32)
    # 257, 259 and 261 lie in the middle between two numbers of bfloat16.
    up[:, :, 0] = random.integers(-1, 2, (E, inner))
    up[0, 0, 1:4] = [257, 259, 261]
    down[:, 1, 0] = [259, 261, 263, 265, 267, 269]
    package = compiler.package(build((up, down), "relu"), CPU, "--compute=bf16")
    assert package.info["target"]["compute"] == package.report["target"]["compute"] == "bf16"
    with load(package.path) as model:
        for tokens in TOKENS:
            x = check_bits(model, random, tokens, up, down)
            assert (rounded(x) != x).any() and (rounded(down) != down).any()


def package_of_tiles(compiler, folder, model, *flags):
    """A package whose products go by tiles as AMX's do, with AVX512-BF16 in place of its instructions:
    that pass is run with its option, the others by moec."""
    before, after = folder / "before.mlir", folder / "after.mlir"
    last = "convert-weights" if flags else "fuse-moe"
    compiler.run(compiler.save(model), CPU, *flags, f"--compile-to={last}", "-o", before)
    options = "vector-bits=512 operands=bf16 tiles=vectors"
    run(tool("moe-opt"), before, f"--moe-to-cpu={options}", "--mlir-print-debuginfo", "-o", after)
    text = after.read_text()
    assert f'moe.phase = "{last}"' in text
    after.write_text(text.replace(f'moe.phase = "{last}"', 'moe.phase = "moe-to-cpu"'))
    compiler.run(after, CPU, "--compute=bf16", "--model-dir", compiler.folder, "-o", folder / "tiles.moec")
    return folder / "tiles.moec"


@needs_bf16
@pytest.mark.parametrize("hidden, inner", [(H, I), (64, 96), (300, 40)])
@pytest.mark.parametrize("weight", ["f32", "bf16"])
def test_tiles(compiler, tmp_path, hidden, inner, weight):
    """The loops over AMX's tiles, one and two tiles of rows, with a rest of K and without; panels as they
    are in the file, and panels that are made bfloat16 before."""
    random = np.random.default_rng(hidden)
    up = random.integers(-9, 10, (E, inner, hidden)).astype(np.float32)
    down = random.integers(-3, 4, (E, hidden, inner)).astype(np.float32)
    flags = ["--weight-type=bf16"] if weight == "bf16" else []
    with load(package_of_tiles(compiler, tmp_path, build((up, down), "relu"), *flags)) as model:
        for tokens in (3, 30, 150):
            check_bits(model, random, tokens, up, down)


TYPES = {
    "f32": [],
    "f16": ["--weight-type=f16"],
    "bf16": ["--weight-type=bf16"],
    "int8": ["--weight-type=int8", "--weight-zero-points"],
    "int8_rows": ["--weight-type=int8", "--weight-block=0"],
    "int4": ["--weight-type=int4"],
    "int4_zero_points": ["--weight-type=int4", "--weight-block=128", "--weight-zero-points"],
}


@needs_bf16
@pytest.mark.parametrize("name", TYPES)
def test_weight_types(compiler, name):
    """Beside the same weights in float32: closer than bfloat16 allows, and not the same."""
    random = np.random.default_rng(1)
    up = random.normal(size=(E, 128, 256)).astype(np.float32) / 16
    down = random.normal(size=(E, 256, 128)).astype(np.float32) / 16
    model = build((up, down), "silu")
    packages = [compiler.package(model, CPU, *TYPES[name], *extra) for extra in ([], ["--compute=bf16"])]
    assert packages[0].weights.read_bytes() == packages[1].weights.read_bytes()
    x = random.normal(size=(70, 256)).astype(np.float32)
    logits = random.normal(size=(70, E)).astype(np.float32)
    results = []
    for package in packages:
        with load(package.path) as opened:
            results.append(opened.run({"x": x, "logits": logits})["y"])
    assert 1e-5 < relative_error(results[1], results[0]) < 1.6e-2
    if name in ("f32", "bf16"):
        weights = [rounded(value) if name == "bf16" else value for value in (up, down)]
        routes = definition.route_moe(logits.astype(np.float64), K, True)
        expected = evaluate(x, *routes, *weights, lambda h: h / (1 + np.exp(-h)))
        assert relative_error(results[1], expected) < 1e-3


class Gated:
    """Forms of a gated network, whose gate rows are every other one, or an operand of their own."""

    interleaved = {"activation_type": "swiglu", "swiglu_fusion": 1}, ["x", "logits", "up", "bias", "down"]
    separate = {"activation_type": "silu"}, ["x", "logits", "gate", "", "down", "", "linear"]


@pytest.mark.parametrize("form", ["interleaved", "separate"])
def test_report(compiler, form):
    """The error of the first expert on rows of the documented generator."""
    random = np.random.default_rng(3)
    up, down, bias = (random.normal(size=size).astype(np.float32) / 8 for size in ((E, 192, 64), (E, 64, 96), (E, 192)))
    model = build((up, down), "silu")
    attributes, inputs = getattr(Gated, form)
    tensors = {"up": up, "gate": up[:, ::2], "linear": up[:, 1::2], "down": down, "bias": bias}
    node = helper.make_node("MoE", inputs, ["y"], domain="com.microsoft", k=K, normalize_routing_weights=1, **attributes)
    model.graph.node[0].CopyFrom(node)
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(tensors[name]), name) for name in inputs if name in tensors
    )
    (entry,) = compiler.package(model, CPU, "--compute=bf16").report["rounding"]
    assert (entry["op"], entry["compute"]) == ("moe.experts", "bf16")

    def evaluate_first(rounding):
        results = []
        for x in splitmix.normal(4, 64):
            first = rounding(up[0]) @ rounding(x) + (bias[0].astype(np.float64) if form == "interleaved" else 0)
            gate, linear = first[::2], first[1::2]
            results.append(rounding(down[0]) @ rounding(gate / (1 + np.exp(-gate)) * linear))
        return np.array(results)

    error = splitmix.relative_rms(evaluate_first(rounded), evaluate_first(lambda a: a.astype(np.float64)))
    assert 1e-4 < error < 2e-2
    assert entry["relative_rms_error"] == pytest.approx(error, rel=1e-3)


@needs_bf16
def test_threads(compiler, tinymoe):
    """The same bits for any number of threads, and the routing of float32."""
    inputs, expected = tinymoe.recorded("layer0_moe")
    package = compiler.package(tinymoe.model("layer0_moe"), CPU, "--compute=bf16")
    with load(package.path) as model:
        outputs = []
        for threads in (1, 2, 5):
            with model.context(threads=threads) as context:
                outputs.append(context.run(inputs)["output"])
    assert outputs[0].tobytes() == outputs[1].tobytes() == outputs[2].tobytes()
    assert relative_error(outputs[0], expected["output"]) < 1.6e-2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cpu=x86-64-v4"], "--compute=bf16 needs AVX512-BF16, which 'x86-64-v4' lacks"),
        (["--cpu=multi"], "--compute=bf16 needs AVX512-BF16, which 'x86-64-v3' lacks"),
        ([CPU, "-O0"], "--compute=bf16 is about CPU kernels, which -O0 does not make"),
        ([CPU, "--emit=onnx"], "--compute=bf16 is about CPU kernels, which --emit=onnx does not make"),
    ],
)
def test_contradictions(compiler, tmp_path, arguments, message):
    done = compiler.run(TINYMOE / "layer0_moe.onnx", "--compute=bf16", *arguments, check=False, cwd=tmp_path)
    assert done.returncode == USAGE and message in done.stderr
    assert not list(tmp_path.iterdir())


PRODUCT = """
!x = tensor<?x45xf32>
!y = tensor<?x37xf32>
!logits = tensor<?x6xf32>
!chosen = !moe.routing<experts = 6, k = 2>
!routing = !moe.routing<experts = 6, k = 2, weighted>
moe.weight @bank from [#moe.tensor<"bank">] : tensor<6x37x45xf32>
moe.weight @bias from [#moe.tensor<"bias">] : tensor<6x37xf32>
func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]},
    %logits: !logits {onnx.name = "logits", onnx.dims = ["tokens", "experts"]}) -> (!y {onnx.name = "y"}) {
  %bank = moe.load_weight @bank : tensor<6x37x45xf32>
  %bias = moe.load_weight @bias : tensor<6x37xf32>
  %chosen = moe.select %logits {k = 2} : (!logits) -> !chosen
  %routing = moe.weigh %chosen, %logits : (!chosen, !logits) -> !routing
  %c0 = arith.constant 0 : index
  %tokens = tensor.dim %x, %c0 : !x
  %rows = moe.dispatch %x, %routing : (!x, !routing) -> !x
  %results = moe.grouped_matmul %rows, %routing, %bank bias(%bias)
      : (!x, !routing, tensor<6x37x45xf32>, tensor<6x37xf32>) -> !y
  %y = moe.combine %results, %routing tokens(%tokens) : (!y, !routing, index) -> !y
  return %y : !y
}
"""


def test_report_of_product(compiler, tmp_path):
    """A product of experts that is in no network."""
    random = np.random.default_rng(5)
    bank, bias = (random.normal(size=shape).astype(np.float32) for shape in [(E, I, H), (E, I)])
    weights, model = tmp_path / "weights.safetensors", tmp_path / "product.mlir"
    save_file({"bank": bank, "bias": bias}, weights)
    model.write_text(PRODUCT)
    package = compiler.package(model, f"--weights={weights.name}", CPU, "--compute=bf16")
    (entry,) = package.report["rounding"]
    assert (entry["op"], entry["compute"]) == ("moe.grouped_matmul", "bf16")
    x = splitmix.normal(4, H)
    exact = x.astype(np.float64) @ bank[0].T.astype(np.float64) + bias[0]
    error = splitmix.relative_rms(rounded(x) @ rounded(bank[0]).T + bias[0], exact)
    assert error > 1e-4
    assert entry["relative_rms_error"] == pytest.approx(error, rel=1e-6)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""--activation-type=int8: products of experts round their rows to 8-bit integers. Compared with NumPy
rounding in the same places and with float64 for everything else, and with products that do not round."""

import pathlib

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
USAGE, UNSUPPORTED = 1, 3
INT8 = "--activation-type=int8"
E, K = 5, 2
TOKENS = [1, 2, 3, 5, 7, 9, 11, 12, 40, 150]
# Machines with the instruction for 512 and 256 bits, and without.
CPUS = {"znver4": "avx512_vnni", "alderlake": "avx_vnni", "x86-64-v4": "avx512bw", "x86-64-v3": "avx2"}


def skip_unless_runs(cpu):
    if CPUS[cpu] not in pathlib.Path("/proc/cpuinfo").read_text():
        pytest.skip(f"unsupported: this CPU has no {CPUS[cpu]}")


class Bank:
    """Random codes [E, N, K] of a quantized weight; block 0 is the whole row."""

    def __init__(self, random, rows, columns, bits, block, has_zero_points):
        self.bits, self.block = bits, block or columns
        shape = (E, rows, columns // self.block)
        self.codes = random.integers(0, 1 << bits, (E, rows, columns), np.uint8)
        # So that the values are of the size of 1 / sqrt(K).
        self.scales = (random.random(shape, np.float32) + 1) / np.float32((1 << bits) * columns**0.5)
        self.zero_points = random.integers(0, 1 << bits, shape, np.uint8) if has_zero_points else None
        self.rows_have_one_scale = not block

    def pack(self, codes):
        """`codes` of less than 8 bits side by side along the last axis, low bits first."""
        per_byte = 8 // self.bits
        whole = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % per_byte)])
        parts = whole.reshape(*codes.shape[:-1], -1, per_byte) << (self.bits * np.arange(per_byte, dtype=np.uint8))
        return np.bitwise_or.reduce(parts.astype(np.uint8), axis=-1)

    def inputs(self, name):
        """Inputs of QMoE by name."""
        scales = self.scales[..., 0] if self.rows_have_one_scale else self.scales
        tensors = {name: self.pack(self.codes), name + "_scales": scales}
        if self.zero_points is not None:
            zero_points = self.zero_points[..., 0] if self.rows_have_one_scale else self.zero_points
            tensors[name + "_zero_points"] = self.pack(zero_points)
        return tensors

    def values(self, expert):
        zero_points = 1 << (self.bits - 1) if self.zero_points is None else self.zero_points[expert][..., None].astype(int)
        blocks = self.codes[expert].reshape(*self.scales.shape[1:], -1).astype(int) - zero_points
        return (blocks * self.scales[expert][..., None].astype(np.float64)).reshape(self.codes.shape[1:])

    def round(self, row):
        """What a row counts as, in float64: 8-bit integers times a scale of each block, computed in
        float32."""
        blocks = np.asarray(row, np.float32).reshape(-1, self.block)
        largest = abs(blocks).max(axis=1, keepdims=True)
        inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
        integers = np.rint(blocks * inverse)
        assert integers.dtype == np.float32 and abs(integers).max() <= 127
        return (integers.astype(np.float64) * (largest / np.float32(127))).reshape(-1)


def build(banks, activation, dtype=TensorProto.FLOAT):
    up, down = banks
    tensors = {**up.inputs("up"), **down.inputs("down")}
    name = lambda text: text if text in tensors else ""  # noqa: E731
    inputs = ["x", "logits", "up", "up_scales", "", "down", "down_scales", "", "", "", "",
              name("up_zero_points"), name("down_zero_points")]
    while not inputs[-1]:
        inputs.pop()
    block = {} if up.rows_have_one_scale else {"block_size": up.block}
    node = helper.make_node(
        "QMoE", inputs, ["y"], domain="com.microsoft", k=K, activation_type=activation, normalize_routing_weights=1,
        expert_weight_bits=up.bits, **block,
    )
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", dtype, ["tokens", up.codes.shape[2]]),
         helper.make_tensor_value_info("logits", dtype, ["tokens", E])],
        [helper.make_tensor_value_info("y", dtype, ["tokens", down.codes.shape[1]])],
        [numpy_helper.from_array(value, key) for key, value in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def evaluate(x, logits, banks, activation, rounds=True):
    """Float64, but for rows that are rounded before each product."""
    up, down = banks
    matrices = [(up.values(expert), down.values(expert)) for expert in range(E)]
    y = np.zeros((len(x), down.codes.shape[1]))
    for token, (experts, factors) in enumerate(zip(*definition.route_qmoe(logits.astype(np.float64), K, True))):
        for expert, factor in zip(experts, factors):
            first, second = matrices[expert]
            hidden = activation(first @ (up.round(x[token]) if rounds else x[token].astype(np.float64)))
            y[token] += factor * (second @ (down.round(hidden) if rounds else hidden))
    return y


# Bits, block, zero points, hidden and inner size. Rows of one scale have rests of a dot product, and
# of a range of 256 columns; blocks are smaller and larger than a range.
FORMS = {
    "int8": (8, 32, False, 64, 96),
    "int8_rows": (8, 0, False, 45, 37),
    "int8_rows_zero_points": (8, 0, True, 303, 270),
    "int8_blocks_zero_points": (8, 16, True, 64, 48),
    "int4": (4, 32, False, 64, 96),
    "int4_large_blocks": (4, 512, True, 512, 512),
    "int4_rows": (4, 0, False, 46, 38),
    "int4_rows_zero_points": (4, 0, True, 302, 270),
    "int2_rows": (2, 0, False, 72, 40),
    "int2_zero_points": (2, 32, True, 64, 96),
}


def relu(h):
    return np.maximum(h, 0)


def draw(form):
    bits, block, zero_points, hidden, inner = FORMS[form]
    random = np.random.default_rng(list(form.encode()))
    sizes = (bits, block, zero_points)
    return random, (Bank(random, inner, hidden, *sizes), Bank(random, hidden, inner, *sizes))


def cases(others):
    """All forms on one machine, some on the others."""
    return [(cpu, form) for cpu in CPUS for form in (FORMS if cpu == "znver4" else others)]


@pytest.mark.parametrize("cpu, form", cases(["int8_rows_zero_points", "int8_blocks_zero_points", "int4", "int2_rows"]))
def test_rounding(compiler, cpu, form):
    """Every number of rows that a block may have."""
    skip_unless_runs(cpu)
    random, banks = draw(form)
    package = compiler.package(build(banks, "relu"), f"--cpu={cpu}", INT8)
    assert package.info["target"]["compute"] == package.report["target"]["compute"] == "int8"
    with load(package.path) as model:
        for tokens in TOKENS:
            x = random.normal(size=(tokens, banks[0].codes.shape[2])).astype(np.float32)
            x[0] = 0
            logits = random.normal(size=(tokens, E)).astype(np.float32)
            actual = model.run({"x": x, "logits": logits})["y"]
            # An intermediate row that differs by float32's rounding may round to another integer.
            assert relative_error(actual, evaluate(x, logits, banks, relu)) < 2e-3
            exact = evaluate(x, logits, banks, relu, rounds=False)
            assert relative_error(actual, exact) < 3e-2


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("form", ["int8_rows_zero_points", "int4_large_blocks", "int2_zero_points"])
def test_exact_rows(compiler, cpu, form):
    """Where the intermediate rows have no rounding error, nothing is left but that of a few sums in
    float32."""
    skip_unless_runs(cpu)
    random, banks = draw(form)
    up = banks[0]
    # Powers of two as scales, of the rows too: sums are exact.
    up.scales[:] = np.float32(2) ** random.integers(-9, -7, up.scales.shape)
    with load(compiler.package(build(banks, "relu"), f"--cpu={cpu}", INT8).path) as model:
        x = random.integers(-127, 128, (40, up.codes.shape[2])).astype(np.float32)
        x.reshape(40, -1, up.block)[..., 0] = 127
        logits = random.normal(size=(40, E)).astype(np.float32)
        actual = model.run({"x": x, "logits": logits})["y"]
        assert relative_error(actual, evaluate(x, logits, banks, relu)) < 1e-6


@pytest.mark.parametrize("form", ["int8_rows_zero_points", "int4", "int4_rows_zero_points", "int2_zero_points"])
def test_report(compiler, form):
    """The error of the first expert on rows of the documented generator."""
    _, (up, down) = draw(form)
    package = compiler.package(build((up, down), "relu"), "--cpu=x86-64-v3", INT8)
    (entry,) = package.report["rounding"]
    assert (entry["op"], entry["compute"]) == ("moe.experts", "int8")
    results = [], []
    for x in splitmix.normal(4, up.codes.shape[2]):
        results[0].append(down.values(0) @ relu(up.values(0) @ x.astype(np.float64)))
        results[1].append(down.values(0) @ down.round(relu(up.values(0) @ up.round(x))))
    error = splitmix.relative_rms(np.array(results[1]), np.array(results[0]))
    assert 1e-3 < error < 3e-2
    assert entry["relative_rms_error"] == pytest.approx(error, rel=1e-3)
    assert compiler.package(build((up, down), "relu"), "--cpu=x86-64-v3").report["rounding"] == []


PRODUCT = """
!x = tensor<?x64xf32>
!y = tensor<?x24xf32>
!bank = tensor<5x24x64xf32>
!logits = tensor<?x5xf32>
!chosen = !moe.routing<experts = 5, k = 2>
!routing = !moe.routing<experts = 5, k = 2, weighted>
moe.weight @codes from [#moe.tensor<"codes">] : tensor<5x24x64xui8>
moe.weight @scales from [#moe.tensor<"scales">] : tensor<5x24x4xf32>
func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]},
    %logits: !logits {onnx.name = "logits", onnx.dims = ["tokens", "experts"]}) -> (!y {onnx.name = "y"}) {
  %codes = moe.load_weight @codes : tensor<5x24x64xui8>
  %scales = moe.load_weight @scales : tensor<5x24x4xf32>
  %bank = moe.dequantize %codes scales(%scales) {bits = 8 : i64, block = 16 : i64}
      : (tensor<5x24x64xui8>, tensor<5x24x4xf32>) -> !bank
  %chosen = moe.select %logits {k = 2} : (!logits) -> !chosen
  %routing = moe.weigh %chosen, %logits : (!chosen, !logits) -> !routing
  %c0 = arith.constant 0 : index
  %tokens = tensor.dim %x, %c0 : !x
  %rows = moe.dispatch %x, %routing : (!x, !routing) -> !x
  %results = moe.grouped_matmul %rows, %routing, %bank : (!x, !routing, !bank) -> !y
  %y = moe.combine %results, %routing tokens(%tokens) : (!y, !routing, index) -> !y
  return %y : !y
}
"""


def test_report_of_product(compiler, tmp_path):
    """A product of experts that is in no network."""
    random = np.random.default_rng(6)
    bank = Bank(random, 24, 64, 8, 16, False)
    weights, model = tmp_path / "weights.safetensors", tmp_path / "product.mlir"
    save_file({"codes": bank.codes.astype(np.uint8), "scales": bank.scales.astype(np.float32)}, weights)
    model.write_text(PRODUCT)
    package = compiler.package(model, f"--weights={weights.name}", "--cpu=x86-64-v3", INT8)
    (entry,) = package.report["rounding"]
    assert (entry["op"], entry["compute"]) == ("moe.grouped_matmul", "int8")
    rows = splitmix.normal(4, 64)
    exact = np.array([bank.values(0) @ x.astype(np.float64) for x in rows])
    error = splitmix.relative_rms(np.array([bank.values(0) @ bank.round(x) for x in rows]), exact)
    assert 1e-3 < error < 3e-2
    assert entry["relative_rms_error"] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("form", ["int8", "int8_rows_zero_points", "int4_large_blocks", "int2_zero_points"])
def test_tiles(compiler, tmp_path, form):
    """The loops over AMX's tiles, one and two tiles of rows, with vectors in place of its instructions:
    the bits of the products without tiles. That pass is run with its option, the others by moec."""
    skip_unless_runs("znver4")
    random, banks = draw(form)
    model, cpu = build(banks, "relu"), "--cpu=znver4"
    before, after, tiles = (tmp_path / name for name in ("before.mlir", "after.mlir", "tiles.moec"))
    compiler.run(compiler.save(model), cpu, "--compile-to=fuse-moe", "-o", before)
    options = "vector-bits=512 operands=int8 vnni=true tiles=vectors"
    run(tool("moe-opt"), before, f"--moe-to-cpu={options}", "--mlir-print-debuginfo", "-o", after)
    text = after.read_text()
    assert 'moe.phase = "fuse-moe"' in text
    after.write_text(text.replace('moe.phase = "fuse-moe"', 'moe.phase = "moe-to-cpu"'))
    compiler.run(after, cpu, INT8, "--model-dir", compiler.folder, "-o", tiles)
    with load(tiles) as tiled, load(compiler.package(model, cpu, INT8).path) as plain:
        for tokens in (3, 30, 150):
            inputs = {
                "x": random.normal(size=(tokens, banks[0].codes.shape[2])).astype(np.float32),
                "logits": random.normal(size=(tokens, E)).astype(np.float32),
            }
            np.testing.assert_array_equal(tiled.run(inputs)["y"], plain.run(inputs)["y"])


@pytest.mark.parametrize("cpu", ["znver4", "x86-64-v3"])
def test_special_values(compiler, cpu):
    """A NaN or an infinity among a block makes the token's result NaN and no other's; tiny numbers
    count as zero or as something near."""
    skip_unless_runs(cpu)
    random, banks = draw("int8")
    with load(compiler.package(build(banks, "relu"), f"--cpu={cpu}", INT8).path) as model:
        x = random.normal(size=(9, 64)).astype(np.float32)
        logits = random.normal(size=(9, E)).astype(np.float32)
        plain = model.run({"x": x, "logits": logits})["y"]
        x[2, 5], x[4, 40], x[6] = np.nan, np.inf, np.float32(1e-40)
        actual = model.run({"x": x, "logits": logits})["y"]
        others = [0, 1, 3, 5, 7, 8]
        np.testing.assert_array_equal(actual[others], plain[others])
        assert np.isnan(actual[2]).any() and np.isnan(actual[4]).any()
        assert np.isfinite(actual[6]).all() and abs(actual[6]).max() < 1e-30


@pytest.mark.parametrize("cpu", ["znver4", "x86-64-v3"])
def test_threads(compiler, tinymoe, cpu):
    """The same bits for any number of threads, near what was recorded with exact products; and the
    same weights file."""
    skip_unless_runs(cpu)
    inputs, expected = tinymoe.recorded("layer1_qmoe_int4")
    model = tinymoe.model("layer1_qmoe_int4")
    package = compiler.package(model, f"--cpu={cpu}", INT8)
    assert package.weights.read_bytes() == compiler.package(model, f"--cpu={cpu}").weights.read_bytes()
    with load(package.path) as model:
        outputs = []
        for threads in (1, 2, 5):
            with model.context(threads=threads) as context:
                outputs.append(context.run(inputs)["output"])
    assert outputs[0].tobytes() == outputs[1].tobytes() == outputs[2].tobytes()
    assert 1e-5 < relative_error(outputs[0], expected["output"]) < 3e-2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-O0"], "--activation-type is about CPU kernels, which -O0 does not make"),
        (["--emit=onnx"], "--activation-type is about CPU kernels, which --emit=onnx does not make"),
        (["--target=cuda"], "--activation-type is about CPU kernels, which --target=cuda does not make"),
        (["--compute=bf16", "--cpu=znver4"], "--compute=bf16 and --activation-type exclude each other"),
    ],
)
def test_contradictions(compiler, tmp_path, arguments, message):
    done = compiler.run(TINYMOE / "layer0_moe.onnx", INT8, *arguments, check=False, cwd=tmp_path)
    assert done.returncode == USAGE and message in done.stderr
    assert not list(tmp_path.iterdir())


def test_other_weights(compiler, tmp_path):
    """Weights that are not codes have no integers to multiply with, until they are converted."""
    done = compiler.run(TINYMOE / "layer0_moe.onnx", INT8, check=False, cwd=tmp_path)
    assert done.returncode == UNSUPPORTED and "convert them with --weight-type=int8 or int4" in done.stderr
    compiler.run(TINYMOE / "layer0_moe.onnx", INT8, "--weight-type=int8", cwd=tmp_path)

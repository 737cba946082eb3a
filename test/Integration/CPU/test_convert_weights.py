# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Expert weights that are converted while compiling (--weight-type): results against float64
on weights that NumPy converts as documented, and the errors that the report gives."""

import ml_dtypes
import numpy as np
import pytest
from harness import TOLERANCES
from moec.runtime import load
from onnx import TensorProto, helper, numpy_helper
from references.evaluate import relative_error
from references.moe import route_moe, run_experts, softmax
from safetensors.numpy import save_file

E, K, H, I, T = 4, 2, 128, 256, 9

# The flags, and what they mean: a type, or bits, block and zero points.
TYPES = {
    "bf16": (["--weight-type=bf16"], ml_dtypes.bfloat16),
    "f16": (["--weight-type=f16"], np.float16),
    "int8": (["--weight-type=int8"], (8, 32, False)),
    "int8_rows": (["--weight-type=int8", "--weight-block=0"], (8, 0, False)),
    "int8_zero_points": (["--weight-type=int8", "--weight-block=128", "--weight-zero-points"], (8, 128, True)),
    "int4": (["--weight-type=int4"], (4, 32, False)),
    "int4_zero_points": (["--weight-type=int4", "--weight-zero-points"], (4, 32, True)),
    "int4_rows_zero_points": (
        ["--weight-type=int4", "--weight-block=0", "--weight-zero-points"],
        (4, 0, True),
    ),
}


def quantize(weights, bits, block, zero_points):
    """The values in float64 of float32 weights [E, N, K] after quantizing."""
    blocks = weights.reshape(*weights.shape[:2], -1, block or weights.shape[2])
    most = (1 << bits) - 1
    if zero_points:
        low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
        scales = (high - low) / np.float32(most)
        zeros = np.rint(-low / scales)[..., None]
    else:
        extremes = np.take_along_axis(blocks, abs(blocks).argmax(-1)[..., None], -1)[..., 0]
        scales = extremes / np.float32(-(1 << (bits - 1)))
        zeros = 1 << (bits - 1)
    codes = np.clip(np.rint(blocks / scales[..., None]) + zeros, 0, most)
    assert scales.dtype == np.float32
    return ((codes - zeros).astype(np.float64) * scales[..., None]).reshape(weights.shape)


def convert(weights, to):
    if isinstance(to, tuple):
        return quantize(weights, *to)
    return weights.astype(to).astype(np.float64)


def draw(*shape):
    return np.random.default_rng(shape).normal(size=shape, scale=0.1).astype(np.float32)


def network(x, ids, weights, up, down, gate=None, up_bias=None, **activation):
    """References for weights [E, N, K]; the gate is fc1 there, and `up` fc3."""
    form = {"kind": "silu", "fusion": 0, "alpha": 1.0, "beta": 0.0, "limit": None, **activation}
    first, third = (up, None) if gate is None else (gate, up)
    return run_experts(x, ids, weights, first, down, third, up_bias, None, None, form)


class Interleaved:
    """com.microsoft.MoE with gate and linear rows in one tensor, and a bias."""

    banks = {"up": draw(E, 2 * I, H), "down": draw(E, H, I)}
    others = {"router": draw(H, E), "up_bias": draw(E, 2 * I)}
    stacked = [["up"], ["down"]]
    attributes = {"k": K, "normalize_routing_weights": 1, "activation_type": "swiglu", "swiglu_fusion": 1}
    inputs = ["flat", "logits", "up", "up_bias", "down"]

    def save(self, folder):
        constants = {**self.banks, **self.others}
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "router"], ["logits"]),
                helper.make_node("Identity", ["x"], ["flat"]),
                helper.make_node("MoE", self.inputs, ["y"], domain="com.microsoft", **self.attributes),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", H])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", H])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        path = folder / f"{type(self).__name__}.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
        return path, []

    def evaluate(self, x, banks):
        routes = route_moe(x @ self.others["router"].astype(np.float64), K, True)
        return network(x, *routes, **banks, up_bias=self.others["up_bias"], kind="swiglu")


class Separate(Interleaved):
    """A third tensor with the gate rows."""

    banks = {"up": draw(E, I, H), "gate": draw(1, E, I, H)[0], "down": draw(E, H, I)}
    others = {"router": draw(H, E)}
    stacked = [["gate", "up"], ["down"]]
    attributes = {"k": K, "normalize_routing_weights": 1, "activation_type": "silu"}
    inputs = ["flat", "logits", "gate", "", "down", "", "up"]

    def evaluate(self, x, banks):
        routes = route_moe(x @ self.others["router"].astype(np.float64), K, True)
        return network(x, *routes, **banks)


class InOut:
    """Weights [E, in, out] in a safetensors file, and a shared expert."""

    banks = {
        **Separate.banks,
        "shared_up": draw(1, I, H),
        "shared_gate": draw(1, 1, I, H)[0],
        "shared_down": draw(1, H, I),
    }
    router = draw(E, H)
    stacked = [["gate", "up"], ["down"], ["shared_gate", "shared_up"], ["shared_down"]]

    def save(self, folder):
        stored = {name: np.ascontiguousarray(bank.swapaxes(1, 2)) for name, bank in self.banks.items()}
        stored["router"] = self.router
        save_file(stored, folder / "in_out.safetensors")
        types = {name: f"tensor<{'x'.join(map(str, value.shape))}xf32>" for name, value in stored.items()}
        weights = [f'moe.weight @{name} from [#moe.tensor<"{name}">] : {type}' for name, type in types.items()]
        loads = [f"  %{name} = moe.load_weight @{name} : {type}" for name, type in types.items()]
        x, scores = f"tensor<?x{H}xf32>", f"tensor<?x{E}xf32>"
        selected, routing = f"!moe.routing<experts = {E}, k = {K}>", f"!moe.routing<experts = {E}, k = {K}, weighted>"

        def block(prefix):
            names = [prefix + name for name in ("up", "gate", "down")]
            operands = " ".join(f"{name[len(prefix):]}(%{name})" for name in names)
            return operands, ", ".join(types[name] for name in names)

        experts, expert_types = block("")
        shared, shared_types = block("shared_")
        form = "<silu, glu = separate> {layout = #moe.layout<in_out>}"
        lines = [
            *weights,
            f'func.func @main(%x: {x} {{onnx.name = "x", onnx.dims = ["tokens", "hidden"]}})',
            f'    -> ({x} {{onnx.name = "y"}}) {{',
            *loads,
            f"  %logits = moe.logits %x, %router : ({x}, {types['router']}) -> {scores}",
            f"  %scores = moe.score <softmax> %logits : {scores} -> {scores}",
            f"  %selected = moe.select %scores {{k = {K}}} : ({scores}) -> {selected}",
            f"  %routing = moe.weigh %selected, %scores : ({selected}, {scores}) -> {routing}",
            f"  %routed = moe.experts %x, %routing {experts} {form} : ({x}, {routing}, {expert_types}) -> {x}",
            f"  %y = moe.shared %x {shared} add(%routed) {form} : ({x}, {shared_types}, {x}) -> {x}",
            f"  return %y : {x}",
            "}",
        ]
        path = folder / "in_out.mlir"
        path.write_text("\n".join(lines))
        return path, ["--weights=in_out.safetensors"]

    def evaluate(self, x, banks):
        ids = np.argsort(-(x @ self.router.T.astype(np.float64)), axis=-1, kind="stable")[:, :K]
        weights = np.take_along_axis(softmax(x @ self.router.T.astype(np.float64)), ids, -1)
        shared = {name.removeprefix("shared_"): bank for name, bank in banks.items() if name.startswith("shared_")}
        routed = {name: bank for name, bank in banks.items() if not name.startswith("shared_")}
        every = np.zeros((len(x), 1), int), np.ones((len(x), 1))
        return network(x, ids, weights, **routed) + network(x, *every, **shared)


MODELS = [Interleaved(), Separate(), InOut()]
# Every model with -O3, and one by turns with -O0.
RUNS = [
    pytest.param(model, name, level, id=f"{type(model).__name__}-{name}{level}")
    for turn, name in enumerate(TYPES)
    for number, model in enumerate(MODELS)
    for level in ("-O0", "-O3")
    if level == "-O3" or number == turn % len(MODELS)
]


def errors_of(sources, converted):
    """Relative RMS and largest error, as in the report."""
    delta = np.concatenate([(to - source).ravel() for source, to in zip(sources, converted)])
    source = np.concatenate([source.astype(np.float64).ravel() for source in sources])
    return np.sqrt((delta**2).sum() / (source**2).sum()), abs(delta).max()


@pytest.mark.parametrize("model, name, level", RUNS)
def test_converted_models(compiler, tmp_path, model, name, level):
    flags, to = TYPES[name]
    path, extra = model.save(tmp_path)
    package = compiler.package(path, level, *flags, *extra)
    banks = {bank: convert(value, to) for bank, value in model.banks.items()}
    x = draw(T, H) * 10
    with load(package.path) as opened:
        actual = opened.run({"x": x})["y"]
    exact = model.evaluate(x.astype(np.float64), banks)
    assert relative_error(actual, exact) < TOLERANCES["float32"]
    # The test would not see weights that stayed as they are otherwise.
    given = {bank: value.astype(np.float64) for bank, value in model.banks.items()}
    unchanged = model.evaluate(x.astype(np.float64), given)
    assert relative_error(unchanged, exact) > TOLERANCES["float32"]

    # Kernels have gate and up rows in one weight.
    together = model.stacked if level == "-O3" else [[bank] for bank in model.banks]
    expected = [errors_of([model.banks[b] for b in some], [banks[b] for b in some]) for some in together]
    reported = [weight for weight in package.report["packing"] if "relative_rms_error" in weight]
    found = [(weight["relative_rms_error"], weight["largest_error"]) for weight in reported]
    assert np.array(sorted(found)) == pytest.approx(np.array(sorted(expected)), rel=1e-4)


def test_the_report_names_the_types(compiler, tmp_path):
    path, _ = MODELS[0].save(tmp_path)
    (block,) = compiler.package(path, *TYPES["int4"][0]).report["moe_blocks"]
    (before,) = compiler.package(path).report["moe_blocks"]
    assert block["weights"] == {"bits": 4, "block": 32, "zero_points": "no"}
    assert before["weights"] == {"dtype": "float32"}
    assert (block["E"], block["k"], block["H"], block["I"], block["nodes"]) == (E, K, H, I, before["nodes"])


WRONG = {
    "--weight-type=int3": "--weight-type cannot be 'int3'",
    "--weight-type=int4 --weight-block=64": "--weight-block cannot be '64'",
    "--weight-block=32": "--weight-block and --weight-zero-points need --weight-type=int8 or int4",
    "--weight-type=bf16 --weight-block=32": "--weight-block and --weight-zero-points need --weight-type=int8 or int4",
    "--weight-zero-points": "--weight-block and --weight-zero-points need --weight-type=int8 or int4",
    "--weight-type=f16 --emit=onnx": "--weight-type converts the weights of a package, which --emit=onnx does not write",
    "--compile-to=convert-weights": "phase 'convert-weights' does not run at -O3",
}


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_options(compiler, tmp_path, flags):
    path, _ = MODELS[0].save(tmp_path)
    done = compiler.run(path, "-o", tmp_path / "out", *flags.split(), check=False)
    assert done.returncode == 1
    assert WRONG[flags] in done.stderr
    assert done.stderr.count("error:") == 1


def test_a_phase_that_is_past(compiler, tmp_path):
    path, _ = MODELS[0].save(tmp_path)
    phases = tmp_path / "phases"
    compiler.run(path, "-o", tmp_path / "all.moec", "-O0", "--dump-phases", phases, "--weight-type=int8")
    (converted,) = phases.glob("*-convert-weights.mlir")
    done = compiler.run(converted, "-o", tmp_path / "out", "--weight-type=int4", check=False)
    assert done.returncode == 1
    assert "already is past phase 'convert-weights'" in done.stderr
    compiler.run(converted, "-o", tmp_path / "rest.moec", "-O0", "--model-dir", tmp_path)
    first, second = ((tmp_path / f"{name}.moec" / f"{name}.safetensors").read_bytes() for name in ("all", "rest"))
    assert first == second


def test_nothing_to_convert(compiler, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, H])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, I])],
        [numpy_helper.from_array(draw(H, I), "w")],
    )
    path = tmp_path / "dense.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    done = compiler.run(path, "-o", tmp_path / "dense.moec", "--weight-type=int4")
    assert "warning: no expert weights were converted to int4" in done.stderr


def test_numbers_that_float16_cannot_hold(compiler, tmp_path):
    class Large(Interleaved):
        banks = {**Interleaved.banks, "down": Interleaved.banks["down"] * 1e7}

    path, _ = Large().save(tmp_path)
    report = tmp_path / "report.json"
    done = compiler.run(path, "-o", tmp_path / "large.moec", "--weight-type=f16", "--report", report)
    assert done.stderr.count("holds numbers beyond the range of the type that it is converted to") == 1
    assert '"largest_error": null' in report.read_text()

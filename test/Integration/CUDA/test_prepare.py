# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What benchmarks/prepare_device.py makes, and what of layer_on_gpu.py needs no device."""

import json
import os
import subprocess
import sys
import types

import harness
import numpy as np
import pytest
from harness import ROOT

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "test" / "Integration" / "CPU")]
import device_layer  # noqa: E402
import device_sides  # noqa: E402
import layer_model  # noqa: E402
import layer_on_gpu  # noqa: E402
import synthetic  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("device") / "carried"
    command = [sys.executable, ROOT / "benchmarks" / "prepare_device.py", place, "--layer", "odd", "--gpu-arch", "sm_80", "--gpu-format", "ptx",
               "--every", "60", "--moec", harness.tool("moec")]
    harness.run(*command)
    return place


def test_contents(folder):
    packages = {path.name for path in (folder / "packages").iterdir()}
    assert packages >= {"layer_bf16_E5_k3_H72_I40.moec", "layer_int4_E6_k2_H256_I128.moec", "router_E128_k8.moec"}
    for package in (folder / "packages").iterdir():
        # Without weights, and without what only a compiler or a linker reads.
        assert {path.suffix for path in package.iterdir()} == {".so", ".json"}
    cases = list((folder / "cases").iterdir())
    assert cases
    for case in cases:
        assert (case / f"{case.name}.moec" / f"lib{case.name}.so").exists()
        assert np.load(case / "in.npz").files and np.load(case / "out.npz").files and float((case / "tolerance").read_text()) > 0


def test_synthetic_weights_are_those_of_moe_run(folder, tmp_path):
    from test_tools import synthetic_tensor

    package = folder / "packages" / "layer_int4_E6_k2_H256_I128.moec"
    info = json.loads((package / f"{package.stem}.json").read_text())["weights"]
    synthetic.write(info, 7, tmp_path / "w.safetensors")
    file = synthetic.File(info, tmp_path / "w.safetensors")
    for tensor in info["tensors"]:
        shape, element = synthetic.parse_type(tensor["type"])
        expected = synthetic_tensor(tensor["name"], {"ui8": np.uint8, "f32": np.float32}[element], shape, 7)
        for part in range(shape[0]):
            np.testing.assert_array_equal(file.part(tensor["name"], part), expected[part])


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_layer_is_what_the_reference_computes(compiler, tmp_path, dtype):
    """The same text for the CPU, with the generator's weights, against layer_model.expected."""
    from moec.runtime import load

    layer = device_layer.DeviceLayer.parse("6,2,64,32")
    (tmp_path / "layer.mlir").write_text(device_layer.layer_text(layer, dtype))
    import prepare_device

    prepare_device.write_sparse_weights(device_layer.stored_tensors(layer, dtype), tmp_path / "w.safetensors")
    # Unpacked, as a GPU has them.
    package = compiler.package(tmp_path / "layer.mlir", "--weights", "w.safetensors", "-O0")
    path = tmp_path / "synthetic.safetensors"
    synthetic.write(package.info["weights"], device_layer.SEED, path)
    weights = device_layer.Weights(layer, dtype, synthetic.File(package.info["weights"], path))
    import ml_dtypes

    random = np.random.default_rng(0)
    x = random.standard_normal((9, layer.hidden)).astype(ml_dtypes.bfloat16)
    logits = random.standard_normal((9, layer.experts)).astype(np.float32)
    expected = layer_model.expected(layer, weights, x.astype(np.float64), logits)
    with load(package.path, weights=path) as model:
        y = model.run({"x": x, "logits": logits})["y"].astype(np.float64)
    assert np.abs(y - expected).max() / np.abs(expected).max() < harness.TOLERANCES["bfloat16"]


def test_no_device(folder):
    """Says what is missing."""
    done = subprocess.run([sys.executable, folder / "benchmarks" / "layer_on_gpu.py", "--packages", folder / "packages"], capture_output=True, text=True,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert "PyTorch" in done.stderr and done.stderr.count("\n") == 1


def test_missing_peers(folder, monkeypatch):
    """Each is named with a reason."""
    monkeypatch.setattr(device_sides, "Moec", lambda setting: None)
    setting = types.SimpleNamespace(torch=None, dtype="int4", layer=device_layer.DeviceLayer.parse("odd"))
    arguments = layer_on_gpu.parse_arguments(["--packages", str(folder / "packages")])
    _, missing = layer_on_gpu.make_sides(setting, arguments)
    assert set(missing) == {peer.name for peer in device_sides.PEERS}
    assert all(missing.values())


class FakeSide:
    mode = "stream"

    def __init__(self, name, fails):
        self.name, self.fails = name, fails

    def begin(self, tokens):
        pass

    warm_up = run = prepare = lambda self, *inputs: None

    def result(self):
        if self.fails:
            raise RuntimeError("out of memory\nat 0x1")
        return np.ones((1, 72))


class FakeEvent:
    def __init__(self, enable_timing):
        pass

    def record(self):
        pass

    def elapsed_time(self, other):
        return 0.5


@pytest.mark.parametrize("failing", ["moec", "peer"])
def test_a_failing_peer_is_left_out(folder, monkeypatch, failing):
    """Not so moec itself."""
    monkeypatch.setattr(layer_model, "expected", lambda *_: np.ones((1, 72)))
    cuda = types.SimpleNamespace(Event=FakeEvent, synchronize=lambda: None)
    setting = types.SimpleNamespace(torch=types.SimpleNamespace(cuda=cuda), layer=device_layer.DeviceLayer.parse("odd"), dtype="bf16", weights=None)
    ceilings = types.SimpleNamespace(read=lambda *_: 1e3, multiply_add=lambda *_: 1e6)
    sides = [FakeSide(name, name == failing) for name in ("moec", "peer")]
    arguments = layer_on_gpu.parse_arguments(["--packages", str(folder / "packages"), "--seconds", "0.01"])
    measurement = layer_on_gpu.DeviceMeasurement(setting, sides, ceilings, types.SimpleNamespace(zero_=lambda: None), arguments)
    measure = lambda: measurement.run(1, np.ones(5), None, np.random.default_rng(0))
    if failing == "moec":
        with pytest.raises(RuntimeError, match="out of memory"):
            measure()
        return
    row = measure()
    assert set(row["sides"]) == {"moec"} and row["sides"]["moec"]["error"] == 0
    assert measurement.failed == {"peer": "RuntimeError: out of memory"}


def test_table(capsys):
    side = dict(min=0.02, median=0.025, max=0.03, repetitions=5, at_best=0.5, at_median=0.4, error=1e-3)
    row = dict(layer="qwen3", type="bf16", routing="uniform", tokens=8, active_experts=50.2, read_gb_per_s=dict(median=4200.0), fma_gflops=780e3,
               floor_ms=dict(best=0.01, typical=0.01), sides={"moec": side, "PyTorch grouped_mm": {**side, "median": 0.1}})
    layer_on_gpu.print_header(layer_on_gpu.COLUMNS)
    layer_on_gpu.print_row(row)
    header, rule, line = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == line.count("|")
    assert "PyTorch grouped_mm 100.0 (4.00x; 1e-03)" in line and "| 24.2 |" in line


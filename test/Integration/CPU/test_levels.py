# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Code for several levels of instructions in one library (--cpu=multi or a list): which one is
chosen, that each computes what a package of that CPU alone does, and that all read one weights file.
And packages for AVX2 alone under qemu-user, whose Haswell has nothing newer."""

import pathlib
import shutil

import numpy as np
import pytest
from harness import FIXTURES, FLAGS, TOLERANCES, run, tool
from moec.runtime import MoecError, load
from references.evaluate import relative_error
from safetensors.numpy import save_file

LEVELS = ["x86-64-v3", "x86-64-v4", "sapphirerapids"]
USAGE = 1
TINYMOE = FIXTURES / "tinymoe"
MAX_LEVEL_BYTES = 300_000


def flags_of_this_machine():
    """Features as /proc/cpuinfo spells them, without punctuation: avx512fp16, amxtile."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    flags = next(line for line in text.splitlines() if line.startswith("flags")).split()[2:]
    return {flag.replace("_", "") for flag in flags}


def compute(package, inputs):
    """Outputs, and the level in use; an error where the CPU lacks it."""
    with load(package.path) as model:
        return model.run(inputs), model.info["target"]["cpu"]


def run_forced(monkeypatch, package, level, inputs):
    """Outputs of a level, None where the machine lacks a feature, which the error must name."""
    monkeypatch.setenv("MOEC_CPU_LEVEL", level)
    try:
        outputs, used = compute(package, inputs)
    except MoecError as error:
        feature = str(error).split("'")[1]
        assert f"(level '{level}', which MOEC_CPU_LEVEL asks for)" in str(error)
        assert feature.replace("-", "").replace(".", "") not in flags_of_this_machine()
        return None
    assert used == level
    return outputs


@pytest.mark.parametrize("name", ["layer0_moe", "layer1_qmoe_int4", "layer0_moe_bf16"])
def test_levels(compiler, tinymoe, monkeypatch, name):
    """Each level that this machine has gives the bits of a package for that CPU alone."""
    is_converted = name.endswith("_bf16")
    flags = ["--weight-type=bf16"] if is_converted else []
    name = name.removesuffix("_bf16")
    model, (inputs, expected) = tinymoe.model(name), tinymoe.recorded(name)
    package = compiler.package(model, "--cpu=multi", *flags)
    assert package.info["target"]["levels"] == LEVELS
    weights = package.weights.read_bytes()
    ran = []
    for level in LEVELS:
        alone = compiler.package(model, f"--cpu={level}", *flags)
        assert alone.weights.read_bytes() == weights
        outputs = run_forced(monkeypatch, package, level, inputs)
        if outputs is None:
            continue
        ran.append(level)
        bits, _ = compute(alone, inputs)
        for key, value in expected.items():
            assert np.array_equal(outputs[key], bits[key])
            # Recorded with the weights as they were.
            assert relative_error(outputs[key], value) < (1e-2 if is_converted else TOLERANCES["float32"])
    assert ran, "no level runs here"
    # Without the variable it is the last one that does.
    monkeypatch.delenv("MOEC_CPU_LEVEL")
    assert compute(package, inputs)[1] == ran[-1]
    if not FLAGS:
        assert package.library.stat().st_size < MAX_LEVEL_BYTES * len(LEVELS)


def test_unknown_level(compiler, tinymoe, monkeypatch):
    several = compiler.package(tinymoe.model("layer0_moe"), "--cpu=x86-64-v3,x86-64-v4")
    alone = compiler.package(tinymoe.model("layer0_moe"), "--cpu=x86-64-v3")
    assert several.report["target"]["cpu"] == "x86-64-v3"
    assert [level["cpu"] for level in several.report["target"]["other_levels"]] == ["x86-64-v4"]
    monkeypatch.setenv("MOEC_CPU_LEVEL", "x86-64-v5")
    with pytest.raises(MoecError, match="MOEC_CPU_LEVEL is 'x86-64-v5', but .* has code for x86-64-v3, x86-64-v4"):
        load(several.path)
    # A library of one level has nothing to choose.
    load(alone.path).close()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cpu=x86-64-v4,x86-64-v3"], "the code for 'x86-64-v4' would never be chosen"),
        (["--cpu=x86-64-v3,x86-64-v3"], "the code for 'x86-64-v3' would never be chosen"),
        (["--cpu=x86-64-v3,multi"], "unknown CPU 'multi'"),
        (["--cpu=x86-64-v3,"], "unknown CPU ''"),
        (["--cpu=multi", "--compile-to=moe-to-cpu"], "phase 'moe-to-cpu' has a program for each of x86-64-v3, x86-64-v4, sapphirerapids"),
    ],
)
def test_wrong_lists(compiler, tmp_path, arguments, message):
    done = compiler.run(TINYMOE / "layer0_moe.onnx", *arguments, check=False, cwd=tmp_path)
    assert done.returncode == USAGE and message in done.stderr
    assert not list(tmp_path.iterdir())


def test_phases_of_levels(compiler, tmp_path):
    """Each dumped program of one level can be compiled for that CPU."""
    phases = tmp_path / "phases"
    compiler.run(TINYMOE / "layer0_moe.onnx", "--cpu=x86-64-v3,x86-64-v4", "--dump-phases", phases, "-o", tmp_path / "a.moec")
    names = {path.name.split("-", 1)[1] for path in phases.iterdir()}
    assert {"import.mlir", "llvm.x86-64-v3.mlir", "llvm.x86-64-v4.mlir"} <= names
    lowered = next(phases.glob("*llvm.x86-64-v3.mlir"))
    arguments = ["--model-dir", TINYMOE, "-o", tmp_path / "b.moec"]
    done = compiler.run(lowered, "--cpu=multi", *arguments, check=False)
    assert done.returncode == USAGE and "was lowered for one machine; the options ask for x86-64-v3, x86-64-v4, sapphirerapids" in done.stderr
    compiler.run(lowered, "--cpu=x86-64-v3", *arguments)
    assert (tmp_path / "a.moec/a.safetensors").read_bytes() == (tmp_path / "b.moec/b.safetensors").read_bytes()


# --- under qemu ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def haswell():
    """Runs a program on a CPU without AVX-512."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("unsupported: qemu-x86_64 is missing (Debian package qemu-user)")
    if any(flag.startswith("--sanitize") for flag in FLAGS):
        pytest.skip("unsupported: qemu has no room for a sanitizer's shadow memory")
    return lambda *command, **options: run(emulator, "-cpu", "Haswell", *command, **options)


@pytest.mark.parametrize(
    "name, cpu",
    [("layer0_moe", "multi"), ("layer0_moe_f16", "x86-64-v3"), ("layer1_qmoe_int4", "x86-64-v3")],
)
def test_avx2(compiler, tinymoe, haswell, tmp_path, name, cpu):
    """moe-run compares with what was recorded."""
    is_converted = name.endswith("_f16")
    flags = ["--weight-type=f16"] if is_converted else []
    name = name.removesuffix("_f16")
    inputs, expected = tinymoe.recorded(name)
    package = compiler.package(tinymoe.model(name), f"--cpu={cpu}", *flags)
    for file, tensors in (("in", inputs), ("out", expected)):
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / file)
    files = ["--input", tmp_path / "in", "--expect", tmp_path / "out"]
    rtol = 2e-3 if is_converted else TOLERANCES["float32"]
    haswell(tool("moe-run"), package.path, *files, f"--rtol={rtol}", env={"OMP_NUM_THREADS": "2"})


def test_avx512_is_refused(compiler, tinymoe, haswell):
    package = compiler.package(tinymoe.model("layer0_moe"), "--cpu=x86-64-v4")
    done = haswell(tool("moe-run"), package.path, "--time", "--dim=tokens=1", check=False)
    assert done.returncode and "this CPU does not have 'avx512" in done.stderr


def test_caches(compiler, tinymoe):
    """Sizes of caches change the code, and no result."""
    model, (inputs, _) = tinymoe.model("layer1_qmoe_int4"), tinymoe.recorded("layer1_qmoe_int4")
    packages = [compiler.package(model, f"--cpu=x86-64-v3{caches}") for caches in ("", ",l1=64K,l2=64M")]
    assert [package.report["target"]["l1_bytes"] for package in packages] == [32 << 10, 64 << 10]
    assert [package.report["target"]["l2_bytes"] for package in packages] == [1 << 20, 64 << 20]
    assert packages[0].library.read_bytes() != packages[1].library.read_bytes()
    (first, _), (second, _) = (compute(package, inputs) for package in packages)
    assert all(np.array_equal(first[name], second[name]) for name in first)

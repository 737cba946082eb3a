# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Packages for CUDA beside a stand-in for the driver that records its calls: what the host does, not what
kernels compute."""

import json
import os
import re
import shutil

import harness
import numpy as np
import pytest
from harness import run
from moec.runtime import MoecError, load
from safetensors.numpy import load_file, save_file

MODEL = harness.ROOT / "test" / "models" / "tinymoe" / "layer0_moe.onnx"
DRIVER = harness.BUILD / "test" / "Runtime" / "Driver"
ROWS = 6


@pytest.fixture
def package(compiler):
    return compiler.package(MODEL, "--target=cuda", "--gpu-format=ptx")


def tokens_of(count, folder):
    """A file of inputs for so many tokens."""
    values = np.linspace(-1, 1, count * 128, dtype=np.float32).reshape(count, 128)
    save_file({"hidden_states": values}, folder / "in.safetensors")
    return folder / "in.safetensors"


@pytest.fixture
def inputs(tmp_path):
    return tokens_of(ROWS, tmp_path)


def moe_run(package, *arguments, driver=True, **variables):
    """moe-run beside the stand-in, with settings of it (see FakeDriver.h)."""
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    if driver:
        assert DRIVER.is_dir(), "the stand-in for the driver is not built"
        env["LD_LIBRARY_PATH"] = str(DRIVER)
    env.update({f"FAKE_CUDA_{name}": str(value) for name, value in variables.items()})
    return run(harness.tool("moe-run"), package.path, *arguments, check=False, env=env)


def lines_of(log):
    return log.read_text().splitlines() if log.exists() else []


def kernels_of(package, architecture):
    (code,) = [code for code in package.info["target"]["cuda"]["code"] if architecture in code["architectures"]]
    return code["kernels"]


def live(lines):
    """What was made and not given back."""
    made = [line.rsplit(" -> ")[-1] for line in lines if re.match(r"(cuMem(Host)?Alloc|cuStreamCreate) \d+ -> ", line)]
    freed = [line.split()[1] for line in lines if re.match(r"cuMemFree(Host)? |cuStreamDestroy ", line)]
    return sorted(set(made) - set(freed))


def test_description(package):
    cuda = package.info["target"]["cuda"]
    assert package.info["target"]["name"] == "cuda"
    assert cuda["architectures"] == ["sm_80", "sm_90a"] and cuda["format"] == "ptx"
    # GPUs with other instructions have other kernels.
    assert [code["architectures"] for code in cuda["code"]] == [["sm_80"], ["sm_90a"]]
    for architecture in cuda["architectures"]:
        kernels = kernels_of(package, architecture)
        assert len(set(kernels)) == len(kernels) > 3
    assert kernels_of(package, "sm_80") != kernels_of(package, "sm_90a")
    text = package.library.read_bytes()
    for architecture in (b".target sm_80", b".target sm_90a"):
        assert text.count(architecture) == 1
    # Mathematics of libdevice would have to be linked.
    assert b"__nv_" not in text


def test_run(package, inputs, tmp_path):
    log = tmp_path / "log"
    done = moe_run(package, "--input", inputs, "--output", tmp_path / "out.safetensors", LOG=log)
    assert done.returncode == 0, done.stderr
    assert load_file(tmp_path / "out.safetensors")["output"].shape == (ROWS, 128)
    lines = lines_of(log)
    # Opened: the kernels of this architecture, then the weights, in pieces through pinned memory.
    assert any(line.startswith("cuModuleLoadDataEx sm_90a") for line in lines)
    found = [line.split()[1] for line in lines if line.startswith("cuModuleGetFunction")]
    assert found == [*kernels_of(package, "sm_90a"), "moec_nothing"]
    (weights,) = [line for line in lines if line.startswith("cuMemcpyHtoDAsync")]
    weights_bytes = package.info["weights"]["bytes"] - package.info["weights"]["data_offset"]
    assert weights.endswith(f", {weights_bytes}")
    # One run: inputs, the workspace, launches of known kernels into the default stream, outputs.
    launches = [line for line in lines if line.startswith("launch ")]
    assert launches and {line.split()[1] for line in launches} <= set(found)
    assert all(" in 0" in line for line in launches)
    memory = {line.split(" -> ")[1]: int(line.split()[1]) for line in lines if line.startswith("cuMemAlloc ")}
    for line in launches:
        # Every pointer is into memory of the device, never the host's.
        for argument in line.split(": ", 1)[1].split(", "):
            name, _, offset = argument.partition("+")
            assert name.isdigit() and int(name) < 2**40 or int(offset or 0) < memory[name]
    begin, end = lines.index(launches[0]), lines.index(launches[-1])
    between = {line.split()[0] for line in lines[begin : end + 1]}
    assert between == {"launch"}, "the host did something else between launches"
    assert live(lines) == []
    assert lines[-1].startswith("cuDevicePrimaryCtxRelease")


def test_sizes(package, tmp_path):
    """Grids follow the number of tokens; a second run only launches."""
    log = tmp_path / "log"
    done = moe_run(package, "--time", "--dim", "tokens=1,300", "--repetitions", "2", LOG=log)
    assert done.returncode == 0, done.stderr
    runs, launches, allocations = [], [], 0
    for line in lines_of(log):
        if line.startswith("launch "):
            launches.append(re.search(r"grid (\d+)x", line)[1])
        elif line.startswith("cuMemAlloc "):
            allocations += 1
        elif launches and line.startswith("cuStreamSynchronize"):
            runs.append(([int(size) for size in launches], allocations))
            launches, allocations = [], 0
    # Two runs of each size are warm-ups. The weights come before the first run; the workspace and the counters of
    # the context of a size are allocated in its first; moe-run itself allocates the input and the output.
    assert [allocated for _, allocated in runs] == [5, 2, 2, 2, 4, 2, 2, 2]
    grids = [grid for grid, _ in runs]
    assert grids[:4] == grids[:1] * 4 and grids[4:] == grids[4:5] * 4
    assert sum(grids[4]) > sum(grids[0])


def test_few_tokens(package, tmp_path):
    """Up to 16 tokens take one launch, which is also there for more, so that a captured run of more has it."""

    def launched(tokens):
        log = tmp_path / f"log{tokens}"
        done = moe_run(package, "--input", tokens_of(tokens, tmp_path), LOG=log)
        assert done.returncode == 0, done.stderr
        names = [line.split()[1] for line in lines_of(log) if line.startswith("launch ")]
        return [re.sub("_[0-9a-f]{16}", "", name) for name in names]

    router, layer = "moec_product_16x128_f32_rows16", "moec_product_64x128_f32_128_rows16_routed_combined"
    for tokens in (1, 8, 16):
        assert launched(tokens) == [router, layer]
    more = launched(17)
    assert {"moec_gating", "moec_lists_16_4", layer, "moec_experts_combine"} < set(more) and len(more) == 8


def outputs_of(path):
    return load_file(path)["output"]


@pytest.fixture
def both(compiler):
    return compiler.package(MODEL, "--target=cpu,cuda", "--gpu-format=ptx")


def test_both_on_cpu(both, compiler, inputs, tmp_path):
    """Without a GPU the library computes what one for the CPU alone does."""
    alone = compiler.package(MODEL)
    arguments = ["--input", inputs, "--output"]
    run(harness.tool("moe-run"), alone.path, *arguments, tmp_path / "alone.safetensors")
    expected = outputs_of(tmp_path / "alone.safetensors")
    assert np.abs(expected).max() > 0
    # Without a driver, with one that has no device, and because the CPU was asked for.
    log = tmp_path / "log"
    for driver, flags, variables in ((False, [], {}), (True, [], {"DEVICES": 0}), (True, ["--device=cpu"], {"LOG": log})):
        if not driver and shutil.which("nvidia-smi"):
            continue
        output = tmp_path / f"out{len(variables)}{driver}.safetensors"
        done = moe_run(both, *flags, *arguments, output, driver=driver, **variables)
        assert done.returncode == 0, done.stderr
        assert np.array_equal(outputs_of(output), expected)
    assert lines_of(log) == []


def test_both_on_gpu(both, package, inputs, tmp_path):
    """With one it does what a library for CUDA alone does, and copies only the weights that the GPU needs."""
    logs = {}
    for name, of in (("both", both), ("alone", package)):
        logs[name] = tmp_path / name
        done = moe_run(of, "--input", inputs, LOG=logs[name])
        assert done.returncode == 0, done.stderr
    def launches(name):
        return [re.sub(r"m1\+\d+", "weight", line) for line in lines_of(logs[name]) if line.startswith("launch ")]
    assert launches("both") == launches("alone") != []
    (weights,) = [line for line in lines_of(logs["both"]) if line.startswith("cuMemcpyHtoDAsync")]
    info = both.info["weights"]
    assert int(weights.split(", ")[1]) < 0.6 * (info["bytes"] - info["data_offset"])
    assert live(lines_of(logs["both"])) == []


def test_both_names_unfit_device(both, tmp_path):
    """A GPU that cannot be used is an error, unless the CPU is asked for."""
    done = moe_run(both, CAPABILITY=75)
    assert done.returncode == 3 and "is of architecture sm_75" in done.stderr
    assert moe_run(both, "--device=cpu", CAPABILITY=75).returncode == 0
    assert moe_run(both, "--device=cuda:1").returncode == 3
    done = moe_run(both, "--device=tpu")
    assert done.returncode == 2 and done.stderr == "moe-run: error: --device tpu: expected cpu, cuda or cuda:N\n"


def test_device_without_code(package, compiler):
    done = moe_run(package, "--device=cpu")
    assert done.returncode == 3 and "compile the model with --target=cpu or cpu,cuda" in done.stderr
    done = moe_run(compiler.package(MODEL), "--device=cuda")
    assert done.returncode == 3 and "compile the model with --target=cuda or cpu,cuda" in done.stderr


def test_no_driver(package):
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a driver here")
    done = moe_run(package, driver=False)
    assert done.returncode == 3
    assert re.fullmatch(r"moe-run: error: the library 'layer0_moe' runs on CUDA devices, but there is no CUDA driver: .*\n", done.stderr)


def test_no_driver_in_python(package):
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a driver here")
    with pytest.raises(MoecError) as caught:
        load(package.path)
    assert caught.value.status == "DEVICE" and "there is no CUDA driver" in caught.value.message


@pytest.mark.parametrize("variables, message", [
    ({"DEVICES": 0}, "cannot initialize the CUDA driver: CUDA_ERROR_NO_DEVICE"),
    ({"VERSION": 11080}, "the CUDA driver is too old: it is that of CUDA 11.8"),
    ({"CAPABILITY": 75}, "CUDA device 0 (Fake 0) is of architecture sm_75, but the library 'layer0_moe' has code for sm_80 and newer, sm_90a;"),
])
def test_unfit_machine(package, tmp_path, variables, message):
    log = tmp_path / "log"
    done = moe_run(package, LOG=log, **variables)
    assert done.returncode == 3
    assert done.stderr.startswith(f"moe-run: error: {message}") and done.stderr.count("\n") == 1
    assert live(lines_of(log)) == []


def test_newer_device(package, tmp_path):
    """PTX of the oldest architecture also runs on what is not named."""
    log = tmp_path / "log"
    assert moe_run(package, LOG=log, CAPABILITY=120).returncode == 0
    assert any(line.startswith("cuModuleLoadDataEx sm_80 ") for line in lines_of(log))


def test_profile(package, tmp_path):
    """A region for each launch, which is named by its node and its kernel."""
    log = tmp_path / "log"
    done = moe_run(package, "--profile", "--dim", "tokens=3", "--repetitions=2", "--json", LOG=log)
    assert done.returncode == 0, done.stderr
    ((measurement,)) = json.loads(done.stdout)
    launches = [line.split()[1] for line in lines_of(log) if line.startswith("launch ")]
    # Two runs are warm-ups.
    assert [region["name"].rsplit(": ")[1] for region in measurement["regions"]] == launches[: len(launches) // 4]
    for region in measurement["regions"]:
        assert region["op"] == "kernel" and region["calls"] == 1
        # A millisecond for each event of the stand-in.
        assert region["ms"] == pytest.approx(1)
    assert live(lines_of(log)) == []


@pytest.mark.parametrize("function", ["cuMemAlloc_v2", "cuMemHostAlloc"])
def test_out_of_memory(package, inputs, tmp_path, function):
    """Each allocation in turn fails."""
    for number in range(1, 20):
        log = tmp_path / f"log{number}"
        done = moe_run(package, "--input", inputs, LOG=log, FAIL=f"{function}:{number}:2")
        if f"{function} fails with 2" not in lines_of(log):
            break
        assert done.returncode in (3, 5) and done.stderr.count("\n") == 1
        assert "memory" in done.stderr or "allocating" in done.stderr
        assert live(lines_of(log)) == []
    assert number > 2 and done.returncode == 0


def test_failed_launch(package, inputs, tmp_path):
    log = tmp_path / "log"
    done = moe_run(package, "--input", inputs, LOG=log, FAIL="cuLaunchKernelEx:2:700")
    kernel = [line for line in lines_of(log) if line.startswith("launch ")][0].split()[1]
    assert done.returncode == 5 and "cannot launch kernel '" in done.stderr
    assert "CUDA_ERROR_ILLEGAL_ADDRESS (error 700" in done.stderr and kernel
    assert live(lines_of(log)) == []


def test_synthetic_weights(package, tmp_path):
    """They reach the device without a file."""
    copy = tmp_path / "copy.moec"
    copy.mkdir()
    shutil.copy(package.library, copy)
    shutil.copy(package.path / f"{package.name}.json", copy)
    log = tmp_path / "log"
    env = {**os.environ, "LD_LIBRARY_PATH": str(DRIVER), "FAKE_CUDA_LOG": str(log)}
    run(harness.tool("moe-run"), copy, "--synthetic-weights=3", "--time", "--dim", "tokens=2", "--repetitions=1", env=env)
    assert any(line.startswith("cuMemcpyHtoDAsync") for line in lines_of(log))


@pytest.mark.parametrize("format", ["cubin", "fatbin"])
def test_toolkit(compiler, tmp_path, format):
    if not (shutil.which("ptxas") or os.path.exists("/usr/local/cuda/bin/ptxas")):
        pytest.skip("not found: ptxas")
    package = compiler.package(MODEL, "--target=cuda", f"--gpu-format={format}")
    code = package.library.read_bytes()
    # Both architectures' machine code; a fatbin of each, in which PTX is compressed.
    assert code.count(b"\x7fELF") >= 2 if format == "cubin" else code.count(b"\x50\xed\x55\xba") == 2
    assert package.info["target"]["cuda"]["format"] == format

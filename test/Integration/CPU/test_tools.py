# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The command-line tools together, on real models."""

import json
import os
import resource

import harness
import ml_dtypes
import numpy as np
import onnx
import pytest
from harness import TOLERANCES, run
from moec.runtime import load
from references.evaluate import evaluate, relative_error
from safetensors.numpy import load_file, save_file

MODEL = harness.ROOT / "test" / "models" / "tinymoe" / "layer0_moe.onnx"


@pytest.fixture
def package(compiler):
    return compiler.package(MODEL, "-O3")


@pytest.fixture
def recorded(tinymoe):
    return tinymoe.recorded("layer0_moe")


def moe_run(*arguments, check=True, **options):
    return run(harness.tool("moe-run"), *arguments, check=check, **options)


# --- moec ----------------------------------------------------------------------------------


def test_help_and_version(compiler):
    text = compiler.run("--help").stdout
    for option in ("-o", "-O", "--cpu", "--target", "--threads", "--dim", "--keep", "--report", "--compile-to", "--dump-phases"):
        assert option in text
    # Once each: options and help of libLLVM are not ours.
    assert text.count("USAGE:") == text.count("PHASES:") == text.count("--help ") == 1
    assert moe_run("--help").stdout.count("OVERVIEW:") == 1
    assert "22." in compiler.run("--version").stdout


def test_summary_line(compiler, tmp_path):
    done = compiler.run(MODEL, "-o", tmp_path / "layer.moec", "-O3")
    (line,) = (done.stdout + done.stderr).strip().splitlines()
    assert "MoE" in line and "layer.moec" in line


def test_specialised_dimension(compiler, recorded):
    inputs, expected = recorded
    package = compiler.package(MODEL, "-O3", "--dim", "tokens=4")
    few = {name: values[:4] for name, values in inputs.items()}
    assert package.info["entries"][0]["inputs"][0]["dims"] == [4, 128]
    assert relative_error(load(package.path).run(few)["output"], expected["output"][:4]) < TOLERANCES["float32"]


def test_kept_tensor(compiler, tinymoe, recorded):
    inputs, expected = recorded
    package = compiler.package(MODEL, "-O3", "--keep=router_logits")
    outputs = load(package.path).run(inputs)
    assert set(outputs) == {"output", "router_logits"}
    assert relative_error(outputs["output"], expected["output"]) < TOLERANCES["float32"]
    logits = tinymoe.activations["layer0.router_logits"]
    assert relative_error(outputs["router_logits"], logits) < TOLERANCES["float32"]


def test_every_dumped_phase_compiles_further(compiler, tmp_path, recorded):
    inputs, expected = recorded
    folder = tmp_path / "phases"
    compiler.run(MODEL, "-o", tmp_path / "whole.moec", "-O3", f"--dump-phases={folder}", "--verify-each")
    dumps = sorted(folder.glob("*.mlir"))
    assert len(dumps) >= 3
    for dump in dumps:
        package = tmp_path / f"{dump.stem.replace('-', '_')}.moec"
        compiler.run(dump, "--model-dir", MODEL.parent, "-o", package, "-O3")
        output = load(package).run(inputs)["output"]
        assert relative_error(output, expected["output"]) < TOLERANCES["float32"], dump.name


# --- moe-run -------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, recorded):
    inputs, expected = recorded
    save_file(inputs, tmp_path / "in.safetensors")
    save_file(expected, tmp_path / "expected.safetensors")
    return tmp_path


def test_run_input_to_output(package, files, recorded):
    moe_run(package.path, "--input", files / "in.safetensors", "--output", files / "out.safetensors")
    output = load_file(files / "out.safetensors")["output"]
    assert relative_error(output, recorded[1]["output"]) < TOLERANCES["float32"]


def test_run_compares(package, files, recorded):
    inputs = ["--input", files / "in.safetensors"]
    good = moe_run(package.path, *inputs, "--expect", files / "expected.safetensors", "--rtol", "1e-4", "--atol", "1e-4")
    assert good.returncode == 0
    wrong = recorded[1]["output"].copy()
    wrong[3, 5] += 0.1
    save_file({"output": wrong}, files / "wrong.safetensors")
    bad = moe_run(package.path, *inputs, "--expect", files / "wrong.safetensors", "--rtol", "1e-4", "--atol", "1e-4", check=False)
    assert bad.returncode != 0
    assert "output" in bad.stdout + bad.stderr


def test_run_times_every_size(package):
    text = moe_run(package.path, "--time", "--dim", "tokens=1,8,64", "--threads", "2", "--json").stdout
    rows = json.loads(text)
    assert [row["dims"] for row in rows] == [{"tokens": 1}, {"tokens": 8}, {"tokens": 64}]
    for row in rows:
        assert row["threads"] == 2 and row["repetitions"] > 0
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"]


def test_run_profiles(package, files):
    text = moe_run(package.path, "--input", files / "in.safetensors", "--profile").stdout
    assert "MatMul" in text or "MoE" in text or "moe" in text


def test_run_says_what_is_wrong(package, files):
    done = moe_run(package.path, "--input", files / "absent.safetensors", check=False)
    assert done.returncode != 0 and "absent.safetensors" in done.stderr
    save_file({"other": np.zeros((1, 128), np.float32)}, files / "other.safetensors")
    done = moe_run(package.path, "--input", files / "other.safetensors", check=False)
    assert done.returncode != 0 and "hidden_states" in done.stderr
    done = moe_run(files / "absent.moec", check=False)
    assert done.returncode != 0 and "absent.moec" in done.stderr


# --- moe-translate, moe-opt ------------------------------------------------------------------


def test_import_prints_every_node(compiler):
    text = run(harness.tool("moe-translate"), "--import-onnx", MODEL).stdout
    assert 'onnx.node "MatMul"' in text and 'onnx.node "com.microsoft.MoE"' in text
    assert "tokens" in text


def test_passes_run_on_an_onnx_file(compiler):
    done = run(harness.tool("moe-opt"), MODEL, "--normalize-onnx", "--raise-moe", "--moe-fuse-gating")
    assert "moe." in done.stdout and 'onnx.node "com.microsoft.MoE"' not in done.stdout


# --- the demo's claim -------------------------------------------------------------------------


def test_package_and_onnxruntime_agree(package, recorded):
    import onnxruntime

    inputs, _ = recorded
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["output"], inputs)
    output = load(package.path).run(inputs)["output"]
    exact = evaluate(onnx.load(MODEL), inputs)["output"]
    assert relative_error(output, expected) < 2 * TOLERANCES["float32"]
    assert relative_error(output, exact) < TOLERANCES["float32"]


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="the sanitizer needs more addresses than the limit")
def test_more_memory_than_there_is(package):
    limit = 8 << 30
    done = moe_run(
        package.path,
        "--time",
        "--dim=tokens=1000000000",
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 5 and done.stderr == "moe-run: error: out of memory\n"


def test_option_value_that_is_no_number(package):
    done = moe_run(package.path, "--time", "--repetitions=2147483648", check=False)
    assert done.returncode == 2
    assert "2147483648" in done.stderr and not done.stderr.endswith("error: \n")


# --- synthetic weights ---------------------------------------------------------------------


def mix(x):
    """The finalizer of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def synthetic_tensor(name, dtype, shape, seed):
    """As tools/moe-run/SyntheticWeights.h says, in NumPy."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        bits = mix(mix(np.uint64(seed ^ key)) + np.arange(np.prod(shape), dtype=np.uint64))
    if np.issubdtype(dtype, np.integer):
        return bits.astype(dtype).reshape(shape)
    unit = np.float32(2) * (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24) - np.float32(1)
    scale = np.float32(1) / np.sqrt(np.float32(shape[-1]))
    return (unit * scale).astype(dtype).reshape(shape)


def write_synthetic_file(package, path, seed):
    weights = package.info["weights"]
    data = bytearray((package.path / weights["file"]).read_bytes())
    data[weights["data_offset"] :] = bytes(len(data) - weights["data_offset"])
    for tensor in weights["tensors"]:
        *sizes, kind = tensor["type"][len("tensor<") : -1].split("x")
        dtype = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "ui8": np.uint8, "i8": np.int8}[kind]
        values = synthetic_tensor(tensor["name"], dtype, [int(size) for size in sizes], seed)
        for part, expert in enumerate(values):
            at = weights["data_offset"] + tensor["offset"] + part * tensor["expert_stride"]
            data[at : at + expert.nbytes] = expert.tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["float32", "bf16", "f16", "int8", "int4"])
def test_synthetic_weights(compiler, recorded, tmp_path, kind):
    package = compiler.package(MODEL, "-O3", *([] if kind == "float32" else [f"--weight-type={kind}"]))
    inputs, _ = recorded
    save_file({name: np.ascontiguousarray(values) for name, values in inputs.items()}, tmp_path / "in.safetensors")
    write_synthetic_file(package, tmp_path / "weights.safetensors", seed=7)
    outputs = []
    for number, option in enumerate(["--synthetic-weights=7", f"--weights={tmp_path / 'weights.safetensors'}", "--synthetic-weights=8"]):
        out = tmp_path / f"{number}.safetensors"
        moe_run(package.path, option, "--input", tmp_path / "in.safetensors", "--output", out)
        outputs.append(load_file(out)["output"])
    assert np.isfinite(outputs[0].astype(np.float32)).all()
    assert outputs[0].tobytes() == outputs[1].tobytes()
    assert outputs[0].tobytes() != outputs[2].tobytes()


def test_synthetic_weights_need_no_file(compiler, tmp_path):
    package = compiler.package(MODEL, "-O3")
    copy = tmp_path / "copy.moec"
    copy.mkdir()
    for file in (package.library, package.path / f"{package.name}.json"):
        (copy / file.name).write_bytes(file.read_bytes())
    assert moe_run(copy, "--time", "--dim", "tokens=2", check=False).returncode == 3
    assert "tokens=2" in moe_run(copy, "--synthetic-weights=1", "--time", "--dim", "tokens=2").stdout
    done = moe_run(copy, "--synthetic-weights=1", "--weights=x", check=False)
    assert done.returncode == 2 and "contradict" in done.stderr

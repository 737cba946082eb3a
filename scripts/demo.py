# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiles the MoE layers of a small trained language model, runs them on recorded
activations and prints the largest differences and the times. See scripts/demo.sh."""

import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "build" / "bin"
MODELS = pathlib.Path(os.environ.get("MOEC_MODELS", ROOT.parent / "shared" / "models")) / "tinymoe"
FIXTURES = ROOT / "test" / "models" / "tinymoe"
LAYERS = [f"layer{index}_moe" for index in range(4)] + ["layer1_qmoe_int4", "layer1_qmoe_int4_asym", "layer1_qmoe_int8"]
THREADS = 2


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def recorded(activations, name):
    """Inputs and expected outputs of a layer; for QMoE those of the dequantised weights."""
    layer, kind = name.split("_", 1)
    suffix = "" if kind == "moe" else f"_{kind}_dequant_reference"
    return activations[f"{layer}.input"], activations[f"{layer}.output{suffix}"]


def difference(actual, expected):
    """max |Δ| / max |expected|"""
    return np.abs(actual.astype(np.float64) - expected).max() / np.abs(expected).max()


def run_onnxruntime(model, inputs):
    """(output, median milliseconds over new random inputs of the same size)"""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"hidden_states": inputs})
    random = np.random.default_rng(0)
    times = []
    for _ in range(100):
        values = random.standard_normal(inputs.shape, dtype=np.float32)
        start = time.perf_counter()
        session.run(None, {"hidden_states": values})
        times.append(1e3 * (time.perf_counter() - start))
    return output, statistics.median(times)


def run_moec(model, inputs, folder):
    """The same, compiled and run by the command-line tools."""
    package = folder / f"{model.stem}.moec"
    print(run(TOOLS / "moec", model, "-o", package).strip())
    save_file({"hidden_states": inputs}, folder / "in.safetensors")
    run(TOOLS / "moe-run", package, "--input", folder / "in.safetensors", "--output", folder / "out.safetensors")
    text = run(
        TOOLS / "moe-run", package, "--time", "--dim", f"tokens={inputs.shape[0]}", "--threads", THREADS, "--json"
    )
    return load_file(folder / "out.safetensors")["output"], json.loads(text)[0]["median_ms"]


def main():
    source = MODELS if MODELS.is_dir() else FIXTURES
    print(f"models: {source}")
    activations = load_file(source / "activations.safetensors")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in LAYERS:
            model = source / f"{name}.onnx"
            if not model.exists():
                print(f"{name}: not in the repository, skipped (set MOEC_MODELS)")
                continue
            inputs, expected = recorded(activations, name)
            ours, our_ms = run_moec(model, inputs, pathlib.Path(folder))
            theirs, their_ms = run_onnxruntime(model, inputs)
            rows.append((name, difference(ours, expected), difference(ours, theirs), our_ms, their_ms))
    print(f"\n{inputs.shape[0]} recorded tokens, {THREADS} threads; differences are max |Δ| / max |y|")
    print(f"{'layer':24} {'to expected':>12} {'to ORT':>12} {'moec ms':>10} {'ORT ms':>10}")
    for name, to_expected, to_theirs, our_ms, their_ms in rows:
        print(f"{name:24} {to_expected:12.1e} {to_theirs:12.1e} {our_ms:10.3f} {their_ms:10.3f}")
    print("ONNX Runtime computes 8-bit QMoE with activations rounded to 8 bits, hence its distance there.")


if __name__ == "__main__":
    main()

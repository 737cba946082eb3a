# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiles the MoE layers of a small trained language model, runs them on recorded
activations and prints the largest differences and the times; then compiles the whole model
and lets it write. See scripts/demo.sh."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "build" / "python_packages"), str(ROOT / "examples" / "generate")]
from generate import Decoder, generate  # noqa: E402
from moec.runtime import TensorInfo, load  # noqa: E402

TOOLS = ROOT / "build" / "bin"
MODELS = pathlib.Path(os.environ.get("MOEC_MODELS", ROOT.parent / "shared" / "models")) / "tinymoe"
FIXTURES = ROOT / "test" / "models" / "tinymoe"
LAYERS = [f"layer{index}_moe" for index in range(4)] + ["layer1_qmoe_int4", "layer1_qmoe_int4_asym", "layer1_qmoe_int8"]
THREADS = 2
TOKENS = 200


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


def make_session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnxruntime(model, inputs):
    """(output, median milliseconds over new random inputs of the same size)"""
    session = make_session(model)
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


class ONNXRuntimeModel:
    """A session with what the example of generation asks of a compiled model."""

    def __init__(self, path):
        self._session = make_session(path)
        self._names = [output.name for output in self._session.get_outputs()]
        self.inputs = [TensorInfo(info.name, "float32", tuple(info.shape)) for info in self._session.get_inputs()]

    def run(self, inputs):
        return dict(zip(self._names, self._session.run(self._names, inputs)))


def write_text(model, prompt, show):
    """(text, bytes per second, the prompt's reading included)"""
    start, text = time.perf_counter(), b""
    for token in generate(Decoder(model), prompt, TOKENS, temperature=0, top_p=1, seed=0):
        text += bytes([token])
        show(text[-1:])
    return text, TOKENS / (time.perf_counter() - start)


def show(text):
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def write_with_both(folder):
    path, package = FIXTURES / "model_with_past.onnx", folder / "tinymoe.moec"
    print(f"\n{run(TOOLS / 'moec', path, '-o', package).strip()}\n", flush=True)
    prompt, golden = [(FIXTURES / name).read_bytes() for name in ("prompt.txt", "golden.txt")]
    show(prompt)
    ours, our_speed = write_text(load(package, threads=THREADS), prompt, show)
    theirs, their_speed = write_text(ONNXRuntimeModel(path), prompt, lambda text: None)
    same = {True: "the same text as PyTorch", False: "NOT the text that PyTorch writes"}
    print(f"\n\n{TOKENS} bytes after a prompt of {len(prompt)}, {THREADS} threads:")
    print(f"moec         {our_speed:6.0f} bytes per second, {same[ours == golden]}")
    print(f"ONNX Runtime {their_speed:6.0f} bytes per second, {same[theirs == golden]}")


def print_table(rows, tokens):
    print(f"\n{tokens} recorded tokens, {THREADS} threads; differences are max |Δ| / max |y|")
    print(f"{'layer':24} {'to expected':>12} {'to ORT':>12} {'moec ms':>10} {'ORT ms':>10}")
    for name, to_expected, to_theirs, our_ms, their_ms in rows:
        print(f"{name:24} {to_expected:12.1e} {to_theirs:12.1e} {our_ms:10.3f} {their_ms:10.3f}")
    print("ONNX Runtime computes 8-bit QMoE with activations rounded to 8 bits, hence its distance there.")


def main():
    source = MODELS if MODELS.is_dir() else FIXTURES
    print(f"models: {source}")
    activations = load_file(source / "activations.safetensors")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name in LAYERS:
            model = source / f"{name}.onnx"
            if not model.exists():
                print(f"{name}: not in the repository, skipped (set MOEC_MODELS)")
                continue
            inputs, expected = recorded(activations, name)
            ours, our_ms = run_moec(model, inputs, folder)
            theirs, their_ms = run_onnxruntime(model, inputs)
            rows.append((name, difference(ours, expected), difference(ours, theirs), our_ms, their_ms))
        print_table(rows, inputs.shape[0])
        write_with_both(folder)


if __name__ == "__main__":
    main()

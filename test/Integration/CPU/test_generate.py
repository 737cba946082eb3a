# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Text from the trained language model: the programs of examples/generate against what PyTorch wrote, and bits
per byte of text that it was not trained on."""

import json
import os
import sys

import harness
import numpy as np
import pytest
from harness import FIXTURES, ROOT, run
from moec.runtime import load

EXAMPLE = ROOT / "examples" / "generate"
TINYMOE = FIXTURES / "tinymoe"
PROMPT = (TINYMOE / "prompt.txt").read_text()
GOLDEN = PROMPT + (TINYMOE / "golden.txt").read_text()
WINDOW = 512


@pytest.fixture(scope="module")
def package(compiler, tmp_path_factory):
    path = tmp_path_factory.mktemp("generate") / "tinymoe.moec"
    compiler.run(TINYMOE / "model_with_past.onnx", "-o", path)
    return path


def run_python(package, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(harness.BUILD / "python_packages")}
    return run(sys.executable, EXAMPLE / "generate.py", package, *arguments, env=environment).stdout


def test_python_program(package):
    assert run_python(package, PROMPT) == GOLDEN


def test_sampling(package):
    """The same seed draws the same text; a top-p that only the likeliest token fits in draws nothing else."""
    arguments = [PROMPT, "--tokens", "20", "--temperature", "1"]
    drawn = [run_python(package, *arguments, "--seed", str(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert run_python(package, *arguments, "--top-p", "0.01") == GOLDEN[: len(PROMPT) + 20]


def test_cpp_program(package, tmp_path):
    settings = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_COMPILER=clang++-22", f"-DPACKAGE={package}"]
    run("cmake", "-G", "Ninja", "-S", EXAMPLE, "-B", tmp_path, *settings)
    run("cmake", "--build", tmp_path)
    assert run(tmp_path / "generate", PROMPT).stdout == GOLDEN
    drawn = [run(tmp_path / "generate", PROMPT, "20", "1", "0.9", seed).stdout for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]


def test_bits_per_byte(compiler, tinymoe):
    """Windows of 512 bytes, each after the token that begins a document."""
    if not (tinymoe.folder / "heldout.txt").exists():
        pytest.skip("models not found: heldout.txt")
    text = np.frombuffer((tinymoe.folder / "heldout.txt").read_bytes(), np.uint8).astype(np.int64)
    expected = json.loads((tinymoe.folder / "report.json").read_text())["bits_per_byte_heldout_torch"]
    bits = 0.0
    with load(compiler.package(tinymoe.model("model"), "-O3").path) as model:
        for start in range(0, len(text), WINDOW):
            window = text[start : start + WINDOW]
            ids = np.concatenate([[0], window[:-1]])[None]
            logits = model.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"][0].astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            bits -= chances[np.arange(len(window)), window].sum() / np.log(2)
    assert abs(bits / len(text) - expected) < 1e-4

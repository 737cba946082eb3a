# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Raising is by meaning: a MoE block that is spelled otherwise is still raised, and one that
computes something else is left alone, or still gives the right numbers."""

import json
import zlib

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import MODELS
from harness import TOLERANCES, run, tool
from moec.runtime import load
from references.evaluate import relative_error
from rewrites import BREAKING, PRESERVING, WHOLE_GRAPH, Graph, choose

# Two of each form of the experts, and each router.
SAMPLE = [
    "mixtral__dynamo_batched",
    "mixtral__dynamo_dense",
    "mixtral__dynamo_tiled",
    "mixtral__ts_tiled",
    "mixtral__hfexp_grouped",
    "qwen2_moe__dynamo_sorted",
    "qwen2_moe__ts_batched",
    "qwen3_moe__dynamo_loop",
    "qwen3_moe__dynamo_einsum",
    "deepseek_v2__dynamo_batched",
    "deepseek_v2__ts_dense",
    "deepseek_v3__dynamo_dense",
    "deepseek_v3__ts_tiled",
    "olmoe__dynamo_einsum",
    "gpt_oss__dynamo_tiled",
    "gpt_oss__ts_batched",
    "switch_loop__dynamo_native",
    "switch_dense__ts_native",
]
REWRITES = 12


def read_case(name):
    folder = MODELS / "public" / name
    if not folder.is_dir():
        pytest.skip(f"models not found: {folder}")
    return folder, onnx.load(folder / "model.onnx")


def random_numbers(*words):
    return np.random.default_rng(zlib.crc32(" ".join(words).encode()))


def run_onnx(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def raise_blocks(path):
    """(number of raised blocks, messages)."""
    done = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe")
    return done.stdout.count("= moe.combine "), done.stderr


@pytest.mark.parametrize("name", SAMPLE)
def test_other_spellings_are_raised(tmp_path, name):
    folder, model = read_case(name)
    blocks = json.loads((folder / "case.json").read_text())["moe_blocks"]
    inputs = dict(np.load(folder / "in1.npz"))
    expected = run_onnx(model, inputs)
    rng = random_numbers(name)
    graph, done = Graph(model), []
    while len(done) < REWRITES:
        rewrite = choose(rng, PRESERVING)
        if rewrite(graph, rng):
            done.append(rewrite.__name__)
    for rewrite in WHOLE_GRAPH:
        rewrite(graph, rng)
    path = tmp_path / "rewritten.onnx"
    onnx.save(graph.model, path)
    # The rewrites are right themselves.
    for output, value in run_onnx(graph.model, inputs).items():
        np.testing.assert_allclose(value, expected[output], rtol=1e-4, atol=1e-5)
    raised, messages = raise_blocks(path)
    assert raised == blocks, f"{done}\n{messages}"


@pytest.mark.parametrize("rewrite", BREAKING, ids=lambda rewrite: rewrite.__name__)
@pytest.mark.parametrize("name", SAMPLE[::3])
def test_other_meanings_are_not_lost(compiler, tmp_path, name, rewrite):
    folder, model = read_case(name)
    inputs = dict(np.load(folder / "in1.npz"))
    before = run_onnx(model, inputs)
    graph = Graph(model)
    if not rewrite(graph, random_numbers(name, rewrite.__name__)):
        pytest.skip("nothing to change")
    path = tmp_path / "broken.onnx"
    onnx.save(graph.model, path)
    expected = run_onnx(graph.model, inputs)
    raised, messages = raise_blocks(path)
    if not raised:
        assert "remark" in messages
        return
    package = compiler.package(path, "-O3")
    with load(package.path) as opened:
        actual = opened.run(inputs)
    for output, value in expected.items():
        assert relative_error(actual[output], value) < 10 * TOLERANCES["float32"]
    assert set(before) <= set(actual)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Raising is by meaning: a MoE block that is spelled otherwise is still raised, and one that
computes something else is left alone, or still gives the right numbers."""

import json
import os
import zlib

import numpy as np
import onnx
import pytest
from harness import MODELS, TOLERANCES, run, tool
from moec.runtime import MoecError, load
from references.evaluate import relative_error
from rewrites import BREAKING, PRESERVING, WHOLE_GRAPH, Graph, choose, scatter_into_ones
from test_models import BLOCKS, computed_type, run_onnx

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
# MOEC_REWRITES=all takes every exported graph with a MoE block.
if os.environ.get("MOEC_REWRITES") == "all":
    folders = sorted(path.parent for path in (MODELS / "public").glob("*/model.onnx"))
    CASES = BROKEN = [folder.name for folder in folders if "__contrib_" not in folder.name]
else:
    CASES, BROKEN = SAMPLE, SAMPLE[::3]



def read_case(name):
    folder = MODELS / "public" / name
    if not folder.is_dir():
        pytest.skip(f"models not found: {folder}")
    case = json.loads((folder / "case.json").read_text())
    if not case["ort_runs"]:
        pytest.skip("ONNX Runtime does not run it, so there are no numbers to compare with")
    recorded = folder / "in1.npz" if (folder / "in1.npz").exists() else folder / "inputs.npz"
    return onnx.load(folder / "model.onnx"), dict(np.load(recorded)), BLOCKS.get(name, case["moe_blocks"])


def random_numbers(*words):
    return np.random.default_rng(zlib.crc32(" ".join(words).encode()))


def raise_blocks(path):
    """(number of raised blocks, messages)."""
    done = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe", check=False)
    return done.stdout.count("= moe.combine "), done.stderr


def tolerance(name):
    return TOLERANCES[computed_type(MODELS / "public" / name)]


@pytest.mark.parametrize("name", CASES)
def test_other_spellings_are_raised(tmp_path, name):
    model, inputs, blocks = read_case(name)
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
        assert relative_error(value, expected[output]) < 10 * tolerance(name), done
    raised, messages = raise_blocks(path)
    assert raised == blocks, f"{done}\n{messages}"


@pytest.mark.parametrize("rewrite", BREAKING, ids=lambda rewrite: rewrite.__name__)
@pytest.mark.parametrize("name", BROKEN)
def test_other_meanings_are_not_lost(compiler, tmp_path, name, rewrite):
    model, inputs, _ = read_case(name)
    graph = Graph(model)
    graph.order_slots()
    if not rewrite(graph, random_numbers(name, rewrite.__name__)):
        pytest.skip("nothing to change")
    if rewrite is scatter_into_ones and name.endswith("hfexp_grouped"):
        pytest.skip("ONNX Runtime computes indices from the changed ones, and fails")
    path = tmp_path / "broken.onnx"
    onnx.save(graph.model, path)
    raised, messages = raise_blocks(path)
    try:
        expected = run_onnx(graph.model, inputs)
    except Exception:  # a class of its own for each status
        assert_refused(path, inputs)
        return
    if not raised:
        assert "remark" in messages or "error" in messages
        return
    package = tmp_path / "broken.moec"
    done = compiler.run(path, "-O0", "-o", package, check=False)
    if "output dimension depends on data" in done.stderr:
        return  # A second user of the rows of one expert: refused, which loses nothing.
    assert done.returncode == 0, done.stderr
    with load(package) as opened:
        actual = opened.run(inputs)
    for output, value in expected.items():
        assert relative_error(actual[output], value) < 10 * tolerance(name)


def assert_refused(path, inputs):
    """A model that fails in ONNX Runtime fails here as well, compiled or run."""
    package = path.with_suffix(".moec")
    if run(tool("moec"), path, "-O0", "-o", package, check=False).returncode:
        return
    with load(package) as opened, pytest.raises(MoecError):
        opened.run(inputs)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Spellings of MoE blocks that no recorded model has: raised, and right against NumPy in
float64. And loops over experts that tracing froze."""

import numpy as np
import onnx
import pytest
from harness import TOLERANCES, run, tool
from moec.runtime import load
from references.evaluate import relative_error
from spellings import LLAMA4_BIAS, SPELLINGS, E, H, build, loop, make_weights, reference


def compare(compiler, path, weights, options, levels=("-O0", "-O3")):
    for tokens, level in zip((7, 40), levels):
        x = np.random.default_rng(tokens).standard_normal((tokens, H)).astype(np.float32)
        with load(compiler.package(path, level).path) as opened:
            assert relative_error(opened.run({"x": x})["y"], reference(x, weights, **options)) < TOLERANCES["float32"]


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(compiler, tmp_path, name):
    nodes, expected, options = SPELLINGS[name]
    path, weights = tmp_path / f"{name}.onnx", make_weights()
    onnx.save(build(nodes, weights), path)
    raised = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe")
    assert raised.stdout.count("= moe.combine ") == 1, raised.stderr
    for text in expected:
        assert text in raised.stdout
    compare(compiler, path, weights, options)


def test_biases_of_scaled_inputs(compiler, tmp_path):
    """Experts that are not chosen add their biases, so all must run."""
    path, weights = tmp_path / "bias.onnx", make_weights()
    onnx.save(build(LLAMA4_BIAS, weights), path)
    raised = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe")
    assert "moe.combine" not in raised.stdout
    assert "expected experts without biases" in raised.stderr
    compare(compiler, path, weights, {"scale_input": True, "bias": True}, levels=("-O0",))


def test_frozen_loops_are_refused(compiler, tmp_path):
    path = tmp_path / "frozen.onnx"
    onnx.save(build(loop(E - 1), make_weights()), path)
    refused = compiler.run(path, "-o", tmp_path / "refused.moec", check=False)
    assert refused.returncode == 2
    assert f"(Split): takes the experts that some token chose for {E - 1} of {E}" in refused.stderr
    assert "--allow-frozen-routing" in refused.stderr
    compiler.run(path, "-o", tmp_path / "allowed.moec", "--allow-frozen-routing", "--compile-to", "raise-moe")

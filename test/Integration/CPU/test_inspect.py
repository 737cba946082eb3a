# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""NAME.json says what the library does: the formula of the workspace against the
function that the library computes it with."""

import json

import harness
import numpy as np
import pytest
from moec.runtime import load

NAMES = ["layer0_moe", "layer1_qmoe_int4_asym"]


def evaluate(formula, **sizes):
    return eval(formula, {"__builtins__": {}, "Min": min, "Max": max, **sizes})


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("name", NAMES)
def test_workspace_formula(compiler, tinymoe, name, level):
    package = compiler.package(tinymoe.model(name), level)
    formula = package.info["entries"][0]["workspace"]
    with load(package.path) as model:
        for workers in (1, 3):
            with model.context(threads=workers) as context:
                for tokens in (0, 1, 7, 64, 1000):
                    inputs = {"hidden_states": np.zeros((tokens, 128), dtype=np.float32)}
                    assert evaluate(formula, tokens=tokens, workers=workers) == context.workspace_size(inputs)


def test_lowerings_are_those_of_the_report(compiler, tinymoe):
    package = compiler.package(tinymoe.model("layer0_moe"), "-O3")
    listed = {(row["op"], row["lowering"]): row["count"] for row in package.info["lowerings"]}
    counted = {}
    for row in package.report["lowerings"]:
        key = row["op"], row["lowering"]
        counted[key] = counted.get(key, 0) + 1
    assert listed == counted and listed


def test_page(compiler, tinymoe):
    package = compiler.package(tinymoe.model("layer1_qmoe_int4_asym"), "-O3")
    page = harness.run(harness.tool("moec"), "inspect", package.path).stdout
    for text in ("hidden_states: float32 [tokens, 128]", "E=16 k=4 H=128 I=64", "moe.experts", "bits=4", package.info["weights"]["digest"]):
        assert text in page
    assert json.loads(harness.run(harness.tool("moec"), "inspect", "--json", package.path).stdout) == package.info

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Where the test models are. `tinymoe` is a small trained model, in part in the
repository (test/models); `contrib_case` runs over the recorded graphs with contrib
operators and `exported_case` over those of other exporters, which are not: MOEC_MODELS
names the folder, ../shared/models beside the repository otherwise."""

import os
import sys

import pytest
from harness import BUILD, FIXTURES, MODELS, Compiler, tool
from safetensors.numpy import load_file

# The Python package under test.
sys.path.insert(0, str(BUILD / "python_packages"))



@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    """moec, with a cache of packages over the session."""
    if not tool("moec").exists():
        # scripts/test.sh builds first, so there it is a failure.
        absent = pytest.fail if "MOEC_BUILD_DIR" in os.environ else pytest.skip
        absent(f"moec is not built: {tool('moec')}")
    return Compiler(tmp_path_factory.mktemp("packages"))


class TinyMoE:
    """Layers of the trained model with recorded inputs and outputs."""

    def __init__(self, folder):
        self.folder = folder
        self.activations = load_file(folder / "activations.safetensors")

    def model(self, name):
        path = self.folder / f"{name}.onnx"
        if not path.exists():
            pytest.skip(f"models not found: {name}.onnx")
        return path

    def recorded(self, name):
        """(inputs, expected outputs) by graph name, of layer `name`."""
        self.model(name)
        layer, kind = name.split("_", 1)
        suffix = "" if kind == "moe" else f"_{kind}_dequant_reference"
        inputs = {"hidden_states": self.activations[f"{layer}.input"]}
        return inputs, {"output": self.activations[f"{layer}.output{suffix}"]}


@pytest.fixture(scope="session")
def tinymoe():
    folder = MODELS / "tinymoe"
    return TinyMoE(folder if folder.is_dir() else FIXTURES / "tinymoe")


def _public_cases(contrib):
    cases = sorted(path.parent for path in (MODELS / "public").glob("*/model.onnx"))
    return [case for case in cases if ("__contrib_" in case.name) == contrib]


def _parametrize(metafunc, fixture, contrib):
    cases = _public_cases(contrib)
    missing = pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"models not found: {MODELS / 'public'}"))
    params = [pytest.param(case, id=case.name) for case in cases] or [missing]
    metafunc.parametrize(fixture, params)


def pytest_generate_tests(metafunc):
    if "contrib_case" in metafunc.fixturenames:
        _parametrize(metafunc, "contrib_case", contrib=True)
    if "exported_case" in metafunc.fixturenames:
        _parametrize(metafunc, "exported_case", contrib=False)

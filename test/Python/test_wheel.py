# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The wheel: built as `pip install .` does, installed into a new environment, used there."""

import json
import os
import re
import sys
import zipfile

import harness
import numpy as np
import pytest
from references.evaluate import relative_error

MODEL = harness.ROOT / "test" / "models" / "tinymoe" / "layer0_moe.onnx"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built in build-wheel, beside the build folder and at the same depth: ccache then knows what
    scripts/build.sh compiled before, and a second build has nothing to do."""
    if "ASAN_OPTIONS" in os.environ:
        pytest.skip("the wheel is built without the sanitizers")
    folder = tmp_path_factory.mktemp("wheel")
    environment = os.environ | {
        "CMAKE_C_COMPILER_LAUNCHER": "ccache",
        "CMAKE_CXX_COMPILER_LAUNCHER": "ccache",
        "CCACHE_BASEDIR": str(harness.ROOT),
        "CCACHE_NOHASHDIR": "true",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    # The tools that the build needs are those of this environment.
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    settings = ["--config-settings", f"build-dir={harness.ROOT / 'build-wheel'}"]
    harness.run(*pip, *settings, "--wheel-dir", folder, harness.ROOT, env=environment, timeout=None)
    (path,) = folder.iterdir()
    return path


def test_contents(wheel):
    version = re.search(r"project\(moec VERSION ([0-9.]+)", (harness.ROOT / "CMakeLists.txt").read_text()).group(1)
    assert wheel.name == f"moec-{version}-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = harness.ROOT / "python"
    expected = {str(path.relative_to(source)) for path in (source / "moec").rglob("*") if path.suffix in (".py", ".typed")}
    compiler = {"bin/moec", "bin/moe-run", "lib/libmoec-c.so", "lib/moec/moec.h"}
    compiler |= {f"lib/moec/runtime_{name}.o" for name in ("openmp", "none", "custom", "cuda")}
    assert names == expected | {f"moec/_compiler/{name}" for name in compiler}


PROGRAM = """
import array, json, sys
import moec
assert moec.__file__.startswith(sys.prefix), moec.__file__
model = moec.compile(sys.argv[1], "layer0.moec")
x = array.array("f", json.load(sys.stdin))
rows = memoryview(x).cast("B").cast("f", (len(x) // 128, 128))
output = model.run({"hidden_states": rows}, results="dlpack")["output"]
print(array.array("f", output.tobytes()).tolist())
"""


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The folder of a new virtual environment, far from the repository."""
    folder = tmp_path_factory.mktemp("environment")
    harness.run(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    harness.run(*pip, "--no-deps", "--no-index", wheel)
    return folder


def test_compile_and_run(environment, tinymoe, tmp_path):
    inputs, expected = tinymoe.recorded("layer0_moe")
    numbers = json.dumps(inputs["hidden_states"].ravel().tolist())
    done = harness.run(environment / "bin" / "python", "-c", PROGRAM, MODEL, input=numbers, cwd=tmp_path)
    output = np.array(json.loads(done.stdout)).reshape(expected["output"].shape)
    assert relative_error(output, expected["output"]) < harness.TOLERANCES["float32"]


def test_command_line(environment, tmp_path):
    harness.run(environment / "bin" / "moec", MODEL, "-o", "layer0.moec", cwd=tmp_path)
    harness.run(environment / "bin" / "moe-run", "layer0.moec", "--time", "--dim=tokens=1", "--repetitions=1", cwd=tmp_path)
    text = harness.run(environment / "bin" / "python", "-m", "moec", "--version", cwd=tmp_path).stdout
    assert text == harness.run(harness.tool("moec"), "--version").stdout

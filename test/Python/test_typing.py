# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The annotations: of the package itself, and as a caller sees them."""

import sys

import harness
import pytest

PACKAGES = harness.BUILD / "python_packages"


def mypy(*arguments, check=True):
    cache = harness.BUILD / "mypy_cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", cache]
    return harness.run(*command, *arguments, check=check, env={"MYPYPATH": str(PACKAGES), "PATH": ""})


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_the_package(version):
    assert mypy("--python-version", version, "-p", "moec").stdout == ""


CALLER = """
import moec
import numpy as np

model = moec.compile("a.onnx", "a.moec", dims={"batch": 1}, O=2, keep=["x"], progress=False)
reveal_type(model(x=np.zeros(3))["y"])
reveal_type(model.run({"x": b""}, results="dlpack")["y"])
reveal_type(moec.load("a.moec", threads=2).inputs[0].dims)
model.run({"x": b""}, results="torch")
moec.load("a.moec", thread=2)
moec.compile(3)
model(x=3)
"""


def test_a_caller(tmp_path):
    """Types that are known, and mistakes that are found."""
    program = tmp_path / "caller.py"
    program.write_text(CALLER)
    done = mypy(program, check=False)
    lines = {}
    for line in done.stdout.splitlines():
        _, number, kind, text = line.split(":", 3)
        lines.setdefault(int(number), f"{kind.strip()}: {text}")
    assert "ndarray" in lines[6] and lines[6].startswith("note")
    assert "Tensor" in lines[7] and "tuple[int | str, ...]" in lines[8]
    assert all(lines[number].startswith("error") for number in (9, 10, 11, 12)), done.stdout
    assert set(lines) == {6, 7, 8, 9, 10, 11, 12}, done.stdout

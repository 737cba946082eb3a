# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Where the weights of an open model are: mapped page by page, mapped at once, or copied."""

import json
import pathlib
import re

import numpy as np
import pytest
from harness import run, tool
from moec.runtime import MoecError, load
from references import generate


@pytest.fixture(scope="module")
def package(compiler):
    layer = generate.Layer(experts=16, k=1, hidden=256, intermediate=256, activation="relu")
    inputs = generate.draw_inputs(layer, 3)
    package = compiler.package(generate.build(layer), "-O1")
    assert package.weights.stat().st_size > 64 * 65536
    return package, inputs


def mapped_bytes(path):
    """(bytes of the file that this process has mapped, those of them that are in its page table)."""
    size = resident = 0
    is_it = False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_it = line.endswith(str(path))
        elif is_it and line.startswith("Size:"):
            size += int(line.split()[1]) * 1024
        elif is_it and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return size, resident


def test_options(package):
    package, inputs = package
    length = package.weights.stat().st_size
    with load(package.path) as model:
        size, resident = mapped_bytes(package.weights.resolve())
        assert size >= length > resident
        expected = model.run(inputs)
    with load(package.path, populate=True) as model:
        size, resident = mapped_bytes(package.weights.resolve())
        assert size == resident >= length
        results = model.run(inputs)
    with load(package.path, huge_pages=True, prefetch=True) as model:
        assert mapped_bytes(package.weights.resolve()) == (0, 0)
        copied = model.run(inputs)
    for name, value in expected.items():
        np.testing.assert_array_equal(results[name], value)
        np.testing.assert_array_equal(copied[name], value)


@pytest.mark.parametrize("options", [{"populate": True}, {"huge_pages": True}])
def test_another_file(package, tmp_path, options):
    """Checked as without the option."""
    package, _ = package
    bytes = package.weights.read_bytes()
    other = tmp_path / "other.safetensors"
    for content, message in ((bytes[:-1], "truncated"), (bytes.replace(b'"digest":"', b'"digest":"x', 1)[:-1], "another model")):
        other.write_bytes(content)
        with pytest.raises(MoecError, match=message):
            load(package.path, weights=other, **options)


@pytest.mark.parametrize("option", ["--populate", "--huge-pages"])
def test_moe_run(package, option):
    package, _ = package
    command = [tool("moe-run"), package.path, "--time", "--dim=tokens=2", "--repetitions=2", "--json"]
    assert json.loads(run(*command, option).stdout)

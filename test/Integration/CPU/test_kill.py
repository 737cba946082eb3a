# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Killing moec at any moment leaves no package, the old one, or the new one, and no
folder that the next compilation does not remove. MOEC_KILLS=N kills N times; a few by
default, 100 now and then."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from harness import TOLERANCES, tool
from moec.runtime import load
from references import generate
from references.evaluate import evaluate, relative_error

LAYER = generate.Layer(experts=8, k=2, hidden=64, intermediate=64, activation="silu", third=True)
KILLS = int(os.environ.get("MOEC_KILLS", 24))


def contents(package):
    return {path.name: path.read_bytes() for path in package.iterdir()}


@pytest.fixture(scope="module")
def goldens(compiler, tmp_path_factory):
    """Two models that make packages of one name: (path, arguments, files of its package)."""
    folder = tmp_path_factory.mktemp("goldens")
    result = []
    for index in range(2):
        model = generate.build(dataclasses.replace(LAYER, seed=index))
        path = folder / f"model{index}.onnx"
        path.write_bytes(model.SerializeToString())
        package = folder / f"{index}" / "layer.moec"
        package.parent.mkdir()
        compiler.run(path, *ARGUMENTS, "-o", package)
        inputs = generate.draw_inputs(LAYER, 5)
        output = load(package).run(inputs)["output"]
        assert relative_error(output, evaluate(model, inputs)["output"]) < TOLERANCES["float32"]
        result.append((path, package, contents(package)))
    return result


ARGUMENTS = ("-O1", "--threads=none")


def time_of(command):
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - start


@pytest.mark.parametrize("existing", [False, True], ids=["without-package", "over-package"])
def test_killed_at_random_moments(tmp_path, goldens, existing):
    (_, old_package, old), (model, _, new) = goldens
    package = tmp_path / "layer.moec"
    command = [str(word) for word in (tool("moec"), model, *ARGUMENTS, "-o", package)]
    # The smaller of two: if the machine pauses during one, kills would come after the end.
    whole = min(time_of(command) for _ in range(2))
    generator = random.Random(int(existing))
    killed = 0
    for _ in range((KILLS + 1) // 2):
        shutil.rmtree(package, ignore_errors=True)
        if existing:
            shutil.copytree(old_package, package)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(0, 1.1 * whole))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if package.exists():
            found = contents(package)
            # The same input gives the same bytes, and these two were run.
            assert found == new or (existing and found == old), sorted(found)
        else:
            assert not existing
    assert killed > 0, "no kill came before the end"
    subprocess.run(command, check=True, capture_output=True)
    assert contents(package) == new
    assert [path.name for path in tmp_path.iterdir()] == ["layer.moec"], "folders were left"


def test_folder_of_a_running_compilation_stays(tmp_path, goldens):
    """Only folders that nobody uses are removed."""
    import fcntl

    used, stale = (tmp_path / f".layer.moec.tmp-{name}" for name in ("used", "stale"))
    for folder in (used, stale):
        folder.mkdir()
        (folder / "layer.json").touch()
    lock = os.open(used, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    model = goldens[0][0]
    subprocess.run([str(tool("moec")), str(model), *ARGUMENTS, "-o", str(tmp_path / "layer.moec")], check=True)
    os.close(lock)
    assert used.exists() and not stale.exists()

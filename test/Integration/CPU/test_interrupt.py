# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A signal ends a compilation in order: nothing half-written stays, a package that was
there is untouched."""

import os
import shutil
import signal
import subprocess

import harness
import pytest

INTERRUPTED = 6


@pytest.fixture
def runtime(tmp_path):
    """A runtime folder whose moec.h is a pipe: moec waits there, its package all but
    finished, until somebody writes."""
    folder = tmp_path / "runtime"
    shutil.copytree(harness.BUILD / "lib" / "moec", folder)
    (folder / "moec.h").unlink()
    os.mkfifo(folder / "moec.h")
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal(compiler, tinymoe, tmp_path, runtime, number):
    model, package = tinymoe.model("layer0_moe"), tmp_path / "out" / "layer.moec"
    package.parent.mkdir()
    compiler.run(model, "-o", package, "-O1")
    before = {path.name: path.read_bytes() for path in package.iterdir()}

    command = [harness.tool("moec"), model, "-o", package, "-O0", "--runtime-dir", runtime]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open(runtime / "moec.h", "w") as header:  # opens when moec does
        assert any(path.name.startswith(".layer.moec.tmp-") for path in package.parent.iterdir())
        process.send_signal(number)
        header.write("/* moec.h */")
    output, errors = process.communicate(timeout=harness.TIMEOUT_SECONDS)

    assert process.returncode == INTERRUPTED, errors
    assert (output, errors) == ("", "moec: error: interrupted\n")
    assert list(package.parent.iterdir()) == [package]
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before

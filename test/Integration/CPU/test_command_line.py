# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moec as people meet it: completion by a shell's own machinery, and what is drawn
on a terminal."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import harness
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

MOEC = harness.tool("moec")
ENVIRONMENT = {**os.environ, "PATH": f"{harness.BUILD / 'bin'}:{os.environ['PATH']}"}


# --- completion ----------------------------------------------------------------------------


def bash_complete(folder, *words):
    """What bash offers for the last word. It splits at '='."""
    script = """
source <(moec completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_moec
printf '%s\\n' "${COMPREPLY[@]}"
"""
    command = ["bash", "--norc", "-c", script, "bash", *words]
    return harness.run(*command, cwd=folder, env=ENVIRONMENT).stdout.split()


def fish_complete(folder, *words):
    line = " ".join(words).replace(" = ", "=")
    script = f"moec completion fish | source; complete -C '{line}'"
    lines = harness.run("fish", "--no-config", "-c", script, cwd=folder, env=ENVIRONMENT).stdout.splitlines()
    return [line.split("\t")[0] for line in lines]


SHELLS = {"bash": bash_complete, "fish": fish_complete}


@pytest.fixture(params=SHELLS)
def complete(request, tmp_path):
    shell = request.param
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "layer one.onnx").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "old.moec").mkdir()
    return lambda *words: SHELLS[shell](tmp_path, "moec", *words)


def test_options_and_values(complete):
    assert {"x86-64-v3", "x86-64-v4"} <= set(" ".join(complete("--cpu", "=", "x")).replace("--cpu=", "").split())
    offered = " ".join(complete("--co"))
    assert "--color" in offered and "--compile-to" in offered and "--cpu" not in offered
    phases = " ".join(complete("--compile-to", "=", "moe"))
    assert "moe-to-cpu" in phases and "bufferize" not in phases
    assert "openmp" in " ".join(complete("--threads", "o"))


def test_commands(complete):
    assert "doctor" in complete("doc")
    assert {"bash", "zsh", "fish"} <= set(complete("completion", ""))
    assert "--json" in complete("inspect", "--")


def test_files(complete):
    offered = " ".join(complete("l"))
    assert "layer" in offered and "one.onnx" in offered
    assert "notes" not in " ".join(complete("-o", ""))
    assert "old.moec" in " ".join(complete("inspect", "o"))


def test_every_option_is_completed(tmp_path):
    """In the scripts of all shells: what the help lists. zsh completes only what a
    person types, so of its script just the syntax is checked."""
    names = re.findall(r"^  --?([\w-]+)", harness.run(MOEC, "--help").stdout, re.MULTILINE)
    assert "cpu" in names and "help" in names and len(names) > 15
    for shell in ("bash", "zsh", "fish"):
        script = harness.run(MOEC, "completion", shell).stdout
        for name in names:
            dashes = "-" if len(name) == 1 else "--"
            spelling = f"-{'s' if len(name) == 1 else 'l'} {name} " if shell == "fish" else f"{dashes}{name}"
            assert spelling in script, (shell, name)
        path = tmp_path / f"moec.{shell}"
        path.write_text(script)
        if shutil.which(shell):
            harness.run(shell, "-n", path)


# --- on a terminal ---------------------------------------------------------------------------


def run_on_terminal(*words, env=ENVIRONMENT, columns=80):
    """(exit status, everything that is written), with a terminal as stdout and stderr."""
    parent, child = pty.openpty()
    env = {**env, "TERM": "xterm", "COLUMNS": str(columns)}
    process = subprocess.Popen([str(word) for word in words], stdout=child, stderr=child, stdin=child, env=env)
    os.close(child)
    data, deadline = b"", time.monotonic() + harness.TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            chunk = os.read(parent, 65536) if select.select([parent], [], [], 1)[0] else b" "[:0]
        except OSError:  # the other end is closed
            break
        data += chunk
    os.close(parent)
    return process.wait(), data.decode()


def test_colours_on_a_terminal(tmp_path):
    absent = tmp_path / "absent.onnx"
    env = {name: value for name, value in ENVIRONMENT.items() if name != "NO_COLOR"}
    status, text = run_on_terminal(MOEC, absent, env=env)
    assert status == 2 and "\x1b[" in text and "error: " in text
    for env, flags in (({**env, "NO_COLOR": "1"}, []), (env, ["--color=never"])):
        status, text = run_on_terminal(MOEC, absent, *flags, env=env)
        assert status == 2 and "\x1b" not in text and "absent.onnx: error: " in text
    _, text = run_on_terminal(MOEC, absent, "--color=always", env={**env, "NO_COLOR": "1"})
    assert "\x1b[" in text


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """A model whose compilation takes more than a second: 150 MB of weights."""
    experts, hidden, inner = 16, 1024, 1024
    random = np.random.default_rng(0)
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, random.standard_normal(shape, dtype=np.float32).tobytes(), raw=True)
        for name, shape in (("up", (experts, inner, hidden)), ("down", (experts, hidden, inner)))
    ]
    node = helper.make_node("MoE", ["x", "logits", "up", "", "down"], ["y"], domain="com.microsoft", k=2, name="moe")
    value = lambda name, width: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", width])
    graph = helper.make_graph([node], "slow", [value("x", hidden), value("logits", experts)], [value("y", hidden)], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path_factory.mktemp("slow") / "slow.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.mark.parametrize("columns", [80, 20])
def test_progress(slow_model, tmp_path, columns):
    status, text = run_on_terminal(MOEC, slow_model, "-o", tmp_path / "slow.moec", columns=columns)
    assert status == 0
    # Each picture is taken away before the next one, and the last before the summary.
    *pictures, summary = text.split("\r\x1b[K")
    assert pictures and all(picture.strip().startswith("moec: ") or not picture for picture in pictures)
    assert all(len(picture) < columns and "\n" not in picture for picture in pictures)
    assert re.fullmatch(r"\S*slow\.moec: 1 MoE block .*\r\n", summary)


def test_quiet_on_a_terminal(slow_model, tmp_path):
    assert run_on_terminal(MOEC, slow_model, "-o", tmp_path / "slow.moec", "--quiet") == (0, "")

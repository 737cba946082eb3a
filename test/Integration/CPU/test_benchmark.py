# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""benchmarks/layer_vs_peers.py loses no row, however it is stopped, and goes on; what --full
measures; the tables that benchmarks/table.py writes. No times."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from harness import ROOT, run, tool

sys.path.insert(0, str(ROOT / "benchmarks"))
import layer_model  # noqa: E402
import layer_vs_peers  # noqa: E402
import table  # noqa: E402

BENCHMARK = ROOT / "benchmarks" / "layer_vs_peers.py"
# Of two types and two numbers of tokens.
LAYER, ROWS = "4,2,64,32", 4


def command(folder, *more):
    sizes = ["--layer", LAYER, "--type", "f32,int4", "--tokens", "1,3", "--threads", "1"]
    places = ["--folder", folder / "files", "--json", folder / "figures.json", "--moec", tool("moec")]
    return [sys.executable, BENCHMARK, *sizes, *places, "--no-peers", "--seconds", "0.01", "--repetitions", "1", *more]


def rows(folder):
    return json.loads((folder / "figures.json").read_text())["rows"]


def stop_after(folder, number, how):
    """Sends a signal once the row of that number is printed; returns (exit status, stderr)."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    # A shell may have started the tests with SIGINT ignored.
    attend = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command(folder, "--clean"), env=environment, preexec_fn=attend, **pipes) as process:
        for line in process.stdout:
            if line.startswith(f"| {number}/{ROWS} "):
                process.send_signal(how)
                break
        _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run that is killed after its first row, interrupted after the third, and then let go on:
    the folder, and the rows that were there after each."""
    if not shutil.which(os.environ.get("CC", "clang-22")):
        pytest.skip("unsupported: the ceilings need a C compiler")
    folder, history = tmp_path_factory.mktemp("benchmark"), []
    status, _ = stop_after(folder, 1, signal.SIGKILL)
    assert status == -signal.SIGKILL
    history.append(rows(folder))
    # What a process leaves that is killed while it writes.
    (folder / "figures.json.part").write_text('{"rows": [')
    status, errors = stop_after(folder, 3, signal.SIGINT)
    history.append(rows(folder))
    assert status == 1 and errors.endswith(f"stopped with {len(history[-1])} rows. The same command goes on.\n")
    run(*command(folder, "--clean"))
    return folder, [*history, rows(folder)]


def test_goes_on(measured):
    folder, history = measured
    killed, interrupted, whole = history
    assert 1 <= len(killed) < ROWS and 3 <= len(interrupted) < ROWS and len(whole) == ROWS
    # What was measured stays as it was, and nothing is there twice.
    assert whole[: len(interrupted)] == interrupted and interrupted[: len(killed)] == killed
    assert len({layer_vs_peers.key_of(row) for row in whole}) == ROWS
    assert all(row["sides"]["moec"]["error"] < 1e-5 and row["seconds"] > 0 for row in whole)
    # A run that has everything measures nothing.
    assert "| " not in run(*command(folder)).stdout and rows(folder) == whole


def test_clean(measured):
    """What was made for the layers is gone."""
    folder, _ = measured
    left = {path.name for path in (folder / "files").iterdir()}
    assert left == {"ceilings.so", "report.json", "peers.log"}


def test_other_machine(measured, tmp_path):
    folder, _ = measured
    figures = json.loads((folder / "figures.json").read_text())
    figures["machine"]["cores"] += 1
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    done = run(*command(tmp_path), check=False)
    assert done.returncode == 1 and "figures.json is of another machine" in done.stderr


def test_table(measured):
    folder, _ = measured
    text = run(sys.executable, ROOT / "benchmarks" / "table.py", folder / "figures.json").stdout
    assert "### 4,2,64,32: 4 experts, 2 per token, hidden size 64, intermediate size 32, uniform routing, 1 thread\n" in text
    assert sum(line.startswith(("| f32 |", "| int4 |")) for line in text.splitlines()) == ROWS


def test_cells_of_the_table():
    """The better of PyTorch's two ways; a dash where a program has no such layer; no column where none has; no
    time of wrong results."""
    side = dict(min=1.0, median=2.0, max=3.0, at_best=0.5, at_median=0.25, error=1e-7)
    torch = {"PyTorch grouped_mm": dict(side, median=3.0), "PyTorch expert loop": dict(side, median=0.5, error=0.9), "ggml": dict(side, error=float("nan"))}
    row = dict(type="bf16", routing="hot", tokens=8, active_experts=2.6, read_gb_per_s=dict(median=20.4, max=30), floor_ms=dict(best=0.5))
    rows = [dict(row, sides={"moec": side, **torch}), dict(row, routing="uniform", sides={"moec": side})]
    header, _, first, second = table.lines(rows)
    assert header == "| weights | routing | T | active | GB/s: median / max | floor | min | median | max | of the floor: best | of the floor: median | error | PyTorch | ggml |"
    assert first == "| bf16 | hot | 8 | 3 | 20 / 30 | 0.50 | 1.00 | 2.00 | 3.00 | 50% | 25% | 1e-07 | 3.0 (1.50x) | wrong results |"
    assert second.endswith("| – | – |")


NAMES = "mixtral,olmoe"  # commas are of E,k,H,I


def wanted(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["layer_vs_peers.py", *arguments])
    return layer_vs_peers.wanted_rows(layer_vs_peers.parse_arguments())


def test_full(monkeypatch):
    """Every named layer and distribution, 1 to 4096 tokens; other options choose of that."""
    full = ("--full", "--json", "figures.json")
    groups, left_out = wanted(monkeypatch, *full, "--trace", "trace.npz")
    keys = [key for group in groups.values() for key in group]
    assert len(set(keys)) == len(keys)
    layers, types, threads, routings, tokens = (set(values) for values in zip(*keys))
    assert layers == set(layer_model.NAMED) and types == set(layer_model.TYPES)
    assert threads == {1, layer_vs_peers.CORES} and routings == set(layer_vs_peers.routing.DISTRIBUTIONS) and {1, 4096} <= tokens
    assert set(left_out) == {("odd", "int4")}
    some, _ = wanted(monkeypatch, *full, "--layer", "qwen3", "--routing", "uniform,hot", "--tokens", "64")
    assert {key for group in some.values() for key in group} == {key for key in keys if key[0] == "qwen3" and key[3] in ("uniform", "hot") and key[4] == 64}
    without_trace, _ = wanted(monkeypatch, *full)
    assert {key for group in without_trace.values() for key in group} == {key for key in keys if key[3] != "trace"}


@pytest.mark.parametrize("arguments, message", [(["--full"], "say --json"), (["--full", "--json", "f", "--routing", "trace"], "needs --trace"),
                                                ([f"--layer={NAMES}"], f"'{NAMES}' is not one of mixtral, qwen3")])
def test_usage(monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit):
        wanted(monkeypatch, *arguments)
    assert message in capsys.readouterr().err

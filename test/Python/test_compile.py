# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moec.compile: options, errors, progress, interruption."""

import concurrent.futures
import logging
import os
import pickle
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import types

import harness
import moec
import numpy as np
import onnx
import pytest
from harness import TOLERANCES
from onnx import TensorProto, helper
from references.evaluate import relative_error

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that libmoec-c.so has"
)

MODEL = harness.ROOT / "test" / "models" / "tinymoe" / "layer0_moe.onnx"
# Of other processes.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(harness.BUILD / "python_packages")}


def test_compile_and_run(tinymoe, tmp_path):
    inputs, expected = tinymoe.recorded("layer0_moe")
    model = moec.compile(MODEL, tmp_path / "layer0.moec")
    assert model.package == tmp_path / "layer0.moec"
    output = model(**inputs)["output"]
    assert output.dtype == np.float32
    assert relative_error(output, expected["output"]) < TOLERANCES["float32"]
    with moec.load(model.package, threads=1) as again:
        np.testing.assert_array_equal(again.run(inputs)["output"], output)


def test_the_name_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = moec.compile(str(MODEL))
    assert model.name == "layer0_moe" and os.listdir() == ["layer0_moe.moec"]


def test_options(tinymoe, tmp_path):
    inputs, _ = tinymoe.recorded("layer0_moe")
    report = tmp_path / "report.json"
    model = moec.compile(
        MODEL,
        tmp_path / "layer0.moec",
        cpu="x86-64-v3",
        dims={"tokens": 4},
        O=1,
        threads="none",
        keep=["router_logits"],
        report=report,
        verify_each=True,
        model_dir=None,
    )
    assert model.info["target"]["cpu"] == "x86-64-v3" and model.info["target"]["threads"] == "none"
    assert model.info["opt_level"] == 1
    assert model.inputs[0].dims == (4, 128)
    assert {one.name for one in model.outputs} == {"output", "router_logits"}
    assert '"operators"' in report.read_text()
    logits = model.run({"hidden_states": inputs["hidden_states"][:4]})["router_logits"]
    recorded = tinymoe.activations["layer0.router_logits"][:4]
    assert relative_error(logits, recorded) < TOLERANCES["float32"]


def test_compiling_again_replaces_what_is_loaded(tmp_path):
    """The system's loader knows libraries by their paths."""
    package = tmp_path / "layer0.moec"
    x = np.ones((3, 128), np.float32)
    outputs = []
    for level in (3, 0, 3):
        model = moec.compile(MODEL, package, O=level)
        assert model.info["opt_level"] == level
        outputs.append(model(hidden_states=x)["output"])
    np.testing.assert_array_equal(outputs[0], outputs[2])
    assert moec.load(package).info["opt_level"] == 3


def test_compilations_at_the_same_time(tinymoe, tmp_path):
    inputs, expected = tinymoe.recorded("layer0_moe")

    def work(level):
        return moec.compile(MODEL, tmp_path / f"level{level}" / "layer0.moec", O=level, threads="none")

    for level in range(4):
        (tmp_path / f"level{level}").mkdir()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        models = list(pool.map(work, range(4)))
    assert [model.info["opt_level"] for model in models] == [0, 1, 2, 3]
    for model in models:
        assert relative_error(model.run(inputs)["output"], expected["output"]) < TOLERANCES["float32"]


def test_another_cpu(tmp_path):
    """The description is there on any CPU."""
    model = moec.compile(MODEL, tmp_path / "layer0.moec", cpu="diamondrapids")
    assert model.inputs[0].name == "hidden_states"
    try:
        model(hidden_states=np.ones((3, 128), np.float32))
    except moec.MoecError as error:
        assert error.status == "CPU"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ({"cpv": "native"}, ["cpv", "--cpu"]),
        ({"cpu": "z80"}, ["z80", "x86-64-v3"]),
        ({"O": 9}, ["9"]),
        ({"dims": {"tokens": -1}}, ["tokens=-1"]),
        ({"verify_each": "perhaps"}, ["perhaps"]),
        ({"compile_to": "llvm"}, ["--compile-to"]),
    ],
)
def test_wrong_options(tmp_path, options, words):
    with pytest.raises(moec.CompileError) as caught:
        moec.compile(MODEL, tmp_path / "layer0.moec", **options)
    assert caught.value.status == "USAGE"
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert os.listdir(tmp_path) == []


def test_unsupported_operators(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Fold", ["a"], ["b"], name="second", domain="some.domain"),
        helper.make_node("Unfold", ["b"], ["y"], name="third", domain="some.domain"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("some.domain", 1)]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:])
    path = tmp_path / "strange.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    with pytest.raises(moec.CompileError) as caught:
        moec.compile(path, tmp_path / "strange.moec")
    error = caught.value
    assert error.status == "UNSUPPORTED"
    assert (error.file, error.node, error.operator) == ("strange.onnx", "second", "some.domain.Fold")
    assert "second" in error.message and "third" in error.message
    (diagnostic,) = error.diagnostics
    assert (diagnostic.severity, diagnostic.message, diagnostic.line) == ("error", error.message, 1)
    assert str(error) == str(diagnostic) == f"strange.onnx:1:1: error: {error.message}"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.status, str(copy), copy.node) == (error.status, str(error), "second")
    assert os.listdir(tmp_path) == ["strange.onnx"]


def test_bad_models(tmp_path):
    with pytest.raises(moec.CompileError, match="absent.onnx") as caught:
        moec.compile(tmp_path / "absent.onnx")
    assert caught.value.status == "BAD_MODEL" and caught.value.file == "absent.onnx"
    (tmp_path / "text.onnx").write_text("This is no model.")
    with pytest.raises(moec.CompileError, match="text.onnx") as caught:
        moec.compile(tmp_path / "text.onnx")
    assert caught.value.status == "BAD_MODEL"


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(moec.CompileError) as caught:
        moec.compile(MODEL, tmp_path / "file" / "layer0.moec")
    assert caught.value.status == "OUTPUT"


def test_nothing_is_printed(tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO, "moec")
    moec.compile(MODEL, tmp_path / "layer0.moec", log_level="remark")
    with pytest.raises(moec.CompileError):
        moec.compile(tmp_path / "absent.onnx")
    assert capfd.readouterr() == ("", "")
    assert "1 MoE block" in caplog.records[-1].message


def test_warnings_are_warnings(tmp_path):
    """A shape that the model states, and that is not so."""
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    stated = helper.make_tensor_value_info("a", TensorProto.FLOAT, [3])
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], value_info=[stated])
    path = tmp_path / "stated.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.warns(moec.CompileWarning, match="stated.onnx:0:1: warning: .*'first'") as warned:
        model = moec.compile(path, tmp_path / "stated.moec")
    assert warned[0].filename == __file__
    np.testing.assert_array_equal(model(x=np.array([-1, 2], np.float32))["y"], [0, 2])


def test_the_compiler_is_not_installed(tmp_path):
    """A copy of the package with a libmoec-c.so whose dependency does not exist."""
    shutil.copytree(harness.ROOT / "python" / "moec", tmp_path / "moec")
    program = "import moec\ntry: moec.compile('x.onnx')\nexcept moec.MoecError as e: print(e.status, e)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    absent = harness.run(sys.executable, "-c", program, env=environment, cwd=tmp_path).stdout
    assert absent.startswith("COMPILER") and "has no compiler" in absent

    libraries = tmp_path / "moec" / "_compiler" / "lib"
    libraries.mkdir(parents=True)
    (tmp_path / "empty.c").touch()
    mlir = tmp_path / "libMLIR.so.99"
    harness.run("gcc", "-shared", "-Wl,-soname,libMLIR.so.99", tmp_path / "empty.c", "-o", mlir)
    harness.run("gcc", "-shared", tmp_path / "empty.c", "-Wl,--no-as-needed", mlir, "-o", libraries / "libmoec-c.so")
    mlir.unlink()
    missing = harness.run(sys.executable, "-c", program, env=environment, cwd=tmp_path).stdout
    assert missing.startswith("COMPILER")
    assert "libMLIR.so.99" in missing and "apt-get install libmlir-22" in missing


# --- progress ------------------------------------------------------------------------------------


def test_progress_function(tmp_path):
    calls, thread = [], threading.get_ident()

    def watch(phase, done, total):
        assert threading.get_ident() == thread
        calls.append((phase, done, total))

    model = moec.compile(MODEL, tmp_path / "layer0.moec", progress=watch)
    phases = [phase for phase, _, _ in calls]
    assert phases[0] == "import" and "raise-moe" in phases
    weights = [(done, total) for _, done, total in calls if total]
    size = next(model.package.glob("*.safetensors")).stat().st_size
    assert weights == sorted(weights) and weights[-1][0] == weights[-1][1] <= size


def test_an_exception_of_the_progress_function_stops(tmp_path):
    def stop(phase, done, total):
        if total:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        moec.compile(MODEL, tmp_path / "layer0.moec", progress=stop)
    assert os.listdir(tmp_path) == []
    assert not [one for one in threading.enumerate() if one.name == "moec.compile"]


def run_compile(tmp_path, stderr, **options):
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    program = f"import moec\nmoec.compile({str(MODEL)!r}, {str(tmp_path / 'layer0.moec')!r}, {text})"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=stderr, env=ENVIRONMENT)


def read_all(descriptor):
    """What comes from a terminal until its other end is closed."""
    data = b""
    while True:
        try:
            part = os.read(descriptor, 4096)
        except OSError:
            return data.decode()
        if not part:
            return data.decode()
        data += part


@pytest.mark.parametrize("progress", [True, False])
def test_progress_in_a_terminal(tmp_path, progress):
    terminal, end = pty.openpty()
    process = run_compile(tmp_path, end, progress=progress)
    os.close(end)
    shown = read_all(terminal)
    os.close(terminal)
    assert process.wait(harness.TIMEOUT_SECONDS) == 0
    if not progress:
        assert shown == ""
        return
    assert "\rraise-moe" in shown and "\n" not in shown
    assert f"package [{'#' * 40}] 100% of 0.0 GB" in shown
    assert shown.endswith(" \r")  # erased


class FakeNotebook:
    """As much of IPython as is used; `shown` has what one output of the cell said."""

    def __init__(self, monkeypatch):
        self.shown = []
        shell = types.SimpleNamespace(kernel=object())
        ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        ipython.get_ipython, display.display = lambda: shell, self.display
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, data, *, raw, display_id):
        assert raw and display_id
        self.shown.append(data["text/plain"])
        return self

    def update(self, data, *, raw):
        self.shown.append(data["text/plain"])


def test_progress_in_a_notebook(tmp_path, monkeypatch, capfd):
    notebook = FakeNotebook(monkeypatch)
    moec.compile(MODEL, tmp_path / "layer0.moec")
    assert notebook.shown[:2] == ["", "import"] and notebook.shown[-1] == ""
    assert any("100%" in text for text in notebook.shown)
    assert capfd.readouterr() == ("", "")


# --- interruption ----------------------------------------------------------------------------------

INTERRUPTED = """
import sys, threading
import moec

def join(thread, *args):
    print("waiting for its end", flush=True)
    old_join(thread, *args)

old_join, threading.Thread.join = threading.Thread.join, join
try:
    moec.compile(sys.argv[1], sys.argv[2], O=0, runtime_dir=sys.argv[3])
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
"""


def test_interruption(tmp_path):
    """The runtime folder's moec.h is a pipe: the compiler waits there, its package all but finished,
    until somebody writes. That happens when Python has told it to stop."""
    runtime, out = tmp_path / "runtime", tmp_path / "out"
    out.mkdir()
    shutil.copytree(harness.BUILD / "lib" / "moec", runtime)
    (runtime / "moec.h").unlink()
    os.mkfifo(runtime / "moec.h")
    command = [sys.executable, "-c", INTERRUPTED, MODEL, out / "layer0.moec", runtime]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A shell lets its background jobs, and what they start, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with open(runtime / "moec.h", "w") as header:  # opens when the compiler does
        assert len(os.listdir(out)) == 1
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "waiting for its end\n"
        header.write("/* moec.h */")
    assert process.communicate(timeout=harness.TIMEOUT_SECONDS) == ("interrupted 1\n", "")
    assert os.listdir(out) == []


# --- the command line --------------------------------------------------------------------------------


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "moec"]
    version = harness.run(*command, "--version", env=ENVIRONMENT).stdout
    assert version == harness.run(harness.tool("moec"), "--version").stdout
    harness.run(*command, MODEL, "-o", tmp_path / "layer0.moec", env=ENVIRONMENT)
    assert moec.load(tmp_path / "layer0.moec").name == "layer0"
    assert harness.run(*command, "--nothing", env=ENVIRONMENT, check=False).returncode == 1


# --- the documented programs ---------------------------------------------------------------------------

def test_example(tmp_path):
    program = harness.ROOT / "examples" / "python" / "moe_layer.py"
    lines = harness.run(sys.executable, program, MODEL, 3, env=ENVIRONMENT, cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "<moec model layer0_moe: (hidden_states: float32[tokens, 128]) -> (output: float32[tokens, 128])>"
    assert lines[1].startswith("output [3, 128]: largest value ")
    assert lines[2].startswith("one run: ")


def test_readme_example(tinymoe, tmp_path, monkeypatch):
    readme = (harness.ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    inputs, expected = tinymoe.recorded("layer0_moe")
    (tmp_path / "test").symlink_to(harness.ROOT / "test")
    monkeypatch.chdir(tmp_path)
    names = {"array": inputs["hidden_states"]}
    exec(code, names)
    assert relative_error(names["output"], expected["output"]) < TOLERANCES["float32"]

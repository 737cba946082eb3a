# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Packages for CUDA from Python, with arrays of a fake library whose memory the stand-in for the driver takes for
a device's: who waits for whom, where results are, errors. Each test is a process, which the stand-in records."""

import os
import shutil
import sys
import textwrap

import harness
import numpy as np
import pytest
from harness import run

MODEL = harness.ROOT / "test" / "models" / "tinymoe" / "layer0_moe.onnx"
DRIVER = harness.BUILD / "test" / "Runtime" / "Driver"

PROLOGUE = """
import pathlib, sys
import numpy as np
from moec.runtime import MoecError, Tensor, load
from moec.runtime._interface import DLDevice

class Array(Tensor):
    "An array on a device, as another library has it."
    def __init__(self, shape=(6, 128), dtype="float32", device=(2, 0)):
        self._place = DLDevice(*device)
        self.streams = []
        super().__init__(shape, dtype)
    def __dlpack__(self, *, stream=None, max_version=None, **_):
        self.streams.append(stream)
        return self._make_capsule(max_version, 0)

def log():
    "What was recorded since the last look."
    text = LOG.read_text().splitlines() if LOG.exists() else []
    LOG.write_text("")
    return text

def error_of(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except (MoecError, BufferError) as error:
        return str(error)
    raise AssertionError("no error")

PACKAGE, LOG = sys.argv[1], pathlib.Path(sys.argv[2])
"""


@pytest.fixture
def package(compiler):
    return compiler.package(MODEL, "--target=cuda", "--gpu-format=ptx")


@pytest.fixture
def both(compiler):
    return compiler.package(MODEL, "--target=cpu,cuda", "--gpu-format=ptx")


@pytest.fixture
def execute(tmp_path):
    """Runs a program; returns what was recorded after its last look."""

    def call(package, program, driver=True, **variables):
        log = tmp_path / "log"
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        env["PYTHONPATH"] = os.pathsep.join([str(harness.BUILD / "python_packages"), env.get("PYTHONPATH", "")])
        env.update({f"FAKE_CUDA_{name}": str(value) for name, value in variables.items()})
        if driver:
            assert DRIVER.is_dir(), "the stand-in for the driver is not built"
            env |= {"LD_LIBRARY_PATH": str(DRIVER), "FAKE_CUDA_LOG": str(log)}
        script = tmp_path / "program.py"
        script.write_text(PROLOGUE + textwrap.dedent(program))
        run(sys.executable, script, package.path, log, env=env)
        return log.read_text().splitlines() if log.exists() else []

    return call


def test_run(package, execute):
    rest = execute(package, """
        model = load(PACKAGE)
        assert model.device == "cuda:0"
        assert model.info["target"]["levels"] == ["sm_80", "sm_90a"]
        x = Array()
        log()
        y = model(hidden_states=x)["output"]
        # The run is in the default stream, which waits for whoever makes x.
        assert x.streams == [1]
        lines = log()
        assert "cuMemAlloc 3072 -> m2" in lines, lines
        launches = [line for line in lines if line.startswith("launch ")]
        assert launches and all(" in 0" in line for line in launches)
        assert ", m2" in launches[-1] and not any("Synchronize" in line or "Memcpy" in line for line in lines)
        # A tensor on the device, for the next library.
        assert y.__dlpack_device__() == (2, 0) and y.shape == (6, 128) and y.dtype == "float32"
        assert y.tobytes() == 3072 * b"\\xa5"
        lines = log()
        assert lines[0].startswith("cuStreamSynchronize ") and lines[1].startswith("cuMemcpyDtoH "), lines
        # Given on, to the same library, too.
        model.run({"hidden_states": y}, out={"output": x})
        capsule = y.__dlpack__(stream=-1, max_version=(1, 0))
        log()
        del y
        assert log() == []
        del capsule
        assert log() == ["cuMemFree m2"]
        assert model.run({"hidden_states": Array((0, 128))})["output"].tobytes() == b""
        model.close()
    """)
    assert any(line == "cuMemFree m1" for line in rest) and rest[-1].startswith("cuDevicePrimaryCtxRelease")


def test_streams(package, execute):
    execute(package, """
        model = load(PACKAGE, device="cuda")
        x = Array()
        class Stream:
            def __cuda_stream__(self):
                return 0, 0x1234
        for stream in (0x1234, Stream()):
            log()
            y = model.run({"hidden_states": x}, stream=stream)["output"]
            assert all(" in 0x1234" in line for line in log() if line.startswith("launch "))
        assert x.streams == [0x1234, 0x1234]
        # The consumer waits for the run, unless it is in the same stream or asks for no order.
        log()
        y.__dlpack__(stream=0x1234), y.__dlpack__(stream=-1)
        assert log() == []
        for stream, name in ((0x77, "0x77"), (2, "0x2"), (None, "0x1")):
            y.__dlpack__(stream=stream)
            record, wait = log()
            event = record.split()[1]
            assert record == f"cuEventRecord {event} in 0x1234" and wait == f"cuStreamWaitEvent {name} for {event}"
        assert "0 is no stream of a CUDA device" in error_of(y.__dlpack__, stream=0)
        assert "not on device (1, 0)" in error_of(y.__dlpack__, dl_device=(1, 0))
        assert "is not copied" in error_of(y.__dlpack__, copy=True)
        # A context has one stream; a model has contexts for each.
        with model.context(stream=0x55) as context:
            ins, outs = [context.borrow(x)], [context.borrow(Array(), writable=True)]
            assert x.streams[-1] == 0x55
            log()
            context.run_tensors(ins, outs)
            context.run_tensors(ins, outs)
            calls = [line for line in log() if not line.startswith("cuMemAlloc")]
            assert calls and all(" in 0x55" in line or "[0x55]" in line for line in calls)
        assert "stream is of type str" in error_of(model.run, {"hidden_states": x}, stream="main")
    """)


def test_out(package, execute):
    execute(package, """
        model = load(PACKAGE)
        x, y = Array(), Array()
        model.run({"hidden_states": x}, out={"output": y})
        log()
        assert model.run({"hidden_states": x}, out={"output": y})["output"] is y
        assert {line.split()[0] for line in log()} == {"launch"}
        # The run waits for what is done with the output's memory.
        assert y.streams == [1, 1]
    """)


# The stand-in's set_capturing; see FakeDriver.h.
CAPTURE = """
import ctypes
find = ctypes.CDLL("libcuda.so.1").fake_driver_get
find.restype = ctypes.POINTER(7 * ctypes.CFUNCTYPE(None, ctypes.c_int))
capture = find().contents[6]
"""


@pytest.mark.parametrize("captured", [6, 40])
def test_update_graph(package, execute, captured):
    """A captured run computes fewer tokens, whichever kernels these need."""
    execute(package, CAPTURE + f"captured = {captured}\n" + textwrap.dedent("""
        model = load(PACKAGE)
        context = model.context(stream=0x55)
        def tensors(rows):
            return [context.borrow(Array((rows, 128)))], [context.borrow(Array((rows, 128)), writable=True)]
        for rows in (captured, 3):
            context.run_tensors(*tensors(rows))
        log()
        capture(1)
        context.run_tensors(*tensors(captured))
        capture(0)
        nodes = {line.split(" as ")[1].split(":")[0] for line in log() if line.startswith("launch ")}
        def changed(rows):
            context.update_graph(0x1234, *tensors(rows))
            lines = log()
            assert not any(line.startswith("launch ") for line in lines)
            names = {line.split()[3] for line in lines if line.startswith("change ")}
            enabled = {line.split()[1] for line in lines if line.startswith("cuGraphNodeSetEnabled") and line.endswith(" 1")}
            assert enabled <= nodes
            return names, len(enabled)
        def launched(rows):
            log()
            context.run_tensors(*tensors(rows))
            lines = [line for line in log() if line.startswith("launch ")]
            return {line.split()[1] for line in lines}, len(lines)
        for rows in (captured, captured - 1, 3, 1, captured):
            assert changed(rows) == launched(rows), rows
        assert changed(0)[1] == launched(0)[1]
        assert "but a graph was captured" in error_of(context.update_graph, 0x1234, *tensors(captured + 1))
        assert "graph_exec is a null" in error_of(context.update_graph, 0, *tensors(1))
        with model.context() as other:
            assert "no run of this context was captured" in error_of(other.update_graph, 0x1234, *tensors(1))
        context.close()
    """))


def test_errors(package, execute):
    execute(package, """
        model = load(PACKAGE)
        run = lambda x, **named: error_of(model.run, {"hidden_states": x}, **named)
        zeros = np.zeros((6, 128), np.float32)
        assert run(zeros) == "main: input 'hidden_states' is on the CPU, expected CUDA device 0"
        assert run(Tensor((6, 128), "float32")).endswith("is on the device CPU:0, expected CUDA:0: copy it there first")
        assert run(Array(device=(2, 1))).endswith("is on the device CUDA:1, expected CUDA:0: copy it there first")
        assert run(Array(dtype="float16")) == "main: input 'hidden_states' has dtype float16, expected float32"
        model.run({"hidden_states": Array(device=(13, 0))})
        assert run(Array(), out={"output": zeros}) == "main: output 'output' is on the CPU, expected CUDA device 0"
        assert run(Array(), results="numpy") == "results on CUDA:0 are no NumPy arrays: ask for results='dlpack'"
        assert "parallel_for is for the CPU" in error_of(model.context, threads=2, parallel_for=lambda n, body: None)
        assert "has no code for it" in error_of(load, PACKAGE, device="cpu")
        assert error_of(load, PACKAGE, device="tpu") == "device is 'tpu', expected 'cpu', 'cuda' or 'cuda:N'"
        assert "there is no CUDA device 1" in error_of(load, PACKAGE, device="cuda:1")
    """)


def test_out_of_memory(package, execute):
    """Weights, workspace and result: each in turn."""
    for number in (1, 2, 3):
        rest = execute(package, """
            def work():
                with load(PACKAGE) as model:
                    model.run({"hidden_states": Array()})
            text = error_of(work)
            assert "out of memory" in text or "CUDA_ERROR_OUT_OF_MEMORY" in text, text
        """, FAIL=f"cuMemAlloc_v2:{number}:2")
        made = {line.split(" -> ")[1] for line in rest if line.startswith("cuMemAlloc ")}
        assert made == {line.split()[1] for line in rest if line.startswith("cuMemFree ")}, number


def test_both(both, compiler, execute, tmp_path):
    """The same program with and without a GPU."""
    alone = tmp_path / "alone.npy"
    execute(compiler.package(MODEL), f"""
        np.save({str(alone)!r}, load(PACKAGE)(hidden_states=np.linspace(-1, 1, 768, dtype=np.float32).reshape(6, 128))["output"])
    """, driver=False)
    on_cpu = f"""
        model = load(PACKAGE, device=DEVICE)
        assert model.device == "cpu" and "sm_90a" in model.info["target"]["levels"]
        x = np.linspace(-1, 1, 768, dtype=np.float32).reshape(6, 128)
        assert np.array_equal(model(hidden_states=x)["output"], np.load({str(alone)!r}))
        assert "expected the CPU" in error_of(model.run, {{"hidden_states": Array()}})
        assert "stream is for CUDA" in error_of(model.run, {{"hidden_states": x}}, stream=5)
    """
    assert np.abs(np.load(alone)).max() > 0
    if not shutil.which("nvidia-smi"):
        execute(both, "DEVICE = None\n" + textwrap.dedent(on_cpu), driver=False)
    execute(both, "DEVICE = None\n" + textwrap.dedent(on_cpu), DEVICES=0)
    execute(both, "DEVICE = 'cpu'\n" + textwrap.dedent(on_cpu))
    execute(both, """
        model = load(PACKAGE)
        assert model.device == "cuda:0" and model.info["target"]["vector_bits"] == 128
        assert model(hidden_states=Array())["output"].__dlpack_device__() == (2, 0)
    """)

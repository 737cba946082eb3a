# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What only a device can show. Runs in the folder that benchmarks/prepare_device.py makes (which needs no
compiler), or here, where it makes that folder first; skipped where there is no device."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "python")]

torch = pytest.importorskip("torch", reason="unsupported here: PyTorch, which gives the device's memory, is not installed")
if not torch.cuda.is_available():
    pytest.skip("unsupported here: there is no CUDA device", allow_module_level=True)

import device_layer  # noqa: E402
import layer_model  # noqa: E402
import prepared  # noqa: E402
import routing  # noqa: E402
import synthetic  # noqa: E402
from moec.runtime import load  # noqa: E402

CHECKED_TOKENS = 64
LAYERS = [("odd", "bf16"), ("odd", "f32"), ("6,2,256,128", "bf16"), ("6,2,256,128", "int8"), ("6,2,256,128", "int4")]
TOLERANCES = {"bf16": 2e-2, "f32": 2e-5, "int8": 2e-2, "int4": 2e-2}
FOLDER = prepared.find_folder(ROOT)
CASES = sorted(path.name for path in (FOLDER / "cases").iterdir())


def relative_error(actual, expected):
    scale = np.abs(expected).max(initial=0) or 1.0
    return np.abs(actual.astype(np.float64) - expected).max(initial=0) / scale


# --- recorded models and systems ---------------------------------------------------------------


def to_device(array, dtype):
    if dtype == "bfloat16":
        is_bits = array.dtype.itemsize == 2
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).cuda() if is_bits else torch.from_numpy(array).bfloat16().cuda()
    return torch.from_numpy(np.ascontiguousarray(array.astype(dtype))).cuda()


def run_model(model, arrays, expected, stream):
    """The outputs by name."""
    entry = model.library.first_entry
    ins = [to_device(arrays[one.name], one.dtype) for one in entry.inputs]
    outs = [torch.empty(expected[one.name].shape, dtype=getattr(torch, one.dtype), device="cuda") for one in entry.outputs]
    torch.cuda.synchronize()
    with model.context(stream=stream.cuda_stream) as context:
        context.run_tensors([context.borrow(one) for one in ins], [context.borrow(one, writable=True) for one in outs])
        context.wait()
    return {one.name: out for one, out in zip(entry.outputs, outs)}


def bits_of(tensor):
    """Also of a scalar, which has no view as bytes."""
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    """Contrib operators, exported graphs, systems, whole models: numbers, twice the same bits."""
    place = FOLDER / "cases" / name
    arrays, expected = dict(np.load(place / "in.npz")), dict(np.load(place / "out.npz"))
    tolerance = float((place / "tolerance").read_text())
    with load(place / f"{name}.moec") as model:
        first, second = (run_model(model, arrays, expected, torch.cuda.Stream()) for _ in range(2))
    for output, tensor in first.items():
        assert torch.equal(bits_of(tensor), bits_of(second[output])), output
        if expected[output].dtype.kind == "f":
            assert relative_error(tensor.float().cpu().numpy(), expected[output].astype(np.float64)) < tolerance, output
        else:
            np.testing.assert_array_equal(tensor.cpu().numpy(), expected[output], output)


# --- layers --------------------------------------------------------------------------------------


class Opened:
    """A layer with weights of the generator."""

    def __init__(self, name, dtype, folder):
        self.layer, self.dtype = device_layer.DeviceLayer.parse(name), dtype
        package = FOLDER / "packages" / f"{device_layer.package_name(self.layer, dtype)}.moec"
        info = json.loads((package / f"{package.stem}.json").read_text())["weights"]
        path = folder / "w.safetensors"
        synthetic.write(info, device_layer.SEED, path)
        self.weights = device_layer.Weights(self.layer, dtype, synthetic.File(info, path))
        self.model = load(package, weights=path)
        self.rows = torch.float32 if dtype == "f32" else torch.bfloat16

    def draw(self, tokens, distribution="uniform", seed=0):
        random = np.random.default_rng([seed, tokens])
        x = layer_model.round_to_bfloat16(random.standard_normal((tokens, self.layer.hidden), dtype=np.float32))
        popularity = routing.popularity(distribution, self.layer.experts, self.layer.k)
        return x, routing.draw_logits(popularity, self.layer.k, tokens, random)

    def tensors(self, x, logits):
        ins = [torch.from_numpy(x).to(self.rows).cuda(), torch.from_numpy(logits).cuda()]
        ins.append(torch.full_like(ins[0], float("nan")))
        torch.cuda.synchronize()
        return ins

    def borrow(self, tensors, context):
        x, logits, y = tensors
        return [context.borrow(x), context.borrow(logits)], [context.borrow(y, writable=True)]

    def run(self, x, logits):
        stream = torch.cuda.Stream()
        tensors = self.tensors(x, logits)
        with self.model.context(stream=stream.cuda_stream) as context:
            context.run_tensors(*self.borrow(tensors, context))
            context.wait()
        return tensors[2]

    def check(self, y, x, logits):
        assert y.shape == x.shape
        some = np.unique(np.linspace(0, len(x) - 1, CHECKED_TOKENS).astype(int)) if len(x) else np.arange(0)
        expected = layer_model.expected(self.layer, self.weights, x[some], logits[some])
        assert relative_error(y.float().cpu().numpy()[some], expected) < TOLERANCES[self.dtype]


@pytest.fixture(scope="module", params=LAYERS, ids=["-".join(one) for one in LAYERS])
def layer(request, tmp_path_factory):
    opened = Opened(*request.param, tmp_path_factory.mktemp("layer"))
    yield opened
    opened.model.close()


@pytest.mark.parametrize("distribution", ["uniform", "hot"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 33, 1001, 32768])
def test_tokens(layer, tokens, distribution):
    """Few tokens leave experts without rows; `hot` gives all to one."""
    x, logits = layer.draw(tokens, distribution)
    layer.check(layer.run(x, logits), x, logits)


def test_runs_repeat(layer):
    inputs = layer.draw(777)
    first = layer.run(*inputs)
    assert all(torch.equal(first, layer.run(*inputs)) for _ in range(5))


def test_parallel_streams(layer):
    """Contexts of one model that run at the same time do not disturb each other."""
    inputs = [layer.draw(500 + i, seed=i) for i in range(4)]
    expected = [layer.run(*one) for one in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    contexts = [layer.model.context(stream=stream.cuda_stream) for stream in streams]
    tensors = [layer.tensors(*one) for one in inputs]
    borrowed = [layer.borrow(one, context) for one, context in zip(tensors, contexts)]
    for _ in range(10):
        for one, context in zip(borrowed, contexts):
            context.run_tensors(*one)
    torch.cuda.synchronize()
    for one, alone, context in zip(tensors, expected, contexts):
        assert torch.equal(one[2], alone)
        context.close()


def test_graph_replay(layer):
    """A captured run computes with what the memory has when it is replayed."""
    stream = torch.cuda.Stream()
    context = layer.model.context(stream=stream.cuda_stream)
    tensors = layer.tensors(*layer.draw(64))
    borrowed = layer.borrow(tensors, context)
    context.run_tensors(*borrowed)
    context.wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        context.run_tensors(*borrowed)
    for seed in (1, 2):
        x, logits = layer.draw(64, seed=seed)
        tensors[0].copy_(torch.from_numpy(x))
        tensors[1].copy_(torch.from_numpy(logits))
        torch.cuda.synchronize()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(tensors[2], layer.run(x, logits))
    context.close()


def test_graph_of_other_sizes(layer):
    """Also of few tokens, which other kernels compute."""
    if not hasattr(torch.cuda.CUDAGraph, "raw_cuda_graph_exec"):
        pytest.skip("unsupported here: this PyTorch does not give the executable graph away")
    stream = torch.cuda.Stream()
    context = layer.model.context(stream=stream.cuda_stream)
    largest = layer.borrow(layer.tensors(*layer.draw(100)), context)
    context.run_tensors(*largest)
    context.wait()
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        context.run_tensors(*largest)
    graph.instantiate()
    for tokens in (100, 17, 16, 1, 0, 33):
        inputs = layer.draw(tokens, seed=3)
        tensors = layer.tensors(*inputs)
        context.update_graph(graph.raw_cuda_graph_exec(), *layer.borrow(tensors, context))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(tensors[2], layer.run(*inputs)), tokens
    context.close()


# --- compute-sanitizer -----------------------------------------------------------------------------


@pytest.mark.parametrize("check", ["memcheck", "racecheck", "synccheck"])
@pytest.mark.parametrize("number", range(len(LAYERS)), ids=["-".join(one) for one in LAYERS])
def test_sanitizer(number, check):
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not pathlib.Path(program).exists():
        pytest.skip("unsupported here: compute-sanitizer is not installed")
    command = [program, "--tool", check, "--error-exitcode", "9", sys.executable, str(ROOT / "benchmarks" / "prepared.py"), str(FOLDER), *LAYERS[number]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    if "Device not supported" in done.stdout + done.stderr:
        pytest.skip("unsupported here: compute-sanitizer refuses the device")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Valid models and files with one field changed: an error with a documented exit
status and one clear message, or a right result.

A fixed sample is tried; MOEC_MUTATIONS=N tries N of each subject, MOEC_MUTATIONS=all all.
"""

import collections
import copy
import dataclasses
import json
import os
import random
import re
import struct
import subprocess
from typing import Callable

import mutations
import numpy as np
import onnx
import pytest
from harness import FIXTURES, MODELS, TOLERANCES, run, tool
from references import generate
from references.evaluate import evaluate, relative_error
from safetensors.numpy import load_file, save_file

TINYMOE = FIXTURES / "tinymoe"

SMALL = dict(experts=4, k=2, hidden=32, intermediate=32)
MOE = generate.Layer(activation="silu", third=True, biases=True, **SMALL)
SWIGLU = generate.Layer(activation="swiglu", fusion=2, alpha=1.7, beta=1.0, limit=7.0, rank=3, **SMALL)
QMOE = generate.Layer(activation="swiglu", fusion=1, bits=4, block=16, zero_points=True, router_weights=True, **SMALL)

OPTIONS, BAD_MODEL, UNSUPPORTED = 1, 2, 3
MESSAGE = re.compile(r"(?P<file>[^\n]*?)(:\d+:\d+)?: (?P<kind>error|warning|note): (?P<text>.+)")
DUMPS = ("' op ", "Stack dump", "PLEASE submit", "LLVM ERROR", "Assertion", "Sanitizer", "runtime error", "terminate called")


def sample(subject, changes, count):
    """`count` of the changes, the same ones each time; MOEC_MUTATIONS says otherwise."""
    changes = list(changes)
    wanted = os.environ.get("MOEC_MUTATIONS", count)
    if wanted == "all":
        return changes
    return random.Random(subject).sample(changes, min(int(wanted), len(changes)))


def check_message(done, what):
    """One error, in the documented form, and nothing that a user should not see."""
    for dump in DUMPS:
        assert dump not in done.stderr, f"{what}\n{done.stderr}"
    lines = done.stderr.splitlines()
    kinds = []
    for line in lines:
        match = MESSAGE.fullmatch(line)
        assert match, f"{what}: a line of another form: {line!r}"
        kinds.append(match["kind"])
    assert kinds.count("error") == (done.returncode != 0), f"{what}: exit status {done.returncode}\n{done.stderr}"


# --- models ---------------------------------------------------------------------------


def build_operators():
    """A graph of standard operators whose attributes and shapes are easily wrong."""
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    constants = {
        "shape": np.array([2, -1], np.int64),
        "starts": np.array([0, 1], np.int64),
        "ends": np.array([4, 9], np.int64),
        "axes": np.array([0, 1], np.int64),
        "axis": np.array([1], np.int64),
        "matrix": np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4),
        "bias": np.linspace(0, 1, 4, dtype=np.float32),
        "index": np.array([3, 0, 2], np.int64),
        "parts": np.array([1, 3], np.int64),
        "low": np.array(-2, np.float32),
    }
    nodes = [
        node("Gemm", ["x", "matrix", "bias"], ["gemm"], name="gemm", alpha=0.5, transB=0),
        node("Softmax", ["gemm"], ["soft"], name="soft", axis=-1),
        node("Gather", ["soft", "index"], ["picked"], name="gather", axis=1),
        node("Concat", ["picked", "gemm", "soft"], ["long"], name="concat", axis=1),
        node("Slice", ["long", "starts", "ends", "axes"], ["cut"], name="slice"),
        node("Transpose", ["cut"], ["turned"], name="transpose", perm=[1, 0]),
        node("Reshape", ["turned", "shape"], ["flat"], name="reshape"),
        node("Split", ["gemm", "parts"], ["left", "right"], name="split", axis=1),
        node("ReduceSum", ["right", "axis"], ["sum"], name="sum", keepdims=1),
        node("Add", ["left", "sum"], ["added"], name="add"),
        node("Cast", ["added"], ["half"], name="cast", to=onnx.TensorProto.FLOAT16),
        node("Cast", ["half"], ["whole"], name="back", to=onnx.TensorProto.FLOAT),
        node("Clip", ["whole", "low"], ["clipped"], name="clip"),
        node("LeakyRelu", ["clipped"], ["y"], name="leaky", alpha=0.25),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "operators",
        [value("x", onnx.TensorProto.FLOAT, [4, 8])],
        [value("y", onnx.TensorProto.FLOAT, [4, 1]), value("flat", onnx.TensorProto.FLOAT, [2, 16])],
        [tensor(array, name) for name, array in constants.items()],
        value_info=[value("gemm", onnx.TensorProto.FLOAT, [4, 4])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def public(name):
    """A recorded graph, where there are any."""
    path = MODELS / "public" / name / "model.onnx"
    return onnx.load(path) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Subject:
    build: Callable
    tolerance: float = TOLERANCES["float32"]
    mutations: int = 16  # tried
    runs: int = 3  # of the accepted ones compiled as a whole and run


SUBJECTS = {
    "moe": Subject(lambda: generate.build(MOE)),
    "swiglu": Subject(lambda: generate.build(SWIGLU)),
    "qmoe": Subject(lambda: generate.build(QMOE)),
    "external": Subject(lambda: generate.build(MOE)),
    "operators": Subject(build_operators, tolerance=TOLERANCES["float16"], mutations=32),
    "layer0_moe": Subject(lambda: onnx.load(TINYMOE / "layer0_moe.onnx"), runs=2),
    "layer1_qmoe_int4_asym": Subject(lambda: onnx.load(TINYMOE / "layer1_qmoe_int4_asym.onnx"), runs=2),
    "gpt_oss": Subject(lambda: public("gpt_oss__contrib_qmoe_int4_block32_bias_limit"), runs=2),
    "deepseek_v3": Subject(lambda: public("deepseek_v3__contrib_qmoe_router_weights"), runs=2),
}

SIZES = {"batch": 2, "sequence": 3}


def size_of(dim):
    """A size for a dimension as a package describes it: a number, or symbols."""
    if isinstance(dim, int):
        return dim
    return int(np.prod([SIZES.get(symbol, 6) for symbol in dim.split("*")]))


def draw_inputs(info, seed=0):
    """Inputs for a package: floats between -2 and 2, small integers, from the description."""
    generator = np.random.default_rng(seed)
    inputs = {}
    for value in info["entries"][0]["inputs"]:
        shape = [size_of(dim) for dim in value["dims"]]
        if value["dtype"].startswith("float"):
            inputs[value["name"]] = generator.uniform(-2, 2, shape).astype(value["dtype"])
        else:
            inputs[value["name"]] = generator.integers(0, 2, shape).astype(value["dtype"])
    return inputs


def agree(actual, expected, tolerance):
    """Equal up to the tolerance, NaN and infinities in the same places."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    with np.errstate(over="ignore"):
        expected = expected.astype(actual.dtype)
    finite = np.isfinite(expected.astype(np.float64))
    if actual.shape != expected.shape or not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return False
    return bool(finite.all() or finite.any()) is False or relative_error(actual[finite], expected[finite]) < tolerance


def by_definition(path, inputs):
    return evaluate(onnx.load(path), inputs)


def by_onnxruntime(path, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def compute(path, inputs):
    """The outputs by other implementations; None when they refuse the model too."""
    for implementation in (by_definition, by_onnxruntime):
        try:
            return implementation(path, inputs)
        except Exception:  # whatever it dislikes
            continue
    return None


def outputs_in(path):
    """The tensors of a file that moe-run wrote."""
    return {name: array for name, array in load_file(path).items() if not name.startswith("__padding")}


class Trial:
    """One subject's mutants: what happened to each."""

    def __init__(self, compiler, subject, model, folder):
        self.compiler, self.subject, self.model, self.folder = compiler, subject, model, folder
        self.valid = folder / "valid.onnx"
        self.valid.write_bytes(model.SerializeToString())
        self.counts = collections.Counter()
        self.defects = []
        self.runs = 1 << 30 if "MOEC_MUTATIONS" in os.environ else subject.runs

    def compile(self, model, *arguments):
        path = self.folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return self.compiler.run(path, "--threads=none", *arguments, check=False)

    def attempt(self, mutation, runs):
        """Compiles a mutant; whole and run when `runs`."""
        mutant = onnx.ModelProto()
        mutant.CopyFrom(self.model)
        mutation.apply(mutant)
        done = self.compile(mutant, "--compile-to=interface", "-o", self.folder / "mutant.mlir")
        check_message(done, mutation.name)
        assert done.returncode in (0, OPTIONS, BAD_MODEL, UNSUPPORTED), f"exit status {done.returncode}\n{done.stderr}"
        if done.returncode:
            self.counts[f"exit status {done.returncode}"] += 1
            return
        self.counts["accepted"] += 1
        if runs:
            self.run(mutant)

    def run(self, mutant):
        package = self.folder / "mutant.moec"
        done = self.compile(mutant, "-O1", "-o", package)
        check_message(done, "the whole compilation")
        assert done.returncode in (0, BAD_MODEL, UNSUPPORTED), f"exit status {done.returncode}\n{done.stderr}"
        if done.returncode:
            self.counts[f"exit status {done.returncode} later"] += 1
            return
        info = json.loads((package / "mutant.json").read_text())
        inputs = draw_inputs(info)
        save_file(inputs, self.folder / "in.safetensors")
        files = ["--input", self.folder / "in.safetensors", "--output", self.folder / "out.safetensors"]
        done = run(tool("moe-run"), package, *files, check=False)
        expected = compute(self.folder / "model.onnx", inputs)
        if done.returncode:
            check_message(done, "the run")
            # Others only warn of sizes that are not those that the model states.
            wanted = expected is None or "as the model states" in done.stderr
            assert done.returncode in (4, 5) and wanted, f"exit status {done.returncode}\n{done.stderr}"
            self.counts["error when run"] += 1
            return
        if expected is None:
            # Nobody else takes it: then the field must be one without a meaning.
            expected = compute(self.valid, inputs)
            self.counts["right, as without the change"] += 1
        actual = outputs_in(self.folder / "out.safetensors")
        assert expected is not None, "accepted, but nothing to compare with"
        assert set(actual) == set(expected)
        for name in actual:
            assert agree(actual[name], expected[name], self.subject.tolerance), f"'{name}' is wrong"
        self.counts["right"] += 1

    def try_all(self, changes):
        for mutation in changes:
            try:
                self.attempt(mutation, runs=self.counts["right"] < self.runs)
            except (AssertionError, subprocess.TimeoutExpired) as problem:
                self.defects.append(f"{mutation.name}: {problem}")


@pytest.mark.parametrize("name", SUBJECTS)
def test_models(compiler, tmp_path, name):
    subject = SUBJECTS[name]
    model = subject.build()
    if model is None:
        pytest.skip(f"models not found: {MODELS / 'public'}")
    if name == "external":
        path = tmp_path / "model.onnx"
        onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        model = onnx.load(path, load_external_data=False)
    # What strings may become: names that exist.
    names = sorted({text for node in model.graph.node for text in [*node.input, *node.output] if text})[:6]
    trial = Trial(compiler, subject, model, tmp_path)
    trial.try_all(sample(name, mutations.protobuf(model, names), subject.mutations))
    print(name, dict(trial.counts))
    assert not trial.defects, f"{len(trial.defects)} defects\n" + "\n".join(trial.defects)


# --- packages ---------------------------------------------------------------------------

CANNOT_OPEN, BAD_TENSOR = 3, 4


def split_safetensors(data):
    """(header as JSON, bytes of the tensors)"""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_safetensors(header, tensors, length):
    """With a header padded to `length`, if it is not longer."""
    text = json.dumps(header).encode().ljust(length)
    return struct.pack("<Q", len(text)) + text + tensors


def safetensors_files(data):
    """(what was changed, bytes of the file) with one thing of the header changed."""
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = split_safetensors(data)
    for mutation in mutations.json_value(header):
        mutant = copy.deepcopy(header)
        mutation.apply(mutant)
        yield mutation.name, join_safetensors(mutant, tensors, length)
    for other in (0, 1, 7, length - 1, length + 1, len(data), 1 << 31, 1 << 62, (1 << 64) - 1):
        yield f"length {other}", struct.pack("<Q", other) + data[8:]
    for end in (0, 4, 8, 8 + length // 2, 8 + length, len(data) - 1):
        yield f"cut at {end}", data[:end]
    yield "longer", data + b"\0"


def json_files(data):
    value = json.loads(data)
    for mutation in mutations.json_value(value):
        mutant = copy.deepcopy(value)
        mutation.apply(mutant)
        yield mutation.name, json.dumps(mutant).encode()
    yield "cut", data[: len(data) // 2]
    yield "empty", b""


@pytest.mark.parametrize(
    "file, change, status, count",
    [
        ("layer.moec/layer.safetensors", safetensors_files, CANNOT_OPEN, 50),
        ("layer.moec/layer.json", json_files, CANNOT_OPEN, 20),
        ("in.safetensors", safetensors_files, BAD_TENSOR, 30),
    ],
    ids=["weights", "description", "inputs"],
)
def test_files_of_a_package(compiler, tmp_path, file, change, status, count):
    """A changed file is refused, or what was changed has no meaning for the run."""
    package = tmp_path / "layer.moec"
    compiler.run(compiler.save(generate.build(QMOE)), "-O1", "--threads=none", "-o", package)
    save_file(generate.draw_inputs(QMOE, 6), tmp_path / "in.safetensors")
    command = [tool("moe-run"), package, "--input", tmp_path / "in.safetensors", "--output", tmp_path / "out.safetensors"]
    run(*command)
    expected = outputs_in(tmp_path / "out.safetensors")["output"]
    data = (tmp_path / file).read_bytes()
    counts, defects = collections.Counter(), []
    for what, bytes_ in sample(file, change(data), count):
        (tmp_path / file).write_bytes(bytes_)
        (tmp_path / "out.safetensors").unlink(missing_ok=True)
        done = run(*command, check=False)
        try:
            check_message(done, what)
            assert done.returncode in (0, status), f"exit status {done.returncode}\n{done.stderr}"
            written = (tmp_path / "out.safetensors").exists()
            assert written == (done.returncode == 0)
            assert not written or np.array_equal(outputs_in(tmp_path / "out.safetensors")["output"], expected)
        except AssertionError as problem:
            defects.append(f"{what}: {problem}")
        counts[done.returncode] += 1
    print(file, dict(counts))
    assert not defects, f"{len(defects)} defects\n" + "\n".join(defects)

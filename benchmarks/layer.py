# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One MoE layer (router product and experts), compiled by moec and in ONNX Runtime,
beside the floor that this machine's memory and arithmetic set.

    python benchmarks/layer_vs_onnxruntime.py
    python benchmarks/layer_vs_onnxruntime.py --layer 8,2,4096,14336 --kind int4 --tokens 1,64

Both take turns on the same inputs. Inputs, and so the routing, are drawn again for
every repetition. A turn is a burst of repetitions after a pause, so that neither side
pays for the other's waiting threads; the first repetition of a turn is not counted.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "test")]
from moec.runtime import borrow, load  # noqa: E402
from references.evaluate import relative_error  # noqa: E402

KINDS = ("f32", "int4", "int8")
BLOCK = 32
PAUSE_SECONDS = 0.3  # longer than either side's threads wait actively
TURN_SECONDS = 0.7


class Layer:
    def __init__(self, text):
        self.experts, self.k, self.hidden, self.intermediate = (int(word) for word in text.split(","))

    def __str__(self):
        return f"E{self.experts}_k{self.k}_H{self.hidden}_I{self.intermediate}"

    def weight_bytes(self, kind):
        """Bytes of one expert's three matrices, scales included."""
        per_weight = {"f32": 4, "int4": 0.5 + 4 / BLOCK, "int8": 1 + 4 / BLOCK}[kind]
        return 3 * self.hidden * self.intermediate * per_weight

    def floor_ms(self, kind, tokens, active, bandwidth, peak):
        """The time below which nothing can go: activated weights and activations
        through memory, or useful multiply-adds through the arithmetic units."""
        moved = active * self.weight_bytes(kind) + 8 * tokens * self.hidden + 4 * self.hidden * self.experts
        work = 6 * tokens * self.k * self.hidden * self.intermediate + 2 * tokens * self.hidden * self.experts
        return 1e3 * max(moved / (bandwidth * 1e9), work / (peak * 1e9))


# --- the model -------------------------------------------------------------------------


class ExternalData:
    """Appends tensors, expert by expert, to one file beside the model."""

    def __init__(self, path):
        self.path, self.file, self.offset, self.tensors = path, path.open("wb"), 0, []

    def add(self, name, element_type, experts, one_expert):
        """`one_expert()` gives the values of the next expert."""
        self.offset = -(-self.offset // 4096) * 4096
        self.file.seek(self.offset)
        for _ in range(experts):
            values = one_expert()
            self.file.write(values.tobytes())
        result = TensorProto(name=name, data_type=element_type, dims=(experts, *values.shape))
        result.data_location = TensorProto.EXTERNAL
        length = experts * values.nbytes
        for key, value in (("location", self.path.name), ("offset", self.offset), ("length", length)):
            result.external_data.add(key=key, value=str(value))
        self.offset += length
        self.tensors.append(result)


def router(layer):
    values = np.random.default_rng(1).standard_normal((layer.hidden, layer.experts), dtype=np.float32)
    return values * np.float32(4 / layer.hidden**0.5)


def make_model(layer, kind, folder):
    """Path of the ONNX model, made unless it is there."""
    path = folder / f"{kind}_{layer}.onnx"
    if path.exists():
        return path
    random = np.random.default_rng(0)
    data = ExternalData(path.with_suffix(".data"))
    names = ["x", "logits"]
    for name, rows, depth in (
        ("fc1", 2 * layer.intermediate, layer.hidden),
        ("fc2", layer.hidden, layer.intermediate),
    ):
        if kind == "f32":
            scale = np.float32(depth**-0.5)
            data.add(name, TensorProto.FLOAT, layer.experts, lambda: random.standard_normal((rows, depth), dtype=np.float32) * scale)
            names += [name, ""]
            continue
        bits = int(kind[3:])
        scale = np.float32(2 ** (1 - bits) * 2 * depth**-0.5)
        data.add(name, TensorProto.UINT8, layer.experts, lambda: random.integers(0, 256, (rows, depth * bits // 8), dtype=np.uint8))
        data.add(name + "_scales", TensorProto.FLOAT, layer.experts, lambda: (random.random((rows, depth // BLOCK), dtype=np.float32) + 0.5) * scale)
        names += [name, name + "_scales", ""]
    data.file.close()
    while not names[-1]:
        names.pop()
    attributes = dict(k=layer.k, activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1)
    if kind != "f32":
        attributes.update(expert_weight_bits=bits, block_size=BLOCK)
    nodes = [
        helper.make_node("MatMul", ["x", "router"], ["logits"], name="router"),
        helper.make_node("MoE" if kind == "f32" else "QMoE", names, ["y"], name="experts", domain="com.microsoft", **attributes),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", layer.hidden]) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(router(layer), "router"), *data.tensors]
    graph = helper.make_graph(nodes, "layer", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


# --- the two sides ------------------------------------------------------------------------


class Moec:
    name = "moec"

    def __init__(self, package, threads):
        start = time.perf_counter()
        self.model = load(package)
        self.open_ms = 1e3 * (time.perf_counter() - start)
        self.context = self.model.context(threads)

    def prepare(self, x):
        self.x, self.y = x, np.empty_like(x)
        self.ins, self.outs = [borrow(self.x)], [borrow(self.y, writable=True)]

    def run(self):
        self.context.run_tensors(self.ins, self.outs)
        return self.y


class OnnxRuntime:
    name = "onnxruntime"

    def __init__(self, model, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        start = time.perf_counter()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.open_ms = 1e3 * (time.perf_counter() - start)

    def prepare(self, x):
        self.x = x

    def run(self):
        return self.session.run(None, {"x": self.x})[0]


def compile_package(model, folder, arguments):
    """(package, seconds, peak memory in bytes) of compiling; the peak counts the pages
    of the model's files that are mapped."""
    package, report = folder / f"{model.stem}.moec", folder / "report.json"
    command = [arguments.moec, model, "-o", package, "-O3", f"--cpu={arguments.cpu}", "--report", report]
    start = time.perf_counter()
    # Through a shell that waits: a process begins with the peak of the one that it was forked from.
    words = ["sh", "-c", '"$@"; exit $?', "sh", *(str(word) for word in command)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return package, seconds, json.loads(report.read_text())["memory"]["compiler_peak_bytes"]


# --- measuring ------------------------------------------------------------------------------


def ceilings(folder, threads):
    """(GB/s of reading memory, GFLOP/s of float32), measured now."""
    program = folder / "ceilings"
    source = ROOT / "benchmarks" / "ceilings.c"
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
    subprocess.run(["clang-22", *flags, source, "-o", program], check=True)
    words = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout.split()
    return float(words[0]), float(words[1])


def active_experts(layer, weights, x):
    logits = x @ weights
    return np.unique(np.argpartition(-logits, layer.k - 1, axis=1)[:, : layer.k]).size


def measure(layer, sides, tokens, seconds, random):
    """Milliseconds of each repetition by side, mean number of active experts, and the
    largest relative difference between the sides' outputs."""
    weights = router(layer)
    times = {side.name: [] for side in sides}
    active, difference = [], 0.0
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or min(len(one) for one in times.values()) < 3:
        # Both take the same inputs; all that is not theirs happens before the clock starts.
        inputs = [random.standard_normal((tokens, layer.hidden), dtype=np.float32) for _ in range(64 if tokens < 64 else 8)]
        active += [active_experts(layer, weights, x) for x in inputs]
        first = []
        for side in sides:
            time.sleep(PAUSE_SECONDS)
            end = time.perf_counter() + TURN_SECONDS
            for index, x in enumerate(inputs):
                side.prepare(x)
                start = time.perf_counter()
                y = side.run()
                elapsed = time.perf_counter() - start
                if index == 0:
                    first.append(y)
                else:
                    times[side.name].append(1e3 * elapsed)
                if time.perf_counter() > end and index:
                    break
        difference = max([difference, *(relative_error(other, first[0]) for other in first[1:])])
        sides = sides[::-1]
    return times, statistics.mean(active), difference


def summary(values):
    return dict(min=min(values), median=statistics.median(values), max=max(values), repetitions=len(values))


HEADER = "kind  tokens  active   moec ms   ORT ms   ORT/moec   floor ms   moec at   ORT at   max diff"


def benchmark(layer, kind, arguments, limits, random):
    model = make_model(layer, kind, arguments.folder)
    package, seconds, memory = compile_package(model, arguments.folder, arguments)
    sides = [Moec(package, arguments.threads), OnnxRuntime(model, arguments.threads)]
    library = next(package.glob("*.so")).stat().st_size
    print(
        f"{kind}: compiled in {seconds:.1f} s with {memory / 2**20:.0f} MiB, library {library / 1000:.0f} kB, "
        f"opened in {sides[0].open_ms:.1f} ms (ONNX Runtime {sides[1].open_ms:.0f} ms)"
    )
    rows = []
    for tokens in arguments.tokens:
        times, active, difference = measure(layer, sides, tokens, arguments.seconds, random)
        ours, theirs = (summary(times[side.name]) for side in sides)
        floor = layer.floor_ms(kind, tokens, active, *limits)
        rows.append(
            dict(kind=kind, tokens=tokens, active_experts=active, floor_ms=floor, moec_ms=ours, onnxruntime_ms=theirs, difference=difference)
        )
        print(
            f"{kind:4}  {tokens:6}  {active:6.1f}  {ours['median']:8.2f} {theirs['median']:8.2f}   "
            f"{theirs['median'] / ours['median']:7.2f}x   {floor:8.2f}   {floor / ours['median']:6.0%}   {floor / theirs['median']:6.0%}   {difference:.1e}",
            flush=True,
        )
    return dict(kind=kind, compile_seconds=seconds, compile_peak_bytes=memory, library_bytes=library, open_ms=sides[0].open_ms, rows=rows)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=Layer, default=Layer("128,8,2048,768"), metavar="E,k,H,I", help="default: Qwen3-30B-A3B")
    parser.add_argument("--kind", default=",".join(KINDS), help=f"any of {','.join(KINDS)}; block {BLOCK}")
    parser.add_argument("--tokens", default="1,32,512", help="numbers of tokens (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15, help="time for each number of tokens (default: %(default)s)")
    parser.add_argument("--cpu", default="native", help="as for moec")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "benchmarks", help="for models and packages (gigabytes)")
    parser.add_argument("--moec", type=pathlib.Path, default=ROOT / "build" / "bin" / "moec")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here too")
    arguments = parser.parse_args()
    arguments.kind = arguments.kind.split(",")
    arguments.tokens = [int(word) for word in arguments.tokens.split(",")]
    unknown = set(arguments.kind) - set(KINDS)
    if unknown:
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return arguments


def main():
    arguments = parse_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    layer = arguments.layer
    limits = ceilings(arguments.folder, arguments.threads)
    print(f"layer {layer}, {arguments.threads} threads of {os.cpu_count()}; reads {limits[0]:.1f} GB/s, multiplies and adds {limits[1]:.0f} GFLOP/s (float32)")
    print(HEADER)
    random = np.random.default_rng()
    results = [benchmark(layer, kind, arguments, limits, random) for kind in arguments.kind]
    if arguments.json:
        everything = dict(
            layer=str(layer), threads=arguments.threads, read_gb_per_s=limits[0], float32_gflops=limits[1], onnxruntime=onnxruntime.__version__, results=results
        )
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Any ONNX model, compiled by moec and in ONNX Runtime, on the same inputs in one run.

    python benchmarks/model_vs_onnxruntime.py model.onnx --dims batch=1,sequence=256
    python benchmarks/model_vs_onnxruntime.py model_with_past.onnx \\
        --dims batch=1,sequence=256,past_sequence=0,total_sequence=256 \\
        --dims batch=1,sequence=1,past_sequence=256,total_sequence=257

Each --dims has rows in the table, for each number of threads and each model that ONNX
Runtime is given: the one that was exported, or the one that moec --emit=onnx writes, with
its fused MoE nodes (--beside exported,fused). Floating-point inputs are normal random numbers. Integer inputs are random numbers below --below, except
`attention_mask` (ones) and `position_ids` (they go on where the dimension --past ends).
The sides take turns, so that what else the machine does meets both.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import numpy as np
import onnxruntime
from layer_vs_peers import PAUSE_SECONDS, TURN_SECONDS, summary
from layer_sides import ROOT, borrow, compile_package, load
from references.evaluate import relative_error  # layer_sides has put test/ on the path

NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class Moec:
    def __init__(self, package, threads):
        self.context = load(package).context(threads)

    def prepare(self, inputs, outputs):
        """`outputs` are arrays of the shapes and types of the results."""
        self.results = [np.empty_like(output) for output in outputs]
        self.ins = [borrow(array) for array in inputs.values()]
        self.outs = [borrow(array, writable=True) for array in self.results]

    def run(self):
        self.context.run_tensors(self.ins, self.outs)
        return self.results


class OnnxRuntime:
    def __init__(self, model, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def prepare(self, inputs, outputs):
        self.inputs = inputs

    def run(self):
        return self.session.run(None, self.inputs)


def parse_dims(text):
    pairs = (part.split("=") for part in text.split(",") if part)
    return {name: int(size) for name, size in pairs}


def make_inputs(session, dims, arguments, random):
    """Arrays by name, in the order of the model's inputs."""
    inputs = {}
    for one in session.get_inputs():
        unknown = [dim for dim in one.shape if isinstance(dim, str) and dim not in dims]
        if unknown:
            raise SystemExit(f"input '{one.name}' has dimension '{unknown[0]}', which --dims does not give")
        shape = [dims[dim] if isinstance(dim, str) else dim for dim in one.shape]
        dtype = NUMPY_TYPES[one.type]
        if one.name == "attention_mask":
            array = np.ones(shape, dtype)
        elif one.name == "position_ids":
            array = np.broadcast_to(dims.get(arguments.past, 0) + np.arange(shape[-1]), shape).astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            array = random.standard_normal(shape).astype(dtype)
        else:
            array = random.integers(0, 2 if dtype is np.bool_ else arguments.below, shape).astype(dtype)
        inputs[one.name] = np.ascontiguousarray(array)
    return inputs


def measure(sides, seconds):
    """Milliseconds of each repetition, by side: turns of some repetitions each."""
    times = {name: [] for name in sides}
    deadline = time.perf_counter() + seconds
    order = list(sides)
    while time.perf_counter() < deadline or min(map(len, times.values())) < 3:
        for name in order:
            time.sleep(PAUSE_SECONDS)
            sides[name].run()
            end = time.perf_counter() + TURN_SECONDS
            while True:
                start = time.perf_counter()
                sides[name].run()
                now = time.perf_counter()
                times[name].append(1e3 * (now - start))
                if now > end:
                    break
        order.reverse()
    return times


def difference(ours, theirs):
    """The largest of the outputs' relative errors; outputs without elements have none."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(ours, theirs) if b.size]
    return max((relative_error(a, b) for a, b in pairs), default=0.0)


HEADER = "threads  beside     moec min   median   ORT min   median   ORT/moec   max diff   dims"


def reexport(arguments):
    """The model as moec writes it, with fused MoE nodes."""
    fused = arguments.folder / f"{arguments.model.stem}.fused.onnx"
    subprocess.run([arguments.moec, arguments.model, "--emit=onnx", "-o", fused, "--quiet"], check=True)
    return fused


def benchmark(package, references, dims, threads, arguments):
    """Rows by the names of `references`, models for ONNX Runtime."""
    sides = {name: OnnxRuntime(model, threads) for name, model in references.items()}
    moec, first = Moec(package, threads), next(iter(sides.values()))
    inputs = make_inputs(first.session, dims, arguments, np.random.default_rng(0))
    for side in sides.values():
        side.prepare(inputs, None)
    expected = {name: side.run() for name, side in sides.items()}
    moec.prepare(inputs, next(iter(expected.values())))
    errors = {name: difference(moec.run(), outputs) for name, outputs in expected.items()}
    times = measure({"moec": moec, **sides}, arguments.seconds)
    ours = summary(times["moec"])
    text = " ".join(f"{name}={size}" for name, size in dims.items())
    rows = []
    for name in references:
        theirs = summary(times[name])
        print(
            f"{threads:7}  {name:8}   {ours['min']:8.3f} {ours['median']:8.3f}  {theirs['min']:8.3f} {theirs['median']:8.3f}   "
            f"{theirs['min'] / ours['min']:7.2f}x   {errors[name]:8.1e}   {text}",
            flush=True,
        )
        rows.append(dict(dims=dims, threads=threads, beside=name, moec_ms=ours, onnxruntime_ms=theirs, difference=errors[name]))
    return rows


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--dims", action="append", type=parse_dims, metavar="NAME=SIZE,…", help="sizes of the model's named dimensions; may be repeated")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (default: %(default)s)")
    parser.add_argument("--beside", default="exported", help="exported, fused or exported,fused (default: %(default)s)")
    parser.add_argument("--below", type=int, default=256, help="bound of random integers (default: %(default)s)")
    parser.add_argument("--past", default="past_sequence", help="dimension at which position_ids go on (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="time for each row (default: %(default)s)")
    parser.add_argument("--cpu", default="native", help="as for moec")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "benchmarks", help="for the package")
    parser.add_argument("--moec", type=pathlib.Path, default=ROOT / "build" / "bin" / "moec")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here too")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    package, seconds, _ = compile_package(arguments.model, arguments.folder, arguments)
    library = next(package.glob("*.so")).stat().st_size
    print(f"{arguments.model.name}: compiled in {seconds:.1f} s, library {library / 1000:.0f} kB, ONNX Runtime {onnxruntime.__version__}")
    print(HEADER)
    models = {"exported": lambda: arguments.model, "fused": lambda: reexport(arguments)}
    references = {name: models[name]() for name in arguments.beside.split(",")}
    threads = [int(word) for word in arguments.threads.split(",")]
    rows = []
    for dims in arguments.dims or [{}]:
        for count in threads:
            rows += benchmark(package, references, dims, count, arguments)
    ratios = [row["onnxruntime_ms"]["min"] / row["moec_ms"]["min"] for row in rows]
    print(f"geometric mean of ORT/moec: {statistics.geometric_mean(ratios):.2f}x")
    if arguments.json:
        arguments.json.write_text(json.dumps(dict(model=arguments.model.name, onnxruntime=onnxruntime.__version__, rows=rows), indent=1) + "\n")


if __name__ == "__main__":
    main()

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One MoE layer on a GPU, compiled by moec and in other programs, beside what the device's memory and
matrix units can do; and the router alone. The packages come from prepare_device.py.

    python benchmarks/layer_on_gpu.py --packages packages --json figures.json      (again: goes on)
    python benchmarks/layer_on_gpu.py --layer qwen3 --tokens 1,4096 --routing uniform,hot

Weights are computed, the same for all programs; inputs and routing are drawn again for every
repetition, and the second-level cache is overwritten before each. The programs take turns on the same
inputs; ceilings are measured between the turns. Outputs of some tokens are compared with float64.
"""

import argparse
import json
import pathlib
import statistics
import tempfile

import device_layer
import device_sides
import layer_model
import numpy as np
import routing
import synthetic
from device_sides import Missing
from layer_vs_peers import Measurement, describe_others, numbers, one_of, print_header, summary, words, write_json

# Of the largest value, against float64. bfloat16 rounds the rows between the products.
MAX_OUR_ERROR = {"bf16": 2e-2, "f32": 1e-4, "int8": 2e-2, "int4": 2e-2}
FLUSHED_BYTES = 1 << 28
TOKENS = [2**i for i in range(16)]


def find_torch():
    """PyTorch and a device, or the end with the reason."""
    try:
        import torch
    except ImportError as error:
        raise SystemExit(f"PyTorch gives the memory and the clock here, and cannot be imported: {error}") from error
    if not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device")
    return torch


class Setting:
    """A layer's package and weights."""

    def __init__(self, torch, layer, dtype, packages, folder):
        self.torch, self.layer, self.dtype = torch, layer, dtype
        self.package = packages / f"{device_layer.package_name(layer, dtype)}.moec"
        if not self.package.is_dir():
            raise Missing(f"there is no {self.package}")
        info = json.loads((self.package / f"{self.package.stem}.json").read_text())["weights"]
        self.weights_path = folder / f"{self.package.stem}.safetensors"
        synthetic.write(info, device_layer.SEED, self.weights_path)
        self.file = synthetic.File(info, self.weights_path)
        self.weights = device_layer.Weights(layer, dtype, self.file)
        self.rows = torch.float32 if dtype == "f32" else torch.bfloat16
        self.stream = torch.cuda.Stream()
        self._torch_weights = None

    def torch_weights(self):
        """up [E,2I,H] and down [E,H,I], once for all sides."""
        if not self._torch_weights:
            self._torch_weights = [device_sides.torch_matrix(self.torch, self.file, name, self.dtype) for name in ("up", "down")]
        return self._torch_weights


class DeviceMeasurement(Measurement):
    """Of one number of tokens and one distribution, by events in the stream."""

    def __init__(self, setting, sides, ceilings, flushed, arguments):
        super().__init__(setting.layer, setting.dtype, setting.weights, sides, ceilings, arguments)
        self.setting, self.flushed, self.failed = setting, flushed, {}

    def inputs(self, tokens, popularity, random):
        for x, logits in super().inputs(tokens, popularity, random):
            # What the rows are after rounding to the layer's type.
            yield (x if self.dtype == "f32" else layer_model.round_to_bfloat16(x)), logits

    def turn(self, side, inputs, threads):
        """One that fails takes no part any more; ours must not."""
        if side.name in self.failed:
            return
        try:
            self.time(side, inputs)
        except Exception as error:  # of whatever kind its libraries have
            if side is self.sides[0]:
                raise
            self.failed[side.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            self.sides = [one for one in self.sides if one is not side]
            del self.times[side.name]

    def time(self, side, inputs):
        torch = self.setting.torch
        self.reads.append(self.ceilings.read())
        if not self.times[side.name]:
            side.begin(len(inputs[0][0]))
            side.prepare(*inputs[0])
            side.warm_up()
        events = []
        for index, pair in enumerate(inputs):
            side.prepare(*pair)
            self.flushed.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            side.run()
            end.record()
            events.append((start, end))
            if index == 0 and side.name not in self.errors:
                self.check(side)
        torch.cuda.synchronize()
        self.times[side.name] += [start.elapsed_time(end) for start, end in events]


COLUMNS = ("| layer | weights | routing | T | active | copy GB/s | cuBLAS TFLOP/s | floor µs | moec: min | median | TFLOP/s | of the floor: best | median "
           "| error | others: median (times moec's; error) |")


def print_row(row):
    ours = row["sides"]["moec"]
    layer = device_layer.DeviceLayer.parse(row["layer"])
    tera = 6 * row["tokens"] * layer.k * layer.hidden * layer.intermediate / ours["median"] / 1e9
    print(
        f"| {row['layer']} | {row['type']} | {row['routing']} | {row['tokens']} | {row['active_experts']:.0f} | {row['read_gb_per_s']['median']:.0f} "
        f"| {row['fma_gflops'] / 1e3:.0f} | {1e3 * row['floor_ms']['best']:.1f} | {1e3 * ours['min']:.1f} | {1e3 * ours['median']:.1f} | {tera:.1f} "
        f"| {ours['at_best']:.0%} | {ours['at_median']:.0%} | {ours['error']:.0e} | {describe_others(row, 1e3, 1)} |",
        flush=True,
    )


def key_of(row):
    return tuple(row[name] for name in ("layer", "type", "routing", "tokens"))


def make_sides(setting, arguments):
    """(sides, reasons of those that are missing by name)."""
    sides, missing = [device_sides.Moec(setting)], {}
    for peer in () if arguments.no_peers else device_sides.PEERS:
        try:
            sides.append(peer(setting))
        except Missing as error:
            missing[peer.name] = str(error)
    return sides, missing


def measure_layer(torch, layer, dtype, keys, results, trace, arguments):
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        try:
            setting = Setting(torch, layer, dtype, arguments.packages, pathlib.Path(folder))
        except Missing as error:
            print(f"{layer.name} {dtype}: left out: {error}")
            return
        with torch.cuda.stream(setting.stream):
            sides, missing = make_sides(setting, arguments)
            for name, reason in missing.items():
                print(f"{layer.name} {dtype}: {name} is missing: {reason}")
            ceilings = device_sides.Ceilings(torch, setting.rows)
            flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
            random = np.random.default_rng()
            print_header(COLUMNS)
            for key in keys:
                _, _, name, tokens = key
                popularity = routing.popularity(name, layer.experts, layer.k, trace)
                measurement = DeviceMeasurement(setting, sides, ceilings, flushed, arguments)
                row = dict(zip(("layer", "type", "routing", "tokens"), key))
                row.update(measurement.run(tokens, popularity, None, random), missing={**missing, **measurement.failed})
                row.update(modes={side.name: side.mode for side in measurement.sides})
                results["rows"].append(row)
                print_row(row)
                for name, reason in measurement.failed.items():
                    print(f"{layer.name} {dtype}, {tokens} tokens: {name} failed: {reason}")
                write_json(arguments.json, results)
            sides[0].close()
        torch.cuda.empty_cache()


def measure_router(torch, experts, k, arguments):
    """Microseconds of logits to experts and weights, by T; 100 in a graph, since one is shorter than what
    starting it costs."""
    package = arguments.packages / f"{device_layer.router_name(experts, k)}.moec"
    if not package.is_dir():
        print(f"router of {experts} experts: left out: there is no {package}")
        return []
    rows, count, random = [], 100, np.random.default_rng()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), device_sides.load(package) as model:
        context = model.context(stream=stream.cuda_stream)
        for tokens in arguments.tokens:
            values = routing.draw_logits(np.ones(experts), k, tokens, random)
            logits = torch.from_numpy(values).cuda()
            ids = torch.empty(tokens, k, dtype=torch.int32, device="cuda")
            weights = torch.empty(tokens, k, dtype=torch.float32, device="cuda")
            ins, outs = [context.borrow(logits)], [context.borrow(one, writable=True) for one in (ids, weights)]
            context.run_tensors(ins, outs)
            stream.synchronize()
            expected_ids, expected = layer_model.route(values, k)
            if not np.array_equal(np.sort(ids.cpu().numpy()), np.sort(expected_ids)):
                raise SystemExit(f"the router of {experts} experts chooses others at T = {tokens}")
            error = np.abs(np.sort(weights.cpu().numpy()) - np.sort(expected)).max()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                for _ in range(count):
                    context.run_tensors(ins, outs)
            times = []
            for _ in range(arguments.repetitions):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                times.append(1e3 * start.elapsed_time(end) / count)
            rows.append(dict(experts=experts, k=k, tokens=tokens, microseconds=summary(times), error=float(error)))
            print(f"| {experts} | {k} | {tokens} | {min(times):.2f} | {statistics.median(times):.2f} | {error:.0e} |", flush=True)
        context.close()
    return rows


def wanted_rows(arguments):
    """Keys of all rows by (layer, dtype)."""
    return {
        (layer, dtype): [(layer.name, dtype, name, tokens) for name in arguments.routing for tokens in arguments.tokens]
        for layer in arguments.layer
        for dtype in arguments.type
        if device_layer.has_type(layer, dtype)
    }


def parse_arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    layers = [device_layer.DeviceLayer.parse(name) for name in layer_model.NAMED]
    parser.add_argument("--packages", type=pathlib.Path, default=pathlib.Path("packages"), help="of prepare_device.py (default: %(default)s)")
    parser.add_argument("--layer", type=lambda text: [device_layer.DeviceLayer.parse(one) for one in text.split(";")], default=layers,
                        help=f"{', '.join(layer_model.NAMED)} or E,k,H,I; several with ; between (default: all)")
    parser.add_argument("--type", type=one_of(device_layer.TYPES), default=["bf16"], help=f"of the weights, any of {', '.join(device_layer.TYPES)} (default: bf16)")
    parser.add_argument("--tokens", type=numbers, default=TOKENS, help="numbers of tokens (default: powers of two to 32768)")
    parser.add_argument("--routing", type=one_of(routing.DISTRIBUTIONS), default=["uniform"], help=f"any of {', '.join(routing.DISTRIBUTIONS)}")
    parser.add_argument("--trace", type=pathlib.Path, help="npz with `counts` of a recorded trace's experts, for --routing=trace")
    parser.add_argument("--routers", type=words, default=[["128", "8"], ["256", "8"]], nargs="*", help="E,k of routers that are timed alone; none: --routers")
    parser.add_argument("--seconds", type=float, default=1, help="for each side and row, at most (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=30, help="of each side, enough (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="moec alone")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()), help="for weights (gigabytes)")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here; rows that are there already are not measured again")
    arguments = parser.parse_args(given)
    if "trace" in arguments.routing and not arguments.trace:
        parser.error("--routing=trace needs --trace")
    if not arguments.packages.is_dir():
        parser.error(f"there is no folder {arguments.packages}: prepare_device.py makes it")
    return arguments


def main():
    arguments = parse_arguments()
    torch = find_torch()
    trace = np.load(arguments.trace)["counts"].sum(axis=0) if arguments.trace else None
    results = dict(machine=device_sides.describe(torch), rows=[], routers=[])
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    if arguments.json and arguments.json.exists():
        results.update({name: rows for name, rows in json.loads(arguments.json.read_text()).items() if name in ("rows", "routers")})
    known = {key_of(row) for row in results["rows"]}
    if arguments.routers and not results["routers"]:
        print_header("| router: experts | k | T | min µs | median µs | error |")
        for text in arguments.routers:
            results["routers"] += measure_router(torch, *(int(word) for word in text), arguments)
        write_json(arguments.json, results)
    for (layer, dtype), keys in wanted_rows(arguments).items():
        left = [key for key in keys if key not in known]
        if left:
            measure_layer(torch, layer, dtype, left, results, trace, arguments)
    write_json(arguments.json, results)
    wrong = [key_of(row) for row in results["rows"] if row["sides"]["moec"]["error"] > MAX_OUR_ERROR[row["type"]]]
    if wrong:
        raise SystemExit(f"moec's results are wrong: {wrong}")


if __name__ == "__main__":
    main()

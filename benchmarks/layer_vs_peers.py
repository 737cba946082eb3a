# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One MoE layer, compiled by moec and in other programs, beside the floor that this
machine's memory and arithmetic set.

    python benchmarks/layer_vs_peers.py --quick
    python benchmarks/layer_vs_peers.py --full --json figures.json      (again: goes on)
    python benchmarks/layer_vs_peers.py --layer qwen3 --type int4 --tokens 1,8 --routing uniform,hot

Inputs and routing are drawn again for every repetition, and weights rotate over at least
1 GB (tiny layers: over 16 copies). The sides take turns on the same inputs, bursts of repetitions after a pause, so that
neither pays for another's waiting threads; ceilings are measured between the turns. Each
side's outputs are compared with float64 meanwhile.
"""

import argparse
import json
import os
import pathlib
import statistics
import time

import layer_model
import machine
import numpy as np
import routing
from layer_sides import PEERS, ROOT, Moec
from side import Missing

PAUSE_SECONDS = 0.3  # longer than any side's threads wait actively
TURN_SECONDS = 0.7
MIN_TURNS = 4
ROTATED_BYTES = 1e9
MAX_COPIES = 16  # a layer that needs more of them lives in caches in any case
CHECKED_TOKENS = 4
MAX_OUR_ERROR = 1e-4  # of the largest value, against float64
MAX_LAYER_BYTES = 20e9


def summary(values):
    return dict(min=min(values), median=statistics.median(values), max=max(values), repetitions=len(values))


def make_sides(layer, dtype, threads, arguments):
    """(sides, reasons of those that are missing by name)."""
    copies = min(MAX_COPIES, int(np.ceil(ROTATED_BYTES / (layer.experts * layer.expert_bytes(dtype)))))
    sides, missing = [Moec(layer, dtype, threads, copies, arguments)], {}
    for peer in () if arguments.no_peers else PEERS:
        try:
            sides.append(peer(layer, dtype, threads, copies, arguments))
        except Missing as error:
            missing[peer.name] = str(error)
    return sides, missing


class Measurement:
    """Of one number of tokens and one distribution."""

    def __init__(self, layer, dtype, weights, sides, ceilings, arguments):
        self.layer, self.dtype, self.weights, self.sides = layer, dtype, weights, sides
        self.ceilings, self.arguments = ceilings, arguments
        self.times = {side.name: [] for side in sides}
        self.errors = {side.name: 0.0 for side in sides}
        self.active, self.reads = [], []

    def inputs(self, tokens, popularity, random):
        count = 32 if tokens < 64 else 8 if tokens < 1024 else 3
        for _ in range(count):
            logits = routing.draw_logits(popularity, self.layer.k, tokens, random)
            self.active.append(np.unique(layer_model.route(logits, self.layer.k)[0]).size)
            yield random.standard_normal((tokens, self.layer.hidden), dtype=np.float32), logits

    def turn(self, side, inputs, threads):
        """A burst of repetitions; the first, which wakes the threads, does not count."""
        self.reads.append(self.ceilings.read(threads))
        time.sleep(PAUSE_SECONDS)
        end = time.perf_counter() + TURN_SECONDS
        for index, pair in enumerate(inputs):
            side.prepare(*pair)
            start = time.perf_counter()
            side.run()
            elapsed = time.perf_counter() - start
            if index == 0:
                self.check(side, *pair)
                end = max(end, time.perf_counter())
            else:
                self.times[side.name].append(1e3 * elapsed)
            if time.perf_counter() > end and index:
                return

    def check(self, side, x, logits):
        if self.errors[side.name] and self.key == id(x):
            return
        if self.key != id(x):
            some = np.linspace(0, len(x) - 1, CHECKED_TOKENS).astype(int) if len(x) > CHECKED_TOKENS else np.arange(len(x))
            self.key, self.some = id(x), some
            self.expected = layer_model.expected(self.layer, self.weights, x[some], logits[some])
        difference = np.abs(side.result()[self.some] - self.expected).max() / np.abs(self.expected).max()
        self.errors[side.name] = max(self.errors[side.name], float(difference))

    key = None

    def done(self, start, turns):
        """Several turns, also where one has repetitions enough: a moment is not typical."""
        least = min(len(times) for times in self.times.values())
        if time.perf_counter() - start > self.arguments.seconds * len(self.sides):
            return least >= 2
        return turns >= MIN_TURNS and least >= max(2, self.arguments.repetitions)

    def run(self, tokens, popularity, threads, random):
        start, order, turns = time.perf_counter(), list(self.sides), 0
        while not self.done(start, turns):
            inputs = list(self.inputs(tokens, popularity, random))
            for side in order:
                self.turn(side, inputs, threads)
            order.reverse()
            turns += 1
        gflops = self.ceilings.multiply_add(threads)
        active = statistics.mean(self.active)
        best = self.layer.floor_ms(self.dtype, tokens, active, max(self.reads), gflops)
        typical = self.layer.floor_ms(self.dtype, tokens, active, statistics.median(self.reads), gflops)
        sides = {}
        for side in self.sides:
            times = summary(self.times[side.name])
            sides[side.name] = dict(times, at_best=best / times["min"], at_median=typical / times["median"], error=self.errors[side.name])
        return dict(active_experts=active, read_gb_per_s=summary(self.reads), fma_gflops=gflops, floor_ms=dict(best=best, typical=typical), sides=sides)


# --- the table ------------------------------------------------------------------------------

COLUMNS = "| layer | weights | threads | routing | T | active | floor | moec: min | median | max | of the floor: best | median | error | others: median (times moec's; error) |"


def print_header():
    print(COLUMNS)
    print("|" + "---|" * (COLUMNS.count("|") - 1), flush=True)


def print_row(row):
    ours = row["sides"]["moec"]
    others = [
        f"{name} {side['median']:.2f} ({side['median'] / ours['median']:.2f}x; {side['error']:.0e})" for name, side in row["sides"].items() if name != "moec"
    ]
    print(
        f"| {row['layer']} | {row['type']} | {row['threads']} | {row['routing']} | {row['tokens']} | {row['active_experts']:.0f} "
        f"| {row['floor_ms']['best']:.2f} | {ours['min']:.2f} | {ours['median']:.2f} | {ours['max']:.2f} "
        f"| {ours['at_best']:.0%} | {ours['at_median']:.0%} | {ours['error']:.0e} | {', '.join(others)} |",
        flush=True,
    )


# --- what is measured -------------------------------------------------------------------------


def key_of(row):
    return tuple(row[name] for name in ("layer", "type", "threads", "routing", "tokens"))


def wanted_rows(arguments):
    """Keys of all rows by (layer, dtype, threads), for which sides are made once."""
    groups = {}
    for layer in arguments.layer:
        for dtype in arguments.type:
            if layer.experts * layer.expert_bytes(dtype) > MAX_LAYER_BYTES:
                print(f"{layer.name} {dtype}: left out, larger than {MAX_LAYER_BYTES / 1e9:.0f} GB")
                continue
            for threads in arguments.threads:
                keys = [(layer.name, dtype, threads, name, tokens) for name in arguments.routing for tokens in arguments.tokens]
                groups[layer, dtype, threads] = keys
    return groups


def write_json(path, results):
    if path:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(part, path)


def measure_group(group, keys, results, ceilings, trace, arguments):
    layer, dtype, threads = group
    sides, missing = make_sides(layer, dtype, threads, arguments)
    for name, reason in missing.items():
        print(f"{layer.name} {dtype}: {name} is missing: {reason}")
    ours = sides[0]
    print(f"{layer.name} {dtype}: compiled in {ours.compile_seconds:.1f} s with {ours.compile_peak_bytes / 2**20:.0f} MiB, library {ours.library_bytes / 1000:.0f} kB")
    weights = layer_model.Weights(layer, dtype, arguments.folder)
    random = np.random.default_rng()
    print_header()
    for key in keys:
        _, _, _, name, tokens = key
        popularity = routing.popularity(name, layer.experts, layer.k, trace)
        measurement = Measurement(layer, dtype, weights, sides, ceilings, arguments)
        row = dict(zip(("layer", "type", "threads", "routing", "tokens"), key))
        row.update(measurement.run(tokens, popularity, threads, random), missing=missing)
        results["rows"].append(row)
        print_row(row)
        write_json(arguments.json, results)


def words(text):
    return text.split(",")


def numbers(text):
    return [int(word) for word in words(text)]


def one_of(known):
    def parse(text):
        unknown = sorted(set(words(text)) - set(known))
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
        return words(text)

    return parse


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="bf16, f32 and int4 of the Qwen3-30B-A3B layer (the default): under a quarter of an hour")
    parser.add_argument("--full", action="store_true", help="all layers, weights and distributions; goes on where --json has rows")
    parser.add_argument("--layer", type=lambda text: [layer_model.Layer.parse(one) for one in text.split(";")], help=f"{', '.join(layer_model.NAMED)} or E,k,H,I; several with ; between")
    parser.add_argument("--type", type=one_of(layer_model.TYPES), help=f"of the weights, any of {', '.join(layer_model.TYPES)}; blocks of {layer_model.BLOCK}")
    parser.add_argument("--tokens", type=numbers, help="numbers of tokens")
    parser.add_argument("--routing", type=one_of(routing.DISTRIBUTIONS), help=f"any of {', '.join(routing.DISTRIBUTIONS)}")
    parser.add_argument("--trace", type=pathlib.Path, help="npz with `counts` of a recorded trace's experts, for --routing=trace")
    parser.add_argument("--threads", type=numbers, help="numbers of threads")
    parser.add_argument("--seconds", type=float, default=2, help="for each side and row, at most (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=30, help="of each side, enough (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="moec alone, without rounding")
    parser.add_argument("--cpu", default="native", help="as for moec")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "benchmarks", help="for models and packages (gigabytes)")
    parser.add_argument("--moec", type=pathlib.Path, default=ROOT / "build" / "bin" / "moec")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here; rows that are there already are not measured again")
    arguments = parser.parse_args()
    if arguments.quick and arguments.full:
        parser.error("--quick or --full")
    cores = min(2, os.cpu_count())
    defaults = dict(layer=[layer_model.Layer.parse("qwen3")], type=["bf16", "f32", "int4"], tokens=[1, 8, 32, 128, 512, 2048], routing=["uniform"], threads=[cores])
    if arguments.full:
        layers = [layer_model.Layer.parse(name) for name in layer_model.NAMED]
        distributions = [name for name in routing.DISTRIBUTIONS if name != "trace" or arguments.trace]
        defaults = dict(layer=layers, type=list(layer_model.TYPES), tokens=[2**i for i in range(13)], routing=distributions, threads=sorted({1, cores}))
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if "trace" in arguments.routing and not arguments.trace:
        parser.error("--routing=trace needs --trace")
    return arguments


def main():
    arguments = parse_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    trace = np.load(arguments.trace)["counts"].sum(axis=0) if arguments.trace else None
    ceilings = machine.Ceilings(arguments.folder)
    results = dict(machine=machine.describe(), ceilings=ceilings.table(sorted({1, *arguments.threads})), rows=[])
    for line in results["ceilings"]:
        print(", ".join(f"{name} {value:.4g}" for name, value in line.items()))
    if arguments.json and arguments.json.exists():
        results["rows"] = json.loads(arguments.json.read_text())["rows"]
    known = {key_of(row) for row in results["rows"]}
    for group, keys in wanted_rows(arguments).items():
        left = [key for key in keys if key not in known]
        if left:
            measure_group(group, left, results, ceilings, trace, arguments)
    write_json(arguments.json, results)
    wrong = [key_of(row) for row in results["rows"] if row["sides"]["moec"]["error"] > MAX_OUR_ERROR]
    if wrong:
        raise SystemExit(f"moec's results are wrong: {wrong}")


if __name__ == "__main__":
    main()

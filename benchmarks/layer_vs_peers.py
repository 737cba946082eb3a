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
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import statistics
import sys
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
CHECKED_WEIGHTS = 150e6  # of large experts fewer tokens are compared
MAX_OUR_ERROR = 1e-4  # of the largest value, against float64
MAX_LAYER_BYTES = 20e9
CORES = min(2, os.cpu_count())

# What --full measures: layers, types of weights, threads, routing, tokens. Everything about one layer;
# of the others, whose largest runs take many seconds with every program, what differs.
SKEWED = ("gini0.25", "gini0.4", "hot", "trace")
FULL = (
    (("qwen3",), layer_model.TYPES, CORES, ("uniform",), (1, 8, 64, 512, 4096)),
    (("qwen3",), ("bf16", "int4"), CORES, SKEWED, (8, 64, 512)),
    (("qwen3",), ("bf16", "int4"), 1, ("uniform",), (1, 8, 64, 512)),
    (("olmoe", "switch", "odd"), ("bf16", "int4"), CORES, ("uniform",), (1, 8, 64, 512, 4096)),
    (("gpt-oss", "mixtral", "deepseek"), ("bf16", "int4"), CORES, ("uniform",), (1, 8, 64, 512)),
)


def summary(values):
    return dict(min=min(values), median=statistics.median(values), max=max(values), repetitions=len(values))


@contextlib.contextmanager
def output_into(path):
    """What native code writes meanwhile; it is shown only if something fails."""
    sys.stdout.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("w") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        try:
            yield
        except Exception:
            os.write(kept[1], path.read_bytes())
            raise
        finally:
            for number, before in enumerate(kept, 1):
                os.dup2(before, number)
                os.close(before)


def make_sides(layer, dtype, threads, arguments):
    """(sides, reasons of those that are missing by name)."""
    copies = min(MAX_COPIES, int(np.ceil(ROTATED_BYTES / (layer.experts * layer.expert_bytes(dtype)))))
    sides, missing = [Moec(layer, dtype, threads, copies, arguments)], {}
    for peer in () if arguments.no_peers else PEERS:
        try:
            sides.append(peer(layer, dtype, threads, copies, arguments))
        except Missing as error:
            missing[peer.name] = str(error)
    layer_model.forget_pages(layer, arguments.folder)
    for side in sides:
        side.ready()
    return sides, missing


class Measurement:
    """Of one number of tokens and one distribution."""

    def __init__(self, layer, dtype, weights, sides, ceilings, arguments):
        self.layer, self.dtype, self.weights, self.sides = layer, dtype, weights, sides
        self.ceilings, self.arguments = ceilings, arguments
        self.times = {side.name: [] for side in sides}
        self.runs = dict.fromkeys(self.times, 0)
        self.errors = {}
        self.active, self.reads = [], []

    def inputs(self, tokens, popularity, random):
        count = 32 if tokens < 64 else 8 if tokens < 1024 else 3
        for _ in range(count):
            logits = routing.draw_logits(popularity, self.layer.k, tokens, random)
            self.active.append(np.unique(layer_model.route(logits, self.layer.k)[0]).size)
            yield random.standard_normal((tokens, self.layer.hidden), dtype=np.float32), logits

    def expect(self, x, logits):
        """What `check` compares the results of these inputs with."""
        weights = 3 * self.layer.k * self.layer.hidden * self.layer.intermediate
        count = int(min(len(x), CHECKED_TOKENS, max(1, CHECKED_WEIGHTS // weights)))
        self.some = np.linspace(0, len(x) - 1, count).astype(int)
        self.expected = layer_model.expected(self.layer, self.weights, x[self.some], logits[self.some])

    def check(self, side):
        difference = np.abs(side.result()[self.some] - self.expected).max() / np.abs(self.expected).max()
        self.errors[side.name] = float(difference)

    def turn(self, side, inputs, threads):
        """A burst of repetitions. The first, which wakes the threads, counts only where that is nothing
        beside the time that it takes. Before, each copy has run once: memory that it needs at this size
        is allocated and touched then. The very first has its results checked."""
        self.reads.append(self.ceilings.read(threads))
        time.sleep(PAUSE_SECONDS)
        end = time.perf_counter() + TURN_SECONDS
        for index, pair in enumerate(inputs):
            side.prepare(*pair)
            start = time.perf_counter()
            side.run()
            elapsed = time.perf_counter() - start
            if side.name not in self.errors:
                self.check(side)
            self.runs[side.name] += 1
            if self.runs[side.name] > len(side.copies) and (index or elapsed > TURN_SECONDS):
                self.times[side.name].append(1e3 * elapsed)
            if time.perf_counter() > end and self.times[side.name]:
                return

    def done(self, start, turns):
        """Several turns, also where one has repetitions enough: a moment is not typical."""
        least = min(len(times) for times in self.times.values())
        if time.perf_counter() - start > self.arguments.seconds * len(self.sides):
            return least >= 2
        return turns >= MIN_TURNS and least >= max(2, self.arguments.repetitions)

    def run(self, tokens, popularity, threads, random):
        order, turns = list(self.sides), 0
        inputs = list(self.inputs(tokens, popularity, random))
        self.expect(*inputs[0])
        start = time.perf_counter()
        while True:
            for side in order:
                self.turn(side, inputs, threads)
            order.reverse()
            turns += 1
            if self.done(start, turns):
                break
            inputs = list(self.inputs(tokens, popularity, random))
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

COLUMNS = "| row | took | layer | weights | threads | routing | T | active | floor | moec: min | median | max | of the floor: best | median | error | others: median (times moec's; error) |"


def print_header(columns):
    print(columns)
    print("|" + "---|" * (columns.count("|") - 1), flush=True)


def describe_others(row, scale=1, digits=2):
    """Medians, in ms times `scale`."""
    ours = row["sides"]["moec"]["median"]
    others = ((name, side) for name, side in row["sides"].items() if name != "moec")
    return ", ".join(f"{name} {scale * side['median']:.{digits}f} ({side['median'] / ours:.2f}x; {side['error']:.0e})" for name, side in others)


def print_row(row, number, count):
    ours = row["sides"]["moec"]
    print(
        f"| {number}/{count} | {row['seconds']:.0f} s | {row['layer']} | {row['type']} | {row['threads']} | {row['routing']} | {row['tokens']} | {row['active_experts']:.0f} "
        f"| {row['floor_ms']['best']:.2f} | {ours['min']:.2f} | {ours['median']:.2f} | {ours['max']:.2f} "
        f"| {ours['at_best']:.0%} | {ours['at_median']:.0%} | {ours['error']:.0e} | {describe_others(row)} |",
        flush=True,
    )


# --- what is measured -------------------------------------------------------------------------


def key_of(row):
    return tuple(row[name] for name in ("layer", "type", "threads", "routing", "tokens"))


def products(arguments):
    """(layers, types, threads, routing, tokens), of which all products are wanted."""
    if arguments.full:
        return [([layer_model.Layer.parse(name) for name in names], types, [threads], *rest) for names, types, threads, *rest in FULL]
    return [(arguments.layer, arguments.type, arguments.threads, arguments.routing, arguments.tokens)]


def has_blocks(layer):
    return layer.hidden % layer_model.BLOCK == 0 and layer.intermediate % layer_model.BLOCK == 0


def why_left_out(layer, dtype):
    """None for what can be measured."""
    if layer.experts * layer.expert_bytes(dtype) > MAX_LAYER_BYTES:
        return f"larger than {MAX_LAYER_BYTES / 1e9:.0f} GB"
    if dtype.startswith("int") and not has_blocks(layer):
        return f"rows are no multiple of a block of {layer_model.BLOCK}"
    return None


def wanted_rows(arguments):
    """Keys of all rows by (layer, dtype, threads), for which sides are made once."""
    asked = {name: getattr(arguments, name) for name in ("layer", "type", "threads", "routing", "tokens")}
    groups, left_out = {}, {}
    for each in products(arguments):
        for layer, dtype, threads, name, tokens in itertools.product(*each):
            values = dict(layer=layer, type=dtype, threads=threads, routing=name, tokens=tokens)
            # Of --full, what the other options ask for.
            if any(asked[what] is not None and value not in asked[what] for what, value in values.items()):
                continue
            if reason := why_left_out(layer, dtype):
                left_out[layer.name, dtype] = reason
                continue
            # A key of a dictionary: with one core, --full names some rows twice.
            groups.setdefault((layer, dtype, threads), {})[layer.name, dtype, threads, name, tokens] = None
    return {group: list(keys) for group, keys in groups.items()}, left_out


def rows_left(groups, results):
    """The groups without the rows that are there already."""
    known = {key_of(row) for row in results["rows"]}
    left = {group: [key for key in keys if key not in known] for group, keys in groups.items()}
    return {group: keys for group, keys in left.items() if keys}


def remove_finished(folder, groups, left):
    """Deletes the packages of the types, and the models of the layers, that have no row left to measure."""
    layers, types = {group[0] for group in left}, {group[:2] for group in left}
    patterns = {f"{dtype}_{layer}[._]*" for layer, dtype, _ in groups if (layer, dtype) not in types}
    patterns |= {f"*_{layer}[._]*" for layer, _, _ in groups if layer not in layers}
    for path in {path for pattern in patterns for path in folder.glob(pattern)}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_json(path, results):
    """Whoever ends this process, there is a whole file, with all rows so far."""
    if path:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(part, path)


def read_json(path):
    """What has been measured so far."""
    here = machine.describe()
    if not path or not path.exists():
        return dict(machine=here, ceilings=[], rows=[])
    results = json.loads(path.read_text())
    if results["machine"] != here:
        raise SystemExit(f"{path} is of another machine: {results['machine']}; this one: {here}")
    return results


def measure_group(group, keys, results, count, ceilings, trace, arguments):
    layer, dtype, threads = group
    start = time.perf_counter()
    with output_into(arguments.folder / "peers.log"):
        sides, missing = make_sides(layer, dtype, threads, arguments)
    for name, reason in missing.items():
        print(f"{layer.name} {dtype}: {name} is missing: {reason}")
    ours = sides[0]
    print(
        f"{layer.name} {dtype}: compiled in {ours.compile_seconds:.1f} s with {ours.compile_peak_bytes / 2**20:.0f} MiB, "
        f"library {ours.library_bytes / 1000:.0f} kB; all ready after {time.perf_counter() - start:.0f} s"
    )
    weights = layer_model.Weights(layer, dtype, arguments.folder)
    random = np.random.default_rng()
    print_header(COLUMNS)
    for key in keys:
        start = time.perf_counter()
        _, _, _, name, tokens = key
        popularity = routing.popularity(name, layer.experts, layer.k, trace)
        measurement = Measurement(layer, dtype, weights, sides, ceilings, arguments)
        row = dict(zip(("layer", "type", "threads", "routing", "tokens"), key))
        row.update(measurement.run(tokens, popularity, threads, random), missing=missing)
        row["seconds"] = time.perf_counter() - start
        results["rows"].append(row)
        write_json(arguments.json, results)
        print_row(row, len(results["rows"]), count)


def words(text):
    return text.split(",")


def numbers(text):
    return [int(word) for word in words(text)]


def layers(text):
    try:
        return [layer_model.Layer.parse(one) for one in text.split(";")]
    except (TypeError, ValueError):
        known = ", ".join(layer_model.NAMED)
        raise argparse.ArgumentTypeError(f"'{text}' is not one of {known} or E,k,H,I, or several with ; between") from None


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
    parser.add_argument("--full", action="store_true", help="all layers, types and distributions, an hour; of these, what the other options ask for. With --json; implies --clean")
    parser.add_argument("--clean", action="store_true", help="delete the packages of a type and the models of a layer once they are measured")
    parser.add_argument("--layer", type=layers, help=f"{', '.join(layer_model.NAMED)} or E,k,H,I; several with ; between")
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
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here, after each row; rows that are there already are not measured again")
    arguments = parser.parse_args()
    if arguments.quick and arguments.full:
        parser.error("--quick or --full")
    if arguments.full and not arguments.json:
        parser.error("--full takes long: say --json, with which it can be stopped and go on")
    if arguments.full and not arguments.trace and not arguments.routing:
        arguments.routing = [name for name in routing.DISTRIBUTIONS if name != "trace"]
    arguments.clean |= arguments.full
    defaults = dict(layer=[layer_model.Layer.parse("qwen3")], type=["bf16", "f32", "int4"], tokens=[1, 8, 32, 128, 512, 2048], routing=["uniform"], threads=[CORES])
    for name, value in {} if arguments.full else defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if "trace" in (arguments.routing or SKEWED) and not arguments.trace:
        parser.error("--routing=trace needs --trace")
    return arguments


def measure_all(groups, results, arguments):
    """Group by group. With --json each is measured by a new process in the place of this one, since
    not every program gives its memory and its threads back; it goes on as after a stop."""
    left = rows_left(groups, results)
    if not left:
        return
    count = sum(len(keys) for keys in left.values()) + len(results["rows"])
    trace = np.load(arguments.trace)["counts"].sum(axis=0) if arguments.trace else None
    ceilings = machine.Ceilings(arguments.folder)
    if not results["ceilings"]:
        results["ceilings"] = ceilings.table(sorted({1, *(threads for _, _, threads in groups)}))
        for line in results["ceilings"]:
            print(", ".join(f"{name} {value:.4g}" for name, value in line.items()))
    for line in results["ceilings"]:
        ceilings.remember(line["threads"], line["fma"])
    for row in results["rows"]:
        ceilings.remember(row["threads"], row["fma_gflops"])
    for group, keys in left.items():
        measure_group(group, keys, results, count, ceilings, trace, arguments)
        if arguments.clean:
            remove_finished(arguments.folder, groups, rows_left(groups, results))
        if arguments.json and group != list(left)[-1]:
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main():
    arguments = parse_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    groups, left_out = wanted_rows(arguments)
    if not groups:
        raise SystemExit(f"nothing to measure; left out: {left_out or 'nothing'}")
    results = read_json(arguments.json)
    if not results["rows"]:
        for (name, dtype), reason in left_out.items():
            print(f"{name} {dtype}: left out, {reason}")
    if arguments.clean:
        remove_finished(arguments.folder, groups, rows_left(groups, results))
    try:
        measure_all(groups, results, arguments)
    except KeyboardInterrupt:
        more = " The same command goes on." if arguments.json else ""
        raise SystemExit(f"stopped with {len(results['rows'])} rows.{more}") from None
    write_json(arguments.json, results)
    wrong = [key_of(row) for row in results["rows"] if row["sides"]["moec"]["error"] > MAX_OUR_ERROR]
    if wrong:
        raise SystemExit(f"moec's results are wrong: {wrong}")


if __name__ == "__main__":
    main()

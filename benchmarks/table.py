# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes the tables of docs/performance.md from the figures of layer_vs_peers.py.

    python benchmarks/table.py figures.json
    python benchmarks/table.py figures.json --layer qwen3 --threads 2

One table for each layer and number of threads; times in ms. The others' are medians, with their
ratio to moec's.
"""

import argparse
import itertools
import json
import pathlib

import layer_model

# Columns of the others: the better of several programs where these are named.
OTHERS = {
    "rounded rows": ("moec, int8 rows", "moec, bf16 rows"),
    "ONNX Runtime": ("onnxruntime",),
    "level 4": ("onnxruntime accuracy_level 4",),
    "PyTorch": ("PyTorch grouped_mm", "PyTorch expert loop"),
    "kt-kernel": ("kt-kernel",),
    "ggml": ("ggml",),
}


# Rounding rows to 8 bits gives about 0.01.
MAX_ERROR = 0.1


def taking_part(row, names):
    return [row["sides"][name] for name in names if name in row["sides"]]


def other_cell(row, names):
    """The smallest median of those whose results are right."""
    sides = taking_part(row, names)
    if not sides:
        return "–"
    medians = [side["median"] for side in sides if side["error"] < MAX_ERROR]
    if not medians:
        return "wrong results"
    median = min(medians)
    return f"{median:.{1 if median >= 1 else 2}f} ({median / row['sides']['moec']['median']:.2f}x)"


def our_cells(row):
    ours, read = row["sides"]["moec"], row["read_gb_per_s"]
    return {
        "weights": row["type"],
        "routing": row["routing"],
        "T": row["tokens"],
        "active": f"{row['active_experts']:.0f}",
        "GB/s: median / max": f"{read['median']:.0f} / {read['max']:.0f}",
        "floor": f"{row['floor_ms']['best']:.2f}",
        "min": f"{ours['min']:.2f}",
        "median": f"{ours['median']:.2f}",
        "max": f"{ours['max']:.2f}",
        "of the floor: best": f"{ours['at_best']:.0%}",
        "of the floor: median": f"{ours['at_median']:.0%}",
        "error": f"{ours['error']:.0e}",
    }


def lines(rows):
    """A table. Programs that took part nowhere in it have no column, nor has the routing where there is one."""
    present = {title: names for title, names in OTHERS.items() if any(taking_part(row, names) for row in rows)}
    is_one_routing = len({row["routing"] for row in rows}) == 1
    for number, row in enumerate(rows):
        cells = our_cells(row) | {title: other_cell(row, names) for title, names in present.items()}
        if is_one_routing:
            del cells["routing"]
        if not number:
            yield f"| {' | '.join(cells)} |"
            yield "|" + "---|" * len(cells)
        yield f"| {' | '.join(str(cell) for cell in cells.values())} |"


def title(layer, threads, rows):
    routings = {row["routing"] for row in rows}
    sizes = layer_model.Layer.parse(layer)
    words = [
        f"{layer}: {sizes.experts} experts, {sizes.k} per token, hidden size {sizes.hidden}, intermediate size {sizes.intermediate}",
        *([f"{routings.pop()} routing"] if len(routings) == 1 else []),
        f"{threads} thread{'s' if threads > 1 else ''}",
    ]
    return ", ".join(words)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=pathlib.Path, help="what --json of layer_vs_peers.py wrote")
    parser.add_argument("--layer", help="only this one")
    parser.add_argument("--threads", type=int, help="only these")
    arguments = parser.parse_args()
    rows = json.loads(arguments.figures.read_text())["rows"]
    rows = [row for row in rows if arguments.layer in (None, row["layer"]) and arguments.threads in (None, row["threads"])]

    # In the order in which they were first measured; the rows of one table need not have been in one go.
    first = {what: list(dict.fromkeys(row[what] for row in rows)) for what in ("layer", "threads", "type", "routing")}
    rows.sort(key=lambda row: (*(values.index(row[what]) for what, values in first.items()), row["tokens"]))
    for (layer, threads), some in itertools.groupby(rows, lambda row: (row["layer"], row["threads"])):
        some = list(some)
        print(f"### {title(layer, threads, some)}\n", *lines(some), "", sep="\n")


if __name__ == "__main__":
    main()

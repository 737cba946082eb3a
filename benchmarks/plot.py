# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Draws the roofline of a machine and where the layers of a run of layer_vs_peers.py lie in it.

    python benchmarks/plot.py figures.json roofline.svg

Needs matplotlib.
"""

import json
import pathlib
import sys

import layer_model


def points(rows, side):
    """(useful FLOPs for each byte, GFLOP/s) of the rows that have this side."""
    for row in rows:
        if side not in row["sides"]:
            continue
        layer = layer_model.Layer.parse(row["layer"])
        work = 6 * row["tokens"] * layer.k * layer.hidden * layer.intermediate
        moved = row["active_experts"] * layer.expert_bytes(row["type"]) + 8 * row["tokens"] * layer.hidden
        yield work / moved, work / row["sides"][side]["median"] / 1e6


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("plot.py needs matplotlib: pip install matplotlib") from error
    matplotlib.use("svg" if sys.argv[2].endswith(".svg") else "agg")
    from matplotlib import pyplot

    results = json.loads(pathlib.Path(sys.argv[1]).read_text())
    rows = results["rows"]
    threads = max(row["threads"] for row in rows)
    rows = [row for row in rows if row["threads"] == threads]
    bandwidth = max(row["read_gb_per_s"]["max"] for row in rows)
    peak = max(row["fma_gflops"] for row in rows)
    figure, axes = pyplot.subplots(figsize=(8, 5))
    intensities = [2.0**i for i in range(-2, 11)]
    axes.plot(intensities, [min(peak, one * bandwidth) for one in intensities], "k-", label=f"{bandwidth:.0f} GB/s, {peak:.0f} GFLOP/s")
    for side in dict.fromkeys(name for row in rows for name in row["sides"]):
        places = sorted(points(rows, side))
        axes.plot(*zip(*places), "o" if side == "moec" else ".", label=side)
    axes.set(xscale="log", yscale="log", xlabel="useful FLOPs for each byte of activated weights", ylabel="GFLOP/s", title=f"{threads} threads, median times")
    axes.legend()
    figure.savefig(sys.argv[2])


if __name__ == "__main__":
    main()

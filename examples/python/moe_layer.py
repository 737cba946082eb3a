# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiles a model and runs it with random inputs.

    python moe_layer.py MODEL.onnx [TOKENS]
"""

import pathlib
import sys
import time

import moec
import numpy as np


def draw_inputs(model: moec.Model, size: int) -> dict[str, np.ndarray]:
    """Random inputs, with `size` for each symbolic dimension."""
    random = np.random.default_rng(0)

    def draw(info: moec.TensorInfo) -> np.ndarray:
        shape = [dim if isinstance(dim, int) else size for dim in info.dims]
        return random.standard_normal(shape).astype(info.dtype)

    return {info.name: draw(info) for info in model.inputs}


def main() -> None:
    path, tokens = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 4
    try:
        model = moec.compile(path, path.with_suffix(".moec").name)
    except moec.CompileError as error:
        sys.exit(f"{error}\n({error.status})")
    print(model)

    inputs = draw_inputs(model, tokens)
    outputs = model.run(inputs)
    for name, values in outputs.items():
        print(f"{name} {list(values.shape)}: largest value {np.abs(values).max():.4f}")

    # Into the same arrays again: nothing is allocated.
    start = time.perf_counter()
    model.run(inputs, out=outputs)
    print(f"one run: {1e6 * (time.perf_counter() - start):.0f} µs")


if __name__ == "__main__":
    main()

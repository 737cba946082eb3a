# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compares the points of a module, at -O0 and -O3 or on an emulated GPU, with references.ops."""

import pathlib
import tempfile

import numpy as np
from harness import TOLERANCES
from jit import Program
from references.evaluate import relative_error

from layer import Layer

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def tolerance(point):
    # Each product and sum of a token's entries is rounded, at most one per expert.
    roundings = point["experts"] if point["accum"] == "native" else 1
    return TOLERANCES[DTYPES[point["dtype"]]] * max(1.0, roundings / 4)


def differences(layer, outputs, expected):
    """What is wrong, as text."""
    for number, (actual, value) in enumerate(zip(outputs, expected)):
        value = np.asarray(value)
        if value.dtype.kind != "f":
            if not np.array_equal(actual, value):
                yield f"result {number}: {actual}, expected {value}"
        elif not (error := relative_error(actual, value)) < tolerance(layer.point):
            yield f"result {number}: error {error:.1e}"


def check_module(points, seed, gpu=False):
    """Each as a function of one module, on random numbers. Returns what is wrong, as texts."""
    layers = [Layer(f"layer{i}", point) for i, point in enumerate(points)]
    drawn = [layer.draw(np.random.default_rng([*seed, i])) for i, layer in enumerate(layers)]
    expected = [layer.evaluate(arrays) for layer, arrays in zip(layers, drawn)]
    typed = [layer.cast(arrays) for layer, arrays in zip(layers, drawn)]
    weights = {
        layer.symbol(value): arrays[value.name[1:]]
        for layer, arrays in zip(layers, typed)
        for value in layer.weights
    }
    text = "\n".join(layer.text() for layer in layers)
    wrong = []
    for level in (3,) if gpu else (0, 3):
        with tempfile.TemporaryDirectory() as folder:
            program = Program(text, weights, pathlib.Path(folder), level, gpu)
        for layer, arrays, wanted in zip(layers, typed, expected):
            inputs = [arrays[value.name[1:]] for value, _ in layer.arguments]
            outputs = program.run(layer.name, inputs, layer.outputs())
            for one in differences(layer, outputs, wanted):
                wrong.append(f"-O{level} {one}\n{layer.point}\n{layer.text()}")
        program.close()
    return wrong

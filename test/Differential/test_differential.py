# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Random points of the whole attribute space, not only of the named systems: each point a
layer, compiled with -O0 and -O3 in this process, and compared with references.ops. Every
value and every valid pair of values is drawn so often that a kernel which mixes up two
attributes shows. Points that a verifier has to refuse name the constraint."""

import contextlib
import os

import numpy as np
import pytest
from harness import TOLERANCES
from references.evaluate import relative_error
from safetensors.numpy import save_file

import moec
from layer import Layer
from space import DIMENSIONS, EXPERT_DIMENSIONS, SPACE, Contradiction, Space, draw_modules

MODULES, LAYERS_OF_MODULE = 80, 25
OF_VALUE, OF_PAIR = 30, 3
SEED = 20260801

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@pytest.fixture(scope="session")
def drawn():
    """(modules, coverage)"""
    points = MODULES * LAYERS_OF_MODULE
    rng = np.random.default_rng(SEED)
    modules, coverage = draw_modules(SPACE, rng, points, OF_VALUE, OF_PAIR, EXPERT_DIMENSIONS, LAYERS_OF_MODULE)
    assert len(modules) == MODULES
    return modules, coverage


def compile_text(text, weights, folder, level):
    folder.mkdir(exist_ok=True)
    (folder / "layers.mlir").write_text(text)
    options = {"O": level}
    if weights:
        save_file(weights, folder / "w.safetensors")
        options["weights"] = "w.safetensors"
    return moec.compile(folder / "layers.mlir", folder / f"O{level}.moec", **options)


def tolerance(point):
    # Each product and sum of a token's entries is rounded, at most one per expert.
    roundings = point["experts"] if point["accum"] == "native" else 1
    return TOLERANCES[DTYPES[point["dtype"]]] * max(1.0, roundings / 4)


def differences(layer, outputs, expected):
    """What is wrong, as text."""
    for name, value in expected.items():
        value = np.asarray(value)
        if value.dtype.kind != "f":
            if not np.array_equal(outputs[name], value):
                yield f"{name}: {outputs[name]}, expected {value}"
        elif not (error := relative_error(outputs[name], value)) < tolerance(layer.point):
            yield f"{name}: error {error:.1e}"


# About an hour on two cores.
on_request = pytest.mark.skipif("MOEC_DIFFERENTIAL" not in os.environ, reason="runs when MOEC_DIFFERENTIAL is set")


@on_request
@pytest.mark.parametrize("number", range(MODULES))
def test_points(drawn, tmp_path, number):
    modules, _ = drawn
    layers = [Layer(f"layer{i}", point) for i, point in enumerate(modules[number])]
    arrays = [layer.draw(np.random.default_rng([SEED, number, i])) for i, layer in enumerate(layers)]
    expected = [layer.evaluate(given) for layer, given in zip(layers, arrays)]
    typed = [
        {name: value.astype(layer.types()[name]) for name, value in given.items()}
        for layer, given in zip(layers, arrays)
    ]
    text = "\n".join(layer.text() for layer in layers)
    weights = {
        f"{layer.name}_{value.name[1:]}": np.ascontiguousarray(given[value.name[1:]])
        for layer, given in zip(layers, typed)
        for value in layer.weights
    }
    wrong = []
    for level in (0, 3):
        with compile_text(text, weights, tmp_path / "module", level) as model:
            for layer, given, wanted in zip(layers, typed, expected):
                inputs = {value.name[1:]: given[value.name[1:]] for value, _ in layer.arguments}
                for text in differences(layer, model.run(inputs, entry=layer.name), wanted):
                    wrong.append(f"-O{level} {text}\n{layer.point}\n{layer.text()}")
    assert not wrong, "\n".join(wrong)


@on_request
def test_coverage(drawn, record_property):
    modules, coverage = drawn
    assert not coverage.rare(OF_VALUE, OF_PAIR)
    record_property(
        "coverage",
        f"{sum(map(len, modules))} points: {len(coverage.values)} values of {len(DIMENSIONS)} attributes, each at least"
        f" {min(coverage.values.values())} times; {len(coverage.pairs)} valid pairs of values, each at least"
        f" {min(coverage.pairs.values())} times",
    )


def illegal_combinations():
    """(dimension, value, need that does not hold, value of the needed dimension). Not those
    for which the layers of this test have no such operation at all."""
    for name, values in DIMENSIONS.items():
        for value, needs in values.items():
            for broken in (one for one in needs if one.constraint):
                space = Space(DIMENSIONS, without=(name, value, broken))
                for wrong in (one for one in DIMENSIONS[broken.dimension] if one not in broken.values):
                    with contextlib.suppress(Contradiction):
                        space.domains({name: value, broken.dimension: wrong})
                        name_of_test = f"{name}={value}-{broken.dimension}={wrong}"
                        yield pytest.param(space, {name: value, broken.dimension: wrong}, broken, id=name_of_test)


@pytest.mark.parametrize(("space", "fixed", "broken"), list(illegal_combinations()))
def test_illegal_combination(tmp_path, space, fixed, broken):
    """A verifier refuses two values that do not go together, and names the constraint."""
    point = space.draw(np.random.default_rng(SEED), fixed)
    with pytest.raises(moec.CompileError) as error:
        compile_text(Layer("illegal", point).text(), {}, tmp_path, 0)
    place = f"'{broken.operation}' op {broken.constraint}:" if broken.operation else broken.constraint
    assert place in str(error.value)

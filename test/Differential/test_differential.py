# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Random points of the whole attribute space, not only of the named systems: each point a
layer, compiled with -O0 and -O3 in one process, and compared with references.ops. Every
value and every valid pair of values is drawn so often that a kernel which mixes up two
attributes shows. Points that a verifier has to refuse name the constraint."""

import concurrent.futures
import contextlib
import multiprocessing
import os

import numpy as np
import pytest

import moec
from check import check_module
from layer import Layer
from space import DIMENSIONS, EXPERT_DIMENSIONS, SPACE, Contradiction, Space, draw_modules

MODULES, LAYERS_OF_MODULE = 80, 25
OF_VALUE, OF_PAIR = 30, 3
SEED = 20260801

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that the compiler has"
)


@pytest.fixture(scope="session")
def drawn():
    """(modules, coverage)"""
    points = MODULES * LAYERS_OF_MODULE
    rng = np.random.default_rng(SEED)
    modules, coverage = draw_modules(SPACE, rng, points, OF_VALUE, OF_PAIR, EXPERT_DIMENSIONS, LAYERS_OF_MODULE)
    assert len(modules) == MODULES
    return modules, coverage


@pytest.fixture(scope="session")
def checks(drawn):
    """What is wrong with each module: futures. One process for each core, apart from this one,
    which has libmoec-c.so (see jit.py)."""
    modules, _ = drawn
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool:
        yield [pool.submit(check_module, points, (SEED, number)) for number, points in enumerate(modules)]
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("number", range(MODULES))
def test_points(checks, number):
    wrong = checks[number].result()
    assert not wrong, "\n".join(wrong)


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
        path = tmp_path / "layers.mlir"
        path.write_text(Layer("illegal", point).text())
        moec.compile(path, tmp_path / "layers.moec")
    place = f"'{broken.operation}' op {broken.constraint}:" if broken.operation else broken.constraint
    assert place in str(error.value)

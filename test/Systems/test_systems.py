# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The MoE systems of the literature, as layers in the moe dialect: each NAME.mlir here,
compiled, against its NumPy reference (test/references/systems, whose CASES name it), in
two sets of sizes and three types, its weights as tensors of a safetensors file and as
arguments. With `-v`, the summary lists the largest error of each system."""

import functools

import numpy as np
import pytest
from harness import TOLERANCES
from moec.runtime import load
from references.evaluate import relative_error
from references.systems import aux_free_balancing, modules
from safetensors.numpy import save_file

from layers import FILES, MLIR_NAMES, NUMPY_TYPES, Layer
from make_table import PAGE, page

SYSTEMS = {case: module for module in modules().values() for case in module.CASES}

# T of the calls: none, one, odd, and enough that capacities bind.
TOKENS = [0, 1, 7, 32]

# Sizes, type, weights as arguments.
VARIANTS = [
    ("DIMS", "float32", False),
    ("OTHER_DIMS", "float32", True),
    ("DIMS", "float16", False),
    ("OTHER_DIMS", "bfloat16", False),
]

# Compiling with -O3 takes longer: every system in float32, and in one of the other variants
# by turns. The differential test has all combinations.
RUNS = [
    pytest.param(case, *variant, level, id="-".join([case, *map(str, variant), level]))
    for number, case in enumerate(FILES)
    for turn, variant in enumerate(VARIANTS)
    for level in ("-O0", "-O3")
    if level == "-O0" or turn in (0, 1 + number % 3)
]


class Calls:
    """A layer's weights in float64, and the arrays and expected outputs of calls with each
    number of tokens. Floats are values of the layer's type."""

    def __init__(self, case, sizes, dtype):
        module = SYSTEMS[case]
        dims = getattr(module, sizes)
        self.layer = Layer(FILES[case], module.DIMS, dims, dtype)

        def draw(tokens, given):
            rng = np.random.default_rng([tokens, *map(ord, case)])
            return module.draw(rng, dims, tokens, case, dtype=NUMPY_TYPES[MLIR_NAMES[dtype]], given=given)

        most = draw(max(TOKENS), {})
        weights = {name: most[name] for name in self.layer.weights()}
        arrays = [draw(tokens, weights) if tokens != max(TOKENS) else most for tokens in TOKENS]
        self.weights = {name: weights[name].astype(type) for name, type in self.layer.weights().items()}
        self.calls = [(one, module.reference(one, dims, case)) for one in arrays]


# Both levels of a variant follow each other.
calls_of = functools.lru_cache(maxsize=2)(Calls)


def compile_layer(compiler, layer, weights, level, folder):
    """`weights`: arrays of a safetensors file, or None for arguments."""
    model = folder / "layer.mlir"
    model.write_text(layer.with_arguments() if weights is None else layer.text)
    flags = []
    if weights is not None:
        save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "w.safetensors")
        flags = ["--weights", "w.safetensors"]
    return compiler.package(model, level, *flags)


def largest_error(actual, expected):
    """Over the outputs; those that are no floats are the same."""
    assert set(actual) == set(expected)
    errors = {}
    for name, value in expected.items():
        if np.asarray(value).dtype.kind == "f":
            errors[name] = relative_error(actual[name], value)
        else:
            np.testing.assert_array_equal(actual[name], value, name)
    return errors


@pytest.mark.parametrize(("case", "sizes", "dtype", "arguments", "level"), RUNS)
def test_system(compiler, tmp_path, record_property, case, sizes, dtype, arguments, level):
    calls = calls_of(case, sizes, dtype)
    errors = []
    weights = None if arguments else calls.weights
    with load(compile_layer(compiler, calls.layer, weights, level, tmp_path).path) as model:
        for arrays, expected in calls.calls:
            inputs = {tensor.name: arrays[tensor.name].astype(tensor.dtype) for tensor in model.inputs}
            errors.append(largest_error(model.run(inputs), expected))
    largest = max(max(call.values()) for call in errors)
    record_property("error", {"case": case, "dtype": dtype, "level": level, "error": largest})
    assert largest < TOLERANCES[dtype], dict(zip(TOKENS, errors))


@pytest.mark.parametrize("case", aux_free_balancing.CASES)
def test_bias_balances_a_skewed_stream(compiler, tmp_path, case):
    """200 calls, each with the bias that the one before gave."""
    calls = calls_of(case, "DIMS", "float32")
    router, batches = aux_free_balancing.stream(np.random.default_rng(0), aux_free_balancing.DIMS, 200, 64)
    weights = calls.weights | {"router": router.astype(np.float32)}
    bias, counts = np.zeros(len(router), np.float32), []
    with load(compile_layer(compiler, calls.layer, weights, "-O3", tmp_path).path) as model:
        for x in batches.astype(np.float32):
            outputs = model.run({"x": x, "bias": bias})
            bias = np.array(outputs["updated_bias"])
            counts.append(np.array(outputs["tokens_per_expert"]))
    counts = np.array(counts)
    assert (counts.sum(axis=1) == 128).all()
    assert aux_free_balancing.violation(counts[:20].sum(axis=0)) > 1.0
    assert aux_free_balancing.violation(counts[-20:].sum(axis=0)) < 0.4


def test_every_case_has_a_file():
    assert set(FILES) == set(SYSTEMS)


def test_documentation_is_up_to_date():
    """python test/Systems/make_table.py writes it."""
    assert PAGE.read_text() == page()

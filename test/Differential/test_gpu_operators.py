# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Single operators as --target=cuda lowers them, on the emulated GPU, against onnx.reference in float64."""

import concurrent.futures
import inspect
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from harness import ROOT

sys.path.append(str(ROOT / "test" / "Integration" / "CPU"))
import operators  # noqa: E402
import test_operators  # noqa: E402
from jit import CompileError, ProcessApart, Program  # noqa: E402

# Every so many of the cases; MOEC_GPU_MODELS=all takes all of them.
STEP = 1 if os.environ.get("MOEC_GPU_MODELS") == "all" else 7

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that the compiler has"
)


def make_cases():
    makers = [maker for _, maker in inspect.getmembers(test_operators, inspect.isgeneratorfunction)
              if not inspect.signature(maker).parameters]
    return [case for maker in makers for case in maker()]


def collect_cases():
    # Empty inputs launch nothing, which the emulator does not know; what fails has no result.
    return [case for case in make_cases() if not case.fails and all(a is None or a.size for a in case.inputs)]


CASES = collect_cases()[::STEP]


def run_program(case, make_program=Program):
    """The outputs. CompileError when it is refused."""
    text = "module {\n" + operators.print_function(case, "main", "static" in case.kinds) + "}\n"
    types = [np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name) for name in case.result_types()]
    ranks = [np.asarray(array).ndim for array in case.expected()]
    with tempfile.TemporaryDirectory() as folder:
        program = make_program(text, {}, Path(folder), 3, gpu="sm_80")
        inputs = [np.ascontiguousarray(array) for i, array in enumerate(case.inputs) if array is not None and i not in case.constants]
        try:
            return program.run("main", inputs, list(zip(types, ranks)))
        finally:
            program.close()


def run_case(index):
    """Empty, or what is wrong; "refused" for a size that depends on data."""
    case = CASES[index]
    try:
        actual = run_program(case)
    except CompileError as error:
        return "refused" if "depends on data" in str(error) else str(error)
    expected = [np.asarray(array) for array in case.expected()]
    return next((f"output {i} differs" for i, (a, e) in enumerate(zip(actual, expected)) if not agrees(a, e)), "")


def agrees(actual, expected):
    if actual.shape != expected.shape:
        return False
    if actual.dtype.name not in operators.TOLERANCES:
        return np.array_equal(actual, expected.astype(actual.dtype))
    tolerance = 2 * operators.TOLERANCES[actual.dtype.name]
    wide, exact = actual.astype(np.float64), expected.astype(actual.dtype).astype(np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(wide[~finite], exact[~finite], equal_nan=True):
        return False
    largest = np.abs(exact[finite]).max(initial=1e-30)
    return np.abs(wide[finite] - exact[finite]).max(initial=0) <= tolerance * largest


@pytest.fixture(scope="module")
def results():
    """A process apart from this one, which has libmoec-c.so (see jit.py)."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield list(pool.map(run_case, range(len(CASES))))


def test_cases(results):
    wrong = [f"{case.name}: {result}" for case, result in zip(CASES, results) if result not in ("", "refused")]
    assert not wrong, "\n".join(wrong)


def test_few_are_refused(results):
    """Only those whose result has a size that an input tells."""
    assert results.count("refused") < len(results) / 6


@pytest.mark.parametrize("name", ["Gather_out_of_range", "GatherND_out_of_range", "ScatterND_out_of_range"])
def test_failing_checks(name):
    """What only the device can check, it checks: the message reaches the host."""
    (case,) = [case for case in make_cases() if case.name == name]
    with ProcessApart() as process, pytest.raises(AssertionError, match="out of range"):
        run_program(case, process.Program)

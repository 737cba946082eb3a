# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Attention and products of activations as --target=cuda lowers them, on the emulated GPU, against float64."""

import concurrent.futures
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
import test_attention  # noqa: E402
from jit import Program  # noqa: E402
from test_gpu_operators import agrees  # noqa: E402

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that the compiler has"
)

RANDOM = np.random.default_rng(5)
HALVES = (np.float16, ml_dtypes.bfloat16)


def real(*shape, dtype=np.float32):
    return RANDOM.uniform(-1, 1, shape).astype(dtype)


def half_cases():
    """What goes by tensor cores: every form, with sizes that are no whole number of anything."""
    def case(name, shapes, dtype=np.float16, attributes=None, more=(), version=24, **options):
        inputs = [real(*shape, dtype=dtype) for shape in shapes]
        return operators.Case(f"half_{name}", "Attention", [*inputs, *more], attributes, version=version, **options)

    odd = [(2, 6, 37, 40), (2, 2, 83, 40), (2, 2, 83, 24)]
    for dtype in HALVES:
        kind = np.dtype(dtype).name
        yield case(f"causal_{kind}", odd, dtype, {"is_causal": 1})
        yield case(f"rest_{kind}", [(1, 2, 5, 20), (1, 2, 7, 20), (1, 2, 7, 13)], dtype)
        yield case(f"large_{kind}", [(1, 1, 70, 128), (1, 1, 130, 128), (1, 1, 130, 128)], dtype, {"is_causal": 1})
    yield case("largest", [(1, 1, 20, 256), (1, 1, 70, 256), (1, 1, 70, 256)])
    yield case("window", odd, attributes={"left_window_size": 20, "right_window_size": 5, "softcap": 3.0}, version=25)
    yield case("bias", odd, more=[real(6, 37, 83, dtype=np.float16)])
    kept = test_attention.mask(2, 1, 37, 83)
    kept[:, :, 11] = False
    yield case("mask", odd, more=[kept])
    past = [real(1, 2, 100, 64, dtype=np.float16), real(1, 2, 100, 64, dtype=np.float16)]
    yield case("step", [(1, 8, 1, 64), (1, 2, 1, 64), (1, 2, 1, 64)], attributes={"is_causal": 1}, more=[None, *past], outputs=3)
    yield case("lengths", odd, more=[None, None, None, np.array([83, 50], np.int64)], attributes={"is_causal": 1})


def split_cases():
    """Few rows and many keys: blocks share the keys."""
    def case(name, inputs, attributes=None, **options):
        return operators.Case(f"split_{name}", "Attention", inputs, attributes, version=options.pop("version", 24), **options)

    for dtype in (np.float32, *HALVES):
        kind = np.dtype(dtype).name
        q, k, v = real(2, 6, 1, 40, dtype=dtype), real(2, 2, 1100, 40, dtype=dtype), real(2, 2, 1100, 24, dtype=dtype)
        yield case(f"step_{kind}", [q, k, v])
        kept = RANDOM.integers(0, 3, (2, 1, 1, 1100)) > 0
        kept[1] = False
        yield case(f"mask_{kind}", [q, k, v, kept])
        yield case(f"lengths_{kind}", [q, k, v, None, None, None, np.array([1100, 300], np.int64)], {"is_causal": 1})
        yield case(f"window_{kind}", [real(1, 2, 7, 24, dtype=dtype), real(1, 1, 600, 24, dtype=dtype), real(1, 1, 600, 24, dtype=dtype)],
                   {"left_window_size": 3, "softcap": 3.0}, version=25)


def sink_cases():
    """A further score of each head, with a past; ONNX Runtime computes it."""
    for name, past, dtype in (("short", 9, np.float32), ("long", 700, np.float32), ("half", 700, np.float16)):
        new = [real(2, 1, heads * 16) for heads in (4, 2, 2)]
        old = [real(2, 2, past, 16) for _ in range(2)]
        lengths, total = np.full(2, past, np.int32), np.array(past + 1, np.int32)
        inputs = [*new, *old, lengths, total, None, None, None, None, real(4)]
        attributes = {"num_heads": 4, "kv_num_heads": 2}
        single = operators.Case("sink", "com.microsoft.GroupQueryAttention", inputs, attributes, constants=(6,), outputs=3, version=1)
        expected = [np.asarray(one) for one in test_attention.run_in_onnxruntime(single)]
        typed = [a.astype(dtype) if a is not None and a.dtype == np.float32 else a for a in inputs]
        yield operators.Case(f"GroupQueryAttention_sink_{name}", "com.microsoft.GroupQueryAttention", typed, attributes, constants=(6,), outputs=3,
                             version=1, expected=[one.astype(dtype) for one in expected])


def product_cases():
    """Batches, broadcasting and either side transposed, by tensor cores and without."""
    for dtype in (np.float32, *HALVES):
        kind = np.dtype(dtype).name
        for a, b in [((3, 70, 45), (3, 45, 67)), ((2, 1, 5, 33), (4, 33, 9)), ((130, 16), (16, 130)), ((2, 3), (2, 3, 4)),
                     ((3,), (3, 4)), ((65, 100), (100, 1))]:
            name = f"MatMul_{kind}_{'x'.join(map(str, a))}"
            yield operators.Case(name, "MatMul", [real(*a, dtype=dtype), real(*b, dtype=dtype)])
    for equation, a, b in [("bik,bjk->bij", (2, 66, 20), (2, 70, 20)), ("kbi,jkb->ijb", (17, 2, 70), (66, 17, 2)),
                           ("bijk,bjkl->bil", (2, 65, 3, 7), (2, 3, 7, 66))]:
        for dtype in (np.float32, np.float16):
            inputs = [real(*a, dtype=dtype), real(*b, dtype=dtype)]
            yield operators.Case(f"Einsum_{equation}_{np.dtype(dtype).name}", "Einsum", inputs, {"equation": equation})


def has_elements(case):
    """The emulator does not know launches without blocks."""
    return not case.fails and all(a is None or a.size for a in case.inputs)


ATTENTION = [case for case in [*test_attention.KERNEL_CASES, *half_cases(), *split_cases(), *sink_cases()] if has_elements(case)]
CASES = [*ATTENTION, *product_cases()]


def run_case(index):
    """(whether the output is right, text of the module)."""
    case = CASES[index]
    text = "module {\n" + operators.print_function(case, "main", True) + "}\n"
    types = [np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name) for name in case.result_types()]
    expected = [np.asarray(array) for array in case.expected()]
    with tempfile.TemporaryDirectory() as folder:
        program = Program(text, {}, Path(folder), 3, gpu="sm_80")
        inputs = [np.ascontiguousarray(array) for i, array in enumerate(case.inputs) if array is not None and i not in case.constants]
        actual = program.run("main", inputs, [(dtype, array.ndim) for dtype, array in zip(types, expected)])
        program.close()
    return next((f"output {i} differs" for i, (a, e) in enumerate(zip(actual, expected)) if not agrees(a, e)), "")


@pytest.fixture(scope="module")
def run():
    """A process apart from this one, which has libmoec-c.so (see jit.py)."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda index: pool.submit(run_case, index).result()


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.name for case in CASES])
def test_case(run, index):
    assert run(index) == ""

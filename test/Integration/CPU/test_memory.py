# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiled models touch only the memory that they were given: between guard pages, and
under the sanitizers (`moec --sanitize`)."""

import os
import pathlib
import pickle
import sys

import guarded
import pytest
from harness import run
from moec.runtime import load
from references import generate

TOKENS = [0, 1, 2, 7, 33, 130]
ODD = dict(experts=5, k=3, hidden=72, intermediate=40, biases=True)
SWIGLU = dict(activation="swiglu", fusion=1, alpha=1.702, beta=1.0, limit=7.0)
LAYERS = {
    "moe": generate.Layer(**{**ODD, "hidden": 71, "intermediate": 37}, activation="gelu"),
    "moe_bf16_interleaved": generate.Layer(**ODD, **SWIGLU, dtype="bfloat16"),
    "moe_f16_fc3": generate.Layer(**ODD, activation="silu", third=True, dtype="float16", normalize=False),
    "moe_sparse_mixer": generate.Layer(experts=3, k=2, hidden=17, intermediate=9, sparse_mixer=True),
    "qmoe_int8_rows": generate.Layer(**{**ODD, "hidden": 73, "intermediate": 39}, bits=8, zero_points=True),
    "qmoe_int4_blocks": generate.Layer(experts=8, k=2, hidden=96, intermediate=48, **SWIGLU, bits=4, block=16, zero_points=True, router_weights=True),
    "qmoe_int2_f16": generate.Layer(**ODD, activation="silu", bits=2, dtype="float16"),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    return request.param


def clang_file(name):
    return run("clang-22", f"-print-file-name={name}").stdout.strip()


def write_cases(compiler, layer, path, flags):
    """Inputs, and outputs of the plain library."""
    plain = compiler.package(generate.build(layer), *flags)
    cases = []
    for tokens in TOKENS:
        inputs = generate.draw_inputs(layer, tokens)
        cases.append((inputs, load(plain.path).run(inputs)))
    path.write_bytes(pickle.dumps(cases))
    return plain


def run_guarded(package, cases, tolerance, **environment):
    root = pathlib.Path(guarded.__file__).parent
    # -X faulthandler: the traceback names the case.
    command = [sys.executable, "-X", "faulthandler", guarded.__file__, package, cases, str(tolerance)]
    run(*command, cwd=root, env={**os.environ, **environment})


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_between_guard_pages(compiler, layer, level, tmp_path):
    cases = tmp_path / "cases"
    package = write_cases(compiler, layer, cases, [level])
    run_guarded(package.path, cases, 0)


def run_under_address_sanitizer(compiler, layer, flags, cases, tolerance):
    package = compiler.package(generate.build(layer), *flags, "--threads=none", "--sanitize=address")
    options = "detect_leaks=0:abort_on_error=1:handle_segv=1"
    run_guarded(package.path, cases, tolerance, LD_PRELOAD=clang_file("libclang_rt.asan-x86_64.so"), ASAN_OPTIONS=options)


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_under_address_sanitizer(compiler, layer, level, tmp_path):
    cases = tmp_path / "cases"
    write_cases(compiler, layer, cases, [level])
    run_under_address_sanitizer(compiler, layer, [level], cases, 1e-6)


def test_bfloat16_without_its_instructions(compiler, tmp_path):
    """The checks are between a value and its store; what LLVM then calls is not in older libgccs."""
    layer, cases, flags = LAYERS["moe_bf16_interleaved"], tmp_path / "cases", ["-O0", "--cpu=x86-64-v3"]
    write_cases(compiler, layer, cases, flags)
    run_under_address_sanitizer(compiler, layer, flags, cases, 1e-6)


@pytest.mark.parametrize("cpu", ["native", "x86-64-v3"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("qmoe")])
def test_rows_of_integers(compiler, name, cpu, tmp_path):
    """--activation-type=int8, in both ways."""
    layer, cases = LAYERS[name], tmp_path / "cases"
    flags = [f"--cpu={cpu}", "--activation-type=int8"]
    run_guarded(write_cases(compiler, layer, cases, flags).path, cases, 0)
    # A row that differs in its last bit may round to another integer.
    run_under_address_sanitizer(compiler, layer, flags, cases, 1e-2)


# --- threads ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def threads_program(compiler, tmp_path_factory):
    """Runs one model in several threads, with contexts of their own."""
    source = pathlib.Path(__file__).parent / "Inputs" / "threads.c"
    program = tmp_path_factory.mktemp("threads") / "threads"
    include = pathlib.Path(guarded.__file__).parent.parent / "include"
    run("clang-22", "-fsanitize=thread", "-g", "-O1", f"-I{include}", source, "-o", program)
    return program


@pytest.mark.parametrize("threads, workers", [("none", 1), ("custom", 3)])
@pytest.mark.parametrize("name", ["moe", "qmoe_int4_blocks"])
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_under_thread_sanitizer(compiler, threads_program, name, threads, workers, level):
    layer = LAYERS[name]
    package = compiler.package(generate.build(layer), level, f"--threads={threads}", "--sanitize=thread")
    shapes = ["x".join(str(size) for size in values.shape) for values in generate.draw_inputs(layer, 33).values()]
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1:abort_on_error=1"}
    run(threads_program, package.library, workers, *shapes, env=environment)

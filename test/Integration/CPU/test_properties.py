# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Random MoE and QMoE layers against float64. The same layers each time; MOEC_FUZZ=N
draws N others."""

import os

import pytest
from harness import TOLERANCES
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from moec.runtime import MoecError, load
from references import generate
from references.evaluate import evaluate, relative_error

FUZZ = int(os.environ.get("MOEC_FUZZ", 0))


def property_settings(examples):
    return settings(
        max_examples=FUZZ or examples,
        derandomize=not FUZZ,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # layers do not shrink
        suppress_health_check=list(HealthCheck),
    )


def check(compiler, layer, token_counts, *flags):
    """Compiles a layer and compares its output with float64 for each number of tokens."""
    model = generate.build(layer)
    package = compiler.package(model, *flags)
    with load(package.path) as opened:
        for tokens in token_counts:
            inputs = generate.draw_inputs(layer, tokens)
            if layer.sparse_mixer:
                assume(generate.sparse_mixer_is_decided(inputs["logits"]))
            error = relative_error(opened.run(inputs)["output"], evaluate(model, inputs)["output"])
            assert error < TOLERANCES[layer.dtype], f"{tokens} tokens"


def form_name(form):
    activation, fusion, third = form
    return f"{activation}{fusion or ''}{'_fc3' if third else ''}"


@pytest.mark.parametrize("quantized", [False, True], ids=["moe", "qmoe"])
@pytest.mark.parametrize("form", generate.FORMS, ids=form_name)
def test_random_layers(compiler, form, quantized):
    @property_settings(6)
    @given(layer=generate.layers(forms=[form], quantized=[quantized]))
    def random_layers(layer):
        note(repr(layer))
        check(compiler, layer, [0, 1, 7, 64], "-O3")

    random_layers()


@property_settings(25)
@given(layer=generate.layers(), tokens=generate.token_counts())
def test_random_layers_by_their_plain_meaning(compiler, layer, tokens):
    note(repr(layer))
    check(compiler, layer, [tokens], "-O0")


ODD = dict(experts=5, k=3, hidden=72, intermediate=40, biases=True)
SWIGLU = dict(activation="swiglu", fusion=1, alpha=1.702, beta=1.0, limit=7.0)


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(generate.Layer(**ODD, activation="gelu"), id="moe"),
        pytest.param(generate.Layer(**ODD, **SWIGLU, dtype="bfloat16"), id="moe_bf16"),
        pytest.param(generate.Layer(**ODD, **SWIGLU, bits=4, zero_points=True), id="qmoe_int4"),
        pytest.param(generate.Layer(**{**ODD, "hidden": 96, "intermediate": 64}, **SWIGLU, bits=8, block=32, dtype="float16"), id="qmoe_int8_f16"),
    ],
)
def test_odd_sizes_at_every_level(compiler, layer, level):
    check(compiler, layer, [0, 1, 2, 31, 257], level)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bits", [0, 4])
def test_every_k(compiler, k, bits):
    layer = generate.Layer(experts=5, k=k, activation="silu", bits=bits, normalize=False)
    check(compiler, layer, [1, 9], "-O3")


@pytest.mark.parametrize("bits", [0, 8])
def test_equal_logits_choose_the_lower_expert(compiler, bits):
    layer = generate.Layer(experts=13, k=4, bits=bits, ties=True)
    check(compiler, layer, [1, 200], "-O3")


@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64-v4", "sapphirerapids"])
@pytest.mark.parametrize("bits", [0, 4])
def test_named_cpus(compiler, cpu, bits):
    """Compiles for each CPU; runs where this one has its features."""
    layer = generate.Layer(**ODD, **SWIGLU, bits=bits)
    try:
        check(compiler, layer, [1, 17], "-O3", f"--cpu={cpu}")
    except MoecError as error:
        if error.status != "CPU":
            raise
        pytest.skip(f"this CPU can not run {cpu}: {error.message}")

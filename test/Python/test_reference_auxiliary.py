# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""--moe-to-reference of moe.aux and moe.bias_update, executed, against NumPy in float64
written from their descriptions."""

import math

import numpy as np
import pytest
from mlir_functions import DTYPES
from reference_module import Module, check, entries, matrix, random_routing, rng, routing

E, K = 6, 2
TOKENS = [0, 1, 8]
SCALAR = [("f32", 0)]
MODULE = Module()


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    return MODULE.compile(tmp_path_factory.mktemp("auxiliary"))


def draw(name, tokens, element="f32"):
    return (rng(name, tokens).normal(size=(tokens, E)) * 2).astype(DTYPES[element])


def softmax(x):
    z = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    return z / z.sum(axis=1, keepdims=True)


def cv2(values):
    return values.var() / (values.mean() ** 2 + 1e-10)


def mean(values):
    """Over the tokens; 0 of none."""
    return values.mean(axis=0) if len(values) else np.zeros(values.shape[1:])


# --- losses -------------------------------------------------------------------------------------

BALANCES = {
    # name: (fraction, per_slot, grouped)
    "all": ("all", False, False),
    "first": ("first", False, False),
    "per_slot": ("all", True, False),
    "groups": ("first", True, True),
}
for _name, (_fraction, _per_slot, _grouped) in BALANCES.items():
    MODULE.define_op(
        f"balance_{_name}", [matrix(E), routing(E, K, False)] + ["index"] * _grouped, ["tensor<f32>"],
        f"moe.aux <load_balance> probabilities(%a0) routing(%a1) {'group_size(%a2)' if _grouped else ''}",
        f"fraction = #moe.aux_fraction<{_fraction}>" + (", per_slot" if _per_slot else ""),
    )  # fmt: skip


@pytest.mark.parametrize("tokens,size", [(0, 4), (1, 1), (8, 4), (8, 8), (6, 2), (7, 4)])
@pytest.mark.parametrize("name", BALANCES)
def test_load_balance(functions, name, tokens, size):
    fraction, per_slot, grouped = BALANCES[name]
    slots, _ = random_routing("balance", tokens, E, K)
    p = softmax(draw("p", tokens).astype(np.float64)).astype(np.float32)
    (loss,) = functions.call(f"balance_{name}", [p, slots] + [size] * grouped, SCALAR)
    assert functions.take_failures() == (1 if grouped and tokens % size else 0)
    if grouped and tokens % size:
        return
    step = size if grouped else max(tokens, 1)
    losses = []
    for begin in range(0, tokens, step):
        group = range(begin, begin + step) if grouped else range(tokens)
        counts = np.zeros(E)
        for t in group:
            for e in entries(slots, t):
                counts[e] += fraction == "all" or slots[t, e] == 0
        losses.append(E * (counts / len(group) * p[list(group)].astype(np.float64).mean(axis=0)).sum() / (K if per_slot else 1))
    check(loss, np.mean(losses) if losses else 0.0)


for _element in ("f32", "f16", "bf16", "f64"):
    _result = "tensor<f64>" if _element == "f64" else "tensor<f32>"
    MODULE.define_op(f"z_{_element}", [matrix(E, _element)], [_result], "moe.aux <z_loss> logits(%a0)")
    MODULE.define_op(f"entropy_{_element}", [matrix(E, _element)], [_result], "moe.aux <entropy> probabilities(%a0)")
    MODULE.define_op(
        f"mean_{_element}", [matrix(E, _element)], [f"tensor<{E}x{_element}>"], "moe.aux <mean_probability> probabilities(%a0)"
    )
    MODULE.define_op(f"importance_p_{_element}", [matrix(E, _element)], [_result], "moe.aux <importance_cv2> probabilities(%a0)")
MODULE.define_op("importance", [routing(E, K)], ["tensor<f32>"], "moe.aux <importance_cv2> routing(%a0)")
MODULE.define_op("tokens_per_expert", [routing(E, K, False)], [f"tensor<{E}xi64>"], "moe.aux <tokens_per_expert> routing(%a0)")

PROBABILITY_KINDS = {
    "entropy": lambda p: mean(-np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1)),
    "mean": mean,
    "importance_p": lambda p: cv2(p.sum(axis=0)),
}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", ["f32", "f16", "bf16", "f64"])
def test_z_loss(functions, element, tokens):
    logits = draw("z", tokens, element) * DTYPES[element](10)
    (loss,) = functions.call(f"z_{element}", [logits], [("f64" if element == "f64" else "f32", 0)])
    exact = logits.astype(np.float64)
    check(loss, mean(np.logaddexp.reduce(exact, axis=1) ** 2))


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", ["f32", "f16", "bf16", "f64"])
@pytest.mark.parametrize("kind", PROBABILITY_KINDS)
def test_of_probabilities(functions, kind, element, tokens):
    p = softmax(draw("p", tokens).astype(np.float64)).astype(DTYPES[element])
    if tokens > 1:
        p[1] = [0, 0, 0, 1, 0, 0]
    wide = "f64" if element == "f64" else "f32"
    (result,) = functions.call(f"{kind}_{element}", [p], [(element, 1) if kind == "mean" else (wide, 0)])
    check(result, PROBABILITY_KINDS[kind](p.astype(np.float64)), element if kind == "mean" else "f32")


@pytest.mark.parametrize("tokens", TOKENS)
def test_of_routings(functions, tokens):
    slots, weights = random_routing("aux", tokens, E, K)
    (importance,) = functions.call("importance", [slots, weights], SCALAR)
    check(importance, cv2(weights.astype(np.float64).sum(axis=0)))
    (counts,) = functions.call("tokens_per_expert", [slots], [("i64", 1)])
    np.testing.assert_array_equal(counts, (slots >= 0).sum(axis=0))


# --- load under noise -----------------------------------------------------------------------------

for _variant in ("shazeer", "vmoe"):
    for _rank in (0, 2):
        for _k in (1, K, E - 1):
            MODULE.define_op(
                f"load_{_variant}_{_rank}_{_k}", [matrix(E), matrix(E), matrix(E) if _rank else "tensor<f32>"], ["tensor<f32>"],
                "moe.aux <load_cv2> logits(%a0) noisy_logits(%a1) noise_std(%a2)",
                f"k = {_k} : i64, variant = #moe.load_variant<{_variant}>",
            )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("k", [1, K, E - 1])
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("variant", ["shazeer", "vmoe"])
def test_load(functions, variant, rank, k, tokens):
    logits, noisy = draw("clean", tokens), draw("clean", tokens) + draw("noise", tokens)
    std = np.abs(draw("std", tokens)) + np.float32(0.5) if rank else np.array(0.75, np.float32)
    (loss,) = functions.call(f"load_{variant}_{rank}_{k}", [logits, noisy, std], SCALAR)
    load = np.zeros(E)
    for t in range(tokens):
        for e in range(E):
            others = [noisy[t, o] for o in range(E) if o != e or variant == "vmoe"]
            threshold = float(sorted(others, reverse=True)[k - 1])
            margin = (float(logits[t, e]) - threshold) / float(std[t, e] if rank else std)
            load[e] += 0.5 * (1 + math.erf(margin / math.sqrt(2)))
    check(loss, cv2(load))


# --- bias update ------------------------------------------------------------------------------------

for _rule in ("sign", "proportional"):
    for _recenter in (False, True):
        for _element in ("f32", "f16", "bf16", "f64"):
            _types = f"tensor<{E}x{_element}>, tensor<{E}xi64>"
            MODULE.define(
                f"update_{_rule}_{_recenter}_{_element}", _types.split(", "), [f"tensor<{E}x{_element}>"],
                f"  %b = moe.bias_update <{_rule}> %a0, %a1 {{rate = 0.125 : f64{', recenter' if _recenter else ''}}} : {_types}\n"
                f"  return %b : tensor<{E}x{_element}>",
            )  # fmt: skip


@pytest.mark.parametrize("element", ["f32", "f16", "bf16", "f64"])
@pytest.mark.parametrize("recenter", [False, True])
@pytest.mark.parametrize("rule", ["sign", "proportional"])
@pytest.mark.parametrize("counts", [[3, 9, 0, 0, 5, 1], [2, 2, 2, 2, 2, 2], [0] * 6, [1, 3, 5, 3, 3, 3]])
def test_bias_update(functions, counts, rule, recenter, element):
    bias, counts = draw("bias", 1, element)[0], np.array(counts, np.int64)
    (result,) = functions.call(f"update_{rule}_{recenter}_{element}", [bias, counts], [(element, 1)])
    missing = counts.mean() - counts
    delta = 0.125 * (np.sign(missing) if rule == "sign" else missing / max(counts.sum(), 1))
    check(result, bias.astype(np.float64) + delta - (delta.mean() if recenter else 0), element)

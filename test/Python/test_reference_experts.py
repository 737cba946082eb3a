# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""--moe-to-reference of kinds of experts, layouts, combinations and shared experts,
executed, against NumPy in float64. The plain forms are in test_moe_to_reference.py."""

import numpy as np
import pytest
from mlir_functions import DTYPES
from reference_module import Module, check, entries, matrix, random_routing, rng, routing

E, K, H, I = 7, 3, 20, 12
TOKENS = [0, 1, 7]
ELEMENTS = ["f32", "f16", "bf16", "f64"]
MODULE = Module()


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    return MODULE.compile(tmp_path_factory.mktemp("experts"))


def draw(name, shape, element):
    return (rng(name, shape).normal(size=shape) * (0.3 if len(shape) == 3 else 1)).astype(DTYPES[element])


def silu(x):
    return x / (1 + np.exp(-x))


def network(x, weights, activation, e):
    """The network of bank number e on rows x; weights by name, out_in."""
    bias = {name: weights.get(f"{name}_bias", np.zeros((e + 1, 1)))[e] for name in ("up", "gate", "down")}
    linear = x @ weights["up"][e].T + bias["up"]
    if "gate" in weights:
        hidden = silu(x @ weights["gate"][e].T + bias["gate"]) * linear
    elif "concat" in activation:
        hidden = silu(linear[:, :I]) * linear[:, I:]
    else:
        hidden = np.maximum(linear, 0)
    return hidden @ weights["down"][e].T + bias["down"]


# --- activations ------------------------------------------------------------------------------

CLAMPS = {
    "pre": "<silu, glu = concat, limit = 0.5 : f32>",
    "post": "<silu, glu = concat, limit = 0.5 : f32, clamp = post>",
    "post_beta": "<relu, glu = concat, limit = 0.5 : f32, beta = 1.0 : f32, clamp = post>",
}
for _name, _text in CLAMPS.items():
    MODULE.define_op(f"clamp_{_name}", [matrix(2 * I)], [matrix(I)], f"moe.activate {_text} %a0")


@pytest.mark.parametrize("name", CLAMPS)
def test_clamp(functions, name):
    rows = draw("rows", (7, 2 * I), "f32") * 3
    (result,) = functions.call(f"clamp_{name}", [rows], [("f32", 2)])
    gate, linear = np.split(rows.astype(np.float64), 2, axis=1)
    linear = np.clip(linear, -0.5, 0.5)
    expected = {
        "pre": silu(np.minimum(gate, 0.5)) * linear,
        "post": np.minimum(silu(gate), 0.5) * linear,
        "post_beta": np.clip(gate, 0, 0.5) * (linear + 1),
    }[name]
    check(result, expected)


# --- networks ---------------------------------------------------------------------------------

KINDS = {
    "plain": [("ffn", E)],
    "trailing": [("ffn", 3), ("zero", 1), ("identity", 2), ("constant", 1)],
    "mixed": [("constant", 1), ("ffn", 1), ("identity", 1), ("ffn", 2), ("constant", 1), ("zero", 1)],
}
FORMS = {
    # name: (kinds, layout, activation, separate gate, biases)
    "plain": ("plain", "in_out", "<relu>", False, True),
    "concat": ("trailing", "out_in", "<silu, glu = concat>", False, True),
    "gate": ("trailing", "in_out", "<silu, glu = separate>", True, True),
    "mixed": ("mixed", "out_in", "<relu>", False, False),
}


def form_operands(name, experts=None):
    """(operand, shape) of the weights, out_in, in the order of the op."""
    kinds, _, activation, separate, biased = FORMS[name]
    count = experts or sum(n for kind, n in KINDS[kinds] if kind == "ffn")
    width = 2 * I if "concat" in activation else I
    operands = [("up", (count, width, H)), ("up_bias", (count, width))]
    if separate:
        operands += [("gate", (count, I, H)), ("gate_bias", (count, I))]
    operands += [("down", (count, H, I)), ("down_bias", (count, H))]
    operands = [operand for operand in operands if biased or not operand[0].endswith("bias")]
    constants = sum(n for kind, n in KINDS[kinds] if kind == "constant")
    return operands + ([("constants", (constants, H))] if constants and not experts else [])


def tensor(shape, element):
    return f"tensor<{'x'.join(map(str, shape))}x{element}>"


def stored(name, shape):
    """The shape of a bank in the op's layout."""
    return shape[:1] + shape[:0:-1] if FORMS[name][1] == "in_out" and len(shape) == 3 else shape


def form_text(name, operands, first):
    return " ".join(f"{operand}(%a{first + i})" for i, (operand, _) in enumerate(operands))


def kinds_text(name):
    kinds = KINDS[FORMS[name][0]]
    text = f"layout = #moe.layout<{FORMS[name][1]}>"
    if kinds == KINDS["plain"]:
        return text
    return text + ", kinds = [" + ", ".join(f"#moe.kind<{kind}, {n}>" for kind, n in kinds) + "]"


COMBINES = {
    # name: (weight, accum, post_scale, scale_input, uncovered)
    "plain": ("output", "f32", 1.0, False, False),
    "native": ("output", "native", 1.0, False, False),
    "llama4": ("already_applied", "f32", 1.0, True, False),
    "switch": ("output", "f32", 0.5, False, True),
    "native_switch": ("already_applied", "native", 2.0, False, True),
}


def combine_text(name):
    weight, accum, post_scale, _, _ = COMBINES[name]
    return f"weight = #moe.combine_weight<{weight}>, accum = #moe.accum<{accum}>, post_scale = {post_scale} : f64"


R = routing(E, K)
CASES = [(form, "plain", element) for form in FORMS for element in ELEMENTS]
CASES += [("concat", combine, element) for combine in COMBINES if combine != "plain" for element in ("f32", "bf16")]
for _form, _combine, _element in CASES:
    _rows, _operands = matrix(H, _element), form_operands(_form)
    _types = [tensor(stored(_form, shape), _element) for _, shape in _operands]
    _weight, _accum, _post, _scaled, _uncovered = COMBINES[_combine]
    _arguments = [_rows, R] + _types + [R] * _uncovered
    _other = f"%a{len(_arguments) - 1}"
    MODULE.define_op(
        f"experts_{_form}_{_combine}_{_element}", _arguments, [_rows],
        f"moe.experts %a0, %a1 {form_text(_form, _operands, 2)} {f'uncovered({_other})' if _uncovered else ''} {FORMS[_form][2]}",
        f"{kinds_text(_form)}, {combine_text(_combine)}{', scale_input' if _scaled else ''}",
    )  # fmt: skip
    MODULE.define(
        f"steps_{_form}_{_combine}_{_element}", _arguments, [_rows],
        f"  %x = moe.dispatch %a0, %a1 {{{'scale_input' if _scaled else ''}}} : ({_rows}, {R}) -> {_rows}\n"
        f"  %z = moe.expert_ffn %x, %a1 {form_text(_form, _operands, 2)} {FORMS[_form][2]} {{{kinds_text(_form)}}}"
        f" : ({', '.join([_rows, R] + _types)}) -> {_rows}\n"
        f"  %c0 = arith.constant 0 : index\n  %t = tensor.dim %a0, %c0 : {_rows}\n"
        f"  %y = moe.combine %z, %a1 tokens(%t) {f'uncovered(%a0, {_other})' if _uncovered else ''} {{{combine_text(_combine)}}}"
        f" : ({', '.join([_rows, R, 'index'] + [_rows, R] * _uncovered)}) -> {_rows}\n  return %y : {_rows}",
    )  # fmt: skip


def expert(kinds, e, x, weights, activation):
    """Expert e on rows x."""
    number = {"ffn": 0, "constant": 0}
    for kind, count in kinds:
        if e >= count:
            e -= count
            number[kind] = number.get(kind, 0) + count
            continue
        if kind == "ffn":
            return network(x, weights, activation, number[kind] + e)
        if kind == "constant":
            return np.broadcast_to(weights["constants"][number[kind] + e], x.shape)
        return x if kind == "identity" else np.zeros(x.shape)
    raise AssertionError("no such expert")


def combine(x, slots, weights, other, form, name, element, weight_values):
    kinds, _, activation, _, _ = FORMS[form]
    weight, accum, post_scale, scaled, uncovered = COMBINES[name]

    def rounded(value):
        return value.astype(DTYPES[element]).astype(np.float64) if accum == "native" else value

    result = np.zeros(x.shape)
    for t in range(len(x)):
        chosen = sorted(entries(slots, t))
        for e in chosen:
            row = x[t : t + 1] * (weights[t, e] if scaled else 1)
            term = expert(KINDS[kinds], e, row, weight_values, activation)[0] * (weights[t, e] if weight == "output" else 1)
            result[t] = rounded(result[t] + rounded(term))
        if not chosen and uncovered:
            result[t] = other[t].sum() * x[t]
    return result * post_scale


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("op", ["experts", "steps"])
@pytest.mark.parametrize("form,combination,element", CASES)
def test_experts(functions, op, form, combination, element, tokens):
    slots, weights = random_routing("experts", tokens, E, K)
    if tokens > 2:
        slots[2], weights[2] = -1, 0
    other_slots, other_weights = random_routing("other", tokens, E, K)
    x = draw("x", (tokens, H), element)
    values = {name: draw(name, shape, element) for name, shape in form_operands(form)}
    given = [v.swapaxes(1, 2) if v.ndim == 3 and FORMS[form][1] == "in_out" else v for v in values.values()]
    uncovered = COMBINES[combination][4]
    arguments = [x, slots, weights, *given] + [other_slots, other_weights] * uncovered
    (result,) = functions.call(f"{op}_{form}_{combination}_{element}", arguments, [(element, 2)])
    exact = {name: value.astype(np.float64) for name, value in values.items()}
    expected = combine(x.astype(np.float64), slots, weights.astype(np.float64), other_weights, form, combination, element, exact)
    check(result, expected, element)


# --- shared experts -----------------------------------------------------------------------------

S = 2
SHARED = {
    # name: (form, weight, y, merge)
    "plain": ("plain", False, False, "add"),
    "weighted": ("gate", True, False, "add"),
    "added": ("concat", False, True, "add"),
    "average": ("mixed", True, True, "average"),
}
for _name, (_form, _weight, _add, _merge) in SHARED.items():
    for _element in ELEMENTS:
        _operands = form_operands(_form, S)
        _types = [tensor(stored(_form, shape), _element) for _, shape in _operands]
        _more = [("weight", matrix(S, _element))] * _weight + [("add", matrix(H, _element))] * _add
        MODULE.define_op(
            f"shared_{_name}_{_element}", [matrix(H, _element)] + _types + [type for _, type in _more], [matrix(H, _element)],
            f"moe.shared %a0 {form_text(_form, _operands, 1)} "
            + " ".join(f"{operand}(%a{1 + len(_types) + i})" for i, (operand, _) in enumerate(_more))
            + f" {FORMS[_form][2]}",
            f"layout = #moe.layout<{FORMS[_form][1]}>, merge = #moe.merge<{_merge}>",
        )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("name", SHARED)
def test_shared(functions, name, element, tokens):
    form, weighted, added, merge = SHARED[name]
    x, y, weight = (draw(n, (tokens, w), element) for n, w in (("x", H), ("y", H), ("weight", S)))
    values = {operand: draw(operand, shape, element) for operand, shape in form_operands(form, S)}
    given = [v.swapaxes(1, 2) if v.ndim == 3 and FORMS[form][1] == "in_out" else v for v in values.values()]
    arguments = [x, *given] + [weight] * weighted + [y] * added
    (result,) = functions.call(f"shared_{name}_{element}", arguments, [(element, 2)])
    exact = {operand: value.astype(np.float64) for operand, value in values.items()}
    expected = np.zeros((tokens, H))
    for s in range(S):
        row = network(x.astype(np.float64), exact, FORMS[form][2], s)
        expected += row * (weight[:, s : s + 1].astype(np.float64) if weighted else 1)
    if added:
        expected = (y.astype(np.float64) + expected) / (2 if merge == "average" else 1)
    check(result, expected, element)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""--moe-to-reference of the routing ops, executed, against NumPy in float64 written from
the descriptions of the ops. Every operand and attribute value at least once."""

import math

import numpy as np
import pytest
from mlir_functions import DTYPES
from reference_module import Module, check, entries, falling, kept, matrix, random_routing, rng, routing, slots_of

E, K, H = 8, 3, 24
TOKENS = [0, 1, 7]
SLOTS, WEIGHTS = ("i32", 2), ("f32", 2)
MODULE = Module()


@pytest.fixture(scope="module", params=[(), ("--canonicalize",)], ids=["plain", "canonical"])
def functions(request, tmp_path_factory):
    return MODULE.compile(tmp_path_factory.mktemp("routing"), *request.param)


def draw(name, tokens, columns=E, element="f32"):
    return rng(name, tokens).normal(size=(tokens, columns)).astype(DTYPES[element])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    z = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return z / z.sum(axis=axis, keepdims=True)


# --- logits and scores ------------------------------------------------------------------

for _element in ("f32", "f16", "bf16", "f64"):
    _types = [matrix(H, _element), f"tensor<{E}x{H}x{_element}>", f"tensor<{E}x{_element}>", matrix(E, _element)]
    MODULE.define_op(
        f"logits_{_element}", _types, [matrix(E, _element)],
        "moe.logits %a0, %a1 bias(%a2) noise(%a3)", "softcap = 2.5 : f64",
    )  # fmt: skip
    MODULE.define(
        f"logsigmoid_{_element}", [matrix(E, _element)], [matrix(E, _element)],
        f"  %s = moe.score <logsigmoid> %a0 : {matrix(E, _element)} -> {matrix(E, _element)}\n  return %s : {matrix(E, _element)}",
    )  # fmt: skip
MODULE.define(
    "score_groups", [matrix(E), "index"], [matrix(E)],
    f"  %s = moe.score <softmax> %a0 group_size(%a1) {{axis = #moe.axis<tokens>}} : {matrix(E)} -> {matrix(E)}\n"
    f"  return %s : {matrix(E)}",
)  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", ["f32", "f16", "bf16", "f64"])
def test_logits(functions, element, tokens):
    x, noise = draw("x", tokens, H, element), draw("noise", tokens, E, element)
    w, b = draw("w", E, H, element), draw("b", 1, E, element)[0]
    (result,) = functions.call(f"logits_{element}", [x, w, b, noise], [(element, 2)])
    exact = [a.astype(np.float64) for a in (x, w, b, noise)]
    linear = exact[0] @ exact[1].T + exact[2]
    check(result, 2.5 * np.tanh(linear / 2.5) + exact[3], element)


@pytest.mark.parametrize("element", ["f32", "f16", "bf16", "f64"])
def test_logsigmoid(functions, element):
    x = (draw("logsigmoid", 7, E, element).astype(np.float64) * 30).astype(DTYPES[element])
    (result,) = functions.call(f"logsigmoid_{element}", [x], [(element, 2)])
    check(result, -np.logaddexp(0, -x.astype(np.float64)), element)


@pytest.mark.parametrize("tokens,size", [(0, 4), (4, 4), (8, 4), (6, 2), (5, 1)])
def test_softmax_over_groups(functions, tokens, size):
    x = draw("groups", tokens) * 20
    (result,) = functions.call("score_groups", [x, size], [("f32", 2)])
    expected = [softmax(x[i : i + size].astype(np.float64), 0) for i in range(0, tokens, size)]
    check(result, np.concatenate(expected) if expected else x)
    assert functions.take_failures() == 0


@pytest.mark.parametrize("tokens,size", [(7, 4), (3, 4), (4, 0), (4, -2)])
def test_groups_that_do_not_divide(functions, tokens, size):
    functions.call("score_groups", [draw("groups", tokens), size], [("f32", 2)])
    assert functions.take_failures() == 1


# --- select -------------------------------------------------------------------------------


def group_scores(keys, allowed, n_group, kind):
    scores = []
    for group in range(n_group):
        members = range(group * E // n_group, (group + 1) * E // n_group)
        values = sorted((keys[e] for e in members if allowed[e]), reverse=True)
        if not values:
            scores.append(-math.inf)
        else:
            scores.append(values[0] if kind == "max" else sum(values[:2]))
    return scores


def order(keys, allowed, tie="lower", n_group=1, topk_group=1, group_score="max", group_fill="neg_inf"):
    """The experts that one token may take, best first, and the keys that then count."""
    keys, allowed = list(keys), list(allowed)
    if n_group > 1:
        scores = group_scores(keys, allowed, n_group, group_score)
        full = [any(allowed[g * E // n_group : (g + 1) * E // n_group]) for g in range(n_group)]
        stay = sorted(range(n_group), key=lambda g: (not full[g], -scores[g], g))[:topk_group]
        for e in range(E):
            if e * n_group // E not in stay:
                keys[e], allowed[e] = (0.0, allowed[e]) if group_fill == "zero" else (keys[e], False)
    return [e for e in falling(keys, tie) if allowed[e]], keys


def select(keys, allowed, mode="topk", k=K, p=None, tau=None, **how):
    """Slots of each token."""
    slots = np.full(keys.shape, -1, np.int32)
    for t in range(len(keys)):
        best, used = order(keys[t], allowed[t], **how)
        if mode == "all":
            slots[t, best] = best
            continue
        if mode == "threshold":
            best = [e for e in best if not used[e] <= tau]
        if mode == "topp" and p < 1:
            sums = np.cumsum([used[e] for e in best])
            best = best[: 1 + sum(c < p for c in sums)]
        for slot, e in enumerate(best[:k]):
            slots[t, e] = slot
    return slots


GROUPS = {"n_group": 4, "topk_group": 2}
SELECTIONS = {
    "topk": {},
    "higher": {"tie": "higher"},
    "topk_all": {"k": E},
    "groups_max": {**GROUPS},
    "groups_max_zero": {**GROUPS, "group_fill": "zero"},
    "groups_sum": {**GROUPS, "group_score": "top2sum"},
    "groups_sum_zero": {**GROUPS, "group_score": "top2sum", "group_fill": "zero"},
    "two_groups": {"n_group": 2, "topk_group": 1, "group_score": "top2sum"},
    "groups_of_one": {"n_group": 8, "topk_group": 4, "group_score": "top2sum"},
    "all": {"mode": "all", "k": E},
    "topp": {"mode": "topp", "p": 0.7},
    "topp_many": {"mode": "topp", "p": 0.9, "k": E},
    "topp_groups": {"mode": "topp", "p": 0.6, "k": 4, **GROUPS, "group_fill": "zero"},
    "topp_one": {"mode": "topp", "p": 1.0},
    "threshold": {"mode": "threshold", "tau": 0.125, "k": E},
    "threshold_few": {"mode": "threshold", "tau": 0.0, "k": 2},
    "threshold_groups": {"mode": "threshold", "tau": -0.5, "k": E, **GROUPS, "group_fill": "zero"},
}
ATTRIBUTES = {
    "mode": "mode = #moe.select_mode<{}>",
    "k": "k = {} : i64",
    "p": "p = {:e} : f64",
    "tau": "tau = {:e} : f64",
    "tie": "tie_break = #moe.tie_break<{}>",
    "n_group": "n_group = {} : i64",
    "topk_group": "topk_group = {} : i64",
    "group_score": "group_score = #moe.group_score<{}>",
    "group_fill": "group_fill = #moe.group_fill<{}>",
}
MASKS = ["none", "token", "expert", "both"]


def attributes(options, table):
    return ", ".join(table[name].format(value) for name, value in options.items())


def mask_operands(mask):
    operands = ([("token_mask", "tensor<?xi1>")] if mask in ("token", "both") else []) + (
        [("expert_mask", f"tensor<{E}xi1>" if mask == "expert" else matrix(E, "i1"))] if mask in ("expert", "both") else []
    )
    return operands


def operands_text(operands, first):
    return " ".join(f"{name}(%a{first + i})" for i, (name, _) in enumerate(operands))


for _name, _options in SELECTIONS.items():
    for _mask in MASKS:
        for _element in ("f32", "f16", "f64") if _mask == "none" else ("f32",):
            _operands = mask_operands(_mask)
            MODULE.define_op(
                f"select_{_name}_{_mask}_{_element}",
                [matrix(E, _element), f"tensor<{E}x{_element}>"] + [type for _, type in _operands],
                [routing(E, _options.get("k", K), False)],
                f"moe.select %a0 bias(%a1) {operands_text(_operands, 2)}",
                attributes({"k": K, **_options}, ATTRIBUTES),
            )


def masks(mask, tokens):
    """The mask operands, and what they allow."""
    random = rng("mask", mask, tokens)
    token, expert, both = random.uniform(size=tokens) < 0.7, random.uniform(size=E) < 0.6, random.uniform(size=(tokens, E)) < 0.6
    if tokens > 3:
        both[2] = False
    given = {"none": [], "token": [token], "expert": [expert], "both": [token, both]}[mask]
    allowed = np.ones((tokens, E), bool)
    if mask in ("token", "both"):
        allowed &= token[:, None]
    if mask in ("expert", "both"):
        allowed &= expert if mask == "expert" else both
    return given, allowed


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", SELECTIONS)
def test_select(functions, name, mask, tokens):
    options = SELECTIONS[name]
    keys, bias = draw(name, tokens), draw("bias", 1)[0]
    if "topp" in name:
        keys, bias = softmax(keys.astype(np.float64) * 2, 1).astype(np.float32), bias * np.float32(0.01)
    if tokens > 4:
        keys[3] = np.array([1, 2, 2, 1, 2, 0, 0, 1]) / 8 - bias * 0
    given, allowed = masks(mask, tokens)
    (slots,) = functions.call(f"select_{name}_{mask}_f32", [keys, bias, *given], [SLOTS])
    np.testing.assert_array_equal(slots, select((keys + bias).astype(np.float64), allowed, **options))


@pytest.mark.parametrize("element", ["f16", "f64"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_select_types(functions, name, element):
    keys, bias = draw(name, 7, E, element), draw("bias", 1, E, element)[0] / 2
    if "topp" in name:
        keys, bias = softmax(keys.astype(np.float64) * 2, 1).astype(DTYPES[element]), bias * 0
    exact = keys.astype(np.float32 if element == "f16" else np.float64) + bias.astype(np.float32 if element == "f16" else np.float64)
    (slots,) = functions.call(f"select_{name}_none_{element}", [keys, bias], [SLOTS])
    np.testing.assert_array_equal(slots, select(exact.astype(np.float64), np.ones((7, E), bool), **SELECTIONS[name]))


@pytest.mark.parametrize("name", ["topk", "higher"])
def test_select_ties(functions, name):
    keys = np.array([[1, 2, 2, 1, 2, 0, 0, 1], [0] * 8, [np.nan, 1, np.inf, np.nan, -np.inf, 2, 3, np.nan]], np.float32)
    (slots,) = functions.call(f"select_{name}_none_f32", [keys, np.zeros(E, np.float32)], [SLOTS])
    np.testing.assert_array_equal(slots, select(keys, np.ones(keys.shape, bool), **SELECTIONS[name]))


def test_select_nan_above_threshold(functions):
    """NaN counts as the largest value."""
    keys = np.full((1, E), -1, np.float32)
    keys[0, 5] = np.nan
    (slots,) = functions.call("select_threshold_none_f32", [keys, np.zeros(E, np.float32)], [SLOTS])
    assert slots[0, 5] == 0 and (slots[0, :5] == -1).all()


# Expert choice.
for _grouped in (False, True):
    for _mask in MASKS:
        _operands = mask_operands(_mask) + ([("group_size", "index")] if _grouped else [])
        MODULE.define_op(
            f"expert_topk_{_mask}_{_grouped}", [matrix(E)] + [type for _, type in _operands], [routing(E, E, False)],
            f"moe.select %a0 {operands_text(_operands, 1)}",
            f"mode = #moe.select_mode<expert_topk>, k = {E} : i64, capacity = #moe.capacity<tokens * 2 / experts, round = nearest, min = 1>",
        )  # fmt: skip


@pytest.mark.parametrize("tokens,size", [(0, None), (1, None), (7, None), (12, None), (12, 4), (8, 8), (0, 4), (7, 4)])
@pytest.mark.parametrize("mask", MASKS)
def test_expert_topk(functions, mask, tokens, size):
    keys = draw("choice", tokens)
    if tokens > 4:
        keys[3] = keys[1]
    given, allowed = masks(mask, tokens)
    arguments = [keys, *given] + ([size] if size else [])
    (slots,) = functions.call(f"expert_topk_{mask}_{size is not None}", arguments, [SLOTS])
    chosen = np.zeros((tokens, E), bool)
    for begin in range(0, tokens, size or max(tokens, 1)):
        group = range(begin, min(begin + (size or tokens), tokens))
        room = max(round((size or tokens) * 2 / E), 1)
        for e in range(E):
            best = [t for t in falling([keys[t, e] for t in range(tokens)]) if t in group and allowed[t, e]]
            chosen[best[:room], e] = True
    lists = [[e for e in falling(keys[t]) if chosen[t, e]] for t in range(tokens)]
    np.testing.assert_array_equal(slots, slots_of(lists, E))
    assert functions.take_failures() == (1 if size and tokens % size else 0)


# Given.
for _integer in ("i32", "i64"):
    MODULE.define_op(f"given_{_integer}", [matrix(K, _integer)], [routing(E, K, False)], "moe.given %a0")


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("integer", ["i32", "i64"])
def test_given(functions, integer, tokens):
    """Ids outside of the experts are none, and an id counts once."""
    ids = rng("ids", tokens).integers(-2, E + 2, size=(tokens, K)).astype(DTYPES[integer])
    if tokens > 1:
        ids[1] = 4
    (slots,) = functions.call(f"given_{integer}", [ids], [SLOTS])
    expected = np.full((tokens, E), -1, np.int32)
    for t in range(tokens):
        for slot in reversed(range(K)):
            if 0 <= ids[t, slot] < E:
                expected[t, ids[t, slot]] = slot
    np.testing.assert_array_equal(slots, expected)


# --- weigh --------------------------------------------------------------------------------

WEIGHS = {
    "none": {},
    "sum": {"norm": "sum", "norm_eps": 0.25},
    "clamp": {"norm": "clamp", "norm_eps": 0.75, "scale": 2.0},
    "pnorm1": {"norm": "pnorm", "norm_p": 1.0},
    "pnorm2": {"norm": "pnorm", "norm_p": 2.0},
    "pnorm3": {"norm": "pnorm", "norm_p": 3.0, "scale": 0.5},
    "count": {"norm": "count"},
}
SOURCED = {
    **WEIGHS,
    "softmax_count": {"fn": "softmax", "norm": "count"},
    "sigmoid_pnorm": {"fn": "sigmoid", "norm": "pnorm", "norm_p": 2.0},
    "mixer": {"fn": "masked_softmax", "eps": 0.2},
    "mixer_clamp": {"fn": "masked_softmax", "eps": 0.2, "norm": "clamp", "norm_eps": 0.5},
}
WEIGH_ATTRIBUTES = {
    "fn": "fn = #moe.weigh_fn<{}>",
    "norm": "norm = #moe.weigh_norm<{}>",
    "eps": "eps = {:e} : f64",
    "norm_eps": "norm_eps = {:e} : f64",
    "norm_p": "norm_p = {:e} : f64",
    "scale": "scale = {:e} : f64",
}

for _name, _options in WEIGHS.items():
    MODULE.define_op(
        f"reweigh_{_name}", [routing(E, K), f"tensor<{E}xf32>"], [routing(E, K)],
        "moe.weigh %a0 expert_scale(%a1)", attributes(_options, WEIGH_ATTRIBUTES),
    )  # fmt: skip
for _name, _options in SOURCED.items():
    for _element in ("f32", "bf16", "f64"):
        MODULE.define_op(
            f"weigh_{_name}_{_element}",
            [routing(E, K, False), matrix(E, _element), f"tensor<{E}x{_element}>", f"tensor<{E}x{_element}>"], [routing(E, K)],
            "moe.weigh %a0, %a1 bias(%a2) expert_scale(%a3)", attributes(_options, WEIGH_ATTRIBUTES),
        )  # fmt: skip


def mixer(source, chosen, e, eps):
    """The round of expert e, after those of the experts before it."""
    taken = chosen[: chosen.index(e)]
    rest = [s for i, s in enumerate(source) if i not in taken]
    top = max(rest)
    return 1 / sum(math.exp(s - top) for s in rest if top - s <= 2 * eps * max(abs(s), top))


def raw_weight(source, chosen, e, fn, eps):
    if fn == "softmax":
        return math.exp(source[e]) / sum(math.exp(source[i]) for i in chosen)
    if fn == "masked_softmax":
        return mixer(source, chosen, e, eps)
    return sigmoid(source[e]) if fn == "sigmoid" else source[e]


def divisor(values, norm, norm_eps, norm_p):
    if norm == "sum":
        return sum(values) + norm_eps
    if norm == "clamp":
        return max(sum(values), norm_eps)
    if norm == "pnorm":
        return sum(abs(v) ** norm_p for v in values) ** (1 / norm_p)
    return max(len(values), 1) if norm == "count" else 1


def weigh(slots, source, expert_scale, fn="none", eps=0, norm="none", norm_eps=0, norm_p=1, scale=1):
    result = np.zeros(slots.shape)
    for t in range(len(slots)):
        chosen = entries(slots, t)
        values = [raw_weight(source[t], chosen, e, fn, eps) for e in chosen]
        by = divisor(values, norm, norm_eps, norm_p)
        for e, value in zip(chosen, values):
            result[t, e] = 0 if by == 0 else value / by * scale * expert_scale[e]
    return result


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", WEIGHS)
def test_weigh_again(functions, name, tokens):
    slots, weights = random_routing("again", tokens, E, K)
    scales = draw("scales", 1)[0]
    same, result = functions.call(f"reweigh_{name}", [slots, weights, scales], [SLOTS, WEIGHTS])
    np.testing.assert_array_equal(same, slots)
    check(result, weigh(slots, weights.astype(np.float64), scales.astype(np.float64), **WEIGHS[name]))


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", ["f32", "bf16", "f64"])
@pytest.mark.parametrize("name", SOURCED)
def test_weigh(functions, name, element, tokens):
    slots, _ = random_routing("weigh", tokens, E, K)
    source = (rng("source", tokens).uniform(-2, 2, size=(tokens, E)) + 0.5).astype(DTYPES[element])
    if "norm" in SOURCED[name] and "fn" not in SOURCED[name]:
        source = np.abs(source)
    bias, scales = np.abs(draw("bias", 1, E, element))[0], draw("scales", 1, E, element)[0]
    _, result = functions.call(f"weigh_{name}_{element}", [slots, source, bias, scales], [SLOTS, WEIGHTS])
    exact = [a.astype(np.float64) for a in (source, bias, scales)]
    check(result, weigh(slots, exact[0] + exact[1], exact[2], **SOURCED[name]))


def test_weigh_zero(functions):
    """Weights that are all zero stay zero under every norm."""
    slots, _ = random_routing("zero", 7, E, K)
    zeros, ones = np.zeros((7, E), np.float32), np.ones(E, np.float32)
    for name in ("pnorm1", "pnorm2", "pnorm3", "clamp", "count"):
        _, result = functions.call(f"reweigh_{name}", [slots, zeros, ones], [SLOTS, WEIGHTS])
        assert (result == 0).all()


# --- filter, capacity ---------------------------------------------------------------------

FILTERS = {
    "default": (1, 0.4, False),
    "random": (1, 0.4, True),
    "all_slots": (0, 0.5, False),
    "later": (2, 0.5, True),
    "none": (1, math.inf, False),
    "none_random": (1, math.inf, True),
    "zero": (1, 0.0, True),
}
for _name, (_from, _threshold, _random) in FILTERS.items():
    _text = "0x7FF0000000000000" if _threshold == math.inf else _threshold
    MODULE.define_op(
        f"filter_{_name}", [routing(E, K)] + ["tensor<?xf32>"] * _random, [routing(E, K)],
        f"moe.filter %a0 {'random(%a1)' if _random else ''}", f"from_slot = {_from} : i64, threshold = {_text} : f64",
    )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", FILTERS)
def test_filter(functions, name, tokens):
    first, threshold, random = FILTERS[name]
    slots, weights = random_routing("filter", tokens, E, K)
    u = rng("u", tokens).uniform(size=tokens).astype(np.float32)
    result, values = functions.call(f"filter_{name}", [slots, weights] + [u] * random, [SLOTS, WEIGHTS])
    stays = u[:, None] < weights / max(threshold, 1e-9) if random else weights > threshold
    expected = np.where((slots < first) | stays, slots, -1)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(values, kept(expected, weights))


def rounded(value, round_):
    return {"floor": math.floor, "ceil": math.ceil, "nearest": round}[round_](value)


CAPACITIES = {
    # expression: (text, value of T)
    "constant": ("5", lambda T: 5),
    "mtf": ("tokens * 1.25 / experts, min = 4", lambda T: max(int(T * 1.25 / E), 4)),
    "flaxformer": ("1.25 * tokens / experts, round = nearest, min = 2", lambda T: max(round(1.25 * T / E), 2)),
    "half": ("tokens * 0.5, round = nearest", lambda T: round(T * 0.5)),
    "vmoe": ("tokens * k * 1.05 / experts, round = ceil, multiple = 4", lambda T: -(-math.ceil(T * 1 * 1.05 / E) // 4) * 4),
    "deepspeed": ("tokens / experts * 1.25 * k, round = ceil, min = 3", lambda T: max(math.ceil(T / E * 1.25 * 1), 3)),
    "nllb": ("tokens / experts, round = ceil, times = 2", lambda T: 2 * math.ceil(T / E)),
    "inexact": ("tokens / 49 * 49", lambda T: int(T / 49 * 49)),
    "lingvo": ("tokens * 2 / experts, multiple = 4, min = 4", lambda T: -(-max(int(T * 2 / E), 4) // 4) * 4),
    "none": ("tokens / tokens / 2", lambda T: 0),
}
for _name, (_text, _) in CAPACITIES.items():
    MODULE.define_op(f"room_{_name}", [routing(E, 1)], [routing(E, 1)], "moe.capacity %a0", f"capacity = #moe.capacity<{_text}>")


@pytest.mark.parametrize("name", CAPACITIES)
def test_capacity_formula(functions, name):
    """With every token at one expert, C of them stay."""
    for tokens in list(range(0, 25)) + [49, 98, 100]:
        slots = np.full((tokens, E), -1, np.int32)
        slots[:, 2] = 0
        result, _ = functions.call(f"room_{name}", [slots, np.ones((tokens, E), np.float32)], [SLOTS, WEIGHTS])
        assert (result >= 0).sum() == min(CAPACITIES[name][1](tokens), tokens), tokens


LIMITS = [
    # order, priority operand, grouped, keep
    (order_, priority, grouped, keep)
    for order_ in ("choice", "bpr", "per_expert", "token")
    for priority in ((False, True) if order_ in ("bpr", "per_expert") else (False,))
    for grouped in (False, True)
    for keep in ((K, 1, 2) if order_ != "per_expert" else (K,))
]
for _order, _priority, _grouped, _keep in LIMITS:
    _operands = [("priority", matrix(E))] * _priority + [("group_size", "index")] * _grouped
    MODULE.define_op(
        f"limit_{_order}_{_priority}_{_grouped}_{_keep}", [routing(E, K)] + [type for _, type in _operands], [routing(E, _keep)],
        f"moe.capacity %a0 {operands_text(_operands, 1)}",
        f"capacity = #moe.capacity<tokens / 4>, order = #moe.capacity_order<{_order}>" + (f", keep = {_keep} : i64" if _keep < K else ""),
    )  # fmt: skip


def limit(slots, priority, order_, keep, group, room):
    """The entries of a group of tokens that stay: lists of (t, e)."""
    if order_ == "per_expert":
        stay = []
        for e in range(E):
            asking = [t for t in group if slots[t, e] >= 0]
            stay += [(asking[i], e) for i in falling([priority[t, e] for t in asking])[:room]]
        return stay
    tokens = list(group)
    if order_ == "bpr":
        best = [max([priority[t, e] for e in entries(slots, t)], default=-math.inf) for t in group]
        tokens = [group[i] for i in falling(best)]
    asking = [(t, e) for t in tokens for e in entries(slots, t)]
    if order_ != "token":
        asking.sort(key=lambda entry: slots[entry])
    stay, load, has = [], [0] * E, dict.fromkeys(group, 0)
    for t, e in asking:
        if load[e] < room and has[t] < keep:
            stay.append((t, e))
            load[e] += 1
            has[t] += 1
    return stay


@pytest.mark.parametrize("tokens,size", [(0, 4), (1, 1), (7, 7), (12, 4), (12, 6), (9, 4)])
@pytest.mark.parametrize("order_,has_priority,grouped,keep", LIMITS)
def test_capacity(functions, order_, has_priority, grouped, keep, tokens, size):
    slots, weights = random_routing("limit", tokens, E, K)
    if tokens > 2:
        weights[2] = kept(slots[2:3], np.float32(0.5))
        weights[1] = kept(slots[1:2], np.float32(0.5))
    priority = draw("priority", tokens)
    arguments = [slots, weights] + [priority] * has_priority + [size] * grouped
    result, values = functions.call(f"limit_{order_}_{has_priority}_{grouped}_{keep}", arguments, [SLOTS, WEIGHTS])
    step = size if grouped else max(tokens, 1)
    stay = []
    for begin in range(0, tokens, step):
        group = range(begin, min(begin + step, tokens))
        stay += limit(slots, priority if has_priority else weights, order_, keep, group, step // 4 if tokens else 0)
    expected = slots_of([[e for e in entries(slots, t) if (t, e) in stay] for t in range(tokens)], E)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(values, kept(expected, weights))
    assert functions.take_failures() == (1 if grouped and tokens % size else 0)


# --- compose, remap, blend ------------------------------------------------------------------

INNER = [(5, 2), (3, 3)]
for _weighted in (False, True):
    _types = [routing(2, 2, _weighted)] + [routing(e, k, _weighted) for e, k in INNER]
    MODULE.define_op(f"compose_{_weighted}", _types, [routing(8, 6, _weighted)], "moe.compose %a0, %a1, %a2")


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("weighted", [False, True])
def test_compose(functions, weighted, tokens):
    outer = random_routing("outer", tokens, 2, 2)
    inner = [random_routing(f"inner{e}", tokens, e, k) for e, k in INNER]
    arguments = [array for pair in [outer, *inner] for array in pair[: 2 if weighted else 1]]
    result = functions.call(f"compose_{weighted}", arguments, [SLOTS, WEIGHTS][: 2 if weighted else 1])
    lists, weights = [], np.zeros((tokens, 8))
    for t in range(tokens):
        lists.append([])
        for g in entries(outer[0], t):
            for i in entries(inner[g][0], t):
                e = i + (0, 5)[g]
                lists[t].append(e)
                weights[t, e] = float(outer[1][t, g]) * inner[g][1][t, i]
    np.testing.assert_array_equal(result[0], slots_of(lists, 8))
    if weighted:
        check(result[1], weights)


REPLICAS = 10
for _policy in ("round_robin", "least_loaded"):
    for _integer in ("i32", "i64"):
        for _weighted in (False, True):
            MODULE.define_op(
                f"remap_{_policy}_{_integer}_{_weighted}", [routing(E, K, _weighted), f"tensor<{E}x3x{_integer}>"],
                [routing(REPLICAS, K, _weighted)], "moe.remap %a0, %a1", f"policy = #moe.remap_policy<{_policy}>",
            )  # fmt: skip
MODULE.define_op("remap_few", [routing(E, K), f"tensor<{E}x1xi32>"], [routing(2, 2)], "moe.remap %a0, %a1")


def remap(slots, weights, ids, policy, experts):
    load, lists, values = [0] * experts, [], np.zeros((len(slots), experts))
    for t in range(len(slots)):
        lists.append([])
        for e in entries(slots, t):
            replicas = [i for i in ids[e] if 0 <= i < experts]
            if not replicas:
                continue
            to = replicas[t % len(replicas)] if policy == "round_robin" else min(replicas, key=lambda i: load[i])
            values[t, to] += weights[t, e]
            if to not in lists[t]:
                lists[t].append(to)
                load[to] += 1
    return slots_of(lists, experts), values


# Replicas, a pruned expert (3), two merged ones (6 and 7), ids that are none.
MAP = [[0, 8, -1], [1, -1, 9], [-5, 2, -1], [-1, -1, -1], [4, 3, 8], [5, 99, 9], [6, -1, -1], [6, 7, -1]]


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("integer", ["i32", "i64"])
@pytest.mark.parametrize("policy", ["round_robin", "least_loaded"])
def test_remap(functions, policy, integer, weighted, tokens):
    slots, weights = random_routing("remap", tokens, E, K)
    arguments = [slots] + [weights] * weighted + [np.array(MAP, DTYPES[integer])]
    result = functions.call(f"remap_{policy}_{integer}_{weighted}", arguments, [SLOTS, WEIGHTS][: 2 if weighted else 1])
    expected, values = remap(slots, weights.astype(np.float64), MAP, policy, REPLICAS)
    np.testing.assert_array_equal(result[0], expected)
    if weighted:
        check(result[1], values)


def test_remap_to_fewer(functions):
    slots, weights = random_routing("few", 7, E, K)
    ids = np.array([[e % 2] for e in range(E)], np.int32)
    result, values = functions.call("remap_few", [slots, weights, ids], [SLOTS, WEIGHTS])
    expected, sums = remap(slots, weights.astype(np.float64), ids, "round_robin", 2)
    np.testing.assert_array_equal(result, expected)
    check(values, sums)


SHARED = 2
for _mode in ("joint", "softmax_mass"):
    for _element in ("f32", "f16", "f64"):
        MODULE.define_op(
            f"blend_{_mode}_{_element}",
            [routing(E, K, _mode == "softmax_mass"), matrix(E, _element), matrix(SHARED, _element)],
            [routing(E, K), matrix(SHARED, _element)], f"moe.blend <{_mode}> %a0, %a1, %a2",
        )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", ["f32", "f16", "f64"])
@pytest.mark.parametrize("mode", ["joint", "softmax_mass"])
def test_blend(functions, mode, element, tokens):
    slots, weights = random_routing("blend", tokens, E, K)
    source, shared = draw("source", tokens, E, element) * 3, draw("shared", tokens, SHARED, element) * 3
    arguments = [slots] + [weights] * (mode == "softmax_mass") + [source, shared]
    same, values, shares = functions.call(f"blend_{mode}_{element}", arguments, [SLOTS, WEIGHTS, (element, 2)])
    expected, expected_shares = np.zeros((tokens, E)), np.zeros((tokens, SHARED))
    for t in range(tokens):
        chosen = entries(slots, t)
        q = softmax(np.concatenate([source[t, chosen], shared[t]]).astype(np.float64)[None], 1)[0]
        expected_shares[t] = q[len(chosen) :]
        mass = q[: len(chosen)].sum()
        for e, share in zip(chosen, q):
            expected[t, e] = share if mode == "joint" else weights[t, e] * mass
    np.testing.assert_array_equal(same, slots)
    check(values, expected)
    check(shares, expected_shares, element)


# --- tree_select ----------------------------------------------------------------------------

TREES = [
    # leaves, trees, biases, permutation rows, element, options
    (6, 3, True, 3, "f32", {"gamma": 1.0}),
    (6, 3, False, 1, "f32", {"gamma": 2.0, "log_eps": 1e-6, "p_min": 1e-5}),
    (8, 2, True, 0, "f32", {"gamma": 1.0}),
    (5, 2, True, 2, "f64", {"gamma": 0.5}),
    (2, 1, False, 0, "bf16", {"gamma": 1.0}),
    (13, 2, True, 2, "f16", {"gamma": 4.0}),
]


def tree_name(leaves, trees, biased, rows, element, options):
    return f"tree_{leaves}_{trees}_{biased}_{rows}_{element}"


for _case in TREES:
    _n, _r, _biased, _rows, _element, _options = _case
    _operands = [("nodes", f"tensor<{_r}x{_n - 1}x{H}x{_element}>"), ("leaves", f"tensor<{_r}x{_n}x{H}x{_element}>")]
    if _biased:
        _operands += [("node_bias", f"tensor<{_r}x{_n - 1}x{_element}>"), ("leaf_bias", f"tensor<{_r}x{_n}x{_element}>")]
    if _rows:
        _operands += [("permutation", f"tensor<{_rows}x{_n}xi32>")]
    MODULE.define_op(
        tree_name(*_case), [matrix(H, _element)] + [type for _, type in _operands], [routing(_n, _n), "tensor<?xi64>"],
        f"moe.tree_select %a0 {operands_text(_operands, 1)}",
        ", ".join(f"{name} = {value:e} : f64" for name, value in _options.items()),
    )  # fmt: skip


def smooth_step(v, gamma):
    if v <= -gamma / 2:
        return 0.0
    return 1.0 if v >= gamma / 2 else -2 * v**3 / gamma**3 + 3 * v / (2 * gamma) + 0.5


def walk(node, p, n, split, leaves, visits):
    """Probabilities of the leaves from left to right, by recursion."""
    visits.append(p > 0)
    if node >= n - 1:
        leaves.append(p)
        return
    left = split(node)
    walk(2 * node + 1, p * left, n, split, leaves, visits)
    walk(2 * node + 2, p * (1 - left), n, split, leaves, visits)


def tree_select(x, nodes, leaf_weights, node_bias, leaf_bias, permutation, gamma, log_eps=1e-8, p_min=0.0):
    trees, n = leaf_weights.shape[:2]
    weights, visited = np.zeros((len(x), n)), np.zeros(len(x), np.int64)
    for t, row in enumerate(x):
        logits = np.full((trees, n), -np.inf)
        for r in range(trees):
            probabilities, visits = [], []
            walk(0, 1.0, n, lambda i: smooth_step(nodes[r, i] @ row + node_bias[r, i], gamma), probabilities, visits)
            visited[t] += sum(visits)
            for j, p in enumerate(probabilities):
                if p > p_min:
                    logits[r, j] = leaf_weights[r, j] @ row + leaf_bias[r, j] + math.log(p + log_eps)
        q = np.exp(logits - logits.max())
        for r in range(trees):
            for j in range(n):
                weights[t, permutation[r % len(permutation)][j]] += q[r, j]
        weights[t] /= weights[t].sum()
    return weights, visited


@pytest.mark.parametrize("tokens", [0, 1, 9])
@pytest.mark.parametrize("case", TREES, ids=lambda case: tree_name(*case))
def test_tree_select(functions, case, tokens):
    n, trees, biased, rows, element, options = case
    random = rng("tree", n, tokens)

    def numbers(*shape, scale=1.0):
        return (random.normal(size=shape) * scale).astype(DTYPES[element])

    # Splits of about the width of the smooth step, so that some nodes saturate.
    x, nodes, leaves = numbers(tokens, H), numbers(trees, n - 1, H, scale=0.15), numbers(trees, n, H, scale=0.2)
    biases = [numbers(trees, n - 1, scale=0.2), numbers(trees, n)]
    permutation = np.array([random.permutation(n) for _ in range(rows)], np.int32).reshape(rows, n)
    arguments = [x, nodes, leaves] + biases * biased + [permutation] * bool(rows)
    slots, weights, visited = functions.call(tree_name(*case), arguments, [SLOTS, WEIGHTS, ("i64", 1)])

    exact = [a.astype(np.float64) for a in (x, nodes, leaves)]
    exact += [b.astype(np.float64) * biased for b in biases]
    expected, visits = tree_select(*exact, permutation if rows else [list(range(n))], **options)
    check(weights, expected, "f32" if element in ("f32", "f64") else "f16")
    np.testing.assert_array_equal(visited, visits)
    np.testing.assert_array_equal(slots >= 0, expected > 0)
    np.testing.assert_array_equal(slots, slots_of([[e for e in falling(row) if row[e] > 0] for row in weights], n))


# --- gating -----------------------------------------------------------------------------------

GATINGS = {
    # score, source, select options, weigh options, capacity
    "deepseek_v3": ("sigmoid", "score", {**GROUPS, "group_score": "top2sum"}, {"norm": "sum", "norm_eps": 1e-20, "scale": 2.5}, None),
    "deepseek_v2": ("softmax", "score", {**GROUPS, "group_fill": "zero"}, {"scale": 16.0}, None),
    "top_p": ("softmax", "score", {"mode": "topp", "p": 0.6}, {"norm": "clamp", "norm_eps": 1e-3}, None),
    "threshold": ("sigmoid", "score", {"mode": "threshold", "tau": 0.4}, {"norm": "count"}, None),
    "dense": ("softmax", "score", {"mode": "all", "k": E}, {"fn": "none"}, None),
    "dbrx": ("softmax", "score", {"tie": "higher"}, {"norm": "pnorm", "norm_p": 1.0}, None),
    "logsigmoid": ("logsigmoid", "score", {}, {"fn": "sigmoid"}, None),
    "mixer": ("identity", "logit", {}, {"fn": "masked_softmax", "eps": 0.1}, None),
    "switch": ("softmax", "score", {"k": 1}, {}, ("tokens / 4", "choice")),
    "tutorial": ("identity", "logit", {"k": 2}, {"fn": "softmax"}, ("tokens * 0.4", "token")),
}
for _name, (_score, _source, _select, _weigh, _capacity) in GATINGS.items():
    _k = _select.get("k", K)
    _text = [attributes({"k": K, **_select}, ATTRIBUTES), attributes({"fn": "none", **_weigh}, WEIGH_ATTRIBUTES)]
    _text += [f"score = #moe.score_fn<{_score}>", f"weigh_source = #moe.weigh_source<{_source}>"]
    if _capacity:
        _text += [f"capacity = #moe.capacity<{_capacity[0]}>, order = #moe.capacity_order<{_capacity[1]}>"]
    _vector = f"tensor<{E}xf32>"
    MODULE.define_op(
        f"gating_{_name}", [matrix(E), _vector, "tensor<?xi1>", matrix(E, "i1"), _vector, _vector], [routing(E, _k)],
        "moe.gating %a0 bias(%a1) token_mask(%a2) expert_mask(%a3) source_bias(%a4) expert_scale(%a5)", ", ".join(_text),
    )  # fmt: skip

SCORES = {
    "identity": lambda x: x,
    "softmax": lambda x: softmax(x, 1),
    "sigmoid": sigmoid,
    "logsigmoid": lambda x: -np.logaddexp(0, -x),
}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", GATINGS)
def test_gating(functions, name, tokens):
    score, source_of, select_options, weigh_options, capacity = GATINGS[name]
    logits, (given, allowed) = draw("logits", tokens), masks("both", tokens)
    bias, source_bias, scales = draw("b1", 1)[0] * np.float32(0.1), np.abs(draw("b2", 1))[0], draw("b3", 1)[0]
    arguments = [logits, bias, *given, source_bias, scales]
    slots, weights = functions.call(f"gating_{name}", arguments, [SLOTS, WEIGHTS])

    exact = logits.astype(np.float64)
    scores = SCORES[score](exact) if tokens else exact
    expected = select(scores + bias, allowed, **select_options)
    source = scores if source_of == "score" else exact
    values = weigh(expected, source + source_bias, scales.astype(np.float64), **weigh_options)
    if capacity:
        room = {"tokens / 4": tokens // 4, "tokens * 0.4": int(tokens * 0.4)}[capacity[0]]
        stay = limit(expected, None, capacity[1], select_options["k"], range(tokens), room)
        expected = slots_of([[e for e in entries(expected, t) if (t, e) in stay] for t in range(tokens)], E)
        values = kept(expected, values)
    np.testing.assert_array_equal(slots, expected)
    check(weights, values)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Every moe op as moec compiles it, against NumPy in float64 written from the
descriptions of the ops. Weights of experts are arguments, so that they are read unpacked;
the packed ones are tested in test/Integration."""

import math

import ml_dtypes
import numpy as np
import pytest
from compiled_functions import CompiledFunctions

E, K, H, I = 9, 4, 37, 24
TOKENS = [0, 1, 7, 50]
TOLERANCES = {"f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2}
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
FUNCTIONS = {}


def define(name, arguments, results, body):
    """A function; its arguments are called %a0, %a1, ... in `body`."""
    assert name not in FUNCTIONS
    signature = ", ".join(f"%a{i}: {type}" for i, type in enumerate(arguments))
    FUNCTIONS[name] = f"func.func @{name}({signature}) -> ({', '.join(results)}) {{\n{body}\n}}\n"
    return name


def define_op(name, op, arguments, results, attributes="", operands=None, prefix=""):
    """A function of one op; `operands` names them where they are not %a0, %a1, ..."""
    operands = operands or ", ".join(f"%a{i}" for i in range(len(arguments)))
    names = ", ".join(f"%r{i}" for i in range(len(results)))
    body = f"{prefix}  {names} = {op} {operands} {attributes} : ({', '.join(arguments)}) -> "
    body += f"({', '.join(results)})\n  return {names} : {', '.join(results)}"
    return define(name, arguments, results, body)


@pytest.fixture(scope="module", params=[(3,), (3, "--cpu=x86-64-v3")], ids=["O3", "O3-avx2"])
def functions(request, tmp_path_factory):
    return CompiledFunctions(FUNCTIONS, tmp_path_factory.mktemp("functions"), *request.param)


def routing(k=K, weighted=True, experts=E):
    return f"!moe.routing<experts = {experts}, k = {k}{', weighted' if weighted else ''}>"


def matrix(columns, element="f32"):
    return f"tensor<?x{columns}x{element}>"


def rng(*seed):
    return np.random.default_rng([ord(letter) for word in seed for letter in str(word)])


def normal(shape, *seed, scale=1.0):
    return (rng(*shape, *seed).normal(size=shape) * scale).astype(np.float32)


def check(actual, expected, element="f32"):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    finite = np.isfinite(expected)
    if finite.any():
        largest = max(np.abs(expected[finite]).max(), 1e-30)
        assert np.abs(actual - expected)[finite].max() <= TOLERANCES[element] * largest


def check_routing(actual, expected):
    np.testing.assert_array_equal(actual[0], expected[0])
    if expected[1] is not None:
        check(np.where(actual[0] >= 0, actual[1], 0), np.where(expected[0] >= 0, expected[1], 0))


def draw_routing(tokens, *seed, k=K, experts=E, weighted=True, partial=True):
    """Experts of random slots; with `partial`, some are empty, and so are some tokens."""
    random = rng("routing", tokens, k, experts, *seed)
    ids = np.array([random.permutation(experts)[:k] for _ in range(tokens)], np.int32).reshape(tokens, k)
    if partial:
        ids[random.random(ids.shape) < 0.3] = -1
        ids[random.random(tokens) < 0.2] = -1
    weights = random.uniform(0.05, 1, ids.shape).astype(np.float32)
    return ids, np.where(ids >= 0, weights, 0).astype(np.float32) if weighted else None


def pack_slots(rows, k):
    """Lists of (id, weight) to a routing with dense slots."""
    ids, weights = np.full((len(rows), k), -1, np.int32), np.zeros((len(rows), k))
    for t, row in enumerate(rows):
        for slot, (id, weight) in enumerate(row):
            ids[t, slot], weights[t, slot] = id, weight
    return ids, weights


# --- score ---------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis=-1):
    z = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return z / z.sum(axis=axis, keepdims=True)


SCORES = {
    "identity": lambda x: x,
    "softmax": softmax,
    "sigmoid": sigmoid,
    "sqrtsoftplus": lambda x: np.sqrt(np.logaddexp(0, x)),
    "logsigmoid": lambda x: -np.logaddexp(0, -x),
}
for _fn in SCORES:
    for _element in TOLERANCES:
        _type = matrix(E, _element)
        define(f"score_{_fn}_{_element}", [_type], [_type], f"  %r = moe.score <{_fn}> %a0 : {_type} -> {_type}\n  return %r : {_type}")  # fmt: skip
_type = matrix(E)
define("score_tokens", [_type], [_type], f"  %r = moe.score <softmax> %a0 {{axis = #moe.axis<tokens>}} : {_type} -> {_type}\n  return %r : {_type}")  # fmt: skip
define("score_groups", [_type], [_type], f"  %n = arith.constant 10 : index\n  %r = moe.score <softmax> %a0 group_size(%n) {{axis = #moe.axis<tokens>}} : {_type} -> {_type}\n  return %r : {_type}")  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", TOLERANCES)
@pytest.mark.parametrize("fn", SCORES)
def test_score(functions, fn, element, tokens):
    x = normal((tokens, E), scale=3).astype(DTYPES[element])
    (scores,) = functions.call(f"score_{fn}_{element}", [x])
    check(scores, SCORES[fn](x.astype(np.float64)), element)


@pytest.mark.parametrize("tokens", [0, 1, 50])
def test_score_over_tokens(functions, tokens):
    x = normal((tokens, E), scale=3)
    (scores,) = functions.call("score_tokens", [x])
    check(scores, softmax(x.astype(np.float64), 0))
    if tokens % 10 == 0:
        (scores,) = functions.call("score_groups", [x])
        check(scores.reshape(-1, 10, E), softmax(x.astype(np.float64).reshape(-1, 10, E), 1))


# --- logits --------------------------------------------------------------------------

define_op("logits", "moe.logits", [matrix(H), f"tensor<{E}x{H}xf32>", f"tensor<{E}xf32>"], [matrix(E)], operands="%a0, %a1 bias(%a2)")  # fmt: skip
define_op("logits_cap", "moe.logits", [matrix(H), f"tensor<{H}x{E}xf32>", matrix(E)], [matrix(E)], "{layout = #moe.layout<in_out>, softcap = 3.0 : f64}", operands="%a0, %a1 noise(%a2)")  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
def test_logits(functions, tokens):
    x, w, bias, noise = normal((tokens, H)), normal((E, H)), normal((E,)), normal((tokens, E))
    product = x.astype(np.float64) @ w.T
    (logits,) = functions.call("logits", [x, w, bias])
    check(logits, product + bias)
    (logits,) = functions.call("logits_cap", [x, w.T, noise])
    check(logits, 3 * np.tanh(product / 3) + noise)


# --- linear --------------------------------------------------------------------------

define_op("linear", "moe.linear", [matrix(H), f"tensor<{H}x{E}xf32>", f"tensor<{E}xf32>"], [matrix(E)], "{layout = #moe.layout<in_out>}", operands="%a0, %a1 bias(%a2)")  # fmt: skip
define_op("linear_out_in", "moe.linear", [matrix(H), f"tensor<{E}x{H}xf32>"], [matrix(E)])


@pytest.mark.parametrize("tokens", TOKENS)
def test_linear(functions, tokens):
    x, w, bias = normal((tokens, H)), normal((E, H)), normal((E,))
    product = x.astype(np.float64) @ w.T
    (result,) = functions.call("linear", [x, w.T, bias])
    check(result, product + bias)
    (result,) = functions.call("linear_out_in", [x, w])
    check(result, product)


# --- select --------------------------------------------------------------------------


def order_of(keys, higher=False):
    """Expert numbers by falling key; NaN first."""
    return sorted(range(len(keys)), key=lambda e: (0 if np.isnan(keys[e]) else 1, 0 if np.isnan(keys[e]) else -keys[e], -e if higher else e))


def select(keys, k, mode="topk", p=0.0, tau=0.0, groups=None, token_mask=None, expert_mask=None, higher=False):
    ids = np.full((len(keys), k), -1, np.int32)
    for t, row in enumerate(keys):
        allowed = np.ones(len(row), bool)
        if token_mask is not None and not token_mask[t]:
            continue
        if expert_mask is not None:
            allowed &= expert_mask[t] if expert_mask.ndim == 2 else expert_mask
        row = row.astype(np.float64).copy()
        if groups:
            n, kept, score, fill = groups
            size = len(row) // n
            scores = []
            for g in range(n):
                members = [row[e] for e in range(g * size, (g + 1) * size) if allowed[e]]
                largest = sorted(members, reverse=True)
                scores.append(-np.inf if not members else sum(largest[:2]) if score == "top2sum" else largest[0])
            stay = order_of(np.array(scores))[:kept]
            for g in set(range(n)) - set(stay):
                if fill == "zero":
                    row[g * size : (g + 1) * size] = 0
                else:
                    allowed[g * size : (g + 1) * size] = False
        if mode == "all":
            ids[t] = np.where(allowed, np.arange(len(row)), -1)
            continue
        order = [e for e in order_of(row, higher) if allowed[e]]
        if mode == "topp" and p < 1:
            order = order[: 1 + int((np.cumsum(row[order]) < p).sum())]
        if mode == "threshold":
            order = [e for e in order if row[e] > tau]
        ids[t, : len(order[:k])] = order[:k]
    return ids


def special_keys(tokens, columns=E):
    keys = normal((tokens, columns), "keys", scale=3)
    specials = [
        np.full(columns, 0.5),
        np.full(columns, -np.inf),
        np.array([1, 2, 2, 1, 2, 0, -0.0, 2, 1]),
        np.array([np.nan, 1, np.inf, np.nan, -np.inf, 3, 2, 1, 0]),
    ]
    for t, special in zip(range(1, tokens), specials):
        keys[t] = special
    return keys


ATTRIBUTES = {
    "topk": (f"k = {K} : i64", {}),
    "one": ("k = 1 : i64", dict(k=1)),
    "higher": (f"k = {K} : i64, tie_break = #moe.tie_break<higher>", dict(higher=True)),
    "all": (f"k = {E} : i64, mode = #moe.select_mode<all>", dict(k=E, mode="all")),
    "threshold": (f"k = {K} : i64, mode = #moe.select_mode<threshold>, tau = 0.75 : f64", dict(mode="threshold", tau=0.75)),
}
for _score in ("max", "top2sum"):
    for _fill in ("zero", "neg_inf"):
        ATTRIBUTES[f"groups_{_score}_{_fill}"] = (
            f"k = {K} : i64, n_group = 3 : i64, topk_group = 2 : i64, group_score = #moe.group_score<{_score}>, "
            f"group_fill = #moe.group_fill<{_fill}>",
            dict(groups=(3, 2, _score, _fill)),
        )
TOPP = {"topp": 0.7, "topp_all": 1.5}
for _name, _p in TOPP.items():
    ATTRIBUTES[_name] = (f"k = {K} : i64, mode = #moe.select_mode<topp>, p = {_p} : f64", dict(mode="topp", p=_p))
for _name, (_attributes, _options) in ATTRIBUTES.items():
    _result = routing(_options.get("k", K), False)
    define_op(f"select_{_name}", "moe.select", [matrix(E)], [_result], f"{{{_attributes}}}")
    define_op(f"select_masked_{_name}", "moe.select", [matrix(E), f"tensor<{E}xf32>", "tensor<?xi1>", f"tensor<?x{E}xi1>"], [_result], f"{{{_attributes}}}", operands="%a0 bias(%a1) token_mask(%a2) expert_mask(%a3)")  # fmt: skip
define_op("select_mask_of_experts", "moe.select", [matrix(E, "bf16"), f"tensor<{E}xi1>"], [routing(K, False)], f"{{k = {K} : i64}}", operands="%a0 expert_mask(%a1)")  # fmt: skip


def keys_for(name, tokens):
    if name in TOPP:
        return softmax(normal((tokens, E), "topp", scale=2)).astype(np.float32)
    special = "groups" not in name and "threshold" not in name
    return special_keys(tokens) if special else normal((tokens, E), name)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_select(functions, name, tokens):
    keys = keys_for(name, tokens)
    options = {"k": K, **ATTRIBUTES[name][1]}
    ((ids, _),) = functions.call(f"select_{name}", [keys])
    np.testing.assert_array_equal(ids, select(keys, **options))


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_select_masked(functions, name, tokens):
    keys, random = keys_for(name, tokens), rng("masks", tokens)
    bias = np.zeros(E, np.float32) if name in TOPP else normal((E,), "bias")
    token_mask, expert_mask = random.random(tokens) < 0.8, random.random((tokens, E)) < 0.6
    options = {"k": K, **ATTRIBUTES[name][1]}
    ((ids, _),) = functions.call(f"select_masked_{name}", [keys, bias, token_mask, expert_mask])
    np.testing.assert_array_equal(ids, select(keys + bias, token_mask=token_mask, expert_mask=expert_mask, **options))


def test_select_mask_of_experts(functions):
    keys, mask = normal((20, E)).astype(ml_dtypes.bfloat16), rng("mask").random(E) < 0.5
    ((ids, _),) = functions.call("select_mask_of_experts", [keys, mask])
    np.testing.assert_array_equal(ids, select(keys.astype(np.float32), K, expert_mask=mask))


# --- expert choice, capacity -----------------------------------------------------------

CAPACITIES = {
    "three": ("3", lambda n, k: 3),
    "none": ("tokens * 0.05 / experts", lambda n, k: math.floor(n * 0.05 / E)),
    "floor": ("tokens * 2.5 / experts, min = 2", lambda n, k: max(math.floor(n * 2.5 / E), 2)),
    "ceil": ("tokens / experts * 1.5 * k, round = ceil, min = 2, multiple = 4", lambda n, k: 4 * math.ceil(max(math.ceil(n / E * 1.5 * k), 2) / 4)),
    "nearest": ("tokens * 2 / experts, round = nearest, times = 2", lambda n, k: 2 * round(n * 2 / E)),
}  # fmt: skip
for _name, (_text, _) in CAPACITIES.items():
    define_op(f"expert_topk_{_name}", "moe.select", [matrix(E)], [routing(E, False)], f"{{k = {E} : i64, mode = #moe.select_mode<expert_topk>, capacity = #moe.capacity<{_text}>}}")  # fmt: skip
_five = "  %n = arith.constant 5 : index\n"
_attributes = f"{{k = {E} : i64, mode = #moe.select_mode<expert_topk>, capacity = #moe.capacity<2>}}"
define("expert_topk_masked", [matrix(E), "tensor<?xi1>", f"tensor<{E}xi1>"], [routing(E, False)], f"{_five}  %r = moe.select %a0 token_mask(%a1) expert_mask(%a2) group_size(%n) {_attributes} : ({matrix(E)}, tensor<?xi1>, tensor<{E}xi1>, index) -> {routing(E, False)}\n  return %r : {routing(E, False)}")  # fmt: skip


def expert_choice(keys, capacity, group, allowed=None):
    tokens = len(keys)
    chosen = [[] for _ in range(tokens)]
    for first in range(0, tokens, max(group, 1)):
        members = range(first, min(first + group, tokens))
        for e in range(E):
            able = [t for t in members if allowed is None or allowed[t, e]]
            for t in sorted(able, key=lambda t: (-keys[t, e], t))[:capacity]:
                chosen[t].append((e, 0))
    for t, row in enumerate(chosen):
        row.sort(key=lambda entry: (-keys[t, entry[0]], entry[0]))
    return pack_slots(chosen, E)[0]


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", CAPACITIES)
def test_expert_topk(functions, name, tokens):
    keys = normal((tokens, E), "expert")
    keys[::3] = np.round(keys[::3])  # equal ones
    ((ids, _),) = functions.call(f"expert_topk_{name}", [keys])
    np.testing.assert_array_equal(ids, expert_choice(keys, CAPACITIES[name][1](tokens, E), tokens))


def test_expert_topk_masked(functions):
    keys, random = normal((50, E), "expert"), rng("expert masks")
    tokens, experts = random.random(50) < 0.7, random.random(E) < 0.7
    ((ids, _),) = functions.call("expert_topk_masked", [keys, tokens, experts])
    np.testing.assert_array_equal(ids, expert_choice(keys, 2, 5, np.outer(tokens, experts)))


def limit(ids, weights, capacity, order, group, keep, priority=None, experts=E):
    tokens, k = ids.shape
    values = weights if priority is None else np.take_along_axis(priority, np.maximum(ids, 0), 1)
    accepted = np.zeros(ids.shape, bool)
    for first in range(0, tokens, max(group, 1)):
        members = list(range(first, min(first + group, tokens)))
        if order == "bpr":
            best = np.where(ids >= 0, values, -np.inf).max(axis=1, initial=-np.inf)
            members.sort(key=lambda t: (-best[t], t))
        entries = [(t, slot) for slot in range(k) for t in members]
        if order == "token":
            entries = [(t, slot) for t in members for slot in range(k)]
        if order == "per_expert":
            entries.sort(key=lambda entry: (-values[entry], entry[0]))
        counts = np.zeros(experts, int)
        for t, slot in entries:
            e = ids[t, slot]
            if e >= 0 and counts[e] < capacity and accepted[t].sum() < keep:
                accepted[t, slot] = True
                counts[e] += 1
    rows = [[(ids[t, s], weights[t, s]) for s in range(k) if accepted[t, s]] for t in range(tokens)]
    return pack_slots(rows, keep)


ORDERS = ["choice", "bpr", "per_expert", "token"]
for _order in ORDERS:
    for _name, (_text, _) in CAPACITIES.items():
        define_op(f"capacity_{_order}_{_name}", "moe.capacity", [routing()], [routing()], f"{{capacity = #moe.capacity<{_text}>, order = #moe.capacity_order<{_order}>}}")  # fmt: skip
    _result = routing() if _order == "per_expert" else routing(2)
    _keep = "" if _order == "per_expert" else ", keep = 2 : i64"
    _arguments = [routing(), matrix(E)] if _order in ("bpr", "per_expert") else [routing()]
    _priority = "priority(%a1)" if len(_arguments) == 2 else ""
    define(f"capacity_grouped_{_order}", _arguments, [_result], f"{_five}  %r = moe.capacity %a0 {_priority} group_size(%n) {{capacity = #moe.capacity<2>, order = #moe.capacity_order<{_order}>{_keep}}} : ({', '.join(_arguments)}, index) -> {_result}\n  return %r : {_result}")  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", CAPACITIES)
@pytest.mark.parametrize("order", ORDERS)
def test_capacity(functions, order, name, tokens):
    ids, weights = draw_routing(tokens, order)
    (result,) = functions.call(f"capacity_{order}_{name}", [(ids, weights)])
    check_routing(result, limit(ids, weights, CAPACITIES[name][1](tokens, K), order, tokens, K))


@pytest.mark.parametrize("order", ORDERS)
def test_capacity_grouped(functions, order):
    ids, weights = draw_routing(50, order, "grouped")
    priority = np.round(normal((50, E), "priority"), 1)
    uses = order in ("bpr", "per_expert")
    keep = K if order == "per_expert" else 2
    (result,) = functions.call(f"capacity_grouped_{order}", [(ids, weights)] + [priority] * uses)
    check_routing(result, limit(ids, weights, 2, order, 5, keep, priority if uses else None))


def test_group_size_must_divide_the_tokens(functions):
    with pytest.raises(Exception, match="multiple"):
        functions.call("capacity_grouped_token", [draw_routing(7)])


# --- given, filter, compose, remap, blend ----------------------------------------------

define_op("given", "moe.given", [matrix(K, "i64")], [routing(weighted=False)])


def test_given(functions):
    ids = rng("given").integers(-2, E + 2, (50, K))
    expected = np.where((ids >= 0) & (ids < E), ids, -1)
    for t, row in enumerate(expected):
        for slot in range(K):
            if row[slot] in row[:slot]:
                expected[t, slot] = -1
    ((actual, _),) = functions.call("given", [ids])
    np.testing.assert_array_equal(actual, expected)


define_op("filter", "moe.filter", [routing()], [routing()], "{threshold = 0.4 : f64}")
define_op("filter_random", "moe.filter", [routing(), "tensor<?xf32>"], [routing()], "{threshold = 0.5 : f64, from_slot = 2 : i64}", operands="%a0 random(%a1)")  # fmt: skip
define_op("filter_none", "moe.filter", [routing()], [routing()], "{threshold = 0x7FF0000000000000 : f64}")


def test_filter(functions):
    ids, weights = draw_routing(50, "filter")
    u = rng("u").random(50).astype(np.float32)
    slot = np.arange(K)
    for name, stays, more in [
        ("filter", (slot < 1) | (weights > 0.4), []),
        ("filter_random", (slot < 2) | (u[:, None] < weights / 0.5), [u]),
        ("filter_none", np.broadcast_to(slot < 1, ids.shape), []),
    ]:
        (result,) = functions.call(name, [(ids, weights), *more])
        check_routing(result, (np.where(stays, ids, -1), weights))


_inner = [routing(2, experts=3), routing(1, experts=2), routing(3, experts=4)]
define_op("compose", "moe.compose", [routing(2, experts=3), *_inner], [routing(6)])


def test_compose(functions):
    outer = draw_routing(50, "outer", k=2, experts=3)
    inner = [draw_routing(50, "inner", g, k=k, experts=n) for g, (k, n) in enumerate([(2, 3), (1, 2), (3, 4)])]
    rows = [
        [
            ([0, 3, 5][g] + i, wo * wi)
            for g, wo in zip(outer[0][t], outer[1][t])
            if g >= 0
            for i, wi in zip(inner[g][0][t], inner[g][1][t])
            if i >= 0
        ]
        for t in range(50)
    ]
    (result,) = functions.call("compose", [outer, *inner])
    check_routing(result, pack_slots(rows, 6))


POLICIES = ["round_robin", "least_loaded"]
for _policy in POLICIES:
    define_op(f"remap_{_policy}", "moe.remap", [routing(), f"tensor<{E}x3xi32>"], [routing(experts=14)], f"{{policy = #moe.remap_policy<{_policy}>}}")  # fmt: skip


def remap(ids, weights, table, policy, loads):
    rows = []
    for t in range(len(ids)):
        row = []
        for e, w in zip(ids[t], weights[t]):
            replicas = [r for r in table[e] if 0 <= r < 14] if e >= 0 else []
            if not replicas:
                continue
            id = replicas[t % len(replicas)] if policy == "round_robin" else min(replicas, key=lambda r: loads[r])
            same = [i for i, (other, _) in enumerate(row) if other == id]
            if same:
                row[same[0]] = (id, row[same[0]][1] + w)
            else:
                row.append((id, w))
                loads[id] += 1
        rows.append(row)
    return pack_slots(rows, K)


@pytest.mark.parametrize("policy", POLICIES)
def test_remap(functions, policy):
    ids, weights = draw_routing(50, "remap")
    # Each replica belongs to one expert; expert 4 is pruned, 5 has a gap.
    table = np.full((E, 3), -1, np.int32)
    for replica, e in enumerate([0, 1, 2, 3, 5, 6, 7, 8, 0, 0, 5, 7, 8, 8]):
        table[e, list(table[e]).index(-1) if e != 5 else 2 - 2 * (table[e, 2] >= 0)] = replica
    (result,) = functions.call(f"remap_{policy}", [(ids, weights), table])
    check_routing(result, remap(ids, weights, table, policy, np.zeros(14, int)))


def test_remap_merges(functions):
    ids, weights = draw_routing(50, "merge")
    table = np.full((E, 3), -1, np.int32)
    table[:, 0] = np.arange(E) // 2
    (result,) = functions.call("remap_round_robin", [(ids, weights), table])
    check_routing(result, remap(ids, weights, table, "round_robin", np.zeros(14, int)))


for _mode, _weighted in [("joint", False), ("softmax_mass", True)]:
    define_op(f"blend_{_mode}", f"moe.blend <{_mode}>", [routing(weighted=_weighted), matrix(E), matrix(2)], [routing(), matrix(2)])  # fmt: skip


@pytest.mark.parametrize("mode", ["joint", "softmax_mass"])
def test_blend(functions, mode):
    ids, weights = draw_routing(50, "blend")
    source, shared = normal((50, E)), normal((50, 2))
    values = np.where(ids >= 0, np.take_along_axis(source, np.maximum(ids, 0), 1), -np.inf)
    q = softmax(np.concatenate([values, shared], 1).astype(np.float64))
    expected = q[:, :K] if mode == "joint" else weights * q[:, :K].sum(1, keepdims=True)
    given = (ids, weights if mode == "softmax_mass" else None)
    result, shared_weights = functions.call(f"blend_{mode}", [given, source, shared])
    check_routing(result, (ids, expected))
    check(shared_weights, q[:, K:])


# --- weigh ---------------------------------------------------------------------------


def masked_softmax(ids, source, eps):
    weights = np.zeros(ids.shape)
    for t, row in enumerate(ids):
        free = np.ones(E, bool)
        for slot, e in enumerate(row):
            if e < 0:
                continue
            s = source[t][free]
            top = s.max()
            near = s[top - s <= 2 * eps * np.maximum(abs(s), top)]
            weights[t, slot] = 1 / np.exp(near - top).sum()
            free[e] = False
    return weights


def normalise(weights, present, norm, eps, p):
    weights = np.where(present, weights, 0)
    total = {
        "none": lambda: np.ones((len(weights), 1)),
        "sum": lambda: weights.sum(1, keepdims=True) + eps,
        "clamp": lambda: np.maximum(weights.sum(1, keepdims=True), eps),
        "pnorm": lambda: (np.abs(weights) ** p).sum(1, keepdims=True) ** (1 / p) if p else None,
        "count": lambda: np.maximum(present.sum(1, keepdims=True), 1),
    }[norm]()
    return np.where(total == 0, 0, weights / np.where(total == 0, 1, total))


def weigh(ids, source, before=None, bias=0, expert_scale=1, fn="none", eps=0.0, norm="none", norm_eps=0.0, norm_p=0.0, scale=1.0):
    present, index = ids >= 0, np.maximum(ids, 0)
    if before is not None:
        weights = before.astype(np.float64)
    else:
        source = source.astype(np.float64) + bias
        values = np.take_along_axis(source, index, 1)
        if fn == "masked_softmax":
            weights = masked_softmax(ids, source, eps)
        elif fn == "softmax":
            kept = np.where(present, values, -np.inf)
            with np.errstate(invalid="ignore"):
                weights = np.where(present, softmax(kept), 0)
        else:
            weights = sigmoid(values) if fn == "sigmoid" else values
    weights = normalise(weights, present, norm, norm_eps, norm_p) * scale
    return np.where(present, weights * np.broadcast_to(expert_scale, E)[index], 0)


FORMS = [{"fn": fn} for fn in ("none", "softmax", "sigmoid")] + [
    {"fn": "masked_softmax", "eps": 0.125},
    {"norm": "sum", "norm_eps": 0.25, "scale": 2.5},
    {"fn": "sigmoid", "norm": "sum"},
    {"fn": "sigmoid", "norm": "clamp", "norm_eps": 1.5},
    {"norm": "pnorm", "norm_p": 1.0},
    {"norm": "pnorm", "norm_p": 2.0},
    {"norm": "pnorm", "norm_p": 3.0, "fn": "softmax"},
    {"norm": "count", "fn": "sigmoid", "scale": 0.5},
]


def attributes_of(form):
    names = {"fn": "weigh_fn", "norm": "weigh_norm"}
    texts = []
    for key, value in form.items():
        if key in names:
            texts.append(f"{key} = #moe.{names[key]}<{value}>")
        else:
            texts.append(key if value is True else f"{key} = {value:e} : f64")
    return "{" + ", ".join(texts) + "}"


for _i, _form in enumerate(FORMS):
    define_op(f"weigh{_i}", "moe.weigh", [routing(weighted=False), matrix(E)], [routing()], attributes_of(_form))
    define_op(f"weigh_bias{_i}", "moe.weigh", [routing(weighted=False), matrix(E, "f16"), f"tensor<{E}xf32>", f"tensor<{E}xf32>"], [routing()], attributes_of(_form), operands="%a0, %a1 bias(%a2) expert_scale(%a3)")  # fmt: skip
    if _form.get("fn", "none") == "none":
        define_op(f"renormalise{_i}", "moe.weigh", [routing()], [routing()], attributes_of(_form))


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_weigh(functions, form, tokens):
    ids, before = draw_routing(tokens, "weigh")
    source = np.abs(normal((tokens, E))) if FORMS[form].get("norm") == "sum" else normal((tokens, E))
    (result,) = functions.call(f"weigh{form}", [(ids, None), source])
    check_routing(result, (ids, weigh(ids, source, **FORMS[form])))
    if FORMS[form].get("fn", "none") == "none":
        (result,) = functions.call(f"renormalise{form}", [(ids, before)])
        check_routing(result, (ids, weigh(ids, None, before=before, **FORMS[form])))


@pytest.mark.parametrize("form", range(len(FORMS)))
def test_weigh_bias(functions, form):
    ids, _ = draw_routing(50, "bias")
    source, bias, scale = np.abs(normal((50, E))).astype(np.float16), np.abs(normal((E,))), normal((E,), "scale")
    (result,) = functions.call(f"weigh_bias{form}", [(ids, None), source, bias, scale])
    check_routing(result, (ids, weigh(ids, source, bias=bias, expert_scale=scale, **FORMS[form])))


# --- tree_select -----------------------------------------------------------------------

TREES = {"power": (2, 8, 0), "more": (3, 8, 0), "odd": (3, 11, 3), "one": (1, 2, 0), "shared": (2, 5, 1)}
for _name, (_trees, _leaves, _rows) in TREES.items():
    _arguments = [matrix(H), f"tensor<{_trees}x{_leaves - 1}x{H}xf32>", f"tensor<{_trees}x{_leaves}x{H}xf32>", f"tensor<{_trees}x{_leaves - 1}xf32>", f"tensor<{_trees}x{_leaves}xf32>"]  # fmt: skip
    _operands = "%a0 nodes(%a1) leaves(%a2) node_bias(%a3) leaf_bias(%a4)"
    if _rows:
        _arguments.append(f"tensor<{_rows}x{_leaves}xi32>")
        _operands += " permutation(%a5)"
    _results = [routing(_leaves, experts=_leaves), "tensor<?xi64>"]
    define_op(f"tree_{_name}", "moe.tree_select", _arguments, _results, "{gamma = 1.5 : f64}", operands=_operands)


def smooth_step(v, gamma):
    inside = -2 * v**3 / gamma**3 + 3 * v / (2 * gamma) + 0.5
    return np.where(v <= -gamma / 2, 0, np.where(v >= gamma / 2, 1, inside))


def leaves_in_order(node, leaves):
    if node >= leaves - 1:
        return [node]
    return leaves_in_order(2 * node + 1, leaves) + leaves_in_order(2 * node + 2, leaves)


def tree_select(x, nodes, leaves, node_bias, leaf_bias, permutation):
    trees, n = leaves.shape[:2]
    weights, visited = np.zeros((len(x), n)), np.zeros(len(x), np.int64)
    for t, row in enumerate(x.astype(np.float64)):
        logits = np.full((trees, n), -np.inf)
        for r in range(trees):
            p = np.zeros(2 * n - 1)
            p[0] = 1
            for i in range(n - 1):
                s = smooth_step(nodes[r, i] @ row + node_bias[r, i], 1.5)
                p[2 * i + 1], p[2 * i + 2] = p[i] * s, p[i] * (1 - s)
            visited[t] += (p > 0).sum()
            for j, node in enumerate(leaves_in_order(0, n)):
                if p[node] > 0:
                    logits[r, j] = leaves[r, j] @ row + leaf_bias[r, j] + np.log(p[node] + 1e-8)
        q = softmax(logits.reshape(-1)).reshape(trees, n)
        for r in range(trees):
            for j in range(n):
                e = j if permutation is None else permutation[r % len(permutation), j]
                if 0 <= e < n:
                    weights[t, e] += q[r, j]
        weights[t] /= weights[t].sum()
    rows = [[(e, row[e]) for e in order_of(row) if row[e] > 0] for row in weights]
    return pack_slots(rows, n), visited


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", TREES)
def test_tree_select(functions, name, tokens):
    trees, leaves, rows = TREES[name]
    random = rng("trees", name)
    arguments = [
        normal((tokens, H), scale=0.5), normal((trees, leaves - 1, H), scale=0.4), normal((trees, leaves, H), scale=0.3),
        normal((trees, leaves - 1)), normal((trees, leaves)),
    ]  # fmt: skip
    permutation = None
    if rows:
        permutation = np.array([random.permutation(leaves) for _ in range(rows)], np.int32)
        arguments.append(permutation)
    (ids, weights), visited = functions.call(f"tree_{name}", arguments)
    expected, counts = tree_select(*(a.astype(np.float64) for a in arguments[:5]), permutation)
    np.testing.assert_array_equal(visited, counts)
    check_routing((ids, weights), expected)


# --- aux, bias_update ------------------------------------------------------------------

AUX = {
    "balance": ("load_balance", "probabilities(%a0) routing(%a1)", [matrix(E), routing()], "tensor<f32>", ""),
    "balance_first": ("load_balance", "probabilities(%a0) routing(%a1)", [matrix(E), routing()], "tensor<f32>", "{fraction = #moe.aux_fraction<first>}"),
    "balance_slot": ("load_balance", "probabilities(%a0) routing(%a1)", [matrix(E), routing()], "tensor<f32>", "{per_slot}"),
    "z": ("z_loss", "logits(%a0)", [matrix(E)], "tensor<f32>", ""),
    "importance": ("importance_cv2", "routing(%a0)", [routing()], "tensor<f32>", ""),
    "importance_dense": ("importance_cv2", "probabilities(%a0)", [matrix(E)], "tensor<f32>", ""),
    "shazeer": ("load_cv2", "logits(%a0) noisy_logits(%a1) noise_std(%a2)", [matrix(E)] * 3, "tensor<f32>", "{variant = #moe.load_variant<shazeer>, k = 3 : i64}"),
    "vmoe": ("load_cv2", "logits(%a0) noisy_logits(%a1) noise_std(%a2)", [matrix(E), matrix(E), "tensor<f32>"], "tensor<f32>", "{variant = #moe.load_variant<vmoe>, k = 3 : i64}"),
    "tokens": ("tokens_per_expert", "routing(%a0)", [routing()], f"tensor<{E}xi64>", ""),
    "mean": ("mean_probability", "probabilities(%a0)", [matrix(E)], f"tensor<{E}xf32>", ""),
    "entropy": ("entropy", "probabilities(%a0)", [matrix(E)], "tensor<f32>", ""),
}  # fmt: skip
for _name, (_kind, _operands, _arguments, _result, _attributes) in AUX.items():
    define_op(f"aux_{_name}", f"moe.aux <{_kind}>", _arguments, [_result], _attributes, operands=_operands)
define("aux_groups", [matrix(E), routing()], ["tensor<f32>"], f"{_five}  %r = moe.aux <load_balance> probabilities(%a0) routing(%a1) group_size(%n) : ({matrix(E)}, {routing()}, index) -> tensor<f32>\n  return %r : tensor<f32>")  # fmt: skip


def cv2(values):
    return values.var() / (values.mean() ** 2 + 1e-10)


def count(ids):
    return np.array([(ids == e).sum() for e in range(E)], np.float64)


def balance(probabilities, ids):
    tokens = max(len(ids), 1)
    return E * (count(ids) / tokens * probabilities.sum(0) / tokens).sum()


def phi(x):
    return np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))), otypes=[float])(x)


def shazeer_load(clean, noisy, std, k, others):
    thresholds = np.empty(clean.shape)
    for t in range(len(clean)):
        for e in range(E):
            row = np.delete(noisy[t], e) if others else noisy[t]
            thresholds[t, e] = np.sort(row)[::-1][k - 1]
    return phi((clean - thresholds) / std).sum(0)


@pytest.mark.parametrize("tokens", TOKENS)
def test_aux(functions, tokens):
    ids, weights = draw_routing(tokens, "aux")
    logits = normal((tokens, E), scale=2)
    p = softmax(logits.astype(np.float64))
    p[::2, 3] = 0
    p32 = p.astype(np.float32)
    noisy, std = logits + normal((tokens, E), "noise"), np.abs(normal((tokens, E), "std")) + 0.1
    dense = np.zeros((tokens, E))
    for t, slot in zip(*np.nonzero(ids >= 0)):
        dense[t, ids[t, slot]] = weights[t, slot]
    lse = np.log(np.exp(logits.astype(np.float64)).sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p == 0, 0, p * np.log(p)).sum(1)
    mean = lambda v: v.mean() if len(v) else 0.0
    scalar = np.array(0.7, np.float32)
    for name, arguments, expected in [
        ("balance", [p32, (ids, weights)], balance(p, ids)),
        ("balance_first", [p32, (ids, weights)], balance(p, ids[:, :1])),
        ("balance_slot", [p32, (ids, weights)], balance(p, ids) / K),
        ("z", [logits], mean(lse**2)),
        ("importance", [(ids, weights)], cv2(dense.sum(0))),
        ("importance_dense", [p32], cv2(p.sum(0))),
        ("shazeer", [logits, noisy, std], cv2(shazeer_load(logits, noisy, std, 3, True))),
        ("vmoe", [logits, noisy, scalar], cv2(shazeer_load(logits, noisy, 0.7, 3, False))),
        ("tokens", [(ids, weights)], count(ids)),
        ("mean", [p32], p.sum(0) / max(tokens, 1)),
        ("entropy", [p32], mean(entropy)),
    ]:
        (actual,) = functions.call(f"aux_{name}", arguments)
        check(actual, expected)
    if tokens % 5 == 0 and tokens:
        (actual,) = functions.call("aux_groups", [p32, (ids, weights)])
        check(actual, np.mean([balance(p[i : i + 5], ids[i : i + 5]) for i in range(0, tokens, 5)]))


for _rule in ("sign", "proportional"):
    for _recenter in ("", ", recenter"):
        define(f"bias_{_rule}{_recenter[2:]}", [f"tensor<{E}xf32>", f"tensor<{E}xi64>"], [f"tensor<{E}xf32>"], f"  %r = moe.bias_update <{_rule}> %a0, %a1 {{rate = 0.125 : f64{_recenter}}} : tensor<{E}xf32>, tensor<{E}xi64>\n  return %r : tensor<{E}xf32>")  # fmt: skip


@pytest.mark.parametrize("counts", [np.arange(E) % 5, np.zeros(E)])
@pytest.mark.parametrize("recenter", ["", "recenter"])
@pytest.mark.parametrize("rule", ["sign", "proportional"])
def test_bias_update(functions, rule, recenter, counts):
    bias, distance = normal((E,)), counts.mean() - counts
    delta = 0.125 * (np.sign(distance) if rule == "sign" else distance / max(counts.sum(), 1))
    if recenter:
        delta = delta - delta.mean()
    (result,) = functions.call(f"bias_{rule}{recenter}", [bias, counts.astype(np.int64)])
    check(result, bias + delta)


# --- experts ---------------------------------------------------------------------------

ACTIVATIONS = {
    "identity": lambda x, alpha: x,
    "relu": lambda x, alpha: np.maximum(x, 0),
    "gelu": lambda x, alpha: x * phi(x),
    "gelu_tanh": lambda x, alpha: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x, alpha: x * sigmoid(alpha * x),
    "relu2": lambda x, alpha: np.maximum(x, 0) ** 2,
}


def activate(rows, linear, kind, glu="none", alpha=1.0, beta=0.0, limit=math.inf, clamp="pre"):
    f = lambda v: ACTIVATIONS[kind](v, alpha)
    if glu == "none":
        return f(rows)
    if glu == "interleaved":
        rows, linear = rows[:, 0::2], rows[:, 1::2]
    elif glu == "concat":
        rows, linear = np.split(rows, 2, axis=1)
    gate = np.minimum(f(rows), limit) if clamp == "post" else f(np.minimum(rows, limit))
    return gate * (np.clip(linear, -limit, limit) + beta)


@pytest.mark.parametrize("glu", ["none", "interleaved", "concat", "separate"])
def test_activate(functions, glu):
    for kind in ("gelu", "silu") if glu == "none" else ("silu",):
        options = {} if glu == "none" else dict(limit=0.5, beta=0.25, clamp="post")
        rows = normal((50, I if glu in ("none", "separate") else 2 * I))
        linear = normal((50, I), "linear")
        (result,) = functions.call(f"activate_{glu}_{kind}", [rows] + [linear] * (glu == "separate"))
        check(result, activate(rows.astype(np.float64), linear, kind, glu, **options))


for _glu in ("none", "interleaved", "concat", "separate"):
    _form = "" if _glu == "none" else f", glu = {_glu}, beta = 0.25, limit = 0.5, clamp = post"
    for _kind in ("gelu", "silu") if _glu == "none" else ("silu",):
        _rows = matrix(I if _glu in ("none", "separate") else 2 * I)
        _arguments = [_rows] + [matrix(I)] * (_glu == "separate")
        define_op(f"activate_{_glu}_{_kind}", f"moe.activate <{_kind}{_form}>", _arguments, [matrix(I)], operands="%a0" + " linear(%a1)" * (_glu == "separate"))  # fmt: skip

# name: (experts of the weights, kinds, glu, layout, element, attributes of moe.experts)
LAYERS = {
    "plain": (E, None, "none", "out_in", "f32", ""),
    "in_out": (E, None, "none", "in_out", "f32", ""),
    "interleaved": (E, None, "interleaved", "out_in", "f32", ""),
    "interleaved_in_out": (E, None, "interleaved", "in_out", "f32", ""),
    "concat": (E, None, "concat", "out_in", "f16", ""),
    "separate": (E, None, "separate", "in_out", "bf16", ""),
    "kinds": (4, [("zero", 1), ("ffn", 3), ("identity", 2), ("ffn", 1), ("constant", 2)], "separate", "out_in", "f32", ""),
    "scaled": (E, None, "none", "out_in", "f32", "scale_input, weight = #moe.combine_weight<already_applied>"),
    "scaled_kinds": (4, [("ffn", 4), ("identity", 3), ("constant", 2)], "none", "out_in", "f32", "scale_input, weight = #moe.combine_weight<already_applied>"),
    "native": (E, None, "none", "out_in", "bf16", "accum = #moe.accum<native>, post_scale = 2.0 : f64"),
    "post_scale": (E, None, "none", "out_in", "f32", "post_scale = 0.25 : f64"),
    "uncovered": (E, None, "none", "out_in", "f32", "post_scale = 0.5 : f64"),
}  # fmt: skip


def layer_types(name):
    experts, kinds, glu, layout, element, _ = LAYERS[name]
    bank = lambda n, k: f"tensor<{experts}x{n}x{k}x{element}>" if layout == "out_in" else f"tensor<{experts}x{k}x{n}x{element}>"
    width = 2 * I if glu in ("interleaved", "concat") else I
    types = {"up": bank(width, H), "up_bias": f"tensor<{experts}x{width}x{element}>"}
    if glu == "separate":
        types |= {"gate": bank(I, H), "gate_bias": f"tensor<{experts}x{I}x{element}>"}
    types |= {"down": bank(H, I), "down_bias": f"tensor<{experts}x{H}x{element}>"}
    if kinds and any(kind == "constant" for kind, _ in kinds):
        types["constants"] = f"tensor<2x{H}x{element}>"
    return types


def define_layer(name):
    experts, kinds, glu, layout, element, attributes = LAYERS[name]
    x, types = matrix(H, element), layer_types(name)
    arguments = [x, routing(), *types.values()]
    operands = "".join(f" {word}(%a{i + 2})" for i, word in enumerate(types))
    more = [attributes] if attributes else []
    if layout == "in_out":
        more.append("layout = #moe.layout<in_out>")
    if kinds:
        more.append("kinds = [" + ", ".join(f"#moe.kind<{kind}, {count}>" for kind, count in kinds) + "]")
    activation = "<silu>" if glu == "none" else f"<silu, glu = {glu}>"
    signature = list(arguments)
    if name == "uncovered":
        arguments.append(routing())
        signature.append(routing())
        operands += f" uncovered(%a{len(arguments) - 1})"
    define(f"experts_{name}", arguments, [x], f"  %r = moe.experts %a0, %a1{operands} {activation} {{{', '.join(more)}}} : ({', '.join(signature)}) -> {x}\n  return %r : {x}")  # fmt: skip
    if "scale_input" in attributes or name in ("native", "post_scale", "uncovered"):
        return
    ffn = f"%a0, %a1{operands} {activation} {{{', '.join(more)}}} : ({', '.join(signature)}) -> {x}"
    define(f"ffn_{name}", arguments, [x], f"  %r = moe.expert_ffn {ffn}\n  return %r : {x}")


for _name in LAYERS:
    define_layer(_name)


def ranges(name):
    experts, kinds = LAYERS[name][:2]
    forms, seen = [], {}
    for kind, count in kinds or [("ffn", E)]:
        for _ in range(count):
            forms.append((kind, seen.setdefault(kind, 0)))
            seen[kind] += 1
    return forms


def draw_layer(name, *seed):
    element, types = LAYERS[name][4], layer_types(name)
    shapes = {word: [int(n) for n in type[7:-1].split("x")[:-1]] for word, type in types.items()}
    return {
        word: normal(tuple(shape), name, word, *seed, scale=1 / math.sqrt(shape[-1])).astype(DTYPES[element])
        for word, shape in shapes.items()
    }


def expert(name, weights, e, row):
    kind, number = ranges(name)[e]
    glu, layout = LAYERS[name][2:4]
    w = {word: value[number].astype(np.float64) for word, value in weights.items() if word != "constants" and kind == "ffn"}
    if kind == "zero":
        return np.zeros(H)
    if kind == "identity":
        return row
    if kind == "constant":
        return weights["constants"][number].astype(np.float64)
    product = lambda word, v: v @ (w[word].T if layout == "out_in" else w[word]) + w[f"{word}_bias"]
    hidden = product("up", row[None])
    if glu == "separate":
        hidden = activate(product("gate", row[None]), hidden, "silu", glu)
    else:
        hidden = activate(hidden, None, "silu", glu)
    return product("down", hidden)[0]


def layer(name, x, ids, weights, parameters, uncovered=None):
    attributes = LAYERS[name][5]
    scaled, post = "scale_input" in attributes, 1.0
    if "post_scale" in attributes:
        post = float(attributes.split("post_scale = ")[1].split(" ")[0])
    y = np.zeros(x.shape)
    for t, row in enumerate(x.astype(np.float64)):
        for e, w in zip(ids[t], weights[t]):
            if e >= 0:
                y[t] += expert(name, parameters, e, row * w) if scaled else w * expert(name, parameters, e, row)
        if uncovered is not None and (ids[t] < 0).all():
            y[t] = uncovered[1][t].sum() * row
    return y * post


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", LAYERS)
def test_experts(functions, name, tokens):
    element = LAYERS[name][4]
    x = normal((tokens, H), "x").astype(DTYPES[element])
    ids, weights = draw_routing(tokens, name)
    parameters = draw_layer(name)
    before = draw_routing(tokens, "before", partial=False)
    more = [before] if name == "uncovered" else []
    (y,) = functions.call(f"experts_{name}", [x, (ids, weights), *parameters.values(), *more])
    check(y, layer(name, x, ids, weights, parameters, before if more else None), element)


def rows_of(ids):
    """(token, slot) of each row, by expert, then by token."""
    return [(t, slot) for e in range(E) for t in range(len(ids)) for slot in np.flatnonzero(ids[t] == e)]


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", [name for name in LAYERS if f"ffn_{name}" in FUNCTIONS])
def test_expert_ffn(functions, name, tokens):
    element = LAYERS[name][4]
    ids, weights = draw_routing(tokens, name)
    pairs, parameters = rows_of(ids), draw_layer(name)
    rows = normal((tokens * K, H), "rows").astype(DTYPES[element])
    (result,) = functions.call(f"ffn_{name}", [rows, (ids, weights), *parameters.values()])
    expected = np.zeros(rows.shape)
    for s, (t, slot) in enumerate(pairs):
        expected[s] = expert(name, parameters, ids[t, slot], rows[s].astype(np.float64))
    check(result, expected, element)


define_op("dispatch", "moe.dispatch", [matrix(H), routing()], [matrix(H)])
define_op("dispatch_scaled", "moe.dispatch", [matrix(H, "f16"), routing()], [matrix(H, "f16")], "{scale_input}")
for _layout, _bank in [("out_in", f"tensor<{E}x{I}x{H}xf32>"), ("in_out", f"tensor<{E}x{H}x{I}xf32>")]:
    define_op(f"matmul_{_layout}", "moe.grouped_matmul", [matrix(H), routing(), _bank, f"tensor<{E}x{I}xf32>"], [matrix(I)], f"{{layout = #moe.layout<{_layout}>}}", operands="%a0, %a1, %a2 bias(%a3)")  # fmt: skip
COMBINES = {
    "plain": "",
    "applied": "weight = #moe.combine_weight<already_applied>",
    "post": "post_scale = 3.0 : f64",
    "native": "accum = #moe.accum<native>",
    "uncovered": "",
}
for _name, _attributes in COMBINES.items():
    _element = "f16" if _name == "native" else "f32"
    _x = matrix(H, _element)
    _arguments = [_x, routing(), _x, routing()]
    _uncovered = "uncovered(%a2, %a3)" if _name == "uncovered" else ""
    _types = f"{_x}, {routing()}, index" + (f", {_x}, {routing()}" if _uncovered else "")
    define(f"combine_{_name}", _arguments, [_x], f"  %c0 = arith.constant 0 : index\n  %n = tensor.dim %a2, %c0 : {_x}\n  %r = moe.combine %a0, %a1 tokens(%n) {_uncovered} {{{_attributes}}} : ({_types}) -> {_x}\n  return %r : {_x}")  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
def test_dispatch(functions, tokens):
    x = normal((tokens, H))
    ids, weights = draw_routing(tokens, "dispatch")
    expected, scaled = np.zeros((tokens * K, H)), np.zeros((tokens * K, H))
    for s, (t, slot) in enumerate(rows_of(ids)):
        expected[s] = x[t]
        scaled[s] = x.astype(np.float16)[t] * weights[t, slot].astype(np.float64)
    (rows,) = functions.call("dispatch", [x, (ids, weights)])
    check(rows, expected)
    (rows,) = functions.call("dispatch_scaled", [x.astype(np.float16), (ids, weights)])
    check(rows, scaled, "f16")


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_grouped_matmul(functions, tokens, layout):
    ids, weights = draw_routing(tokens, "matmul")
    rows, bank, bias = normal((tokens * K, H)), normal((E, I, H)), normal((E, I))
    expected = np.zeros((tokens * K, I))
    for s, (t, slot) in enumerate(rows_of(ids)):
        e = ids[t, slot]
        expected[s] = bank[e].astype(np.float64) @ rows[s] + bias[e]
    given = bank if layout == "out_in" else bank.transpose(0, 2, 1)
    (result,) = functions.call(f"matmul_{layout}", [rows, (ids, weights), given, bias])
    check(result, expected)


@pytest.mark.parametrize("name", COMBINES)
@pytest.mark.parametrize("tokens", TOKENS)
def test_combine(functions, tokens, name):
    element = "f16" if name == "native" else "f32"
    dtype = DTYPES[element]
    ids, weights = draw_routing(tokens, "combine")
    before = draw_routing(tokens, "all", partial=False)
    rows, x = normal((tokens * K, H), "rows").astype(dtype), normal((tokens, H), "x").astype(dtype)
    y = np.zeros((tokens, H))
    for s, (t, slot) in enumerate(rows_of(ids)):  # experts rise within a token
        weight = 1 if name == "applied" else weights[t, slot]
        product = weight * rows[s].astype(np.float64)
        y[t] = (y[t] + product.astype(dtype)).astype(dtype) if name == "native" else y[t] + product
    if name == "uncovered":
        empty = (ids < 0).all(1)
        y[empty] = before[1][empty].sum(1, keepdims=True) * x[empty]
    (result,) = functions.call(f"combine_{name}", [rows, (ids, weights), x, before])
    check(result, y * (3 if name == "post" else 1), element)


SHARED = {"ones": "", "weight": "weight(%a3)", "add": "add(%a4)", "average": "weight(%a3) add(%a4)"}
for _name, _operands in SHARED.items():
    _arguments = [matrix(H), f"tensor<2x{I}x{H}xf32>", f"tensor<2x{H}x{I}xf32>", matrix(2), matrix(H)]
    _types = _arguments[:3] + [_arguments[3]] * ("weight" in _operands) + [_arguments[4]] * ("add" in _operands)
    _merge = "{merge = #moe.merge<average>}" if _name == "average" else ""
    define(f"shared_{_name}", _arguments, [matrix(H)], f"  %r = moe.shared %a0 up(%a1) down(%a2) {_operands} <relu> {_merge} : ({', '.join(_types)}) -> {matrix(H)}\n  return %r : {matrix(H)}")  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", SHARED)
def test_shared(functions, name, tokens):
    x, up, down = normal((tokens, H)), normal((2, I, H), scale=0.2), normal((2, H, I), scale=0.2)
    w, y = normal((tokens, 2)), normal((tokens, H), "y")
    factor = w if name in ("weight", "average") else np.ones((tokens, 2))
    x64 = x.astype(np.float64)
    shared = sum(factor[:, s : s + 1] * (np.maximum(x64 @ up[s].T, 0) @ down[s].T) for s in range(2))
    expected = {"ones": shared, "weight": shared, "add": y + shared, "average": (y + shared) / 2}[name]
    (result,) = functions.call(f"shared_{name}", [x, up, down, w, y])
    check(result, expected)


# --- fused gating ------------------------------------------------------------------------

# (experts, k, score, bias, attributes of select, of weigh, source)
GATINGS = {
    "mixtral": (8, 2, "softmax", False, {}, {"norm": "sum"}, "score"),
    "switch": (64, 1, "softmax", False, {}, {}, "score"),
    "v3": (256, 8, "sigmoid", True, dict(groups=(8, 4, "top2sum", "neg_inf")), {"norm": "sum", "norm_eps": 1e-20, "scale": 2.5}, "score"),
    "v3_zero": (256, 8, "sigmoid", True, dict(groups=(8, 4, "top2sum", "zero")), {"norm": "sum"}, "score"),
    "v2": (160, 6, "softmax", False, dict(groups=(8, 3, "max", "zero")), {"scale": 16.0}, "score"),
    "gpt_oss": (128, 4, None, False, {}, {"fn": "softmax"}, "logits"),
    "wide": (384, 8, "sigmoid", True, {}, {"norm": "sum"}, "score"),
    "wider": (512, 10, "softmax", False, {}, {"norm": "clamp", "norm_eps": 1e-12}, "score"),
    "topp": (40, 6, "softmax", False, dict(mode="topp", p=0.6), {"norm": "sum"}, "score"),
    "threshold": (40, 6, "sigmoid", True, dict(mode="threshold", tau=0.8), {"norm": "count"}, "score"),
    "dense": (9, 9, "softmax", False, dict(mode="all"), {}, "score"),
    "higher": (9, 3, None, False, dict(higher=True), {"fn": "sigmoid"}, "logits"),
    "mixer": (16, 2, None, False, {}, {"fn": "masked_softmax", "eps": 0.125}, "logits"),
    "v4": (9, 3, "sqrtsoftplus", True, {}, {"norm": "sum", "scale": 1.5}, "score"),
    "logsigmoid": (9, 3, "logsigmoid", False, {}, {"fn": "softmax"}, "score"),
    "llama4": (16, 1, None, False, {}, {"fn": "sigmoid"}, "logits"),
    "operand": (9, 3, "softmax", False, {}, {"norm": "pnorm", "norm_p": 1.0}, "operand"),
}  # fmt: skip


def select_attributes(k, options):
    texts = [f"k = {k} : i64"]
    if "mode" in options:
        texts.append(f"mode = #moe.select_mode<{options['mode']}>")
    texts += [f"{key} = {options[key]} : f64" for key in ("p", "tau") if key in options]
    if options.get("higher"):
        texts.append("tie_break = #moe.tie_break<higher>")
    if "groups" in options:
        n, kept, score, fill = options["groups"]
        texts.append(f"n_group = {n} : i64, topk_group = {kept} : i64, group_score = #moe.group_score<{score}>, group_fill = #moe.group_fill<{fill}>")
    return "{" + ", ".join(texts) + "}"


for _name, (_n, _k, _score, _bias, _select, _weigh, _source) in GATINGS.items():
    _l, _r, _w = matrix(_n), routing(_k, False, _n), routing(_k, True, _n)
    _body = f"  %s = moe.score <{_score}> %a0 : {_l} -> {_l}\n" if _score else ""
    _key = "%s" if _score else "%a0"
    _bias_text, _types = (" bias(%a1)", f"({_l}, tensor<{_n}xf32>)") if _bias else ("", f"({_l})")
    _body += f"  %r = moe.select {_key}{_bias_text} {select_attributes(_k, _select)} : {_types} -> {_r}\n"
    _from = {"score": "%s", "logits": "%a0", "operand": "%a2"}[_source]
    _body += f"  %w = moe.weigh %r, {_from} {attributes_of(_weigh)} : ({_r}, {_l}) -> {_w}\n"
    define(f"gating_{_name}", [_l, f"tensor<{_n}xf32>", _l], [_w], f"{_body}  return %w : {_w}")


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", GATINGS)
def test_gating(functions, name, tokens):
    experts, k, score, biased, options, form, source = GATINGS[name]
    logits, bias, other = normal((tokens, experts), name), normal((experts,), name, scale=0.2), normal((tokens, experts), "s")
    scores = SCORES[score or "identity"](logits.astype(np.float64))
    ids = select(scores + bias if biased else scores, k, **options)
    values = {"score": scores, "logits": logits, "operand": other}[source]
    weights = weigh_of(ids, values, form)
    (result,) = functions.call(f"gating_{name}", [logits, bias, other])
    check_routing(result, (ids, weights))


def weigh_of(ids, source, form):
    global E
    keep, E = E, source.shape[1]
    try:
        return weigh(ids, source, **form)
    finally:
        E = keep


_gating_types = [matrix(40), "tensor<40xf32>", "tensor<40xf32>", "tensor<?xi1>", "tensor<?x40xi1>"]
for _order in ("choice", "token"):
    _r, _w = routing(6, False, 40), routing(6, True, 40)
    define(
        f"gating_masked_{_order}", _gating_types, [_w],
        f"  %s = moe.score <sigmoid> %a0 : {matrix(40)} -> {matrix(40)}\n"
        f"  %r = moe.select %s bias(%a1) token_mask(%a3) expert_mask(%a4) {{k = 6 : i64}} : ({', '.join(_gating_types[:2] + _gating_types[3:])}) -> {_r}\n"
        f"  %w = moe.weigh %r, %s bias(%a1) expert_scale(%a2) {{norm = #moe.weigh_norm<sum>}} : ({_r}, {', '.join(_gating_types[:3])}) -> {_w}\n"
        f"  %c = moe.capacity %w {{capacity = #moe.capacity<tokens * 6 / experts, min = 1>, order = #moe.capacity_order<{_order}>}} : ({_w}) -> {_w}\n"
        f"  return %c : {_w}",
    )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("order", ["choice", "token"])
def test_gating_masked(functions, order, tokens):
    logits, bias, scale = normal((tokens, 40)), np.abs(normal((40,))), normal((40,), "scale")
    random = rng("gating masks", tokens)
    token_mask, expert_mask = random.random(tokens) < 0.8, random.random((tokens, 40)) < 0.3
    scores = sigmoid(logits.astype(np.float64))
    ids = select(scores + bias, 6, token_mask=token_mask, expert_mask=expert_mask)
    weights = weigh_of(ids, scores, dict(bias=bias, expert_scale=scale, norm="sum"))
    expected = limit(ids, weights, max(math.floor(tokens * 6 / 40), 1), order, tokens, 6, experts=40)
    (result,) = functions.call(f"gating_masked_{order}", [logits, bias, scale, token_mask, expert_mask])
    check_routing(result, expected)


# --- everything --------------------------------------------------------------------------


def test_results_do_not_depend_on_the_number_of_workers(functions):
    ids, weights = draw_routing(50, "workers")
    parameters = draw_layer("kinds")
    x = normal((50, H), "x")
    outputs = [functions.call("experts_kinds", [x, (ids, weights), *parameters.values()], workers)[0] for workers in (1, 2, 4)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])

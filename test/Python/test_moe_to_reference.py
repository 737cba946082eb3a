# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""--moe-to-reference, executed, against NumPy in float64 written from the formulas
in the descriptions of the moe dialect's ops. Shapes are small and odd."""

import math

import numpy as np
import pytest
from mlir_functions import DTYPES, Functions

E, K, H, I = 5, 3, 72, 40
TOKENS = [0, 1, 7]
TOLERANCES = {"f64": 1e-6, "f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2}

# Functions of the one module that all tests here call, by name.
FUNCTIONS = {}


def define(name, arguments, results, body):
    """A function; arguments are MLIR types, named %a0, %a1, ... in `body`."""
    signature = ", ".join(f"%a{i}: {type}" for i, type in enumerate(arguments))
    assert name not in FUNCTIONS
    FUNCTIONS[name] = f"func.func @{name}({signature}) -> ({', '.join(results)}) {{\n{body}\n}}\n"
    return name


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    return Functions("".join(FUNCTIONS.values()), ["--moe-to-reference"], tmp_path_factory.mktemp("reference"))


def routing(k, weighted=True, experts=E):
    return f"!moe.routing<experts = {experts}, k = {k}{', weighted' if weighted else ''}>"


def matrix(columns, element="f32"):
    return f"tensor<?x{columns}x{element}>"


def rng(*seed):
    return np.random.default_rng([ord(c) for word in seed for c in str(word)])


def check(actual, expected, element="f32"):
    assert actual.shape == expected.shape
    actual = actual.astype(np.float64)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    if finite.any():
        largest = np.abs(expected[finite]).max()
        assert np.abs(actual - expected)[finite].max() <= TOLERANCES[element] * max(largest, 1e-30)


# --- formulas ---------------------------------------------------------------------


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    with np.errstate(invalid="ignore"):
        z = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
        return z / z.sum(axis=axis, keepdims=True)


SCORES = {
    ("identity", "experts"): lambda x: x,
    ("softmax", "experts"): lambda x: softmax(x, 1),
    ("softmax", "tokens"): lambda x: softmax(x, 0),
    ("sigmoid", "experts"): sigmoid,
    ("sqrtsoftplus", "experts"): lambda x: np.sqrt(np.logaddexp(0, x)),
}


def select(keys, k):
    """Slots: NaN first, then the largest, the lower index of equals."""
    slots = np.full(keys.shape, -1, np.int32)
    for t, row in enumerate(keys):
        order = sorted(range(row.size), key=lambda e: (not np.isnan(row[e]), 0 if np.isnan(row[e]) else -row[e], e))
        for slot, e in enumerate(order[:k]):
            slots[t, e] = slot
    return slots


def masked_softmax(slots, source, eps):
    weights = np.zeros(source.shape)
    for t, e in zip(*np.nonzero(slots >= 0)):
        free = (slots[t] < 0) | (slots[t] >= slots[t, e])
        s = source[t][free]
        top = s.max()
        near = s[top - s <= 2 * eps * np.maximum(abs(s), top)]
        weights[t, e] = 1 / np.exp(near - top).sum()
    return weights


def weigh(slots, source, fn="none", eps=0.0, norm="none", norm_eps=0.0, scale=1.0):
    chosen = slots >= 0
    if fn == "masked_softmax":
        weights = masked_softmax(slots, source, eps)
    elif fn == "softmax":
        weights = np.zeros(source.shape)
        for t in range(len(slots)):
            weights[t, chosen[t]] = softmax(source[t, chosen[t]], 0)
    else:
        weights = np.where(chosen, sigmoid(source) if fn == "sigmoid" else source, 0)
    if norm == "sum":
        total = weights.sum(axis=1, keepdims=True) + norm_eps
        weights = np.where(total == 0, 0, weights / np.where(total == 0, 1, total))
    return weights * scale


ACTIVATIONS = {
    "identity": lambda x, alpha: x,
    "relu": lambda x, alpha: np.maximum(x, 0),
    "gelu": lambda x, alpha: x * 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))),
    "gelu_tanh": lambda x, alpha: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x, alpha: x * sigmoid(alpha * x),
    "relu2": lambda x, alpha: np.maximum(x, 0) ** 2,
}


def activate(rows, linear, kind, glu="none", alpha=1.0, beta=0.0, limit=math.inf):
    if glu == "none":
        return ACTIVATIONS[kind](rows, alpha)
    if glu == "interleaved":
        rows, linear = rows[:, 0::2], rows[:, 1::2]
    elif glu == "concat":
        rows, linear = np.split(rows, 2, axis=1)
    return ACTIVATIONS[kind](np.minimum(rows, limit), alpha) * (np.clip(linear, -limit, limit) + beta)


def pairs(slots):
    """(token, expert) of each row."""
    return [(t, e) for e in range(slots.shape[1]) for t in range(slots.shape[0]) if slots[t, e] >= 0]


def experts(x, slots, weights, up, up_bias, gate, gate_bias, down, down_bias, **activation):
    result = np.zeros(x.shape)
    for t, e in pairs(slots):
        row = x[t : t + 1]
        hidden = row @ up[e].T + (0 if up_bias is None else up_bias[e])
        if gate is not None:
            hidden = activate(row @ gate[e].T + (0 if gate_bias is None else gate_bias[e]), hidden, **activation)
        else:
            hidden = activate(hidden, None, **activation)
        result[t] += weights[t, e] * (hidden @ down[e].T + (0 if down_bias is None else down_bias[e]))[0]
    return result


# --- gating -----------------------------------------------------------------------


def special_keys(tokens, experts=E):
    """Random rows, and one each with ties, NaN, -inf, all equal, infinities."""
    keys = rng("keys", tokens).normal(size=(tokens, experts)).astype(np.float32) * 3
    specials = [
        np.full(experts, 0.5),
        np.full(experts, -np.inf),
        np.array([1, 2, 2, 1, 2])[:experts],
        np.array([np.nan, 1, np.inf, np.nan, -np.inf])[:experts],
        np.array([-np.inf, -np.inf, 0, -np.inf, -np.inf])[:experts],
    ]
    for t, special in zip(range(1, tokens), specials):
        keys[t] = special
    return keys


def plain_keys(tokens):
    return rng("plain", tokens).normal(size=(tokens, E)).astype(np.float32) * 3


for _k in range(1, E + 1):
    define(
        f"select{_k}", [matrix(E)], [routing(_k, False)],
        f"  %r = moe.select %a0 {{k = {_k} : i64}} : ({matrix(E)}) -> {routing(_k, False)}\n"
        f"  return %r : {routing(_k, False)}",
    )  # fmt: skip
define(
    "select_all", [matrix(E)], [routing(E, False)],
    f"  %r = moe.select %a0 {{k = {E} : i64, mode = #moe.select_mode<all>}} : ({matrix(E)}) -> {routing(E, False)}\n"
    f"  return %r : {routing(E, False)}",
)  # fmt: skip
define(
    "select_bias", [matrix(E), f"tensor<{E}xf16>"], [routing(K, False)],
    f"  %r = moe.select %a0 bias(%a1) {{k = {K} : i64}} : ({matrix(E)}, tensor<{E}xf16>) -> {routing(K, False)}\n"
    f"  return %r : {routing(K, False)}",
)  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("k", range(1, E + 1))
def test_select(functions, tokens, k):
    keys = special_keys(tokens)
    (slots,) = functions.call(f"select{k}", [keys], [("i32", 2)])
    np.testing.assert_array_equal(slots, select(keys, k))


def test_select_all(functions):
    """The slot of an expert is its index."""
    (slots,) = functions.call("select_all", [special_keys(7)], [("i32", 2)])
    np.testing.assert_array_equal(slots, np.tile(np.arange(E), (7, 1)))


def test_select_bias(functions):
    keys, bias = special_keys(7), np.array([0.5, -1, 0, 2, 1], np.float16)
    (slots,) = functions.call("select_bias", [keys, bias], [("i32", 2)])
    np.testing.assert_array_equal(slots, select(keys + bias, K))


for (_fn, _axis), _element in [(_pair, _e) for _pair in SCORES for _e in DTYPES if _e in TOLERANCES]:
    define(
        f"score_{_fn}_{_axis}_{_element}", [matrix(E, _element)], [matrix(E, _element)],
        f"  %s = moe.score <{_fn}> %a0 {{axis = #moe.axis<{_axis}>}} : {matrix(E, _element)} -> {matrix(E, _element)}\n"
        f"  return %s : {matrix(E, _element)}",
    )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", TOLERANCES)
@pytest.mark.parametrize("fn,axis", SCORES)
def test_score(functions, fn, axis, element, tokens):
    x = (rng("score", tokens).normal(size=(tokens, E)) * 30).astype(DTYPES[element])
    (scores,) = functions.call(f"score_{fn}_{axis}_{element}", [x], [(element, 2)])
    check(scores, SCORES[fn, axis](x.astype(np.float64)), element)


LOGITS = [("out_in", False, "f32"), ("out_in", True, "f16"), ("in_out", True, "bf16"), ("in_out", False, "f64")]
for _layout, _bias, _element in LOGITS:
    _w = f"tensor<{f'{E}x{H}' if _layout == 'out_in' else f'{H}x{E}'}x{_element}>"
    _types = [matrix(H, _element), _w] + [f"tensor<{E}x{_element}>"] * _bias
    define(
        f"logits_{_layout}_{_bias}_{_element}", _types, [matrix(E, _element)],
        f"  %l = moe.logits %a0, %a1 {'bias(%a2) ' if _bias else ''}{{layout = #moe.layout<{_layout}>}}"
        f" : ({', '.join(_types)}) -> {matrix(E, _element)}\n  return %l : {matrix(E, _element)}",
    )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("layout,bias,element", LOGITS)
def test_logits(functions, layout, bias, element, tokens):
    random = rng("logits", tokens)
    x = random.normal(size=(tokens, H)).astype(DTYPES[element])
    w = random.normal(size=(E, H)).astype(DTYPES[element])
    b = random.normal(size=E).astype(DTYPES[element])
    given = w if layout == "out_in" else w.T
    (result,) = functions.call(f"logits_{layout}_{bias}_{element}", [x, given] + [b] * bias, [(element, 2)])
    expected = x.astype(np.float64) @ w.astype(np.float64).T + (b.astype(np.float64) if bias else 0)
    check(result, expected, element)


_linear = [matrix(H), f"tensor<{H}x{E}xf32>", f"tensor<{E}xf32>"]
define(
    "linear", _linear, [matrix(E)],
    f"  %l = moe.linear %a0, %a1 bias(%a2) {{layout = #moe.layout<in_out>}} : ({', '.join(_linear)}) -> {matrix(E)}\n  return %l : {matrix(E)}",
)  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
def test_linear(functions, tokens):
    random = rng("linear", tokens)
    x, w, b = random.normal(size=(tokens, H)), random.normal(size=(H, E)), random.normal(size=E)
    (result,) = functions.call("linear", [a.astype(np.float32) for a in (x, w, b)], [("f32", 2)])
    check(result, x @ w + b, "f32")


WEIGHS = {
    "none": {},
    "sum": {"norm": "sum"},
    "sum_eps_scale": {"norm": "sum", "norm_eps": 0.5, "scale": 2.5},
    "softmax": {"fn": "softmax"},
    "softmax_scale": {"fn": "softmax", "scale": 0.25},
    "sigmoid_sum": {"fn": "sigmoid", "norm": "sum"},
    "masked_softmax": {"fn": "masked_softmax", "eps": 0.01},
    "masked_softmax_wide": {"fn": "masked_softmax", "eps": 0.3},
}


def attributes(options):
    kinds = {"fn": "#moe.weigh_fn<{}>", "norm": "#moe.weigh_norm<{}>"}
    return ", ".join(f"{name} = {kinds.get(name, '{:e} : f64').format(value)}" for name, value in options.items())


for _name, _options in WEIGHS.items():
    for _element in ("f32", "f16", "f64"):
        define(
            f"weigh_{_name}_{_element}", [matrix(E), matrix(E, _element)], [routing(K)],
            f"  %r = moe.select %a0 {{k = {K} : i64}} : ({matrix(E)}) -> {routing(K, False)}\n"
            f"  %w = moe.weigh %r, %a1 {{{attributes(_options)}}} : ({routing(K, False)}, {matrix(E, _element)}) -> {routing(K)}\n"
            f"  return %w : {routing(K)}",
        )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", ["f32", "f16", "f64"])
@pytest.mark.parametrize("name", WEIGHS)
def test_weigh(functions, name, element, tokens):
    keys = plain_keys(tokens)
    source = keys.astype(DTYPES[element])
    slots, weights = functions.call(f"weigh_{name}_{element}", [keys, source], [("i32", 2), ("f32", 2)])
    np.testing.assert_array_equal(slots, select(keys, K))
    check(weights, weigh(slots, source.astype(np.float64), **WEIGHS[name]))


def test_weigh_ties(functions):
    keys = np.array([[2, 2, 2, 1, 0], [-1, -1, -5, -1, -1]], np.float32)
    slots, weights = functions.call("weigh_masked_softmax_wide_f32", [keys, keys], [("i32", 2), ("f32", 2)])
    np.testing.assert_array_equal(slots, [[0, 1, 2, -1, -1], [0, 1, -1, 2, -1]])
    check(weights, weigh(slots, keys.astype(np.float64), **WEIGHS["masked_softmax_wide"]))


def test_weigh_sum_of_zero(functions):
    keys = np.zeros((2, E), np.float32)
    _, weights = functions.call("weigh_sum_f32", [keys, keys], [("i32", 2), ("f32", 2)])
    assert (weights == 0).all()


@pytest.mark.parametrize("name", ["none", "sum", "softmax", "masked_softmax"])
def test_weigh_nan(functions, name):
    """A selected NaN makes weights NaN; one that is not selected does no harm here."""
    keys = np.array([[0, np.nan, 1, 2, 3]], np.float32)
    slots, weights = functions.call(f"weigh_{name}_f32", [keys, keys], [("i32", 2), ("f32", 2)])
    np.testing.assert_array_equal(slots, [[-1, 0, -1, 2, 1]])
    assert np.isnan(weights[0, 1])
    assert (weights[0, [0, 2]] == 0).all()


GATINGS = {
    # name: (score, weigh_source, bias, source operand, options)
    "moe": ("softmax", "score", False, False, {"fn": "none"}),
    "moe_sum": ("softmax", "score", False, False, {"fn": "none", "norm": "sum"}),
    "qmoe": ("identity", "logit", False, False, {"fn": "softmax"}),
    "mixer": ("identity", "logit", False, False, {"fn": "masked_softmax", "eps": 0.01}),
    "router_weights": ("identity", "operand", False, True, {"fn": "none", "norm": "sum"}),
    "deepseek": ("sigmoid", "score", True, False, {"fn": "none", "norm": "sum", "norm_eps": 1e-20, "scale": 2.5}),
    "softmax_logit": ("softmax", "logit", True, False, {"fn": "sigmoid"}),
}
for _name, (_score, _from, _bias, _source, _options) in GATINGS.items():
    for _element in ("f32", "bf16"):
        _types = [matrix(E, _element)] + [f"tensor<{E}xf32>"] * _bias + [matrix(E, _element)] * _source
        define(
            f"gating_{_name}_{_element}", _types, [routing(K)],
            f"  %w = moe.gating %a0 {'bias(%a1) ' if _bias else ''}{'source(%a1) ' if _source else ''}"
            f"{{score = #moe.score_fn<{_score}>, k = {K} : i64, weigh_source = #moe.weigh_source<{_from}>, "
            f"{attributes(_options)}}} : ({', '.join(_types)}) -> {routing(K)}\n  return %w : {routing(K)}",
        )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("element", ["f32", "bf16"])
@pytest.mark.parametrize("name", GATINGS)
def test_gating(functions, name, element, tokens):
    score, source_of, has_bias, has_source, options = GATINGS[name]
    logits = plain_keys(tokens).astype(DTYPES[element])
    bias = np.array([0.5, -1, 0, 2, 1], np.float32)
    operand = rng("operand", tokens).uniform(0.1, 1, size=(tokens, E)).astype(DTYPES[element])
    arguments = [logits] + [bias] * has_bias + [operand] * has_source
    slots, weights = functions.call(f"gating_{name}_{element}", arguments, [("i32", 2), ("f32", 2)])

    exact = logits.astype(np.float64)
    scores = SCORES[score, "experts"](exact)
    np.testing.assert_array_equal(slots, select(scores + bias * has_bias, K))
    source = {"score": scores, "logit": exact, "operand": operand.astype(np.float64)}[source_of]
    check(weights, weigh(slots, source, **options))


# --- experts ----------------------------------------------------------------------


def dropped_slots(tokens):
    """A routing in which tokens have 0 to K experts."""
    slots = select(plain_keys(tokens), K)
    drop = rng("drop", tokens).uniform(size=slots.shape) < 0.3
    slots[drop] = -1
    return slots


def draw(name, shape, element):
    return (rng(name, shape).normal(size=shape) * (0.3 if len(shape) == 3 else 1)).astype(DTYPES[element])


def exact(array):
    return None if array is None else array.astype(np.float64)


ROUTING_TYPE = routing(K)
for _scaled in ("", "scale_input"):
    define(
        f"dispatch{_scaled}", [matrix(H, "bf16"), ROUTING_TYPE], [matrix(H, "bf16")],
        f"  %r = moe.dispatch %a0, %a1 {{{_scaled}}} : ({matrix(H, 'bf16')}, {ROUTING_TYPE}) -> {matrix(H, 'bf16')}\n"
        f"  return %r : {matrix(H, 'bf16')}",
    )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("scaled", ["", "scale_input"])
def test_dispatch(functions, scaled, tokens):
    x, slots, weights = draw("x", (tokens, H), "bf16"), dropped_slots(tokens), draw("w", (tokens, E), "f32")
    (rows,) = functions.call(f"dispatch{scaled}", [x, slots, weights], [("bf16", 2)])
    expected = np.zeros((tokens * K, H))
    for s, (t, e) in enumerate(pairs(slots)):
        expected[s] = exact(x[t]) * (weights[t, e] if scaled else 1)
    check(rows, expected, "bf16")


for _layout, _bias, _element in LOGITS:
    _w = f"tensor<{E}x{f'{I}x{H}' if _layout == 'out_in' else f'{H}x{I}'}x{_element}>"
    _types = [matrix(H, _element), ROUTING_TYPE, _w] + [f"tensor<{E}x{I}x{_element}>"] * _bias
    define(
        f"grouped_matmul_{_layout}_{_bias}_{_element}", _types, [matrix(I, _element)],
        f"  %r = moe.grouped_matmul %a0, %a1, %a2 {'bias(%a3) ' if _bias else ''}{{layout = #moe.layout<{_layout}>}}"
        f" : ({', '.join(_types)}) -> {matrix(I, _element)}\n  return %r : {matrix(I, _element)}",
    )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("layout,bias,element", LOGITS)
def test_grouped_matmul(functions, layout, bias, element, tokens):
    rows, w, b = draw("rows", (tokens * K, H), element), draw("W", (E, I, H), element), draw("b", (E, I), element)
    slots, weights = dropped_slots(tokens), draw("w", (tokens, E), "f32")
    given = w if layout == "out_in" else w.transpose(0, 2, 1)
    arguments = [rows, slots, weights, given] + [b] * bias
    (result,) = functions.call(f"grouped_matmul_{layout}_{bias}_{element}", arguments, [(element, 2)])
    expected = np.zeros((tokens * K, I))
    for s, (_, e) in enumerate(pairs(slots)):
        expected[s] = exact(w[e]) @ exact(rows[s]) + (exact(b[e]) if bias else 0)
    check(result, expected, element)


ACTIVATION_CASES = {}
for _kind in ACTIVATIONS:
    for _glu in ("none", "interleaved", "concat", "separate"):
        _options = {"kind": _kind, "glu": _glu}
        ACTIVATION_CASES[f"{_kind}_{_glu}"] = _options
        if _glu != "none":
            ACTIVATION_CASES[f"{_kind}_{_glu}_limit"] = {**_options, "limit": 0.75, "beta": 1.0}
ACTIVATION_CASES["silu_alpha"] = {"kind": "silu", "glu": "none", "alpha": 1.702}
ACTIVATION_CASES["gpt_oss"] = {"kind": "silu", "glu": "interleaved", "alpha": 1.702, "beta": 1.0, "limit": 7.0}


def activation_syntax(kind, glu="none", **numbers):
    parts = [kind] + ([f"glu = {glu}"] if glu != "none" else [])
    return "<" + ", ".join(parts + [f"{name} = {value} : f32" for name, value in numbers.items()]) + ">"


for _name, _options in ACTIVATION_CASES.items():
    _fused = _options["glu"] in ("interleaved", "concat")
    _types = [matrix(2 * I if _fused else I)] * (2 if _options["glu"] == "separate" else 1)
    define(
        f"activate_{_name}", _types, [matrix(I)],
        f"  %r = moe.activate {activation_syntax(**_options)} %a0 {'linear(%a1)' if len(_types) == 2 else ''}"
        f" : ({', '.join(_types)}) -> {matrix(I)}\n  return %r : {matrix(I)}",
    )  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATION_CASES)
def test_activate(functions, name):
    options = ACTIVATION_CASES[name]
    width = 2 * I if options["glu"] in ("interleaved", "concat") else I
    rows, linear = draw("rows", (7, width), "f32"), draw("linear", (7, width), "f32")
    rows[0, :4] = [0, 100, -100, 1e-6]
    arguments = [rows, linear] if options["glu"] == "separate" else [rows]
    (result,) = functions.call(f"activate_{name}", arguments, [("f32", 2)])
    check(result, activate(exact(rows), exact(linear), **options))


define(
    "combine", [matrix(H, "f16"), ROUTING_TYPE, matrix(1)], [matrix(H, "f16")],
    "  %c0 = arith.constant 0 : index\n"
    f"  %t = tensor.dim %a2, %c0 : {matrix(1)}\n"
    f"  %r = moe.combine %a0, %a1 tokens(%t) : ({matrix(H, 'f16')}, {ROUTING_TYPE}, index) -> {matrix(H, 'f16')}\n"
    f"  return %r : {matrix(H, 'f16')}",
)  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
def test_combine(functions, tokens):
    rows, slots, weights = draw("rows", (tokens * K, H), "f16"), dropped_slots(tokens), draw("w", (tokens, E), "f32")
    arguments = [rows, slots, weights, np.zeros((tokens, 1), np.float32)]
    (result,) = functions.call("combine", arguments, [("f16", 2)])
    expected = np.zeros((tokens, H))
    for s, (t, e) in enumerate(pairs(slots)):
        expected[t] += weights[t, e] * exact(rows[s])
    check(result, expected, "f16")


NETWORKS = {}
for _element in ("f32", "f16", "bf16", "f64"):
    for _glu in ("none", "interleaved", "concat", "separate"):
        NETWORKS[f"{_glu}_{_element}"] = ({"kind": "silu", "glu": _glu}, _element, _glu != "concat")
NETWORKS["gpt_oss_f32"] = (ACTIVATION_CASES["gpt_oss"], "f32", True)
NETWORKS["relu_f32"] = ({"kind": "relu"}, "f32", False)


def network_operands(name):
    """(operand name, shape) of a case's weights and biases, in the order of the op."""
    activation, _, biased = NETWORKS[name]
    glu = activation.get("glu", "none")
    width = 2 * I if glu in ("interleaved", "concat") else I
    operands = [("up", (E, width, H)), ("up_bias", (E, width))]
    if glu == "separate":
        operands += [("gate", (E, I, H)), ("gate_bias", (E, I))]
    operands += [("down", (E, H, I)), ("down_bias", (E, H))]
    return [operand for operand in operands if biased or not operand[0].endswith("bias")]


def network_syntax(op, name, x, r):
    activation, element, _ = NETWORKS[name]
    operands = network_operands(name)
    types = [f"tensor<{'x'.join(map(str, shape))}x{element}>" for _, shape in operands]
    given = " ".join(f"{operand}(%a{i + 2})" for i, (operand, _) in enumerate(operands))
    rows = matrix(H, element)
    return types, (
        f"moe.{op} {x}, {r} {given} {activation_syntax(**activation)} : ({', '.join([rows, ROUTING_TYPE] + types)}) -> {rows}"
    )


for _name, (_, _element, _) in NETWORKS.items():
    _rows = matrix(H, _element)
    _types, _op = network_syntax("experts", _name, "%a0", "%a1")
    define(f"experts_{_name}", [_rows, ROUTING_TYPE] + _types, [_rows], f"  %y = {_op}\n  return %y : {_rows}")
    _types, _op = network_syntax("expert_ffn", _name, "%rows", "%a1")
    define(
        f"expert_ffn_{_name}", [_rows, ROUTING_TYPE] + _types, [_rows],
        f"  %rows = moe.dispatch %a0, %a1 : ({_rows}, {ROUTING_TYPE}) -> {_rows}\n  %z = {_op}\n"
        f"  %c0 = arith.constant 0 : index\n  %t = tensor.dim %a0, %c0 : {_rows}\n"
        f"  %y = moe.combine %z, %a1 tokens(%t) : ({_rows}, {ROUTING_TYPE}, index) -> {_rows}\n  return %y : {_rows}",
    )  # fmt: skip


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("op", ["experts", "expert_ffn"])
def test_networks(functions, op, name, tokens):
    activation, element, _ = NETWORKS[name]
    x, slots, weights = draw("x", (tokens, H), element), dropped_slots(tokens), draw("w", (tokens, E), "f32")
    operands = {operand: draw(operand, shape, element) for operand, shape in network_operands(name)}
    arguments = [x, slots, weights, *operands.values()]
    (result,) = functions.call(f"{op}_{name}", arguments, [(element, 2)])
    names = ["up", "up_bias", "gate", "gate_bias", "down", "down_bias"]
    expected = experts(exact(x), slots, weights, *(exact(operands.get(n)) for n in names), **activation)
    check(result, expected, element)


# --- dequantize -------------------------------------------------------------------

N, DEPTH = 6, 96
DEQUANTIZE = [
    (bits, block, zero_points, element)
    for bits in (2, 4, 8)
    for block in (0, 32)
    for zero_points in (False, True)
    for element in ("f32", "f16", "bf16")
]


def packed(count, bits):
    return (count * bits + 7) // 8


def quantized_shapes(bits, block):
    blocks = DEPTH // block if block else 1
    codes = (E, N, packed(DEPTH, bits))
    scales = (E, N, blocks) if block else (E, N)
    zero_points = (E, N, packed(blocks, bits)) if block else (E, packed(N, bits))
    return codes, scales, zero_points


def unpack(codes, bits):
    shifts = np.arange(0, 8, bits)
    fields = (codes[..., None].astype(int) >> shifts) & ((1 << bits) - 1)
    return fields.reshape(*codes.shape[:-1], -1)


for _bits, _block, _zero, _element in DEQUANTIZE:
    _codes, _scales, _points = quantized_shapes(_bits, _block)
    _types = [
        f"tensor<{'x'.join(map(str, shape))}x{kind}>"
        for shape, kind in [(_codes, "ui8"), (_scales, _element), (_points, "ui8")][: 3 if _zero else 2]
    ]
    _bank = f"tensor<{E}x{N}x{DEPTH}x{_element}>"
    define(
        f"dequantize_{_bits}_{_block}_{_zero}_{_element}", _types, [_bank],
        f"  %w = moe.dequantize %a0 scales(%a1) {'zero_points(%a2) ' if _zero else ''}"
        f"{{bits = {_bits} : i64, block = {_block} : i64}} : ({', '.join(_types)}) -> {_bank}\n  return %w : {_bank}",
    )  # fmt: skip


@pytest.mark.parametrize("bits,block,zero_points,element", DEQUANTIZE)
def test_dequantize(functions, bits, block, zero_points, element):
    shapes = quantized_shapes(bits, block)
    random = rng("codes", bits, block)
    codes = random.integers(0, 256, shapes[0], np.uint8)
    scales = random.uniform(0.01, 0.1, shapes[1]).astype(DTYPES[element])
    points = random.integers(0, 256, shapes[2], np.uint8)
    arguments = [codes, scales] + [points] * zero_points
    name = f"dequantize_{bits}_{block}_{zero_points}_{element}"
    (result,) = functions.call(name, arguments, [(element, 3)])

    zero = np.full((E, N, DEPTH), float(1 << (bits - 1)))
    scale = exact(scales)[..., None].repeat(DEPTH, 2) if not block else exact(scales).repeat(block, 2)
    if zero_points and block:
        zero = unpack(points, bits)[..., : DEPTH // block].repeat(block, 2)
    elif zero_points:
        zero = unpack(points, bits)[:, :N, None].repeat(DEPTH, 2)
    check(result, (unpack(codes, bits)[..., :DEPTH] - zero) * scale, element)

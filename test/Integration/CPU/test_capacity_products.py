# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""GShard and DeepSpeed blocks, which move tokens by products with one-hot tensors [tokens,
experts, positions]: raised, and right against NumPy in float64 and ONNX Runtime. And graphs
that only look alike, which stay as they are."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from harness import TOLERANCES, run, tool
from moec.runtime import load
from onnx import numpy_helper
from references.evaluate import relative_error

H, I, E = 16, 24, 5
EPS = 1.1920929e-07

CONSTANTS = f"""
    one = Constant <value_float = 1.0> ()
    lowest = Constant <value = float {{-inf}}> ()
    eps = Constant <value_float = {EPS}> ()
    a0 = Constant <value_int = 0> ()
    a1 = Constant <value_int = 1> ()
    v0 = Constant <value_ints = [0]> ()
    v1 = Constant <value_ints = [1]> ()
    v2 = Constant <value_ints = [2]> ()
    experts = Constant <value_ints = [{E}]> ()
    off_on = Constant <value_ints = [0, 1]> ()
    by_token = Constant <value_ints = [0, -1]> ()
    rows = Constant <value_ints = [-1, {H}]> ()
"""
FIRST = """
    logits = MatMul (x, router)
    gates = Softmax <axis = 1> (logits)
    id1 = ArgMax <axis = 1, keepdims = 0> (gates)
    hot1 = OneHot <axis = -1> (id1, experts, off_on)
    count1 = CumSum (hot1, a0)
    loc1 = Sub (count1, a1)
    fits1 = Less (loc1, capacity)
    few1 = Cast <to = 7> (fits1)
    mask1 = Mul (hot1, few1)
    masked1 = Mul (loc1, mask1)
    at1 = ReduceSum <keepdims = 0> (masked1, v1)
    mask1f = Cast <to = 1> (mask1)
    place1 = OneHot <axis = -1> (at1, positions, off_on)
    place1f = Cast <to = 1> (place1)
"""
TOP1 = (
    FIRST
    + """
    g1 = Mul (gates, mask1f)
    combine = Einsum <equation = "se,sc->sec"> (g1, place1f)
"""
)
# DeepSpeed: the gates are normalised after some were dropped.
SECOND = (
    FIRST
    + """
    taken = Cast <to = 9> (hot1)
    others = Where (taken, lowest, logits)
    id2 = ArgMax <axis = 1, keepdims = 0> (others)
    hot2 = OneHot <axis = -1> (id2, experts, off_on)
    count2 = CumSum (hot2, a0)
    from0 = Sub (count2, a1)
    before = ReduceSum <keepdims = 1> (hot1, v0)
    loc2 = Add (from0, before)
    fits2 = Less (loc2, capacity)
    few2 = Cast <to = 7> (fits2)
    mask2 = Mul (hot2, few2)
    masked2 = Mul (loc2, mask2)
    at2 = ReduceSum <keepdims = 0> (masked2, v1)
    mask2f = Cast <to = 1> (mask2)
    place2 = OneHot <axis = -1> (at2, positions, off_on)
    place2f = Cast <to = 1> (place2)
"""
)
TOP2 = (
    SECOND
    + """
    s1 = Einsum <equation = "se,se->s"> (gates, mask1f)
    s2 = Einsum <equation = "se,se->s"> (gates, mask2f)
    both = Add (s1, s2)
    bounded = Clip (both, eps)
    w1 = Div (s1, bounded)
    w2 = Div (s2, bounded)
    g1 = Einsum <equation = "s,se->se"> (w1, mask1f)
    g2 = Einsum <equation = "s,se->se"> (w2, mask2f)
    combine1 = Einsum <equation = "se,sc->sec"> (g1, place1f)
    combine2 = Einsum <equation = "se,sc->sec"> (g2, place2f)
    combine = Add (combine1, combine2)
"""
)
# GShard: normalised before, and by products of broadcast tensors; counts that start at 0,
# the first expert taken out by a factor 0, positions after the first choices that are kept.
TOP2_BEFORE = (
    SECOND.replace("count2 = CumSum (hot2, a0)", "from0 = CumSum <exclusive = 1> (hot2, a0)")
    .replace("from0 = Sub (count2, a1)", "")
    .replace("ReduceSum <keepdims = 1> (hot1, v0)", "ReduceSum <keepdims = 1> (mask1, v0)")
    .replace("taken = Cast <to = 9> (hot1)", "taken = Cast <to = 1> (hot1)\n left = Sub (one, taken)")
    .replace("Where (taken, lowest, logits)", "Mul (left, gates)")
    + """
    hot1f = Cast <to = 1> (hot1)
    hot2f = Cast <to = 1> (hot2)
    only1 = Mul (gates, hot1f)
    only2 = Mul (gates, hot2f)
    s1 = ReduceSum <keepdims = 1> (only1, v1)
    s2 = ReduceSum <keepdims = 1> (only2, v1)
    both = Add (s1, s2)
    bounded = Add (both, eps)
    w1 = Div (s1, bounded)
    w2 = Div (s2, bounded)
    g1 = Mul (w1, mask1f)
    g2 = Mul (w2, mask2f)
    g1c = Unsqueeze (g1, v2)
    g2c = Unsqueeze (g2, v2)
    p1e = Unsqueeze (place1f, v1)
    p2e = Unsqueeze (place2f, v1)
    combine1 = Mul (g1c, p1e)
    combine2 = Mul (g2c, p2e)
    combine = Add (combine1, combine2)
"""
)
NONZERO = """
    is = Cast <to = 9> (combine)
    dispatch = Cast <to = 1> (is)
"""
SUM_OF_MASKS = """
    d1 = Einsum <equation = "se,sc->sec"> (mask1f, place1f)
    d2 = Einsum <equation = "se,sc->sec"> (mask2f, place2f)
    dispatch = Add (d1, d2)
"""
BANKS = """
    h = MatMul (xe, up)
    r = Relu (h)
    ye = MatMul (r, down)
"""
EINSUM = (
    """xe = Einsum <equation = "sec,sm->ecm"> (dispatch, x)"""
    + BANKS
    + """y = Einsum <equation = "sec,ecm->sm"> (combine, ye)"""
)
# DeepSpeed with USE_EINSUM = False.
PRODUCTS = (
    """
    dm = Reshape (dispatch, by_token)
    dt = Transpose <perm = [1, 0]> (dm)
    xr = MatMul (dt, x)
    xe = Reshape (xr, expert_rows)
"""
    + BANKS
    + """
    cm = Reshape (combine, by_token)
    yr = Reshape (ye, rows)
    y = MatMul (cm, yr)
"""
)


# The capacity of DeepSpeed as a function of the number of tokens.
COMPUTED = """
    sizes = Shape (x)
    whole = Gather (sizes, a0)
    number = Cast <to = 1> (whole)
    factor = Constant <value_float = 1.25> ()
    share = Constant <value_float = 5.0> ()
    more = Mul (number, factor)
    each = Div (more, share)
    up_to = Ceil (each)
    room = Cast <to = 7> (up_to)
    least = Constant <value_int = 2> ()
    capacity = Max (room, least)
    positions = Identity (capacity)
"""


def capacity_of(tokens):
    """Of `COMPUTED`, in whole numbers."""
    return max(-(-5 * tokens // (4 * E)), 2)


def one_by_one():
    """A network for each expert, as DeepSpeed's Experts."""
    text = 'xe = Einsum <equation = "sec,sm->ecm"> (dispatch, x)\n'
    text += f"ones = Constant <value_ints = {[1] * E}> ()\n"
    text += ", ".join(f"x{e}" for e in range(E)) + " = Split <axis = 0> (xe, ones)\n"
    for e in range(E):
        text += f"h{e} = MatMul (x{e}, up{e})\n b{e} = Add (h{e}, bias{e})\n r{e} = Relu (b{e})\n"
        text += f"f{e} = MatMul (r{e}, down{e})\n y{e} = Add (f{e}, last{e})\n"
    text += "ye = Concat <axis = 0> (" + ", ".join(f"y{e}" for e in range(E)) + ")\n"
    return text + 'y = Einsum <equation = "sec,ecm->sm"> (combine, ye)'


def make_weights():
    rng = np.random.default_rng(29)
    weights = {
        "router": rng.standard_normal((H, E)),
        "up": rng.standard_normal((E, H, I)) / 4,
        "down": rng.standard_normal((E, I, H)) / 4,
        "bias": rng.standard_normal((E, I)),
        "last": rng.standard_normal((E, H)),
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    weights["router"][:, 0] *= 2  # Many choose the first expert.
    for e in range(E):
        weights |= {f"{name}{e}": weights[name][e] for name in ("up", "down", "bias", "last")}
    return weights


def make_model(path, nodes, weights, capacity):
    constants = f"{CONSTANTS} expert_rows = Constant <value_ints = [{E}, {capacity or -1}, {H}]> ()\n"
    if capacity:
        constants += f"""
            capacity = Constant <value_int = {capacity}> ()
            positions = Constant <value_ints = [{capacity}]> ()
        """
    else:
        constants += COMPUTED
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    block (float[tokens, {H}] x) => (float[tokens, {H}] y) {{ {constants} {nodes} }}"""
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    ordered = sorted(model.graph.node, key=lambda node: node.op_type != "Constant")
    ordered = [node for node in ordered if node.op_type != "Constant" or node.output[0] in used]
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in weights.items() if name in used
    )
    onnx.save(model, path)


def reference(x, weights, capacity, k, norm, biased):
    """float64: first choices in the order of the tokens, then second ones."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = x.astype(np.float64)
    logits = x @ w["router"]
    gates = np.exp(logits - logits.max(1, keepdims=True))
    gates /= gates.sum(1, keepdims=True)
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    room, kept = np.full(E, capacity), np.zeros((len(x), k))
    for slot in range(k):
        for t, e in enumerate(ids[:, slot]):
            kept[t, slot] = room[e] > 0
            room[e] -= 1
    y = np.zeros_like(x)
    for t, row in enumerate(x):
        chosen = gates[t, ids[t]]
        if norm == "after":
            chosen = chosen * kept[t]
            chosen = chosen / max(chosen.sum(), EPS)
        if norm == "before":
            chosen = chosen / (chosen.sum() + EPS)
        for slot, e in enumerate(ids[t]):
            hidden = np.maximum(row @ w["up"][e] + biased * w["bias"][e], 0)
            y[t] += kept[t, slot] * chosen[slot] * (hidden @ w["down"][e] + biased * w["last"][e])
    return y


# Name: the nodes, choices, normalisation, whether experts have biases.
BLOCKS = {
    "top1_einsum": (TOP1 + NONZERO + EINSUM, 1, None, False),
    "top1_products": (TOP1 + NONZERO + PRODUCTS, 1, None, False),
    "top1_one_by_one": (TOP1 + NONZERO + one_by_one(), 1, None, True),
    "top2_einsum": (TOP2 + NONZERO + EINSUM, 2, "after", False),
    "top2_products": (TOP2 + NONZERO + PRODUCTS, 2, "after", False),
    "top2_one_by_one": (TOP2 + SUM_OF_MASKS + one_by_one(), 2, "after", True),
    "top2_before_einsum": (TOP2_BEFORE + NONZERO + EINSUM, 2, "before", False),
    "top2_before_products": (TOP2_BEFORE + SUM_OF_MASKS + PRODUCTS, 2, "before", False),
}


def check_block(compiler, path, name, capacity, expected_capacity):
    nodes, k, norm, biased = BLOCKS[name]
    weights = make_weights()
    make_model(path, nodes, weights, capacity)
    raised = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe")
    for text in ("= moe.combine ", f"{{k = {k} : i64}}", "moe.score <softmax>", expected_capacity):
        assert raised.stdout.count(text) == 1, raised.stderr
    assert "moe.given" not in raised.stdout
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with load(compiler.package(path, "-O0").path) as opened:
        for tokens in (1, 7, 31):
            x = np.random.default_rng(tokens).standard_normal((tokens, H)).astype(np.float32)
            expected = reference(x, weights, capacity or capacity_of(tokens), k, norm, biased)
            assert relative_error(session.run(None, {"x": x})[0], expected) < TOLERANCES["float32"]
            assert relative_error(opened.run({"x": x})["y"], expected) < TOLERANCES["float32"]


@pytest.mark.parametrize("name", BLOCKS)
def test_capacity_products(compiler, tmp_path, name):
    """With experts that nobody chooses (one token), and ones that are full (31 tokens for 15
    places)."""
    check_block(compiler, tmp_path / f"{name}.onnx", name, 3, "#moe.capacity<3>")


@pytest.mark.parametrize("name", ["top1_einsum", "top2_products"])
def test_computed_capacity(compiler, tmp_path, name):
    expected = "#moe.capacity<tokens * 1.25 / 5, round = ceil, min = 2>"
    check_block(compiler, tmp_path / f"{name}.onnx", name, None, expected)


def changed(nodes, old, new):
    assert old in nodes
    return nodes.replace(old, new)


TOP2_BLOCK = TOP2 + NONZERO + EINSUM
# Name: the nodes, and what the remark says. The capacity is constant.
LEFT = {
    "positions_from_1": (
        changed(TOP1, "loc1 = Sub (count1, a1)", "loc1 = Identity (count1)") + NONZERO + EINSUM,
        "counts positions from 1, expected 0",
    ),
    "counted_over_experts": (
        changed(TOP1, "CumSum (hot1, a0)", "CumSum (hot1, a1)") + NONZERO + EINSUM,
        "counts along another dimension than that of the tokens",
    ),
    "second_not_after_first": (
        changed(TOP2_BLOCK, "loc2 = Add (from0, before)", "loc2 = Identity (from0)"),
        "is a choice whose positions are not counted after those of all earlier choices",
    ),
    "another_mask": (
        TOP2 + SUM_OF_MASKS.replace("(mask2f, place2f)", "(mask1f, place2f)") + EINSUM,
        "is a position at other experts than those that the tokens are put to",
    ),
    "mask_of_first_choice": (
        TOP2 + "dispatch = Einsum <equation = \"se,sc->sec\"> (mask1f, place1f)" + EINSUM,
        "weights other tokens or positions than those that were put to the experts",
    ),
    "mask_of_other_weights": (
        TOP2
        + """
        is = Cast <to = 9> (combine1)
        dispatch = Cast <to = 1> (is)
        """
        + EINSUM,
        "weights other tokens or positions than those that were put to the experts",
    ),
    "dropped_tokens_at_0": (
        changed(TOP1, "mask1f = Cast <to = 1> (mask1)", "mask1f = Cast <to = 1> (hot1)") + NONZERO + EINSUM,
        "expected that the mask beside it leaves the others out",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(compiler, tmp_path, name):
    nodes, reason = LEFT[name]
    path = tmp_path / f"{name}.onnx"
    make_model(path, nodes, make_weights(), 3)
    left = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe")
    assert "moe.combine" not in left.stdout
    assert reason in left.stderr
    x = np.random.default_rng(5).standard_normal((13, H)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with load(compiler.package(path, "-O0").path) as opened:
        assert relative_error(opened.run({"x": x})["y"], session.run(None, {"x": x})[0]) < TOLERANCES["float32"]


def test_inexact_capacity(tmp_path):
    """What the graph rounds in float32 before it rounds up may be another number than ours."""
    path = tmp_path / "inexact.onnx"
    make_model(path, TOP1 + NONZERO + EINSUM, make_weights(), None)
    model = onnx.load(path)
    (factor,) = [node for node in model.graph.node if node.output[0] == "factor"]
    factor.attribute[0].f = 1.1
    onnx.save(model, path)
    left = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe")
    assert "moe.combine" not in left.stdout
    assert "neither constant nor a function of the number of tokens" in left.stderr

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Routers of exported models in standard operators. Each graph yields the experts' ids
and weights of each token; a routing of these must become the dialect's operations, and
mean the same numbers."""

import re

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from harness import run, tool
from moec.runtime import load

E = 12

# The nodes between the logits l and ids [T, k], w [T, k]; E is 12.
PREFIX = """
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    three = Constant <value_ints = [3]> ()
    last = Constant <value_ints = [-1]> ()
    zero = Constant <value_float = 0.0> ()
    ninf = Constant <value = float {-inf}> ()
"""

TOP_OF_GROUPS = """
    by_group = Constant <value_ints = [-1, 4, 3]> ()
    flat = Constant <value_ints = [-1, 12]> ()
    grouped = Reshape (keys, by_group)
    {score}
    unused, chosen = TopK <sorted = 0> (score, two)
    score_shape = Shape (score)
    chosen_shape = Shape (chosen)
    {mask}
    wide = Unsqueeze (mask, last)
    repeats = Constant <value_ints = [1, 4, 3]> ()
    repeated = Expand (wide, repeats)
    flat_mask = Reshape (repeated, flat)
    {apply}
"""
TOP2_SUM = "best, unused2 = TopK (grouped, two)\n score = ReduceSum <keepdims = 0> (best, last)"
SCATTERED = """
    off = ConstantOfShape <value = float[1] {0}> (score_shape)
    on = ConstantOfShape <value = float[1] {1}> (chosen_shape)
    mask = ScatterElements <axis = 1> (off, chosen, on)
"""
MASKED_BY = """
    allowed = Cast <to = 9> (flat_mask)
    refused = Not (allowed)
    masked = Where (refused, FILL, keys)
"""


def groups(score=TOP2_SUM, mask=SCATTERED, apply=MASKED_BY.replace("FILL", "ninf")):
    return TOP_OF_GROUPS.format(score=score, mask=mask, apply=apply)


DEEPSEEK_V3 = """
    s = Sigmoid (l)
    keys = Add (s, b)
    {groups}
    unused3, ids = TopK <sorted = 0> (masked, three)
    g = GatherElements <axis = 1> (s, ids)
    sum = ReduceSum <keepdims = 1> (g, last)
    {norm}
    scale = Constant <value_float = 2.5> ()
    w = Mul (n, scale)
"""
WITH_EPS = "eps = Constant <value_float = 1e-20> ()\n d = Add (sum, eps)\n n = Div (g, d)"

# Name: the nodes, and what the raised router must contain.
ROUTERS = {
    # R1. Mixtral, Qwen3-MoE.
    "softmax_normalised": (
        """p = Softmax <axis = -1> (l)
           v, ids = TopK (p, two)
           sum = ReduceSum <keepdims = 1> (v, last)
           w = Div (v, sum)""",
        ["moe.score <softmax>", "moe.select", "k = 2", "moe.weigh", "norm = #moe.weigh_norm<sum>"],
    ),
    "softmax_normalised_by_reciprocal": (
        """p0 = Softmax <axis = 1> (l)
           p = Identity (p0)
           v, ids = TopK (p, two)
           sum = ReduceSum <keepdims = 0> (v, last)
           wide = Unsqueeze (sum, last)
           r = Reciprocal (wide)
           w = Mul (r, v)""",
        ["moe.score <softmax>", "norm = #moe.weigh_norm<sum>"],
    ),
    "softmax_in_three_dimensions": (
        """shape3 = Constant <value_ints = [1, -1, 12]> ()
           shape2 = Constant <value_ints = [-1, 3]> ()
           l3 = Reshape (l, shape3)
           p = Softmax <axis = -1> (l3)
           v, ids3 = TopK <axis = 2> (p, three)
           sum = ReduceSum <keepdims = 1> (v, last)
           w3 = Div (v, sum)
           ids = Reshape (ids3, shape2)
           w = Squeeze (w3, zeros)
           zeros = Constant <value_ints = [0]> ()""",
        ["moe.score <softmax>", "k = 3", "norm = #moe.weigh_norm<sum>"],
    ),
    "softmax_in_double": (
        """ld = Cast <to = 11> (l)
           p = Softmax <axis = -1> (ld)
           v, ids = TopK (p, two)
           sum = ReduceSum <keepdims = 1> (v, last)
           wd = Div (v, sum)
           w = Cast <to = 1> (wd)""",
        ["moe.score <softmax>", "norm = #moe.weigh_norm<sum>"],
    ),
    "bounded_sum": (
        """p = Softmax <axis = -1> (l)
           v, ids = TopK (p, two)
           sum = ReduceSum <keepdims = 1> (v, last)
           least = Constant <value_float = 0.5> ()
           bounded = Clip (sum, least)
           w = Div (v, bounded)""",
        ["norm = #moe.weigh_norm<clamp>", "norm_eps = 5.000000e-01"],
    ),
    "selection_bias_on_softmax": (
        """p = Softmax <axis = -1> (l)
           keys = Add (b, p)
           v, ids = TopK (keys, two)
           g = GatherElements <axis = -1> (p, ids)
           sum = ReduceSum <keepdims = 1> (g, last)
           least = Constant <value_float = 1e-12> ()
           bounded = Max (least, sum)
           w = Div (g, bounded)""",
        ["moe.select", "bias", "norm = #moe.weigh_norm<clamp>"],
    ),
    "one_norm": (
        """p = Softmax <axis = -1> (l)
           v, ids = TopK (p, two)
           norm = ReduceL1 <keepdims = 1> (v, last)
           w = Div (v, norm)""",
        ["norm = #moe.weigh_norm<pnorm>", "norm_p = 1.0"],
    ),
    # R2. Qwen2-MoE, OLMoE.
    "softmax": (
        """p = Softmax <axis = -1> (l)
           w, ids = TopK (p, two)""",
        ["moe.score <softmax>", "moe.weigh"],
    ),
    "softmax_scaled_per_expert": (
        """p = Softmax <axis = -1> (l)
           v, ids = TopK (p, two)
           factors = Gather (b, ids)
           w = Mul (v, factors)""",
        ["moe.score <softmax>", "expert_scale"],
    ),
    # R3. gpt-oss, Granite.
    "softmax_of_selected": (
        """v, ids = TopK (l, two)
           w = Softmax <axis = 1> (v)""",
        ["moe.select", "moe.weigh", "fn = #moe.weigh_fn<softmax>"],
    ),
    "sigmoid_of_selected": (
        """v, ids = TopK (l, one)
           w = Sigmoid (v)""",
        ["moe.select", "fn = #moe.weigh_fn<sigmoid>"],
    ),
    # R4. DeepSeek-V3, with the variants of exporters and library versions.
    "deepseek_v3": (
        DEEPSEEK_V3.format(groups=groups(), norm=WITH_EPS),
        [
            "moe.score <sigmoid>",
            "bias",
            "n_group = 4",
            "topk_group = 2",
            "group_score = #moe.group_score<top2sum>",
            "norm = #moe.weigh_norm<sum>",
            "scale = 2.5",
        ],
    ),
    "deepseek_v3_fill_zero": (
        DEEPSEEK_V3.format(
            groups=groups(apply=MASKED_BY.replace("FILL", "zero")), norm="n = Div (g, sum)"
        ),
        ["n_group = 4", "group_fill = #moe.group_fill<zero>", "norm = #moe.weigh_norm<sum>"],
    ),
    "deepseek_v3_inverted_mask": (
        DEEPSEEK_V3.format(
            groups=groups(
                mask="""off = ConstantOfShape <value = float[1] {1}> (score_shape)
                        on = ConstantOfShape <value = float[1] {0}> (chosen_shape)
                        mask = ScatterElements <axis = 1> (off, chosen, on)""",
                apply="""refused = Cast <to = 9> (flat_mask)
                         masked = Where (refused, ninf, keys)""",
            ),
            norm=WITH_EPS,
        ),
        ["n_group = 4", "topk_group = 2"],
    ),
    "deepseek_v3_one_hot_mask": (
        DEEPSEEK_V3.format(
            groups=groups(
                mask="""depth = Constant <value_int = 4> ()
                        off_on = Constant <value_floats = [0.0, 1.0]> ()
                        hot = OneHot (chosen, depth, off_on)
                        mask = ReduceSum <keepdims = 0> (hot, one)""",
                apply="masked = Mul (flat_mask, keys)",
            ),
            norm=WITH_EPS,
        ),
        ["n_group = 4", "group_fill = #moe.group_fill<zero>"],
    ),
    "deepseek_v2": (
        """p = Softmax <axis = -1> (l)
           keys = Identity (p)"""
        + groups(
            score="score = ReduceMax <keepdims = 0> (grouped, last)",
            apply=MASKED_BY.replace("FILL", "zero"),
        )
        + """v, ids = TopK <sorted = 0> (masked, three)
             scale = Constant <value_float = 16.0> ()
             w = Mul (scale, v)""",
        ["moe.score <softmax>", "n_group = 4", "topk_group = 2", "scale = 1.6"],
    ),
    # R5. GLM-4, LFM2-MoE.
    "sigmoid_normalised": (
        """s = Sigmoid (l)
           v, ids = TopK (s, two)
           sum = ReduceSum <keepdims = 1> (v, last)
           eps = Constant <value_float = 1e-6> ()
           d = Add (eps, sum)
           n = Div (v, d)
           scale = Constant <value_float = 1.5> ()
           w = Mul (n, scale)""",
        ["moe.score <sigmoid>", "norm = #moe.weigh_norm<sum>", "norm_eps", "scale = 1.5"],
    ),
    "square_root_of_softplus": (
        """sp = Softplus (l)
           s = Sqrt (sp)
           keys = Add (s, b)
           unused, ids = TopK (keys, three)
           g = GatherElements <axis = 1> (s, ids)
           sum = ReduceSum <keepdims = 1> (g, last)
           w = Div (g, sum)""",
        ["moe.score <sqrtsoftplus>", "bias", "norm = #moe.weigh_norm<sum>"],
    ),
    "biased_keys_as_weights": (
        """s = Sigmoid (l)
           keys = Add (s, b)
           w, ids = TopK (keys, two)""",
        ["moe.score <sigmoid>", "moe.weigh", "bias"],
    ),
    "largest_alone": (
        """p = Softmax <axis = -1> (l)
           ids = ArgMax <axis = 1, keepdims = 1> (p)
           w = ReduceMax <keepdims = 1> (p, last)""",
        ["moe.score <softmax>", "k = 1"],
    ),
    # R6. PhiMoE, as torch exports its `sparsemixer`: two rounds.
    "sparse_mixer": (
        """m1 = ReduceMax <keepdims = 1> (l, last)
           id1 = ArgMax <axis = -1, keepdims = 1> (l)
           abs1 = Abs (l)
           factor1 = Max (abs1, m1)
           distance1 = Sub (m1, l)
           relative1 = Div (distance1, factor1)
           bound = Constant <value_float = 0.3> ()
           far1 = Greater (relative1, bound)
           near1 = Where (far1, ninf, l)
           p1 = Softmax <axis = -1> (near1)
           w1 = GatherElements <axis = -1> (p1, id1)
           taken_shape = Shape (id1)
           taken = Expand (ninf, taken_shape)
           l2 = ScatterElements <axis = 1> (l, id1, taken)
           m2 = ReduceMax <keepdims = 1> (l2, last)
           id2 = ArgMax <axis = -1, keepdims = 1> (l2)
           abs2 = Abs (l)
           factor2 = Max (abs2, m2)
           distance2 = Sub (m2, l)
           relative2 = Div (distance2, factor2)
           far2 = Greater (relative2, bound)
           near2 = Where (far2, ninf, l2)
           p2 = Softmax <axis = -1> (near2)
           w2 = GatherElements <axis = -1> (p2, id2)
           ids = Concat <axis = -1> (id1, id2)
           w = Concat <axis = -1> (w1, w2)""",
        ["k = 2", "fn = #moe.weigh_fn<masked_softmax>", "eps = 0.15"],
    ),
    # The largest, then the largest of the others: what top-k is, too.
    "two_rounds": (
        """p = Softmax <axis = -1> (l)
           v1, id1 = TopK (p, one)
           depth = Constant <value_int = 12> ()
           off_on = Constant <value_floats = [0.0, 1.0]> ()
           flat1 = Squeeze (id1, last)
           hot = OneHot (flat1, depth, off_on)
           taken = Cast <to = 9> (hot)
           l2 = Where (taken, ninf, l)
           id2 = ArgMax <axis = -1, keepdims = 1> (l2)
           v2 = GatherElements <axis = 1> (p, id2)
           ids = Concat <axis = 1> (id1, id2)
           v = Concat <axis = 1> (v1, v2)
           sum = ReduceSum <keepdims = 1> (v, last)
           w = Div (v, sum)""",
        ["moe.score <softmax>", "k = 2", "norm = #moe.weigh_norm<sum>"],
    ),
}

# Graphs that compute something else: the routing stays as given, and a remark says why.
OTHERS = {
    "smallest": (
        """p = Softmax <axis = -1> (l)
           w, ids = TopK <largest = 0> (p, two)""",
        "chooses the smallest, expected the largest",
    ),
    "sum_of_others": (
        """p = Softmax <axis = -1> (l)
           v, ids = TopK (p, two)
           sum = ReduceSum <keepdims = 1> (p, last)
           w = Div (v, sum)""",
        "is the divisor of the weights, expected the sum of a token's",
    ),
    "gathered_by_other_ids": (
        """p = Softmax <axis = -1> (l)
           v, ids = TopK (p, two)
           v2, ids2 = TopK (l, two)
           w = GatherElements <axis = 1> (p, ids2)""",
        "gathers the weights, expected the ids of the experts",
    ),
    "squared": (
        """p = Softmax <axis = -1> (l)
           v, ids = TopK (p, two)
           w = Mul (v, v)""",
        "multiplies the weights, expected",
    ),
    "softmax_over_tokens": (
        """v, ids = TopK (l, two)
           w = Softmax <axis = 0> (v)""",
        "expected a softmax over the 2 selected",
    ),
    "second_round_of_other_keys": (
        """id1 = ArgMax <axis = -1, keepdims = 1> (l)
           taken_shape = Shape (id1)
           taken = Expand (ninf, taken_shape)
           keys = Add (l, b)
           l2 = ScatterElements <axis = 1> (keys, id1, taken)
           id2 = ArgMax <axis = -1, keepdims = 1> (l2)
           ids = Concat <axis = -1> (id1, id2)
           w = GatherElements <axis = 1> (l, ids)""",
        "in a later round, expected the keys of the first",
    ),
}

# Routers that yield a mask [T, E] of one expert per token instead of ids, and w [T, 1].
SWITCH = """
    by_sequence = Constant <value_ints = [-1, 5, 12]> ()
    l3 = Reshape (l, by_sequence)
    p = Softmax <axis = -1> (l3)
    top = ArgMax <axis = -1, keepdims = 0> (p)
    v = ReduceMax <keepdims = 1> (p, last)
    column = Constant <value_ints = [-1, 1]> ()
    w = Reshape (v, column)
    rows = Constant <value_ints = [-1, 12]> ()
    {mask}
"""
ONE_HOT = """
    depth = Constant <value_int = 12> ()
    off_on = Constant <value_ints = [0, 1]> ()
    hot = OneHot (top, depth, off_on)
"""
MASKED = {
    # R7. Switch Transformers of transformers 4.52 to 4.56: TorchScript, and torch.export.
    "switch": (
        SWITCH.format(
            mask=ONE_HOT
            + """axis = Constant <value_int = -2> ()
                 c = Constant <value_int = 2> ()
                 position = CumSum (hot, axis)
                 within = LessOrEqual (position, c)
                 kept = Cast <to = 7> (within)
                 mask3 = Mul (hot, kept)
                 mask = Reshape (mask3, rows)"""
        ),
        ["moe.select", "k = 1", "moe.capacity", "group_size", "#moe.capacity<2>"],
    ),
    "switch_by_equal": (
        SWITCH.format(
            mask="""range = Constant <value_ints = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]> ()
                    wide = Unsqueeze (top, last)
                    equal = Equal (range, wide)
                    hot = Cast <to = 7> (equal)
                    axis = Constant <value_int = 1> ()
                    c = Constant <value_int = 2> ()
                    position = CumSum <exclusive = 1> (hot, axis)
                    beyond = GreaterOrEqual (position, c)
                    within = Not (beyond)
                    mask3 = And (equal, within)
                    mask2 = Reshape (mask3, rows)
                    mask = Cast <to = 7> (mask2)"""
        ),
        ["group_size", "#moe.capacity<2>"],
    ),
    "switch_over_the_batch": (
        SWITCH.format(
            mask=ONE_HOT
            + """axis = Constant <value_int = 0> ()
                 c = Constant <value_int = 3> ()
                 flat = Reshape (hot, rows)
                 count = CumSum (flat, axis)
                 unit = Constant <value_int = 1> ()
                 before = Sub (count, unit)
                 position = Mul (before, flat)
                 within = Greater (c, position)
                 none = Constant <value_int = 0> ()
                 mask = Where (within, flat, none)"""
        ),
        ["moe.capacity", "#moe.capacity<3>"],
    ),
    # From 4.57 on the count runs over a dimension of size 1, and never binds.
    "switch_without_limit": (
        SWITCH.format(
            mask=ONE_HOT
            + """axis = Constant <value_int = -2> ()
                 c = Constant <value_int = 2> ()
                 single = Constant <value_ints = [-1, 1, 12]> ()
                 hot3 = Reshape (hot, single)
                 position = CumSum (hot3, axis)
                 within = LessOrEqual (position, c)
                 kept = Cast <to = 7> (within)
                 mask3 = Mul (hot3, kept)
                 mask = Reshape (mask3, rows)"""
        ),
        ["moe.select", "moe.weigh"],
    ),
}


def make_graph(nodes):
    first = "int64[T, 12] mask" if nodes in [case[0] for case in MASKED.values()] else "int64[T, K] ids"
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    router (float[T, {E}] l, float[{E}] b) => ({first}, float[T, K] w) {{ {PREFIX} {nodes} }}"""
    model = onnx.parser.parse_model(text)
    sort_nodes(model.graph)
    return model


def sort_nodes(graph):
    """Constants may stand after their use in the texts above."""
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(sorted(nodes, key=lambda node: node.op_type != "Constant"))


# The end of the function: a routing as expert forms make it, of ids or a mask and of weights,
# then its weights by token and expert.
ROUTING = """
    %r_sizes = onnx.node "Shape"(%arg0) {{version = 15 : i64}} : ({l}) -> tensor<2xi64>
    %r_zeros = onnx.node "ConstantOfShape"(%r_sizes) {{version = 9 : i64}} : (tensor<2xi64>) -> {l}
    %r_dense = onnx.node "ScatterElements"(%r_zeros, {ids}, {weights})
        {{attributes = {{axis = 1 : i64, reduction = "none"}}, version = 18 : i64}}
        : ({l}, tensor<?x{k}xi64>, tensor<?x{k}xf32>) -> {l}
    %r_given = moe.given {ids} : (tensor<?x{k}xi64>) -> !moe.routing<experts = {e}, k = {k}>
    %r_weighted = moe.weigh %r_given, %r_dense : (!moe.routing<experts = {e}, k = {k}>, {l}) -> {routing}
"""
ROUTING_OF_MASK = """
    %r_row = onnx.node "Constant"() {{attributes = {{value = dense<[1, {e}]> : tensor<2xi64>}}, version = 13 : i64}}
        : () -> tensor<2xi64>
    %r_dense = onnx.node "Expand"({weights}, %r_row) {{version = 13 : i64}} : (tensor<?x1xf32>, tensor<2xi64>) -> {l}
    %r_mask = onnx.node "Cast"({ids}) {{attributes = {{to = 9 : i64}}, version = 13 : i64}}
        : (tensor<?x{e}xi64>) -> tensor<?x{e}xi1>
    %r_all = moe.select %r_dense expert_mask(%r_mask) {{k = {e}, mode = #moe.select_mode<all>}}
        : ({l}, tensor<?x{e}xi1>) -> !moe.routing<experts = {e}, k = {e}>
    %r_weighted = moe.weigh %r_all, %r_dense : (!moe.routing<experts = {e}, k = {e}>, {l}) -> {routing}
"""
WEIGHTS_BY_EXPERT = """
    %r_c0 = arith.constant 0 : index
    %r_t = tensor.dim %arg0, %r_c0 : {l}
    %r_one = arith.constant 1.0 : f32
    %r_ones = tensor.splat %r_one[%r_t] : tensor<?x1xf32>
    %r_eye = arith.constant dense<{eye}> : tensor<{e}x{e}x1xf32>
    %r_rows = moe.dispatch %r_ones, %r_weighted : (tensor<?x1xf32>, {routing}) -> tensor<?x1xf32>
    %r_results = moe.grouped_matmul %r_rows, %r_weighted, %r_eye
        : (tensor<?x1xf32>, {routing}, tensor<{e}x{e}x1xf32>) -> {l}
    %r_y = moe.combine %r_results, %r_weighted tokens(%r_t) : ({l}, {routing}, index) -> {l}
    return %r_y : {l}
"""


def make_layer(folder, nodes):
    """A function of the logits and a bias: which weight has which expert, [T, E]."""
    onnx.save(make_graph(nodes), folder / "router.onnx")
    lines = run(tool("moe-opt"), folder / "router.onnx", "--normalize-onnx").stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "func.func" in line)
    end = next(i for i, line in enumerate(lines) if line.strip().startswith("return "))
    ids, weights, k = re.search(r"return (%\S+), (%\S+) : tensor<\?x(\d+)xi64>", lines[end]).groups()
    arguments = lines[start][: lines[start].index("->")]
    lines[start] = f'{arguments} -> (tensor<?x{E}xf32> {{onnx.name = "y"}}) {{'
    routing = ROUTING_OF_MASK if int(k) == E else ROUTING
    lines[end] = (routing + WEIGHTS_BY_EXPERT).format(
        l=f"tensor<?x{E}xf32>",
        e=E,
        k=k,
        ids=ids,
        weights=weights,
        routing=f"!moe.routing<experts = {E}, k = {k}, weighted>",
        eye=np.eye(E).reshape(E, E, 1).tolist(),
    )
    path = folder / "layer.mlir"
    path.write_text("\n".join(lines))
    return path


def raised(layer):
    return run(tool("moe-opt"), layer, "--raise-moe")


RECOGNISED = {**ROUTERS, **MASKED}


@pytest.mark.parametrize("name", RECOGNISED)
def test_routers_are_recognised(tmp_path, name):
    nodes, expected = RECOGNISED[name]
    done = raised(make_layer(tmp_path, nodes))
    assert "remark" not in done.stderr
    for text in ("moe.given", "TopK", "ArgMax", "expert_mask"):
        assert text not in done.stdout
    assert ("moe.capacity" in done.stdout) == ("#moe.capacity" in str(expected))
    for text in expected:
        assert text in done.stdout


@pytest.mark.parametrize("name", OTHERS)
def test_other_routers_stay_given(tmp_path, name):
    nodes, reason = OTHERS[name]
    done = raised(make_layer(tmp_path, nodes))
    assert "moe.given" in done.stdout
    assert reason in done.stderr


def expected_weights(graph, inputs):
    """Weights by token and expert, as ONNX Runtime computes ids and weights."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    first, weights = session.run(None, inputs)
    if first.shape[1] == E:
        return first * weights
    ids = first
    dense = np.zeros((len(ids), E))
    np.put_along_axis(dense, ids, weights, axis=1)
    return dense


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("name", RECOGNISED)
def test_routers_mean_the_same(compiler, tmp_path, name, level):
    nodes, _ = RECOGNISED[name]
    graph = make_graph(nodes)
    rng = np.random.default_rng(3)
    with load(compiler.package(make_layer(tmp_path, nodes), level).path) as opened:
        for tokens in (5, 40):
            # Distinct keys: which of equal ones is chosen is not the question here.
            logits = rng.permuted(np.tile(np.linspace(-2, 2, E), (tokens, 1)), axis=1)
            inputs = {
                "l": (logits + rng.uniform(-0.1, 0.1, logits.shape)).astype(np.float32),
                "b": rng.uniform(-0.4, 0.4, E).astype(np.float32),
            }
            np.testing.assert_allclose(
                opened.run(inputs)["y"], expected_weights(graph, inputs), rtol=1e-5, atol=1e-6
            )

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""MoE blocks in spellings that no recorded model has, and loops over experts that tracing
froze, with a reference in NumPy float64."""

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

H, I, E, K = 32, 24, 5, 2

CONSTANTS = """
    i0 = Constant <value_int = 0> ()
    v0 = Constant <value_ints = [0]> ()
    v1 = Constant <value_ints = [1]> ()
    v2 = Constant <value_ints = [2]> ()
    all = Constant <value_ints = [-1]> ()
    rows = Constant <value_ints = [-1, 32]> ()
    column = Constant <value_ints = [-1, 1]> ()
    slots = Constant <value_ints = [1, 2, 1]> ()
    by_token = Constant <value_ints = [-1, 2, 32]> ()
    by_expert = Constant <value_ints = [5, -1, 32]> ()
    copies = Constant <value_ints = [5, 1]> ()
"""
SOFTMAX = """
    logits = MatMul (x, router)
    p = Softmax <axis = -1> (logits)
    v, ids = TopK (p, v2)
"""
# The second half is the gate.
UP_FIRST = """
    up, gate = Split <axis = 1, num_outputs = 2> (h)
    s = Sigmoid (gate)
    a = Mul (gate, s)
    z = Mul (a, up)
"""
GATHERED = (
    SOFTMAX
    + """
    flat = Reshape (ids, all)
    x3 = Unsqueeze (x, v1)
    x4 = Expand (x3, slots)
    x5 = Reshape (x4, rows)
    xc = Unsqueeze (x5, v2)
    wu = Gather (up_rows, flat)
    h3 = MatMul (wu, xc)
    h2 = Squeeze (h3, v2)
    bu = Gather (up_bias, flat)
    h = Add (h2, bu)
"""
    + UP_FIRST
    + """
    zc = Unsqueeze (z, v2)
    wd = Gather (down_rows, flat)
    y3 = MatMul (wd, zc)
    y4 = Squeeze (y3, v2)
    w = Reshape (v, column)
    y5 = Mul (y4, w)
    y6 = Reshape (y5, by_token)
    y = ReduceSum <keepdims = 0> (y6, v1)
"""
)


def masked():
    """Every expert on all tokens, times its weight or 0."""
    text = SOFTMAX
    for e in range(E):
        text += f"""
            e{e} = Constant <value_int = {e}> ()
            wu{e} = Gather (up_rows, e{e})
            bu{e} = Gather (up_bias, e{e})
            h{e} = Gemm <transB = 1> (x, wu{e}, bu{e})
            up{e}, gate{e} = Split <axis = 1, num_outputs = 2> (h{e})
            s{e} = Sigmoid (gate{e})
            a{e} = Mul (s{e}, gate{e})
            z{e} = Mul (up{e}, a{e})
            wd{e} = Gather (down_rows, e{e})
            f{e} = Gemm <transB = 1> (z{e}, wd{e})
            is{e} = Equal (ids, e{e})
            m{e} = Cast <to = 1> (is{e})
            vm{e} = Mul (m{e}, v)
            w{e} = ReduceSum (vm{e}, v1)
            t{e} = Mul (f{e}, w{e})
        """
        text += f"y{e} = Add (y{e - 1}, t{e})" if e else "y0 = Identity (t0)"
    return text + f"\n y = Identity (y{E - 1})"


# Llama 4: the sigmoid of the chosen logits multiplies the experts' input.
LLAMA4_ROUTER = """
    logits = MatMul (x, router)
    v, ids = TopK (logits, v2)
    lowest = Constant <value = float {-inf}> ()
    sizes = Shape (logits)
    base = Expand (lowest, sizes)
    chosen = ScatterElements <axis = 1> (base, ids, v)
    scores = Sigmoid (chosen)
    turned = Transpose <perm = [1, 0]> (scores)
"""
LLAMA4_EXPERTS = """
    gu = MatMul (r3, up_columns)
    gate, up = Split <axis = 2, num_outputs = 2> (gu)
    s = Sigmoid (gate)
    a = Mul (gate, s)
    z = Mul (up, a)
    f = MatMul (z, down_columns)
"""
LLAMA4 = (
    LLAMA4_ROUTER
    + """
    weights = Reshape (turned, column)
    repeated = Tile (x, copies)
    routed = Mul (repeated, weights)
    r3 = Reshape (routed, by_expert)
"""
    + LLAMA4_EXPERTS
    + """
    flat = Reshape (f, rows)
    f3 = Reshape (flat, by_expert)
    y = ReduceSum <keepdims = 0> (f3, v0)
"""
)
LLAMA4_BROADCAST = (
    LLAMA4_ROUTER
    + """
    weights = Unsqueeze (turned, v2)
    x3 = Unsqueeze (x, v0)
    r3 = Mul (weights, x3)
"""
    + LLAMA4_EXPERTS
    + "y = ReduceSum <keepdims = 0> (f, v0)"
)
LLAMA4_BIAS = LLAMA4_BROADCAST.replace(
    "f = MatMul (z, down_columns)", "f1 = MatMul (z, down_columns)\n db = Unsqueeze (down_bias, v1)\n f = Add (f1, db)"
)


def loop(hits):
    """The experts that NonZero found when there were `hits`: what tracing leaves of a loop."""
    parts = ", ".join(f"hit{i}" for i in range(hits))
    text = (
        SOFTMAX
        + f"""
        depth = Constant <value_int = {E}> ()
        off_on = Constant <value_ints = [0, 1]> ()
        one_hot = OneHot <axis = -1> (ids, depth, off_on)
        mask = Transpose <perm = [2, 1, 0]> (one_hot)
        both = Constant <value_ints = [1, 2]> ()
        counts = ReduceSum <keepdims = 0> (mask, both)
        some = Greater (counts, i0)
        found = NonZero (some)
        list = Transpose <perm = [1, 0]> (found)
        ones = Constant <value_ints = {[1] * hits}> ()
        {parts} = Split <axis = 0> (list, ones)
        sizes = Shape (x)
        y_ = ConstantOfShape <value = float[1] {{0}}> (sizes)
        flat = Reshape (v, all)
        halves = Constant <value_ints = [1, 1]> ()
        two = Constant <value_int = 2> ()
        """
    )
    for i in range(hits):
        text += f"""
            s{i} = Squeeze (hit{i}, v0)
            e{i} = Gather (s{i}, i0)
            m{i} = Gather (mask, e{i})
            nz{i} = NonZero (m{i})
            nt{i} = Transpose <perm = [1, 0]> (nz{i})
            sl{i}, tk{i} = Split <axis = 1> (nt{i}, halves)
            slot{i} = Squeeze (sl{i}, v1)
            token{i} = Squeeze (tk{i}, v1)
            x{i} = Gather (x, token{i})
            wu{i} = Gather (up_rows, e{i})
            h{i} = Gemm <transB = 1> (x{i}, wu{i})
            gate{i}, up{i} = Split <axis = 1, num_outputs = 2> (h{i})
            g{i} = Sigmoid (gate{i})
            a{i} = Mul (g{i}, gate{i})
            z{i} = Mul (up{i}, a{i})
            wd{i} = Gather (down_rows, e{i})
            f{i} = Gemm <transB = 1> (z{i}, wd{i})
            row{i} = Mul (token{i}, two)
            at{i} = Add (row{i}, slot{i})
            w{i} = Gather (flat, at{i})
            wc{i} = Unsqueeze (w{i}, v1)
            t{i} = Mul (f{i}, wc{i})
            index{i} = Unsqueeze (token{i}, v1)
            y{i} = ScatterND <reduction = "add"> (y{i - 1 if i else "_"}, index{i}, t{i})
        """
    return text + f"\n y = Identity (y{hits - 1})"


def make_weights():
    rng = np.random.default_rng(11)
    weights = {
        "router": rng.standard_normal((H, E)),
        "up_rows": rng.standard_normal((E, 2 * I, H)) / 4,
        "up_bias": rng.standard_normal((E, 2 * I)),
        "down_rows": rng.standard_normal((E, H, I)) / 4,
        "down_bias": rng.standard_normal((E, H)),
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    weights["up_columns"] = np.ascontiguousarray(weights["up_rows"].swapaxes(1, 2))
    weights["down_columns"] = np.ascontiguousarray(weights["down_rows"].swapaxes(1, 2))
    return weights


def build(nodes, weights):
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    block (float[tokens, {H}] x) => (float[tokens, {H}] y) {{ {CONSTANTS} {nodes} }}"""
    model = onnx.parser.parse_model(text)
    ordered = sorted(model.graph.node, key=lambda node: node.op_type != "Constant")
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in weights.items() if name in used
    )
    return model


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(x, weights, up_first=False, bias=False, scale_input=False):
    """float64, token by token."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = x.astype(np.float64)
    logits = x @ w["router"]
    y = np.zeros_like(x)
    for t, row in enumerate(logits):
        soft = np.exp(row - row.max())
        score = sigmoid(row) if scale_input else soft / soft.sum()
        for e in np.argsort(-row)[:K]:
            rows = x[t] * score[e] if scale_input else x[t]
            hidden = w["up_rows"][e] @ rows + (w["up_bias"][e] if up_first else 0)
            first, second = hidden[:I], hidden[I:]
            gate, up = (second, first) if up_first else (first, second)
            result = w["down_rows"][e] @ (gate * sigmoid(gate) * up)
            y[t] += result if scale_input else score[e] * result
        if bias:
            y[t] += w["down_bias"].sum(0)
    return y


# Name: the nodes, what the raised module must contain, what the reference does.
SPELLINGS = {
    "up_first_gathered": (GATHERED, ["glu = separate", "moe.expert_ffn"], {"up_first": True}),
    "up_first_masked": (masked(), ["glu = separate", "moe.expert_ffn"], {"up_first": True}),
    "llama4": (LLAMA4, ["{scale_input}", "already_applied", "moe.weigh_fn<sigmoid>"], {"scale_input": True}),
    "llama4_broadcast": (LLAMA4_BROADCAST, ["{scale_input}", "already_applied"], {"scale_input": True}),
    "loop_over_hits": (loop(E), ["moe.dispatch", "moe.select"], {}),
}

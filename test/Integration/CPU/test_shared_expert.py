# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Networks of every token that are added to a MoE block: raised when they read the block's
input, and right in any case."""

import numpy as np
import onnx
import onnx.parser
import pytest
from harness import TOLERANCES, run, tool
from moec.runtime import load
from onnx import numpy_helper
from references.evaluate import evaluate, relative_error

H, I, E = 32, 48, 4
SHAPES = {
    "router": (H, E),
    "fc1": (E, I, H),
    "fc2": (E, H, I),
    "gate": (H, I),
    "up": (H, I),
    "down": (I, H),
    "gate_t": (I, H),
    "up_t": (I, H),
    "down_t": (H, I),
    "weight": (H, 1),
    "weight_t": (1, H),
}
BLOCK = """
    rows = Constant <value_ints = [-1, 32]> ()
    flat = Reshape (x, rows)
    logits = MatMul (flat, router)
    routed = com.microsoft.MoE <k = 2, activation_type = "silu", normalize_routing_weights = 1>
        (x, logits, fc1, "", fc2)
"""
SILU = """
    g = MatMul (x, gate)
    s = Sigmoid (g)
    a = Mul (g, s)
    u = MatMul (x, up)
    h = Mul (a, u)
    f = MatMul (h, down)
"""
# Name: the nodes, and whether the network is a shared expert of the block.
NETWORKS = {
    "deepseek": (SILU + "y = Add (routed, f)", True),
    "qwen2": (
        SILU
        + """w = MatMul (x, weight)
             p = Sigmoid (w)
             weighted = Mul (p, f)
             y = Add (weighted, routed)""",
        True,
    ),
    "qwen2_in_rows": (
        """g = Gemm <transB = 1> (flat, gate_t)
           u = Gemm <transB = 1> (flat, up_t)
           s = Sigmoid (g)
           a = Mul (s, g)
           h = Mul (u, a)
           f = Gemm <transB = 1> (h, down_t)
           w = Gemm <transB = 1> (flat, weight_t)
           p = Sigmoid (w)
           weighted = Mul (f, p)
           flat_routed = Reshape (routed, rows)
           sum = Add (flat_routed, weighted)
           shape = Shape (x)
           y = Reshape (sum, shape)""",
        True,
    ),
    "without_gate": (
        """u = MatMul (x, up)
           h = Relu (u)
           f = MatMul (h, down)
           y = Add (f, routed)""",
        True,
    ),
    "of_another_input": (
        """x2 = Mul (x, x)
           u = MatMul (x2, up)
           h = Relu (u)
           f = MatMul (h, down)
           y = Add (f, routed)""",
        False,
    ),
    "sigmoid_of_the_other_half": (
        """g = MatMul (x, gate)
           u = MatMul (x, up)
           s = Sigmoid (u)
           a = Mul (g, s)
           f = MatMul (a, down)
           y = Add (f, routed)""",
        False,
    ),
}


def make_model(path, nodes):
    text = f"""<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
    shared (float[batch, seq, {H}] x) => (float[batch, seq, {H}] y) {{ {BLOCK} {nodes} }}"""
    model = onnx.parser.parse_model(text)
    ordered = sorted(model.graph.node, key=lambda node: node.op_type != "Constant")
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    rng = np.random.default_rng(5)
    used = {name for node in model.graph.node for name in node.input}
    for name, shape in SHAPES.items():
        value = (rng.standard_normal(shape) / np.sqrt(H)).astype(np.float32)
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, path)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_shared_experts(compiler, tmp_path, name):
    nodes, is_shared = NETWORKS[name]
    path = tmp_path / f"{name}.onnx"
    model = make_model(path, nodes)
    raised = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe").stdout
    assert ("moe.shared" in raised) == is_shared
    left = run(tool("moe-opt"), path, "--normalize-onnx", "--raise-moe=contrib-only").stdout
    assert "moe.shared" not in left and "moe.combine" in left
    x = np.random.default_rng(6).standard_normal((2, 5, H)).astype(np.float32)
    exact = evaluate(model, {"x": x})["y"]
    for flags in (["-O0"], ["-O3"], ["-O3", "--no-raise"]):
        with load(compiler.package(path, *flags).path) as opened:
            assert relative_error(opened.run({"x": x})["y"], exact) < TOLERANCES["float32"]

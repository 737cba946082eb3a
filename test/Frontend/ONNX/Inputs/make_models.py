# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes the models of the import tests: make_models.py FOLDER"""

import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def value(name, shape, elem=F32):
    return helper.make_tensor_value_info(name, elem, shape)


def graph(nodes, inputs=None, outputs=None, **kwargs):
    return helper.make_graph(
        nodes,
        "g",
        inputs if inputs is not None else [value("x", ["n", 4])],
        outputs if outputs is not None else [value("y", ["n", 4])],
        **kwargs,
    )


def model(g, opset=20, ir=10, domains=(), **kwargs):
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, 1) for d in domains]
    m = helper.make_model(g, opset_imports=opsets, **kwargs)
    m.ir_version = ir
    return m


def save(name, m):
    with open(os.path.join(folder, name + ".onnx"), "wb") as f:
        f.write(m.SerializeToString())
    return m


node = helper.make_node
weights = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)


def raw(name, array):
    return numpy_helper.from_array(array, name)


def external(name, dims, location, elem=F32, **entries):
    t = TensorProto(name=name, data_type=elem, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, text in dict(location=location, **entries).items():
        t.external_data.add(key=key, value=str(text))
    return t


# Every kind of attribute, absent inputs, unnamed nodes and outputs.
g = graph(
    [
        node("Clip", ["x", "", "x"], ["clipped"], name="clip"),
        node(
            "Custom", ["clipped"], ["y", ""], domain="my.domain",
            i=3, f=0.5, s="text", ints=[1, -2], floats=[1.0], strings=["a", "b"],
            t=raw("", np.array([[1, 2]], np.uint8)),
        ),
    ]
)
m = model(g, domains=["my.domain"])
m.doc_string = "documentation"
m.metadata_props.add(key="k", value="v")
m.graph.node[0].doc_string = "of a node"
m.graph.node[0].metadata_props.add(key="k", value="v")
save("attributes", m)

# Initializers of every storage.
def typed(name, elem, values, dims=None):
    return helper.make_tensor(name, elem, dims or [len(values)], values)

consts = [
    typed("c_float", F32, [1.5, -2.0]),
    typed("c_double", TensorProto.DOUBLE, [0.25]),
    typed("c_int64", I64, [-1, 1 << 40]),
    typed("c_int32", TensorProto.INT32, [-7]),
    typed("c_int8", TensorProto.INT8, [-128, 127]),
    typed("c_uint8", TensorProto.UINT8, [255]),
    typed("c_uint32", TensorProto.UINT32, [4294967295]),
    typed("c_uint64", TensorProto.UINT64, [18446744073709551615]),
    typed("c_bool", TensorProto.BOOL, [True, False, True]),
    typed("c_half", TensorProto.FLOAT16, [0.5]),
    typed("c_bf16", TensorProto.BFLOAT16, [0.5]),
    raw("c_raw", np.array([3.0], np.float32)),
    raw("c_rawbool", np.array([False, True])),
    raw("c_scalar", np.array(5, np.int64)),
    raw("c_empty", np.zeros((0, 3), np.float32)),
    helper.make_tensor("c_uint4", TensorProto.UINT4, [3], [1, 15, 7]),
    helper.make_tensor("c_f8", TensorProto.FLOAT8E4M3FN, [1], [1.0]),
]
sparse = helper.make_sparse_tensor(typed("c_sparse", F32, [5.0, 6.0]), typed("i", I64, [1, 5]), [2, 3])
sparse2 = helper.make_sparse_tensor(
    typed("c_sparse2", F32, [7.0, 8.0]), typed("i", I64, [0, 1, 1, 0], [2, 2]), [2, 2]
)
g = graph([node("Neg", ["x"], ["y"])], initializer=consts, sparse_initializer=[sparse, sparse2])
save("initializers", model(g, opset=23, ir=11))

# Large tensors: inline raw and typed, Constant node, old-style input.
big = typed("w_typed", F32, weights.flatten().tolist(), [64, 32])
big_ints = typed("w_ints", I64, list(range(600)))
g = graph(
    [
        node("Constant", [], ["w_const"], value=raw("", weights)),
        node("Add", ["w_typed", "w_const"], ["sum"]),
        node("Mul", ["sum", "w_raw"], ["y"]),
    ],
    inputs=[value("x", ["n", 4]), value("w_raw", [64, 32])],
    outputs=[value("y", [64, 32])],
    initializer=[big, raw("w_raw", weights), big_ints],
)
save("large", model(g))

# External data in two files, one below the model's folder.
os.makedirs(os.path.join(folder, "sub"), exist_ok=True)
weights.tofile(os.path.join(folder, "one.data"))
with open(os.path.join(folder, "sub", "two.data"), "wb") as f:
    f.write(b"\0" * 64 + weights.tobytes())
with open(os.path.join(folder, "small.data"), "wb") as f:
    f.write(np.array([2.5], np.float32).tobytes())
g = graph(
    [
        node("MatMul", ["x", "a"], ["xa"]),
        node("MatMul", ["xa", "b"], ["xab"]),
        node("Mul", ["xab", "c"], ["y"]),
    ],
    inputs=[value("x", ["n", 64])],
    outputs=[value("y", ["n", 64])],
    initializer=[
        external("a", [64, 32], "one.data", offset=0, length=8192),
        external("b", [32, 64], "./sub/two.data", offset=64),
        external("c", [1], "small.data"),
    ],
)
save("external", model(g))

# Dimensions: symbols, expressions, sizes written as text, unset.
def dims_value(name, dims):
    v = value(name, None)
    v.type.tensor_type.shape.SetInParent()
    for d in dims:
        dim = v.type.tensor_type.shape.dim.add()
        if isinstance(d, int):
            dim.dim_value = d
        elif d is not None:
            dim.dim_param = d
    return v

g = graph(
    [node("Neg", ["x"], ["y"])],
    inputs=[dims_value("x", ["batch", "2*batch*seq", "12", None, "past + seq", 5, -1])],
    outputs=[dims_value("y", ["batch", "2*batch*seq", "12", None, "past + seq", 5, -1])],
)
save("dims", model(g))

# Local functions: overloads, nesting, defaults and references of attributes.
def function(name, inputs, outputs, nodes, overload="", **kwargs):
    f = helper.make_function(
        "local", name, inputs, outputs, nodes, [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)], **kwargs
    )
    f.overload = overload
    return f

def reference(name, to):
    return onnx.AttributeProto(name=name, ref_attr_name=to, type=onnx.AttributeProto.FLOAT)


ref = node("LeakyRelu", ["a"], ["b"], name="leaky")
ref.attribute.append(reference("alpha", "slope"))
inner = function("Inner", ["a"], ["b"], [ref], attributes=[], attribute_protos=[helper.make_attribute("slope", 0.25)])
pass_on = node("Inner", ["p"], ["t"], domain="local", name="inner")
pass_on.attribute.append(reference("slope", "outer_slope"))
outer = function("Outer", ["p", "q"], ["r"], [pass_on, node("Clip", ["t", "q"], ["r"])], attributes=["outer_slope"])
two_a = function("Two", ["a"], ["b"], [node("Neg", ["a"], ["b"])], overload="a")
two_b = function("Two", ["a"], ["b"], [node("Abs", ["a"], ["b"])], overload="b")
calls = [
    node("Outer", ["x"], ["o1"], domain="local", name="call1", outer_slope=0.5),
    node("Outer", ["o1"], ["o2"], domain="local", name="call2"),
    node("Two", ["o2"], ["o3"], domain="local", name="call3", overload="b"),
    node("Two", ["o3"], ["y"], domain="local", name="call4", overload="a"),
]
save("functions", model(graph(calls), domains=["local"], functions=[inner, outer, two_a, two_b]))
rec = function("Rec", ["a"], ["b"], [node("Rec", ["a"], ["b"], domain="local")])
save("recursive", model(graph([node("Rec", ["x"], ["y"], domain="local")]), domains=["local"], functions=[rec]))

swapped = [
    function("Ping", ["a"], ["b"], [node("Pong", ["a"], ["b"], domain="local")]),
    function("Pong", ["a"], ["b"], [node("Ping", ["a"], ["b"], domain="local")]),
]
save("recursive_two", model(graph([node("Ping", ["x"], ["y"], domain="local")]), domains=["local"], functions=swapped))

# Sub-graphs that read outer values.
def branch(op):
    return helper.make_graph([node(op, ["x"], ["r"])], op, [], [value("r", ["n", 4])])

g = graph(
    [node("If", ["c"], ["y"], name="branch", then_branch=branch("Neg"), else_branch=branch("Abs"))],
    inputs=[value("x", ["n", 4]), value("c", [], TensorProto.BOOL)],
)
save("subgraphs", model(g))
body = helper.make_graph(
    [node("Identity", ["cond"], ["cond_out"]), node("Add", ["acc", "x"], ["acc_out"])],
    "body",
    [value("i", [], I64), value("cond", [], TensorProto.BOOL), value("acc", None)],
    [value("cond_out", [], TensorProto.BOOL), value("acc_out", None)],
)
save("loop", model(graph([node("Loop", ["m", "", "x"], ["y"], body=body)], inputs=[value("x", ["n", 4]), value("m", [], I64)])))

# Order of nodes, kept values.
save("unsorted", model(graph([node("Neg", ["t"], ["y"], name="second"), node("Abs", ["x"], ["t"], name="first")])))

# Errors.
ok = graph([node("Neg", ["x"], ["y"])])
save("bad_ir", model(ok, ir=15))
save("bad_opset", model(ok, opset=10))
save("bad_opset_new", model(ok, opset=29))
save("bad_no_opset", model(graph([node("Op", ["x"], ["y"], domain="other")])))
save("bad_cycle", model(graph([node("Add", ["x", "y"], ["t"], name="a"), node("Neg", ["t"], ["y"], name="b")])))
save("bad_missing", model(graph([node("Add", ["x", "ghost"], ["y"], name="add")])))
save("bad_twice", model(graph([node("Neg", ["x"], ["y"]), node("Abs", ["x"], ["y"], name="again")])))
save("bad_output", model(graph([node("Neg", ["x"], ["t"])])))
save("bad_string", model(graph([node("Neg", ["x"], ["y"])], inputs=[value("x", [1], TensorProto.STRING)])))
save("bad_sequence", model(graph([node("Neg", ["x"], ["y"])], inputs=[helper.make_tensor_sequence_value_info("x", F32, [1])])))
save("bad_dtype", model(graph([node("Neg", ["x"], ["y"])], inputs=[value("x", [1], 99)])))
save("bad_declared", model(graph([node("Neg", ["x"], ["t"])], outputs=[value("x", ["n", 4], I64)])))


def bad_tensor(name, **fields):
    t = TensorProto(name="w", data_type=F32)
    for key, field in fields.items():
        if isinstance(field, list):
            getattr(t, key).extend(field)
        else:
            setattr(t, key, field)
    save(name, model(graph([node("Add", ["x", "w"], ["y"])], initializer=[t])))


bad_tensor("bad_raw", dims=[2], raw_data=b"\0" * 7)
bad_tensor("bad_raw_large", dims=[3000], raw_data=b"\0" * 8000)
bad_tensor("bad_typed", dims=[3], float_data=[1.0])
bad_tensor("bad_dim", dims=[-1], raw_data=b"")
bad_tensor("bad_dims", dims=[1 << 40, 1 << 40], raw_data=b"")
bad_tensor("bad_type", dims=[1], data_type=77, raw_data=b"\0")
bad_tensor("bad_value", dims=[1], data_type=TensorProto.UINT8, int32_data=[300])
bad_tensor("bad_storage", dims=[2048], data_type=I64, float_data=[0.0] * 4096)

# Names are UTF-8; onnx itself writes nothing else.
named = model(graph([node("Neg", ["x"], ["y"], name="broken_name")])).SerializeToString()
with open(os.path.join(folder, "bad_utf8.onnx"), "wb") as f:
    f.write(named.replace(b"broken_name", b"broken_\xff\xfe__"))

# Functions that call one another, without end in sight and without recursion.
chain = [function(f"F{i}", ["a"], ["b"], [node(f"F{i + 1}", ["a"], ["b"], domain="local")]) for i in range(3000)]
chain.append(function("F3000", ["a"], ["b"], [node("Neg", ["a"], ["b"])]))
save("bad_deep", model(graph([node("F0", ["x"], ["y"], domain="local")]), domains=["local"], functions=chain))

# A function's graph attribute whose graph holds the same attribute again.
def branch():
    n = node("If", ["c"], ["r"])
    n.attribute.add(name="then_branch", ref_attr_name="body", type=onnx.AttributeProto.GRAPH)
    return n

body = helper.make_graph([branch()], "body", [], [value("r", None)])
call = node("Fold", ["x"], ["y"], domain="local", body=body)
fold = function("Fold", ["c"], ["r"], [branch()], attributes=["body"])
save("bad_fold", model(graph([call]), domains=["local"], functions=[fold]))

# Sizes written as text, of a value whose number of elements is no int64: only a hint.
g = graph(
    [node("Custom", ["x"], ["t"], domain="my.domain"), node("Neg", ["t"], ["y"])],
    value_info=[dims_value("t", ["4611686018427387904", "4611686018427387904"])],
)
save("hint", model(g, domains=["my.domain"]))

os.makedirs(os.path.join(folder, "inside"), exist_ok=True)
link = os.path.join(folder, "inside", "link.data")
if not os.path.islink(link):
    os.symlink("../one.data", link)
for name, tensor in {
    "ext_missing": external("w", [64, 32], "nothing.data"),
    "ext_short": external("w", [64, 64], "here.data"),
    "ext_offset": external("w", [64, 32], "here.data", offset=1),
    "ext_offset_huge": external("w", [64, 32], "here.data", offset=1 << 63),
    "ext_up": external("w", [64, 32], "../one.data"),
    "ext_absolute": external("w", [64, 32], "/etc/passwd"),
    "ext_link": external("w", [64, 32], "link.data"),
    "ext_length": external("w", [64, 32], "here.data", length=5),
    "ext_number": external("w", [64, 32], "here.data", offset="x"),
    "ext_folder": external("w", [64, 32], "."),
}.items():
    save("inside/" + name, model(graph([node("Add", ["x", "w"], ["y"])], initializer=[tensor])))
weights.tofile(os.path.join(folder, "inside", "here.data"))

with open(os.path.join(folder, "garbage.onnx"), "wb") as f:
    f.write(b"this is no model")
open(os.path.join(folder, "empty.onnx"), "wb").close()

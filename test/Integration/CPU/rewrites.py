# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Rewrites of ONNX graphs. Those of `PRESERVING` leave what a model computes as it is; those
of `BREAKING` change one thing in a MoE block. Each takes a `Graph` and random numbers, and
returns whether it found something to change."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

COMMUTATIVE = ("Add", "Mul", "Equal", "And", "Or", "Max", "Min")


class Graph:
    """A model with what is known of its values."""

    def __init__(self, model):
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.count = 0
        try:
            inferred = onnx.shape_inference.infer_shapes(self.model).graph
        except onnx.shape_inference.InferenceError:  # of types that the file states
            inferred = self.graph
        self.types = {
            info.name: info.type.tensor_type
            for info in [*inferred.value_info, *inferred.input, *inferred.output]
        }
        for tensor in self.graph.initializer:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            self.types[tensor.name] = value.type.tensor_type
        self.outputs = {output.name for output in self.graph.output}

    def name(self, stem):
        self.count += 1
        return f"rewritten_{stem}_{self.count}"

    def dtype(self, name):
        return self.types[name].elem_type if name in self.types else 0

    def dims(self, name):
        """Sizes, None where not known; None when the rank is not."""
        if name not in self.types or not self.types[name].HasField("shape"):
            return None
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in self.types[name].shape.dim]

    def constant(self, value, stem="constant"):
        name = self.name(stem)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def value(self, name):
        """The elements of a constant; None for other values."""
        for tensor in self.graph.initializer:
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        for node in self.graph.node:
            if node.op_type == "Constant" and node.output[0] == name and node.attribute[0].name == "value":
                return numpy_helper.to_array(node.attribute[0].t)
        return None

    def nodes(self, *types):
        return [node for node in self.graph.node if node.op_type in types]

    def producer(self, name):
        return next((node for node in self.graph.node if name in node.output), None)

    def insert_before(self, node, *new):
        index = next(i for i, other in enumerate(self.graph.node) if other is node)
        for offset, other in enumerate(new):
            self.graph.node.insert(index + offset, other)

    def replace(self, node, *new):
        """The new nodes end in the old node's outputs."""
        self.insert_before(node, *new)
        self.graph.node.remove(node)

    def users(self, name):
        return [node for node in self.graph.node if name in node.input] + [name] * (name in self.outputs)

    def opset(self, domain=""):
        return next((entry.version for entry in self.model.opset_import if entry.domain == domain), 0)

    def use_opset(self, domain, version):
        for entry in self.model.opset_import:
            if entry.domain == domain:
                entry.version = max(entry.version, version)
                return
        self.model.opset_import.append(helper.make_opsetid(domain, version))

    def order_slots(self):
        """Gives the slots of each token an order, which TopK may leave open."""
        for node in self.nodes("TopK"):
            for found in node.attribute:
                found.i = 1 if found.name == "sorted" else found.i

    def sort(self, pick):
        """A topological order; `pick` chooses among the nodes that may come next."""
        available = {value.name for value in self.graph.input} | {""}
        available |= {tensor.name for tensor in self.graph.initializer}
        waiting, ordered = list(self.graph.node), []
        while waiting:
            node = pick([node for node in waiting if set(node.input) <= available])
            waiting.remove(node)
            ordered.append(node)
            available |= set(node.output)
        ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del self.graph.node[:]
        self.graph.node.extend(ordered)


def attribute(node, name, default=None):
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def choose(rng, candidates):
    return candidates[rng.integers(len(candidates))] if candidates else None


# Rewrites that preserve the meaning.


def _edges(graph, dtypes):
    return [
        (node, position)
        for node in graph.graph.node
        for position, name in enumerate(node.input)
        if name and graph.dtype(name) in dtypes and graph.dims(name) is not None
    ]


FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def _insert(graph, rng, make, edges):
    edge = choose(rng, edges)
    if edge is None:
        return False
    node, position = edge
    old = node.input[position]
    new = make(old)
    if not new:
        return False
    graph.insert_before(node, *new)
    node.input[position] = new[-1].output[0]
    return True


def identity(graph, rng):
    def make(old):
        return [helper.make_node("Identity", [old], [graph.name("identity")])]

    return _insert(graph, rng, make, _edges(graph, FLOATS + (onnx.TensorProto.INT64,)))


def cast(graph, rng):
    def make(old):
        return [helper.make_node("Cast", [old], [graph.name("cast")], to=graph.dtype(old))]

    return _insert(graph, rng, make, _edges(graph, FLOATS))


def reshapes(graph, rng):
    def make(old):
        flat, shape, back = graph.name("flat"), graph.name("shape"), graph.name("back")
        return [
            helper.make_node("Shape", [old], [shape]),
            helper.make_node("Reshape", [old, graph.constant(np.array([-1]))], [flat]),
            helper.make_node("Reshape", [flat, shape], [back], allowzero=1),
        ]

    return _insert(graph, rng, make, _computed(graph, _edges(graph, FLOATS)))


def transposes(graph, rng):
    def make(old):
        rank = len(graph.dims(old))
        perm = rng.permutation(rank)
        there, back = graph.name("transposed"), graph.name("back")
        return [
            helper.make_node("Transpose", [old], [there], perm=perm.tolist()),
            helper.make_node("Transpose", [there], [back], perm=np.argsort(perm).tolist()),
        ]

    edges = [edge for edge in _edges(graph, FLOATS) if len(graph.dims(edge[0].input[edge[1]])) > 1]
    return _insert(graph, rng, make, _computed(graph, edges))


def _computed(graph, edges):
    constants = {tensor.name for tensor in graph.graph.initializer}
    return [edge for edge in edges if edge[0].input[edge[1]] not in constants]


def commute(graph, rng):
    node = choose(rng, [node for node in graph.nodes(*COMMUTATIVE) if len(node.input) == 2])
    if node is None:
        return False
    node.input[:] = reversed(list(node.input))
    return True


def gemm_to_matmul(graph, rng):
    def is_plain(node):
        return attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)

    node = choose(rng, [node for node in graph.nodes("Gemm") if is_plain(node)])
    if node is None:
        return False
    weight, new = node.input[1], []
    if attribute(node, "transB", 0):
        weight = graph.name("transposed")
        new.append(helper.make_node("Transpose", [node.input[1]], [weight], perm=[1, 0]))
    if len(node.input) == 3:
        product = graph.name("product")
        new.append(helper.make_node("MatMul", [node.input[0], weight], [product]))
        new.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]]))
    else:
        new.append(helper.make_node("MatMul", [node.input[0], weight], [node.output[0]]))
    graph.replace(node, *new)
    return True


def matmul_to_gemm(graph, rng):
    def is_plain(node):
        return all(len(graph.dims(name) or ()) == 2 for name in node.input)

    node = choose(rng, [node for node in graph.nodes("MatMul") if is_plain(node)])
    if node is None:
        return False
    graph.replace(node, helper.make_node("Gemm", list(node.input), list(node.output)))
    return True


def matmul_add_to_gemm(graph, rng):
    """Of two matrices and a vector."""
    pairs = []
    for add in graph.nodes("Add"):
        for i in (0, 1):
            product = graph.producer(add.input[i])
            if product is None or product.op_type != "MatMul" or len(graph.users(product.output[0])) != 1:
                continue
            ranks = [len(graph.dims(name) or ()) for name in (*product.input, add.input[1 - i])]
            if ranks == [2, 2, 1]:
                pairs.append((add, product, add.input[1 - i]))
    if not pairs:
        return False
    add, product, bias = choose(rng, pairs)
    graph.replace(add, helper.make_node("Gemm", [*product.input, bias], list(add.output)))
    graph.graph.node.remove(product)
    return True


def to_swish(graph, rng):
    """x · sigmoid(x) in one node, which before opset 24 only ONNX Runtime has."""
    pairs = []
    for mul in graph.nodes("Mul"):
        for i in (0, 1):
            sigmoid = graph.producer(mul.input[i])
            if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.input[0] == mul.input[1 - i]:
                pairs.append((mul, sigmoid))
    if not pairs:
        return False
    mul, sigmoid = choose(rng, pairs)
    if graph.opset() >= 20:
        graph.use_opset("", 24)
        new = helper.make_node("Swish", [sigmoid.input[0]], list(mul.output))
    else:
        graph.use_opset("com.microsoft", 1)
        new = helper.make_node("QuickGelu", [sigmoid.input[0]], list(mul.output), domain="com.microsoft", alpha=1.0)
    graph.replace(mul, new)
    if not graph.users(sigmoid.output[0]):
        graph.graph.node.remove(sigmoid)
    return True


def from_swish(graph, rng):
    swish = choose(rng, graph.nodes("Swish"))
    if swish is None:
        return False
    gate = graph.name("sigmoid")
    factors = [gate, swish.input[0]][:: choose(rng, (1, -1))]
    graph.replace(
        swish,
        helper.make_node("Sigmoid", [swish.input[0]], [gate]),
        helper.make_node("Mul", factors, list(swish.output)),
    )
    return True


def split_to_slices(graph, rng):
    def sizes(node):
        axis = attribute(node, "axis", 0)
        dims = graph.dims(node.input[0])
        if len(node.input) > 1 or dims is None or dims[axis] is None or dims[axis] % len(node.output):
            return None
        return axis, dims[axis] // len(node.output)

    node = choose(rng, [node for node in graph.nodes("Split") if sizes(node)])
    if node is None:
        return False
    axis, size = sizes(node)
    new = [
        helper.make_node(
            "Slice",
            [node.input[0], *(graph.constant(np.array([value])) for value in (part * size, (part + 1) * size, axis))],
            [output],
        )
        for part, output in enumerate(node.output)
    ]
    graph.replace(node, *new)
    return True


def slices_to_split(graph, rng):
    """Slices that are all parts of a tensor, in order."""
    parts = {}
    for node in graph.nodes("Slice"):
        bounds = [graph.value(name) for name in node.input[1:]]
        if any(bound is None or bound.size != 1 for bound in bounds) or len(bounds) < 3:
            continue
        start, end, axis, step = [int(bound.item()) for bound in bounds] + ([1] if len(bounds) == 3 else [])
        if step == 1:
            parts.setdefault((node.input[0], axis), []).append((start, end, node))
    complete = []
    for (name, axis), slices in parts.items():
        slices.sort(key=lambda part: part[0])
        dims = graph.dims(name)
        starts, ends = [part[0] for part in slices], [part[1] for part in slices]
        if dims and dims[axis] and starts == [0, *ends[:-1]] and ends[-1] >= dims[axis] and len(slices) > 1:
            ends[-1] = dims[axis]
            complete.append((name, axis, np.subtract(ends, starts), [part[2] for part in slices]))
    found = choose(rng, complete)
    if found is None:
        return False
    name, axis, sizes, slices = found
    first = min(slices, key=lambda node: next(i for i, other in enumerate(graph.graph.node) if other is node))
    outputs = [node.output[0] for node in slices]
    graph.insert_before(
        first, helper.make_node("Split", [name, graph.constant(sizes.astype(np.int64))], outputs, axis=axis)
    )
    for node in slices:
        graph.graph.node.remove(node)
    return True


def squeeze_to_reshape(graph, rng):
    def shape(node):
        dims = graph.dims(node.output[0])
        if dims is None or dims.count(None) > 1 or 0 in dims:
            return None
        return [-1 if dim is None else dim for dim in dims]

    node = choose(rng, [node for node in graph.nodes("Squeeze", "Unsqueeze") if shape(node)])
    if node is None:
        return False
    new = helper.make_node(
        "Reshape", [node.input[0], graph.constant(np.array(shape(node), np.int64))], [node.output[0]]
    )
    graph.replace(node, new)
    return True


def reshape_to_squeeze(graph, rng):
    """Of matrices with a dimension of size 1 in front or behind."""
    def axis(node):
        dims, new = graph.dims(node.input[0]), graph.dims(node.output[0])
        if not dims or not new or len(dims) != len(new) + 1 or 1 not in dims or None in dims[1:]:
            return None
        return next((i for i in (0, len(dims) - 1) if dims[i] == 1 and dims[:i] + dims[i + 1 :] == new), None)

    node = choose(rng, [node for node in graph.nodes("Reshape") if axis(node) is not None])
    if node is None:
        return False
    axes = graph.constant(np.array([axis(node)], np.int64))
    graph.replace(node, helper.make_node("Squeeze", [node.input[0], axes], list(node.output)))
    return True


def swap_in_chain(graph, rng):
    """Two terms of a sum, such as experts, in the other order: (a + b) + c = (a + c) + b, and
    the same for rows that are added in one place after the other."""
    pairs = []
    for outer in graph.nodes("Add", "ScatterND", "ScatterElements"):
        inner = graph.producer(outer.input[0])
        adds = outer.op_type == "Add" or attribute(outer, "reduction", b"none") == b"add"
        if not adds or inner is None or inner.op_type != outer.op_type or len(graph.users(inner.output[0])) != 1:
            continue
        if outer.op_type == "Add":
            # What is added last may be a shared expert, which belongs behind the others.
            users = [user.op_type for user in graph.users(outer.output[0]) if not isinstance(user, str)]
            if "Add" not in users:
                continue
            dims = [graph.dims(name) for name in (*inner.input, outer.input[1], inner.output[0])]
            if None in dims or any(dim != dims[0] or None in dim[1:] for dim in dims) or len(dims[0]) < 2:
                continue
        elif attribute(inner, "reduction", b"none") != b"add":
            continue
        pairs.append((inner, outer))
    if not pairs:
        return False
    inner, outer = choose(rng, pairs)
    inner.input[1:], outer.input[1:] = list(outer.input[1:]), list(inner.input[1:])
    graph.sort(lambda ready: ready[0])
    return True


def rename(graph, rng):
    """All values but inputs and outputs, in no order."""
    kept = graph.outputs | {value.name for value in graph.graph.input} | {""}
    names = {tensor.name for tensor in graph.graph.initializer}
    names |= {name for node in graph.graph.node for name in node.output}
    new = dict(zip(sorted(names - kept), rng.permutation(len(names))))
    for node in graph.graph.node:
        for field in (node.input, node.output):
            field[:] = [f"v{new[name]}" if name in new else name for name in field]
    for tensor in graph.graph.initializer:
        tensor.name = f"v{new[tensor.name]}" if tensor.name in new else tensor.name
    for info in graph.graph.value_info:
        info.name = f"v{new[info.name]}" if info.name in new else info.name
    graph.types = {f"v{new[name]}" if name in new else name: type for name, type in graph.types.items()}
    return True


def reorder(graph, rng):
    """Another topological order."""
    graph.sort(lambda ready: choose(rng, ready))
    return True


PRESERVING = (
    identity,
    cast,
    reshapes,
    transposes,
    commute,
    gemm_to_matmul,
    matmul_to_gemm,
    matmul_add_to_gemm,
    to_swish,
    from_swish,
    split_to_slices,
    slices_to_split,
    squeeze_to_reshape,
    reshape_to_squeeze,
    swap_in_chain,
)
# Once, at the end: they touch every node.
WHOLE_GRAPH = (rename, reorder)


# Rewrites that change the meaning of a MoE block.


def scatter_into_ones(graph, rng):
    node = choose(rng, graph.nodes("ScatterElements", "ScatterND"))
    if node is None or graph.dtype(node.output[0]) not in FLOATS + (0,):
        return False
    base = graph.name("base")
    one = graph.constant(np.ones([], np.float32))
    graph.insert_before(node, helper.make_node("Add", [node.input[0], one], [base]))
    node.input[0] = base
    return True


def other_activation(graph, rng):
    node = choose(rng, graph.nodes("Sigmoid", "Relu"))
    if node is None:
        return False
    node.op_type = "Tanh"
    return True


def swapped_experts(graph, rng):
    """Two experts exchange their tokens: in the comparison with the ids, or in the mask."""
    def is_pick(node):
        index = graph.value(node.input[1])
        if index is None or index.size != 1:
            return False
        users = [user.op_type for user in graph.users(node.output[0]) if not isinstance(user, str)]
        return node.op_type == "Equal" or "NonZero" in users

    picks = [node for node in graph.nodes("Equal", "Gather") if is_pick(node)]
    if len(picks) < 2:
        return False
    first, second = rng.choice(len(picks), 2, replace=False)
    first, second = picks[first], picks[second]
    first.input[1], second.input[1] = second.input[1], first.input[1]
    return True


def other_k(graph, rng):
    """One more expert is chosen than the rest of the graph, or some of it, was made for."""
    def can_grow(node):
        k, dims = graph.value(node.input[1]), graph.dims(node.input[0])
        axis = attribute(node, "axis", -1)
        return k is not None and dims is not None and dims[axis] is not None and k.item() < dims[axis]

    # That among the most candidates chooses experts, others groups of them.
    nodes = [node for node in graph.nodes("TopK") if can_grow(node)]
    if not nodes:
        return False
    node = max(nodes, key=lambda node: graph.dims(node.input[0])[attribute(node, "axis", -1)])
    node.input[1] = graph.constant(graph.value(node.input[1]) + 1)
    del graph.graph.value_info[:]
    return True


def normalised_over_tokens(graph, rng):
    for node in graph.nodes("Div"):
        divisor = graph.producer(node.input[1])
        if divisor is not None and divisor.op_type == "ReduceSum" and len(divisor.input) > 1:
            divisor.input[1] = graph.constant(np.array([0]))
            return True
    return False


def squared_weights(graph, rng):
    for node in graph.nodes("Div"):
        divisor = graph.producer(node.input[1])
        if divisor is not None and divisor.op_type == "ReduceSum":
            node.op_type = "Mul"
            return True
    return False


def second_user(graph, rng):
    """An interior value becomes an output, too."""
    inner = [node for node in graph.nodes("Mul", "MatMul", "Gemm", "Softmax") if node.output[0] not in graph.outputs]
    inner = [node for node in inner if graph.dims(node.output[0]) and graph.dtype(node.output[0])]
    node = choose(rng, inner)
    if node is None:
        return False
    copy = graph.name("copy")
    graph.graph.node.append(helper.make_node("Identity", [node.output[0]], [copy]))
    info = helper.make_tensor_value_info(copy, graph.dtype(node.output[0]), graph.dims(node.output[0]))
    graph.graph.output.append(info)
    return True


BREAKING = (
    scatter_into_ones,
    other_activation,
    swapped_experts,
    other_k,
    normalised_over_tokens,
    squared_weights,
    second_user,
)

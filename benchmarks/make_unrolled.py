# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes a large model whose experts an exporter unrolled: for each expert of each layer about 25
nodes and three initializers, each at its own offset of one file. Random weights.

    python make_unrolled.py FOLDER [--layers 48] [--experts 128] [--top-k 8] [--hidden 64] [--intermediate 32]

A layer is x + moe(rms_norm(x)): softmax router, normalised top-k, silu-gated experts, spelled as PyTorch's
exporters spell a loop over experts that was not replaced (NonZero of the expert's row of the mask, GatherND of its
tokens, ScatterND of its outputs).
"""

import argparse
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20


class Writer:
    """The nodes of a graph, and its weights in one file."""

    def __init__(self, file, seed):
        self.nodes, self.initializers = [], []
        self._file, self._random = file, np.random.default_rng(seed)
        self._constants = {}

    def weight(self, name, shape):
        values = self._random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[0]))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        location = {"location": pathlib.Path(self._file.name).name, "offset": self._file.tell(), "length": values.nbytes}
        for key, value in location.items():
            tensor.external_data.add(key=key, value=str(value))
        self._file.write(values.tobytes())
        self.initializers.append(tensor)
        return name

    def constant(self, value, dtype=np.int64):
        values = np.asarray(value, dtype)
        key = (values.tobytes(), values.dtype.str, values.shape)
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(values, self._constants[key]))
        return self._constants[key]

    def node(self, op, *inputs, outputs=1, **attributes):
        names = [f"{op.lower()}_{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"node_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names


def add_norm(w, x, name, hidden):
    square = w.node("Pow", x, w.constant(2, np.float32))
    mean = w.node("ReduceMean", square, w.constant([-1]), keepdims=1)
    root = w.node("Sqrt", w.node("Add", mean, w.constant(1e-6, np.float32)))
    return w.node("Mul", w.node("Mul", x, w.node("Reciprocal", root)), w.weight(f"{name}.norm", [hidden]))


def add_router(w, x, name, sizes):
    """(mask [experts, k, tokens], weights [tokens, k, 1])"""
    logits = w.node("MatMul", x, w.weight(f"{name}.router", [sizes.hidden, sizes.experts]))
    scores, ids = w.node("TopK", w.node("Softmax", logits, axis=-1), w.constant([sizes.top_k]), outputs=2, axis=-1)
    weights = w.node("Div", scores, w.node("ReduceSum", scores, w.constant([-1]), keepdims=1))
    hot = w.node("Equal", w.node("Unsqueeze", ids, w.constant([-1])), w.constant(np.arange(sizes.experts)))
    mask = w.node("Transpose", w.node("Cast", hot, to=TensorProto.INT64), perm=[2, 1, 0])
    return mask, w.node("Unsqueeze", weights, w.constant([2]))


def add_column(w, pairs, column):
    taken = w.node("Slice", pairs, w.constant([column]), w.constant([column + 1]), w.constant([1]))
    return w.node("Unsqueeze", w.node("Squeeze", taken, w.constant([1])), w.constant([-1]))


def add_expert(w, x, mask, weights, base, expert, name, sizes):
    row = w.node("Gather", mask, w.constant(expert), axis=0)
    pairs = w.node("Transpose", w.node("NonZero", row), perm=[1, 0])
    slots, tokens = add_column(w, pairs, 0), add_column(w, pairs, 1)
    rows = w.node("Transpose", w.node("GatherND", x, tokens), perm=[1, 0, 2])
    rows = w.node("Reshape", rows, w.constant([-1, sizes.hidden]))
    gate = w.node("MatMul", rows, w.weight(f"{name}.gate", [sizes.hidden, sizes.intermediate]))
    up = w.node("MatMul", rows, w.weight(f"{name}.up", [sizes.hidden, sizes.intermediate]))
    inner = w.node("Mul", w.node("Mul", gate, w.node("Sigmoid", gate)), up)
    down = w.node("MatMul", inner, w.weight(f"{name}.down", [sizes.intermediate, sizes.hidden]))
    weight = w.node("GatherND", weights, w.node("Concat", tokens, slots, axis=-1))
    return w.node("ScatterND", base, tokens, w.node("Mul", down, weight), reduction="add")


def add_layer(w, x, name, sizes):
    normed = add_norm(w, x, name, sizes.hidden)
    mask, weights = add_router(w, normed, name, sizes)
    result = w.node("Expand", w.constant(0, np.float32), w.node("Shape", normed))
    column = w.node("Unsqueeze", normed, w.constant([1]))
    for expert in range(sizes.experts):
        result = add_expert(w, column, mask, weights, result, expert, f"{name}.{expert}", sizes)
    return w.node("Add", x, result)


def write_model(folder, sizes, seed=0):
    """Writes FOLDER/unrolled.onnx and unrolled.bin; the number of nodes."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "unrolled.bin", "wb") as file:
        w, x = Writer(file, seed), "x"
        for layer in range(sizes.layers):
            x = add_layer(w, x, f"layer{layer}", sizes)
        w.nodes.append(helper.make_node("Identity", [x], ["y"], name="output"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", sizes.hidden]) for name in ("x", "y")]
    graph = helper.make_graph(w.nodes, "unrolled", values[:1], values[1:], w.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.save(model, folder / "unrolled.onnx")
    return len(w.nodes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    for name, default in {"layers": 48, "experts": 128, "top_k": 8, "hidden": 64, "intermediate": 32}.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    sizes = parser.parse_args()
    print(f"{write_model(sizes.folder, sizes)} nodes")


if __name__ == "__main__":
    main()

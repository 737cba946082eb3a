# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One MoE layer: its ONNX model, its weights, and its results in float64.

The inputs are x [T,H] and the logits [T,E]; the k largest logits of a token choose its
experts, whose weights are the softmax of those. Experts are silu(gate) · up, then down.
"""

import dataclasses
import os

import numpy as np

BLOCK = 32
NAMED = {
    "mixtral": "8,2,4096,14336",
    "qwen3": "128,8,2048,768",
    "deepseek": "32,8,7168,2048",
    "olmoe": "64,8,2048,1024",
    "gpt-oss": "32,4,2880,2880",
    "switch": "128,1,768,3072",
    "odd": "5,3,72,40",
}
TYPES = ("bf16", "f32", "int8", "int4")


@dataclasses.dataclass(frozen=True)
class Layer:
    name: str
    experts: int
    k: int
    hidden: int
    intermediate: int

    @staticmethod
    def parse(text):
        """A name, or E,k,H,I."""
        return Layer(text, *(int(word) for word in NAMED.get(text, text).split(",")))

    def __str__(self):
        return f"E{self.experts}_k{self.k}_H{self.hidden}_I{self.intermediate}"

    def expert_bytes(self, dtype):
        """Of one expert's three matrices, scales included."""
        per_weight = {"f32": 4, "bf16": 2, "int8": 1 + 4 / BLOCK, "int4": 0.5 + 4 / BLOCK}[dtype]
        return 3 * self.hidden * self.intermediate * per_weight

    def floor_ms(self, dtype, tokens, active, gb_per_s, gflops):
        """The time below which nothing can go: activated weights and activations through
        memory, or useful multiply-adds through the float32 units."""
        moved = active * self.expert_bytes(dtype) + 8 * tokens * self.hidden
        work = 6 * tokens * self.k * self.hidden * self.intermediate
        return max(moved / gb_per_s, work / gflops) / 1e6


def import_onnx():
    """Only making a model needs it."""
    import onnx

    return onnx, onnx.TensorProto, onnx.helper


class ExternalData:
    """Appends tensors, expert by expert, to one file beside the model."""

    def __init__(self, path):
        self.path, self.file, self.offset, self.tensors = path, path.open("wb"), 0, []

    def add(self, name, element_type, experts, one_expert):
        """`one_expert()` gives the values of the next expert."""
        self.offset = -(-self.offset // 4096) * 4096
        self.file.seek(self.offset)
        for _ in range(experts):
            values = one_expert()
            self.file.write(values.tobytes())
        _, TensorProto, _ = import_onnx()
        result = TensorProto(name=name, data_type=element_type, dims=(experts, *values.shape))
        result.data_location = TensorProto.EXTERNAL
        length = experts * values.nbytes
        for key, value in (("location", self.path.name), ("offset", self.offset), ("length", length)):
            result.external_data.add(key=key, value=str(value))
        self.offset += length
        self.tensors.append(result)


def make_model(layer, dtype, folder, accuracy_level=None):
    """Path of the ONNX model, made unless it is there. bf16 is the float32 model, which
    is converted later."""
    stored = "f32" if dtype == "bf16" else dtype
    path = folder / f"layer_{stored}_{layer}{f'_level{accuracy_level}' if accuracy_level else ''}.onnx"
    if path.exists():
        return path
    onnx, TensorProto, helper = import_onnx()
    if accuracy_level:
        model = onnx.load(make_model(layer, dtype, folder), load_external_data=False)
        model.graph.node[0].attribute.append(helper.make_attribute("accuracy_level", accuracy_level))
        onnx.save(model, path)
        return path
    random = np.random.default_rng(0)
    data = ExternalData(path.with_suffix(".data"))
    names = ["x", "logits"]
    for name, rows, depth in (("fc1", 2 * layer.intermediate, layer.hidden), ("fc2", layer.hidden, layer.intermediate)):
        if stored == "f32":
            scale = np.float32(depth**-0.5)
            data.add(name, TensorProto.FLOAT, layer.experts, lambda: random.standard_normal((rows, depth), dtype=np.float32) * scale)
            names += [name, ""]
            continue
        bits = int(stored[3:])
        scale = np.float32(2 ** (1 - bits) * 2 * depth**-0.5)
        data.add(name, TensorProto.UINT8, layer.experts, lambda: random.integers(0, 256, (rows, depth * bits // 8), dtype=np.uint8))
        data.add(name + "_scales", TensorProto.FLOAT, layer.experts, lambda: (random.random((rows, depth // BLOCK), dtype=np.float32) + 0.5) * scale)
        names += [name, name + "_scales", ""]
    data.file.close()
    while not names[-1]:
        names.pop()
    attributes = dict(k=layer.k, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0, normalize_routing_weights=1)
    if stored != "f32":
        attributes.update(expert_weight_bits=bits, block_size=BLOCK)
    node = helper.make_node("MoE" if stored == "f32" else "QMoE", names, ["y"], name="experts", domain="com.microsoft", **attributes)
    shapes = (("x", layer.hidden), ("logits", layer.experts), ("y", layer.hidden))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", size]) for name, size in shapes]
    graph = helper.make_graph([node], "layer", values[:2], values[2:], data.tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def forget_pages(layer, folder):
    """Makes room in memory: every program has its own copy of the weights by now."""
    for path in folder.glob(f"layer_*_{layer}.data"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Weights:
    """The weights of a model made above, read expert by expert."""

    def __init__(self, layer, dtype, folder):
        self.dtype = dtype
        onnx, TensorProto, _ = import_onnx()
        path = make_model(layer, dtype, folder)
        self.tensors = {}
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            kind = np.uint8 if tensor.data_type == TensorProto.UINT8 else np.float32
            self.tensors[tensor.name] = np.memmap(path.with_name(place["location"]), kind, "r", int(place["offset"]), tuple(tensor.dims))

    def matrix(self, name, expert):
        """f32 [rows, depth] as every program sees it; fc1's rows are gate, up, gate, …"""
        stored = np.asarray(self.tensors[name][expert])
        if self.dtype == "f32":
            return stored
        if self.dtype == "bf16":
            return round_to_bfloat16(stored)
        codes = stored
        if self.dtype == "int4":
            codes = np.stack([stored & 15, stored >> 4], axis=-1).reshape(stored.shape[0], -1)
        middle = 2 ** (int(self.dtype[3:]) - 1)
        scales = np.repeat(self.tensors[name + "_scales"][expert], BLOCK, axis=1)
        return (codes.astype(np.float32) - middle) * scales

    def gate_up_down(self, expert):
        both = self.matrix("fc1", expert)
        return both[0::2], both[1::2], self.matrix("fc2", expert)


def round_to_bfloat16(values):
    """f32 rounded to the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def route(logits, k):
    """(experts, weights) [T,k]."""
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(logits, chosen, axis=1).astype(np.float64)
    weights = np.exp(best - best.max(axis=1, keepdims=True))
    return chosen, weights / weights.sum(axis=1, keepdims=True)


def expected(layer, weights, x, logits):
    """The layer's results in float64."""
    experts, factors = route(logits, layer.k)
    y = np.zeros(x.shape, np.float64)
    for expert in np.unique(experts):
        gate, up, down = (matrix.astype(np.float64) for matrix in weights.gate_up_down(expert))
        tokens, slots = np.nonzero(experts == expert)
        rows = x[tokens].astype(np.float64)
        g = rows @ gate.T
        y[tokens] += ((g / (1 + np.exp(-g)) * (rows @ up.T)) @ down.T) * factors[tokens, slots, None]
    return y

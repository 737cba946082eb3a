# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Random MoE and QMoE models: a Layer says which, `build` makes the ONNX model,
`draw_inputs` its inputs, `layers()` is the hypothesis strategy over all of them."""

import dataclasses
from random import Random
from typing import Optional

import ml_dtypes
import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from . import moe as definition

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ELEMENT_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One MoE or QMoE node. `bits` 0 is MoE; `block` 0 is one scale per row."""

    experts: int = 5
    k: int = 3
    hidden: int = 72
    intermediate: int = 40
    dtype: str = "float32"
    activation: str = "relu"
    fusion: int = 0
    third: bool = False  # fc3
    biases: bool = False
    normalize: bool = True
    sparse_mixer: bool = False
    alpha: Optional[float] = None
    beta: Optional[float] = None
    limit: Optional[float] = None
    bits: int = 0
    block: int = 0
    zero_points: bool = False
    scale_column: bool = False  # row scales declared as [E, N, 1]
    router_weights: bool = False
    legacy: bool = False  # declared [E, H, F*I] and [E, I, H], the same bytes
    rank: int = 2
    ties: bool = False
    seed: int = 0

    @property
    def operator(self):
        return "QMoE" if self.bits else "MoE"

    @property
    def fused(self):
        return 2 if self.activation == "swiglu" and not self.third else 1


# --- tensors ----------------------------------------------------------------------


class _Initializers:
    """Draws weights from one seed and remembers them for the graph."""

    def __init__(self, layer):
        self.layer = layer
        self.random = np.random.default_rng(layer.seed)
        self.tensors = []

    def add(self, name, values):
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def bias(self, name, rows):
        if not self.layer.biases:
            return ""
        values = self.random.normal(0, 0.5, (self.layer.experts, rows))
        return self.add(name, values.astype(DTYPES[self.layer.dtype]))

    def add_matrix(self, name, values, depth):
        """Adds weights [E, N, K] under the dimensions that the model declares."""
        if self.layer.legacy:
            values = values.reshape(self.layer.experts, depth, -1)
        return self.add(name, values)

    def matrix(self, name, rows, depth):
        values = self.random.normal(0, depth**-0.5, (self.layer.experts, rows, depth))
        return self.add_matrix(name, values.astype(DTYPES[self.layer.dtype]), depth)

    def quantized_matrix(self, name, rows, depth):
        """Names of the packed weights, their scales and their zero points ("" without)."""
        layer, shape = self.layer, (self.layer.experts, rows, depth)
        levels = 1 << layer.bits
        blocks = depth // layer.block if layer.block else 1
        packed = definition.pack(self.random.integers(0, levels, shape), layer.bits, axis=2)
        scales = self.random.uniform(0.5, 1.5, (layer.experts, rows, blocks)) * 2 / (levels * depth**0.5)
        scales = scales.astype(DTYPES[layer.dtype])
        if not layer.block and not layer.scale_column:
            scales = scales[:, :, 0]
        names = [self.add_matrix(name, packed, depth), self.add(name + "_scales", scales), ""]
        if layer.zero_points:
            zeros = self.random.integers(0, levels, (layer.experts, rows, blocks))
            if not layer.block:
                zeros = zeros[:, :, 0]
            names[2] = self.add(name + "_zero_points", definition.pack(zeros, layer.bits, axis=-1))
        return names


def _node_inputs(layer, weights):
    first_rows = layer.fused * layer.intermediate
    shapes = [("fc1", first_rows, layer.hidden), ("fc2", layer.hidden, layer.intermediate)]
    if layer.third:
        shapes.append(("fc3", layer.intermediate, layer.hidden))
    if not layer.bits:
        names = []
        for name, rows, depth in shapes:
            names += [weights.matrix(name, rows, depth), weights.bias(name + "_bias", rows)]
        return names
    names, zeros = [], []
    for name, rows, depth in shapes:
        packed, scales, zero_points = weights.quantized_matrix(name, rows, depth)
        names += [packed, scales, weights.bias(name + "_bias", rows)]
        zeros.append(zero_points)
    names += [""] * (9 - len(names)) + zeros + [""] * (3 - len(zeros))
    return names + (["router_weights"] if layer.router_weights else [])


def _attributes(layer):
    values = {
        "k": layer.k,
        "activation_type": layer.activation,
        "normalize_routing_weights": int(layer.normalize),
        "use_sparse_mixer": int(layer.sparse_mixer),
        "swiglu_fusion": layer.fusion,
        "activation_alpha": layer.alpha,
        "activation_beta": layer.beta,
        "swiglu_limit": layer.limit,
    }
    if layer.bits:
        values["expert_weight_bits"] = layer.bits
        values["block_size"] = layer.block or None
    return {name: value for name, value in values.items() if value is not None}


def build(layer):
    """The model: inputs `hidden`, `logits` (and `router_weights`), output `output`."""
    weights = _Initializers(layer)
    names = ["hidden", "logits", *_node_inputs(layer, weights)]
    while not names[-1]:
        names.pop()
    node = helper.make_node(layer.operator, names, ["output"], name="experts", domain="com.microsoft", **_attributes(layer))
    element = ELEMENT_TYPES[layer.dtype]
    hidden = ["batch", "sequence", layer.hidden] if layer.rank == 3 else ["tokens", layer.hidden]
    routes = ["batch*sequence" if layer.rank == 3 else "tokens", layer.experts]
    inputs = [helper.make_tensor_value_info("hidden", element, hidden), helper.make_tensor_value_info("logits", element, routes)]
    if layer.router_weights:
        inputs.append(helper.make_tensor_value_info("router_weights", element, routes))
    outputs = [helper.make_tensor_value_info("output", element, hidden)]
    graph = helper.make_graph([node], "layer", inputs, outputs, weights.tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


# --- inputs -----------------------------------------------------------------------


def draw_logits(layer, tokens, random):
    """Logits that every dtype holds exactly and whose order no rounding can change:
    distinct ones, or (ties) few values, so that equal logits compete for the k-th place."""
    if layer.sparse_mixer:
        # Close together, so that the 2 % window of the sparse mixer holds several.
        steps = random.permuted(np.tile(np.arange(layer.experts), (tokens, 1)), axis=1)
        return 2.0 + steps / 64.0
    if layer.ties:
        return random.integers(-2, 3, (tokens, layer.experts)) / 2.0
    steps = random.permuted(np.tile(np.arange(layer.experts), (tokens, 1)), axis=1)
    return (steps - layer.experts // 2) / 8.0


def draw_inputs(layer, tokens, seed=0):
    """Inputs by name. With rank 3, the tokens are a batch of one or of two sequences."""
    random = np.random.default_rng((seed, layer.seed, tokens))
    dtype = DTYPES[layer.dtype]
    hidden = random.normal(size=(tokens, layer.hidden))
    if layer.rank == 3:
        batch = 2 if tokens % 2 == 0 else 1
        hidden = hidden.reshape(batch, tokens // batch, layer.hidden)
    inputs = {"hidden": hidden.astype(dtype), "logits": draw_logits(layer, tokens, random).astype(dtype)}
    if layer.router_weights:
        inputs["router_weights"] = random.uniform(0.1, 1.0, (tokens, layer.experts)).astype(dtype)
    return inputs


def sparse_mixer_is_decided(logits):
    """Whether no logit lies so near the edge of the 2 % window that rounding decides."""
    logits = np.asarray(logits).astype(np.float64)
    for top in (np.sort(logits, axis=-1)[:, -1:], np.sort(logits, axis=-1)[:, -2:-1]):
        factor = np.maximum(np.abs(logits), top)
        edge = top - logits - 2 * definition.SPARSE_MIXER_JITTER * factor
        if (np.abs(edge) < 1e-6 * factor).any():
            return False
    return True


# --- strategies -------------------------------------------------------------------

# activation_type, swiglu_fusion, fc3
FORMS = [
    ("relu", 0, False),
    ("gelu", 0, False),
    ("silu", 0, False),
    ("identity", 0, False),
    ("silu", 0, True),
    ("swiglu", 0, True),
    ("swiglu", 1, False),
    ("swiglu", 2, False),
]


def draw_layer(random, form, dtype, quantized):
    """A layer over all attributes and odd sizes; only combinations that mean something.
    Drawn evenly: hypothesis' own choices prefer simple values and repeat themselves,
    and a few dozen examples would leave out most attributes."""

    def sometimes():
        return random.random() < 0.5

    activation, fusion, third = form
    is_swiglu = activation == "swiglu"
    bits = random.choice([2, 4, 8]) if quantized else 0
    block = random.choice([0, 16, 32]) if quantized else 0
    step = block or (8 // bits if bits else 1)
    sparse_mixer = random.random() < 0.125
    experts = random.choice([2, 3, 5, 8, 16] if sparse_mixer else [1, 2, 3, 5, 8, 13])
    hidden = step * random.randint(1, max(1, 80 // step))
    intermediate = step * random.randint(1, max(1, 80 // step))
    return Layer(
        experts=experts,
        k=2 if sparse_mixer else random.randint(1, experts),
        hidden=hidden,
        intermediate=intermediate,
        dtype=dtype,
        activation=activation,
        fusion=fusion,
        third=third,
        biases=sometimes(),
        normalize=sometimes(),
        sparse_mixer=sparse_mixer,
        alpha=random.choice([None, 1.702]) if is_swiglu else None,
        beta=random.choice([None, 1.0]) if is_swiglu else None,
        limit=random.choice([None, 0.75]) if is_swiglu else None,
        bits=bits,
        block=block,
        zero_points=bool(bits) and sometimes(),
        scale_column=bool(bits) and not block and sometimes(),
        router_weights=bool(bits) and not sparse_mixer and sometimes(),
        # Without fusion, H = I says nothing about which of the two was meant.
        legacy=not third and hidden != intermediate and random.random() < 0.25,
        rank=random.choice([2, 3]),
        ties=not sparse_mixer and sometimes(),
        seed=random.randint(0, 1000),
    )


def layers(forms=FORMS, dtypes=tuple(DTYPES), quantized=(False, True)):
    def draw(source):
        # Strategies over other forms draw other layers, though hypothesis repeats itself.
        random = Random(f"{forms} {quantized} {source.random()}")
        return draw_layer(random, random.choice(forms), random.choice(dtypes), random.choice(quantized))

    return st.randoms(use_true_random=True).map(draw)


def token_counts():
    return st.sampled_from([0, 1, 2, 3, 7, 33, 64, 130])

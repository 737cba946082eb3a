# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What com.microsoft.MoE and com.microsoft.QMoE mean, in NumPy float64.

Written from the operators' definition, for reading beside it; nothing here is
fast. Where implementations differ, this is what moec promises:

- MoE:  softmax over all experts, then the k largest; QMoE: the k largest logits,
        then a softmax over those k, whatever normalize_routing_weights says.
- Equal logits: the lower expert index is chosen first.
- A token whose logits hold a NaN gives a row of NaN.
- use_sparse_mixer is computed (k = 2), and never normalised.

Notation: T tokens, E experts, H hidden size, I intermediate size, K the axis that
is summed over, N the axis of a product's output.
"""

import dataclasses
from typing import Optional

import numpy as np

SPARSE_MIXER_JITTER = 0.01


# --- routing: each function returns (ids[T,k], weights[T,k]) ------------------


def top_k_ids(keys, k):
    """The k largest of each row, largest first, the lower index first among equals."""
    return np.argsort(-keys, axis=-1, kind="stable")[:, :k]


def softmax(x):
    with np.errstate(invalid="ignore"):
        exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)


def take(rows, ids):
    return np.take_along_axis(rows, ids, axis=-1)


def divide_by_sum(weights):
    """Weights divided by their sum; rows that sum to zero stay zero."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)


def route_moe(logits, k, normalize):
    ids = top_k_ids(logits, k)
    weights = take(softmax(logits), ids)
    if normalize:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return ids, weights


def route_qmoe(logits, k, normalize, router_weights=None):
    ids = top_k_ids(logits, k)
    if router_weights is None:
        return ids, softmax(take(logits, ids))
    weights = take(router_weights, ids)
    return ids, divide_by_sum(weights) if normalize else weights


def route_sparse_mixer(logits):
    """Two rounds; each winner's softmax leaves out the experts far below it, and
    the second one also the first winner."""
    ids, weights = [], []
    remaining = logits.copy()
    for _ in range(2):
        winner = remaining.argmax(axis=-1)[:, None]
        top = take(remaining, winner)
        factor = np.maximum(np.abs(logits), top)
        far = top - logits > 2 * SPARSE_MIXER_JITTER * factor
        near = np.where(far, -np.inf, remaining)
        ids.append(winner)
        weights.append(take(softmax(near), winner))
        np.put_along_axis(remaining, winner, -np.inf, axis=-1)
    return np.concatenate(ids, axis=-1), np.concatenate(weights, axis=-1)


# --- experts --------------------------------------------------------------------


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": gelu_tanh,
    "silu": lambda x: x * sigmoid(x),
    "identity": lambda x: x,
}


def swiglu(gate, linear, alpha, beta, limit):
    if limit is not None:
        gate = np.minimum(gate, limit)
        linear = np.clip(linear, -limit, limit)
    return gate * sigmoid(alpha * gate) * (linear + beta)


def activate(first, third, kind, fusion, alpha, beta, limit):
    """The hidden rows of one expert. `first` is x·fc1 + bias, `third` x·fc3 + bias or None."""
    if kind != "swiglu":
        hidden = ACTIVATIONS[kind](first)
        return hidden if third is None else hidden * third
    if third is not None:
        return swiglu(first, third, alpha, beta, limit)
    if fusion == 2:
        gate, linear = np.split(first, 2, axis=-1)
    else:  # 1, and 0 without fc3, which is read as 1
        gate, linear = first[:, 0::2], first[:, 1::2]
    return swiglu(gate, linear, alpha, beta, limit)


def run_experts(x, ids, weights, fc1, fc2, fc3, fc1_bias, fc2_bias, fc3_bias, activation):
    """Σ over a token's routes of weight · expert(x). Weights are [E, N, K]."""

    def product(rows, matrix, bias, expert):
        result = rows @ matrix[expert].T
        return result if bias is None else result + bias[expert]

    output = np.zeros_like(x)
    for expert in range(fc1.shape[0]):
        tokens, slots = np.nonzero(ids == expert)
        if tokens.size == 0:
            continue
        rows = x[tokens]
        first = product(rows, fc1, fc1_bias, expert)
        third = None if fc3 is None else product(rows, fc3, fc3_bias, expert)
        hidden = activate(first, third, **activation)
        # A token chooses an expert at most once, so plain += adds every route.
        output[tokens] += weights[tokens, slots][:, None] * product(hidden, fc2, fc2_bias, expert)
    return output


def compute(x, logits, ids_and_weights, **experts):
    rows = x.reshape(-1, x.shape[-1])
    output = run_experts(rows, *ids_and_weights, **experts)
    output[np.isnan(logits).any(axis=-1)] = np.nan
    return output.reshape(x.shape)


def as_float64(*arrays):
    return [None if array is None else np.asarray(array).astype(np.float64) for array in arrays]


def relabel(weights, rows):
    """[E, rows, rest]: legacy models declare other dimensions for the same bytes."""
    return weights.reshape(weights.shape[0], rows, -1)


# --- the operators ----------------------------------------------------------------


@dataclasses.dataclass
class Attributes:
    """Those of both operators, with the defaults of their schema."""

    activation_type: str = "relu"
    k: int = 1
    normalize_routing_weights: int = 0
    use_sparse_mixer: int = 0
    swiglu_fusion: int = 0
    swiglu_limit: Optional[float] = None
    activation_alpha: float = 1.0
    activation_beta: float = 0.0
    expert_weight_bits: int = 4
    block_size: int = 0
    quant_type: str = "int"
    weights_prepacked: int = 0

    def activation(self):
        return dict(
            kind=self.activation_type,
            fusion=self.swiglu_fusion,
            alpha=self.activation_alpha,
            beta=self.activation_beta,
            limit=self.swiglu_limit,
        )


def moe(
    input,
    router_probs,
    fc1_experts_weights,
    fc1_experts_bias=None,
    fc2_experts_weights=None,
    fc2_experts_bias=None,
    fc3_experts_weights=None,
    fc3_experts_bias=None,
    **attributes,
):
    """com.microsoft.MoE; inputs and attributes by the operator's own names."""
    attributes = Attributes(**attributes)
    x, logits = as_float64(input, router_probs)
    fc1, fc2, fc3 = as_float64(fc1_experts_weights, fc2_experts_weights, fc3_experts_weights)
    fc1_bias, fc2_bias, fc3_bias = as_float64(fc1_experts_bias, fc2_experts_bias, fc3_experts_bias)
    hidden_size = x.shape[-1]
    if attributes.use_sparse_mixer:
        routes = route_sparse_mixer(logits)
    else:
        routes = route_moe(logits, attributes.k, attributes.normalize_routing_weights)
    return compute(
        x,
        logits,
        routes,
        fc1=relabel(fc1, fc1[0].size // hidden_size),
        fc2=relabel(fc2, hidden_size),
        fc3=fc3,
        fc1_bias=fc1_bias,
        fc2_bias=fc2_bias,
        fc3_bias=fc3_bias,
        activation=attributes.activation(),
    )


def qmoe(
    input,
    router_probs,
    fc1_experts_weights,
    fc1_scales,
    fc1_experts_bias,
    fc2_experts_weights,
    fc2_scales,
    fc2_experts_bias=None,
    fc3_experts_weights=None,
    fc3_scales=None,
    fc3_experts_bias=None,
    fc1_zero_points=None,
    fc2_zero_points=None,
    fc3_zero_points=None,
    router_weights=None,
    **attributes,
):
    """com.microsoft.QMoE; inputs and attributes by the operator's own names."""
    attributes = Attributes(**attributes)
    assert attributes.quant_type == "int" and attributes.weights_prepacked <= 0
    x, logits, mixing = as_float64(input, router_probs, router_weights)
    fc1_bias, fc2_bias, fc3_bias = as_float64(fc1_experts_bias, fc2_experts_bias, fc3_experts_bias)
    hidden_size = x.shape[-1]
    bits = attributes.expert_weight_bits

    def count(packed):
        """Weights of one expert."""
        return packed[0].size * 8 // bits

    def matrices(packed, scales, zero_points, rows):
        return dequantize(relabel(packed, rows), scales, zero_points, bits, attributes.block_size)

    fc1 = matrices(fc1_experts_weights, fc1_scales, fc1_zero_points, count(fc1_experts_weights) // hidden_size)
    fc2 = matrices(fc2_experts_weights, fc2_scales, fc2_zero_points, hidden_size)
    fc3 = None
    if fc3_experts_weights is not None:
        fc3 = matrices(fc3_experts_weights, fc3_scales, fc3_zero_points, count(fc3_experts_weights) // hidden_size)
    if attributes.use_sparse_mixer:
        routes = route_sparse_mixer(logits)
    else:
        routes = route_qmoe(logits, attributes.k, attributes.normalize_routing_weights, mixing)
    return compute(
        x,
        logits,
        routes,
        fc1=fc1,
        fc2=fc2,
        fc3=fc3,
        fc1_bias=fc1_bias,
        fc2_bias=fc2_bias,
        fc3_bias=fc3_bias,
        activation=attributes.activation(),
    )


# --- quantised weights --------------------------------------------------------------


def unpack(packed, bits, axis, count=None):
    """Integers from bytes along `axis`, the lowest bits of a byte first."""
    packed = np.moveaxis(np.asarray(packed), axis, -1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    values = values.reshape(*packed.shape[:-1], -1)
    return np.moveaxis(values[..., :count], -1, axis)


def pack(values, bits, axis):
    """The opposite of unpack; the last byte is filled up with zeros."""
    values = np.moveaxis(np.asarray(values, dtype=np.uint8), axis, -1)
    per_byte = 8 // bits
    padding = -values.shape[-1] % per_byte
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, padding)])
    values = values.reshape(*values.shape[:-1], -1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.moveaxis(np.bitwise_or.reduce(values << shifts, axis=-1), -1, axis)


def dequantize(packed, scales, zero_points, bits, block_size):
    """(q - zero point) · scale as [E, N, K]. One scale per row, or per block of K.

    Zero points [E, rows packed] belong to rows, [E, N, blocks packed] to blocks (so it
    is when there is one block); without them the middle of the range is zero.
    """
    q = unpack(packed, bits, axis=2).astype(np.float64)
    experts, rows, depth = q.shape
    scales = np.asarray(scales).astype(np.float64)
    blocks = depth // block_size if block_size else 1
    scales = scales.reshape(experts, rows, blocks)
    if zero_points is None:
        zeros = np.full((experts, rows, blocks), float(1 << (bits - 1)))
    elif np.ndim(zero_points) == 2:
        zeros = unpack(zero_points, bits, axis=1, count=rows)[:, :, None].astype(np.float64)
    else:
        zeros = unpack(zero_points, bits, axis=2, count=blocks).astype(np.float64)
    q = q.reshape(experts, rows, blocks, depth // blocks)
    return ((q - zeros[..., None]) * scales[..., None]).reshape(experts, rows, depth)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The layer of layer_model.py for a GPU: rows in bfloat16 or float32, logits in float32, weights from the
generator of synthetic.py. Its text in the moe dialect, and its weights as NumPy sees them."""

import dataclasses

import layer_model
import numpy as np
import synthetic

SEED = 1
TYPES = ("bf16", "f32", "int8", "int4")


class DeviceLayer(layer_model.Layer):
    """Activations of the type of the rows."""

    def floor_ms(self, dtype, tokens, active, gb_per_s, gflops):
        moved = active * self.expert_bytes(dtype) + 2 * (4 if dtype == "f32" else 2) * tokens * self.hidden
        work = 6 * tokens * self.k * self.hidden * self.intermediate
        return max(moved / gb_per_s, work / gflops) / 1e6

    @staticmethod
    def parse(text):
        return DeviceLayer(**dataclasses.asdict(layer_model.Layer.parse(text)))


def package_name(layer, dtype):
    return f"layer_{dtype}_{layer}"


def router_name(experts, k):
    return f"router_E{experts}_k{k}"


def _gating(experts, k):
    return (
        f"  %routing = moe.gating %logits {{score = #moe.score_fn<softmax>, weigh_source = #moe.weigh_source<score>, "
        f"fn = #moe.weigh_fn<none>, k = {k}, norm = #moe.weigh_norm<sum>}} : (tensor<?x{experts}xf32>) -> "
        f"!moe.routing<experts = {experts}, k = {k}, weighted>\n"
    )


def router_text(experts, k):
    """Logits to experts and weights."""
    routing = f"!moe.routing<experts = {experts}, k = {k}, weighted>"
    return (
        f'func.func @main(%logits: tensor<?x{experts}xf32> {{onnx.name = "logits", onnx.dims = ["T", ""]}}) -> '
        f'(tensor<?x{k}xi32> {{onnx.name = "ids"}}, tensor<?x{k}xf32> {{onnx.name = "weights"}}) {{\n'
        f"  %zero = arith.constant 0 : index\n  %tokens = tensor.dim %logits, %zero : tensor<?x{experts}xf32>\n"
        + _gating(experts, k)
        + f"  %ids, %weights = moe.entries %routing tokens(%tokens) : ({routing}, index) -> (tensor<?x{k}xi32>, tensor<?x{k}xf32>)\n"
        f"  return %ids, %weights : tensor<?x{k}xi32>, tensor<?x{k}xf32>\n}}\n"
    )


def has_type(layer, dtype):
    """Whether blocks with a scale are whole."""
    return dtype in ("bf16", "f32") or layer.hidden % layer_model.BLOCK == layer.intermediate % layer_model.BLOCK == 0


def stored_tensors(layer, dtype):
    """{name: (shape, element type)} of the weights: gate rows before up rows."""
    tensors = {}
    for name, rows, depth in (("up", 2 * layer.intermediate, layer.hidden), ("down", layer.hidden, layer.intermediate)):
        if dtype in ("bf16", "f32"):
            tensors[name] = ((layer.experts, rows, depth), dtype)
            continue
        bits, block = int(dtype[3:]), layer_model.BLOCK
        tensors[f"{name}_codes"] = ((layer.experts, rows, depth * bits // 8), "ui8")
        tensors[f"{name}_scales"] = ((layer.experts, rows, depth // block), "f32")
    return tensors


def _type(shape, element):
    return f"tensor<{''.join(f'{size}x' for size in shape)}{element}>"


def layer_text(layer, dtype):
    """Rows and logits to rows; the weights are tensors of a safetensors file."""
    element = "f32" if dtype == "f32" else "bf16"
    x, logits = f"tensor<?x{layer.hidden}x{element}>", f"tensor<?x{layer.experts}xf32>"
    routing = f"!moe.routing<experts = {layer.experts}, k = {layer.k}, weighted>"
    text, loads = "", ""
    for name, (shape, kind) in stored_tensors(layer, dtype).items():
        text += f'moe.weight @{name} from [#moe.tensor<"{name}">] : {_type(shape, kind)}\n'
        loads += f"  %{name} = moe.load_weight @{name} : {_type(shape, kind)}\n"
    banks = {"up": (layer.experts, 2 * layer.intermediate, layer.hidden), "down": (layer.experts, layer.hidden, layer.intermediate)}
    if dtype not in ("bf16", "f32"):
        tensors = stored_tensors(layer, dtype)
        for name, shape in banks.items():
            codes, scales = _type(*tensors[f"{name}_codes"]), _type(*tensors[f"{name}_scales"])
            loads += (
                f"  %{name} = moe.dequantize %{name}_codes scales(%{name}_scales) {{bits = {dtype[3:]}, block = {layer_model.BLOCK}}} : "
                f"({codes}, {scales}) -> {_type(shape, element)}\n"
            )
    types = ", ".join(_type(shape, element) for shape in banks.values())
    return (
        text
        + f'func.func @main(%x: {x} {{onnx.name = "x", onnx.dims = ["T", ""]}}, %logits: {logits} {{onnx.name = "logits", onnx.dims = ["T", ""]}}) -> '
        f'({x} {{onnx.name = "y"}}) {{\n' + loads + _gating(layer.experts, layer.k)
        + f"  %y = moe.experts %x, %routing up(%up) down(%down) <silu, glu = concat> : ({x}, {routing}, {types}) -> {x}\n"
        f"  return %y : {x}\n}}\n"
    )


class Weights:
    """As layer_model.Weights, of a file that synthetic.write made."""

    def __init__(self, layer, dtype, file):
        self.layer, self.dtype, self.file = layer, dtype, file

    def matrix(self, name, expert):
        """f32 [rows, depth]."""
        if self.dtype in ("bf16", "f32"):
            return synthetic.widen(self.file.part(name, expert), self.dtype)
        codes = self.file.part(f"{name}_codes", expert)
        if self.dtype == "int4":
            codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(codes.shape[0], -1)
        scales = np.repeat(self.file.part(f"{name}_scales", expert), layer_model.BLOCK, axis=1)
        return (codes.astype(np.float32) - 2 ** (int(self.dtype[3:]) - 1)) * scales

    def gate_up_down(self, expert):
        both = self.matrix("up", expert)
        return both[: self.layer.intermediate], both[self.layer.intermediate :], self.matrix("down", expert)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Whole ONNX graphs in float64: the standard operators by onnx's own reference
implementation, MoE and QMoE by references.moe."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from . import moe as definition

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def _attributes(node):
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


class MoE(OpRun):
    op_domain = "com.microsoft"

    def _run(self, *inputs, **_):
        return (definition.moe(*inputs, **_attributes(self.onnx_node)),)


class QMoE(OpRun):
    op_domain = "com.microsoft"

    def _run(self, *inputs, **_):
        return (definition.qmoe(*inputs, **_attributes(self.onnx_node)),)


def _tensor_to_float64(tensor):
    if tensor.data_type in FLOATS:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _type_to_float64(value):
    if value.type.tensor_type.elem_type in FLOATS:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def to_float64(model):
    """A copy of `model` in which every floating-point tensor is a double."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        _tensor_to_float64(tensor)
    for value in [*graph.input, *graph.output]:
        _type_to_float64(value)
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _tensor_to_float64(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
    return copy


def evaluate(model, inputs):
    """Outputs by name, in float64. `model` is a ModelProto with its weights loaded."""
    session = ReferenceEvaluator(to_float64(model), new_ops=[MoE, QMoE])
    feeds = {}
    for name, array in inputs.items():
        is_integer = np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_
        feeds[name] = array if is_integer else array.astype(np.float64)
    return dict(zip([output.name for output in model.graph.output], session.run(None, feeds)))


def relative_error(actual, expected):
    """max |Δ| / max |expected|; NaN must stand in the same places."""
    actual = np.asarray(actual).astype(np.float64)
    expected = np.asarray(expected).astype(np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if expected.size == 0:
        return 0.0
    if not np.array_equal(np.isnan(actual), np.isnan(expected)):
        return np.inf
    finite = ~np.isnan(expected)
    if not finite.any():
        return 0.0
    difference = np.abs(actual[finite] - expected[finite]).max()
    largest = np.abs(expected[finite]).max()
    return difference / largest if largest else difference

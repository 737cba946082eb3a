# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""com.microsoft.GroupQueryAttention against ONNX Runtime on the CPU."""

import numpy as np
import onnxruntime
import pytest
from moec.runtime import load
from onnx import TensorProto, helper

RANDOM = np.random.default_rng(13)
HEADS, KEY_HEADS, SIZE, LONGEST = 4, 2, 16, 40
NEW, PAST = ["query", "key", "value"], ["past_key", "past_value"]


def real(*shape):
    return RANDOM.uniform(-1, 1, shape).astype(np.float32)


def make_model(packed=False, past=True, static_total=False, **attributes):
    """total_sequence_length is the number of columns of `mask`, as exporters write it, or an input."""
    optional = {"attention_bias": attributes.pop("bias", False), "head_sink": attributes.pop("sink", False)}
    rotary = attributes.get("do_rotary", 0)
    inputs = [("query", TensorProto.FLOAT, ["B", "S", (HEADS + 2 * KEY_HEADS if packed else HEADS) * SIZE])]
    if not packed:
        inputs += [(name, TensorProto.FLOAT, ["B", "S", KEY_HEADS * SIZE]) for name in NEW[1:]]
    if past:
        inputs += [(name, TensorProto.FLOAT, ["B", KEY_HEADS, "P", SIZE]) for name in PAST]
    inputs += [("seqlens_k", TensorProto.INT32, ["B"])]
    inputs += [("total", TensorProto.INT32, [])] if static_total else [("mask", TensorProto.INT64, ["B", "T"])]
    if rotary:
        inputs += [(name, TensorProto.FLOAT, [LONGEST, SIZE // 2]) for name in ("cos", "sin")]
    if optional["attention_bias"]:
        inputs += [("attention_bias", TensorProto.FLOAT, ["B", HEADS, "S", "T"])]
    if optional["head_sink"]:
        inputs += [("head_sink", TensorProto.FLOAT, [HEADS])]
    given = {name for name, *_ in inputs}
    names = [*NEW, *PAST, "seqlens_k", "total", "cos", "sin", "", "attention_bias", "head_sink"]
    names = [name if name in given or name == "total" else "" for name in names]
    nodes = [] if static_total else [
        helper.make_node("Shape", ["mask"], ["columns"], start=1, end=2),
        helper.make_node("Squeeze", ["columns"], ["column"]),
        helper.make_node("Cast", ["column"], ["total"], to=TensorProto.INT32)]
    nodes += [helper.make_node("GroupQueryAttention", names, ["y", "present_key", "present_value"], domain="com.microsoft",
                               num_heads=HEADS, kv_num_heads=KEY_HEADS, **attributes)]
    present = [(f"present_{name}", TensorProto.FLOAT, ["B", KEY_HEADS, "R", SIZE]) for name in ("key", "value")]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in [("y", TensorProto.FLOAT, ["B", "S", HEADS * SIZE]), *present]])
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)])


def make_inputs(model, rows, past, lengths):
    """`lengths`: past and new rows of each batch."""
    sizes = {"B": len(lengths), "S": rows, "P": past, "T": max(lengths)}
    feeds = {}
    for one in model.graph.input:
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in one.type.tensor_type.shape.dim]
        if one.name == "seqlens_k":
            feeds[one.name] = np.array(lengths, np.int32) - 1
        elif one.name == "total":
            feeds[one.name] = np.array(max(lengths), np.int32)
        elif one.name == "mask":
            feeds[one.name] = np.ones(shape, np.int64)
        else:
            feeds[one.name] = real(*shape)
    return feeds


def compare(model, opened, rows, past, lengths):
    feeds = make_inputs(model, rows, past, lengths)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip(("y", "present_key", "present_value"), session.run(None, feeds)))
    actual = opened.run(feeds)
    assert actual["y"].shape == expected["y"].shape
    is_prompt = rows == max(lengths)
    for batch, length in enumerate(lengths):
        # Rows behind the end of a batch are no one's.
        valid = length if is_prompt else rows
        np.testing.assert_allclose(actual["y"][batch, :valid], expected["y"][batch, :valid], rtol=1e-5, atol=3e-6)
        for name in ("present_key", "present_value"):
            assert actual[name].shape == expected[name].shape
            np.testing.assert_allclose(actual[name][batch, :, :length], expected[name][batch, :, :length], rtol=1e-5, atol=1e-6)


FORMS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 2.0},
    "window": {"local_window_size": 4},
    "rotary": {"do_rotary": 1},
    "interleaved": {"do_rotary": 1, "rotary_interleaved": 1},
    "packed": {"packed": True, "do_rotary": 1},
    "bias": {"bias": True},
    "sink": {"sink": True},
    "smooth": {"smooth_softmax": 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(compiler, form):
    """Prompts, one of them padded on the right, then rows behind a past of one length, and of several."""
    model = make_model(**FORMS[form])
    level = "-O3" if form in ("plain", "packed", "window") else "-O0"
    with load(compiler.package(model, level).path) as opened:
        compare(model, opened, 7, 0, [7, 7])
        compare(model, opened, 7, 0, [7, 4])
        compare(model, opened, 1, 9, [10, 10])
        compare(model, opened, 1, 9, [10, 6])


def test_without_past(compiler):
    model = make_model(past=False, do_rotary=1)
    with load(compiler.package(model, "-O0").path) as opened:
        compare(model, opened, 5, 0, [5, 3])


def test_total_as_input(compiler):
    """Sizes of outputs are known before the run: those of past and new rows."""
    model = make_model(static_total=True)
    with load(compiler.package(model, "-O0").path) as opened:
        compare(model, opened, 1, 9, [10, 10])
        feeds = make_inputs(model, 1, 9, [8, 8])
        with pytest.raises(Exception, match="total_sequence_length is an input, and not the number of past and new rows"):
            opened.run(feeds)


def test_bad_lengths(compiler):
    model = make_model()
    with load(compiler.package(model, "-O0").path) as opened:
        feeds = make_inputs(model, 1, 9, [10, 10]) | {"seqlens_k": np.array([9, 12], np.int32)}
        with pytest.raises(Exception, match="seqlens_k has a length that is more than the past and new rows"):
            opened.run(feeds)

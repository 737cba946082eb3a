# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moec.backend: the interface of onnx.backend.base."""

import os
import pathlib

import moec
import numpy as np
import onnx
import pytest
from moec import backend
from onnx import TensorProto, helper

pytestmark = pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="python would have to be linked with the sanitizer that libmoec-c.so has"
)


def _model(op="Sub"):
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("b", "a")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph([helper.make_node(op, ["b", "a"], ["y"])], "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_model():
    model = backend.prepare(_model(), threads="none")
    five, two = np.full(3, 5, np.float32), np.full(3, 2, np.float32)
    (result,) = model.run([five, two])
    np.testing.assert_array_equal(result, np.full(3, 3, np.float32))
    (result,) = model.run({"a": five, "b": two})
    np.testing.assert_array_equal(result, np.full(3, -3, np.float32))
    with pytest.raises(ValueError, match="the model has 2 inputs"):
        model.run([five])


def test_the_package_goes_with_the_model():
    model = backend.prepare(_model(), threads="none")
    folder = pathlib.Path(model.model.package)
    assert folder.is_dir()
    del model
    assert not folder.exists()


def test_a_node():
    node = helper.make_node("Split", ["x"], ["first", "second"], num_outputs=2)
    first, second = backend.run_node(node, [np.arange(4, dtype=np.int64)])
    assert first.tolist() == [0, 1] and second.tolist() == [2, 3]
    node = helper.make_node("Clip", ["x", "", "most"], ["y"])
    (clipped,) = backend.run_node(node, [np.arange(3, dtype=np.float32), np.float32(1)])
    assert clipped.tolist() == [0, 1, 1]


def test_devices_and_errors():
    assert backend.supports_device("CPU") and backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    with pytest.raises(ValueError, match="no device 'CUDA'"):
        backend.prepare(_model(), "CUDA")
    with pytest.raises(moec.CompileError, match="not supported"):
        backend.prepare(_model("Nonesuch"))

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moec as a backend of ONNX (onnx.backend.base): models in memory are compiled and run.

    outputs = moec.backend.run_model(onnx.load("model.onnx"), [array])

Needs the Python package onnx, which the rest of moec does not.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from ._compile import compile


class MoecRep(BackendRep):
    """A compiled model. Its package is removed with it."""

    def __init__(self, model: onnx.ModelProto, **options: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="moec-")
        source = pathlib.Path(self._folder.name, "model.onnx")
        source.write_bytes(model.SerializeToString())
        package = pathlib.Path(self._folder.name, "model.moec")
        self.model = compile(source, package, progress=False, **options)

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in the order of the graph. `inputs`: arrays in the order of the graph's inputs
        without initializers, or by name."""
        if not isinstance(inputs, Mapping):
            names = [one.name for one in self.model.inputs]
            if len(inputs) != len(names):
                raise ValueError(f"the model has {len(names)} inputs {names}, not {len(inputs)}")
            inputs = dict(zip(names, inputs))
        outputs = self.model.run({name: np.asarray(value) for name, value in inputs.items()})
        return tuple(outputs[one.name] for one in self.model.outputs)


class MoecBackend(Backend):
    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **options: Any) -> MoecRep:
        """Compiles a model. `options` are those of moec.compile. Raises CompileError."""
        if not cls.supports_device(device):
            raise ValueError(f"moec has no device {device!r}")
        return MoecRep(model, **options)

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **options: Any) -> tuple[Any, ...]:
        return cls.prepare(model, device, **options).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **options: Any
    ) -> tuple[Any, ...]:
        """Runs one node, of the newest operator set that the package onnx knows. `outputs_info` is
        not needed: the types of the outputs follow from the inputs."""
        names = [name for name in dict.fromkeys(node.input) if name]
        arrays = [np.asarray(value) for value in inputs]
        graph = onnx.helper.make_graph(
            [node],
            node.op_type,
            [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in zip(names, arrays)
            ],
            [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        return cls.run_model(onnx.helper.make_model(graph), arrays, device, **options)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"


prepare = MoecBackend.prepare
run_model = MoecBackend.run_model
run_node = MoecBackend.run_node
supports_device = MoecBackend.supports_device

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The MoE systems of the literature, as layers in the moe dialect: each NAME.mlir here,
compiled, against its NumPy reference (test/references/systems, whose CASES name it).

A file's sizes and element types all stand in the type aliases at its top, so that the
same layer is tested in other sizes and types, and its weights once as tensors of a
safetensors file and once as arguments."""

import pathlib
import re

import ml_dtypes
import numpy as np
import pytest
from harness import TOLERANCES
from moec.runtime import load
from references.evaluate import relative_error
from references.systems import modules
from safetensors.numpy import save_file

FILES = {path.stem: path for path in sorted(pathlib.Path(__file__).parent.glob("*.mlir"))}
SYSTEMS = {case: module for module in modules().values() for case in module.CASES}

NUMPY_TYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "i1": np.bool_,
    "i32": np.int32,
    "i64": np.int64,
}
MLIR_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

# T of the calls: none, one, odd, and enough that capacities bind.
TOKENS = [0, 1, 7, 32]

# (flag, sizes, type, weights as arguments): everything at both levels, each pair of the
# rest once.
VARIANTS = [
    (level, *variant)
    for level in ("-O0", "-O3")
    for variant in (
        ("DIMS", "float32", False),
        ("OTHER_DIMS", "float32", True),
        ("DIMS", "float16", False),
        ("OTHER_DIMS", "bfloat16", False),
    )
]

ALIAS = re.compile(r"^(?P<name>![\w.]+) = (?P<type>[^/\n]*?)(?P<note> *//[^\n]*)?$", re.MULTILINE)
TENSOR = re.compile(r"tensor<(?P<sizes>(?:(?:\?|\d+)x)*)(?P<element>\w+)>")
WEIGHT = re.compile(r"^moe\.weight @(?P<name>\w+) from \[#moe\.tensor<\"\w+\">\] : (?P<type>![\w.]+)\n", re.MULTILINE)
LOAD = re.compile(r"^ *%(?P<value>\w+) = moe\.load_weight @(?P<name>\w+) : (?P<type>![\w.]+)\n", re.MULTILINE)


class Layer:
    """The text of a layer in certain sizes and types."""

    def __init__(self, path, module, dims, dtype):
        self.dims = getattr(module, dims)
        self.sizes = {module.DIMS[name]: self.dims[name] for name in module.DIMS}
        # Gate and up in one tensor.
        self.sizes |= {2 * module.DIMS[name]: 2 * self.dims[name] for name in ("I", "J") if name in module.DIMS}
        self.element = MLIR_NAMES[dtype]
        self.text = ALIAS.sub(self._rewrite_alias, path.read_text())
        self.types = {match["name"]: match["type"] for match in ALIAS.finditer(self.text)}

    def _size(self, number):
        return str(self.sizes.get(int(number), number))

    def _rewrite_alias(self, alias):
        """Sizes by those of the module; f32 by the type unless the line says that it stays."""
        element = "f32" if "f32 always" in (alias["note"] or "") else self.element

        def rewrite_tensor(tensor):
            sizes = re.sub(r"\d+", lambda size: self._size(size[0]), tensor["sizes"])
            return f"tensor<{sizes}{element if tensor['element'] == 'f32' else tensor['element']}>"

        type = TENSOR.sub(rewrite_tensor, alias["type"])
        type = re.sub(r"(experts = |<ffn, )(\d+)", lambda match: match[1] + self._size(match[2]), type)
        return f"{alias['name']} = {type}{alias['note'] or ''}"

    def weights(self):
        """NumPy type of each weight, by name."""
        return {
            weight["name"]: NUMPY_TYPES[TENSOR.fullmatch(self.types[weight["type"]])["element"]]
            for weight in WEIGHT.finditer(self.text)
        }

    def with_arguments(self):
        """The layer with arguments in place of weights."""
        arguments = ", ".join(
            f'%{match["value"]}: {match["type"]} {{onnx.name = "{match["name"]}"}}' for match in LOAD.finditer(self.text)
        )
        text = LOAD.sub("", WEIGHT.sub("", self.text))
        return text.replace("@main(", f"@main({arguments}, " if arguments else "@main(", 1)


def draw(module, case, dims, dtype, tokens, weights):
    """Arrays in float64 whose floats are values of dtype; those of `weights` are given."""
    rng = np.random.default_rng([tokens, *map(ord, case)])
    return module.draw(rng, dims, tokens, case, dtype=NUMPY_TYPES[MLIR_NAMES[dtype]], given=weights)


def compile_layer(compiler, layer, arguments, weights, level, folder):
    """The package of a layer, whose weights are given as arrays of their types."""
    model = folder / "layer.mlir"
    model.write_text(layer.with_arguments() if arguments else layer.text)
    flags = []
    if not arguments and weights:
        file = folder / "weights.safetensors"
        save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, file)
        flags = ["--weights", str(file)]
    return compiler.package(model, level, *flags)


def check_outputs(actual, expected, dtype):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        if np.asarray(value).dtype.kind == "f":
            assert relative_error(actual[name], value) < TOLERANCES[dtype], name
        else:
            np.testing.assert_array_equal(actual[name], value, name)


@pytest.mark.parametrize(("level", "sizes", "dtype", "arguments"), VARIANTS)
@pytest.mark.parametrize("case", FILES)
def test_system(compiler, tmp_path, case, level, sizes, dtype, arguments):
    module = SYSTEMS[case]
    layer = Layer(FILES[case], module, sizes, dtype)
    types = layer.weights()
    most = draw(module, case, layer.dims, dtype, max(TOKENS), {})
    weights = {name: most[name] for name in types}
    stored = {name: weights[name].astype(type) for name, type in types.items()}
    with load(compile_layer(compiler, layer, arguments, stored, level, tmp_path).path) as model:
        for tokens in TOKENS:
            arrays = draw(module, case, layer.dims, dtype, tokens, weights)
            inputs = {tensor.name: arrays[tensor.name].astype(tensor.dtype) for tensor in model.inputs}
            check_outputs(model.run(inputs), module.reference(arrays, layer.dims, case), dtype)


def test_every_case_has_a_file():
    assert set(FILES) == set(SYSTEMS)

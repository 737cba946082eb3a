# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The layers in this folder as text: in other sizes and element types, with weights as
arguments. All sizes stand in the aliases at the top of a file, and are those of its
reference's DIMS; `// f32 always` keeps an alias out of a change of type."""

import pathlib
import re

import ml_dtypes
import numpy as np

FILES = {path.stem: path for path in sorted(pathlib.Path(__file__).parent.glob("*.mlir"))}

NUMPY_TYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "i1": np.bool_,
    "i32": np.int32,
    "i64": np.int64,
}
MLIR_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

ALIAS = re.compile(r"^(?P<name>[!#][\w.]+) = (?P<value>[^/\n]*?)(?P<note> *//[^\n]*)?$", re.MULTILINE)
TENSOR = re.compile(r"tensor<(?P<sizes>(?:(?:\?|\d+)x)*)(?P<element>\w+)>")
# k may be the number of all experts; a kind is <ffn, COUNT>.
COUNT = re.compile(r"(?P<what>experts = |k = |^|<\w+, )(?P<size>\d+)")
# The one size that cannot be in an alias: tensor.expand_shape wants static sizes as numbers.
OUTPUT_SHAPE = re.compile(r"(?P<before>output_shape \[[^\]]*?)(?P<size>\d+)(?=\])")
WEIGHT = re.compile(r"^moe\.weight @(?P<name>\w+) from \[#moe\.tensor<\"\w+\">\] : (?P<type>![\w.]+)\n", re.MULTILINE)
LOAD = re.compile(r"^ *%(?P<value>\w+) = moe\.load_weight @(?P<name>\w+) : (?P<type>![\w.]+)\n", re.MULTILINE)


def renamed_sizes(given, other):
    """Number in the file -> number in other sizes."""
    sizes = {given[name]: other[name] for name in given}
    # Gate and up rows in one tensor.
    derived = {2 * given[name]: 2 * other[name] for name in ("I", "J") if name in given}
    # Inner nodes of a tree.
    derived |= {given["E"] - 1: other["E"] - 1} if "R" in given else {}
    assert not set(sizes) & set(derived), "two sizes of a file are the same number"
    return sizes | derived


class Layer:
    """The text of a layer in certain sizes and types."""

    def __init__(self, path, given, dims, dtype):
        self.sizes = renamed_sizes(given, dims)
        self.element = MLIR_NAMES[dtype]
        text = ALIAS.sub(self._rewrite_alias, path.read_text())
        self.text = OUTPUT_SHAPE.sub(lambda match: match["before"] + self._size(match["size"]), text)
        self.types = {match["name"]: match["value"] for match in ALIAS.finditer(self.text)}

    def _size(self, number):
        return str(self.sizes.get(int(number), number))

    def _rewrite_alias(self, alias):
        """Sizes by those of the module; f32 by the type unless the line says that it stays."""
        element = "f32" if "f32 always" in (alias["note"] or "") else self.element

        def rewrite_tensor(tensor):
            sizes = re.sub(r"\d+", lambda size: self._size(size[0]), tensor["sizes"])
            return f"tensor<{sizes}{element if tensor['element'] == 'f32' else tensor['element']}>"

        value = TENSOR.sub(rewrite_tensor, alias["value"])
        if not value.startswith("affine_map"):
            value = COUNT.sub(lambda match: match["what"] + self._size(match["size"]), value)
        return f"{alias['name']} = {value}{alias['note'] or ''}"

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

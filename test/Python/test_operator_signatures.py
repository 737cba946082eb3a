# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The table of ONNX's operators (lib/Dialect/ONNX/IR/Operators.cpp) against the
schemas of the onnx package: what a schema allows is accepted, what none allows is
refused, and only a name that no schema has is taken for a misspelling."""

import onnx.defs
import pytest

from harness import run, tool

OLDEST_OPSET = 11
GRAPH = onnx.defs.OpSchema.AttrType.GRAPH


def _schemas():
    """The versions of each operator of ai.onnx that a readable operator set means."""
    versions = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions.setdefault(schema.name, []).append(schema)
    for name, schemas in versions.items():
        schemas.sort(key=lambda schema: schema.since_version)
        older = [i for i, schema in enumerate(schemas) if schema.since_version <= OLDEST_OPSET]
        versions[name] = schemas[max(older, default=0) :]
    return versions


SCHEMAS = _schemas()


def _tensors(count):
    return ", ".join(["tensor<f32>"] * count)


KIND = onnx.defs.OpSchema.AttrType
VALUES = {
    KIND.INT: "1 : i64",
    KIND.FLOAT: "1.0 : f32",
    KIND.STRING: '"1"',
    KIND.INTS: "array<i64: 1>",
    KIND.FLOATS: "array<f32: 1.0>",
    KIND.STRINGS: '["1"]',
    KIND.TENSOR: "dense<1> : tensor<1xi64>",
    KIND.SPARSE_TENSOR: "dense<1> : tensor<1xi64>",
    KIND.TYPE_PROTO: "tensor<f32>",
}


def _node(name, inputs, outputs=1, attributes=(), version=13):
    values = ", ".join(f"{attribute} = {value}" for attribute, value in dict(attributes).items())
    operands = ", ".join(["%x"] * inputs)
    settings = f"{{attributes = {{{values}}}, version = {version} : i64}}"
    return f'onnx.node "{name}"({operands}) {settings} : ({_tensors(inputs)}) -> ({_tensors(outputs)})'


def _read(tmp_path, nodes, *flags):
    path = tmp_path / "nodes.mlir"
    path.write_text("\n".join(["func.func @main(%x: tensor<f32>) {", *nodes, "return", "}"]))
    return run(tool("moe-opt"), path, *flags, check=False)


def test_what_the_schemas_allow_is_accepted(tmp_path):
    nodes = []
    for name, schemas in SCHEMAS.items():
        for schema in schemas:
            attributes = [(n, VALUES[one.type]) for n, one in schema.attributes.items() if one.type != GRAPH]
            outputs = max(1, schema.min_output)
            nodes.append(_node(name, schema.min_input, outputs, attributes))
            nodes.append(_node(name, min(schema.max_input, 9), min(max(1, schema.max_output), 9)))
    done = _read(tmp_path, nodes)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["Softmax", "Gather", "ReduceSum", "Gemm", "Cast"])
def test_what_no_schema_has_is_refused(name, tmp_path):
    fewest = min(schema.min_input for schema in SCHEMAS[name])
    most = max(schema.max_input for schema in SCHEMAS[name])
    assert f"({name}): has {fewest - 1} inputs, expected at least" in _read(tmp_path, [_node(name, fewest - 1)]).stderr
    assert f"({name}): has {most + 1} inputs, expected at most" in _read(tmp_path, [_node(name, most + 1)]).stderr
    assert f"({name}): has no attribute 'moec'" in _read(tmp_path, [_node(name, fewest, 1, {"moec": "1 : i64"})]).stderr
    for attribute in SCHEMAS[name][-1].attributes.values():
        for value in {text for kind, text in VALUES.items() if kind != attribute.type}:
            wrong = _read(tmp_path, [_node(name, fewest, 1, {attribute.name: value})]).stderr
            assert f"({name}): attribute '{attribute.name}' is a" in wrong, wrong


def _unsupported(tmp_path, names):
    """What --onnx-to-linalg says of operators, of a version that it does not know."""
    newest = [(name, SCHEMAS[schema][-1]) for name, schema in names]
    nodes = [_node(name, schema.min_input, max(1, schema.min_output), version=99) for name, schema in newest]
    done = _read(tmp_path, nodes, "--onnx-to-linalg")
    assert done.returncode, done.stderr
    return done.stderr


def test_a_standard_operator_is_no_misspelling(tmp_path):
    errors = _unsupported(tmp_path, [(name, name) for name in SCHEMAS])
    assert all(name in errors for name in SCHEMAS)
    assert "did you mean" not in errors


def test_a_misspelt_operator_is_recognised(tmp_path):
    misspelt = {name[:-1] + "q" + name[-1]: name for name in SCHEMAS if len(name) > 5}
    errors = _unsupported(tmp_path, misspelt.items())
    for wrong, name in misspelt.items():
        assert f"{wrong} (node ''; did you mean '{name}'?)" in errors

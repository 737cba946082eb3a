# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Bad input gives one clear error and an exit status, never a crash or a package."""

import dataclasses
import functools
import json
import os
import resource
import shutil

import numpy as np
import onnx
import pytest
from harness import FIXTURES, TOLERANCES, run, tool
from moec.runtime import MoecError, load
from onnx import TensorProto, helper, numpy_helper
from references import generate
from references.evaluate import evaluate, relative_error

TINYMOE = FIXTURES / "tinymoe"
MOE = generate.Layer(experts=4, k=2, hidden=32, intermediate=48, activation="silu", biases=True)
QMOE = dataclasses.replace(MOE, bits=4, block=16, zero_points=True)


# Exit statuses of moec.
USAGE, BAD_MODEL, UNSUPPORTED, OUTPUT = 1, 2, 3, 4


def expect_failure(compiler, tmp_path, model, *words, status=BAD_MODEL):
    """moec refuses the model: this exit status, these words in the message, no package,
    no internal dump. Returns the message."""
    package = tmp_path / "refused.moec"
    done = compiler.run(compiler.save(model), "-o", package, check=False)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stderr}"
    assert "error:" in done.stderr
    for word in words:
        assert str(word) in done.stderr, done.stderr
    for dump in ("Stack dump", "PLEASE submit", "LLVM ERROR", "Assertion", " = onnx.node", "' op "):
        assert dump not in done.stderr
    assert not package.exists()
    return done.stderr


def with_attribute(layer, **changes):
    """The layer's model with attributes of its node changed, added, or (None) removed."""
    model = generate.build(layer)
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name not in changes]
    added = [helper.make_attribute(name, value) for name, value in changes.items() if value is not None]
    del node.attribute[:]
    node.attribute.extend(kept + added)
    return model


def with_initializer(layer, name, values):
    model = generate.build(layer)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model


def initializer(layer, name):
    (found,) = [tensor for tensor in generate.build(layer).graph.initializer if tensor.name == name]
    return numpy_helper.to_array(found)


# --- files ---------------------------------------------------------------------------------


def test_missing_model(compiler, tmp_path):
    expect_failure(compiler, tmp_path, tmp_path / "absent.onnx", "absent.onnx")


def test_empty_model(compiler, tmp_path):
    path = tmp_path / "empty.onnx"
    path.touch()
    expect_failure(compiler, tmp_path, path, "empty.onnx")


def test_text_instead_of_a_model(compiler, tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("this is not a protobuf message\n" * 20)
    expect_failure(compiler, tmp_path, path, "text.onnx")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_truncated_model(compiler, tmp_path, kept):
    data = (TINYMOE / "layer0_moe.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(kept * len(data))])
    expect_failure(compiler, tmp_path, path, "cut.onnx")


def test_damaged_models_never_crash(compiler, tmp_path):
    """Random bytes changed in the part that is not weights."""
    data = bytearray(generate.build(dataclasses.replace(MOE, hidden=8, intermediate=8)).SerializeToString())
    random = np.random.default_rng(0)
    for index in range(25):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 8):
            damaged[position] = random.integers(256)
        path = tmp_path / f"damaged{index}.onnx"
        path.write_bytes(damaged)
        done = compiler.run(path, "-o", tmp_path / f"damaged{index}.moec", check=False)
        assert done.returncode in (0, BAD_MODEL, UNSUPPORTED), f"{path}: {done.returncode}\n{done.stderr}"


def external(tmp_path, size):
    """A model whose weights are in weights.bin, of which only `size` bytes exist."""
    model = generate.build(MOE)
    path = tmp_path / "external.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[: int(size * len(data))])
    return path


def test_missing_external_data(compiler, tmp_path):
    path = external(tmp_path, 1)
    (tmp_path / "weights.bin").unlink()
    expect_failure(compiler, tmp_path, path, "weights.bin")


def test_truncated_external_data(compiler, tmp_path):
    expect_failure(compiler, tmp_path, external(tmp_path, 0.5), "weights.bin")


def test_external_data_outside_of_the_models_folder(compiler, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    model = onnx.load(external(folder, 1), load_external_data=False)
    shutil.move(folder / "weights.bin", tmp_path)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path = folder / "outside.onnx"
    path.write_bytes(model.SerializeToString())
    expect_failure(compiler, tmp_path, path, "../weights.bin")


def test_output_that_can_not_be_written(compiler, tmp_path):
    (tmp_path / "file").touch()
    model = TINYMOE / "layer0_moe.onnx"
    done = compiler.run(model, "-o", tmp_path / "file" / "layer.moec", check=False)
    assert done.returncode == OUTPUT and "layer.moec" in done.stderr


@pytest.mark.parametrize("output", ["/proc/layer.moec", "."])
def test_places_where_nothing_can_be_written(compiler, tmp_path, output):
    done = compiler.run(TINYMOE / "layer0_moe.onnx", "-o", output, check=False, cwd=tmp_path)
    assert done.returncode == (USAGE if output == "." else OUTPUT), done.stderr
    assert done.stderr.count("error:") == 1
    assert not list(tmp_path.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def limit_files():
    """No file may grow beyond 100 kB, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.parametrize("existing", [False, True])
def test_full_disk(compiler, tmp_path, existing):
    """The weights do not fit: one error, an existing package as it was, nothing else left."""
    package = tmp_path / "layer.moec"
    if existing:
        compiler.run(TINYMOE / "layer1_qmoe_int4.onnx", "-O1", "-o", package)
    before = contents(package) if existing else None
    done = compiler.run(TINYMOE / "layer0_moe.onnx", "-O1", "-o", package, check=False, preexec_fn=limit_files)
    assert done.returncode == OUTPUT and done.stderr.count("error:") == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == (["layer.moec"] if existing else [])
    assert not existing or contents(package) == before


def test_full_file_system(compiler, tmp_path):
    """The same on a file system of 300 kB, where one may be mounted."""
    script = 'mount -t tmpfs -o size=300k tmpfs "$1" || exit 99; "$2" "$3" -O1 -o "$1/layer.moec"; s=$?; ls -A "$1"; exit $s'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path, tool("moec"), TINYMOE / "layer0_moe.onnx"]
    if not shutil.which("unshare"):
        pytest.skip("no unshare")
    done = run(*command, check=False)
    if done.returncode in (1, 99) and "error: " not in done.stderr:
        pytest.skip("mounts are not allowed here")
    assert done.returncode == OUTPUT and done.stderr.count("error:") == 1, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["--report=out"], ["--compile-to=normalize-onnx", "-o", "out"]])
def test_files_appear_as_a_whole(compiler, tmp_path, arguments):
    """A report or phase that does not fit leaves the file of that name as it was."""
    (tmp_path / "out").write_text("before")
    path = compiler.save(generate.build(dataclasses.replace(MOE, hidden=8, intermediate=8)))
    if "-o" not in arguments:
        arguments = [*arguments, "--compile-to=import", "-o", "/dev/null"]
    tiny = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (64, 64))
    done = compiler.run(path, *arguments, check=False, cwd=tmp_path, preexec_fn=tiny)
    assert done.returncode == OUTPUT and done.stderr.count("error:") == 1, done.stderr
    assert contents(tmp_path) == {"out": b"before"}


def test_failure_keeps_the_package(compiler, tmp_path):
    package = tmp_path / "layer.moec"
    compiler.run(TINYMOE / "layer1_qmoe_int4.onnx", "-O1", "-o", package)
    before = contents(package)
    bad = compiler.save(with_attribute(MOE, k=5))
    assert compiler.run(bad, "-o", package, check=False).returncode == BAD_MODEL
    assert contents(package) == before


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fc2", "fc1_bias"])
def test_nan_weights_are_kept_with_a_warning(compiler, tmp_path, name):
    values = initializer(MOE, name).copy()
    values[1, 2] = np.nan
    model = with_initializer(MOE, name, values)
    package = tmp_path / "nan.moec"
    done = compiler.run(compiler.save(model), "-o", package)
    assert done.stderr.count("warning:") == 1 and name in done.stderr and "NaN" in done.stderr
    inputs = generate.draw_inputs(MOE, 12)
    actual = load(package).run(inputs)["output"]
    expected = evaluate(model, inputs)["output"]
    assert 0 < np.isnan(expected).sum() < expected.size
    assert relative_error(actual, expected) < TOLERANCES["float32"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nan_in_half_precision(compiler, tmp_path, dtype):
    layer = dataclasses.replace(MOE, dtype=dtype)
    done = compiler.run(compiler.save(generate.build(layer)), "-O1", "-o", tmp_path / "good.moec")
    assert not done.stderr
    values = initializer(layer, "fc1").copy()
    values[1, 2, 3] = np.nan
    model = with_initializer(layer, "fc1", values)
    done = compiler.run(compiler.save(model), "-O1", "-o", tmp_path / "nan.moec")
    assert done.stderr.count("warning:") == 1 and "NaN" in done.stderr


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("dims", [("tokens", "rows"), (5, "rows"), ("tokens", 5)], ids=str)
def test_rows_of_input_and_logits_that_differ(compiler, level, dims):
    """Only the run can know: nothing is computed then, and nothing is written."""
    model = generate.build(MOE)
    for value, size in zip(model.graph.input, dims):
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        setattr(dim, "dim_value" if isinstance(size, int) else "dim_param", size)
    package = compiler.package(model, level)
    inputs = generate.draw_inputs(MOE, 5)
    exact = evaluate(model, inputs)["output"]
    assert relative_error(load(package.path).run(inputs)["output"], exact) < TOLERANCES["float32"]
    for name, rows in (("hidden", 300), ("logits", 300), ("hidden", 0), ("logits", 0)):
        other = {**inputs, name: np.resize(inputs[name], (rows, inputs[name].shape[1]))}
        with pytest.raises(MoecError, match="differ in the number of tokens|expected 5"):
            load(package.path).run(other)


def stating(sizes, *nodes, intermediate=None):
    """(model, function of its inputs): x [n, 4] through `nodes` to y, of which the model
    states `sizes`, and those of a value on the way."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output], name=output, **attributes) for op, inputs, output, attributes in nodes],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, sizes)],
        value_info=[value("h", TensorProto.FLOAT, intermediate)] if intermediate else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


STATED = {
    "output": (stating([1, 4], ("Neg", ["x"], "y", {})), lambda x: -x),
    "intermediate": (
        stating(["n", 4], ("Neg", ["x"], "h", {}), ("Abs", ["h"], "y", {}), intermediate=[1, 4]),
        lambda x: np.abs(x),
    ),
    "computed": (stating([2, 4], ("Concat", ["x", "x"], "y", {"axis": 0})), lambda x: np.concatenate([x, x])),
    "transposed": (stating([4, 1], ("Transpose", ["x"], "y", {})), lambda x: x.T),
}


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("name", STATED)
def test_stated_size_that_is_not_the_computed_one(compiler, level, name):
    """Only the run can know: nothing is written then, least of all past the output."""
    model, expected = STATED[name]
    package = load(compiler.package(model, level).path)
    rows = np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)
    assert np.array_equal(package.run({"x": rows})["y"], expected(rows))
    for count in (0, 2, 3000):
        with pytest.raises(MoecError, match="of output '.' is not ., as the model states"):
            package.run({"x": np.resize(rows, (count, 4))})


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("layer", [MOE, QMOE, dataclasses.replace(MOE, rank=3)], ids=["MoE", "QMoE", "batches"])
def test_stated_number_of_tokens_that_is_not_the_computed_one(compiler, level, layer):
    model = generate.build(layer)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    package = load(compiler.package(model, level).path)
    inputs = generate.draw_inputs(layer, 1)
    assert relative_error(package.run(inputs)["output"], evaluate(model, inputs)["output"]) < TOLERANCES["float32"]
    many = {name: np.resize(array, (300, *array.shape[1:])) for name, array in inputs.items()}
    with pytest.raises(MoecError, match="of output 'output' is not 1, as the model states"):
        package.run(many)


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_stated_size_that_the_data_do_not_give(compiler, level):
    value = helper.make_tensor_value_info
    bounds = [value(name, TensorProto.INT64, [1]) for name in ("start", "end")]
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "start", "end"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n"]), *bounds],
        [value("y", TensorProto.FLOAT, [3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    package = load(compiler.package(model, level).path)
    inputs = {"x": np.arange(8, dtype=np.float32), "start": np.array([2]), "end": np.array([5])}
    assert np.array_equal(package.run(inputs)["y"], [2, 3, 4])
    for end in (0, 3, 8):
        with pytest.raises(MoecError, match="of output 'y' is not 3, as the model states"):
            package.run({**inputs, "end": np.array([end])})


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_joined_parts_that_are_longer_than_stated(compiler, level):
    """What follows a failed check of such sizes writes nowhere else."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        parts (float[n] x) => (float[2] y) <float[2] joined> {
            found = NonZero (x)
            flat_shape = Constant <value_ints = [-1]> ()
            flat = Reshape (found, flat_shape)
            part = Gather (x, flat)
            joined = Concat <axis = 0> (part, part)
            y = Neg (joined)
        }"""
    )
    with load(compiler.package(model, level).path) as package:
        x = np.zeros(100_000, np.float32)
        x[7] = 3
        assert np.array_equal(package.run({"x": x})["y"], [-3, -3])
        for count in (0, 100_000):
            with pytest.raises(MoecError, match="of output 'joined' is not 2, as the model states"):
                package.run({"x": np.repeat(np.float32([1, 0]), [count, len(x) - count])})



@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_symbol_of_outputs_of_different_sizes(compiler, level):
    """A name of an output's size is a comment; what is computed counts."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Concat", ["z", "z"], ["w"], axis=0)],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 4]), value("z", TensorProto.FLOAT, ["m", 4])],
        [value("y", TensorProto.FLOAT, ["k", 4]), value("w", TensorProto.FLOAT, ["k", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x, z = (np.linspace(-1, 1, 4 * rows, dtype=np.float32).reshape(rows, 4) for rows in (2, 300))
    for symbol in ("k", "n", "m"):
        for output in model.graph.output:
            output.type.tensor_type.shape.dim[0].dim_param = symbol
        outputs = load(compiler.package(model, level).path).run({"x": x, "z": z})
        assert np.array_equal(outputs["y"], -x)
        assert np.array_equal(outputs["w"], np.concatenate([z, z]))


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_symbol_of_inputs_of_different_sizes(compiler, level):
    model = generate.build(MOE)
    inputs = generate.draw_inputs(MOE, 5)
    with pytest.raises(MoecError, match="both are 'tokens'"):
        load(compiler.package(model, level).path).run({**inputs, "logits": inputs["logits"][:3]})


# --- versions and operators ------------------------------------------------------------------


def test_newer_ir_version(compiler, tmp_path):
    model = generate.build(MOE)
    model.ir_version = 99
    expect_failure(compiler, tmp_path, model, "99", status=UNSUPPORTED)


def test_newer_opset(compiler, tmp_path):
    model = generate.build(MOE)
    model.opset_import[0].version = 999
    expect_failure(compiler, tmp_path, model, "999", status=UNSUPPORTED)


def test_all_unsupported_operators_at_once(compiler, tmp_path):
    node = helper.make_node
    nodes = [
        node("NonMaxSuppression", ["x", "x"], ["a"], name="first_bad"),
        node("Frobnicate", ["x"], ["b"], name="second_bad", domain="example.org"),
        node("Frobnicate", ["a", "b"], ["y"], name="third_bad", domain="example.org"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, 2, 4])], [value("y", 1, None)])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("example.org", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    expect_failure(
        compiler,
        tmp_path,
        model,
        "NonMaxSuppression",
        "first_bad",
        "example.org.Frobnicate",
        "second_bad",
        "third_bad",
        status=UNSUPPORTED,
    )


def test_weights_that_are_inputs(compiler, tmp_path):
    """Only -O0 has a lowering for quantised expert weights that are no constants."""
    model = generate.build(QMOE)
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "fc1"]
    model.graph.input.append(helper.make_tensor_value_info("fc1", weights.data_type, weights.dims))
    model.graph.initializer.remove(weights)
    message = expect_failure(compiler, tmp_path, model, "'experts'", "-O0", status=UNSUPPORTED)
    assert message.count("error:") == 1


def test_empty_graph(compiler, tmp_path):
    model = generate.build(MOE)
    model.graph.Clear()
    expect_failure(compiler, tmp_path, model, "no outputs")


def test_name_with_a_line_break(compiler, tmp_path):
    """A message stays one line."""
    model = generate.build(MOE)
    model.graph.node[0].input[0] = "two\nlines\x1b[31m"
    message = expect_failure(compiler, tmp_path, model, "two\\x0Alines\\x1B[31m")
    assert message.count("\n") == 1


def test_reference_to_an_attribute_outside_of_a_function(compiler, tmp_path):
    model = generate.build(MOE)
    model.graph.node[0].attribute[0].ref_attr_name = "k"
    expect_failure(compiler, tmp_path, model, "'k'", "function")


@pytest.mark.parametrize("kind", ["GRAPH", "TENSOR", "FLOAT", "STRINGS"])
def test_attribute_of_another_kind_than_stated(compiler, tmp_path, kind):
    model = generate.build(MOE)
    (attribute,) = [one for one in model.graph.node[0].attribute if one.name == "k"]
    attribute.type = onnx.AttributeProto.AttributeType.Value(kind)
    expect_failure(compiler, tmp_path, model, "'k'", kind, "INT")


EMPTY_GRAPH = helper.make_graph([], "inner", [], [])


@pytest.mark.parametrize("value", [1.0, "1", [1], EMPTY_GRAPH], ids=["float", "string", "ints", "graph"])
def test_attribute_of_another_kind_than_the_operator_has(compiler, tmp_path, value):
    """It is not ignored: the default would be meant silently."""
    node = helper.make_node("Softmax", ["x"], ["y"], name="soft", axis=value)
    tensors = [helper.make_tensor_value_info(name, 1, [2, 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    expect_failure(compiler, tmp_path, model, "'soft' (Softmax): attribute 'axis' is a", "expected an integer")
    expect_failure(compiler, tmp_path, with_attribute(MOE, k=value), "(com.microsoft.MoE): attribute k is", "expected")


def test_undefined_value(compiler, tmp_path):
    model = generate.build(MOE)
    model.graph.node[0].input[0] = "nowhere"
    expect_failure(compiler, tmp_path, model, "nowhere")


# --- MoE and QMoE ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, changes, words",
    [
        (MOE, dict(k=5), ["k", "5", "4"]),
        (MOE, dict(k=0), ["k", "0"]),
        (MOE, dict(activation_type="tanh"), ["tanh"]),
        (MOE, dict(use_sparse_mixer=1, k=3), ["k"]),
        (MOE, dict(swiglu_fusion=3), ["swiglu_fusion", "3"]),
        (QMOE, dict(quant_type="zzz"), ["quant_type", "zzz"]),
        (QMOE, dict(expert_weight_bits=3), ["expert_weight_bits", "3"]),
        (QMOE, dict(expert_weight_bits=8), []),
        (QMOE, dict(block_size=48), ["block_size", "48"]),
        (QMOE, dict(block_size=8), ["block_size", "8"]),
        (QMOE, dict(block_size=None), []),
    ],
    ids=lambda value: "-".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else "",
)
def test_attributes(compiler, tmp_path, layer, changes, words):
    message = expect_failure(compiler, tmp_path, with_attribute(layer, **changes), *words)
    # The message points at the node: model.onnx:<index>:1: error: ... experts
    assert ":0:1: error:" in message or ":1:1: error:" in message, message


@pytest.mark.parametrize("changes", [dict(quant_type="fp4"), dict(quant_type="nvfp4"), dict(weights_prepacked=1)])
def test_attributes_that_are_not_supported(compiler, tmp_path, changes):
    (name,) = changes
    expect_failure(compiler, tmp_path, with_attribute(QMOE, **changes), name, status=UNSUPPORTED)


@pytest.mark.parametrize(
    "layer, name, change",
    [
        (MOE, "fc1", lambda values: values[:, :-1]),
        (MOE, "fc1", lambda values: values[:-1]),
        (MOE, "fc1", lambda values: values.astype(np.float16)),
        (MOE, "fc2", lambda values: values[:, :-1]),
        (MOE, "fc1_bias", lambda values: values[:, :-1]),
        (MOE, "fc2_bias", lambda values: values[:-1]),
        (MOE, "fc2_bias", lambda values: values[0]),
        (QMOE, "fc1", lambda values: values[:, :, :-1]),
        (QMOE, "fc1", lambda values: values.view(np.int8)),
        (QMOE, "fc1_scales", lambda values: values[:, :, :-1]),
        (QMOE, "fc2_scales", lambda values: values[:, :-1]),
        (QMOE, "fc1_zero_points", lambda values: np.repeat(values, 2, axis=2)),
        (QMOE, "fc2_zero_points", lambda values: values[:, :-1]),
    ],
)
def test_shapes_and_types(compiler, tmp_path, layer, name, change):
    model = with_initializer(layer, name, np.ascontiguousarray(change(initializer(layer, name))))
    expect_failure(compiler, tmp_path, model)


def test_router_probs_of_rank_three(compiler, tmp_path):
    model = generate.build(MOE)
    logits = model.graph.input[1].type.tensor_type.shape
    logits.dim.add().dim_value = 4
    expect_failure(compiler, tmp_path, model, "router_probs")


@pytest.mark.parametrize("position", [0, 1, 2, 4])
def test_required_inputs(compiler, tmp_path, position):
    model = generate.build(MOE)
    model.graph.node[0].input[position] = ""
    expect_failure(compiler, tmp_path, model)


def test_float8_weights(compiler, tmp_path):
    model = generate.build(QMOE)
    for tensor in model.graph.initializer:
        if tensor.name in ("fc1", "fc2"):
            tensor.data_type = TensorProto.FLOAT8E4M3FN
    expect_failure(compiler, tmp_path, model)


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--no-such-option"],
        ["model.onnx", "-O7"],
        ["model.onnx", "--cpu=no-such-cpu"],
        ["model.onnx", "--target=no-such-target"],
        ["model.onnx", "--threads=no-such-threads"],
        ["model.onnx", "--compile-to=no-such-phase"],
        ["model.onnx", "--dim", "tokens"],
        ["model.onnx", "--dim", "tokens=many"],
        ["model.onnx", "--dim", "no_such_dim=1"],
        ["model.onnx", "--dim=tokens=-2"],
        ["model.onnx", "--dim=tokens=1", "--dim=tokens=2"],
        ["model.onnx", "--keep=no_such_tensor"],
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_command_line(compiler, tmp_path, arguments):
    shutil.copy(TINYMOE / "layer0_moe.onnx", tmp_path / "model.onnx")
    done = compiler.run(*arguments, check=False, cwd=tmp_path)
    assert done.returncode == USAGE, f"exit status {done.returncode}\n{done.stderr}"
    assert done.stderr
    assert not list(tmp_path.glob("*.moec"))


# --- phase files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def last_phase(compiler, tmp_path_factory):
    """The text of the last phase before the package."""
    path = tmp_path_factory.mktemp("phase") / "llvm.mlir"
    compiler.run(TINYMOE / "layer1_qmoe_int4.onnx", "--compile-to=llvm", "-o", path)
    return path.read_text()


@pytest.mark.parametrize(
    "attribute, value, status",
    [
        ("moe.blocks", "[1]", 0),
        ("moe.blocks", '["\\FF"]', 0),
        ("moe.regions", '"none"', 0),
        ("moe.regions", "[1]", 0),
        ("onnx.ir_version", "3 : ui8", 0),
        ("onnx.ir_version", "123456789012345678901234567890 : i128", 0),
        ("onnx.model", '"\\FF.onnx"', 0),
        ("moe.interface", "[1]", BAD_MODEL),
        ("moe.interface", '[{inputs = [], name = "\\FF", outputs = [], symbols = []}]', BAD_MODEL),
        ("moe.phase", '"tomorrow"', BAD_MODEL),
    ],
)
def test_edited_phase(compiler, tmp_path, last_phase, attribute, value, status):
    """A module attribute with another value: an error or a package, never a crash."""
    path = tmp_path / "edited.mlir"
    # The last of two attributes of one name would be an error of the parser.
    path.write_text(last_phase.replace(f"{attribute} = ", f"{attribute} = {value}, onnx.was = ", 1))
    arguments = ["--model-dir", TINYMOE, "-o", tmp_path / "edited.moec", "--report", tmp_path / "edited.json"]
    done = compiler.run(path, *arguments, check=False)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stderr}"


def test_phase_before_the_input(compiler, tmp_path):
    """A module that names no phase is as after the import."""
    path = tmp_path / "model.mlir"
    path.write_text("func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> { return %x : tensor<2xf32> }")
    done = compiler.run(path, "--compile-to=import", check=False, cwd=tmp_path)
    assert done.returncode == USAGE and "past phase 'import'" in done.stderr
    assert not done.stdout


def test_file_name_that_is_not_utf8(compiler, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.onnx"
    with open(path, "wb") as file:
        file.write(generate.build(MOE).SerializeToString())
    report = tmp_path / "report.json"
    compiler.run(os.fsdecode(path), "-o", tmp_path / "cafe.moec", "--report", report)
    assert json.loads(report.read_text())["model"] == "caf\ufffd.onnx"

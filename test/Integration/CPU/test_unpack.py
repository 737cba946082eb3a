# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moec unpack and moec.unpack: a package gives the model's weights back, bit for bit. What is
compared with is read by onnx from the model."""

import json
import struct

import moec
import onnx
import pytest
from harness import FIXTURES, MODELS, run, tool
from onnx import numpy_helper
from references import generate

TINYMOE = FIXTURES / "tinymoe"
CONSTANT_BYTES = 4096
BASE = {"experts": 3, "k": 2, "activation": "swiglu", "fusion": 1, "biases": True}
LAYERS = {
    "f32_odd": generate.Layer(**{**BASE, "hidden": 71, "intermediate": 45}),
    "f32_separate": generate.Layer(experts=5, k=1, hidden=40, intermediate=33, activation="silu", third=True),
    "f32_concat": generate.Layer(**{**BASE, "fusion": 2, "hidden": 64, "intermediate": 96}),
    "f16": generate.Layer(**{**BASE, "hidden": 71, "intermediate": 45, "dtype": "float16"}),
    "bf16": generate.Layer(**{**BASE, "hidden": 72, "intermediate": 47, "dtype": "bfloat16"}),
    "int8_rows": generate.Layer(**{**BASE, "hidden": 72, "intermediate": 57, "bits": 8}),
    "int4_zero_points": generate.Layer(
        **{**BASE, "hidden": 96, "intermediate": 160, "bits": 4, "block": 32, "zero_points": True}
    ),
}


def read_safetensors(path):
    """(dtype, shape, bytes) by name; not by a library, since some types are not NumPy's."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length :]
    return {
        name: (tensor["dtype"], tensor["shape"], body[slice(*tensor["data_offsets"])]) for name, tensor in header.items()
    }


def model_tensors(path):
    """(shape, bytes) by name of initializers that are too large to be in the code."""
    model = onnx.load(path)
    tensors = {}
    for tensor in model.graph.initializer:
        data = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        if len(data) > CONSTANT_BYTES:
            tensors[tensor.name] = list(tensor.dims), data
    return tensors


def expect_equal(unpacked, tensors):
    assert set(unpacked) == set(tensors)
    for name, (shape, data) in tensors.items():
        dtype, stored_shape, stored = unpacked[name]
        assert stored == data, name
        assert stored_shape == shape, name


@pytest.mark.parametrize(
    "name, level", [*((name, "-O3") for name in LAYERS), ("f32_odd", "-O0"), ("int4_zero_points", "-O0")]
)
def test_layers(compiler, tmp_path, name, level):
    path = compiler.save(generate.build(LAYERS[name]))
    package = compiler.package(path, level)
    done = run(tool("moec"), "unpack", package.path, tmp_path / "weights.safetensors")
    tensors = model_tensors(path)
    assert tensors, "the layer is too small"
    assert f"{len(tensors)} tensor" in done.stdout
    expect_equal(read_safetensors(tmp_path / "weights.safetensors"), tensors)


@pytest.mark.parametrize("name", ["layer0_moe", "layer1_qmoe_int4_asym", "model_with_past"])
def test_models(compiler, tinymoe, tmp_path, name):
    """With weights in a file of their own, too, and products that are no experts."""
    path = tinymoe.model(name)
    package = compiler.package(path)
    moec.unpack(package.path, tmp_path / "weights.safetensors")
    expect_equal(read_safetensors(tmp_path / "weights.safetensors"), model_tensors(path))


@pytest.mark.parametrize(
    "name",
    [
        "gpt_oss__dynamo_batched",
        "gpt_oss__ts_loop",
        "mixtral__contrib_qmoe_int2_block16",
        "qwen3_moe__dynamo_einsum",
        "qwen3_moe__dynamo_loop",
        "qwen3_moe__hfexp_grouped",
    ],
)
def test_exported_models(compiler, tmp_path, name):
    """Experts from loops, gathered, sorted and multiplied as one."""
    path = MODELS / "public" / name / "model.onnx"
    if not path.exists():
        pytest.skip(f"models not found: {path}")
    package = compiler.package(path)
    run(tool("moec"), "unpack", package.path, tmp_path / "weights.safetensors")
    expect_equal(read_safetensors(tmp_path / "weights.safetensors"), model_tensors(path))


def test_converted_weights(compiler, tinymoe, tmp_path):
    package = compiler.package(tinymoe.model("layer0_moe"), "--weight-type=int4")
    done = run(tool("moec"), "unpack", package.path, tmp_path / "weights.safetensors", check=False)
    assert done.returncode == 3
    assert "weights were converted when the model was compiled" in done.stderr
    assert "#moe.quantize<" in done.stderr
    assert not list(tmp_path.iterdir())
    with pytest.raises(moec.CompileError, match="cannot be recovered") as error:
        moec.unpack(package.path, tmp_path / "weights.safetensors")
    assert error.value.status == "UNSUPPORTED"


def test_phases_keep_the_names(compiler, tmp_path):
    """A package of a dumped phase knows the model's tensors, too."""
    path = TINYMOE / "layer1_qmoe_int8.onnx"
    compiler.run(path, "--compile-to=moe-to-cpu", "-o", tmp_path / "phase.mlir")
    compiler.run(tmp_path / "phase.mlir", "--model-dir", TINYMOE, "-o", tmp_path / "m.moec")
    moec.unpack(tmp_path / "m.moec", tmp_path / "weights.safetensors")
    expect_equal(read_safetensors(tmp_path / "weights.safetensors"), model_tensors(path))


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["m.moec"], 1, "moec unpack needs a package and a file"),
        (["m.moec", "out", "--json"], 1, "unknown option '--json' of moec unpack"),
        (["absent.moec", "out"], 2, "there is no package 'absent.moec'"),
        (["m.moec", "absent/out"], 4, "absent"),
    ],
)
def test_errors(compiler, tmp_path, arguments, status, message):
    compiler.run(TINYMOE / "layer0_moe.onnx", "-o", tmp_path / "m.moec")
    done = run(tool("moec"), "unpack", *arguments, check=False, cwd=tmp_path)
    assert done.returncode == status and message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.moec"]


@pytest.mark.parametrize("key", ["parts", "transforms", "type", "tensors", "offset"])
def test_damaged_metadata(compiler, tmp_path, key):
    """Edited metadata: an error, or other tensors, never a crash."""
    compiler.run(TINYMOE / "layer0_moe.onnx", "-o", tmp_path / "m.moec")
    path = tmp_path / "m.moec" / "m.safetensors"
    data = path.read_bytes()
    spelled = f'\\"{key}\\"'.encode()
    assert spelled in data
    path.write_bytes(data.replace(spelled, f'\\"{key[::-1]}\\"'.encode()))
    done = run(tool("moec"), "unpack", tmp_path / "m.moec", tmp_path / "out", check=False)
    assert done.returncode == 2 and "is damaged: " in done.stderr

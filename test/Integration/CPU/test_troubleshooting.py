# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""docs/troubleshooting.md says what happens: each message that it lists occurs, with the
exit status that it gives."""

import dataclasses
import os
import re
import resource
import shutil

import numpy as np
import onnx
import pytest
import spellings
from harness import BUILD, ROOT, run, tool
from onnx import TensorProto, helper
from references import generate
from safetensors.numpy import save_file

PAGE = ROOT / "docs" / "troubleshooting.md"
MOE = generate.Layer(experts=4, k=2, hidden=32, intermediate=48, activation="silu", biases=True)
QMOE = dataclasses.replace(MOE, bits=4, block=16)
MLIR = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> { return %x : tensor<4xf32> }"
WEIGHT = """moe.weight @w from [#moe.segment<"absent.bin", offset = 0, length = 16, tensor<4xf32>>] : tensor<4xf32>
func.func @main() -> tensor<4xf32> { %0 = moe.load_weight @w : tensor<4xf32> return %0 : tensor<4xf32> }"""


def read_page():
    """(tool, exit status, message) of each row; status 0 for warnings."""
    rows, heading = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| ") else []
        if heading.startswith("moec, exit status") and cells and cells[0].startswith("`"):
            rows.append(("moec", int(re.search(r"\d", heading)[0]), cells[0].strip("`")))
        elif heading == "Warnings" and cells and cells[0].startswith("`"):
            rows.append(("moec", 0, cells[0].strip("`")))
        elif heading == "moe-run" and cells and cells[0].isdigit():
            rows.append(("moe-run", int(cells[0]), cells[1].strip("`")))
    return rows


def matches(message, text):
    return re.fullmatch(".*".join(re.escape(part) for part in message.split("…")), text)


def layer(layer=MOE, **attributes):
    """A layer with attributes of its node set."""
    model = generate.build(layer)
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept + [helper.make_attribute(*item) for item in attributes.items()])
    return model


def edited(change, base=MOE):
    """A layer after `change(graph)`."""
    model = generate.build(base)
    change(model.graph)
    return model


def with_weight(**fields):
    """A layer whose fc1 has other fields."""

    def change(graph):
        for tensor in graph.initializer:
            if tensor.name == "fc1":
                for name, value in fields.items():
                    if isinstance(value, list):
                        tensor.ClearField(name)
                        getattr(tensor, name).extend(value)
                    else:
                        setattr(tensor, name, value)

    return edited(change)


def external(location, length=None):
    """A layer whose fc1 is in another file."""
    model = with_weight(data_location=TensorProto.EXTERNAL)
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == "fc1"]
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=location)
    return model


def as_input(graph):
    (weights,) = [tensor for tensor in graph.initializer if tensor.name == "fc1"]
    graph.input.append(helper.make_tensor_value_info("fc1", weights.data_type, weights.dims))
    graph.initializer.remove(weights)


def nodes(*given):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(given, "g", [value("x", 1, [4])], [value("y", 1, [4])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def with_kind(node, kind):
    """The node with another kind stated of its attribute."""
    node.attribute[0].type = onnx.AttributeProto.AttributeType.Value(kind)
    return node


def version(ir=10, opset=21):
    model = generate.build(MOE)
    model.ir_version, model.opset_import[0].version = ir, opset
    return model


def with_value(value):
    model = generate.build(MOE)
    for tensor in model.graph.initializer:
        if tensor.name == "fc2":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0, 0, 0] = value
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "fc2"))
    return model


# (model: a ModelProto, or the bytes or text of a file; arguments)
COMPILATIONS = [
    (generate.build(MOE), ["--cpu=saphirerapids"]),
    (generate.build(MOE), ["--cpu=x86-64-v4,x86-64-v3"]),
    (generate.build(MOE), ["--cpu=x86-64-v4,l3=1M"]),
    (generate.build(MOE), ["--cpu=l2=1M,x86-64-v4"]),
    (generate.build(MOE), ["--cpu=x86-64-v4,l1=2M"]),
    (generate.build(MOE), ["--cpu=multi", "--compile-to=llvm"]),
    ('module attributes {moe.phase = "llvm"} {}', ["--cpu=multi"]),
    (generate.build(MOE), ["--compute=bf16", "--cpu=x86-64-v4"]),
    (generate.build(MOE), ["--compute=bf16", "--cpu=znver4", "-O0"]),
    (generate.build(MOE), ["--activation-type=int8", "--compute=bf16"]),
    (generate.build(MOE), ["--compile-to=nowhere"]),
    (generate.build(MOE), ["-O1", "-O2"]),
    (generate.build(MOE), ["--compile-to=moe-to-cpu", "-O0"]),
    (generate.build(MOE), ["--dim=absent=1"]),
    (generate.build(MOE), ["--dim=tokens=1", "--dim=tokens=2"]),
    (generate.build(MOE), ["--keep=absent"]),
    (MLIR, ["--keep=x"]),
    (None, []),
    (b"this is no model", []),
    (b"", []),
    (external("absent.bin"), []),
    (external("../outside.bin"), []),
    (external("short.bin"), []),
    (with_weight(raw_data=b"1234567"), []),
    (with_weight(dims=[-1]), []),
    (with_weight(dims=[1 << 40, 1 << 40]), []),
    (with_weight(data_type=99), []),
    (edited(lambda graph: graph.node[0].input.__setitem__(0, "absent")), []),
    (nodes(helper.make_node("Add", ["x", "y"], ["t"]), helper.make_node("Neg", ["t"], ["y"])), []),
    (nodes(helper.make_node("Softmax", ["x"], ["y"], axs=0)), []),
    (nodes(helper.make_node("Softmax", ["x"], ["y"], axis=0.5)), []),
    (nodes(with_kind(helper.make_node("Softmax", ["x"], ["y"], axis=0), "TENSOR")), []),
    (nodes(helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])), []),
    (nodes(helper.make_node("Neg", ["x"], ["t"])), []),
    (edited(lambda graph: graph.Clear()), []),
    (layer(k=5), []),
    (with_weight(dims=[4, 32, 48]), []),
    (edited(lambda graph: graph.input[1].type.tensor_type.shape.dim.add()), []),
    (WEIGHT, []),
    (spellings.build(spellings.loop(spellings.E - 1), spellings.make_weights()), []),
    ('module attributes {moe.phase = "quantum"} {}', []),
    (nodes(helper.make_node("NonMaxSuppression", ["x", "x"], ["y"])), []),
    (version(ir=99), []),
    (version(opset=99), []),
    (layer(QMOE, quant_type="fp4"), []),
    (layer(QMOE, weights_prepacked=1), []),
    (edited(lambda graph: setattr(graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)), []),
    (edited(as_input, QMOE), []),
    (generate.build(MOE), ["--cpu=x86-64"]),
    (generate.build(MOE), ["-o", "folder"]),
    (generate.build(MOE), ["-o", "absent/layer.moec"]),
    (generate.build(MOE), ["-o", "full.moec"]),
    (with_value(np.nan), []),
    (with_value(1e9), ["--weight-type=f16"]),
    (MLIR, ["--weight-type=int4"]),
    (generate.build(MOE), ["--weight-block=32"]),
    (generate.build(MOE), ["--weight-type=bf16", "--emit=onnx"]),
]


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def compile_one(compiler, folder, model, arguments):
    """(tool, exit status, text of its error or warning)"""
    (folder / "short.bin").write_bytes(b"1234")
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "folder" / "precious.txt").touch()
    name = "model.mlir" if isinstance(model, str) else "model.onnx"
    if model is not None:
        data = model.encode() if isinstance(model, str) else model
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    limit = limit_files if "full.moec" in arguments else None
    done = compiler.run(name, *arguments, check=False, cwd=folder, preexec_fn=limit)
    found = re.findall(r"(?:error|warning): (.*)", done.stderr)
    assert len(found) == 1, f"{arguments}: {done.stderr}"
    return "moec", done.returncode, found[0]


def run_one(package, inputs, *arguments, **options):
    files = ["--input", inputs] if inputs else []
    done = run(tool("moe-run"), package, *files, *arguments, check=False, **options)
    assert done.stderr.count("\n") == 1, done.stderr
    return "moe-run", done.returncode, done.stderr.strip().removeprefix("moe-run: error: ")


def run_all(compiler, folder):
    """What moe-run says about a package, its files and inputs."""
    model = generate.build(MOE)
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "rows"
    good, other = compiler.package(model, "-O1"), compiler.package(generate.build(dataclasses.replace(MOE, seed=1)), "-O1")
    stated = edited(lambda graph: setattr(graph.output[0].type.tensor_type.shape.dim[0], "dim_value", 1))
    inputs = generate.draw_inputs(MOE, 5)
    save_file(inputs, folder / "good.safetensors")
    save_file({"hidden": inputs["hidden"]}, folder / "less.safetensors")
    save_file({**inputs, "logits": inputs["logits"][:3]}, folder / "rows.safetensors")
    weights = good.weights.read_bytes()
    (folder / "cut.safetensors").write_bytes(weights[:-1])
    shutil.copy(other.weights, folder / "other.safetensors")
    right = folder / "good.safetensors"
    yield run_one(good.path, right, "--no-such-flag")
    yield run_one(folder / "absent.moec", right)
    yield run_one(good.path, right, "--weights", folder / "cut.safetensors")
    yield run_one(good.path, right, "--weights", folder / "other.safetensors")
    yield run_one(good.path, right, "--device=cuda")
    # Found before the system's driver, if there is one.
    driver = {"LD_LIBRARY_PATH": str(BUILD / "test" / "Runtime" / "Driver"), "FAKE_CUDA_CAPABILITY": "75"}
    gpu = compiler.package(model, "--target=cuda", "--gpu-format=ptx", "--gpu-arch=sm_80")
    yield run_one(gpu.path, right, env={**os.environ, **driver})
    yield run_one(good.path, folder / "less.safetensors")
    yield run_one(good.path, folder / "rows.safetensors")
    yield run_one(compiler.package(stated, "-O1").path, right)
    yield run_one(good.path, right, "--output", "/proc/absent/out.safetensors")


@pytest.fixture(scope="module")
def occurrences(compiler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    found = []
    for index, (model, arguments) in enumerate(COMPILATIONS):
        inner = folder / str(index)
        inner.mkdir()
        found.append(compile_one(compiler, inner, model, arguments))
    return found + list(run_all(compiler, folder))


def test_everything_on_the_page_occurs(occurrences):
    for name, status, message in read_page():
        same = [text for tool, code, text in occurrences if (tool, code) == (name, status)]
        assert any(matches(message, text) for text in same), f"{name}, {status}: {message}\n" + "\n".join(same)


def test_everything_that_occurs_is_on_the_page(occurrences):
    page = read_page()
    for name, status, text in occurrences:
        listed = [message for tool, code, message in page if (tool, code) == (name, status)]
        assert any(matches(message, text) for message in listed), f"{name}, {status}: {text}"

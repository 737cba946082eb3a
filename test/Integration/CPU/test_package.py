# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What a package is made of: files, dependencies, weights, report; and programs in C
that use it."""

import filecmp
import os
import pathlib
import re
import shutil
import subprocess

import harness
import numpy as np
import onnx
import pytest
import safetensors
from harness import FIXTURES, TOLERANCES, run
from moec.runtime import load
from references import generate
from references.evaluate import evaluate, relative_error

MOE = generate.Layer(experts=8, k=3, hidden=96, intermediate=64, activation="swiglu", fusion=1, biases=True)
QMOE = generate.Layer(experts=8, k=3, hidden=96, intermediate=64, activation="silu", bits=4, block=32)

STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
TINYMOE = FIXTURES / "tinymoe"
ALL_LAYERS = ["layer0_moe", "layer1_qmoe_int4", "layer1_qmoe_int4_asym", "layer1_qmoe_int8"]




# --- files -------------------------------------------------------------------------------


@pytest.fixture(params=ALL_LAYERS)
def package(request, compiler):
    return compiler.package(TINYMOE / f"{request.param}.onnx", "-O3")


def test_files(package):
    names = {path.name for path in package.path.iterdir()}
    name = package.name
    assert names == {f"lib{name}.so", f"lib{name}.a", f"{name}.h", "moec.h", f"{name}.safetensors", f"{name}.json"}


def with_external_data(source, folder):
    """A copy whose weights are in a file of their own."""
    path = folder / source.name
    onnx.save(onnx.load(source), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def without_external_data(source, folder):
    return pathlib.Path(shutil.copy(source, folder))


@pytest.mark.parametrize("copy", [without_external_data, with_external_data])
@pytest.mark.parametrize("layer", ["layer0_moe", "layer1_qmoe_int4"])
def test_same_input_same_bytes(compiler, tmp_path, layer, copy):
    """From another folder, under another working directory, to another folder, with
    another environment; by relative and by absolute paths."""
    near, far, output = tmp_path / "a", tmp_path / "deeper" / "b", tmp_path / "output"
    for folder in (near, far, output):
        folder.mkdir(parents=True)
    compiler.run(copy(TINYMOE / f"{layer}.onnx", near).name, "-o", "x.moec", "-O3", cwd=near)
    environment = {**os.environ, "LC_ALL": "C", "TZ": "Asia/Kathmandu", "HOME": str(far), "TMPDIR": str(far)}
    model = copy(TINYMOE / f"{layer}.onnx", far)
    compiler.run(model, "-o", output / "x.moec", "-O3", cwd=output, env=environment)
    packages = near / "x.moec", output / "x.moec"
    names = sorted(path.name for path in packages[0].iterdir())
    assert names == sorted(path.name for path in packages[1].iterdir())
    same, different, unreadable = filecmp.cmpfiles(*packages, names, shallow=False)
    assert (different, unreadable) == ([], [])


def needed_libraries(path):
    text = run("readelf", "-d", path).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", text))


def test_dependencies(package):
    assert needed_libraries(package.library) <= {"libc.so.6", "libm.so.6", "libomp.so.5", "ld-linux-x86-64.so.2"}
    assert "not found" not in run("ldd", package.library).stdout


@pytest.mark.parametrize("threads", ["none", "custom"])
def test_dependencies_without_openmp(compiler, threads):
    package = compiler.package(TINYMOE / "layer0_moe.onnx", "-O3", f"--threads={threads}")
    assert needed_libraries(package.library) <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}


def test_exported_symbols(package):
    text = run("nm", "--dynamic", "--defined-only", package.library).stdout
    symbols = {line.split()[-1].split("@")[0] for line in text.splitlines()}
    assert symbols == {"moec_library", f"{package.name}_moec"}
    text = run("nm", "--extern-only", "--defined-only", package.archive).stdout
    symbols = {line.split()[-1] for line in text.splitlines() if len(line.split()) == 3}
    assert symbols == {f"{package.name}_moec"}


def test_stripped_library_is_small(package, tmp_path):
    stripped = tmp_path / "stripped.so"
    run("strip", "-o", stripped, package.library)
    assert stripped.stat().st_size < 300_000


def test_weights_open_with_safetensors(package):
    """Every tensor reads, starts at a multiple of 64 bytes, and they fill the file."""
    data = package.weights.read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    assert (8 + header_bytes) % 4096 == 0
    with safetensors.safe_open(package.weights, "np") as file:
        assert file.metadata()["moec.digest"] == package.info["weights"]["digest"]
        sizes = [file.get_tensor(name).nbytes for name in file.keys()]
    assert sum(sizes) == len(data) - 8 - header_bytes
    assert package.info["weights"]["bytes"] == len(data)
    for tensor in package.info["weights"]["tensors"]:
        assert tensor["offset"] % 64 == 0, tensor


def test_quantized_weights_stay_quantized(compiler):
    full = compiler.package(TINYMOE / "layer0_moe.onnx", "-O3").weights.stat().st_size
    for name, bound in (("layer1_qmoe_int4", 0.25), ("layer1_qmoe_int8", 0.4)):
        assert compiler.package(TINYMOE / f"{name}.onnx", "-O3").weights.stat().st_size < bound * full


def test_experts_lie_on_pages_of_their_own(package):
    weights = package.info["weights"]
    (block,) = weights["blocks"]
    assert block["experts"] == 16
    assert block["offset"] % 4096 == 0 and block["bytes"] % 4096 == 0
    members = [tensor for tensor in weights["tensors"] if tensor.get("block") == block["name"]]
    assert min(tensor["offset"] for tensor in members) == block["offset"]
    assert max(tensor["offset"] for tensor in members) < block["offset"] + block["bytes"]
    assert block["offset"] + block["experts"] * block["bytes"] <= weights["bytes"] - weights["data_offset"]


def test_info_is_the_file_beside_it(package):
    """Without what only a compilation needs, which grows with the model."""
    expected = {key: value for key, value in package.info.items() if key not in ("moe_blocks", "lowerings")}
    expected["weights"] = {key: value for key, value in expected["weights"].items() if key not in ("tensors", "blocks")}
    assert load(package.path).info == expected
    (entry,) = package.info["entries"]
    (value,) = entry["inputs"]
    assert (value["name"], value["dtype"], value["dims"]) == ("hidden_states", "float32", ["tokens", 128])


# --- report ------------------------------------------------------------------------------


def test_report(package):
    report = package.report
    (block,) = report["moe_blocks"]
    assert (block["E"], block["k"], block["H"], block["I"]) == (16, 4, 128, 64)
    assert block["dtype"] == "float32" and block["routing"] and block["nodes"]
    assert report["operators"]["MatMul"] == 1
    assert report["memory"]["weights_bytes"] == package.weights.stat().st_size
    assert report["packing"]
    assert all(phase["ms"] >= 0 for phase in report["timings"]) and report["timings"][0]["phase"] == "import"


def lowerings(report):
    return {entry["lowering"] for entry in report["lowerings"]}


def test_no_reference_lowering_at_o3(package):
    found = lowerings(package.report)
    assert found and "reference" not in found


def test_only_reference_lowering_of_moe_at_o0(compiler):
    report = compiler.package(TINYMOE / "layer0_moe.onnx", "-O0").report
    assert "reference" in lowerings(report)


# --- C -----------------------------------------------------------------------------------


HEADER_USER = """
#include "%s.h"
int main(void) { return %s_moec() == 0; }
"""


@pytest.mark.parametrize("standard", ["c99", "c11", "c++11", "c++20"])
@pytest.mark.parametrize("compile_with", ["gcc", "clang-22"])
def test_headers_are_clean(compiler, tmp_path, standard, compile_with):
    package = compiler.package(TINYMOE / "layer0_moe.onnx", "-O3")
    language = "c++" if "++" in standard else "c"
    source = tmp_path / "user.c"
    source.write_text(HEADER_USER % (package.name, package.name))
    command = [compile_with, f"-std={standard}", *STRICT, "-I", package.path, "-x", language, "-c", source]
    run(*command, "-o", tmp_path / "user.o")


TWO_MODELS = r"""
#include <stdio.h>
#include <stdlib.h>
#include "%(first)s.h"
#include "%(second)s.h"

/* Runs 2 tokens through a layer with inputs hidden[2, %(hidden)d] and logits[2, %(experts)d]. */
static int use(const moec_library *library, const char *weights) {
  static float hidden[2 * %(hidden)d], logits[2 * %(experts)d], output[2 * %(hidden)d];
  int64_t hidden_shape[2] = {2, %(hidden)d}, logits_shape[2] = {2, %(experts)d};
  moec_model *model = NULL;
  moec_context *context = NULL;
  DLTensor tensors[3];
  const DLTensor *inputs[2];
  DLTensor *outputs[1];
  int i;
  for (i = 0; i < 2 * %(hidden)d; ++i)
    hidden[i] = (float)(i %% 17) / 8.0f - 1.0f;
  for (i = 0; i < 2 * %(experts)d; ++i)
    logits[i] = (float)(i * 7 %% 11) / 4.0f;
  for (i = 0; i < 3; ++i) {
    tensors[i].device.device_type = kDLCPU;
    tensors[i].device.device_id = 0;
    tensors[i].ndim = 2;
    tensors[i].dtype.code = kDLFloat;
    tensors[i].dtype.bits = 32;
    tensors[i].dtype.lanes = 1;
    tensors[i].strides = NULL;
    tensors[i].byte_offset = 0;
  }
  tensors[0].data = hidden;
  tensors[0].shape = hidden_shape;
  tensors[1].data = logits;
  tensors[1].shape = logits_shape;
  tensors[2].data = output;
  tensors[2].shape = hidden_shape;
  inputs[0] = &tensors[0];
  inputs[1] = &tensors[1];
  outputs[0] = &tensors[2];
  if (library->open(weights, NULL, &model) != MOEC_OK ||
      library->context_create(model, NULL, &context) != MOEC_OK ||
      library->run(context, NULL, inputs, 2, outputs, 1) != MOEC_OK) {
    fprintf(stderr, "%%s\n", library->last_error());
    return 1;
  }
  for (i = 0; i < 2 * %(hidden)d; ++i)
    printf("%%.9g\n", (double)output[i]);
  library->context_destroy(context);
  library->close(model);
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 3)
    return 2;
  return use(%(first)s_moec(), argv[1]) || use(%(second)s_moec(), argv[2]);
}
"""


def test_two_models_in_one_program(compiler, tmp_path):
    """Both linked statically, no symbol clashes, each with its own weights."""
    packages = [compiler.package(generate.build(layer), "-O3", "--threads=none") for layer in (MOE, QMOE)]
    names = dict(first=packages[0].name, second=packages[1].name, hidden=MOE.hidden, experts=MOE.experts)
    source = tmp_path / "two.c"
    source.write_text(TWO_MODELS % names)
    includes = [word for package in packages for word in ("-I", package.path)]
    program = tmp_path / "two"
    archives = [package.archive for package in packages]
    run("gcc", "-std=c99", *STRICT, *includes, source, *archives, "-lm", "-lpthread", "-o", program)
    text = run(program, packages[0].weights, packages[1].weights).stdout
    actual = np.array([float(line) for line in text.split()]).reshape(2, 2, MOE.hidden)
    count = 2 * MOE.hidden
    inputs = {
        "hidden": (np.arange(count, dtype=np.float32) % 17 / 8 - 1).reshape(2, -1),
        "logits": (np.arange(2 * MOE.experts) * 7 % 11 / 4).astype(np.float32).reshape(2, -1),
    }
    for layer, output in zip((MOE, QMOE), actual):
        assert relative_error(output, evaluate(generate.build(layer), inputs)["output"]) < TOLERANCES["float32"]


@pytest.mark.parametrize("example", sorted((harness.ROOT / "examples" / "c").glob("*.c")), ids=lambda path: path.stem)
def test_c_example(compiler, tmp_path, example):
    """The documented program, with the documented command, on the documented model."""
    package = compiler.package(TINYMOE / "layer0_moe.onnx", "-O3")
    program = tmp_path / example.stem
    run("gcc", "-std=c99", *STRICT, "-I", package.path, example, package.library, f"-Wl,-rpath,{package.path}", "-lm", "-o", program)
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run([program], capture_output=True, text=True, env=environment, cwd=package.path, timeout=60)
    assert done.returncode == 0, done.stderr


def test_readme_example_is_clean(compiler, tmp_path):
    readme = (harness.ROOT / "README.md").read_text()
    (code,) = re.findall(r"```c\n(.*?)```", readme, re.DOTALL)
    compiler.run(TINYMOE / "layer0_moe.onnx", "-o", tmp_path / "layer0.moec")
    source = tmp_path / "readme.c"
    source.write_text("#include <stdio.h>\n" + code)
    run("gcc", "-std=c99", *STRICT, "-I", tmp_path / "layer0.moec", "-c", source, "-o", tmp_path / "readme.o")


# --- models with external data --------------------------------------------------------------


def test_external_data_in_several_files(compiler, tmp_path):
    model = generate.build(MOE)
    inputs = generate.draw_inputs(MOE, 9)
    expected = evaluate(model, inputs)["output"]
    for index, tensor in enumerate(model.graph.initializer):
        tensor.data_location = onnx.TensorProto.EXTERNAL
        name, data = f"weights{index % 2}.bin", tensor.raw_data
        path = tmp_path / name
        path.touch()
        offset = -(-path.stat().st_size // 64) * 64
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)
        tensor.ClearField("raw_data")
        for key, value in (("location", name), ("offset", offset), ("length", len(data))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    path = tmp_path / "external.onnx"
    path.write_bytes(model.SerializeToString())
    package = compiler.package(path, "-O3")
    assert relative_error(load(package.path).run(inputs)["output"], expected) < TOLERANCES["float32"]


def test_package_does_not_need_the_model(compiler, tmp_path):
    shutil.copy(TINYMOE / "layer0_moe.onnx", tmp_path)
    compiler.run(tmp_path / "layer0_moe.onnx", "-o", tmp_path / "moved.moec")
    (tmp_path / "layer0_moe.onnx").unlink()
    target = tmp_path / "elsewhere" / "moved.moec"
    target.parent.mkdir()
    shutil.move(tmp_path / "moved.moec", target)
    x = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)
    assert np.isfinite(load(target).run({"hidden_states": x})["output"]).all()

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""`cmake --install` gives a tree that works after it was moved: its tools, and separate
projects (examples/) that are built against it."""

import filecmp
import os
import re
import shutil

import harness
import onnx
import pytest
from harness import run

EXAMPLES = harness.ROOT / "examples"
MODEL = harness.ROOT / "test" / "models" / "tinymoe" / "layer0_moe.onnx"
CPU = "--cpu=x86-64-v3"


def is_sanitized():
    """The libraries of such a build only link with programs of such a build."""
    cache = harness.BUILD / "CMakeCache.txt"
    return cache.exists() and re.search(r"^MOEC_SANITIZE:\w+=.", cache.read_text(), re.MULTILINE)


pytestmark = pytest.mark.skipif(bool(is_sanitized()), reason="the build has sanitizers")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An installation that is not where it was installed."""
    if not (harness.BUILD / "lib" / "libmoec-c.so").exists():
        absent = pytest.fail if "MOEC_BUILD_DIR" in os.environ else pytest.skip
        absent(f"moec is not built: {harness.BUILD}")
    folder = tmp_path_factory.mktemp("install")
    run("cmake", "--install", harness.BUILD, "--prefix", folder / "first")
    return shutil.move(folder / "first", folder / "second" / "moved")


def build(example, folder, prefix, *definitions):
    """Builds examples/EXAMPLE in `folder` with nothing but the installation."""
    compilers = ["-DCMAKE_C_COMPILER=clang-22", "-DCMAKE_CXX_COMPILER=clang++-22"]
    prefix = f"-DCMAKE_PREFIX_PATH={prefix}"
    run("cmake", "-G", "Ninja", "-S", EXAMPLES / example, "-B", folder, prefix, *compilers, *definitions)
    run("cmake", "--build", folder)


def same_packages(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    _, different, unreadable = filecmp.cmpfiles(one, other, names, shallow=False)
    return different + unreadable == []


@pytest.fixture(scope="module")
def package(installed, tmp_path_factory):
    """What the moved moec makes of the model."""
    path = tmp_path_factory.mktemp("package") / "layer.moec"
    run(installed / "bin" / "moec", MODEL, "-o", path, CPU)
    return path


def test_tools(installed, package, tmp_path):
    """They do what those of the build folder do."""
    built = tmp_path / "layer.moec"
    run(harness.tool("moec"), MODEL, "-o", built, CPU)
    assert same_packages(built, package)
    assert "output: float32 [tokens, 128]" in run(installed / "bin" / "moe-run", package).stdout
    assert "moe.select" in run(installed / "bin" / "moe-opt", MODEL, "--normalize-onnx", "--raise-moe").stdout
    assert "onnx.node" in run(installed / "bin" / "moe-translate", "--import-onnx", MODEL).stdout
    assert run(installed / "bin" / "moe-lsp-server", "--help").returncode == 0


def test_no_trace_of_the_build(installed):
    """Nothing that is read or loaded from names the folders of the build."""
    for path in installed.rglob("*"):
        if path.suffix in (".cmake", ".h", ".inc", ".td"):
            assert str(harness.ROOT) not in path.read_text(), path
        if path.suffix == ".so" or path.parent.name == "bin":
            assert str(harness.ROOT) not in run("readelf", "-d", path).stdout, path


@pytest.mark.parametrize("program", ["moec", "moec-c"])
def test_runtime_is_found_in_the_tree(installed, tmp_path, program):
    """By the executable, and by the library from a program elsewhere."""
    tree = tmp_path / "tree"
    shutil.copytree(installed / "bin", tree / "bin")
    shutil.copytree(installed / "lib", tree / "lib", ignore=shutil.ignore_patterns("runtime_*.o"))
    command = [tree / "bin" / "moec", MODEL, "-O1", "-o", "x.moec"]
    if program == "moec-c":
        command = [harness.tool("moec-c-test"), MODEL, "O=1", "o=x.moec"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tree / "lib")}
    done = run(*command, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 4
    assert f"the runtime '{tree}/lib/moec/runtime_openmp.o' was not found" in done.stdout + done.stderr


def test_headers_stand_alone(installed):
    """Every header that the public ones include is there."""
    included = set()
    for path in installed.glob("include/moec/**/*"):
        if path.is_file():
            included |= set(re.findall(r'#include "(moec/[^"]*)"', path.read_text()))
    assert "moec/Dialect/MoE/IR/MoEOps.h.inc" in included
    assert [name for name in sorted(included) if not (installed / "include" / name).is_file()] == []


def test_pass_of_another_project(installed, package, tmp_path):
    """The pass does to the program what another k does to the model."""
    build("pass", tmp_path / "build", installed)
    limited = tmp_path / "limited" / "layer.moec"
    limited.parent.mkdir()
    done = run(tmp_path / "build" / "limit-experts", "2", MODEL, limited)
    assert "E=16 k=2 H=128" in done.stdout

    model = onnx.load(MODEL)
    (attribute,) = [a for node in model.graph.node for a in node.attribute if a.name == "k"]
    assert attribute.i == 4
    attribute.i = 2
    (tmp_path / "edited").mkdir()
    onnx.save(model, tmp_path / "edited" / MODEL.name)
    edited = tmp_path / "edited" / "layer.moec"
    run(installed / "bin" / "moec", tmp_path / "edited" / MODEL.name, "-o", edited)
    assert same_packages(limited, edited)


def test_compiler_from_c(installed, package, tmp_path):
    build("compiler", tmp_path / "build", installed)
    program = tmp_path / "build" / "compile_model"
    done = run(program, MODEL, tmp_path / "layer.moec", "cpu=x86-64-v3")
    assert "raise-moe\n" in done.stdout and "bytes of weights" in done.stdout
    assert same_packages(tmp_path / "layer.moec", package)

    done = run(program, MODEL, tmp_path / "other.moec", "dim=batch=1", check=False)
    assert done.returncode == 1 and "error: " in done.stderr
    done = run(program, MODEL, tmp_path / "other.moec", "optimize=3", check=False)
    assert done.returncode == 1 and "unknown option '--optimize'" in done.stderr
    assert not (tmp_path / "other.moec").exists()


def test_model_in_a_cmake_build(installed, tmp_path):
    model = shutil.copy(MODEL, tmp_path)
    build("cmake", tmp_path / "build", installed, f"-DMODEL={model}")
    assert re.search(r"\b4\b.*\b128\b", run(tmp_path / "build" / "moe_layer", "4").stdout)
    assert "no work to do" in run("cmake", "--build", tmp_path / "build").stdout
    os.utime(model)
    assert "Compiling" in run("cmake", "--build", tmp_path / "build").stdout


def test_plugin(installed, tmp_path):
    """The installed plugin, by the stock mlir-opt."""
    plugin = installed / "lib" / "MoecPlugin.so"
    text = run(installed / "bin" / "moe-translate", "--import-onnx", MODEL).stdout
    (tmp_path / "model.mlir").write_text(text)
    flags = [f"--load-dialect-plugin={plugin}", f"--load-pass-plugin={plugin}"]
    assert "moe.select" in run("mlir-opt-22", *flags, "--pass-pipeline=builtin.module(normalize-onnx,raise-moe)", tmp_path / "model.mlir").stdout

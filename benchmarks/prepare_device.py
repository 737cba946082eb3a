# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes a folder to carry to a machine with a GPU and without a compiler: packages, the benchmark
layer_on_gpu.py, and the tests of test/Integration/CUDA that need a device.

    python benchmarks/prepare_device.py FOLDER
    cd FOLDER                                                   (there, with Python, NumPy and PyTorch)
    python benchmarks/layer_on_gpu.py --packages packages --json figures.json
    python -m pytest test/Integration/CUDA/test_device.py

Layers come without weights, which layer_on_gpu.py computes; the models of the tests have theirs,
smaller ones first, as many as `--megabytes` leaves room for.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import device_layer
import layer_model
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCHMARKS = ("device_layer.py", "device_sides.py", "ggml_side.py", "layer_model.py", "layer_on_gpu.py", "layer_sides.py", "layer_vs_peers.py", "machine.py", "plot.py",
              "prepared.py", "routing.py", "side.py", "synthetic.py", "triton_layer.py")
TESTS = ("test_device.py",)
# Experts and k of routers that are timed alone.
ROUTERS = ((128, 8), (256, 8))


# What test_device.py runs beside the layers that are timed: odd sizes, and every kind of weights.
TESTED = (("odd", "bf16"), ("odd", "f32"), ("6,2,256,128", "bf16"), ("6,2,256,128", "int8"), ("6,2,256,128", "int4"))


def copy_programs(folder):
    for name in BENCHMARKS:
        _copy(ROOT / "benchmarks" / name, folder / "benchmarks" / name)
    for name in TESTS:
        _copy(ROOT / "test" / "Integration" / "CUDA" / name, folder / "test" / "Integration" / "CUDA" / name)
    # Without moec itself, which is the compiler.
    shutil.copytree(ROOT / "python" / "moec" / "runtime", folder / "python" / "moec" / "runtime", ignore=shutil.ignore_patterns("__pycache__"))


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def write_sparse_weights(tensors, path):
    """A safetensors file of zeros that takes no room on the disk."""
    header, offset = {}, 0
    for name, (shape, element) in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * {"bf16": 2, "f32": 4, "ui8": 1}[element]
        header[name] = dict(dtype={"bf16": "BF16", "f32": "F32", "ui8": "U8"}[element], shape=shape, data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def compile_package(model, package, arguments, more=(), weights=True):
    """Keeps what running needs: the library, its description, and the weights if they are to stay."""
    package.parent.mkdir(parents=True, exist_ok=True)
    command = [arguments.moec, model, "-o", package, "-O3", "--target=cuda", f"--gpu-arch={arguments.gpu_arch}", f"--gpu-format={arguments.gpu_format}", *more]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{package.stem}: {done.stderr.strip()}")
    keep = {".so", ".json"} | ({".safetensors"} if weights else set())
    for path in package.iterdir():
        if path.suffix not in keep:
            path.unlink()


def compile_layers(folder, arguments):
    wanted = [(layer, dtype) for layer in arguments.layer for dtype in arguments.type]
    wanted += [(device_layer.DeviceLayer.parse(name), dtype) for name, dtype in TESTED]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = pathlib.Path(name)
        for layer, dtype in dict.fromkeys(wanted):
            if not device_layer.has_type(layer, dtype):
                print(f"{layer.name} {dtype}: left out, blocks of {layer_model.BLOCK} do not divide its sizes")
            else:
                model = scratch / f"{device_layer.package_name(layer, dtype)}.mlir"
                model.write_text(device_layer.layer_text(layer, dtype))
                write_sparse_weights(device_layer.stored_tensors(layer, dtype), scratch / "w.safetensors")
                compile_package(model, folder / "packages" / f"{model.stem}.moec", arguments, ["--weights", "w.safetensors"], weights=False)
                print(f"packages/{model.stem}.moec", flush=True)
        for experts, k in ROUTERS:
            model = scratch / f"{device_layer.router_name(experts, k)}.mlir"
            model.write_text(device_layer.router_text(experts, k))
            compile_package(model, folder / "packages" / f"{model.stem}.moec", arguments)
            print(f"packages/{model.stem}.moec", flush=True)


def folder_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def recorded_cases(models):
    """(bytes, name, model, npz of inputs, npz of outputs, tolerance) of recorded graphs: what computes in float32 is
    compared with float64, others with what PyTorch gave in the same type."""
    for model in sorted(models.glob("*/model.onnx")):
        inputs = next((path for path in (model.with_name("in0.npz"), model.with_name("inputs.npz")) if path.exists()), None)
        if not inputs:
            continue
        name = model.parent.name
        half = {"bf16": 1.6e-2, "f16": 2e-3}.get(name.split("__")[0].split("_")[-1], 2e-3 if name.endswith("_f16") else None)
        expected = inputs.with_name(inputs.name.replace("in", "out", 1).replace(".npz", ".npz" if half else "_f64.npz"))
        if expected.exists():
            yield folder_bytes(model.parent), name, model, inputs, expected, 2 * (half or 1e-5)


def system_cases(scratch):
    """The same of the systems in test/Systems, with inputs drawn here and references in float64."""
    sys.path[:0] = [str(ROOT / "test"), str(ROOT / "test" / "Systems"), str(ROOT / "python")]
    from references.systems import modules
    from safetensors.numpy import save_file

    import layers

    for case, module in ((case, module) for module in modules().values() for case in module.CASES):
        layer = layers.Layer(layers.FILES[case], module.DIMS, module.DIMS, "float32")
        arrays = module.draw(np.random.default_rng(0), module.DIMS, 33, case, dtype=np.float32, given={})
        place = scratch / case
        place.mkdir()
        (place / "layer.mlir").write_text(layer.text)
        weights = layer.weights()
        save_file({name: np.ascontiguousarray(arrays[name].astype(kind)) for name, kind in weights.items()}, place / "w.safetensors")
        np.savez(place / "in.npz", **{name: array for name, array in arrays.items() if name not in weights})
        np.savez(place / "out.npz", **{name: np.asarray(value) for name, value in module.reference(arrays, module.DIMS, case).items()})
        yield folder_bytes(place), f"system_{case}", place / "layer.mlir", place / "in.npz", place / "out.npz", 2e-5


def compile_cases(folder, arguments):
    """cases/NAME: a package, its inputs, what float64 gives."""
    limit, left_out, refused = arguments.megabytes * 2**20, 0, []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        scratch = pathlib.Path(scratch)
        cases = [*system_cases(scratch), *(recorded_cases(arguments.models) if arguments.models else [])]
        used = folder_bytes(folder) - folder_bytes(scratch)
        for _, name, model, inputs, expected, tolerance in sorted(cases)[:: arguments.every]:
            place = folder / "cases" / name
            place.mkdir(parents=True)
            weights = ["--weights", "w.safetensors"] if model.suffix == ".mlir" else []
            try:
                compile_package(model, place / f"{name}.moec", arguments, weights)
            except RuntimeError as error:
                refused.append(str(error).splitlines()[0])
                shutil.rmtree(place)
                continue
            shutil.copy(inputs, place / "in.npz")
            shutil.copy(expected, place / "out.npz")
            (place / "tolerance").write_text(f"{tolerance}\n")
            used += folder_bytes(place)
            if used > limit:
                used -= folder_bytes(place)
                shutil.rmtree(place)
                left_out += 1
    print(f"{len(list((folder / 'cases').iterdir()))} cases, {left_out} left out for their size, {len(refused)} refused")
    for line in refused:
        print(f"  {line}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="is made; must not exist")
    parser.add_argument("--layer", type=lambda text: [device_layer.DeviceLayer.parse(one) for one in text.split(";")],
                        default=[device_layer.DeviceLayer.parse(name) for name in layer_model.NAMED],
                        help=f"{', '.join(layer_model.NAMED)} or E,k,H,I; several with ; between (default: all)")
    parser.add_argument("--type", type=lambda text: text.split(","), default=["bf16"], help=f"of {', '.join(device_layer.TYPES)} (default: bf16)")
    parser.add_argument("--models", type=pathlib.Path, help="folder of recorded graphs, for the tests")
    parser.add_argument("--every", type=int, default=1, help="take every so many of the cases")
    parser.add_argument("--megabytes", type=int, default=64, help="the largest folder (default: %(default)s)")
    parser.add_argument("--gpu-arch", default="sm_90a", help="as for moec (default: %(default)s)")
    parser.add_argument("--gpu-format", default="fatbin", help="as for moec (default: %(default)s)")
    parser.add_argument("--moec", type=pathlib.Path, default=ROOT / "build" / "bin" / "moec")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.type) - set(device_layer.TYPES))
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(device_layer.TYPES)}")
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} exists")
    return arguments


def main():
    arguments = parse_arguments()
    arguments.moec = arguments.moec.resolve()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True)
    copy_programs(folder)
    compile_layers(folder, arguments)
    compile_cases(folder, arguments)
    size = folder_bytes(folder)
    print(f"{folder}: {size / 2**20:.1f} MiB")
    if size > arguments.megabytes * 2**20:
        raise SystemExit(f"more than {arguments.megabytes} MiB: take fewer layers")


if __name__ == "__main__":
    main()

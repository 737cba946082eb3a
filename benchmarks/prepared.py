# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The folder of prepare_device.py.

    python benchmarks/prepared.py FOLDER LAYER TYPE     runs a layer for some numbers of tokens: for compute-sanitizer
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile


def find_folder(root):
    """`root`, if it is one, or MOEC_DEVICE_FOLDER; otherwise a new one of odd layers and the models that fit."""
    folder = pathlib.Path(os.environ.get("MOEC_DEVICE_FOLDER", root))
    if (folder / "packages").is_dir():
        return folder
    build = pathlib.Path(os.environ.get("MOEC_BUILD_DIR", root / "build"))
    folder = pathlib.Path(tempfile.mkdtemp()) / "device"
    models = root.parent / "shared" / "models" / "public"
    more = ["--models", models] if models.is_dir() else []
    program = root / "benchmarks" / "prepare_device.py"
    subprocess.run([sys.executable, program, folder, "--layer", "odd", "--moec", build / "bin" / "moec", *more], check=True)
    return folder


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    folder, name, dtype = pathlib.Path(sys.argv[1]), *sys.argv[2:]
    sys.path[:0] = [str(folder / "python")]
    import device_layer
    import device_sides
    import synthetic
    import torch
    from moec.runtime import load

    layer = device_layer.DeviceLayer.parse(name)
    package = folder / "packages" / f"{device_layer.package_name(layer, dtype)}.moec"
    info = json.loads((package / f"{package.stem}.json").read_text())["weights"]
    rows = torch.float32 if dtype == "f32" else torch.bfloat16
    with tempfile.TemporaryDirectory() as scratch:
        weights = pathlib.Path(scratch) / "w.safetensors"
        synthetic.write(info, device_layer.SEED, weights)
        with load(package, weights=weights) as model:
            context = device_sides.DeviceContext(model, 0)
            for tokens in (1, 7, 200):
                x = torch.randn(tokens, layer.hidden, dtype=rows, device="cuda")
                logits, y = torch.randn(tokens, layer.experts, device="cuda"), torch.empty_like(x)
                context.run([device_sides.device_tensor(x), device_sides.device_tensor(logits)], [device_sides.device_tensor(y)])
                torch.cuda.synchronize()
                assert torch.isfinite(y).all()
            context.close()


if __name__ == "__main__":
    main()

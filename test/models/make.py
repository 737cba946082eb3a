# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes test/models/tinymoe from the full folder of test models:

    python test/models/make.py FOLDER_OF_MODELS
"""

import pathlib
import shutil
import sys

from safetensors.numpy import load_file, save_file

TOKENS = 64
NAMES = ["layer0_moe", "layer1_qmoe_int4", "layer1_qmoe_int4_asym", "layer1_qmoe_int8"]
# The whole model with a key/value cache, a prompt, and what PyTorch continues it with.
LANGUAGE_MODEL = ["model_with_past.onnx", "model.onnx.data", "prompt.txt", "golden.txt"]


def main(models):
    source = pathlib.Path(models) / "tinymoe"
    target = pathlib.Path(__file__).parent / "tinymoe"
    target.mkdir(exist_ok=True)
    for name in NAMES:
        shutil.copyfile(source / f"{name}.onnx", target / f"{name}.onnx")
    for name in LANGUAGE_MODEL:
        shutil.copyfile(source / name, target / name)
    recorded = load_file(source / "activations.safetensors")
    # Without `tokens`, which are text of others.
    kept = {name: values[:TOKENS].copy() for name, values in recorded.items() if name.startswith(("layer0.", "layer1."))}
    save_file(kept, target / "activations.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the end-to-end tests share: the built tools, where the models are, a cache of compiled
packages, tolerances."""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import subprocess

import onnx

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("MOEC_BUILD_DIR", ROOT / "build"))

# A small trained model, in part in the repository, and the folder of all test models, beside it.
FIXTURES = ROOT / "test" / "models"
MODELS = pathlib.Path(os.environ.get("MOEC_MODELS", ROOT.parent / "shared" / "models"))

# max |Δ| / max |y| against float64, of what computes in each type.
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}

# Flags for every package, such as --sanitize=address, or --cpu=x86-64-v3 for those that choose no CPU.
FLAGS = tuple(os.environ.get("MOEC_FLAGS", "").split())
CPU = next((flag.removeprefix("--cpu=") for flag in FLAGS if flag.startswith("--cpu=")), "native")

# A compilation that takes longer than this hangs.
TIMEOUT_SECONDS = 300


def tool(name):
    return BUILD / "bin" / name


def run(*command, check=True, timeout=TIMEOUT_SECONDS, **options):
    """Runs a command, its output captured as text. With `check`, prints both streams
    in the failure."""
    # A sanitizer's runtime is preloaded for the compiled models, not for the tools.
    options.setdefault("env", {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"})
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        **options,
    )
    if check and done.returncode:
        words = " ".join(str(word) for word in command)
        raise AssertionError(f"exit status {done.returncode} of: {words}\n{done.stdout}{done.stderr}")
    return done


@dataclasses.dataclass(frozen=True)
class Package:
    """A folder NAME.moec and the report of its compilation."""

    path: pathlib.Path
    report_path: pathlib.Path

    @property
    def name(self):
        return self.path.stem

    @property
    def library(self):
        return self.path / f"lib{self.name}.so"

    @property
    def archive(self):
        return self.path / f"lib{self.name}.a"

    @property
    def weights(self):
        return self.path / f"{self.name}.safetensors"

    @property
    def report(self):
        return json.loads(self.report_path.read_text())

    @property
    def info(self):
        return json.loads((self.path / f"{self.name}.json").read_text())


class Compiler:
    """moec, with a cache of packages over one test session."""

    def __init__(self, folder):
        self.folder = folder
        self._packages, self._numbers = {}, itertools.count()

    def run(self, *arguments, check=True, **options):
        return run(tool("moec"), *arguments, check=check, **options)

    def save(self, model):
        """The path of a model that is given as a ModelProto."""
        if not isinstance(model, onnx.ModelProto):
            return pathlib.Path(model)
        data = model.SerializeToString()
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:16]}.onnx"
        path.write_bytes(data)
        return path

    def package(self, model, *flags):
        """The package of a model (a path or a ModelProto), compiled with these flags."""
        path = self.save(model)
        # Code for a device alone is for no CPU.
        chooses = any(flag.startswith("--cpu") or flag == "--target=cuda" for flag in flags)
        flags = (*flags, *(flag for flag in FLAGS if not (chooses and flag.startswith("--cpu"))))
        key = (path, flags)
        if key not in self._packages:
            folder = self.folder / f"package{next(self._numbers)}"
            folder.mkdir()
            stem = "".join(letter if letter.isalnum() else "_" for letter in path.stem)
            if path.stem == "model":
                stem = "".join(letter if letter.isalnum() else "_" for letter in path.parent.name)
            name = f"m{stem}" if stem[0].isdigit() else stem
            package = Package(folder / f"{name}.moec", folder / "report.json")
            self.run(path, "-o", package.path, "--report", package.report_path, *flags)
            self._packages[key] = package
        return self._packages[key]

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Imports the bad models of a folder and prints what is reported for each."""

import pathlib
import subprocess
import sys

tool, folder = sys.argv[1], pathlib.Path(sys.argv[2])
prefixes = ("bad_", "empty", "garbage", "ext_", "recursive")
for path in sorted(folder.rglob("*.onnx")):
    if not path.name.startswith(prefixes):
        continue
    run = subprocess.run([tool, "--import-onnx", path], capture_output=True, text=True)
    name = path.relative_to(folder).with_suffix("")
    # One error, no output, no crash.
    assert run.returncode == 1 and not run.stdout, (name, run)
    for line in run.stderr.splitlines():
        print(f"{name}: {line}")

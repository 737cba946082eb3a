# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes sub/w.safetensors, and sub/broken.safetensors cut off in its header, into a folder."""

import json
import pathlib
import struct
import sys

TENSORS = [
    ("layer.router", "F32", [2, 3], 24),
    ("layer.gate", "F16", [2, 2, 2], 16),
    ("layer.up", "F16", [2, 2, 2], 16),
    ("codes", "U8", [4], 4),
]


def main(folder):
    folder = pathlib.Path(folder) / "sub"
    folder.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for name, dtype, shape, size in TENSORS:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(end)
    (folder / "w.safetensors").write_bytes(content)
    (folder / "broken.safetensors").write_bytes(content[: len(text) // 2])


main(sys.argv[1])

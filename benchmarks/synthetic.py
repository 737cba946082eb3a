# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The weights of `moe-run --synthetic-weights` (docs/tools/moe-run.md), as a file: for a package that
came without its own, on a machine without moe-run."""

import concurrent.futures
import json

import numpy as np

CHUNK = 1 << 21
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "ui8": 1, "si8": 1}
STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "i8": np.uint8, "ui8": np.uint8, "si8": np.uint8}


def parse_type(text):
    """(shape, element type) of "tensor<8x64x32xf32>"."""
    *sizes, element = text[len("tensor<") : -1].split("x")
    return tuple(int(size) for size in sizes), element


def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _key(name, seed):
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    return _mix(np.uint64(seed ^ key))


def _values(key, element, columns, begin, end):
    """Elements `begin` … `end`, as they are stored (bfloat16: its bits)."""
    bits = _mix(key + np.arange(begin, end, dtype=np.uint64))
    if element not in ("f32", "f16", "bf16"):
        return bits.astype(STORED[element])
    unit = np.float32(2) * (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24) - np.float32(1)
    values = unit * (np.float32(1) / np.sqrt(np.float32(columns)))
    if element != "bf16":
        return values.astype(STORED[element])
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def places(tensor):
    """(offset of each part, shape of a part, element type): the parts are the experts."""
    shape, element = parse_type(tensor["type"])
    count, rest = (shape[0], shape[1:]) if shape else (1, ())
    return [tensor["offset"] + part * tensor["expert_stride"] for part in range(count)], rest, element


def write(weights, seed, path):
    """A weights file for `weights` of a package's NAME.json."""
    header = json.dumps({"__metadata__": {"moec.digest": weights["digest"]}}, separators=(",", ":")).encode()
    start = weights["data_offset"]
    data = np.memmap(path, np.uint8, "w+", shape=(weights["bytes"],))
    data[:start] = ord(" ")
    data[:8] = np.frombuffer(np.uint64(start - 8).tobytes(), np.uint8)
    data[8 : 8 + len(header)] = np.frombuffer(header, np.uint8)

    def fill(key, element, columns, at, first, begin, end):
        with np.errstate(over="ignore"):
            values = _values(key, element, columns, first + begin, first + end)
        at += start + begin * BYTES[element]
        data[at : at + values.nbytes] = values.view(np.uint8)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = []
        for tensor in weights["tensors"]:
            offsets, rest, element = places(tensor)
            shape, _ = parse_type(tensor["type"])
            with np.errstate(over="ignore"):
                key = _key(tensor["name"], seed)
            size = int(np.prod(rest, dtype=np.int64))
            for part, at in enumerate(offsets):
                for begin in range(0, size, CHUNK):
                    end = min(begin + CHUNK, size)
                    jobs.append(pool.submit(fill, key, element, shape[-1] if shape else 1, at, part * size, begin, end))
        for job in jobs:
            job.result()
    data.flush()


class File:
    """The tensors of such a file by name, part by part; bfloat16 as its bits."""

    def __init__(self, weights, path):
        self.data = np.memmap(path, np.uint8, "r", weights["data_offset"])
        self.tensors = {tensor["name"]: places(tensor) for tensor in weights["tensors"]}

    def part(self, name, number):
        offsets, shape, element = self.tensors[name]
        size = int(np.prod(shape, dtype=np.int64)) * BYTES[element]
        return self.data[offsets[number] : offsets[number] + size].view(STORED[element]).reshape(shape)

    def element(self, name):
        return self.tensors[name][2]

    def parts(self, name):
        return len(self.tensors[name][0])


def widen(values, element):
    """To float32, exactly."""
    if element == "bf16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32)

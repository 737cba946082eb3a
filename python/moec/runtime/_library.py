# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A package's shared library and its description."""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ._errors import MoecError
from ._interface import ABI_VERSION, STATUS_NAMES, LibraryTable


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: `dtype` is a name as "float32" or "bfloat16"; each of `dims` is a size
    or the name of a symbolic dimension. Equal names in one entry are equal sizes."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class Entry:
    """A function of a model. `symbols` are the names of its symbolic dimensions."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    symbols: tuple[str, ...]

    @cached_property
    def input_names(self) -> frozenset[str]:
        return frozenset(one.name for one in self.inputs)

    @cached_property
    def output_names(self) -> frozenset[str]:
        return frozenset(one.name for one in self.outputs)


def _tensors(described: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(one["name"], one["dtype"], tuple(one["dims"])) for one in described)


def _entry(described: dict[str, Any]) -> Entry:
    inputs, outputs = _tensors(described["inputs"]), _tensors(described["outputs"])
    return Entry(described["name"], inputs, outputs, tuple(described["symbols"]))


def _find_library(package: pathlib.Path) -> pathlib.Path:
    found = sorted(package.glob("lib*.so"))
    if len(found) == 1:
        return found[0]
    if not package.exists():
        raise MoecError("PACKAGE", f"the package '{package}' does not exist")
    raise MoecError("PACKAGE", f"'{package}' is no package: it has {len(found)} files lib*.so, expected one")


def _check_whole(path: pathlib.Path) -> None:
    """The system's loader maps what a truncated file does not have, and ends the process. The
    section headers are the last part of a library."""
    with path.open("rb") as file:
        header = file.read(64)
        size = os.fstat(file.fileno()).st_size
    if len(header) < 64 or header[:5] != b"\x7fELF\x02":
        raise OSError("it is not a 64-bit ELF file")
    offset, entry_size, count = *struct.unpack_from("<Q", header, 40), *struct.unpack_from("<HH", header, 58)
    if size < offset + entry_size * count:
        raise OSError(f"it is truncated: it has {size} bytes, expected {offset + entry_size * count}")


# The files (device, inode) that were loaded from a path. A loaded file keeps its inode.
_loaded: dict[pathlib.Path, list[tuple[int, int]]] = {}


def _spelling(path: pathlib.Path) -> str:
    """The path, spelt differently for each file that was there: the system's loader takes a name
    that it knows for the file that it has, also when a new compilation has replaced that."""
    path = path.resolve()
    status = path.stat()
    identity = status.st_dev, status.st_ino
    known = _loaded.setdefault(path, [])
    if identity not in known:
        known.append(identity)
    return f"{path.parent}{'/.' * known.index(identity)}/{path.name}"


def _load(path: pathlib.Path) -> LibraryTable:
    try:
        _check_whole(path)
        function = ctypes.CDLL(_spelling(path)).moec_library
    except (OSError, AttributeError) as error:
        raise MoecError("PACKAGE", f"the library '{path}' cannot be loaded: {error}") from error
    function.restype = ctypes.POINTER(LibraryTable)
    table: LibraryTable = function().contents
    if table.abi_version != ABI_VERSION or table.size < ctypes.sizeof(LibraryTable):
        found = f"version {table.abi_version} with a table of {table.size} bytes"
        expected = f"version {ABI_VERSION} with {ctypes.sizeof(LibraryTable)} bytes"
        raise MoecError("PACKAGE", f"the library '{path}' has the moec interface {found}, expected {expected}")
    return table


class Library:
    """The code of a package: `table` as in moec.h, `info` the text of NAME.json. It stays loaded
    until the process ends: threads of its own may still run in it."""

    def __init__(self, package: str | os.PathLike[str]) -> None:
        self.package = pathlib.Path(package)
        self.path = _find_library(self.package)
        self.table = _load(self.path)
        self.info: dict[str, Any] = json.loads(self.table.info())
        self.entries: Mapping[str, Entry] = {one["name"]: _entry(one) for one in self.info["entries"]}
        self.first_entry = next(iter(self.entries.values()))

    def entry(self, name: str | None) -> Entry:
        """The entry of a name; the first one for None."""
        if name is None:
            return self.first_entry
        if name not in self.entries:
            known = ", ".join(self.entries)
            raise MoecError("ARGUMENT", f"the library '{self.path.name}' has no entry '{name}': there is {known}")
        return self.entries[name]

    def check(self, status: int) -> None:
        """Raises the last error of the library in this thread, unless the status is MOEC_OK."""
        if status:
            name = STATUS_NAMES[status] if status < len(STATUS_NAMES) else str(status)
            raise MoecError(name, self.table.last_error().decode(errors="replace"))

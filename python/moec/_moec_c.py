# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""libmoec-c.so (moec-c/Compiler.h), for ctypes."""

from __future__ import annotations

import ctypes
import functools
import pathlib
from typing import Any

from .runtime import MoecError

# The names of the exit statuses.
STATUS_NAMES = ("SUCCESS", "USAGE", "BAD_MODEL", "UNSUPPORTED", "OUTPUT", "INTERNAL", "INTERRUPTED")
SEVERITY_NAMES = ("error", "warning", "remark", "note")

# Where the wheel has, and the build tree links, what the compiler consists of.
_FOLDER = pathlib.Path(__file__).parent / "_compiler"
_DEBIAN_PACKAGES = "libmlir-22 lld-22 libomp5-19 libprotobuf-lite32"


class CDiagnostic(ctypes.Structure):
    _fields_ = [
        ("severity", ctypes.c_int32),
        ("message", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("node", ctypes.c_char_p),
        ("op", ctypes.c_char_p),
        ("line", ctypes.c_int64),
        ("column", ctypes.c_int64),
    ]


ON_DIAGNOSTIC = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(CDiagnostic))
ON_PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64)

_OBJECT = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "version": (ctypes.c_char_p,),
    "last_error": (ctypes.c_char_p,),
    "options_create": (_OBJECT,),
    "options_destroy": (None, _OBJECT),
    "options_set": (ctypes.c_int32, _OBJECT, ctypes.c_char_p, ctypes.c_char_p),
    "options_on_diagnostic": (None, _OBJECT, ON_DIAGNOSTIC, ctypes.c_void_p),
    "options_on_progress": (None, _OBJECT, ON_PROGRESS, ctypes.c_void_p),
    "compile": (ctypes.c_int32, _OBJECT, ctypes.c_char_p, ctypes.POINTER(_OBJECT)),
    "unpack": (ctypes.c_int32, ctypes.c_char_p, ctypes.c_char_p),
    "result_summary": (ctypes.c_char_p, _OBJECT),
    "result_package": (ctypes.c_char_p, _OBJECT),
    "result_destroy": (None, _OBJECT),
}


class CompilerLibrary:
    """The functions of moec-c, without their prefix `moec_compiler_`."""

    def __init__(self, path: pathlib.Path) -> None:
        library = ctypes.CDLL(str(path))
        for name, (result, *arguments) in _SIGNATURES.items():
            function = library[f"moec_compiler_{name}"]
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@functools.lru_cache
def load_compiler() -> CompilerLibrary:
    """Raises MoecError "COMPILER" when the compiler or what it needs is not installed."""
    path = _FOLDER / "lib" / "libmoec-c.so"
    if not path.exists():
        raise MoecError("COMPILER", f"this installation of moec has no compiler: '{path}' does not exist")
    try:
        return CompilerLibrary(path)
    except OSError as error:
        raise MoecError(
            "COMPILER",
            f"the compiler cannot be loaded: {error}. It needs LLVM and MLIR 22; on Debian: "
            f"apt-get install {_DEBIAN_PACKAGES}",
        ) from error


def tool_path(name: str) -> pathlib.Path:
    """An executable of the compiler: "moec" or "moe-run"."""
    path = _FOLDER / "bin" / name
    if not path.exists():
        raise MoecError("COMPILER", f"this installation of moec has no compiler: '{path}' does not exist")
    return path

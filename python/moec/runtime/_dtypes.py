# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Element types: their names, as in NAME.json and NumPy, and their DLPack codes."""

from __future__ import annotations

from typing import Any

from ._interface import DLDataType

_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6

# Types that the buffer interface cannot describe (ml_dtypes has them for NumPy).
EXTENSION_CODES = {
    "bfloat16": (_BFLOAT, 16),
    "float8_e3m4": (7, 8),
    "float8_e4m3": (8, 8),
    "float8_e4m3b11fnuz": (9, 8),
    "float8_e4m3fn": (10, 8),
    "float8_e4m3fnuz": (11, 8),
    "float8_e5m2": (12, 8),
    "float8_e5m2fnuz": (13, 8),
    "float8_e8m0fnu": (14, 8),
}
_CODES = {
    "bool": (_BOOL, 8),
    **{f"int{bits}": (_INT, bits) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (_UINT, bits) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": (_FLOAT, bits) for bits in (16, 32, 64)},
    **{f"complex{bits}": (_COMPLEX, bits) for bits in (64, 128)},
    **EXTENSION_CODES,
}
_NAMES = {code: name for name, code in _CODES.items()}
_DATA_TYPES = {name: DLDataType(code, bits, 1) for name, (code, bits) in _CODES.items()}

# Characters of the module struct; the size of an element says how many bits.
_FORMATS = {
    "?": _BOOL,
    **dict.fromkeys("bhilqn", _INT),
    **dict.fromkeys("BHILQN", _UINT),
    **dict.fromkeys("efd", _FLOAT),
    **dict.fromkeys(("Zf", "Zd"), _COMPLEX),
}


def data_type(name: str) -> DLDataType:
    return _DATA_TYPES[name]


def item_bytes(name: str) -> int:
    return _CODES[name][1] // 8


def dtype_name(code: int, bits: int) -> str:
    """The name of a DLPack type."""
    return _NAMES.get((code, bits), f"type code {code} of {bits} bits")


def dtype_of_format(format: str, itemsize: int) -> str | None:
    """The name of the type that a buffer describes by a format as of the module struct, in
    this machine's order of bytes; None when there is none."""
    code = _FORMATS.get(format.lstrip("@=<"))
    return None if code is None else _NAMES.get((code, 8 * itemsize))


_numpy_dtypes: dict[str, Any] = {}


def numpy_dtype(name: str) -> Any:
    """The numpy.dtype of a type. Those of EXTENSION_CODES need ml_dtypes."""
    if name not in _numpy_dtypes:
        import numpy

        if name in EXTENSION_CODES:
            import ml_dtypes

            _numpy_dtypes[name] = numpy.dtype(getattr(ml_dtypes, name))
        else:
            _numpy_dtypes[name] = numpy.dtype(name)
    return _numpy_dtypes[name]

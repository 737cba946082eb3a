# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Arrays of any library as tensors, in place where the layout allows."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Protocol, Union

from ._dlpack import CPU, HOST, Place, borrow_dlpack
from ._dtypes import EXTENSION_CODES, data_type, dtype_of_format, item_bytes
from ._errors import MoecError
from ._interface import DLTensor

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SupportsDLPack(Protocol):
    """An object that gives its memory as a DLPack capsule."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


# What is taken as a tensor: NumPy's arrays and everything else with the buffer interface;
# tensors of PyTorch, JAX and others through DLPack.
Array = Union["Buffer", SupportsDLPack]


_release_buffer = ctypes.pythonapi["PyBuffer_Release"]
_release_buffer.restype = None


class _Buffer(ctypes.Structure):
    """Py_buffer, released when it is dropped."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("exporter", ctypes.c_void_p),
        ("bytes", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]

    def __del__(self, release: Any = _release_buffer) -> None:
        release(ctypes.byref(self))


_get_buffer = ctypes.pythonapi["PyObject_GetBuffer"]
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int]
_is_contiguous = ctypes.pythonapi["PyBuffer_IsContiguous"]
_is_contiguous.argtypes = [ctypes.POINTER(_Buffer), ctypes.c_char]

_WRITABLE = 0x1
_STRIDES_AND_FORMAT = 0x18 | 0x4


def _get(value: Any, what: str, writable: bool) -> _Buffer:
    """The buffer of an object. TypeError: it has none; ValueError or BufferError: it has one that
    cannot be described."""
    result = _Buffer()
    _get_buffer(value, result, _STRIDES_AND_FORMAT)
    # Asked here rather than by PyBUF_WRITABLE: the message is the same for all exporters.
    if writable and result.readonly:
        raise MoecError("TENSOR", f"{what} is read-only, expected memory to write to")
    return result


def _dtype_of(buffer: _Buffer, what: str) -> str:
    format = (buffer.format or b"B").decode()
    dtype = dtype_of_format(format, buffer.itemsize)
    if dtype is None:
        raise MoecError("TENSOR", f"{what} has elements of the format '{format}', which is no dtype of a tensor")
    return dtype


def _strides(buffer: _Buffer, what: str) -> ctypes.Array[ctypes.c_int64]:
    """The strides in elements."""
    size = buffer.itemsize
    result: ctypes.Array[ctypes.c_int64] = (ctypes.c_int64 * buffer.ndim)()
    for axis in range(buffer.ndim):
        result[axis], rest = divmod(buffer.strides[axis], size)
        if rest:
            raise MoecError("TENSOR", f"{what} has strides that are not multiples of its {size}-byte elements: copy it")
    return result


def _describe(buffer: _Buffer, what: str, dtype: str | None = None) -> DLTensor:
    dtype = dtype or _dtype_of(buffer, what)
    strides = None if _is_contiguous(buffer, b"C") else _strides(buffer, what)
    tensor = DLTensor(buffer.data, CPU, buffer.ndim, data_type(dtype), buffer.shape, strides, 0)
    tensor.owner = buffer
    return tensor


def _borrow_extension(value: Any, what: str, writable: bool) -> DLTensor | None:
    """A NumPy array of an extension type, which the buffer interface cannot describe: its bits
    as unsigned integers, with the right dtype."""
    name = getattr(getattr(value, "dtype", None), "name", None)
    if name not in EXTENSION_CODES:
        return None
    bits = value.view(f"uint{8 * item_bytes(name)}")
    return _describe(_get(bits, what, writable), what, name)


def borrow(value: Array, what: str = "the tensor", writable: bool = False, place: Place = HOST) -> DLTensor:
    """A description of an array's memory, strides included; it keeps that memory alive.

    Takes what has the buffer interface (read-only too, unless `writable`), NumPy arrays of
    ml_dtypes, and what has `__dlpack__`. `what` names the array in errors. Arrays on a CUDA device
    are borrowed by `Context.borrow`.
    """
    try:
        return _describe(_get(value, what, writable), what)
    except TypeError:  # no buffer interface
        if hasattr(value, "__dlpack__"):
            return borrow_dlpack(value, what, writable, place)
    except (BufferError, ValueError) as error:
        tensor = _borrow_extension(value, what, writable)
        if tensor is None:
            raise MoecError("TENSOR", f"{what} cannot be given as a buffer: {error}") from error
        return tensor
    kind = type(value).__name__
    raise MoecError("TENSOR", f"{what} is of type {kind}, expected an array (buffer interface or __dlpack__)")


def shape_of(tensor: DLTensor) -> tuple[int, ...]:
    return tuple(tensor.shape[: tensor.ndim]) if tensor.ndim else ()

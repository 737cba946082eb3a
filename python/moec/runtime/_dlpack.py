# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tensors that come and go as DLPack capsules (https://dmlc.github.io/dlpack), without copies."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._dtypes import data_type, item_bytes
from ._errors import MoecError
from ._interface import DLDevice, DLTensor

CPU = DLDevice(1, 0)
CUDA, _CUDA_MANAGED = 2, 13
VERSION = (1, 0)
_ALIGNMENT = 64

_READ_ONLY, _IS_COPIED = 1, 2  # bits of `flags`

# The names of DLDeviceType.
_DEVICES = {
    1: "CPU",
    2: "CUDA",
    3: "CUDA_HOST",
    4: "OPENCL",
    7: "VULKAN",
    8: "METAL",
    9: "VPI",
    10: "ROCM",
    11: "ROCM_HOST",
    12: "EXT_DEV",
    13: "CUDA_MANAGED",
    14: "ONEAPI",
    15: "WEBGPU",
    16: "HEXAGON",
    17: "MAIA",
    18: "TRN",
}
# The memory of the CPU, pinned for a GPU or not.
_HOST_DEVICES = (1, 3, 11)


class Place(NamedTuple):
    """Where the tensors of a model are: a DLDeviceType, the number of the device, and the stream of
    runs there, as DLPack numbers streams."""

    kind: int = CPU.device_type
    number: int = 0
    stream: int | None = None

    def __str__(self) -> str:
        return "the CPU" if self.kind == CPU.device_type else f"CUDA:{self.number}"


HOST = Place()


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


# A capsule does not copy its name: these must live forever.
_MANAGED_NAME = ctypes.create_string_buffer(b"dltensor")
_VERSIONED_NAME = ctypes.create_string_buffer(b"dltensor_versioned")


def _python_function(name: str, result: Any, *arguments: Any) -> Any:
    # By index: a function object of its own, whose types nobody else sets.
    function = ctypes.pythonapi[name]
    function.restype, function.argtypes = result, arguments
    return function


_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_capsule_new = _python_function(
    "PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, _DESTRUCTOR
)
_capsule_name = _python_function("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
_capsule_pointer = _python_function(
    "PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p
)
# For a destructor: a capsule that is being destroyed must not become an object again.
_dying_is_valid = _python_function("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_dying_pointer = _python_function(
    "PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)

# === In ========================================================================================


def _check_device(value: Any, what: str, place: Place) -> None:
    device = getattr(value, "__dlpack_device__", None)
    if device is None:
        return
    kind, index = (int(one) for one in device())
    if place.kind == CUDA:
        # Managed memory is of no device.
        is_there = kind == _CUDA_MANAGED or (kind == CUDA and index == place.number)
    else:
        is_there = kind in _HOST_DEVICES
    if not is_there:
        name = _DEVICES.get(kind, f"of DLPack type {kind}")
        raise MoecError("TENSOR", f"{what} is on the device {name}:{index}, expected {place}: copy it there first")


def _ask_for_capsule(value: Any, what: str, place: Place) -> object:
    # The producer lets the stream of the run wait for its own.
    stream = {} if place.stream is None else {"stream": place.stream}
    try:
        try:
            return value.__dlpack__(max_version=VERSION, **stream)
        except TypeError:  # a producer from before version 1
            return value.__dlpack__(**stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise MoecError("TENSOR", f"{what} cannot be given as DLPack: {error}") from error


def _check_versioned(managed: _Versioned, what: str, writable: bool) -> None:
    if managed.major != VERSION[0]:
        found = f"{managed.major}.{managed.minor}"
        raise MoecError("TENSOR", f"{what} has version {found} of DLPack, expected {VERSION[0]}")
    if writable and managed.flags & _READ_ONLY:
        raise MoecError("TENSOR", f"{what} is read-only, expected memory to write to")
    if writable and managed.flags & _IS_COPIED:
        raise MoecError("TENSOR", f"{what} can only be given as a copy, expected memory to write to")


def borrow_dlpack(value: Any, what: str, writable: bool, place: Place = HOST) -> DLTensor:
    """The tensor that an object with `__dlpack__` gives, in its memory. The capsule is not
    consumed: it frees what it holds when it is dropped."""
    _check_device(value, what, place)
    capsule = _ask_for_capsule(value, what, place)
    try:
        name = _capsule_name(capsule)
    except ValueError:
        name = None
    if name not in (_MANAGED_NAME.value, _VERSIONED_NAME.value):
        raise MoecError("TENSOR", f"{what} gives no DLPack capsule by __dlpack__ but {capsule!r}")
    address = _capsule_pointer(capsule, name)
    tensor = DLTensor()
    if name == _VERSIONED_NAME.value:
        versioned = _Versioned.from_address(address)
        _check_versioned(versioned, what, writable)
        source = versioned.tensor
    else:
        source = _Managed.from_address(address).tensor
    ctypes.memmove(ctypes.byref(tensor), ctypes.byref(source), ctypes.sizeof(DLTensor))
    if tensor.device.device_type in _HOST_DEVICES:
        tensor.device = CPU
    tensor.owner = capsule
    return tensor


# === Out =======================================================================================

# What consumers hold, by the address of the structure: (structure, tensor).
_exported: dict[int, tuple[ctypes.Structure, Tensor]] = {}


def _forget(address: int) -> None:
    _exported.pop(address, None)


def _make_destructor(name: ctypes.Array[ctypes.c_char]) -> Any:
    def destroy(capsule: int) -> None:
        if _dying_is_valid(capsule, name):  # not consumed
            _forget(_dying_pointer(capsule, name))

    return _DESTRUCTOR(destroy)


_delete = _DELETER(_forget)
_DELETE_ADDRESS = ctypes.cast(_delete, ctypes.c_void_p)

_destroy_managed = _make_destructor(_MANAGED_NAME)
_destroy_versioned = _make_destructor(_VERSIONED_NAME)


class Tensor:
    """A row-major tensor in memory of its own, that NumPy, PyTorch, JAX and others take without
    a copy by `from_dlpack`.

    `shape` is a tuple of sizes, `dtype` a name as "float32". The elements are undefined until
    something is written. Results of a model on a CUDA device are in the memory of that device;
    their consumers wait for the run.
    """

    _place = CPU

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        size = item_bytes(dtype)
        for extent in self.shape:
            size *= extent
        self._allocate(size)
        self._sizes = (ctypes.c_int64 * len(self.shape))(*self.shape)
        self._strides = (ctypes.c_int64 * len(self.shape))()
        stride = 1
        for axis in reversed(range(len(self.shape))):
            self._strides[axis] = stride
            stride *= self.shape[axis]

    def _allocate(self, size: int) -> None:
        memory = bytearray(size + _ALIGNMENT)
        whole = (ctypes.c_char * len(memory)).from_buffer(memory)
        offset = -ctypes.addressof(whole) % _ALIGNMENT
        self._memory = memoryview(memory)[offset : offset + size]
        self._address: int | None = ctypes.addressof(whole) + offset

    def __repr__(self) -> str:
        return f"moec.runtime.Tensor(shape={self.shape}, dtype={self.dtype!r})"

    def tobytes(self) -> bytes:
        """A copy of the elements, row-major."""
        return bytes(self._memory)

    def _describe(self) -> DLTensor:
        tensor = DLTensor(
            self._address, self._place, len(self.shape), data_type(self.dtype), self._sizes, self._strides, 0
        )
        tensor.owner = self
        return tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._place.device_type, self._place.device_id

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        if stream is not None:
            raise BufferError("a tensor on the CPU has no stream")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"the tensor is on the CPU, not on device {tuple(dl_device)}")
        return self._copy()._make_capsule(max_version, _IS_COPIED) if copy else self._make_capsule(max_version, 0)

    def _make_capsule(self, max_version: tuple[int, int] | None, flags: int) -> object:
        if max_version is None or max_version[0] < VERSION[0]:
            managed = _Managed(self._describe(), None, _DELETE_ADDRESS)
            return self._export(managed, _MANAGED_NAME, _destroy_managed)
        versioned = _Versioned(*VERSION, None, _DELETE_ADDRESS, flags, self._describe())
        return self._export(versioned, _VERSIONED_NAME, _destroy_versioned)

    def _copy(self) -> Tensor:
        result = Tensor(self.shape, self.dtype)
        result._memory[:] = self._memory
        return result

    def _export(
        self, managed: ctypes.Structure, name: ctypes.Array[ctypes.c_char], destructor: Any
    ) -> object:
        address = ctypes.addressof(managed)
        _exported[address] = managed, self
        return _capsule_new(address, name, destructor)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Results on CUDA devices: memory and order between streams, over the driver that the library has
opened (https://docs.nvidia.com/cuda/cuda-driver-api)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from ._dlpack import CUDA, Tensor
from ._errors import MoecError
from ._interface import DLDevice

_OUT_OF_MEMORY = 2
_DISABLE_TIMING = 2  # of CUevent_flags

# The default stream, as DLPack and the driver number it.
DEFAULT_STREAM = 1

_ADDRESS = ctypes.c_uint64
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_int),
    "cuCtxPushCurrent_v2": (ctypes.c_void_p,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(ctypes.c_void_p),),
    "cuMemAlloc_v2": (ctypes.POINTER(_ADDRESS), ctypes.c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyDtoH_v2": (ctypes.c_void_p, _ADDRESS, ctypes.c_size_t),
    "cuStreamSynchronize": (ctypes.c_void_p,),
    "cuStreamWaitEvent": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint),
    "cuEventCreate": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint),
    "cuEventRecord": (ctypes.c_void_p, ctypes.c_void_p),
    "cuEventDestroy_v2": (ctypes.c_void_p,),
}


class Device:
    """A device's primary context, which libraries use too. It stays until the process ends."""

    def __init__(self, index: int) -> None:
        self.index = index
        driver = ctypes.CDLL("libcuda.so.1")
        self._functions = {name: getattr(driver, name) for name in _FUNCTIONS}
        for name, arguments in _FUNCTIONS.items():
            self._functions[name].argtypes, self._functions[name].restype = arguments, ctypes.c_int
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), index)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)

    def _call(self, name: str, *arguments: Any) -> None:
        result = self._functions[name](*arguments)
        if result == 0:
            return
        text = ctypes.c_char_p()
        self._functions["cuGetErrorName"](result, ctypes.byref(text))
        status = "MEMORY" if result == _OUT_OF_MEMORY else "DEVICE"
        error = (text.value or b"unknown error").decode()
        raise MoecError(status, f"{name} failed on CUDA device {self.index}: {error} (error {result})")

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._functions["cuCtxPopCurrent_v2"](ctypes.byref(ctypes.c_void_p()))

    def allocate(self, size: int) -> int | None:
        """The address of memory; None for no bytes."""
        if size == 0:
            return None
        address = _ADDRESS()
        with self._current():
            self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        """Waits until nothing on the device uses the memory."""
        with self._current():
            self._functions["cuMemFree_v2"](address)

    def read(self, address: int, size: int, stream: int) -> bytes:
        """Bytes of memory, when the stream has come so far."""
        memory = ctypes.create_string_buffer(size)
        with self._current():
            self._call("cuStreamSynchronize", stream)
            self._call("cuMemcpyDtoH_v2", memory, address, size)
        return memory.raw

    def make_wait(self, stream: int, other: int) -> None:
        """Lets what `stream` does from now on wait for what `other` has to do already."""
        event = ctypes.c_void_p()
        with self._current():
            self._call("cuEventCreate", ctypes.byref(event), _DISABLE_TIMING)
            try:
                self._call("cuEventRecord", event, other)
                self._call("cuStreamWaitEvent", stream, event, 0)
            finally:
                self._functions["cuEventDestroy_v2"](event)


@functools.lru_cache(maxsize=None)
def get_device(index: int) -> Device:
    return Device(index)


class CudaTensor(Tensor):
    """A row-major tensor in memory of a CUDA device, which a run in `stream` writes."""

    def __init__(self, shape: Sequence[int], dtype: str, device: int, stream: int) -> None:
        self._device = get_device(device)
        self._place = DLDevice(CUDA, device)
        self._stream = stream
        super().__init__(shape, dtype)

    def _allocate(self, size: int) -> None:
        self._size = size
        self._address = self._device.allocate(size)

    def __del__(self) -> None:
        address = getattr(self, "_address", None)
        if address:
            self._device.free(address)

    def tobytes(self) -> bytes:
        """A copy of the elements on the CPU, row-major. Waits for the stream of the run."""
        return self._device.read(self._address, self._size, self._stream) if self._address else b""

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"the tensor is on CUDA device {self._place.device_id}, not on device {tuple(dl_device)}")
        if copy:
            raise BufferError("a tensor on a CUDA device is not copied")
        # As the array API numbers them: -1 asks for no order, and 0 might be either default stream.
        if stream is not None and (not isinstance(stream, int) or stream == 0 or stream < -1):
            raise BufferError(f"{stream!r} is no stream of a CUDA device: 1 is the default stream")
        consumer = DEFAULT_STREAM if stream is None else stream
        if consumer not in (-1, self._stream):
            self._device.make_wait(consumer, self._stream)
        return self._make_capsule(max_version, 0)

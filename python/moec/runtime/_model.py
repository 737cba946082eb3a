# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A compiled model, for any number of threads."""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from ._arrays import Array
from ._context import Context, ParallelFor, stream_of
from ._dlpack import CPU, CUDA, Tensor
from ._errors import MoecError
from ._interface import ABI_VERSION, HANDLE, OPEN_HUGE_PAGES, OPEN_POPULATE, OPEN_PREFETCH, Options
from ._library import Entry, Library, TensorInfo

if TYPE_CHECKING:
    import numpy.typing

    NumPyArray = numpy.typing.NDArray[Any]


def _parse_device(device: str | None) -> tuple[int, int]:
    """DLDeviceType and number; type 0: the library chooses."""
    if device is None:
        return 0, 0
    name, colon, number = device.partition(":")
    if name == "cpu" and not colon:
        return CPU.device_type, 0
    if name == "cuda" and (not colon or number.isdecimal()):
        return CUDA, int(number or 0)
    raise MoecError("ARGUMENT", f"device is {device!r}, expected 'cpu', 'cuda' or 'cuda:N'")


class Model:
    """A compiled model: `load` and `moec.compile` give one.

    It may be used by any number of threads at the same time, each run in a context of its own.
    Contexts are kept for later runs; after the first run at some sizes, runs at the same or
    smaller ones allocate nothing but their results.
    """

    def __init__(
        self,
        package: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        threads: int = 0,
        prefetch: bool = False,
        populate: bool = False,
        huge_pages: bool = False,
        device: str | None = None,
    ) -> None:
        """Loads the code; the weights are opened by `open`, or by the first run."""
        self.library = Library(package)
        self._weights = weights
        self._threads = threads
        flags = {OPEN_PREFETCH: prefetch, OPEN_POPULATE: populate, OPEN_HUGE_PAGES: huge_pages}
        self._flags = sum(flag for flag, is_set in flags.items() if is_set)
        self._device = _parse_device(device)
        self._info = self.library.info
        self._handle = HANDLE()
        # Of _handle and _closed. A finalizer may close the model while this thread has the lock.
        self._lock = threading.RLock()
        self._closed = False
        # By the handle of their stream.
        self._idle: dict[int | None, list[Context]] = {}

    # --- description ---

    @property
    def package(self) -> pathlib.Path:
        """The folder NAME.moec."""
        return self.library.package

    @property
    def name(self) -> str:
        return str(self.info["name"])

    @property
    def info(self) -> dict[str, Any]:
        """What NAME.json says: entries, source, target, MoE blocks, layout of the weights. Of a model that
        is open, for the CPU or GPU that it runs on."""
        return self._info

    @property
    def device(self) -> str:
        """Where its tensors are: "cpu", or "cuda:0"."""
        device = self.library.table.device(self.handle)
        return f"cuda:{device.device_id}" if device.device_type == CUDA else "cpu"

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The functions of the model by name; most have one, "main"."""
        return self.library.entries

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs of the first entry."""
        return self.library.first_entry.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs of the first entry."""
        return self.library.first_entry.outputs

    def __repr__(self) -> str:
        def text(tensors: tuple[TensorInfo, ...]) -> str:
            return ", ".join(f"{one.name}: {one.dtype}[{', '.join(map(str, one.dims))}]" for one in tensors)

        return f"<moec model {self.name}: ({text(self.inputs)}) -> ({text(self.outputs)})>"

    # --- life ---

    def open(self) -> Model:
        """Checks the CPU, maps the weights and checks that they are this model's, unless that was
        done before."""
        with self._lock:
            if self._closed:
                raise MoecError("ARGUMENT", f"the model '{self.name}' is closed")
            if not self._handle:
                options = Options(ctypes.sizeof(Options), ABI_VERSION, self._flags)
                options.device_type, options.device_id = self._device
                path = None if self._weights is None else os.fsencode(self._weights)
                table = self.library.table
                self.library.check(table.open(path, ctypes.byref(options), ctypes.byref(self._handle)))
                self._info = json.loads(table.model_info(self._handle))
        return self

    @property
    def handle(self) -> ctypes.c_void_p:
        """The `moec_model *` of the open model."""
        self.open()
        return self._handle

    def close(self) -> None:
        """Frees all that the model holds, when the runs that still go on have ended. Later calls
        fail."""
        with self._lock:
            self._closed = True
            handle, self._handle = self._handle, HANDLE()
            self.library.table.close(handle)
            self._idle.clear()

    def __enter__(self) -> Model:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    # --- runs ---

    def context(
        self,
        threads: int | None = None,
        parallel_for: ParallelFor | None = None,
        allocate: Callable[[int, int], int] | None = None,
        deallocate: Callable[[int, int], None] | None = None,
        stream: Any = None,
    ) -> Context:
        """A context of the caller's own: one call at a time.

        `threads`: the most that work at the same time, 0 for all processors (or
        OMP_NUM_THREADS), None for those of the model. `parallel_for(n, body)` runs parallel loops
        instead of the library's threads: it calls `body(task, worker)` once for each task of
        0 … n-1, with `worker` less than `threads`. `allocate(bytes, alignment)` returns the
        address of memory, `deallocate(address, bytes)` frees it: both or neither; on a CUDA device that
        is its memory. `stream`: as of `run`.
        """
        threads = self._threads if threads is None else threads
        with self._lock:
            return Context(self, threads, parallel_for, allocate, deallocate, stream)

    def __call__(self, /, **inputs: Array) -> dict[str, NumPyArray]:
        """Runs the first entry on arrays by name: the outputs by name, as `run`."""
        return self.run(inputs)

    @overload
    def run(
        self,
        inputs: Mapping[str, Array],
        out: Mapping[str, Any] | None = None,
        entry: str | None = None,
        results: Literal["numpy"] | None = None,
        stream: Any = None,
    ) -> dict[str, NumPyArray]: ...

    @overload
    def run(
        self,
        inputs: Mapping[str, Array],
        out: Mapping[str, Any] | None = None,
        entry: str | None = None,
        *,
        results: Literal["dlpack"],
        stream: Any = None,
    ) -> dict[str, Tensor]: ...

    def run(
        self,
        inputs: Mapping[str, Array],
        out: Mapping[str, Any] | None = None,
        entry: str | None = None,
        results: str | None = None,
        stream: Any = None,
    ) -> dict[str, Any]:
        """Runs an entry (None: the first) and returns its outputs by name.

        `inputs`: an array for each input, with exactly the described dtype and with sizes that
        agree; sizes of zero are fine. Arrays with the buffer interface (NumPy's, also read-only
        ones) and with `__dlpack__` (PyTorch, JAX, …; on the CPU) are read in place when they are
        row-major and aligned; other strides are honoured through a copy that the context keeps.

        `out`: arrays to write outputs to, in place, strided or not; they are returned. They must
        not overlap the inputs nor each other, except that an output which extends an input (a
        key/value cache) may be a view of the same buffer: then only its new rows are written. Other outputs are new: NumPy arrays, or with
        `results="dlpack"` tensors that `from_dlpack` of any library takes without a copy.

        On a CUDA device arrays are on that device, row-major and aligned to 16 bytes, and come by
        `__dlpack__`; new outputs are tensors there for `from_dlpack` (`results` is "dlpack"). The work
        goes into `stream`, a number (CUstream) or an object with `__cuda_stream__` (None: the default
        stream), which waits for the arrays' producers; who takes a result by `from_dlpack` waits for
        the run. Arrays must live until the stream has come so far.

        Raises MoecError.
        """
        handle = stream_of(stream)
        try:
            context = self._idle[handle].pop()
        except (KeyError, IndexError):
            context = self.context(stream=handle)
        try:
            return context.run(inputs, out, entry, results)
        finally:
            self._give_back(handle, context)

    def _give_back(self, stream: int | None, context: Context) -> None:
        with self._lock:
            if not self._closed:
                self._idle.setdefault(stream, []).append(context)


def load(
    package: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    threads: int = 0,
    prefetch: bool = False,
    populate: bool = False,
    huge_pages: bool = False,
    device: str | None = None,
) -> Model:
    """Opens a package NAME.moec. Takes milliseconds at any size: the weights are mapped into memory
    and shared by all processes that use them.

    `weights`: the weights file, if it is not NAME.safetensors in the package. `threads`: the most
    that work at the same time in a run; 0: all processors, or OMP_NUM_THREADS. `prefetch`: read the
    whole weights file ahead. `populate`: read and map all of it before this returns, so that no run
    waits for a page that it touches first. `huge_pages`: copy it into memory of this process, of huge
    pages where the system gives them. `device`: "cpu", "cuda" or "cuda:N", for which the package
    must have code; None: a CUDA device if there is one and the package has code for it. Weights are
    copied to a CUDA device.

    Raises MoecError: "PACKAGE", "WEIGHTS", "CPU", "DEVICE", "MEMORY".
    """
    options = {"prefetch": prefetch, "populate": populate, "huge_pages": huge_pages}
    return Model(package, weights=weights, threads=threads, device=device, **options).open()

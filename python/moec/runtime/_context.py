# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs of a model, one at a time."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._arrays import Array, borrow, shape_of
from ._dlpack import CPU, CUDA, HOST, Place, Tensor
from ._dtypes import dtype_name, numpy_dtype
from ._errors import MoecError
from ._interface import ALLOCATE, DEALLOCATE, HANDLE, PARALLEL_FOR, ContextOptions, DLTensor
from ._library import Entry, Library, TensorInfo

if TYPE_CHECKING:
    from ._model import Model

# parallel_for(n, body): calls body(task, worker) once for each task of 0 … n-1.
ParallelFor = Callable[[int, Callable[[int, int], None]], None]


def _numpy_array(shape: tuple[int, ...], dtype: str) -> Any:
    try:
        import numpy

        return numpy.empty(shape, numpy_dtype(dtype))
    except ImportError as error:
        name = error.name
        raise MoecError(
            "ARGUMENT", f"an output of dtype {dtype} as a NumPy array needs {name}: install it, or ask for results='dlpack'"
        ) from error


Allocator = Callable[[tuple[int, ...], str], Any]
_ALLOCATORS: dict[str, Allocator] = {"numpy": _numpy_array, "dlpack": Tensor}


def _choose_allocator(results: str | None, place: Place) -> Allocator:
    if results is not None and results not in _ALLOCATORS:
        expected = " or ".join(f"'{name}'" for name in _ALLOCATORS)
        raise MoecError("ARGUMENT", f"results is {results!r}, expected {expected}")
    if place.kind == CPU.device_type:
        return _ALLOCATORS[results or "numpy"]
    if results == "numpy":
        raise MoecError("ARGUMENT", f"results on {place} are no NumPy arrays: ask for results='dlpack'")
    from ._cuda import DEFAULT_STREAM, CudaTensor

    return functools.partial(CudaTensor, device=place.number, stream=place.stream or DEFAULT_STREAM)


def stream_of(stream: Any) -> int | None:
    """The handle of a stream: a number, or an object with the protocol `__cuda_stream__`. None and
    0 are the default stream."""
    if hasattr(stream, "__cuda_stream__"):
        stream = stream.__cuda_stream__()[1]
    if stream is not None and not isinstance(stream, int):
        kind = type(stream).__name__
        raise MoecError("ARGUMENT", f"stream is of type {kind}, expected a number or an object with __cuda_stream__")
    return stream or None


def _addresses(tensors: Sequence[DLTensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(1, len(tensors)))(*map(ctypes.addressof, tensors))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(map(str, names)))


def _check_names(given: Mapping[str, Any], known: frozenset[str], entry: Entry, kind: str) -> None:
    if not given.keys() <= known:
        expected = _quoted(known) or "none"
        found = _quoted(given.keys() - known)
        raise MoecError("ARGUMENT", f"{entry.name}: there is no {kind} {found}; the {kind}s are {expected}")


class Context:
    """The workspace and the threads of runs of a model: one call at a time. `Model.context` makes
    them; `Model.run` makes as many as there are concurrent calls."""

    def __init__(
        self,
        model: Model,
        threads: int = 0,
        parallel_for: ParallelFor | None = None,
        allocate: Callable[[int, int], int] | None = None,
        deallocate: Callable[[int, int], None] | None = None,
        stream: Any = None,
    ) -> None:
        self._library: Library = model.library
        self._table = model.library.table
        self._handle = HANDLE()
        options = ContextOptions(size=ctypes.sizeof(ContextOptions), num_workers=threads)
        if parallel_for is not None:
            options.parallel_for = _parallel_for(parallel_for)
        if allocate is not None:
            options.allocate = ALLOCATE(lambda _, size, alignment: allocate(size, alignment))
        if deallocate is not None:
            options.deallocate = DEALLOCATE(lambda _, address, size: deallocate(address, size))
        handle = stream_of(stream)
        options.stream = handle
        device = self._table.device(model.handle)
        # DLPack's 1 is the default stream.
        self._place = Place(CUDA, device.device_id, handle or 1) if device.device_type == CUDA else HOST
        self._options = options  # keeps the callbacks alive
        self._library.check(
            self._table.context_create(model.handle, ctypes.byref(options), ctypes.byref(self._handle))
        )

    def close(self) -> None:
        """Frees the workspace. Later calls fail."""
        handle, self._handle = self._handle, HANDLE()
        self._table.context_destroy(handle)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    @property
    def threads(self) -> int:
        """The most threads that work at the same time."""
        count: int = self._table.num_workers(self._handle)
        return count

    # --- shapes ---

    def output_shapes(self, inputs: Mapping[str, Array], entry: str | None = None) -> dict[str, TensorInfo]:
        """The outputs, with sizes for dimensions, that inputs of these shapes give."""
        chosen = self._library.entry(entry)
        outputs = self._shapes(chosen, self._borrow_inputs(chosen, inputs))
        return {
            one.name: TensorInfo(one.name, dtype_name(out.dtype.code, out.dtype.bits), shape_of(out))
            for one, out in zip(chosen.outputs, outputs)
        }

    def workspace_size(self, inputs: Mapping[str, Array], entry: str | None = None) -> int:
        """How many bytes of workspace a run with inputs of these shapes needs."""
        chosen = self._library.entry(entry)
        ins = self._borrow_inputs(chosen, inputs)
        size = ctypes.c_uint64()
        self._library.check(
            self._table.workspace_size(
                self._handle, chosen.name.encode(), _addresses(ins), len(ins), ctypes.byref(size)
            )
        )
        return size.value

    def _shapes(self, entry: Entry, ins: Sequence[DLTensor]) -> list[DLTensor]:
        outs = [DLTensor() for _ in entry.outputs]
        self._call(self._table.output_shapes, entry.name, ins, outs)
        return outs

    # --- runs ---

    def run(
        self,
        inputs: Mapping[str, Array],
        out: Mapping[str, Any] | None = None,
        entry: str | None = None,
        results: str | None = None,
    ) -> dict[str, Any]:
        """As `Model.run`, in the context's stream."""
        chosen = self._library.entry(entry)
        ins = self._borrow_inputs(chosen, inputs)
        arrays = self._outputs(chosen, ins, out or {}, results)
        outs = [self.borrow(arrays[one.name], f"{chosen.name}: output '{one.name}'", True) for one in chosen.outputs]
        self._call(self._table.run, chosen.name, ins, outs)
        return arrays

    def wait(self) -> None:
        """Waits until the work of all runs is done on the GPU, and raises what failed in it. At once on
        the CPU."""
        self._library.check(self._table.wait(self._handle))

    def borrow(self, value: Array, what: str = "the tensor", writable: bool = False) -> DLTensor:
        """As `moec.runtime.borrow`, of arrays where the model's tensors are. On a CUDA device the stream
        of the context then waits for what has to be done with the array."""
        return borrow(value, what, writable, self._place)

    def run_tensors(self, ins: Sequence[DLTensor], outs: Sequence[DLTensor], entry: str | None = None) -> None:
        """Runs on tensors that `borrow` made, in the order of the entry's description: the least
        work for repeated runs on the same memory."""
        self._call(self._table.run, entry, ins, outs)

    def update_graph(
        self, graph_exec: int, ins: Sequence[DLTensor], outs: Sequence[DLTensor], entry: str | None = None
    ) -> None:
        """Makes a CUDA graph compute another run, with the tensors of `run_tensors`: other memory, and
        sizes up to those of the context's last captured run, whose graph `graph_exec` (a CUgraphExec)
        is of. That graph must still exist. Only for models on a CUDA device."""
        self._call(lambda handle, *rest: self._table.update_graph(handle, graph_exec, *rest), entry, ins, outs)

    def _call(self, function: Any, entry: str | None, ins: Sequence[DLTensor], outs: Sequence[DLTensor]) -> None:
        name = None if entry is None else entry.encode()
        status = function(self._handle, name, _addresses(ins), len(ins), _addresses(outs), len(outs))
        self._library.check(status)

    def _borrow_inputs(self, entry: Entry, inputs: Mapping[str, Array]) -> list[DLTensor]:
        _check_names(inputs, entry.input_names, entry, "input")
        if len(inputs) < len(entry.inputs):
            missing = _quoted(entry.input_names - inputs.keys())
            raise MoecError("ARGUMENT", f"{entry.name}: no array was given for input {missing}")
        return [self.borrow(inputs[one.name], f"{entry.name}: input '{one.name}'") for one in entry.inputs]

    def _outputs(
        self, entry: Entry, ins: Sequence[DLTensor], out: Mapping[str, Any], results: str | None
    ) -> dict[str, Any]:
        """The caller's arrays, and new ones for outputs that it gave none for."""
        allocate = _choose_allocator(results, self._place)
        _check_names(out, entry.output_names, entry, "output")
        if len(out) == len(entry.outputs):
            return {one.name: out[one.name] for one in entry.outputs}
        return {
            one.name: out[one.name] if one.name in out else allocate(shape_of(tensor), one.dtype)
            for one, tensor in zip(entry.outputs, self._shapes(entry, ins))
        }


def _parallel_for(function: ParallelFor) -> Any:
    return PARALLEL_FOR(
        lambda pool, n, body, argument: function(n, lambda task, worker: body(argument, task, worker))
    )

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""libmoec-jit.so: compiles modules into this process and runs their entries. The process
must not have loaded libmoec-c.so, which registers the same passes."""

import ctypes
import functools
import multiprocessing
import multiprocessing.managers

import numpy as np
from harness import BUILD, CPU
from safetensors.numpy import save_file

_POINTER = ctypes.c_void_p
_SIGNATURES = {
    "compile": (_POINTER, ctypes.c_char_p, ctypes.c_bool, ctypes.c_uint, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_bool),
    "error": (ctypes.c_char_p,),
    "find": (_POINTER, _POINTER, ctypes.c_char_p),
    "weights": (_POINTER, _POINTER),
    "workers": (ctypes.c_int32,),
    "destroy": (None, _POINTER),
}

# moec_entry_desc of moec/Runtime/model_abi.h.
_SHAPES = ctypes.CFUNCTYPE(None, _POINTER, _POINTER)
_WORKSPACE = ctypes.CFUNCTYPE(ctypes.c_int64, _POINTER, ctypes.c_int32)
_RUN = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _POINTER, _POINTER)


@functools.lru_cache
def _library():
    assert multiprocessing.parent_process(), "libmoec-jit.so needs a process apart, as ProcessApart"
    library = ctypes.CDLL(str(BUILD / "lib" / "libmoec-jit.so"))
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(library, f"moec_jit_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class CompileError(Exception):
    pass


def _descriptor(array):
    """Two addresses, an offset, sizes, strides."""
    strides = [stride // array.itemsize for stride in array.strides]
    return np.array([array.ctypes.data, array.ctypes.data, 0, *array.shape, *strides], np.int64)


def _addresses(arrays):
    return np.array([array.ctypes.data for array in arrays], np.int64)


def _aligned(size, alignment=64):
    memory = np.full(size + alignment, 0xFF, np.uint8)  # NaN, not zeros
    start = -memory.ctypes.data % alignment
    return memory[start : start + size]


class Program:
    """A module of the moe dialect, compiled at a level."""

    def __init__(self, text, weights, folder, level, gpu="", tf32=False):
        """`weights`: the arrays of `#moe.tensor` names. `gpu`: the architecture of an emulated one.
        Raises CompileError."""
        (folder / "layers.mlir").write_text(text)
        if weights:
            save_file(weights, folder / "w.safetensors")
        self._library = _library()
        self._handle = self._library.moec_jit_compile(str(folder).encode(), bool(weights), level, CPU.encode(), gpu.encode(), tf32)
        if not self._handle:
            raise CompileError(self._library.moec_jit_error().decode())

    def close(self):
        self._library.moec_jit_destroy(self._handle)

    def _function(self, entry, suffix, type):
        return type(self._library.moec_jit_find(self._handle, f"moec_entry_{entry}_{suffix}".encode()))

    def run(self, entry, inputs, outputs):
        """Arrays; `outputs`: dtype and rank of each."""
        descriptors = [_descriptor(array) for array in inputs]
        sizes = np.full(sum(rank for _, rank in outputs), -1, np.int64)
        self._function(entry, "shapes", _SHAPES)(_addresses(descriptors).ctypes, sizes.ctypes)
        results = []
        for dtype, rank in outputs:
            results.append(_aligned(int(sizes[:rank].prod()) * np.dtype(dtype).itemsize).view(dtype).reshape(sizes[:rank]))
            sizes = sizes[rank:]
        arguments = _addresses(descriptors + [_descriptor(array) for array in results])
        workers = self._library.moec_jit_workers()
        size = self._function(entry, "workspace", _WORKSPACE)(arguments.ctypes, workers)
        workspace = _aligned(size)
        failure = ctypes.c_char_p()
        self._function(entry, "run", _RUN)(
            arguments.ctypes,
            workspace.ctypes,
            self._library.moec_jit_weights(self._handle),
            ctypes.byref(failure),
        )
        assert not failure.value, f"{entry}: {failure.value.decode()}"
        return results


class ProcessApart(multiprocessing.managers.BaseManager):
    """A process whose programs are used from here: `with ProcessApart() as process: process.Program(…)`."""

    def __init__(self):
        super().__init__(ctx=multiprocessing.get_context("spawn"))


ProcessApart.register("Program", Program)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs a compiled package through its C interface (moec/Runtime/moec.h), with NumPy
arrays in and out. For the tests: every structure is spelled out here again, so that a
change of the interface that the header does not announce is noticed."""

import ctypes
import json
import pathlib

import ml_dtypes
import numpy as np

ABI_VERSION = 1
STATUS_NAMES = ["OK", "ARGUMENT", "TENSOR", "WEIGHTS", "CPU", "MEMORY", "RUN", "PARALLEL"]


class MoecError(Exception):
    """A status other than MOEC_OK, with the library's message."""

    def __init__(self, status, message):
        super().__init__(f"{STATUS_NAMES[status]}: {message}")
        self.status = STATUS_NAMES[status]
        self.message = message


# --- the structures of moec.h ------------------------------------------------------


class DLDevice(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int), ("device_id", ctypes.c_int32)]


class DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("abi_version", ctypes.c_uint32), ("flags", ctypes.c_uint32)]


TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)
PARALLEL_FOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, TASK, ctypes.c_void_p)
ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
DEALLOCATE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class ContextOptions(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("num_workers", ctypes.c_int32),
        ("parallel_for", PARALLEL_FOR),
        ("pool", ctypes.c_void_p),
        ("allocate", ALLOCATE),
        ("deallocate", DEALLOCATE),
        ("allocator", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    ]


TENSORS = ctypes.POINTER(ctypes.POINTER(DLTensor))
HANDLE = ctypes.c_void_p
STATUS = ctypes.c_int


class LibraryTable(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("abi_version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("open", ctypes.CFUNCTYPE(STATUS, ctypes.c_char_p, ctypes.POINTER(Options), ctypes.POINTER(HANDLE))),
        ("context_create", ctypes.CFUNCTYPE(STATUS, HANDLE, ctypes.POINTER(ContextOptions), ctypes.POINTER(HANDLE))),
        (
            "output_shapes",
            ctypes.CFUNCTYPE(STATUS, HANDLE, ctypes.c_char_p, TENSORS, ctypes.c_int32, TENSORS, ctypes.c_int32),
        ),
        (
            "workspace_size",
            ctypes.CFUNCTYPE(
                STATUS, HANDLE, ctypes.c_char_p, TENSORS, ctypes.c_int32, ctypes.POINTER(ctypes.c_uint64)
            ),
        ),
        ("run", ctypes.CFUNCTYPE(STATUS, HANDLE, ctypes.c_char_p, TENSORS, ctypes.c_int32, TENSORS, ctypes.c_int32)),
        ("info", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        ("last_error", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        ("context_destroy", ctypes.CFUNCTYPE(None, HANDLE)),
        ("close", ctypes.CFUNCTYPE(None, HANDLE)),
        ("profile", ctypes.CFUNCTYPE(ctypes.c_int32, HANDLE, ctypes.c_void_p, ctypes.c_int32)),
        ("profile_reset", ctypes.CFUNCTYPE(None, HANDLE)),
        ("num_workers", ctypes.CFUNCTYPE(ctypes.c_int32, HANDLE)),
    ]


# --- tensors -----------------------------------------------------------------------

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


def _dtype(dtype):
    dtype = np.dtype(dtype)
    if dtype == ml_dtypes.bfloat16:
        return DLDataType(4, 16, 1)
    return DLDataType(_CODES[dtype.kind], 8 * dtype.itemsize, 1)


def _numpy_dtype(dtype):
    if dtype.code == 4:
        return np.dtype(ml_dtypes.bfloat16)
    kind = {code: kind for kind, code in _CODES.items()}[dtype.code]
    return np.dtype(bool) if kind == "b" else np.dtype(f"{kind}{dtype.bits // 8}")


def tensor(array):
    """A DLTensor over the array's memory, strides included. The array must outlive it."""
    array_type = ctypes.c_int64 * array.ndim
    result = DLTensor()
    result.data = array.ctypes.data
    result.device = DLDevice(1, 0)
    result.ndim = array.ndim
    result.dtype = _dtype(array.dtype)
    result.shape = array_type(*array.shape)
    result.strides = array_type(*(stride // array.itemsize for stride in array.strides))
    return result


def _pointers(tensors):
    return (ctypes.POINTER(DLTensor) * max(1, len(tensors)))(*(ctypes.pointer(one) for one in tensors))


# --- library, model, context -------------------------------------------------------


class Library:
    """A package's shared library."""

    def __init__(self, package):
        self.package = pathlib.Path(package)
        (path,) = self.package.glob("*.so")
        self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
        entry = self._library.moec_library
        entry.restype = ctypes.POINTER(LibraryTable)
        self.table = entry().contents
        assert self.table.abi_version == ABI_VERSION
        assert self.table.size >= ctypes.sizeof(LibraryTable)
        self.info = json.loads(self.table.info())

    def check(self, status):
        if status:
            raise MoecError(status, self.table.last_error().decode())

    def open(self, weights=None, abi_version=ABI_VERSION):
        return Model(self, weights, abi_version)


class Model:
    def __init__(self, library, weights=None, abi_version=ABI_VERSION):
        self.library = library
        self.handle = HANDLE()
        options = Options(ctypes.sizeof(Options), abi_version, 0)
        path = None if weights is None else str(weights).encode()
        library.check(library.table.open(path, ctypes.byref(options), ctypes.byref(self.handle)))

    def context(self, **options):
        return Context(self, **options)

    def close(self):
        if self.handle:
            self.library.table.close(self.handle)
            self.handle = HANDLE()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Context:
    """`workers` 0 is the library's default; `parallel_for(n, body(task, worker))`,
    `allocate(bytes, alignment)` and `deallocate(address, bytes)` are Python functions."""

    def __init__(self, model, workers=0, parallel_for=None, allocate=None, deallocate=None):
        self.model, self.library = model, model.library
        self.handle = HANDLE()
        options = ContextOptions(size=ctypes.sizeof(ContextOptions), num_workers=workers)
        if parallel_for is not None:
            options.parallel_for = PARALLEL_FOR(
                lambda pool, n, body, ctx: parallel_for(n, lambda task, worker: body(ctx, task, worker))
            )
        if allocate is not None:
            options.allocate = ALLOCATE(lambda _, bytes, alignment: allocate(bytes, alignment))
            options.deallocate = DEALLOCATE(lambda _, address, bytes: deallocate(address, bytes))
        self._options = options  # keeps the callbacks alive
        table = self.library.table
        self.library.check(table.context_create(model.handle, ctypes.byref(options), ctypes.byref(self.handle)))

    def destroy(self):
        if self.handle:
            self.library.table.context_destroy(self.handle)
            self.handle = HANDLE()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.destroy()

    def _entry(self, name):
        entries = self.library.info["entries"]
        return entries[0] if name is None else next(entry for entry in entries if entry["name"] == name)

    def _inputs(self, entry, inputs):
        return [tensor(inputs[described["name"]]) for described in self._entry(entry)["inputs"]]

    def output_shapes(self, inputs, entry=None):
        """(shape, dtype) of each output by name."""
        ins = self._inputs(entry, inputs)
        described = self._entry(entry)["outputs"]
        outs = [DLTensor() for _ in described]
        self.library.check(
            self.library.table.output_shapes(
                self.handle, entry and entry.encode(), _pointers(ins), len(ins), _pointers(outs), len(outs)
            )
        )
        return {
            one["name"]: (tuple(out.shape[: out.ndim]), _numpy_dtype(out.dtype)) for one, out in zip(described, outs)
        }

    def workspace_size(self, inputs, entry=None):
        ins = self._inputs(entry, inputs)
        size = ctypes.c_uint64()
        self.library.check(
            self.library.table.workspace_size(
                self.handle, entry and entry.encode(), _pointers(ins), len(ins), ctypes.byref(size)
            )
        )
        return size.value

    def run(self, inputs, outputs=None, entry=None):
        """Outputs by name; written into the arrays of `outputs` where given."""
        results = dict(outputs or {})
        described = [one["name"] for one in self._entry(entry)["outputs"]]
        if not all(name in results for name in described):
            for name, (shape, dtype) in self.output_shapes(inputs, entry).items():
                results.setdefault(name, np.empty(shape, dtype))
        self.run_tensors(self._inputs(entry, inputs), [tensor(results[name]) for name in described], entry)
        return results

    def run_tensors(self, ins, outs, entry=None):
        """Runs on DLTensors as they are."""
        self.library.check(
            self.library.table.run(
                self.handle, entry and entry.encode(), _pointers(ins), len(ins), _pointers(outs), len(outs)
            )
        )


def run_package(package, inputs, workers=0):
    """Opens a package, runs it once and closes it: outputs by name."""
    with Library(package).open() as model, model.context(workers=workers) as context:
        return context.run(inputs)

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs a package with every tensor, the workspace and the weights between pages that
must not be touched, first behind such a page, then before one, then from malloc, where
AddressSanitizer watches:

    python guarded.py PACKAGE CASES TOLERANCE

CASES is a pickled list of (inputs, expected outputs) by name. Inputs between pages are
read-only. Workspace and outputs are full of NaN before the run. An access out of bounds
ends the process by a signal. TOLERANCE is max |Δ| / max |y|; 0 means equal bits."""

import ctypes
import mmap
import pathlib
import pickle
import sys

import numpy as np

# This is a program: no conftest.py has set the path.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))
from moec.runtime import load  # noqa: E402

PAGE = mmap.PAGESIZE
ALIGNMENT = 64  # of the workspace

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE = 0x02, 0x20, 0x100000
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2


def _map(address, size, protection, flags=0):
    result = _libc.mmap(address, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0)
    assert result not in (None, ctypes.c_void_p(-1).value), f"mmap: error {ctypes.get_errno()}"
    return result


def _protect(address, size, protection):
    assert _libc.mprotect(address, size, protection) == 0, f"mprotect: error {ctypes.get_errno()}"


class Memory:
    """Buffers between guard pages; `at_end`: they end where the second guard begins."""

    def __init__(self, at_end):
        self.at_end = at_end
        self.blocks = {}

    def allocate(self, size, alignment=1):
        """Address of `size` bytes, full of NaN. What alignment leaves before the guard
        is checked by `check`."""
        padded = -(-size // alignment) * alignment
        pages = -(-padded // PAGE) * PAGE
        base = _map(None, pages + 2 * PAGE, PROT_NONE)
        _protect(base + PAGE, pages, PROT_READ | PROT_WRITE)
        ctypes.memset(base + PAGE, 0xFF, pages)
        address = base + PAGE + (pages - padded if self.at_end else 0)
        self.blocks[address] = (base, pages, size)
        return address

    def free(self, address, size):
        base, pages, allocated = self.blocks.pop(address)
        assert size == allocated
        self._check(address, base, pages, size)
        _libc.munmap(base, pages + 2 * PAGE)

    def _check(self, address, base, pages, size):
        before = ctypes.string_at(base + PAGE, address - base - PAGE)
        after = ctypes.string_at(address + size, base + PAGE + pages - address - size)
        assert not (before + after).strip(b"\xff"), "written outside of a buffer"

    def check(self):
        """Nothing was written around the buffers."""
        for address, (base, pages, size) in self.blocks.items():
            self._check(address, base, pages, size)

    def array(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        buffer = (ctypes.c_uint8 * size).from_address(self.allocate(size))
        return np.frombuffer(buffer, np.uint8, size).view(dtype).reshape(shape)

    def read_only(self, array):
        """A copy that cannot be written."""
        copy = self.array(array.shape, array.dtype)
        copy[...] = array
        base, pages, _ = self.blocks[copy.ctypes.data]
        _protect(base + PAGE, pages, PROT_READ)
        return copy


class Heap(Memory):
    """Buffers from malloc, each as large as what it holds. Outputs live until the end of
    the process."""

    def __init__(self):
        super().__init__(at_end=True)

    def allocate(self, size, alignment=1):
        address = ctypes.c_void_p()
        assert _libc.posix_memalign(ctypes.byref(address), max(alignment, 8), size) == 0
        ctypes.memset(address, 0xFF, size)
        return address.value

    def free(self, address, size):
        _libc.free(address)

    def read_only(self, array):
        copy = self.array(array.shape, array.dtype)
        copy[...] = array
        return copy


def guard_weights(package):
    """Pages that cannot be touched around the mapped weights."""
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".safetensors") and str(package.resolve()) in line:
            begin, end = (int(text, 16) for text in line.split()[0].split("-"))
            for neighbour in (begin - PAGE, end):
                # Something else may lie there: then it is no room for weights either.
                _libc.mmap(neighbour, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)


def equal(actual, expected, tolerance):
    if not tolerance:
        return actual.tobytes() == expected.tobytes()
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(expected).max(initial=0) or 1
    return not np.abs(actual - expected).max(initial=0) > tolerance * scale and not np.isnan(actual).any()


def run(model, inputs, expected, make_memory, tolerance):
    memory, workspace = make_memory(), make_memory()
    guarded = {name: memory.read_only(values) for name, values in inputs.items()}
    outputs = {name: memory.array(values.shape, values.dtype) for name, values in expected.items()}
    with model.context(allocate=lambda size, alignment: workspace.allocate(size, ALIGNMENT), deallocate=workspace.free) as context:
        context.run(guarded, outputs)
        workspace.check()
    memory.check()
    for name, values in expected.items():
        assert equal(outputs[name], values, tolerance), f"output {name} differs"


def main(package, cases, tolerance):
    package = pathlib.Path(package)
    with load(package) as model:
        guard_weights(package)
        for inputs, expected in pickle.loads(pathlib.Path(cases).read_bytes()):
            for make_memory in (lambda: Memory(at_end=False), lambda: Memory(at_end=True), Heap):
                run(model, inputs, expected, make_memory, float(tolerance))


if __name__ == "__main__":
    main(*sys.argv[1:])

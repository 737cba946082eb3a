# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What this machine is, and what it can do at most (ceilings.c)."""

import ctypes
import os
import pathlib
import subprocess

INTERESTING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def _read(path):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return ""


def describe():
    """The processor, its caches, memory and page settings."""
    lines = _read("/proc/cpuinfo").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    caches = {}
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _read(index / "type") != "Instruction":
            caches["L" + _read(index / "level")] = _read(index / "size")
    kilobytes = next((int(line.split()[1]) for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), 0)
    return dict(
        processor=fields.get("model name", "unknown"),
        cores=os.cpu_count(),
        instructions=[flag for flag in INTERESTING_FLAGS if flag in flags],
        virtual="hypervisor" in flags,
        caches=caches,
        memory_gib=round(kilobytes / 2**20),
        huge_pages=_read("/sys/kernel/mm/transparent_hugepage/enabled"),
    )


class Ceilings:
    """Measures in this process, so that the numbers belong to the times beside them."""

    def __init__(self, folder):
        library = folder / "ceilings.so"
        source = pathlib.Path(__file__).parent / "ceilings.c"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread", "-shared", "-fPIC"]
        subprocess.run([os.environ.get("CC", "clang-22"), *flags, source, "-o", library], check=True)
        self._library = ctypes.CDLL(str(library))
        for name in ("ceilings_make_huge", "ceilings_make_mapped"):
            getattr(self._library, name).restype = ctypes.c_void_p
        for name in ("ceilings_read", "ceilings_fma", "ceilings_fma_l2"):
            getattr(self._library, name).restype = ctypes.c_double
        self._best_multiply_add = {}
        self._huge = ctypes.c_void_p(self._library.ceilings_make_huge())
        mapped = folder / "ceilings.data"
        self._mapped = ctypes.c_void_p(self._library.ceilings_make_mapped(str(mapped).encode(), self._huge))
        mapped.unlink(missing_ok=True)  # the mapping keeps what it needs
        if not self._huge or not self._mapped:
            raise SystemExit("there is no memory for measuring what memory can do")

    def read(self, threads, repetitions=1, mapped=False):
        """GB/s of reading half a GiB, in huge pages or from a mapped file."""
        return self._library.ceilings_read(self._mapped if mapped else self._huge, threads, repetitions)

    def multiply_add(self, threads, repetitions=4):
        """GFLOP/s of float32, operands in registers: the best so far, since only other work
        on the machine changes it."""
        self.remember(threads, self._library.ceilings_fma(threads, repetitions))
        return self._best_multiply_add[threads]

    def remember(self, threads, gflops):
        """What `multiply_add` found, here or in an earlier process on this machine."""
        self._best_multiply_add[threads] = max(gflops, self._best_multiply_add.get(threads, 0))

    def multiply_add_l2(self, threads, repetitions=4):
        """GFLOP/s of float32, one operand from the second-level cache."""
        return self._library.ceilings_fma_l2(threads, repetitions)

    def table(self, threads):
        """All of them, for each number of threads."""
        return [
            dict(
                threads=count,
                read_huge=self.read(count, 16),
                read_mapped=self.read(count, 16, mapped=True),
                fma=self.multiply_add(count),
                fma_l2=self.multiply_add_l2(count),
            )
            for count in threads
        ]

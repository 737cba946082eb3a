# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The structures of moec.h (version 1), for ctypes."""

from __future__ import annotations

import ctypes

ABI_VERSION = 1
OPEN_PREFETCH = 1
OPEN_POPULATE = 2
OPEN_HUGE_PAGES = 4

# The names of moec_status.
STATUS_NAMES = ("OK", "ARGUMENT", "TENSOR", "WEIGHTS", "CPU", "MEMORY", "RUN", "PARALLEL", "DEVICE")


class DLDevice(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int), ("device_id", ctypes.c_int32)]


class DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    """A tensor in memory that is somebody else's. `owner` keeps that memory alive."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]
    owner: object


class Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("abi_version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("device_id", ctypes.c_int32),
        ("progress", ctypes.c_void_p),
        ("progress_data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
    ]


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


STATUS = ctypes.c_int
HANDLE = ctypes.c_void_p
HANDLE_RESULT = ctypes.POINTER(HANDLE)
TENSORS = ctypes.c_void_p  # an array of DLTensor *
TENSOR_CALL = ctypes.CFUNCTYPE(
    STATUS, HANDLE, ctypes.c_char_p, TENSORS, ctypes.c_int32, TENSORS, ctypes.c_int32
)


class LibraryTable(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("abi_version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("open", ctypes.CFUNCTYPE(STATUS, ctypes.c_char_p, ctypes.POINTER(Options), HANDLE_RESULT)),
        ("context_create", ctypes.CFUNCTYPE(STATUS, HANDLE, ctypes.POINTER(ContextOptions), HANDLE_RESULT)),
        ("output_shapes", TENSOR_CALL),
        (
            "workspace_size",
            ctypes.CFUNCTYPE(
                STATUS, HANDLE, ctypes.c_char_p, TENSORS, ctypes.c_int32, ctypes.POINTER(ctypes.c_uint64)
            ),
        ),
        ("run", TENSOR_CALL),
        ("info", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        ("last_error", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        ("context_destroy", ctypes.CFUNCTYPE(None, HANDLE)),
        ("close", ctypes.CFUNCTYPE(None, HANDLE)),
        ("profile", ctypes.CFUNCTYPE(ctypes.c_int32, HANDLE, ctypes.c_void_p, ctypes.c_int32)),
        ("profile_reset", ctypes.CFUNCTYPE(None, HANDLE)),
        ("num_workers", ctypes.CFUNCTYPE(ctypes.c_int32, HANDLE)),
        ("device", ctypes.CFUNCTYPE(DLDevice, HANDLE)),
        (
            "update_graph",
            ctypes.CFUNCTYPE(
                STATUS, HANDLE, ctypes.c_void_p, ctypes.c_char_p, TENSORS, ctypes.c_int32, TENSORS, ctypes.c_int32
            ),
        ),
        ("wait", ctypes.CFUNCTYPE(STATUS, HANDLE)),
        ("model_info", ctypes.CFUNCTYPE(ctypes.c_char_p, HANDLE)),
    ]

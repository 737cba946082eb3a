# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The layer in ggml, as llama.cpp builds it: one mul_mat_id for each of gate, up and down.

The library is the one that the package llama-cpp-python brings along. Its interface is
ggml.h, ggml-backend.h, ggml-alloc.h and ggml-cpu.h.
"""

import ctypes
import pathlib
from ctypes import byref, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p

import layer_model
import numpy as np
from side import Missing, Side, find_module

TYPES = {"f32": 0, "bf16": 30, "int4": 2, "int8": 8}  # enum ggml_type: int4 is Q4_0, int8 Q8_0
F32, I32, CPU_DEVICE = 0, 26, 0
CONTEXT_BYTES = 4 << 20


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class ThreadpoolParams(ctypes.Structure):
    _fields_ = [("cpumask", c_bool * 512), ("n_threads", c_int), ("prio", c_int), ("poll", c_uint32), ("strict_cpu", c_bool), ("paused", c_bool)]


# Arguments of the functions that are called; those that are not named return a pointer.
POINTER_ARGUMENTS = {
    "ggml_mul_mat_id": 4,
    "ggml_swiglu_split": 3,
    "ggml_mul": 3,
    "ggml_add": 3,
    "ggml_new_graph": 1,
    "ggml_build_forward_expand": 2,
    "ggml_backend_alloc_ctx_tensors_from_buft": 2,
    "ggml_gallocr_new": 1,
    "ggml_gallocr_alloc_graph": 2,
    "ggml_backend_graph_compute": 2,
    "ggml_backend_cpu_set_threadpool": 2,
    "ggml_backend_dev_backend_reg": 1,
    "ggml_set_input": 1,
    "ggml_set_output": 1,
    "ggml_free": 1,
    "ggml_gallocr_free": 1,
    "ggml_backend_buffer_free": 1,
    "ggml_backend_cpu_init": 0,
    "ggml_backend_cpu_buffer_type": 0,
}
OTHER_ARGUMENTS = {
    "ggml_init": (InitParams,),
    "ggml_new_tensor_2d": (c_void_p, c_int, c_int64, c_int64),
    "ggml_new_tensor_3d": (c_void_p, c_int, c_int64, c_int64, c_int64),
    "ggml_view_2d": (c_void_p, c_void_p, c_int64, c_int64, c_size_t, c_size_t),
    "ggml_backend_tensor_set": (c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_tensor_get": (c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_cpu_set_n_threads": (c_void_p, c_int),
    "ggml_backend_dev_by_type": (c_int,),
    "ggml_backend_reg_get_proc_address": (c_void_p, c_char_p),
    "ggml_threadpool_new": (ctypes.POINTER(ThreadpoolParams),),
    "ggml_threadpool_params_init": (ctypes.POINTER(ThreadpoolParams), c_int),
}


class Library:
    """ggml's functions by name."""

    def __init__(self):
        folder = pathlib.Path(find_module("llama_cpp").__file__).parent / "lib"
        # By the names that they have for each other: the package has copies by other names.
        names = ("libggml-base.so.0", "libggml-cpu.so.0", "libggml.so.0")
        try:
            self.parts = [ctypes.CDLL(str(folder / name)) for name in names]
        except OSError as error:
            raise Missing(f"llama-cpp-python has no ggml: {error}") from error

    def __getattr__(self, name):
        part = next(part for part in self.parts if hasattr(part, name))
        function = getattr(part, name)
        function.restype = c_void_p
        count = POINTER_ARGUMENTS.get(name)
        function.argtypes = OTHER_ARGUMENTS[name] if count is None else (c_void_p,) * count
        setattr(self, name, function)
        return function

    def packed_buffer_type(self):
        """Where ggml keeps Q4_0 weights in the order of its kernels, if it does."""
        registry = self.ggml_backend_dev_backend_reg(self.ggml_backend_dev_by_type(CPU_DEVICE))
        address = self.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return None
        types = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(self.ggml_backend_dev_by_type(CPU_DEVICE))
        return types[0] if types else None


def blocks(codes, scales, dtype):
    """Rows of ggml's blocks of 32: a float16 scale, then the codes. Q4_0 has the first half
    of a block in the low bits."""
    rows = codes.shape[0]
    scales = scales.astype(np.float16).reshape(rows, -1, 1).view(np.uint8)
    if dtype == "int8":
        return np.concatenate([scales, (codes ^ 0x80).reshape(rows, -1, 32)], axis=-1)
    nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(rows, -1, 2, 16)
    return np.concatenate([scales, nibbles[:, :, 0] | nibbles[:, :, 1] << 4], axis=-1)


class Ggml(Side):
    """The routing is given to it. int4 and int8 scales are rounded to float16, activations
    to bfloat16 or 8 bits, as the weights have."""

    name = "ggml"

    def __init__(self, layer, dtype, threads, copies, arguments):
        self.library, self.layer, self.dtype = Library(), layer, dtype
        library = self.library
        self.backend = library.ggml_backend_cpu_init()
        library.ggml_backend_cpu_set_n_threads(self.backend, threads)
        parameters = ThreadpoolParams()
        library.ggml_threadpool_params_init(byref(parameters), threads)
        self.pool = library.ggml_threadpool_new(byref(parameters))
        library.ggml_backend_cpu_set_threadpool(self.backend, self.pool)
        self.buffers = library.ggml_gallocr_new(library.ggml_backend_cpu_buffer_type())
        self.graph_context = None
        stored = layer_model.Weights(layer, dtype, arguments.folder)
        super().__init__([self.make(stored) for _ in range(copies)])

    def new_context(self):
        return self.library.ggml_init(InitParams(CONTEXT_BYTES, None, True))

    def make(self, weights):
        """Tensors of gate, up and down."""
        library, layer, kind = self.library, self.layer, TYPES[self.dtype]
        context = self.new_context()
        sizes = ((layer.hidden, layer.intermediate), (layer.hidden, layer.intermediate), (layer.intermediate, layer.hidden))
        tensors = [library.ggml_new_tensor_3d(context, kind, *size, layer.experts) for size in sizes]
        packed = self.dtype == "int4" and library.packed_buffer_type()
        library.ggml_backend_alloc_ctx_tensors_from_buft(context, packed or library.ggml_backend_cpu_buffer_type())
        for index, tensor in enumerate(tensors):
            data = np.ascontiguousarray(np.stack([self.read(weights, expert)[index] for expert in range(layer.experts)]))
            library.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)
        return tensors

    def read(self, weights, expert):
        if self.dtype == "f32":
            return weights.gate_up_down(expert)
        if self.dtype == "bf16":
            return [(part.view(np.uint32) >> 16).astype(np.uint16) for part in map(np.ascontiguousarray, weights.gate_up_down(expert))]
        both, down = (blocks(weights.tensors[name][expert], weights.tensors[name + "_scales"][expert], self.dtype) for name in ("fc1", "fc2"))
        return both[0::2], both[1::2], down

    def prepare(self, x, logits):
        """The graph of the copy that the run takes, and its inputs."""
        library, layer, tokens = self.library, self.layer, len(x)
        if self.graph_context:
            library.ggml_free(self.graph_context)
        context = self.graph_context = self.new_context()
        gate, up, down = self.copy()
        rows = library.ggml_new_tensor_3d(context, F32, layer.hidden, 1, tokens)
        ids = library.ggml_new_tensor_2d(context, I32, layer.k, tokens)
        factors = library.ggml_new_tensor_3d(context, F32, 1, layer.k, tokens)
        for tensor in (rows, ids, factors):
            library.ggml_set_input(tensor)
        middle = library.ggml_swiglu_split(context, *(library.ggml_mul_mat_id(context, weight, rows, ids) for weight in (gate, up)))
        results = library.ggml_mul(context, library.ggml_mul_mat_id(context, down, middle, ids), factors)
        row_bytes = 4 * layer.hidden
        slots = [library.ggml_view_2d(context, results, layer.hidden, tokens, layer.k * row_bytes, slot * row_bytes) for slot in range(layer.k)]
        y = slots[0]
        for slot in slots[1:]:
            y = library.ggml_add(context, y, slot)
        self.y_tensor = y
        library.ggml_set_output(y)
        self.graph = library.ggml_new_graph(context)
        library.ggml_build_forward_expand(self.graph, y)
        library.ggml_gallocr_alloc_graph(self.buffers, self.graph)
        experts, weights = layer_model.route(logits, layer.k)
        for tensor, values, kind in ((rows, x, np.float32), (ids, experts, np.int32), (factors, weights, np.float32)):
            values = np.ascontiguousarray(values, kind)
            library.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)
        self.tokens = tokens

    def run(self):
        self.library.ggml_backend_graph_compute(self.backend, self.graph)

    def result(self):
        y = np.empty((self.tokens, self.layer.hidden), np.float32)
        self.library.ggml_backend_tensor_get(self.y_tensor, y.ctypes.data, 0, y.nbytes)
        return y

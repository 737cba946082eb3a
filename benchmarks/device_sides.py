# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The programs that run the layer of device_layer.py on a GPU, on identical weights: as in layer_sides.py,
but that everything is on the device, and `run` only puts work into the stream `stream`.

PyTorch gives the memory, the streams and the clock. A side that does not read anything back is
captured into a CUDA graph, which `run` then replays; `mode` says which.
"""

import ctypes

import layer_sides
import numpy as np
from layer_sides import Missing, find_module
from moec.runtime import load
from moec.runtime._interface import HANDLE, ContextOptions, DLDataType, DLDevice, DLTensor

CUDA = 2
CODES = {"torch.float32": (2, 32), "torch.float16": (2, 16), "torch.bfloat16": (4, 16), "torch.int32": (0, 32), "torch.int64": (0, 64), "torch.bool": (6, 8)}


def device_tensor(tensor):
    """A description of a contiguous torch tensor on a device."""
    shape = (ctypes.c_int64 * max(1, tensor.dim()))(*tensor.shape)
    code, bits = CODES[str(tensor.dtype)]
    result = DLTensor(tensor.data_ptr(), DLDevice(CUDA, tensor.device.index or 0), tensor.dim(), DLDataType(code, bits, 1), shape, None, 0)
    result.owner = (tensor, shape)
    return result


class DeviceContext:
    """Runs of a model in a stream of its device."""

    def __init__(self, model, stream):
        self.library, self.handle = model.library, HANDLE()
        options = ContextOptions(size=ctypes.sizeof(ContextOptions), stream=stream or None)
        self.library.check(self.library.table.context_create(model.handle, ctypes.byref(options), ctypes.byref(self.handle)))

    def run(self, ins, outs):
        """On what `device_tensor` made, in the order of the first entry."""
        addresses = [(ctypes.c_void_p * max(1, len(tensors)))(*map(ctypes.addressof, tensors)) for tensors in (ins, outs)]
        name = self.library.first_entry.name.encode()
        self.library.check(self.library.table.run(self.handle, name, addresses[0], len(ins), addresses[1], len(outs)))

    def close(self):
        self.library.table.context_destroy(self.handle)
        self.handle = HANDLE()


class DeviceSide:
    """`begin(tokens)` before the first run of a size, `prepare` before each."""

    is_captured = True

    def __init__(self, setting):
        self.torch, self.setting, self.graph = setting.torch, setting, None

    def begin(self, tokens):
        torch, layer = self.torch, self.setting.layer
        self.x = torch.empty(tokens, layer.hidden, dtype=self.setting.rows, device="cuda")
        self.logits = torch.empty(tokens, layer.experts, dtype=torch.float32, device="cuda")
        self.graph, self.mode = None, "stream"

    def prepare(self, x, logits):
        self.x.copy_(self.torch.from_numpy(x))
        self.logits.copy_(self.torch.from_numpy(logits))

    def warm_up(self):
        """Twice, then a capture."""
        for _ in range(2):
            self.y = self.work()
        self.setting.stream.synchronize()
        if not self.is_captured:
            return
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph, stream=self.setting.stream, capture_error_mode="thread_local"):
                self.y = self.work()
            self.graph, self.mode = graph, "graph"
        except RuntimeError as error:
            self.mode = f"stream (no graph: {str(error).splitlines()[0]})"

    def run(self):
        if self.graph:
            self.graph.replay()
        else:
            self.y = self.work()

    def result(self):
        self.setting.stream.synchronize()
        return self.y.float().cpu().numpy()


class Moec(DeviceSide):
    name = "moec"

    def __init__(self, setting):
        super().__init__(setting)
        self.model = load(setting.package, weights=setting.weights_path)
        self.context = DeviceContext(self.model, setting.stream.cuda_stream)

    def begin(self, tokens):
        super().begin(tokens)
        self.y = self.torch.empty_like(self.x)
        self.ins, self.outs = [device_tensor(self.x), device_tensor(self.logits)], [device_tensor(self.y)]

    def work(self):
        self.context.run(self.ins, self.outs)
        return self.y

    def close(self):
        self.context.close()
        self.model.close()


class Torch(DeviceSide):
    def __init__(self, setting):
        super().__init__(setting)
        if setting.dtype not in ("bf16", "f32"):
            raise Missing("it has no layer with these weights")
        self.up, self.down, self.k, self.experts = *setting.torch_weights(), setting.layer.k, setting.layer.experts

    route = layer_sides.TorchLoop.route

    def work(self):
        return self.layer(self.up, self.down)


class TorchLoop(Torch):
    """Waits for the routing to know its experts."""

    name, is_captured = "PyTorch expert loop", False
    layer = layer_sides.TorchLoop.layer


class TorchGrouped(Torch):
    name = "PyTorch grouped_mm"

    def __init__(self, setting):
        super().__init__(setting)
        if setting.dtype != "bf16":
            raise Missing("its grouped_mm is for bfloat16")
        torch = self.torch
        self.grouped_mm = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
        if not self.grouped_mm:
            raise Missing("this PyTorch has no grouped_mm")

    def layer(self, up, down):
        """As on the CPU, but bincount, which waits for the device, is a histogram."""
        torch, x = self.torch, self.x
        factors, experts = self.route()
        flat = experts.reshape(-1)
        order = flat.argsort()
        tokens = order // self.k
        counts = torch.zeros(self.experts, dtype=torch.int32, device=x.device).scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
        ends = counts.cumsum(0).to(torch.int32)
        gate, linear = self.grouped_mm(x[tokens], up.transpose(1, 2), offs=ends).chunk(2, -1)
        rows = self.grouped_mm(torch.nn.functional.silu(gate) * linear, down.transpose(1, 2), offs=ends)
        rows = rows * factors.reshape(-1)[order, None].to(rows.dtype)
        return torch.zeros_like(x).index_add_(0, tokens, rows)


class CublasPerExpert(Torch):
    """Two products for each expert, whose rows the host knows beforehand: no time for routing."""

    name, is_captured = "cuBLAS per expert", False

    def prepare(self, x, logits):
        super().prepare(x, logits)
        factors, experts = self.route()
        self.rows = []
        for expert in experts.unique().tolist():
            tokens, slots = self.torch.where(experts == expert)
            self.rows.append((expert, tokens, factors[tokens, slots, None].to(self.x.dtype)))

    def layer(self, up, down):
        torch, x = self.torch, self.x
        y = torch.zeros_like(x)
        for expert, tokens, factors in self.rows:
            gate, linear = (x[tokens] @ up[expert].T).chunk(2, -1)
            y.index_add_(0, tokens, (torch.nn.functional.silu(gate) * linear) @ down[expert].T * factors)
        return y


class Triton(Torch):
    name = "Triton grouped kernel"

    def __init__(self, setting):
        find_module("triton")
        super().__init__(setting)
        self.kernel = find_module("triton_layer")

    def layer(self, up, down):
        factors, experts = self.route()
        return self.kernel.layer(self.x, experts, factors, up, down)


PEERS = (TorchGrouped, TorchLoop, Triton, CublasPerExpert)


class Ceilings:
    """What the device can do at most, measured between the turns: bytes read and written by a copy of
    1 GiB, and a product of 8192 x 8192 x 8192 by cuBLAS."""

    def __init__(self, torch, rows):
        self.torch = torch
        self.source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
        self.target = torch.empty_like(self.source)
        self.a, self.b = (torch.randn(8192, 8192, dtype=rows, device="cuda") for _ in range(2))

    def _milliseconds(self, work):
        work()
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def read(self, threads=None, repetitions=1):
        """GB/s."""
        return 2 * self.source.numel() / self._milliseconds(lambda: self.target.copy_(self.source)) / 1e6

    def multiply_add(self, threads=None, repetitions=1):
        """GFLOP/s."""
        return 2 * 8192**3 / self._milliseconds(lambda: self.torch.mm(self.a, self.b)) / 1e6


def describe(torch):
    properties = torch.cuda.get_device_properties(0)
    return dict(
        device=properties.name,
        multiprocessors=properties.multi_processor_count,
        memory_gib=round(properties.total_memory / 2**30),
        capability="{}.{}".format(*torch.cuda.get_device_capability(0)),
        torch=torch.__version__,
        cuda=torch.version.cuda,
    )


def torch_matrix(torch, file, name, dtype):
    """All parts of a tensor of synthetic.File, on the device."""
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    first = file.part(name, 0)
    result = torch.empty(file.parts(name), *first.shape, dtype=kind, device="cuda")
    for number in range(file.parts(name)):
        bits = np.array(file.part(name, number)).view(np.int16 if dtype == "bf16" else np.float32)
        result[number].copy_(torch.from_numpy(bits).view(kind))
    return result

# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The programs that run the layer of layer_model.py, on identical weights."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import time

import layer_model
import machine
import numpy as np
from ggml_side import Ggml
from side import Missing, Side, find_module

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "test")]
from moec.runtime import borrow, load  # noqa: E402


def compile_package(model, folder, arguments, more=(), name=None):
    """(package, seconds, peak memory in bytes) of compiling; the peak counts the pages
    of the model's files that are mapped."""
    package, report = folder / f"{name or model.stem}.moec", folder / "report.json"
    command = [arguments.moec, model, "-o", package, "-O3", f"--cpu={arguments.cpu}", "--report", report, *more]
    start = time.perf_counter()
    # Through a shell that waits: a process begins with the peak of the one that it was forked from.
    words = ["sh", "-c", '"$@"; exit $?', "sh", *(str(word) for word in command)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return package, seconds, json.loads(report.read_text())["memory"]["compiler_peak_bytes"]


class Moec(Side):
    """Weights as they are, arithmetic in float32."""

    name, rounding = "moec", ()

    def __init__(self, layer, dtype, threads, copies, arguments):
        more = [*(["--weight-type=bf16"] if dtype == "bf16" else []), *self.rounding]
        model = layer_model.make_model(layer, dtype, arguments.folder)
        name = "_".join([dtype, str(layer), *(option.split("=")[1] for option in self.rounding)])
        package, self.compile_seconds, self.compile_peak_bytes = compile_package(model, arguments.folder, arguments, more, name)
        self.library_bytes = next(package.glob("*.so")).stat().st_size
        self.package, self.threads = package, threads
        self.weights = [next(package.glob("*.safetensors"))]
        for number in range(1, copies):
            other = arguments.folder / f"{package.stem}.{number}.safetensors"
            shutil.copyfile(self.weights[0], other)
            self.weights.append(other)
        super().__init__([])

    def ready(self):
        self.models = [load(self.package, weights=path, populate=True) for path in self.weights]
        self.copies = [model.context(self.threads) for model in self.models]

    def prepare(self, x, logits):
        self.x, self.logits, self.y = x, logits, np.empty_like(x)
        self.ins, self.outs = [borrow(self.x), borrow(self.logits)], [borrow(self.y, writable=True)]

    def run(self):
        self.copy().run_tensors(self.ins, self.outs)

    def result(self):
        return self.y


class MoecInt8(Moec):
    """Rows rounded to 8 bits, as several peers do with quantised weights."""

    name, rounding = "moec, int8 rows", ("--activation-type=int8",)

    def __init__(self, layer, dtype, threads, copies, arguments):
        if not dtype.startswith("int"):
            raise Missing("rows are rounded to 8 bits for quantised weights only")
        super().__init__(layer, dtype, threads, copies, arguments)


class MoecBfloat16(Moec):
    """Rows rounded to bfloat16, as the peers do with weights of that type."""

    name, rounding = "moec, bf16 rows", ("--compute=bf16",)

    def __init__(self, layer, dtype, threads, copies, arguments):
        if dtype != "bf16":
            raise Missing("rows are rounded to bfloat16 for such weights only")
        if "avx512_bf16" not in machine.describe()["instructions"]:
            raise Missing("--compute=bf16 needs AVX512-BF16")
        super().__init__(layer, dtype, threads, copies, arguments)


class OnnxRuntime(Side):
    """com.microsoft.MoE, or QMoE at one accuracy level."""

    level = None
    name = "onnxruntime"

    def __init__(self, layer, dtype, threads, copies, arguments):
        onnxruntime = find_module("onnxruntime")
        if dtype == "bf16":
            raise Missing("its CPU MoE has no bfloat16")
        if self.level and dtype == "f32":
            raise Missing("accuracy levels are for quantised weights")
        model = layer_model.make_model(layer, dtype, arguments.folder, self.level)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        super().__init__([onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(copies)])

    def prepare(self, x, logits):
        self.inputs = {"x": x, "logits": logits}

    def run(self):
        self.y = self.copy().run(None, self.inputs)[0]

    def result(self):
        return self.y


class OnnxRuntimeLevel4(OnnxRuntime):
    """Activations rounded to 8 bits."""

    level = 4
    name = "onnxruntime accuracy_level 4"


@functools.lru_cache(maxsize=1)
def torch_copies(torch, layer, dtype, folder, count):
    """[E,2I,H] (gate rows, then up) and [E,H,I], `count` times, for both ways."""
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    weights = layer_model.Weights(layer, "f32", folder)
    up = torch.empty(layer.experts, 2 * layer.intermediate, layer.hidden, dtype=kind)
    down = torch.empty(layer.experts, layer.hidden, layer.intermediate, dtype=kind)
    for expert in range(layer.experts):
        gate_rows, up_rows, down_rows = weights.gate_up_down(expert)
        up[expert] = torch.from_numpy(np.concatenate([gate_rows, up_rows])).to(kind)
        down[expert] = torch.from_numpy(np.array(down_rows)).to(kind)
    return [(up, down)] + [(up.clone(), down.clone()) for _ in range(count - 1)]


class TorchLoop(Side):
    """A loop over the experts that have tokens."""

    name = "PyTorch expert loop"

    def __init__(self, layer, dtype, threads, copies, arguments):
        self.torch = find_module("torch")
        self.torch.set_num_threads(threads)
        self.k, self.experts = layer.k, layer.experts
        if dtype not in ("bf16", "f32"):
            raise Missing("PyTorch has no layer with these weights")
        super().__init__(torch_copies(self.torch, layer, dtype, arguments.folder, copies))

    def prepare(self, x, logits):
        self.x = self.torch.from_numpy(x).to(self.copies[0][0].dtype)
        self.logits = self.torch.from_numpy(logits)

    def route(self):
        best, experts = self.logits.topk(self.k, -1)
        return best.softmax(-1), experts

    def layer(self, up, down):
        torch, x = self.torch, self.x
        factors, experts = self.route()
        y = torch.zeros_like(x)
        for expert in experts.unique().tolist():
            tokens, slots = torch.where(experts == expert)
            gate, linear = (x[tokens] @ up[expert].T).chunk(2, -1)
            rows = (torch.nn.functional.silu(gate) * linear) @ down[expert].T
            y.index_add_(0, tokens, rows * factors[tokens, slots, None].to(x.dtype))
        return y

    def run(self):
        with self.torch.inference_mode():
            self.y = self.layer(*self.copy())

    def result(self):
        return self.y.float().numpy()


class TorchGrouped(TorchLoop):
    """Rows sorted by expert, two grouped products."""

    name = "PyTorch grouped_mm"

    def __init__(self, *arguments):
        torch = find_module("torch")
        if not hasattr(torch.nn.functional, "grouped_mm"):
            raise Missing("this PyTorch has no grouped_mm")
        super().__init__(*arguments)

    def layer(self, up, down):
        torch, x = self.torch, self.x
        factors, experts = self.route()
        flat = experts.reshape(-1)
        order = flat.argsort()
        tokens = order // self.k
        ends = torch.bincount(flat, minlength=self.experts).cumsum(0).to(torch.int32)
        grouped_mm = torch.nn.functional.grouped_mm
        gate, linear = grouped_mm(x[tokens], up.transpose(1, 2), offs=ends).chunk(2, -1)
        rows = grouped_mm(torch.nn.functional.silu(gate) * linear, down.transpose(1, 2), offs=ends)
        rows = rows * factors.reshape(-1)[order, None].to(rows.dtype)
        return torch.zeros_like(x).index_add_(0, tokens, rows)


class KTransformers(Side):
    """kt-kernel's layer, by AMX or what it has in its place; the routing is given to it. int4
    scales and activations are rounded (to bfloat16, and to 8 bits)."""

    name = "kt-kernel"
    CLASSES = {"bf16": "AMXBF16_MOE", "int4": "AMXInt4_KGroup_MOE"}
    MULTIPLES = {"bf16": 32, "int4": 128}

    def __init__(self, layer, dtype, threads, copies, arguments):
        self.torch = find_module("torch")
        kernels = find_module("kt_kernel").kt_kernel_ext
        if dtype not in self.CLASSES or not hasattr(kernels.moe, self.CLASSES[dtype]):
            raise Missing(f"kt-kernel has no layer with {dtype} weights here")
        multiple = self.MULTIPLES[dtype]
        if layer.hidden % multiple or layer.intermediate % multiple:
            raise Missing(f"kt-kernel's kernels of {dtype} weights end the process where a size is no multiple of {multiple}")
        pool = kernels.WorkerPoolConfig()
        pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [threads]
        self.infer, self.k = kernels.CPUInfer(pool), layer.k
        stored = layer_model.Weights(layer, dtype, arguments.folder)
        self.parts = [self.read(stored, expert, dtype) for expert in range(layer.experts)]
        super().__init__([self.make(kernels, layer, dtype) for _ in range(copies)])
        del self.parts  # each layer has packed its own

    def read(self, weights, expert, dtype):
        """Gate, up and down of an expert, then their scales."""
        torch = self.torch
        if dtype == "bf16":
            return [torch.from_numpy(np.array(part)).to(torch.bfloat16) for part in weights.gate_up_down(expert)]
        codes, scales = ([np.array(weights.tensors[name + end][expert]) for name in ("fc1", "fc2")] for end in ("", "_scales"))
        parts = [torch.from_numpy(np.ascontiguousarray(part)) for both, down in (codes, scales) for part in (both[0::2], both[1::2], down)]
        return parts[:3] + [part.to(torch.bfloat16) for part in parts[3:]]

    def make(self, kernels, layer, dtype):
        config = kernels.moe.MOEConfig(layer.experts, layer.k, layer.hidden, layer.intermediate, 0)
        config.max_len, config.layer_idx, config.pool = 4096, 0, self.infer.backend_
        pointers = [[[part.data_ptr() for part in same]] for same in zip(*self.parts)]
        config.gate_projs, config.up_projs, config.down_projs = pointers[:3]
        config.gate_scales, config.up_scales, config.down_scales = pointers[3:] or [[[0] * layer.experts]] * 3
        if dtype == "int4":
            quantized = config.quant_config
            quantized.bits, quantized.group_size, quantized.zero_point = 4, layer_model.BLOCK, False
        moe = getattr(kernels.moe, self.CLASSES[dtype])(config)
        numbers = self.torch.arange(layer.experts, dtype=self.torch.int64)
        self.infer.submit(moe.load_weights_task(numbers.data_ptr()))
        self.infer.sync()
        return moe

    def prepare(self, x, logits):
        torch = self.torch
        self.x = torch.from_numpy(x).to(torch.bfloat16)
        best, experts = torch.from_numpy(logits).topk(self.k, -1)
        self.experts, self.factors = experts.contiguous(), best.softmax(-1).contiguous()
        self.y, self.tokens = torch.empty_like(self.x), torch.tensor([len(x)], dtype=torch.int32)

    def run(self):
        pointers = (tensor.data_ptr() for tensor in (self.experts, self.factors, self.x, self.y))
        self.infer.submit(self.copy().forward_task(self.tokens.data_ptr(), self.k, *pointers, False))
        self.infer.sync()

    def result(self):
        return self.y.float().numpy()


PEERS = (MoecInt8, MoecBfloat16, OnnxRuntime, OnnxRuntimeLevel4, TorchGrouped, TorchLoop, KTransformers, Ggml)

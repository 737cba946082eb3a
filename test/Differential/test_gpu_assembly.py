# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The kernels that the other tests run on the emulated GPU, through the CUDA Toolkit's assembler: none spills
registers, and none calls mathematics that is not there. Both are errors of --emit-ptx=check."""

import os
import re
import shutil

import pytest
from harness import FIXTURES, run, tool
from test_gpu import LAYERS, WARPGROUPS

ARCHITECTURES = ("sm_80", "sm_89", "sm_90a", "sm_100")

pytestmark = pytest.mark.skipif(
    not shutil.which("ptxas") and not os.path.exists("/usr/local/cuda/bin/ptxas"), reason="not found: ptxas"
)


def layers_of(architecture):
    """Each layer for one architecture, and those with kernels of their own for that, too;
    MOEC_GPU_MODELS=all takes all for all."""
    step = 1 if os.environ.get("MOEC_GPU_MODELS") == "all" else len(ARCHITECTURES)
    chosen = [*LAYERS][ARCHITECTURES.index(architecture) % step :: step]
    return dict.fromkeys(chosen + (WARPGROUPS if architecture == "sm_90a" else []))


def assemble(path, architecture, *passes):
    """The resources of each kernel."""
    done = run(tool("moe-opt"), path, *passes, f"--emit-ptx=check arch={architecture}", "-o", os.devnull)
    remarks = re.findall(r"remark: (\w+): (\d+) registers, \d+ bytes of shared memory, (\d+) of stack, (\d+) of spills", done.stderr)
    assert len(remarks) > 3, done.stderr
    return {kernel: tuple(int(number) for number in numbers) for kernel, *numbers in remarks}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers(tmp_path, architecture):
    names = layers_of(architecture)
    (tmp_path / "layers.mlir").write_text("\n".join(LAYERS[name].text(name) for name in names))
    kernels = assemble(tmp_path / "layers.mlir", architecture, f"--moe-to-gpu=arch={architecture}")
    assert any("_wgmma_" in kernel for kernel in kernels) == (architecture == "sm_90a")
    for kernel, (registers, stack, spills) in kernels.items():
        assert 0 < registers <= 255 and spills == 0, kernel
        assert stack == 0, kernel


def test_model(tmp_path):
    """The other operators' kernels: of a whole model, in the form that moec has them."""
    model = FIXTURES / "tinymoe" / "model_with_past.onnx"
    lowered = run(tool("moec"), model, "--target=cuda", "--gpu-arch=sm_80", "--compile-to=plan-memory").stdout
    (tmp_path / "model.mlir").write_text(lowered)
    assert len(assemble(tmp_path / "model.mlir", "sm_80")) > 20

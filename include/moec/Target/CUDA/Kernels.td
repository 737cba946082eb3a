// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_TARGET_CUDA_KERNELS_TD
#define MOEC_TARGET_CUDA_KERNELS_TD

include "mlir/Pass/PassBase.td"

def ExpandGPUMath : Pass<"expand-gpu-math", "::mlir::gpu::GPUModuleOp"> {
  let summary = "mathematics on f32 as arithmetic, where the GPU has no instruction";
  let description = [{
    The polynomials of the CPU kernels, on scalars, so that kernels need no libdevice. A
    power is computed in f64: `exp2(y · log2 |x|)` with relative errors below 1e-12.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
                           "::mlir::vector::VectorDialect"];
}

def KernelsToNVVM : Pass<"kernels-to-nvvm", "::mlir::gpu::GPUModuleOp"> {
  let summary = "everything in a gpu.module to the NVVM dialect, without libdevice";
  let description = [{
    As upstream's `--convert-gpu-to-nvvm`, but that mathematics become LLVM's intrinsics, for
    which there are instructions (see `--expand-gpu-math`), rather than calls of libdevice.
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect"];
}

def EmitPTX : Pass<"emit-ptx", "::mlir::ModuleOp"> {
  let summary = "the PTX of gpu.modules, and what ptxas says of it";
  let description = [{
    Lowers each gpu.module and puts its PTX into the attribute `moe.ptx`. With `check`, PTX is
    assembled too (see `CUDAToolkit`), and a remark at the module says for each kernel how many
    registers and bytes of shared memory, stack and spills it needs; a spill is an error, and so
    are products of warpgroups that wait for each other.
  }];
  let options = [
    Option<"arch", "arch", "std::string", "\"sm_90a\"", "architecture">,
    Option<"check", "check", "bool", "false", "assemble with ptxas">,
  ];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect"];
}

#endif

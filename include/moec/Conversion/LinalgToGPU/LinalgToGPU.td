// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_LINALGTOGPU_TD
#define MOEC_CONVERSION_LINALGTOGPU_TD

include "mlir/Pass/PassBase.td"

def LinalgToGPU : Pass<"linalg-to-gpu", "::mlir::ModuleOp"> {
  let summary = "Make kernels of what entries do with memory";
  let description = [{
    Runs on bufferized entries (`moe.entry`), whose memory is that of a device: the host
    computes sizes and launches kernels, but reads and writes no element.

    - A linalg operation or `memref.copy` becomes a kernel with one thread for each point of
      its parallel loops, which goes through the reduction loops in order. An operation whose results
      do not have a place of their own for each of these points runs on one thread.
    - A product of two factors (MatMul, Einsum and whatever was fused with them) goes by tiles
      through shared memory: tensor cores multiply f16 and bf16, others are fused multiply-adds in f32.
    - A reduction along contiguous memory has a warp for each of these points.
    - Consecutive operations, a reduction among them, that write and read the same rows of what they
      share become one kernel, with a warp or a block for each row.
    - An operation that starts from what `linalg.fill` wrote starts from the number itself.
    - Loops and conditions of the scf dialect that access memory, and single loads and
      stores, become kernels of one thread. That is right but slow: a remark says where.
      A loop or condition that launches kernels itself stays on the host.
    - A scalar that is loaded from memory is loaded again in the kernels that use it, together
      with the arithmetic between.
    - Constants (`memref.get_global`) become constants of the kernels' module; those that a launch
      passes are copied to memory first.
    - `moe.check` of a value in memory is made by a kernel of one thread. When it fails the address of
      its message is put where `moec_check_place` says, in memory of the host's that devices reach, unless
      another one is there: the runtime reports it in a later call, since nobody waits for the
      device. The code goes on with clamped values, as it does on the CPU.
    - `moe.profile_mark` is left out.

    Kernels with the same text are one. They are put into the first `gpu.module`, or into a new one
    named `kernels`.

    All places where the host would need a value of the device (a size that depends on data), and all
    operations that cannot run there, are reported together.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::gpu::GPUDialect",
                           "::mlir::LLVM::LLVMDialect", "::mlir::linalg::LinalgDialect", "::mlir::LLVM::LLVMDialect",
                           "::mlir::math::MathDialect", "::mlir::memref::MemRefDialect",
                           "::mlir::NVVM::NVVMDialect", "::mlir::scf::SCFDialect",
                           "::mlir::vector::VectorDialect"];
}

#endif

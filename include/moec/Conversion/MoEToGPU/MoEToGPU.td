// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_MOETOGPU_MOETOGPU_TD
#define MOEC_CONVERSION_MOETOGPU_MOETOGPU_TD

include "mlir/Pass/PassBase.td"

def MoEToGPUPass : Pass<"moe-to-gpu", "::mlir::ModuleOp"> {
  let summary = "generate GPU kernels for the moe ops";
  let description = [{
    Replaces every moe op of a function by launches of kernels (`gpu.launch_func`), in the
    order in which they have to run, and puts the kernels into one `gpu.module`. Nothing is
    read back: what depends on the routing is decided on the device.

    Routers, capacities, combines and all other ops that go over tokens are the kernels of
    `--moe-to-cpu` for vectors of 32 lanes, with a warp for each token: an element of a vector
    belongs to a lane, reductions are shuffles, and the logits of up to 512 experts stay in
    registers. So every combination of attributes that has a fused CPU kernel has a fused GPU
    kernel. What has to be done in turn (capacities, sums of `moe.aux`) is done by one warp.

    Rows by expert are made by one block, in an order that does not depend on how it runs:
    counts of each warp by comparing the experts of its lanes, sums over warps and experts, and
    lists of blocks of rows, those of at most 16 rows apart from those of up to 64.

    Products read the weights as they are in the model, gather the rows in the loads of the
    first product, and apply the activation before they store. Rows in bf16 or f16 times
    weights of the same type, or codes, run on tensor cores, everything else in f32, or with
    `tf32` rounded to that on tensor cores too. The two sizes of blocks are two launches, each of
    which takes the blocks of its list:

    - up to 16 rows: mma.sync with the weights on the side of 16 and the rows on that of 8.
      Operands are loaded to registers as mma wants them, without shared memory; warps share
      out K.
    - more: mma.sync on slices in shared memory, which come by cp.async.
    - more on sm_90a, in blocks of up to 128 rows and without dequantization: wgmma. A persistent
      block has a warpgroup that copies slices of 64 columns of K into a ring of four and two
      warpgroups of which each makes 64 x 256 sums. Weights come by bulk copies of a tensor map
      (TMA) that the host makes and passes as a parameter, as do rows that follow each other;
      rows that are gathered by cp.async, in the same swizzle. mbarriers say which slices are
      full and which are free, products of the next slice start before those of the last one
      are over, and registers go from the first warpgroup to the others.
  }];
  let options = [
    Option<"arch", "arch", "std::string", "\"sm_80\"", "architecture that kernels are chosen for">,
    Option<"tf32", "tf32", "bool", "false", "products of f32 in tf32">,
  ];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::bufferization::BufferizationDialect",
    "::mlir::func::FuncDialect", "::mlir::gpu::GPUDialect", "::mlir::LLVM::LLVMDialect",
    "::mlir::math::MathDialect", "::mlir::memref::MemRefDialect", "::mlir::moe::MoEDialect",
    "::mlir::nvgpu::NVGPUDialect", "::mlir::NVVM::NVVMDialect", "::mlir::scf::SCFDialect",
    "::mlir::tensor::TensorDialect", "::mlir::vector::VectorDialect"];
}

#endif

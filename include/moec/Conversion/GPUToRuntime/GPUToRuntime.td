// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_GPUTORUNTIME_TD
#define MOEC_CONVERSION_GPUTORUNTIME_TD

include "mlir/Pass/PassBase.td"

def GPUToRuntime : Pass<"gpu-to-runtime", "::mlir::ModuleOp"> {
  let summary = "Launch kernels through moec_launch";
  let description = [{
    Each `gpu.launch_func` becomes a call of `moec_launch` (Runtime/model_abi.h) with the
    number of its kernel, its sizes and an array of pointers to the arguments. A memref is
    passed as MLIR's convention for kernels says: allocated pointer, aligned pointer,
    offset, sizes, strides, each a parameter of its own; an index has 64 bits. The array
    and the arguments are on the stack, once for all launches of a function.

    A tensor map (`nvgpu.tma.create.descriptor` of a cast ranked memref) becomes a call of
    `moec_tensor_map` with its description; a kernel gets the 128 bytes that this returns as
    one parameter. The number of these operations is the module attribute `moe.tensor_maps`.

    The kernels' names are written to the module attribute `moe.kernels` in the order of
    their numbers, which is that of their first launch; `moe.regions` has the name of each launch for
    the profile, which is that of its node and of its kernel. The kernels themselves, in their
    `gpu.module`, stay.

    The enclosing function needs an argument marked `moe.call`. It is an error when a launch
    is asynchronous or passes anything but ranked strided memrefs, tensor maps, pointers and scalars
    of up to 64 bits, when a tensor map is of a memref that is not cast from a ranked one of 1 to 5
    dimensions, or when two kernels of different `gpu.module`s have the same name.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::LLVM::LLVMDialect"];
}

#endif

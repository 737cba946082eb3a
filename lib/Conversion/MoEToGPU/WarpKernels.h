// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Kernels for vectors of 32 lanes as kernels of a GPU.
//
// A warp runs a task of a parallel loop: an element of a vector is a value of its lane, a
// scalar has the same value in all lanes, and so branches and loops are taken by the whole
// warp. Reductions are shuffles; a buffer on the stack is shared memory of the warp. Only
// lane 0 stores scalars, and around a store to memory that the kernel also reads the lanes
// wait for each other.

#ifndef MOEC_LIB_CONVERSION_MOETOGPU_WARPKERNELS_H
#define MOEC_LIB_CONVERSION_MOETOGPU_WARPKERNELS_H

#include "GPUBuilder.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace mlir::moe::cuda {

class WarpKernels {
public:
  explicit WarpKernels(ModuleOp module) : module(module) {}

  /// Launches what `kernel`, made with a KernelTarget of 32 lanes, does: a launch for each
  /// of its parallel loops, and for what is between them one of a single warp. `operands`
  /// are those of a call of it but the last. Fails with an error at `user`.
  FailureOr<SmallVector<gpu::LaunchFuncOp>> launch(cpu::KernelBuilder &b, Operation *user,
                                                   func::FuncOp kernel, ValueRange operands);
  /// Erases the kernels that were launched.
  void eraseSources();

private:
  /// A launch of a kernel.
  struct Part {
    gpu::GPUFuncOp function;
    Value tasks;   ///< in the source kernel; null when a single warp runs it
    int64_t warps; ///< of a block
  };

  FailureOr<SmallVector<Part>> split(Operation *user, func::FuncOp kernel);

  ModuleOp module;
  DenseMap<func::FuncOp, SmallVector<Part>> parts;
};

} // namespace mlir::moe::cuda

#endif // MOEC_LIB_CONVERSION_MOETOGPU_WARPKERNELS_H

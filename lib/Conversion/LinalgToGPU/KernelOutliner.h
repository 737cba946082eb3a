// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Makes kernels and their launches.

#ifndef MOEC_LIB_CONVERSION_LINALGTOGPU_KERNELOUTLINER_H
#define MOEC_LIB_CONVERSION_LINALGTOGPU_KERNELOUTLINER_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::moe {

/// The buffer that a memref is a view of.
Value getRoot(Value memref);

/// Where in a kernel code is made, and what values of the host are there.
struct KernelBody {
  OpBuilder &builder;
  IRMapping &mapping;
  gpu::GPUFuncOp kernel;
};

/// Number of points of these loops, computed on the host.
Value countPoints(OpBuilder &builder, linalg::GenericOp op, ArrayRef<unsigned> loops);

class KernelOutliner {
public:
  explicit KernelOutliner(ModuleOp module);

  /// A kernel with a thread for each point of the parallel loops of `op`, and its launch in
  /// place of `op`. All operands are memrefs or scalars, and each result has its own place for
  /// each of these points.
  LogicalResult outlineParallel(linalg::GenericOp op);

  /// A kernel for blocks of `blockSize` threads, made by `emit`, and its launch in place of `ops`.
  LogicalResult outlineBlocks(ArrayRef<Operation *> ops, StringRef name, int64_t blockSize,
                              llvm::function_ref<Value(OpBuilder &)> countBlocks,
                              llvm::function_ref<void(KernelBody)> emit);

  /// A kernel of one thread that does what consecutive operations do, in place of these.
  LogicalResult outlineSequential(ArrayRef<Operation *> ops);

private:
  /// Finds what the kernel must be given, and what it makes itself: constants, and scalars that
  /// depend on memory with all that they need.
  LogicalResult collectCaptures(ArrayRef<Operation *> ops);
  LogicalResult capture(Value value, Operation *user);
  SmallVector<Value> getWritten(gpu::LaunchFuncOp launch);
  Operation *findWriteBetween(memref::LoadOp load, Operation *to);

  /// A kernel of the captures, not yet in the module; its body is made by `emit`.
  gpu::GPUFuncOp makeKernel(Location loc, StringRef name,
                            llvm::function_ref<void(KernelBody)> emit);
  /// The kernel with the text of `kernel`, which is `kernel` when there is none yet.
  gpu::GPUFuncOp getShared(gpu::GPUFuncOp kernel, StringRef name);
  void launch(OpBuilder &builder, Location loc, gpu::GPUFuncOp kernel, Value blocks,
              int64_t blockSize);
  /// Clones a constant buffer into the module of the kernels.
  void addGlobal(memref::GetGlobalOp op);

  ModuleOp module;
  gpu::GPUModuleOp kernels;
  llvm::StringMap<gpu::GPUFuncOp> known;

  // Of the kernel at hand.
  llvm::SetVector<Value> captures;
  llvm::SetVector<Operation *> clones;
};

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_LINALGTOGPU_KERNELOUTLINER_H

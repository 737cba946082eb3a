// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What kernels are generated for: an NVIDIA GPU of one architecture.

#ifndef MOEC_TARGET_CUDA_MACHINE_H
#define MOEC_TARGET_CUDA_MACHINE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <cstdint>

namespace mlir::moe {

/// An architecture, and the figures of the GPU that it is tuned for. Limits are from the
/// table of technical specifications per compute capability in NVIDIA's CUDA C++
/// Programming Guide, sizes and bandwidths from the vendor's data sheets.
struct GPUMachine {
  /// As given to --gpu-arch, and to ptxas: "sm_90a".
  llvm::StringLiteral name;
  /// The GPU that the figures below are of.
  llvm::StringLiteral model;
  /// Compute capability, times ten: 90. A driver loads a cubin on the same major number
  /// and at least this minor one; code with an `a` on exactly this one.
  int64_t capability;
  bool onlyThis;
  /// Smallest version of the PTX language that has the architecture, times ten: 80.
  int64_t ptxVersion;

  int64_t multiprocessors;
  /// Bytes of shared memory: at most in a block, and in a multiprocessor.
  int64_t sharedPerBlock, sharedPerMultiprocessor;
  /// 32-bit registers, and threads, of a multiprocessor.
  int64_t registers, threads;
  int64_t l2Bytes;
  /// Bytes per second of the memory.
  double bandwidth;

  /// cp.async, bf16 mma.sync and redux.sync, which all have.
  bool hasAsyncCopies() const { return capability >= 80; }
  /// Bulk tensor copies (TMA), mbarriers with transaction counts, clusters.
  bool hasTensorCopies() const { return capability >= 90; }
  /// wgmma and setmaxnreg; only where code is for exactly one architecture.
  bool hasWarpgroupProducts() const { return capability == 90 && onlyThis; }

  /// The machine of that name. The error suggests the nearest known name.
  static llvm::Expected<GPUMachine> get(llvm::StringRef name);
  /// All that there are, by rising capability.
  static llvm::ArrayRef<GPUMachine> all();
};

} // namespace mlir::moe

#endif // MOEC_TARGET_CUDA_MACHINE_H

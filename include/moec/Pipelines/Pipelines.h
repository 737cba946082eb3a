// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The phases from tensors to LLVM as pass pipelines.

#ifndef MOEC_PIPELINES_PIPELINES_H
#define MOEC_PIPELINES_PIPELINES_H

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassOptions.h"

namespace mlir::moe {

/// What the CPU pipelines need to know.
struct CPUOptions : PassPipelineOptions<CPUOptions> {
  /// 0: as written. From 1: elementwise operations are fused first.
  Option<int> optLevel{*this, "opt-level", llvm::cl::desc("0 … 3"), llvm::cl::init(3)};
  /// Width of a vector register, for loops over linalg operations (from opt-level 1).
  Option<int64_t> vectorBits{*this, "vector-bits", llvm::cl::desc("128, 256 or 512"),
                             llvm::cl::init(512)};
};

/// Entry functions on tensors (linalg, tensor, moe.load_weight, calls of kernels on
/// memrefs) -> entries on memrefs, with `@f_shapes` beside each. All pipelines run on a
/// module.
void buildBufferizePipeline(OpPassManager &pm, const CPUOptions &options);

/// linalg on memrefs -> loops; temporaries -> the workspace, with `@f_workspace` beside
/// each entry. No memref.alloc is left.
void buildMemoryPipeline(OpPassManager &pm, const CPUOptions &options);

/// The same for entries whose memory is a CUDA device's: linalg on memrefs -> launches of
/// kernels, which are in gpu.modules then.
void buildCUDAMemoryPipeline(OpPassManager &pm, const CPUOptions &options);

/// Loops, vectors and what is left of moe -> the LLVM dialect, with the C functions of
/// each entry (Runtime/model_abi.h).
void buildLLVMPipeline(OpPassManager &pm, const CPUOptions &options);

/// All three: `--moec-lower-to-llvm`.
void buildLowerToLLVMPipeline(OpPassManager &pm, const CPUOptions &options);

/// Registers the pipelines and the passes that only they use.
void registerPipelines();

} // namespace mlir::moe

#endif // MOEC_PIPELINES_PIPELINES_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From a gpu.module to PTX, and by the CUDA Toolkit to machine code.

#ifndef MOEC_TARGET_CUDA_KERNELS_H
#define MOEC_TARGET_CUDA_KERNELS_H

#include "moec/Target/CUDA/Machine.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

#include <string>
#include <vector>

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Target/CUDA/Kernels.h.inc"

/// Brings a gpu.module (the manager's anchor) to the NVVM dialect. A memref argument of a
/// kernel becomes the parameters that MLIR's convention says: allocated pointer, aligned
/// pointer, offset, sizes, strides; an index is 64 bits.
void buildLowerGPUModulePipeline(OpPassManager &pm);

/// What emitPTX needs of a context.
void registerGPUTranslations(DialectRegistry &registry);

/// The PTX of a module in the NVVM dialect, for one architecture; needs no toolkit. An
/// error when a function stays undefined.
llvm::Expected<std::string> emitPTX(gpu::GPUModuleOp module, const GPUMachine &machine);

/// Code of one architecture: PTX, or the cubin that was made of it.
struct GPUCode {
  GPUMachine machine;
  bool isPTX;
  std::string bytes;
};

/// What ptxas says of a kernel.
struct GPUResources {
  std::string kernel;
  int64_t registers = 0;   ///< of a thread
  int64_t sharedBytes = 0; ///< static, of a block
  int64_t stackBytes = 0;
  int64_t spillBytes = 0; ///< written and read, by a thread
  /// Whether each wgmma waits for the one before.
  bool serializesProducts = false;
};

/// The programs of a CUDA Toolkit, of version 12.8 or newer.
struct CUDAToolkit {
  std::string ptxas, fatbinary;

  /// In `folder`/bin if a folder is given; else below CUDA_HOME, CUDA_PATH or CUDA_ROOT, on
  /// the PATH, or in /usr/local/cuda. The error says what to install or to choose.
  static llvm::Expected<CUDAToolkit> find(llvm::StringRef folder = "");
  /// The cubin of PTX; with `resources`, what each of its kernels needs.
  llvm::Expected<GPUCode> assemble(const GPUCode &ptx,
                                   std::vector<GPUResources> *resources = nullptr) const;
  /// Everything in one fat binary, among which the driver chooses.
  llvm::Expected<std::string> bundle(llvm::ArrayRef<GPUCode> codes) const;
};

} // namespace mlir::moe

#endif // MOEC_TARGET_CUDA_KERNELS_H

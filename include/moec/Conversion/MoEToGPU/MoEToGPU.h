// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// GPU kernels for the moe ops.
//
// What the pass leaves for the host to lower:
// - one `gpu.module @moec_kernels` of `gpu.func` kernels, with `known_block_size`; see
//   buildLowerGPUModulePipeline for how their arguments are passed;
// - `gpu.launch_func` in functions, to be run one after the other in a stream. Operands are
//   memrefs of static rank in the default memory space, in memory of the device, and indices.
//   There are no asynchronous tokens. Blocks are numbered in x alone, at least one. Where a
//   launch has a dynamicSharedMemorySize above 48 KiB the kernel needs
//   CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES of as much;
// - `memref.alloc` of the kernels' temporaries, as --moe-to-cpu leaves them: the host never
//   reads or writes them;
// - `moe.check` on sizes, on the host;
// - raw weights as buffers of `moe.load_weight`, whose rows may be read in 16 bytes: the base
//   of every memref that a kernel gets is aligned to 16 bytes.

#ifndef MOEC_CONVERSION_MOETOGPU_MOETOGPU_H
#define MOEC_CONVERSION_MOETOGPU_MOETOGPU_H

#include "mlir/Pass/Pass.h"

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/MoEToGPU/MoEToGPU.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_MOETOGPU_MOETOGPU_H

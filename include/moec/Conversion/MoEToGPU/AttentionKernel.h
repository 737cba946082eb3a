// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The GPU kernels of scaled dot-product attention.

#ifndef MOEC_CONVERSION_MOETOGPU_ATTENTIONKERNEL_H
#define MOEC_CONVERSION_MOETOGPU_ATTENTIONKERNEL_H

#include "moec/Conversion/MoEToCPU/AttentionKernel.h"

#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace mlir::moe::cuda {

/// Launches a kernel of the module, made when it does not exist yet, on the arguments of
/// cpu::getOrCreateAttentionKernel. Queries, keys and values that are all f16, or all bf16, are
/// multiplied by tensor cores, and the softmax is rounded to that type; others are computed in f32.
void launchAttention(ImplicitLocOpBuilder &b, ModuleOp module, const cpu::AttentionForm &form,
                     ValueRange arguments);

} // namespace mlir::moe::cuda

#endif // MOEC_CONVERSION_MOETOGPU_ATTENTIONKERNEL_H

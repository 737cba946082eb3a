// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Where the named tensors of weights are in a safetensors file.

#ifndef MOEC_TARGET_CPU_RESOLVEWEIGHTS_H
#define MOEC_TARGET_CPU_RESOLVEWEIGHTS_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

/// Replaces each `#moe.tensor` of the module's weights by the `#moe.segment` of its bytes
/// in `file`, a safetensors file whose path is relative to `folder` (the model's; "" is
/// the current one). Does nothing when no weight has a `#moe.tensor`. Emits an error for
/// each tensor that is missing or not of the type that the weight says, and for a file
/// that is missing, broken, or outside of the folder.
LogicalResult resolveWeights(ModuleOp module, StringRef folder, StringRef file);

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Target/CPU/ResolveWeights.h.inc"

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_RESOLVEWEIGHTS_H

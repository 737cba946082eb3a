// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Launches of kernels through the runtime.

#ifndef MOEC_CONVERSION_GPUTORUNTIME_GPUTORUNTIME_H
#define MOEC_CONVERSION_GPUTORUNTIME_GPUTORUNTIME_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

/// On a module: names of its kernels, in the order of their numbers.
constexpr llvm::StringLiteral kKernelsAttr = "moe.kernels";

/// On a module: how many tensor maps its launches have.
constexpr llvm::StringLiteral kTensorMapsAttr = "moe.tensor_maps";

/// On a module: {name, op} of each launch, for the profile.
constexpr llvm::StringLiteral kRegionsAttr = "moe.regions";

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/GPUToRuntime/GPUToRuntime.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_GPUTORUNTIME_GPUTORUNTIME_H

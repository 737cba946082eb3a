// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What an entry does with memory becomes kernels.

#ifndef MOEC_CONVERSION_LINALGTOGPU_LINALGTOGPU_H
#define MOEC_CONVERSION_LINALGTOGPU_LINALGTOGPU_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/LinalgToGPU/LinalgToGPU.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_LINALGTOGPU_LINALGTOGPU_H

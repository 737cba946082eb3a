// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Where each weight lies in the weights file.

#ifndef MOEC_TARGET_CPU_PLANWEIGHTS_H
#define MOEC_TARGET_CPU_PLANWEIGHTS_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

/// Alignment in bytes of a weight, and of the experts of a bank.
constexpr int64_t kWeightAlignment = 64;
constexpr int64_t kExpertAlignment = 4096;

/// Gives every weight of a module its place, as the pass does, used or not.
LogicalResult placeWeights(ModuleOp module);

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Target/CPU/PlanWeights.h.inc"

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_PLANWEIGHTS_H

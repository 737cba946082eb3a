// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Passes over the moe dialect; what each does is in Passes.td.

#ifndef MOEC_DIALECT_MOE_TRANSFORMS_PASSES_H
#define MOEC_DIALECT_MOE_TRANSFORMS_PASSES_H

#include "mlir/IR/PatternMatch.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

/// moe.score, moe.select and moe.weigh to moe.gating, and moe.capacity into it. `numFused`
/// and `numCapacities` count, if not null.
void populateMoEFuseGatingPatterns(RewritePatternSet &patterns, llvm::Statistic *numFused = nullptr,
                                   llvm::Statistic *numCapacities = nullptr);

/// moe.dispatch, moe.expert_ffn and moe.combine to moe.experts. `numFused` counts, if not
/// null.
void populateMoEFuseExpertsPatterns(RewritePatternSet &patterns,
                                    llvm::Statistic *numFused = nullptr);

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"

} // namespace mlir::moe

#endif // MOEC_DIALECT_MOE_TRANSFORMS_PASSES_H

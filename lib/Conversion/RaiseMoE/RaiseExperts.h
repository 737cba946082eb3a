// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Experts that a model spells with standard operators, as moe ops.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_RAISEEXPERTS_H
#define MOEC_LIB_CONVERSION_RAISEMOE_RAISEEXPERTS_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/PatternMatch.h"

namespace mlir::moe {

/// Replaces every tensor of a graph that is proven to be y[t] = Σ w · F_e(x[t]), the sum
/// over the experts e chosen for token t, by moe.dispatch, moe.expert_ffn and moe.combine.
/// Emits a remark where something looks like such a sum and is not proven to be one. Fails,
/// with an error, for a sum in which experts are missing because tracing froze the routing,
/// unless `allowFrozen`.
LogicalResult raiseExperts(RewriterBase &rewriter, ModuleOp module, bool allowFrozen);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_RAISEEXPERTS_H

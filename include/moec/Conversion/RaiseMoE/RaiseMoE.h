// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Raising of MoE blocks in ONNX graphs to the moe dialect: `--raise-moe`.

#ifndef MOEC_CONVERSION_RAISEMOE_RAISEMOE_H
#define MOEC_CONVERSION_RAISEMOE_RAISEMOE_H

#include "mlir/IR/PatternMatch.h"
#include "mlir/Pass/Pass.h"

#include <memory>

namespace mlir::moe {

namespace onnx {
class NodeOp;
} // namespace onnx

#define GEN_PASS_DECL_RAISEMOE
#include "moec/Conversion/RaiseMoE/RaiseMoE.h.inc"

/// Name of the discardable attribute of `moe.expert_ffn` that lists the names of the
/// ONNX nodes it was raised from.
inline constexpr StringLiteral kSourcesAttr = "moe.sources";

/// True for the nodes that `raiseContribMoE` replaces.
bool isContribMoE(onnx::NodeOp node);

/// Replaces one `com.microsoft.MoE` or `com.microsoft.QMoE` node by moe ops. When the
/// node is illegal or not supported, emits one error at it and changes nothing.
/// Formulas: ONNX Runtime's contrib operators (see the pass).
LogicalResult raiseContribMoE(RewriterBase &rewriter, onnx::NodeOp node);

/// Patterns that raise what stands around the raised nodes: the product that yields
/// the logits of a routing becomes `moe.logits`, a network of every token that is added to
/// a block `moe.shared`.
void populateRaiseMoEPatterns(RewritePatternSet &patterns);

#define GEN_PASS_REGISTRATION_RAISEMOE
#include "moec/Conversion/RaiseMoE/RaiseMoE.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_RAISEMOE_RAISEMOE_H

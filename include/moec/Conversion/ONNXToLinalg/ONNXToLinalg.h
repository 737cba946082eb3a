// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Lowering of ONNX nodes to linalg, tensor, arith and math.

#ifndef MOEC_CONVERSION_ONNXTOLINALG_ONNXTOLINALG_H
#define MOEC_CONVERSION_ONNXTOLINALG_ONNXTOLINALG_H

#include "mlir/Pass/Pass.h"

namespace mlir::moe {

namespace onnx {
class NodeOp;
} // namespace onnx

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/ONNXToLinalg/ONNXToLinalg.h.inc"

/// True when `--onnx-to-linalg` has a lowering for operator `opType` (qualified
/// by its domain unless that is ai.onnx) at operator set `version`.
bool isLoweredToLinalg(StringRef opType, int64_t version);

/// Replaces one node, whose inputs are values of other dialects, as the pass does. When it
/// cannot, an error is emitted at the node, which stays. `vectorBits` is as for the pass.
LogicalResult lowerNodeToLinalg(onnx::NodeOp node, int64_t vectorBits = 0);

} // namespace mlir::moe

#endif // MOEC_CONVERSION_ONNXTOLINALG_ONNXTOLINALG_H

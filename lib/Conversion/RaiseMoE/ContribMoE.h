// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A com.microsoft.MoE or com.microsoft.QMoE node, read and checked.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_CONTRIBMOE_H
#define MOEC_LIB_CONVERSION_RAISEMOE_CONTRIBMOE_H

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"

namespace mlir::moe {

inline constexpr StringLiteral kMoEOp = "com.microsoft.MoE";
inline constexpr StringLiteral kQMoEOp = "com.microsoft.QMoE";

/// One of fc1, fc2, fc3: the matrices [N, K] of all experts. Absent when `weights` is
/// null. Scales and zero points are null for MoE.
struct ContribMatrix {
  StringRef name;
  Value weights, bias, scales, zeroPoints;
  int64_t n = 0, k = 0;
  /// Codes per scale along K; 0 is one scale per row.
  int64_t block = 0;
};

struct ContribMoE {
  onnx::NodeOp node;
  bool quantized = false;

  // Attributes, with their defaults filled in.
  int64_t topK = 1;
  bool normalize = false, sparseMixer = false;
  ActivationAttr activation;
  int64_t bits = 0;

  // Inputs. Absent ones are null.
  Value input, logits, routerWeights;
  ContribMatrix fc1, fc2, fc3;

  // Sizes, and the type T of the activations.
  Type elementType;
  int64_t experts = 0, hidden = 0, intermediate = 0;
};

/// The start of a message about the node.
std::string describeNode(onnx::NodeOp node);

/// Reads and checks a node. Reports the first thing that is illegal or not supported
/// as an error at the node.
FailureOr<ContribMoE> readContribMoE(onnx::NodeOp node);

/// `value` under another static shape with the same elements in the same order;
/// dimension 0 keeps its size. A weight becomes a new weight symbol with a reshape
/// among its transforms, a constant another constant.
Value relabel(RewriterBase &rewriter, Location loc, Value value, ArrayRef<int64_t> shape);

/// `result` in the type that the model states for the node's result. The run fails when
/// it states a size that is not that of `like`, whose unknown sizes the result has.
Value castToStated(RewriterBase &rewriter, onnx::NodeOp node, Value result, Value like);

void populateRaiseRouterPatterns(RewritePatternSet &patterns);
void populateRaiseSharedPatterns(RewritePatternSet &patterns);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_CONTRIBMOE_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Normalized ONNX nodes around raised ops.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_NODEBUILDER_H
#define MOEC_LIB_CONVERSION_RAISEMOE_NODEBUILDER_H

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"

#include "mlir/IR/PatternMatch.h"

namespace mlir::moe {

/// Emits normalized nodes, with their types, at the rewriter's insertion point. Where
/// shapes are said, the first dimension (the tokens T) is left out.
struct NodeBuilder {
  RewriterBase &rewriter;
  Location loc;

  NodeBuilder(RewriterBase &rewriter, Location loc) : rewriter(rewriter), loc(loc) {}

  NamedAttribute intAttr(StringRef name, int64_t value);
  NamedAttribute stringAttr(StringRef name, StringRef value);

  Value node(StringRef opType, Type type, ArrayRef<Value> inputs, int64_t version,
             ArrayRef<NamedAttribute> attributes = {});

  /// A vector of int64, or a scalar of a float type.
  Value constant(ArrayRef<int64_t> values);
  Value constant(double value, Type type);

  /// The rows of a matrix, kDynamic when they are not known.
  static int64_t getRows(Value matrix) {
    return cast<RankedTensorType>(matrix.getType()).getDimSize(0);
  }

  /// `value` as [T, shape…]; itself, or what it is a reshape of, when that has this shape.
  Value reshape(Value value, ArrayRef<int64_t> shape);

  /// Elements of another type; itself when it has the type.
  Value castTo(Value value, Type elementType);

  /// A tensor of `type` [T, n] full of a float, with the rows of `like`.
  Value splat(double value, RankedTensorType type, Value like);

  /// `value` [T, 1…] repeated to [T, shape[1], …]; shape[0] is 1.
  Value spread(Value value, ArrayRef<int64_t> shape);

  /// A reduction over dimension `axis`, which goes away.
  Value reduce(StringRef opType, Value value, int64_t axis);
};

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_NODEBUILDER_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Reading of normalized ONNX graphs by what values are, not by how nodes spell it.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_DATAFLOW_H
#define MOEC_LIB_CONVERSION_RAISEMOE_DATAFLOW_H

#include "moec/Dialect/ONNX/IR/ONNX.h"

namespace mlir::moe {

/// Why something was not recognised: the first condition that failed, at which node, and
/// what was expected there. Recognisers that try one form after another keep the reason
/// of the form that got furthest.
struct Refusal {
  Operation *at = nullptr;
  std::string reason;

  /// Notes the reason and returns failure. `value` may be a graph input.
  LogicalResult refuse(Value value, const Twine &reason);
};

/// Emits a remark at the node of the refusal, or at `loc`: `what: node 'n' (Op) reason`. Reasons
/// continue a sentence whose subject is the node.
void emitNotRaised(Location loc, StringRef what, const Refusal &refusal);

/// The node that computes `value`; null when that is not a node of operator `type`.
onnx::NodeOp getNode(Value value, StringRef type);

/// Size of the last dimension, kDynamic when it is not known.
int64_t getLastDim(Value value);

/// The tensor of which `value` is another shape: same elements, same order. Looks through
/// Reshape, Flatten, Squeeze, Unsqueeze, Identity, Transposes that only move dimensions of
/// size 1, and tensor.collapse_shape, expand_shape and cast.
Value stripReshapes(Value value);

/// The same through casts between float types, too, or between integer types; both round
/// or wrap at most. Casts from or to bool, and between float and integer, stay.
Value stripReshapesAndCasts(Value value);

/// True for two values with the same elements in the same order, by `stripReshapes`.
bool haveSameElements(Value lhs, Value rhs);

/// The value that all elements of `value` have, when that is known: a Constant or
/// ConstantOfShape behind reshapes, Expand, Tile, Cast and CastLike. Integers and bools
/// count as numbers.
std::optional<double> getSplat(Value value);

/// The axes of a Reduce, Squeeze or Unsqueeze node (input 1), when constant.
std::optional<SmallVector<int64_t>> getAxes(onnx::NodeOp node);

/// True for a number that stands for -inf: -3.4e38 and the like.
inline bool isLowest(double fill) { return fill <= -1e30; }

/// True for a node whose attribute `axis` is the last dimension of input 0. The axis must
/// have been written out by normalization.
bool isAlongLastDim(onnx::NodeOp node);

/// True for a node that reduces over the last dimension only.
bool reducesLastDim(onnx::NodeOp node);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_DATAFLOW_H

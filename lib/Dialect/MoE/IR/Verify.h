// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the verifiers and builders of the moe ops share.

#ifndef MOEC_LIB_DIALECT_MOE_IR_VERIFY_H
#define MOEC_LIB_DIALECT_MOE_IR_VERIFY_H

#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"

namespace mlir::moe {

inline int64_t dim(Value value, unsigned i) {
  return cast<ShapedType>(value.getType()).getDimSize(i);
}

/// Two sizes agree when they are equal or one is not known.
inline bool agree(int64_t a, int64_t b) {
  return ShapedType::isDynamic(a) || ShapedType::isDynamic(b) || a == b;
}

inline RoutingType routingOf(Value value) { return cast<RoutingType>(value.getType()); }

/// `C<number>: what: found a, expected b`.
inline LogicalResult mismatch(Operation *op, StringRef constraint, const Twine &what, int64_t found,
                              int64_t expected) {
  return op->emitOpError() << constraint << ": " << what << ": found " << found << ", expected "
                           << expected;
}

inline LogicalResult checkDim(Operation *op, StringRef constraint, const Twine &what, int64_t found,
                              int64_t expected) {
  return agree(found, expected) ? success() : mismatch(op, constraint, what, found, expected);
}

inline LogicalResult checkK(Operation *op, int64_t k, int64_t experts) {
  if (k < 1)
    return op->emitOpError() << "C1: k = " << k << " is less than 1";
  if (!ShapedType::isDynamic(experts) && k > experts)
    return op->emitOpError() << "C1: k = " << k << " exceeds the number of experts E = " << experts;
  return success();
}

/// Reified shape [dim 0 of `rows`, dim 1 of `columns`].
inline LogicalResult reifyMatrix(OpBuilder &builder, Location loc, Value rows, Value result,
                                 ReifiedRankedShapedTypeDims &shapes) {
  auto type = cast<RankedTensorType>(result.getType());
  shapes.push_back(
      {tensor::getMixedSize(builder, loc, rows, 0), builder.getIndexAttr(type.getDimSize(1))});
  return success(!type.isDynamicDim(1));
}

/// Checks each (what, found, expected) under one constraint.
struct DimCheck {
  const char *what;
  int64_t found, expected;
};
inline LogicalResult checkDims(Operation *op, StringRef constraint, ArrayRef<DimCheck> checks) {
  for (const DimCheck &check : checks)
    if (failed(checkDim(op, constraint, check.what, check.found, check.expected)))
      return failure();
  return success();
}

/// A vector operand, when there is one, has `expected` elements.
inline LogicalResult checkVector(Operation *op, StringRef constraint, const Twine &what,
                                 Value vector, int64_t expected) {
  return vector ? checkDim(op, constraint, what, dim(vector, 0), expected) : success();
}

/// An optional attribute and what needs it go together.
inline LogicalResult checkGoesWith(Operation *op, StringRef constraint, StringRef what,
                                   bool present, StringRef condition, bool needed) {
  return present == needed ? success()
                           : op->emitOpError() << constraint << ": " << what << " and " << condition
                                               << " go together";
}

/// The first operands of an op in segments, null when absent; it has no others. Returns
/// the op's properties.
template <typename OpT>
typename OpT::Properties &setOperands(OperationState &state, ArrayRef<Value> operands) {
  auto &properties = state.getOrAddProperties<typename OpT::Properties>();
  properties.operandSegmentSizes.fill(0);
  for (auto [i, operand] : llvm::enumerate(operands)) {
    if (!operand)
      continue;
    properties.operandSegmentSizes[i] = 1;
    state.addOperands(operand);
  }
  return properties;
}

} // namespace mlir::moe

#endif // MOEC_LIB_DIALECT_MOE_IR_VERIFY_H

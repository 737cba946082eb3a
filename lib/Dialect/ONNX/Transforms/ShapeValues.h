// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Small integer tensors whose elements are known in part: the arithmetic on shapes in
// ONNX graphs. Elements are in row-major order.

#ifndef MOEC_LIB_DIALECT_ONNX_TRANSFORMS_SHAPEVALUES_H
#define MOEC_LIB_DIALECT_ONNX_TRANSFORMS_SHAPEVALUES_H

#include "moec/Dialect/ONNX/IR/ONNX.h"

#include "llvm/ADT/DenseMap.h"

namespace mlir::moe::onnx {

/// Elements of an integer tensor; nullopt where unknown.
using ShapeElements = SmallVector<std::optional<int64_t>>;

/// Longer tensors are not followed.
inline constexpr int64_t kMaxShapeElements = 512;

class ShapeValues {
public:
  /// The elements of an integer tensor of rank 2 at most and of known sizes; nullopt when
  /// it is no such tensor.
  std::optional<ShapeElements> get(Value value) const;

  /// The elements when all are known.
  std::optional<SmallVector<int64_t>> getKnown(Value value) const;

  /// Computes what is known of the node's result from its inputs. Result types
  /// must have been inferred.
  void visit(NodeOp node);

  /// Forgets a value that is about to be erased.
  void forget(Value value) { known.erase(value); }

private:
  std::optional<ShapeElements> evaluate(NodeOp node) const;
  std::optional<ShapeElements> evaluateVectors(NodeOp node) const;
  std::optional<ShapeElements> evaluateOneHot(NodeOp node) const;
  std::optional<ShapeElements> evaluateGather(NodeOp node) const;
  std::optional<ShapeElements> evaluateSlice(NodeOp node) const;
  std::optional<ShapeElements> evaluateConcat(NodeOp node) const;
  std::optional<ShapeElements> evaluateRange(NodeOp node) const;
  std::optional<ShapeElements> evaluateElementWise(NodeOp node) const;
  std::optional<ShapeElements> evaluateReduction(NodeOp node) const;

  llvm::DenseMap<Value, ShapeElements> known;
};

} // namespace mlir::moe::onnx

#endif // MOEC_LIB_DIALECT_ONNX_TRANSFORMS_SHAPEVALUES_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Types of the results of ONNX nodes.

#ifndef MOEC_LIB_DIALECT_ONNX_TRANSFORMS_INFERTYPES_H
#define MOEC_LIB_DIALECT_ONNX_TRANSFORMS_INFERTYPES_H

#include "ShapeValues.h"

namespace mlir::moe::onnx {

/// Infers the types of the node's results from its inputs and refines the result
/// types with them. Operators that are not in the table are left alone. Emits an
/// error at the node when its inputs cannot go together, a warning when the model
/// states another type than is inferred.
LogicalResult inferTypes(NodeOp node, const ShapeValues &shapes);

/// The type that holds what both say; where they differ `strong` wins and
/// `conflict` is set.
TensorType mergeTypes(TensorType strong, TensorType weak, bool &conflict);

/// The shape of tensors broadcast together; nullopt when a rank is unknown. On
/// sizes that do not go together emits an error at the node and sets `failed`.
std::optional<SmallVector<int64_t>> broadcastShapes(NodeOp node, ArrayRef<Value> inputs,
                                                    bool &failed);

} // namespace mlir::moe::onnx

#endif // MOEC_LIB_DIALECT_ONNX_TRANSFORMS_INFERTYPES_H

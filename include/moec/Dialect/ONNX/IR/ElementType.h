// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The element types of ONNX by their numbers.

#ifndef MOEC_DIALECT_ONNX_IR_ELEMENTTYPE_H
#define MOEC_DIALECT_ONNX_IR_ELEMENTTYPE_H

#include "mlir/IR/Types.h"

#include <optional>

namespace mlir::moe::onnx {

/// The type that `number`, a TensorProto.DataType (onnx-ml.proto), stands for in the
/// onnx dialect; null for 0 (undefined), strings and numbers without a counterpart.
Type getElementType(int64_t number, MLIRContext *context);

/// The reverse; nullopt for a type that stands for none.
std::optional<int64_t> getElementTypeNumber(Type type);

} // namespace mlir::moe::onnx

#endif // MOEC_DIALECT_ONNX_IR_ELEMENTTYPE_H

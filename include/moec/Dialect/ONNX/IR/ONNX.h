// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The onnx dialect: an ONNX graph as it was read, one op per node.

#ifndef MOEC_DIALECT_ONNX_IR_ONNX_H
#define MOEC_DIALECT_ONNX_IR_ONNX_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "moec/Dialect/ONNX/IR/ONNXDialect.h.inc"

#define GET_TYPEDEF_CLASSES
#include "moec/Dialect/ONNX/IR/ONNXTypes.h.inc"

#define GET_OP_CLASSES
#include "moec/Dialect/ONNX/IR/ONNXOps.h.inc"

namespace mlir::moe::onnx {

/// Names of the discardable attributes described in the dialect.
inline constexpr StringLiteral kModelAttr = "onnx.model";
inline constexpr StringLiteral kIRVersionAttr = "onnx.ir_version";
inline constexpr StringLiteral kOpsetsAttr = "onnx.opsets";
inline constexpr StringLiteral kNameAttr = "onnx.name";
inline constexpr StringLiteral kDimsAttr = "onnx.dims";

/// The elements of `value` when it is the result of a "Constant" node with a
/// small `value` tensor, else null.
DenseElementsAttr getConstantValue(Value value);

/// The elements of a constant tensor of any integer type (bool included), sign
/// extended, or zero extended when unsigned; nullopt when `value` is not one.
std::optional<SmallVector<int64_t>> getConstantInts(Value value);

} // namespace mlir::moe::onnx

#endif // MOEC_DIALECT_ONNX_IR_ONNX_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What is known of ONNX's operators before any pass knows them: their names, and
// for most how many inputs and outputs and which attributes they have.

#ifndef MOEC_DIALECT_ONNX_IR_OPERATORS_H
#define MOEC_DIALECT_ONNX_IR_OPERATORS_H

#include "mlir/Support/LLVM.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

namespace mlir::moe::onnx {

/// What holds for every version of an operator that is read. The first
/// `minInputs` inputs must not be absent. Every operator has an output.
struct OperatorSignature {
  unsigned minInputs, maxInputs, maxOutputs;
  /// Names that some version has.
  SmallVector<StringRef, 0> attributes = {};
};

/// The signature of an operator, qualified as in `onnx.node`; null for those that no pass
/// reads, and for MoE and QMoE.
const OperatorSignature *lookupSignature(StringRef opType);

/// What the attribute `name` of the operators with a signature holds, such as "an
/// integer"; empty for another name.
StringRef lookupAttributeKind(StringRef name);

/// True for every operator of ai.onnx, supported or not. Source: ONNX 1.23.
bool isStandardOperator(StringRef opType);

/// What the operator `opType`, qualified as in `onnx.node`, was meant to be: one
/// with nearly the same name, or the same name in another domain. Empty for an
/// operator of ai.onnx, and when no name is near.
StringRef suggestOperator(StringRef opType);

} // namespace mlir::moe::onnx

#endif // MOEC_DIALECT_ONNX_IR_OPERATORS_H

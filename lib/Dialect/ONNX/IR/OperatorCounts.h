// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// How many inputs and outputs the standard operators have.

#ifndef MOEC_LIB_DIALECT_ONNX_IR_OPERATORCOUNTS_H
#define MOEC_LIB_DIALECT_ONNX_IR_OPERATORCOUNTS_H

#include "mlir/Support/LLVM.h"

namespace mlir::moe::onnx {

/// Counts that hold for every version of an operator that is read. The first
/// `minInputs` inputs must not be absent. Every operator has an output.
struct OperatorCounts {
  unsigned minInputs, maxInputs, maxOutputs;
};

/// Null for operators that are not in the table.
const OperatorCounts *lookupCounts(StringRef opType);

} // namespace mlir::moe::onnx

#endif // MOEC_LIB_DIALECT_ONNX_IR_OPERATORCOUNTS_H

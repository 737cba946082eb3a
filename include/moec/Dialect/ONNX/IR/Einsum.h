// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The equation of an Einsum node, such as "bij,bjk->bik".

#ifndef MOEC_DIALECT_ONNX_IR_EINSUM_H
#define MOEC_DIALECT_ONNX_IR_EINSUM_H

#include "mlir/Support/LLVM.h"
#include "llvm/Support/Error.h"

namespace mlir::moe::onnx {

/// Which dimensions of the operands and of the result go together: those with the same
/// label, a number. The dimensions that `...` stands for have the labels 0 …
/// numEllipsis-1, from the left; letters have the others.
struct EinsumLabels {
  SmallVector<SmallVector<int64_t>> operands;
  SmallVector<int64_t> result;
  int64_t numEllipsis = 0;
  int64_t numLabels = 0;
};

/// Reads `equation` for operands of these ranks. Without "->" the result has the
/// dimensions of `...`, then the letters that occur once, in the order of ASCII. The error says
/// what is wrong with the equation. Source: the schema of Einsum, operator set 28.
llvm::Expected<EinsumLabels> parseEinsum(StringRef equation, ArrayRef<int64_t> ranks);

} // namespace mlir::moe::onnx

#endif // MOEC_DIALECT_ONNX_IR_EINSUM_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Passes over the onnx dialect; what each does is in Passes.td.

#ifndef MOEC_DIALECT_ONNX_TRANSFORMS_PASSES_H
#define MOEC_DIALECT_ONNX_TRANSFORMS_PASSES_H

#include "mlir/Pass/Pass.h"

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Dialect/ONNX/Transforms/Passes.h.inc"

} // namespace mlir::moe

#endif // MOEC_DIALECT_ONNX_TRANSFORMS_PASSES_H

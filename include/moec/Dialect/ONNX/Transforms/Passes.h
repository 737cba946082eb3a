// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Passes over the onnx dialect; what each does is in Passes.td.

#ifndef MOEC_DIALECT_ONNX_TRANSFORMS_PASSES_H
#define MOEC_DIALECT_ONNX_TRANSFORMS_PASSES_H

#include "mlir/Pass/Pass.h"

#include <cstdint>
#include <optional>

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Dialect/ONNX/Transforms/Passes.h.inc"

namespace onnx {

/// The version of the canonical form of an operator, qualified as in `onnx.node`: what a
/// node of this version means is the same in every later one that is read. nullopt for an
/// operator without a canonical form.
std::optional<int64_t> getCanonicalVersion(StringRef opType);

} // namespace onnx
} // namespace mlir::moe

#endif // MOEC_DIALECT_ONNX_TRANSFORMS_PASSES_H

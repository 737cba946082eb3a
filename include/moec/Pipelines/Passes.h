// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Small passes that only the pipelines use.

#ifndef MOEC_PIPELINES_PASSES_H
#define MOEC_PIPELINES_PASSES_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Pipelines/Passes.h.inc"

} // namespace mlir::moe

#endif // MOEC_PIPELINES_PASSES_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One workspace for all temporaries of an entry.

#ifndef MOEC_CONVERSION_PLANMEMORY_PLANMEMORY_H
#define MOEC_CONVERSION_PLANMEMORY_PLANMEMORY_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

/// On an entry whose temporaries have static sizes: the bytes that are alive together at most.
constexpr llvm::StringLiteral kLiveBytesAttr = "moe.live_bytes";

/// Makes a bufferized entry write its results into the outputs at once, where it computes them in
/// temporaries that are copied at the end.
void writeResultsInPlace(func::FuncOp entry);

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/PlanMemory/PlanMemory.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_PLANMEMORY_PLANMEMORY_H

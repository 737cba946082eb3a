// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Parallel loops through the one hook of the runtime.

#ifndef MOEC_CONVERSION_PARALLELTORUNTIME_PARALLELTORUNTIME_H
#define MOEC_CONVERSION_PARALLELTORUNTIME_PARALLELTORUNTIME_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/ParallelToRuntime/ParallelToRuntime.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_PARALLELTORUNTIME_PARALLELTORUNTIME_H

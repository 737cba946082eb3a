// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Linalg operations on memory as parallel loops over vectors: `--linalg-to-vector`.

#ifndef MOEC_CONVERSION_LINALGTOVECTOR_LINALGTOVECTOR_H
#define MOEC_CONVERSION_LINALGTOVECTOR_LINALGTOVECTOR_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Pass/Pass.h"

#include <memory>

namespace mlir::moe {

#define GEN_PASS_DECL_LINALGTOVECTOR
#include "moec/Conversion/LinalgToVector/LinalgToVector.h.inc"

#define GEN_PASS_REGISTRATION_LINALGTOVECTOR
#include "moec/Conversion/LinalgToVector/LinalgToVector.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_LINALGTOVECTOR_LINALGTOVECTOR_H

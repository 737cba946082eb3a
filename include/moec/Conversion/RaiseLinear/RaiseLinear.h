// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products with constant matrices in ONNX graphs as moe.linear: `--raise-linear`.

#ifndef MOEC_CONVERSION_RAISELINEAR_RAISELINEAR_H
#define MOEC_CONVERSION_RAISELINEAR_RAISELINEAR_H

#include "mlir/Pass/Pass.h"

#include <memory>

namespace mlir::moe {

#define GEN_PASS_DECL_RAISELINEAR
#include "moec/Conversion/RaiseLinear/RaiseLinear.h.inc"

#define GEN_PASS_REGISTRATION_RAISELINEAR
#include "moec/Conversion/RaiseLinear/RaiseLinear.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_RAISELINEAR_RAISELINEAR_H

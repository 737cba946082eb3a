// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Vectorised CPU kernels for the moe ops.

#ifndef MOEC_CONVERSION_MOETOCPU_MOETOCPU_H
#define MOEC_CONVERSION_MOETOCPU_MOETOCPU_H

#include "mlir/Pass/Pass.h"

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/MoEToCPU/MoEToCPU.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_MOETOCPU_MOETOCPU_H

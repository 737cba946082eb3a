// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// MoE operations as nodes of an ONNX graph: `--moe-to-onnx`.

#ifndef MOEC_CONVERSION_MOETOONNX_MOETOONNX_H
#define MOEC_CONVERSION_MOETOONNX_MOETOONNX_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

#include <memory>

namespace mlir::moe {

#define GEN_PASS_DECL_MOETOONNX
#include "moec/Conversion/MoEToONNX/MoEToONNX.h.inc"

#define GEN_PASS_REGISTRATION_MOETOONNX
#include "moec/Conversion/MoEToONNX/MoEToONNX.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_MOETOONNX_MOETOONNX_H

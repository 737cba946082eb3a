// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.experts and moe.shared as nodes.

#ifndef MOEC_LIB_CONVERSION_MOETOONNX_EXPERTS_H
#define MOEC_LIB_CONVERSION_MOETOONNX_EXPERTS_H

#include "Routing.h"
#include "Weights.h"

namespace mlir::moe {

/// `experts` as com.microsoft.MoE or com.microsoft.QMoE. A null value when these cannot
/// say it; `reason` then tells why. Fails after an error.
FailureOr<Value> writeContribNode(OpBuilder &builder, const IRMapping &written,
                                  RoutingWriter &routings, ExpertsOp experts, std::string &reason);

/// `experts` as standard operators: each token's matrices are gathered.
FailureOr<Value> writeExperts(OpBuilder &builder, const IRMapping &written, RoutingWriter &routings,
                              ExpertsOp experts);

/// `shared` as standard operators.
FailureOr<Value> writeShared(OpBuilder &builder, const IRMapping &written, SharedOp shared);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_MOETOONNX_EXPERTS_H

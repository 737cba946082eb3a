// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEOPS_TD
#define MOEC_DIALECT_MOE_IR_MOEOPS_TD

include "moec/Dialect/MoE/IR/MoEAuxiliaryOps.td"
include "moec/Dialect/MoE/IR/MoEExpertOps.td"
include "moec/Dialect/MoE/IR/MoERoutingOps.td"
include "moec/Dialect/MoE/IR/MoERuntimeOps.td"
include "moec/Dialect/MoE/IR/MoEWeightOps.td"

#endif

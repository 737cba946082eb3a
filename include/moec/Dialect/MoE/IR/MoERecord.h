// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operations of the moe dialect that record routings.

#ifndef MOEC_DIALECT_MOE_IR_MOERECORD_H
#define MOEC_DIALECT_MOE_IR_MOERECORD_H

#include "moec/Dialect/MoE/IR/MoE.h"

#define GET_OP_CLASSES
#include "moec/Dialect/MoE/IR/MoERecordOps.h.inc"

#endif // MOEC_DIALECT_MOE_IR_MOERECORD_H

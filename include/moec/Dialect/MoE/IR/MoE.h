// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The moe dialect: types, attributes and operations.

#ifndef MOEC_DIALECT_MOE_IR_MOE_H
#define MOEC_DIALECT_MOE_IR_MOE_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/LLVMIR/LLVMTypes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "moec/Dialect/MoE/IR/CapacityTerm.h"

#include "moec/Dialect/MoE/IR/MoEDialect.h.inc"
#include "moec/Dialect/MoE/IR/MoEEnums.h.inc"
#include "moec/Dialect/MoE/IR/MoEAttrInterfaces.h.inc"

#define GET_ATTRDEF_CLASSES
#include "moec/Dialect/MoE/IR/MoEAttributes.h.inc"

#define GET_TYPEDEF_CLASSES
#include "moec/Dialect/MoE/IR/MoETypes.h.inc"

#define GET_OP_CLASSES
#include "moec/Dialect/MoE/IR/MoEOps.h.inc"

namespace mlir::moe {

/// Consecutive experts of one kind.
struct ExpertRange {
  ExpertKind kind;
  /// Experts begin … end-1.
  int64_t begin, end;
  /// Where the data of expert `begin` is in the weights (ffn) or constants (constant).
  int64_t data;
};

/// What each expert of a routing over `experts` experts computes; `kinds` is the attribute
/// of `moe.expert_ffn` and `moe.experts`, null when all are feed-forward networks.
SmallVector<ExpertRange> expertRanges(ArrayAttr kinds, int64_t experts);

/// Number of experts of `kind`.
int64_t countExperts(ArrayAttr kinds, int64_t experts, ExpertKind kind);

} // namespace mlir::moe

#endif // MOEC_DIALECT_MOE_IR_MOE_H

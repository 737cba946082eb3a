// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The moe dialect on memory to LLVM, and the C interface of entries.

#ifndef MOEC_CONVERSION_MOETOLLVM_MOETOLLVM_H
#define MOEC_CONVERSION_MOETOLLVM_MOETOLLVM_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir {
class LLVMTypeConverter;
class OpBuilder;
namespace LLVM {
class GlobalOp;
} // namespace LLVM
} // namespace mlir

namespace mlir::moe {

/// moe.weight_buffer, moe.num_workers, moe.check and moe.profile_mark.
void populateMoEToLLVMPatterns(const LLVMTypeConverter &converter, RewritePatternSet &patterns);

class CheckOp;
/// A global with the check's message, shared by all with the same one.
LLVM::GlobalOp getCheckMessage(CheckOp op, OpBuilder &builder);

/// Adds the C functions of `entry` and makes it and its companions private; fails when
/// its shapes or workspace function is missing.
LogicalResult makeEntryWrappers(func::FuncOp entry);

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/MoEToLLVM/MoEToLLVM.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_MOETOLLVM_MOETOLLVM_H

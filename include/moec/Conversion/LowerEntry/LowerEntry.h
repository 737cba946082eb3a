// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Entry functions: from tensors to caller-provided memory.

#ifndef MOEC_CONVERSION_LOWERENTRY_LOWERENTRY_H
#define MOEC_CONVERSION_LOWERENTRY_LOWERENTRY_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace mlir::moe {

/// Attributes of an entry function and of its arguments.
constexpr llvm::StringLiteral kEntryAttr = "moe.entry";
constexpr llvm::StringLiteral kOutputAttr = "moe.output";
constexpr llvm::StringLiteral kWorkspaceAttr = "moe.workspace";
constexpr llvm::StringLiteral kWeightsAttr = "moe.weights";
constexpr llvm::StringLiteral kCallAttr = "moe.call";
/// On a result, then the output argument: the number of the input whose rows it begins with,
/// as a key/value cache does. Both have any strides but the last, which is 1; when both
/// begin at the same address, these rows are there already and are not copied.
constexpr llvm::StringLiteral kExtendsAttr = "moe.extends";
/// On a moe.check: the call ends at once when it fails.
constexpr llvm::StringLiteral kEndsCallAttr = "moe.ends_call";
/// Suffixes of the functions that accompany an entry.
constexpr llvm::StringLiteral kShapesSuffix = "_shapes";
constexpr llvm::StringLiteral kChecksSuffix = "_checks";
constexpr llvm::StringLiteral kWorkspaceSuffix = "_workspace";
/// On a checks function: what to say when a result is false.
constexpr llvm::StringLiteral kMessagesAttr = "moe.messages";

/// The input that result `result` of an entry on tensors begins with: the result is that
/// argument and one more tensor behind it along an axis. nullopt for another result.
std::optional<unsigned> findExtendedInput(func::FuncOp entry, unsigned result);

/// The argument of `func` that carries the unit attribute `name`, or null.
Value getMarkedArgument(func::FuncOp func, StringRef name);

/// Number of leading arguments of an entry that are inputs, and of those after
/// them that are outputs.
unsigned getNumInputs(func::FuncOp entry);
unsigned getNumOutputs(func::FuncOp entry);

/// Patterns that express the dimensions of tensors and memrefs by those of the
/// values they are computed from, through buffers too, and that fold elements of
/// small tensors computed elementwise (shape tensors).
void populateResolveShapesPatterns(RewritePatternSet &patterns);

/// Makes `moe.load_weight` bufferize to `moe.weight_buffer`.
void registerWeightBufferization(DialectRegistry &registry);

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/LowerEntry/LowerEntry.h.inc"

} // namespace mlir::moe

#endif // MOEC_CONVERSION_LOWERENTRY_LOWERENTRY_H

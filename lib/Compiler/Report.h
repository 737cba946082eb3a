// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the report says about the program between two phases.

#ifndef MOEC_LIB_COMPILER_REPORT_H
#define MOEC_LIB_COMPILER_REPORT_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/JSON.h"
#include <map>
#include <string>
#include <utility>

namespace mlir::moe {

/// Number of nodes per operator of the imported graph.
llvm::json::Object countOperators(ModuleOp module);

/// Writes the module attribute `moe.blocks`: a dictionary for each block of
/// experts, {E, k, H, I, dtype, routing, activation, weights, nodes, source}.
void recordBlocks(ModuleOp module);
/// A list that is an attribute of the module, as JSON; empty when there is none.
llvm::json::Array listToJSON(ModuleOp module, llvm::StringRef attribute);

/// JSON has neither infinity nor NaN.
llvm::json::Value finiteOrNull(double number);

/// The attribute values that the driver writes, as JSON.
llvm::json::Value attributeToJSON(Attribute attribute);

/// The nodes and MoE ops of a module: (operator, node name) -> number.
using Operations = std::map<std::pair<std::string, std::string>, int64_t>;
Operations collectOperations(ModuleOp module);
/// Appends {"op", "node", "lowering"} for what `before` had and `after` lacks.
void appendLowerings(const Operations &before, const Operations &after, llvm::StringRef lowering,
                     llvm::json::Array &list);
/// Adds the same to the module attribute `moe.lowerings`, as a number for each
/// operator: {op, lowering, count}.
void recordLowerings(ModuleOp module, const Operations &before, const Operations &after,
                     llvm::StringRef lowering);

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_REPORT_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Names, types and symbolic sizes of the entries' tensors. They are written down
// as the module attribute `moe.interface` while entries still are functions on
// tensors, because nothing of them is left in the LLVM dialect:
//
//   [{name = "main", symbols = ["tokens"],
//     inputs = [{name = "x", type = tensor<?x128xf32>, dims = ["tokens", "128"]}],
//     outputs = […], workspace = "(4*tokens + 63)//64*64"}]
//
// `workspace` comes later, when memory is planned; so does `live_bytes = 4096 : index` where all
// sizes are static: what is alive together at most.

#ifndef MOEC_LIB_COMPILER_INTERFACE_H
#define MOEC_LIB_COMPILER_INTERFACE_H

#include "mlir/IR/BuiltinOps.h"
#include "moec/Target/CPU/ModelDescription.h"
#include "llvm/Support/JSON.h"

namespace mlir::moe {

/// Writes the attribute from the public functions of `module`. An unnamed
/// dimension of an input becomes a symbol of its own, "INPUT.AXIS".
LogicalResult recordInterface(ModuleOp module);

/// Adds to the attribute the bytes of workspace that each entry needs, from the
/// `@ENTRY_workspace` functions of `--plan-memory`: an expression of the entry's
/// symbols and of `workers`. Left out where there is no such expression. And the bytes that are
/// alive together at most.
LogicalResult recordWorkspace(ModuleOp module);

/// Reads the attribute; fails with an error when it is missing.
FailureOr<std::vector<EntryDescription>> readInterface(ModuleOp module);

/// `workspace` and `live_bytes` of an entry.
llvm::json::Object workspaceToJSON(const EntryDescription &entry);

/// "entries" of the info JSON.
llvm::json::Array entriesToJSON(llvm::ArrayRef<EntryDescription> entries);

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_INTERFACE_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From the LLVM dialect to the object file of a model.

#ifndef MOEC_TARGET_CPU_OBJECTFILE_H
#define MOEC_TARGET_CPU_OBJECTFILE_H

#include "mlir/IR/BuiltinOps.h"
#include "moec/Target/CPU/Linker.h"
#include "moec/Target/CPU/Machine.h"
#include "moec/Target/CPU/ModelDescription.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/raw_ostream.h"
#include <memory>

namespace mlir::moe {

/// Translates a module of the LLVM dialect, whose context must have the
/// translations registered, for `machine`. `moe.weight` symbols, which no code
/// refers to any more, are left out. Null after an error was emitted.
std::unique_ptr<llvm::Module> translateForMachine(ModuleOp module, llvm::LLVMContext &context,
                                                  const Machine &machine);

/// `machine` without the features that the module cannot make use of: tiles
/// (AMX) are only used where the program says so.
Machine getUsedMachine(const llvm::Module &module, const Machine &machine);

/// Adds the tables of a level; everything else gets hidden or internal linkage. The entry
/// functions `moec_entry_ENTRY_{run,workspace,shapes}` must be in the module.
llvm::Error addLevelDescription(llvm::Module &module, const LevelDescription &description,
                                const Machine &used);

/// Adds the model's tables, which refer to those of the levels, in this or other objects of
/// the library, `NAME_moec` and its alias `moec_library`.
void addModelDescription(llvm::Module &module, const ModelDescription &description);

/// Runs LLVM's pipeline of that level (0 to 3), instruments the code for the
/// sanitizer, and writes the object file.
llvm::Error emitObject(llvm::Module &module, const Machine &machine, unsigned level,
                       Sanitizer sanitizer, llvm::raw_pwrite_stream &out);

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_OBJECTFILE_H

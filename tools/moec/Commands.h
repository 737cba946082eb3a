// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What moec does beside compiling: `moec doctor`, `moec inspect`, `moec completion`.

#ifndef MOEC_TOOLS_MOEC_COMMANDS_H
#define MOEC_TOOLS_MOEC_COMMANDS_H

#include "moec/Compiler/Compiler.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/raw_ostream.h"

namespace mlir::moe {

/// The words after the command's name.
using Words = llvm::ArrayRef<const char *>;

struct Command {
  llvm::StringRef name, arguments, help;
  /// Its words that are known beforehand, for completion: flags, names.
  std::vector<llvm::StringRef> words;
  bool takesPackage;
  /// Does it, writes to stdout. `error` is what to say when the status is not Success;
  /// empty when all was said.
  CompileStatus (*run)(Words words, std::string &error);
};

llvm::ArrayRef<Command> getCommands();
/// Null when there is none of that name.
const Command *findCommand(llvm::StringRef name);

/// The shells whose completion can be written.
llvm::ArrayRef<llvm::StringRef> getShells();
/// Prints the script that completes moec's command line in that shell, made from the
/// tables of commands and options.
void printCompletion(llvm::raw_ostream &os, llvm::StringRef shell);

} // namespace mlir::moe

#endif // MOEC_TOOLS_MOEC_COMMANDS_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The command line of moec.

#ifndef MOEC_TOOLS_MOEC_OPTIONS_H
#define MOEC_TOOLS_MOEC_OPTIONS_H

#include "moec/Compiler/Options.h"

namespace mlir::moe {

/// What a command line asks for.
enum class Request { Compile, Help, Version };

/// Reads the words after the program's name: options as in the table (`--cpu=X`,
/// `--cpu X`, one dash or two, `-O3`), one input, `--` before an input that starts
/// with a dash. The error says which word is wrong.
llvm::Expected<Request> parseCommandLine(llvm::ArrayRef<const char *> words,
                                         CompileOptions &options);

void printHelp(llvm::raw_ostream &os);

} // namespace mlir::moe

#endif // MOEC_TOOLS_MOEC_OPTIONS_H

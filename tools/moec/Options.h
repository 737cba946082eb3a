// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The command line of moec.

#ifndef MOEC_TOOLS_MOEC_OPTIONS_H
#define MOEC_TOOLS_MOEC_OPTIONS_H

#include "moec/Compiler/Compiler.h"

namespace mlir::moe {

/// Fills `options` from the command line; false after an error. Prints help or the
/// version, or what is wrong with an option's syntax, and exits.
bool parseOptions(int argc, char **argv, CompileOptions &options);

} // namespace mlir::moe

#endif // MOEC_TOOLS_MOEC_OPTIONS_H

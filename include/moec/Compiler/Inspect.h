// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What is in a package, for people: `moec inspect`.

#ifndef MOEC_COMPILER_INSPECT_H
#define MOEC_COMPILER_INSPECT_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>

namespace mlir::moe {

enum class InspectFormat { Text, JSON };

/// Describes the package at `path`, a folder NAME.moec or a file in it: a page of what
/// its NAME.json says, or that JSON itself, indented. Nothing of the package is
/// loaded or run, so it may be one for another machine. The error says what is missing.
llvm::Expected<std::string> inspectPackage(llvm::StringRef path, InspectFormat format);

} // namespace mlir::moe

#endif // MOEC_COMPILER_INSPECT_H

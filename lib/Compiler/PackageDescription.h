// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// NAME.json of a package.

#ifndef MOEC_LIB_COMPILER_PACKAGEDESCRIPTION_H
#define MOEC_LIB_COMPILER_PACKAGEDESCRIPTION_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"
#include <string>

namespace mlir::moe {

/// The one NAME.json of the package at `path`, a folder or a file in it. Its name need not be the
/// folder's.
llvm::Expected<std::string> findDescription(llvm::StringRef path);
/// Its content, an object with all that a package says.
llvm::Expected<llvm::json::Value> readDescription(llvm::StringRef file);

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_PACKAGEDESCRIPTION_H

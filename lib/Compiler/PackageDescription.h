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

struct PackageDescription {
  std::string file;       ///< NAME.json, whose name need not be the folder's
  llvm::json::Value root; ///< an object with all that a package says
};

/// The one description of the package at `path`, a folder or a file in it.
llvm::Expected<PackageDescription> readDescription(llvm::StringRef path);

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_PACKAGEDESCRIPTION_H

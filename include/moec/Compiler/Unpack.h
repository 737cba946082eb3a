// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From a package back to the weights of its model: `moec unpack`.

#ifndef MOEC_COMPILER_UNPACK_H
#define MOEC_COMPILER_UNPACK_H

#include "moec/Compiler/Compiler.h"
#include "llvm/ADT/StringRef.h"
#include <string>

namespace mlir::moe {

/// Writes the tensors of the model that the package at `path` (a folder NAME.moec or a file in
/// it) was compiled from to the safetensors file `output`, bit for bit and under their names; it
/// appears when it is complete. Constants of at most 4 KiB are in the library's code and not
/// among them. `message` is the error, or one line about what was written. BadModel: there is no
/// such package, or it is damaged; Unsupported: weights were converted; Output.
CompileStatus unpackPackage(llvm::StringRef path, llvm::StringRef output, std::string &message);

} // namespace mlir::moe

#endif // MOEC_COMPILER_UNPACK_H

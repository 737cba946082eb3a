// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// ONNX models as modules of the onnx dialect.

#ifndef MOEC_FRONTEND_ONNX_IMPORTER_H
#define MOEC_FRONTEND_ONNX_IMPORTER_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"

#include "llvm/Support/MemoryBuffer.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mlir::moe {

struct ImportOptions {
  /// Sizes for symbolic dimensions, by symbol. Expressions of these symbols are
  /// evaluated too.
  std::vector<std::pair<std::string, int64_t>> dims;
  /// Values of the graph that become outputs, after the model's own.
  std::vector<std::string> keep;
  /// Set when an option, not the model, is at fault: a name that the model lacks.
  bool *badOption = nullptr;
};

/// Imports the ONNX model at `path`: every node becomes an `onnx.node`, local
/// functions are inlined, large tensors become `moe.weight`s whose bytes are not
/// loaded. Loads the dialects that it needs. On bad input emits one error,
/// located in the model file (line = index of the node), and returns null.
OwningOpRef<ModuleOp> importONNX(StringRef path, MLIRContext *context,
                                 const ImportOptions &options = {});

/// True for a file name that ends in ".onnx".
bool isONNXFileName(StringRef path);

/// An error for text that MLIR's parser would not survive: nested more than 1000 levels
/// deep, or with an array attribute of index elements (MLIR 22).
LogicalResult checkText(StringRef text, StringRef path, MLIRContext *context);

/// Imports the file when its name ends in ".onnx", else parses it as MLIR
/// (text or bytecode). Null on errors, which are emitted.
OwningOpRef<ModuleOp> loadModule(StringRef path, MLIRContext *context,
                                 const ImportOptions &options = {});

/// The imported model as MLIR text with its locations: what a tool that reads
/// MLIR from a buffer can be given instead of a model. Errors are printed to
/// stderr; null then.
std::unique_ptr<llvm::MemoryBuffer> importONNXAsText(StringRef path,
                                                     const DialectRegistry &registry,
                                                     const ImportOptions &options = {});

/// Parses `name=size` as on a command line; nullopt when it is not of that form.
std::optional<std::pair<std::string, int64_t>> parseDimOption(StringRef text);

} // namespace mlir::moe

#endif // MOEC_FRONTEND_ONNX_IMPORTER_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the fuzz targets share. A broken promise of the library aborts, as a
// sanitizer's finding does.

#ifndef MOEC_TEST_FUZZ_FUZZ_H
#define MOEC_TEST_FUZZ_FUZZ_H

#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/IR/BuiltinOps.h"

#include <string>

namespace mlir::moe::fuzz {

/// Aborts with `promise` on stderr unless it holds.
void require(bool holds, const llvm::Twine &promise);

/// Counts the errors that are reported while it lives; nothing is printed.
class Errors {
public:
  explicit Errors(MLIRContext &context);
  /// A success comes without an error, a failure with one or more.
  void check(bool succeeded, llvm::StringRef what);
  unsigned count() const { return errors; }

private:
  ScopedDiagnosticHandler handler;
  unsigned errors = 0;
};

/// A folder of this process with `model.onnx` and what it may refer to:
/// `weights.bin` (64 MiB of zeros), `link.bin` (a link to it), `out` and
/// `outside.bin` (links out of the folder). Removed at exit.
class ModelFolder {
public:
  ModelFolder();
  ~ModelFolder();
  /// Path of model.onnx, which now holds these bytes.
  const std::string &write(llvm::StringRef bytes);
  /// Requires that the file, named as in the model, lies inside the folder.
  void checkInside(llvm::StringRef file) const;

private:
  std::string root, folder, model;
};

/// Requires that the module can be printed, parsed and printed again alike.
void checkRoundTrip(ModuleOp module);

} // namespace mlir::moe::fuzz

#endif // MOEC_TEST_FUZZ_FUZZ_H

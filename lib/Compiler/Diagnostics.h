// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Diagnostics of MLIR as those of the compiler.

#ifndef MOEC_LIB_COMPILER_DIAGNOSTICS_H
#define MOEC_LIB_COMPILER_DIAGNOSTICS_H

#include "mlir/IR/Diagnostics.h"
#include "moec/Compiler/Compiler.h"
#include "llvm/ADT/StringSet.h"

namespace mlir::moe {

/// Hands each diagnostic on once.
class DiagnosticHandler : public ScopedDiagnosticHandler {
public:
  DiagnosticHandler(MLIRContext *context, const CompileOptions &options);
  bool hadError() const { return errors; }
  /// True when an error was about something that moec does not support.
  bool hadUnsupported() const { return unsupported; }

private:
  void handle(Diagnostic &diagnostic);

  const CompileOptions &options;
  bool errors = false, unsupported = false;
  llvm::StringSet<> seen;
};

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_DIAGNOSTICS_H

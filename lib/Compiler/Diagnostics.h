// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Diagnostics as users see them.

#ifndef MOEC_LIB_COMPILER_DIAGNOSTICS_H
#define MOEC_LIB_COMPILER_DIAGNOSTICS_H

#include "mlir/IR/Diagnostics.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/raw_ostream.h"

namespace mlir::moe {

/// Prints each diagnostic once, as `file:line:column: error: …`, without IR.
class DiagnosticPrinter : public ScopedDiagnosticHandler {
public:
  DiagnosticPrinter(MLIRContext *context, llvm::raw_ostream &os, bool remarks);
  bool hadError() const { return errors; }
  /// True when an error was about something that moec does not support.
  bool hadUnsupported() const { return unsupported; }

private:
  void print(Diagnostic &diagnostic);

  llvm::raw_ostream &os;
  bool remarks;
  bool errors = false, unsupported = false;
  llvm::StringSet<> seen;
};

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_DIAGNOSTICS_H

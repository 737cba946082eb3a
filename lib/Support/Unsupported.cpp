// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Support/Unsupported.h"
#include "moec/Support/NodeLocation.h"

#include "mlir/IR/Operation.h"

using namespace mlir;

/// Metadata of a diagnostic travels with it and is not printed.
static constexpr llvm::StringLiteral kUnsupported = "moec.unsupported";

InFlightDiagnostic mlir::moe::emitUnsupported(Location location) {
  InFlightDiagnostic error = mlir::emitError(location);
  error.getUnderlyingDiagnostic()->getMetadata().push_back(DiagnosticArgument(kUnsupported));
  return error;
}

InFlightDiagnostic mlir::moe::emitUnsupported(Operation *op) {
  InFlightDiagnostic error = emitUnsupported(op->getLoc());
  Location location = op->getLoc();
  StringRef opType = getNodeOperator(location), opName = op->getName().getStringRef();
  if (getNodeName(location).empty())
    error << "'" << opName << "' op ";
  else
    error << describeNode(location, opType.empty() ? opName : opType) << ": ";
  return error;
}

bool mlir::moe::isUnsupported(Diagnostic &diagnostic) {
  return llvm::any_of(diagnostic.getMetadata(), [](const DiagnosticArgument &argument) {
    return argument.getKind() == DiagnosticArgument::DiagnosticArgumentKind::String &&
           argument.getAsString() == kUnsupported;
  });
}

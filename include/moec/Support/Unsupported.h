// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Errors that blame moec, not the model.

#ifndef MOEC_SUPPORT_UNSUPPORTED_H
#define MOEC_SUPPORT_UNSUPPORTED_H

#include "mlir/IR/Diagnostics.h"

namespace mlir::moe {

/// An error about a model that is valid but uses something that moec does not
/// support. A plain error about a model says that it is not valid. The driver
/// ends with another exit status for each.
InFlightDiagnostic emitUnsupported(Location location);

/// The same at an operation; begins with the node that it came from, or with the
/// operation where there is no node.
InFlightDiagnostic emitUnsupported(Operation *op);

/// True for an error of `emitUnsupported`.
bool isUnsupported(Diagnostic &diagnostic);

} // namespace mlir::moe

#endif // MOEC_SUPPORT_UNSUPPORTED_H

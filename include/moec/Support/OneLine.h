// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Text for a terminal.

#ifndef MOEC_SUPPORT_ONELINE_H
#define MOEC_SUPPORT_ONELINE_H

#include "llvm/ADT/StringRef.h"
#include <string>

namespace mlir::moe {

/// `text` with control characters as "\x0A": a name in a message may hold any, and a
/// message is one line.
std::string escapeControls(llvm::StringRef text);

} // namespace mlir::moe

#endif // MOEC_SUPPORT_ONELINE_H

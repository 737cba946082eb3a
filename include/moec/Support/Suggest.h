// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Suggestions for misspelt names.

#ifndef MOEC_SUPPORT_SUGGEST_H
#define MOEC_SUPPORT_SUGGEST_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include <string>

namespace mlir::moe {

/// The candidate that `name` is most likely a misspelling of, whatever the case of
/// letters; the first of equally near ones. "" when none is near.
llvm::StringRef findNearestName(llvm::StringRef name, llvm::ArrayRef<llvm::StringRef> candidates);

/// "; did you mean 'NAME'?", or "" when no candidate is near.
std::string suggestName(llvm::StringRef name, llvm::ArrayRef<llvm::StringRef> candidates);

} // namespace mlir::moe

#endif // MOEC_SUPPORT_SUGGEST_H

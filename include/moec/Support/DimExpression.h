// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Dimensions written as text: symbols and expressions of them.

#ifndef MOEC_SUPPORT_DIMEXPRESSION_H
#define MOEC_SUPPORT_DIMEXPRESSION_H

#include "llvm/ADT/StringMap.h"

#include <optional>
#include <string>

namespace mlir::moe {

/// The value of a dimension such as `2*batch*seq`, `past + seq`,
/// `Min(8, seq)` or `(a + b)//2` when all its symbols are in `sizes`; nullopt
/// when one is not, or when the text is no such expression.
std::optional<int64_t> evaluateDim(llvm::StringRef text, const llvm::StringMap<int64_t> &sizes);

/// The text with the symbols in `sizes` replaced by their sizes.
std::string substituteDims(llvm::StringRef text, const llvm::StringMap<int64_t> &sizes);

/// True for text that is one symbol and nothing else: "seq", but not "2*seq".
bool isDimSymbol(llvm::StringRef text);

/// Calls `visit` for each symbol of the text; function names are none.
void visitSymbols(llvm::StringRef text, llvm::function_ref<void(llvm::StringRef)> visit);

} // namespace mlir::moe

#endif // MOEC_SUPPORT_DIMEXPRESSION_H

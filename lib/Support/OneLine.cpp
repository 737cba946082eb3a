// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Support/OneLine.h"
#include "llvm/ADT/StringExtras.h"

std::string mlir::moe::escapeControls(llvm::StringRef text) {
  std::string line;
  for (char c : text) {
    // The bytes of UTF-8 beyond ASCII are no control characters.
    if (llvm::isPrint(c) || (c & 0x80))
      line += c;
    else
      line += "\\x" + llvm::utohexstr(uint8_t(c), /*LowerCase=*/false, /*Width=*/2);
  }
  return line;
}

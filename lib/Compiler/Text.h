// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Numbers as people read them.

#ifndef MOEC_LIB_COMPILER_TEXT_H
#define MOEC_LIB_COMPILER_TEXT_H

#include "llvm/Support/FormatVariadic.h"
#include <cstdint>
#include <string>

namespace mlir::moe {

/// "831 B", "1.6 MB": in powers of 1000.
inline std::string formatBytes(uint64_t bytes) {
  static const char *const units[] = {"B", "KB", "MB", "GB", "TB"};
  double value = bytes;
  unsigned unit = 0;
  for (; value >= 1000 && unit + 1 < std::size(units); ++unit)
    value /= 1000;
  return llvm::formatv(unit == 0 ? "{0:f0} {1}" : "{0:f1} {1}", value, units[unit]);
}

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_TEXT_H

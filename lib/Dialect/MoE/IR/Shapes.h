// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Shapes that were read as text: anything can stand there.

#ifndef MOEC_LIB_DIALECT_MOE_IR_SHAPES_H
#define MOEC_LIB_DIALECT_MOE_IR_SHAPES_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>
#include <cstdint>

namespace mlir::moe {

/// Most elements that a weight can have: their bits are counted in 64 bits.
inline constexpr int64_t kMaxElements = INT64_MAX / 128;

/// True for a static shape of at most kMaxElements elements. Dimensions of size 0
/// count as 1, so that each dimension is that small too.
inline bool isCountable(llvm::ArrayRef<int64_t> shape) {
  int64_t elements = 1;
  return llvm::all_of(shape, [&](int64_t dim) {
    return dim >= 0 && !llvm::MulOverflow(elements, std::max<int64_t>(dim, 1), elements) &&
           elements <= kMaxElements;
  });
}

/// Bytes of `count` codes of `bits` bits; -1 when there is no such number of codes.
inline int64_t getPackedBytes(int64_t count, int64_t bits) {
  return count < 0 || count > kMaxElements ? -1 : (count * bits + 7) / 8;
}

} // namespace mlir::moe

#endif // MOEC_LIB_DIALECT_MOE_IR_SHAPES_H

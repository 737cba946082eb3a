// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One factor of a capacity expression; see #moe.capacity.

#ifndef MOEC_DIALECT_MOE_IR_CAPACITYTERM_H
#define MOEC_DIALECT_MOE_IR_CAPACITYTERM_H

#include "llvm/ADT/Hashing.h"
#include "llvm/ADT/bit.h"

namespace mlir::moe {

struct CapacityTerm {
  enum Kind { Number, Tokens, Experts, K };

  /// The expression so far is divided by this factor, not multiplied.
  bool divides = false;
  Kind kind = Number;
  /// Only for Number; positive and finite.
  double number = 0;

  bool operator==(const CapacityTerm &other) const {
    return divides == other.divides && kind == other.kind && number == other.number;
  }
};

inline llvm::hash_code hash_value(const CapacityTerm &term) {
  return llvm::hash_combine(term.divides, int(term.kind), llvm::bit_cast<uint64_t>(term.number));
}

} // namespace mlir::moe

#endif // MOEC_DIALECT_MOE_IR_CAPACITYTERM_H

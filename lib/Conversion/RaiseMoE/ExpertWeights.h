// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The weights of all experts as the operands of moe.expert_ffn.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_EXPERTWEIGHTS_H
#define MOEC_LIB_CONVERSION_RAISEMOE_EXPERTWEIGHTS_H

#include "ExpertFunction.h"

#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/SymbolTable.h"

namespace mlir::moe {

/// One tensor [E, …] that the model has whole, or as slices of others.
struct ExpertBank {
  struct Part {
    Value source;
    /// Index along dimension 0, or -1 for all of the source.
    int64_t index = -1;
  };
  /// Shape [E, …]; empty when there is no bank.
  SmallVector<int64_t> shape;
  /// One part with index -1 is the whole bank; else one part per expert.
  SmallVector<Part, 0> parts;
  /// Dimensions 1 and 2 are exchanged first; `shape` is what comes out.
  bool permute = false;

  /// False when parts of constants are needed that are not where a file has them.
  bool canBuild(SymbolTable &symbols) const;
  /// The value, null when there is no bank.
  Value build(RewriterBase &rewriter, SymbolTable &symbols, Location loc) const;
};

struct ExpertWeights {
  ExpertBank up, upBias, gate, gateBias, down, downBias;
  Layout layout = Layout::OutIn;
  Type elementType;
};

/// Reads the banks of `functions`: one for all experts, or one of each.
FailureOr<ExpertWeights> readExpertWeights(ArrayRef<ExpertFunction> functions, int64_t experts,
                                           Refusal &refusal);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_EXPERTWEIGHTS_H

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
  /// What the bytes are read as; null for the sources' own type.
  Type elementType;
  /// Not 0 for signed codes of so many bits, which become unsigned.
  int64_t signedBits = 0;
  /// Not 0 for codes of so many bits that become 128 plus the code in a byte each.
  int64_t unpackedBits = 0;
  /// Where only some rows are taken: elements before them, and from one expert to the next.
  int64_t first = 0, stride = 0;

  /// Leaves `count` of the rows (dimension 1), from `start`. False when they do not stand
  /// together.
  bool takeRows(int64_t start, int64_t count);
  /// False when parts of constants are needed that are not where a file has them.
  bool canBuild(SymbolTable &symbols) const;
  /// The value, null when there is no bank.
  Value build(RewriterBase &rewriter, SymbolTable &symbols, Location loc) const;

private:
  bool isAsStored() const { return parts.size() <= 1 && !permute && !elementType && !stride; }
};

/// The matrices of a layer: real values, or codes with their scales and, perhaps, zero
/// points, as `moe.dequantize` takes them.
struct ExpertMatrix {
  ExpertBank values, scales, zeroPoints;
  /// 0 for real values.
  int64_t bits = 0, block = 0;
  /// The zero point of all codes, where there is no tensor of them.
  std::optional<int64_t> zeroPoint;

  Value build(RewriterBase &rewriter, SymbolTable &symbols, Location loc) const;
};

struct ExpertWeights {
  ExpertMatrix up, gate, down;
  ExpertBank upBias, gateBias, downBias;
  Layout layout = Layout::OutIn;
  /// Of the real values; null when there are only codes.
  Type elementType;

  SmallVector<const ExpertBank *> getBanks() const;
};

/// Reads the banks of `functions`: one for all experts, or one of each.
FailureOr<ExpertWeights> readExpertWeights(ArrayRef<ExpertFunction> functions, int64_t experts,
                                           Refusal &refusal);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_EXPERTWEIGHTS_H

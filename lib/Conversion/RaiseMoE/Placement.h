// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Tensors [tokens, experts, positions] that put every token at positions of its experts, as
// GShard's dispatch mask and combine weights are: by products with them, tokens are moved.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_PLACEMENT_H
#define MOEC_LIB_CONVERSION_RAISEMOE_PLACEMENT_H

#include "Dataflow.h"

#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe {

/// Σ over the choices k of w_k[t] · 1[e = id_k[t]] · 1[c = position_k[t]], where positions
/// count the choices of an expert from 0, those of earlier choices first, and a token whose
/// position is not below the capacity has no term. So no two tokens share (e, c).
struct Placement {
  struct Choice {
    /// By token.
    Value ids;
    /// The weight: `gates` [tokens, experts] at the ids, or `weight` by token; 1 without both.
    Value gates, weight;
  };
  int64_t experts = 0;
  /// In the order in which experts accept them.
  SmallVector<Choice, 2> choices;
  CapacityAttr capacity;
  /// The weights are divided by their sum, with a bound as moe.weigh has it; when
  /// `normalizesKept`, by that of the choices within the capacity.
  WeighNorm norm = WeighNorm::None;
  double normEps = 0;
  bool normalizesKept = false;
  /// Without its conversions: what is read, and 1 where that is not 0 if `isNonZero`.
  Value root;
  bool isNonZero = false;

  int64_t getK() const { return choices.size(); }
  bool isUnweighted() const;
};

/// Whether a whole number is how many tokens there are.
using IsTokenCount = llvm::function_ref<bool(Value)>;

/// Reads `tensor`, whose dimensions are tokens, experts and positions in this order.
/// `refusal.at` is only set when it places tokens by one-hot vectors.
FailureOr<Placement> readPlacement(Value tensor, IsTokenCount isTokenCount, Refusal &refusal);

/// Reads a number of entries per expert: a constant, or a function of the number of tokens, in
/// arithmetic that is exact in f32. Null when it is another.
CapacityAttr readCapacity(Value value, IsTokenCount isTokenCount);

/// A constant capacity.
CapacityAttr getCapacity(MLIRContext *context, int64_t number);

/// Whether a product with `mask` yields the row of exactly the token that `weights` has at an
/// (expert, position), wherever that weight counts.
bool movesSameTokens(const Placement &mask, const Placement &weights);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_PLACEMENT_H

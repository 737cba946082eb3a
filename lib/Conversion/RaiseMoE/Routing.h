// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Routings in ONNX graphs: what an expert form needs to know of them, and how they become
// moe ops. Nothing here depends on how experts are chosen: any tensor of ids with any
// tensor of weights is a routing; patterns then recognise the router behind it.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_ROUTING_H
#define MOEC_LIB_CONVERSION_RAISEMOE_ROUTING_H

#include "Dataflow.h"
#include "Placement.h"

#include "mlir/IR/PatternMatch.h"

namespace mlir::moe {

/// A routing that can be built. Orders below are those of elements; the tensors may have
/// any shape.
struct Routing {
  int64_t experts = 0, k = 0;
  /// By token, then slot: the experts. Null when `mask` or only `weights` say it.
  Value ids;
  /// By token, then slot, then expert: nonzero or true where the slot's expert is.
  Value mask;
  /// By token, then slot; by token, then expert when there are neither ids nor a mask.
  /// Null for an unweighted routing.
  Value weights;
  /// The weights are the sigmoid of `weights`.
  bool isSigmoid = false;
  /// The ids of a token are known to be different from each other.
  bool distinct = false;
  /// Says everything, when there is one.
  std::optional<Placement> placement;
};

/// `ids` (any integer type; T·k elements by token, then slot) are the experts of each
/// token, `weights` (as many elements in the same order; may be null) what their results
/// are multiplied with. An expert that a token names twice counts with the sum of the
/// weights. Fails when k is not known or the ids are not known to lie in 0 … experts - 1.
FailureOr<Routing> matchRouting(int64_t experts, Value ids, Value weights, Refusal &refusal);

/// `mask` (bool, integer or float; T·k·E elements by token, slot, expert) says at which
/// experts a slot is: OneHot or Equal of ids, perhaps with entries set to 0 by a capacity.
/// `weights` as above.
FailureOr<Routing> matchMaskedRouting(int64_t experts, int64_t k, Value mask, Value weights,
                                      Refusal &refusal);

/// `weights` (T·E elements by token, then expert) is what each expert's result is multiplied
/// with, 0 where a token does not use the expert: weights scattered by ids into zeros, or
/// any other tensor (then every expert runs wherever its weight is not 0).
FailureOr<Routing> matchDenseRouting(int64_t experts, Value weights, Refusal &refusal);

/// Emits the routing at the rewriter's insertion point, after its tensors:
/// `!moe.routing<experts, k, weighted>`, unweighted when it has no weights.
Value buildRouting(RewriterBase &rewriter, Location loc, const Routing &routing);

/// At most `capacity` entries of each expert, of first slots first; per `groupSize` tokens when
/// that is not null.
Value buildCapacity(RewriterBase &rewriter, Location loc, Value routing, CapacityAttr capacity,
                    Value groupSize = {});

/// The ids [T, k] of which `mask`, in whatever type, is the one-hot form over `experts`
/// along its last dimension; null when it is not.
Value getOneHotIds(Value mask, int64_t experts);

/// Recognises how the ids and weights of the built routings are computed, and replaces
/// `moe.given` and masks by `moe.score`, `moe.select`, `moe.weigh` and `moe.capacity`. Where
/// it cannot, a remark says why and the routing stays as it is.
void raiseRoutings(RewriterBase &rewriter, Operation *root);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_ROUTING_H

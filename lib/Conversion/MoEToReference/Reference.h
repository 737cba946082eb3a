// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The plain meaning of the moe ops, as functions of values: fused ops are composed
// of the functions of the simple ones. Shapes: T tokens, E experts, k slots,
// H hidden size, I intermediate size, R = T·k rows.

#ifndef MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCE_H
#define MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCE_H

#include "ReferenceBuilder.h"
#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe::reference {

/// What a !moe.routing is converted to.
struct Routing {
  /// i32 [T,E]: the slot at which the token chose the expert, -1 if it did not.
  Value slots;
  /// f32 [T,E]; null when unweighted.
  Value weights;
  int64_t experts;
  int64_t k;
};

/// The (token, expert) pairs of a routing, sorted by expert, then by token.
struct Rows {
  /// index [R]: token and expert of each row; only the first `count` are set.
  Value tokens, experts;
  /// index [T,k]: row of a token's slot, -1 when the slot is empty.
  Value ofSlot;
  /// Number S of rows.
  Value count;
  OpFoldResult capacity;
};

/// How a token's weights are computed; see moe.weigh.
struct WeighOptions {
  WeighFn fn;
  double eps;
  WeighNorm norm;
  double normEps;
  double scale;
};

/// A product with the experts' matrices; see moe.grouped_matmul.
struct Bank {
  Value weight;
  Value bias;
  Layout layout = Layout::OutIn;
};

// Gating (ReferenceGating.cpp).
Value logits(ReferenceBuilder &b, Value x, const Bank &router, Type type);
Value score(ReferenceBuilder &b, Value logits, ScoreFn fn, Axis axis, Type type);
/// Slots of the k largest of key + bias.
Value select(ReferenceBuilder &b, Value key, Value bias, int64_t k);
/// Weights of the selected experts, f32.
Value weigh(ReferenceBuilder &b, const Routing &routing, Value source, const WeighOptions &options);

// Experts (ReferenceExperts.cpp).
Rows sortRows(ReferenceBuilder &b, const Routing &routing);
/// x[T,H] to [R,H]; `scaled` multiplies each row by its weight.
Value dispatch(ReferenceBuilder &b, Value x, const Routing &routing, const Rows &rows, bool scaled,
               Type type);
/// input[R,K] to [R,N].
Value groupedMatmul(ReferenceBuilder &b, Value input, const Rows &rows, const Bank &bank,
                    Type type);
/// input[R,N] to [R,I]; `linear` only when the activation's glu is separate.
Value activate(ReferenceBuilder &b, Value input, Value linear, ActivationAttr activation,
               Type type);
/// The experts' networks on rows[R,H]; `gate` has no weight unless glu is separate.
Value feedForward(ReferenceBuilder &b, Value input, const Rows &rows, const Bank &up,
                  const Bank &gate, const Bank &down, ActivationAttr activation, Type type);
/// input[R,H] to y[tokens,H].
Value combine(ReferenceBuilder &b, Value input, const Routing &routing, const Rows &rows,
              OpFoldResult tokens, Type type);
/// Codes to real values; see moe.dequantize.
Value dequantize(ReferenceBuilder &b, Value codes, Value scales, Value zeroPoints, int64_t bits,
                 int64_t block, RankedTensorType type);

} // namespace mlir::moe::reference

#endif // MOEC_LIB_CONVERSION_MOETOREFERENCE_REFERENCE_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Weights of one token's entries, shared by moe.weigh and moe.gating.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_WEIGH_H
#define MOEC_LIB_CONVERSION_MOETOCPU_WEIGH_H

#include "KernelBuilder.h"

namespace mlir::moe::cpu {

/// The attributes of moe.weigh.
struct WeighOptions {
  WeighFn fn;
  double eps;
  WeighNorm norm;
  double normEps, normP, scale;

  template <typename OpTy> static WeighOptions of(OpTy op) {
    return {op.getFn(),
            op.getEps().convertToDouble(),
            op.getNorm(),
            op.getNormEps().convertToDouble(),
            op.getNormP() ? op.getNormP()->convertToDouble() : 0.0,
            op.getScale().convertToDouble()};
  }
};

/// The k slots of one token, on the stack: values (f32) become weights.
class TokenWeights {
public:
  TokenWeights(KernelBuilder &b, const WeighOptions &options, int64_t k);

  /// Every slot empty.
  void clear();
  /// Slot `slot` (an index) holds an expert, with this value.
  void set(Value slot, Value value);
  /// values = norm(fn(values)) · scale. The masked softmax is not a function of these
  /// values: they must be its result.
  void weigh();
  /// Values through a function of vectors.
  void transform(function_ref<Value(Value)> f);
  /// The weight of a slot; 0 when it is empty.
  Value get(Value slot) { return b.load(values, slot); }

private:
  void softmax();
  void normalize();
  /// Σ f(values) of the slots that are not empty.
  Value sum(function_ref<Value(Value)> f);
  Value present(Value i);

  KernelBuilder &b;
  WeighOptions options;
  int64_t padded;
  Value values;  ///< f32 [k rounded up to vectors]
  Value entries; ///< i32, 0 in empty slots
};

/// The weights that the sparse mixer gives the entries of a token, in their rounds; on
/// the stack. Source values are those of all experts.
class MaskedSoftmax {
public:
  MaskedSoftmax(KernelBuilder &b, const WeighOptions &options, int64_t experts);

  /// Source values i … i + lanes, the first `count` of which exist; nothing is taken.
  void set(Value i, int64_t count, Value source);
  /// The weight in the round of `expert` (an index), which is then taken.
  Value take(Value expert);

private:
  KernelBuilder &b;
  WeighOptions options;
  int64_t padded;
  Value sources; ///< f32 [E rounded up to vectors]
  Value free;    ///< i32, 0 once taken
};

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_WEIGH_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// #moe.convert and #moe.quantize on the bytes of one expert.

#ifndef MOEC_LIB_TARGET_CPU_WEIGHTCONVERSIONS_H
#define MOEC_LIB_TARGET_CPU_WEIGHTCONVERSIONS_H

#include "moec/Target/CPU/WeightTransforms.h"

namespace mlir::moe {

/// Elements of `type` (f32, f16 or bf16) from `first` on, at any address.
void readFloats(Type type, const char *in, int64_t first, MutableArrayRef<float> out);
/// To nearest, ties to even.
float roundToBF16(float value);

/// `count` elements of `from` (f32, f16 or bf16) at any address to `to` (f16 or bf16).
/// Adds what that changes to `error`.
void convertElements(Type from, Type to, const char *in, int64_t count, char *out,
                     ConversionError &error);

/// The part of moe.dequantize's operands that `attr` names, of `rows` rows of `k` elements
/// of `from`. `out` is zero. Adds what that changes to `error`, if not null, which only
/// the codes can say.
void quantize(QuantizeAttr attr, Type from, const char *in, int64_t rows, int64_t k, char *out,
              ConversionError *error);

} // namespace mlir::moe

#endif // MOEC_LIB_TARGET_CPU_WEIGHTCONVERSIONS_H

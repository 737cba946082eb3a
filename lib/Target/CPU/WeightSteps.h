// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The transforms of weights on the bytes of one expert, and what undoes them: see WeightStep.

#ifndef MOEC_LIB_TARGET_CPU_WEIGHTSTEPS_H
#define MOEC_LIB_TARGET_CPU_WEIGHTSTEPS_H

#include "moec/Target/CPU/WeightTransforms.h"

namespace mlir::moe {

/// Codes of `bits` bits along the middle one of (outer, bytes, inner), low bits first, to one
/// byte each.
void unpackCodes(const char *in, char *out, int64_t bits, int64_t outer, int64_t count,
                 int64_t inner);
/// The reverse; unused bits become zero.
void packCodes(const char *in, char *out, int64_t bits, int64_t outer, int64_t count,
               int64_t inner);

} // namespace mlir::moe

#endif // MOEC_LIB_TARGET_CPU_WEIGHTSTEPS_H

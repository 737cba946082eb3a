// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The reference lowering of the moe dialect: --moe-to-reference.

#ifndef MOEC_CONVERSION_MOETOREFERENCE_MOETOREFERENCE_H
#define MOEC_CONVERSION_MOETOREFERENCE_MOETOREFERENCE_H

#include "mlir/Pass/Pass.h"

namespace mlir {
class RewritePatternSet;
class TypeConverter;
} // namespace mlir

namespace mlir::moe {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moec/Conversion/MoEToReference/MoEToReference.h.inc"

/// Converts !moe.routing<E, k> to tensor<?xExi32> (slots) and, when weighted, also
/// tensor<?xExf32> (weights): a 1:N conversion.
void addReferenceTypeConversions(TypeConverter &converter);

/// Patterns for every moe op on tensors; `converter` has the conversions above.
void populateMoEToReferencePatterns(const TypeConverter &converter, RewritePatternSet &patterns);

} // namespace mlir::moe

#endif // MOEC_CONVERSION_MOETOREFERENCE_MOETOREFERENCE_H

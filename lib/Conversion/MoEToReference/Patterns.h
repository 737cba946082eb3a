// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the patterns of --moe-to-reference share.

#ifndef MOEC_LIB_CONVERSION_MOETOREFERENCE_PATTERNS_H
#define MOEC_LIB_CONVERSION_MOETOREFERENCE_PATTERNS_H

#include "Reference.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Transforms/DialectConversion.h"

namespace mlir::moe::reference {

inline Type elementTypeOf(Value value) { return getElementTypeOrSelf(value.getType()); }

/// The only value that an operand was converted to; null when absent.
inline Value valueOf(ValueRange converted) {
  return converted.empty() ? Value() : converted.front();
}

/// The converted form of an operand of type !moe.routing.
Routing routingOf(Value original, ValueRange converted);

/// The tensor under the type that the op had; sizes may be known to only one of them.
Value castTo(ReferenceBuilder &b, Value tensor, Type type);

/// What a result of type !moe.routing is replaced by.
SmallVector<Value> valuesOf(ReferenceBuilder &b, const Routing &routing);

/// Replaces an op whose result is a tensor.
void replaceTensor(ConversionPatternRewriter &rewriter, ReferenceBuilder &b, Operation *op,
                   Value value);

/// Replaces an op whose result is a routing.
void replaceRouting(ConversionPatternRewriter &rewriter, ReferenceBuilder &b, Operation *op,
                    const Routing &routing);

void populateRoutingPatterns(const TypeConverter &converter, RewritePatternSet &patterns);
void populateExpertPatterns(const TypeConverter &converter, RewritePatternSet &patterns);
void populateAuxiliaryPatterns(const TypeConverter &converter, RewritePatternSet &patterns);
void populateRecordPatterns(const TypeConverter &converter, RewritePatternSet &patterns);

} // namespace mlir::moe::reference

#endif // MOEC_LIB_CONVERSION_MOETOREFERENCE_PATTERNS_H

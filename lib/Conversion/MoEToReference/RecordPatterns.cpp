// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Patterns of --moe-to-reference: routings that are recorded.

#include "Patterns.h"

#include "moec/Dialect/MoE/IR/MoE.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

namespace {

struct EntriesPattern : OpConversionPattern<EntriesOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(EntriesOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    Value none = b.i32(-1), zero = b.constant(0);
    SmallVector<Value> results = {castTo(
        b, search(b, routing, b.getI32Type(), none, [&](Value, Value e) { return b.toI32(e); }),
        op.getIds().getType())};
    if (op.getWeights())
      results.push_back(castTo(b,
                               search(b, routing, b.getF32Type(), zero,
                                      [&](Value t, Value e) {
                                        return b.at(routing.weights, {t, e});
                                      }),
                               op.getWeights().getType()));
    rewriter.replaceOp(op, results);
    return success();
  }

private:
  /// [T,k]: `value` (t, e) of the expert e in each slot of t, `none` where there is none.
  static Value search(ReferenceBuilder &b, const Routing &routing, Type type, Value none,
                      function_ref<Value(Value, Value)> value) {
    SmallVector<OpFoldResult> sizes = {b.size(routing.slots, 0), b.getIndexAttr(routing.k)};
    Value experts = b.index(routing.experts);
    return b.generate(sizes, type, [&](ValueRange i) {
      Value t = i[0], slot = b.toI32(i[1]);
      return b.fold(experts, none, [&](Value e, Value found) {
        Value isHere = b.isEqual(b.rawAt(routing.slots, {t, e}), slot);
        return b.select(isHere, value(t, e), found);
      });
    });
  }
};

} // namespace

void reference::populateRecordPatterns(const TypeConverter &converter,
                                       RewritePatternSet &patterns) {
  patterns.add<EntriesPattern>(converter, patterns.getContext());
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Patterns of --moe-to-reference: auxiliary outputs.

#include "Patterns.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

namespace {

struct AuxPattern : OpConversionPattern<AuxOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(AuxOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter,
                       {valueOf(adaptor.getLogits()), valueOf(adaptor.getProbabilities()),
                        valueOf(adaptor.getNoisyLogits()), op.getResult()});
    replaceTensor(rewriter, b, op, valueOfKind(b, op, adaptor));
    return success();
  }

private:
  static Value valueOfKind(ReferenceBuilder &b, AuxOp op, OneToNOpAdaptor adaptor) {
    Value logits = valueOf(adaptor.getLogits()), p = valueOf(adaptor.getProbabilities());
    Routing routing =
        op.getRouting() ? routingOf(op.getRouting(), adaptor.getRouting()) : Routing();
    Type type = elementTypeOf(op.getResult());
    switch (op.getKind()) {
    case AuxKind::LoadBalance:
      return loadBalance(b, p, routing, groupsOf(b, b.size(p, 0), valueOf(adaptor.getGroupSize())),
                         op.getFraction().value_or(AuxFraction::All), op.getPerSlot(), type);
    case AuxKind::ZLoss:
      return zLoss(b, logits, type);
    case AuxKind::ImportanceCV2:
      return importance(b, p ? p : routing.weights, type);
    case AuxKind::LoadCV2:
      return loadUnderNoise(b, logits, valueOf(adaptor.getNoisyLogits()),
                            valueOf(adaptor.getNoiseStd()), *op.getK(), *op.getVariant(), type);
    case AuxKind::TokensPerExpert:
      return tokensPerExpert(b, routing);
    case AuxKind::MeanProbability:
      return meanProbability(b, p, type);
    case AuxKind::Entropy:
      return entropy(b, p, type);
    }
    llvm_unreachable("all kinds are handled");
  }
};

struct BiasUpdatePattern : OpConversionPattern<BiasUpdateOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(BiasUpdateOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {valueOf(adaptor.getBias())});
    replaceTensor(rewriter, b, op,
                  updateBias(b, valueOf(adaptor.getBias()), valueOf(adaptor.getCount()),
                             op.getRule(), op.getRate().convertToDouble(), op.getRecenter(),
                             elementTypeOf(op.getResult())));
    return success();
  }
};

} // namespace

void reference::populateAuxiliaryPatterns(const TypeConverter &converter,
                                          RewritePatternSet &patterns) {
  patterns.add<AuxPattern, BiasUpdatePattern>(converter, patterns.getContext());
}

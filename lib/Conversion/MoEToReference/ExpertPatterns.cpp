// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Patterns of --moe-to-reference: from rows to the layer's result.

#include "Patterns.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

namespace {

struct DispatchPattern : OpConversionPattern<DispatchOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(DispatchOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {valueOf(adaptor.getX()), op.getRows()});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    Rows rows = sortRows(b, routing);
    replaceTensor(rewriter, b, op,
                  dispatch(b, valueOf(adaptor.getX()), routing, rows, op.getScaleInput(),
                           elementTypeOf(op.getRows())));
    return success();
  }
};

struct GroupedMatmulPattern : OpConversionPattern<GroupedMatmulOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(GroupedMatmulOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter,
                       {valueOf(adaptor.getRows()), valueOf(adaptor.getWeight()), op.getResult()});
    Rows rows = sortRows(b, routingOf(op.getRouting(), adaptor.getRouting()));
    Bank bank = {valueOf(adaptor.getWeight()), valueOf(adaptor.getBias()), op.getLayout()};
    replaceTensor(
        rewriter, b, op,
        groupedMatmul(b, valueOf(adaptor.getRows()), rows, bank, elementTypeOf(op.getResult())));
    return success();
  }
};

struct LinearPattern : OpConversionPattern<LinearOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(LinearOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value x = valueOf(adaptor.getX()), weight = valueOf(adaptor.getWeight());
    ReferenceBuilder b(op.getLoc(), rewriter, {x, weight, op.getResult()});
    Bank matrix = {weight, valueOf(adaptor.getBias()), op.getLayout()};
    replaceTensor(rewriter, b, op,
                  logits(b, x, matrix, /*noise=*/Value(), /*softcap=*/std::nullopt,
                         elementTypeOf(op.getResult())));
    return success();
  }
};

struct ActivatePattern : OpConversionPattern<ActivateOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ActivateOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {valueOf(adaptor.getRows()), op.getResult()});
    replaceTensor(rewriter, b, op,
                  activate(b, valueOf(adaptor.getRows()), valueOf(adaptor.getLinear()),
                           op.getActivation(), elementTypeOf(op.getResult())));
    return success();
  }
};

/// Of moe.expert_ffn, moe.experts and moe.shared.
template <typename OpT, typename Adaptor> Networks networksOf(OpT op, Adaptor adaptor) {
  Layout layout = op.getLayout();
  Networks networks;
  networks.up = {valueOf(adaptor.getUp()), valueOf(adaptor.getUpBias()), layout};
  networks.gate = {valueOf(adaptor.getGate()), valueOf(adaptor.getGateBias()), layout};
  networks.down = {valueOf(adaptor.getDown()), valueOf(adaptor.getDownBias()), layout};
  networks.activation = op.getActivation();
  return networks;
}

/// Of moe.expert_ffn and moe.experts.
template <typename OpT, typename Adaptor>
Networks networksWithKindsOf(OpT op, Adaptor adaptor, int64_t experts) {
  Networks networks = networksOf(op, adaptor);
  if (ArrayAttr kinds = op.getKindsAttr())
    networks.kinds = expertRanges(kinds, experts);
  networks.constants = valueOf(adaptor.getConstants());
  return networks;
}

struct ExpertFFNPattern : OpConversionPattern<ExpertFFNOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ExpertFFNOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value input = valueOf(adaptor.getInput());
    ReferenceBuilder b(op.getLoc(), rewriter, {input, valueOf(adaptor.getUp()), op.getResult()});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    replaceTensor(rewriter, b, op,
                  feedForward(b, input, sortRows(b, routing),
                              networksWithKindsOf(op, adaptor, routing.experts),
                              elementTypeOf(op.getResult())));
    return success();
  }
};

/// Of moe.combine and moe.experts; `uncovered` is x.
template <typename OpT, typename Adaptor>
CombineOptions combineOptionsOf(OpT op, Adaptor adaptor, Value uncovered) {
  CombineOptions options;
  options.weight = op.getWeight();
  options.accum = op.getAccum();
  options.postScale = op.getPostScale().convertToDouble();
  if (op.getUncoveredRouting()) {
    options.uncovered = uncovered;
    options.uncoveredRouting = routingOf(op.getUncoveredRouting(), adaptor.getUncoveredRouting());
  }
  return options;
}

struct CombinePattern : OpConversionPattern<CombineOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(CombineOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {valueOf(adaptor.getRows()), op.getResult()});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    CombineOptions options = combineOptionsOf(op, adaptor, valueOf(adaptor.getUncovered()));
    replaceTensor(rewriter, b, op,
                  combine(b, valueOf(adaptor.getRows()), routing, sortRows(b, routing),
                          getAsOpFoldResult(valueOf(adaptor.getTokens())), options,
                          elementTypeOf(op.getResult())));
    return success();
  }
};

struct ExpertsPattern : OpConversionPattern<ExpertsOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ExpertsOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value x = valueOf(adaptor.getInput());
    ReferenceBuilder b(op.getLoc(), rewriter, {x, valueOf(adaptor.getUp()), op.getResult()});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    Rows rows = sortRows(b, routing);
    Value dispatched = dispatch(b, x, routing, rows, op.getScaleInput(), b.getReal());
    Value outputs = feedForward(b, dispatched, rows,
                                networksWithKindsOf(op, adaptor, routing.experts), b.getReal());
    replaceTensor(rewriter, b, op,
                  combine(b, outputs, routing, rows, b.size(x, 0), combineOptionsOf(op, adaptor, x),
                          elementTypeOf(op.getResult())));
    return success();
  }
};

struct SharedPattern : OpConversionPattern<SharedOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(SharedOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value x = valueOf(adaptor.getInput()), y = valueOf(adaptor.getAdd());
    ReferenceBuilder b(op.getLoc(), rewriter, {x, valueOf(adaptor.getUp()), y, op.getResult()});
    int64_t experts = cast<RankedTensorType>(op.getUp().getType()).getDimSize(0);
    replaceTensor(rewriter, b, op,
                  shared(b, x, networksOf(op, adaptor), experts, valueOf(adaptor.getWeight()), y,
                         op.getMerge(), elementTypeOf(op.getResult())));
    return success();
  }
};

struct DequantizePattern : OpConversionPattern<DequantizeOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(DequantizeOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {op.getScales(), op.getResult()});
    replaceTensor(rewriter, b, op,
                  dequantize(b, valueOf(adaptor.getCodes()), valueOf(adaptor.getScales()),
                             valueOf(adaptor.getZeroPoints()), op.getBits(), op.getBlock(),
                             cast<RankedTensorType>(op.getResult().getType())));
    return success();
  }
};

} // namespace

void reference::populateExpertPatterns(const TypeConverter &converter,
                                       RewritePatternSet &patterns) {
  patterns.add<DispatchPattern, GroupedMatmulPattern, LinearPattern, ActivatePattern, ExpertFFNPattern,
               CombinePattern, ExpertsPattern, SharedPattern, DequantizePattern>(
      converter, patterns.getContext());
}

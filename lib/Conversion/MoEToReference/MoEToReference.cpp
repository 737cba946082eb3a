// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-to-reference: patterns that give each op its plain meaning (Reference.h).

#include "moec/Conversion/MoEToReference/MoEToReference.h"

#include "Reference.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Func/Transforms/FuncConversions.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/SCF/Transforms/Patterns.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Transforms/DialectConversion.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETOREFERENCEPASS
#include "moec/Conversion/MoEToReference/MoEToReference.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

namespace {

Type elementTypeOf(Value value) { return getElementTypeOrSelf(value.getType()); }

/// The converted form of an operand of type !moe.routing.
Routing routingOf(Value original, ValueRange converted) {
  auto type = cast<RoutingType>(original.getType());
  return {converted[0], type.getWeighted() ? converted[1] : Value(), type.getExperts(),
          type.getK()};
}

/// The only value that an operand was converted to; null when absent.
Value valueOf(ValueRange converted) { return converted.empty() ? Value() : converted.front(); }

/// The tensor under the type that the op had; sizes may be known to only one of them.
Value castTo(ReferenceBuilder &b, Value tensor, Type type) {
  return tensor.getType() == type ? tensor : tensor::CastOp::create(b, type, tensor).getResult();
}

/// Replaces an op whose result is a tensor.
void replaceTensor(ConversionPatternRewriter &rewriter, ReferenceBuilder &b, Operation *op,
                   Value value) {
  b.setInsertionPoint(op);
  rewriter.replaceOp(op, castTo(b, value, op->getResult(0).getType()));
}

/// Replaces an op whose result is a routing; no `weights` when it is unweighted.
void replaceRouting(ConversionPatternRewriter &rewriter, ReferenceBuilder &b, Operation *op,
                    Value slots, Value weights) {
  int64_t experts = cast<RoutingType>(op->getResult(0).getType()).getExperts();
  auto typeOf = [&](Type element) {
    return RankedTensorType::get({ShapedType::kDynamic, experts}, element);
  };
  SmallVector<Value> values = {castTo(b, slots, typeOf(b.getI32Type()))};
  if (weights)
    values.push_back(castTo(b, weights, typeOf(b.getF32Type())));
  rewriter.replaceOpWithMultiple(op, {ValueRange(values)});
}

struct LogitsPattern : OpConversionPattern<LogitsOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(LogitsOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter,
                       {valueOf(adaptor.getX()), valueOf(adaptor.getWeight()), op.getLogits()});
    Bank router = {valueOf(adaptor.getWeight()), valueOf(adaptor.getBias()), op.getLayout()};
    replaceTensor(rewriter, b, op,
                  logits(b, valueOf(adaptor.getX()), router, elementTypeOf(op.getLogits())));
    return success();
  }
};

struct ScorePattern : OpConversionPattern<ScoreOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ScoreOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {valueOf(adaptor.getLogits()), op.getScores()});
    replaceTensor(rewriter, b, op,
                  score(b, valueOf(adaptor.getLogits()), op.getFn(), op.getAxis(),
                        elementTypeOf(op.getScores())));
    return success();
  }
};

struct SelectPattern : OpConversionPattern<SelectOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(SelectOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter,
                       {valueOf(adaptor.getKey()), valueOf(adaptor.getBias())});
    replaceRouting(rewriter, b, op,
                   select(b, valueOf(adaptor.getKey()), valueOf(adaptor.getBias()), op.getK()), {});
    return success();
  }
};

struct WeighPattern : OpConversionPattern<WeighOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(WeighOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {valueOf(adaptor.getSource())});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    WeighOptions options = {op.getFn(), op.getEps().convertToDouble(), op.getNorm(),
                            op.getNormEps().convertToDouble(), op.getScale().convertToDouble()};
    replaceRouting(rewriter, b, op, routing.slots,
                   weigh(b, routing, valueOf(adaptor.getSource()), options));
    return success();
  }
};

struct GatingPattern : OpConversionPattern<GatingOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(GatingOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(
        op.getLoc(), rewriter,
        {valueOf(adaptor.getLogits()), valueOf(adaptor.getBias()), valueOf(adaptor.getSource())});
    Value scores =
        score(b, valueOf(adaptor.getLogits()), op.getScore(), Axis::Experts, b.getReal());
    auto type = cast<RoutingType>(op.getRouting().getType());
    Routing routing = {select(b, scores, valueOf(adaptor.getBias()), op.getK()),
                       {},
                       type.getExperts(),
                       type.getK()};
    WeighOptions options = {op.getFn(), op.getEps().convertToDouble(), op.getNorm(),
                            op.getNormEps().convertToDouble(), op.getScale().convertToDouble()};
    Value weights = weigh(b, routing, sourceOf(op, adaptor, scores), options);
    replaceRouting(rewriter, b, op, routing.slots, weights);
    return success();
  }

private:
  static Value sourceOf(GatingOp op, OneToNOpAdaptor adaptor, Value scores) {
    switch (op.getWeighSource()) {
    case WeighSource::Score:
      return scores;
    case WeighSource::Logit:
      return valueOf(adaptor.getLogits());
    case WeighSource::Operand:
      return valueOf(adaptor.getSource());
    }
    llvm_unreachable("all sources are handled");
  }
};

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

struct ExpertFFNPattern : OpConversionPattern<ExpertFFNOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ExpertFFNOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter,
                       {valueOf(adaptor.getInput()), valueOf(adaptor.getUp()), op.getResult()});
    Rows rows = sortRows(b, routingOf(op.getRouting(), adaptor.getRouting()));
    replaceTensor(rewriter, b, op,
                  feedForward(b, valueOf(adaptor.getInput()), rows,
                              {valueOf(adaptor.getUp()), valueOf(adaptor.getUpBias())},
                              {valueOf(adaptor.getGate()), valueOf(adaptor.getGateBias())},
                              {valueOf(adaptor.getDown()), valueOf(adaptor.getDownBias())},
                              op.getActivation(), elementTypeOf(op.getResult())));
    return success();
  }
};

struct CombinePattern : OpConversionPattern<CombineOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(CombineOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {valueOf(adaptor.getRows()), op.getResult()});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    Rows rows = sortRows(b, routing);
    replaceTensor(rewriter, b, op,
                  combine(b, valueOf(adaptor.getRows()), routing, rows,
                          getAsOpFoldResult(valueOf(adaptor.getTokens())),
                          elementTypeOf(op.getResult())));
    return success();
  }
};

struct ExpertsPattern : OpConversionPattern<ExpertsOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ExpertsOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter,
                       {valueOf(adaptor.getInput()), valueOf(adaptor.getUp()), op.getResult()});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    Rows rows = sortRows(b, routing);
    Value dispatched =
        dispatch(b, valueOf(adaptor.getInput()), routing, rows, /*scaled=*/false, b.getReal());
    Value outputs =
        feedForward(b, dispatched, rows, {valueOf(adaptor.getUp()), valueOf(adaptor.getUpBias())},
                    {valueOf(adaptor.getGate()), valueOf(adaptor.getGateBias())},
                    {valueOf(adaptor.getDown()), valueOf(adaptor.getDownBias())},
                    op.getActivation(), b.getReal());
    replaceTensor(rewriter, b, op,
                  combine(b, outputs, routing, rows, b.size(valueOf(adaptor.getInput()), 0),
                          elementTypeOf(op.getResult())));
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

/// Ops in a form that has no plain meaning here yet.
LogicalResult checkForms(Operation *root) {
  bool ok = true;
  root->walk([&](Operation *op) {
    bool known = true;
    if (auto logits = dyn_cast<LogitsOp>(op))
      known = !logits.getNoise() && !logits.getSoftcap();
    if (auto score = dyn_cast<ScoreOp>(op))
      known = score.getFn() != ScoreFn::LogSigmoid && !score.getGroupSize();
    if (auto select = dyn_cast<SelectOp>(op))
      known = (select.getMode() == SelectMode::TopK || select.getMode() == SelectMode::All) &&
              !select.isGrouped() && !select.isMasked() && select.getTieBreak() == TieBreak::Lower;
    if (auto weigh = dyn_cast<WeighOp>(op))
      known = weigh.getSource() && !weigh.getBias() && !weigh.getExpertScale() &&
              !weigh.getMagnitude() &&
              (weigh.getNorm() == WeighNorm::None || weigh.getNorm() == WeighNorm::Sum);
    if (auto gating = dyn_cast<GatingOp>(op))
      known = gating.getMode() == SelectMode::TopK && !gating.isGrouped() && !gating.isMasked() &&
              gating.getTieBreak() == TieBreak::Lower && !gating.getSourceBias() &&
              !gating.getExpertScale() && !gating.getMagnitude() && !gating.getCapacity() &&
              gating.getScore() != ScoreFn::LogSigmoid &&
              (gating.getNorm() == WeighNorm::None || gating.getNorm() == WeighNorm::Sum);
    if (auto activate = dyn_cast<ActivateOp>(op))
      known = activate.getActivation().getClamp() == ActivationClamp::Pre;
    if (auto ffn = dyn_cast<ExpertFFNOp>(op))
      known = !ffn.getKinds() && ffn.getLayout() == Layout::OutIn &&
              ffn.getActivation().getClamp() == ActivationClamp::Pre;
    if (auto experts = dyn_cast<ExpertsOp>(op))
      known = !experts.getKinds() && experts.getLayout() == Layout::OutIn &&
              experts.getActivation().getClamp() == ActivationClamp::Pre &&
              !experts.getUncoveredRouting() && !experts.getScaleInput() &&
              experts.getWeight() == CombineWeight::Output && experts.getAccum() == Accum::F32 &&
              experts.getPostScale().isExactlyValue(1.0);
    if (auto combine = dyn_cast<CombineOp>(op))
      known = !combine.getUncovered() && combine.getWeight() == CombineWeight::Output &&
              combine.getAccum() == Accum::F32 && combine.getPostScale().isExactlyValue(1.0);
    if (!known)
      op->emitOpError() << "has no reference lowering in this form";
    ok &= known;
  });
  return success(ok);
}

struct MoEToReferencePass : moe::impl::MoEToReferencePassBase<MoEToReferencePass> {
  void runOnOperation() override {
    if (failed(checkForms(getOperation())))
      return signalPassFailure();
    MLIRContext *context = &getContext();
    TypeConverter converter;
    addReferenceTypeConversions(converter);
    RewritePatternSet patterns(context);
    populateMoEToReferencePatterns(converter, patterns);

    ConversionTarget target(*context);
    target.addIllegalOp<LogitsOp, ScoreOp, SelectOp, WeighOp, GatingOp, DispatchOp, GroupedMatmulOp,
                        ActivateOp, ExpertFFNOp, CombineOp, ExpertsOp, DequantizeOp, GivenOp,
                        FilterOp, CapacityOp, ComposeOp, TreeSelectOp, BlendOp, RemapOp, SharedOp,
                        AuxOp, BiasUpdateOp>();
    target.markUnknownOpDynamicallyLegal([](Operation *) { return true; });
    // Routings that cross functions and structured control flow.
    populateFunctionOpInterfaceTypeConversionPattern<func::FuncOp>(patterns, converter);
    populateReturnOpTypeConversionPattern(patterns, converter);
    populateCallOpTypeConversionPattern(patterns, converter);
    scf::populateSCFStructuralTypeConversionsAndLegality(converter, patterns, target);
    target.addDynamicallyLegalOp<func::FuncOp>([&](func::FuncOp func) {
      return converter.isSignatureLegal(func.getFunctionType()) &&
             converter.isLegal(&func.getBody());
    });
    target.addDynamicallyLegalOp<func::ReturnOp, func::CallOp>(
        [&](Operation *op) { return converter.isLegal(op); });

    ConversionConfig config;
    config.allowPatternRollback = false;
    if (failed(applyPartialConversion(getOperation(), target, std::move(patterns), config)))
      signalPassFailure();
  }
};

} // namespace

void moe::addReferenceTypeConversions(TypeConverter &converter) {
  converter.addConversion([](Type type) { return type; });
  converter.addConversion([](RoutingType type, SmallVectorImpl<Type> &types) {
    int64_t shape[] = {ShapedType::kDynamic, type.getExperts()};
    types.push_back(RankedTensorType::get(shape, IntegerType::get(type.getContext(), 32)));
    if (type.getWeighted())
      types.push_back(RankedTensorType::get(shape, Float32Type::get(type.getContext())));
    return success();
  });
}

void moe::populateMoEToReferencePatterns(const TypeConverter &converter,
                                         RewritePatternSet &patterns) {
  patterns.add<LogitsPattern, ScorePattern, SelectPattern, WeighPattern, GatingPattern,
               DispatchPattern, GroupedMatmulPattern, ActivatePattern, ExpertFFNPattern,
               CombinePattern, ExpertsPattern, DequantizePattern>(converter, patterns.getContext());
}

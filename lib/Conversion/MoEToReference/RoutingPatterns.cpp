// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Patterns of --moe-to-reference: from the logits to a weighted routing.

#include "Patterns.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

namespace {

struct LogitsPattern : OpConversionPattern<LogitsOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(LogitsOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value x = valueOf(adaptor.getX()), weight = valueOf(adaptor.getWeight()),
          noise = valueOf(adaptor.getNoise());
    ReferenceBuilder b(op.getLoc(), rewriter, {x, weight, noise, op.getLogits()});
    Bank router = {weight, valueOf(adaptor.getBias()), op.getLayout()};
    std::optional<double> softcap;
    if (op.getSoftcap())
      softcap = op.getSoftcap()->convertToDouble();
    replaceTensor(rewriter, b, op,
                  logits(b, x, router, noise, softcap, elementTypeOf(op.getLogits())));
    return success();
  }
};

struct ScorePattern : OpConversionPattern<ScoreOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ScoreOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value logits = valueOf(adaptor.getLogits());
    ReferenceBuilder b(op.getLoc(), rewriter, {logits, op.getScores()});
    replaceTensor(rewriter, b, op,
                  score(b, logits, op.getFn(), op.getAxis(), valueOf(adaptor.getGroupSize()),
                        elementTypeOf(op.getScores())));
    return success();
  }
};

double valueOr(std::optional<APFloat> attribute, double otherwise) {
  return attribute ? attribute->convertToDouble() : otherwise;
}

/// Of moe.select and moe.gating.
template <typename OpT> SelectOptions selectOptionsOf(OpT op) {
  SelectOptions options;
  options.mode = op.getMode();
  options.k = op.getK();
  options.p = valueOr(op.getP(), 1);
  options.tau = valueOr(op.getTau(), 0);
  options.tie = op.getTieBreak();
  return options;
}

template <typename OpT> ExpertGroups expertGroupsOf(OpT op) {
  return {int64_t(op.getNGroup()), int64_t(op.getTopkGroup()), op.getGroupScore(),
          op.getGroupFill()};
}

/// Of moe.weigh and moe.gating.
template <typename OpT> WeighOptions weighOptionsOf(OpT op, Value expertScale) {
  WeighOptions options;
  options.fn = op.getFn();
  options.eps = op.getEps().convertToDouble();
  options.norm = op.getNorm();
  options.normEps = op.getNormEps().convertToDouble();
  options.normP = valueOr(op.getNormP(), 1);
  options.scale = op.getScale().convertToDouble();
  options.expertScale = expertScale;
  return options;
}

struct SelectPattern : OpConversionPattern<SelectOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(SelectOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value key = valueOf(adaptor.getKey()), bias = valueOf(adaptor.getBias());
    ReferenceBuilder b(op.getLoc(), rewriter, {key, bias});
    Candidates from =
        candidates(b, key, bias, valueOf(adaptor.getTokenMask()), valueOf(adaptor.getExpertMask()));
    Value slots;
    if (op.getMode() == SelectMode::ExpertTopK) {
      Groups groups = groupsOf(b, b.size(key, 0), valueOf(adaptor.getGroupSize()));
      slots = selectByExperts(b, from, *op.getCapacity(), groups, op.getK());
    } else {
      slots = select(b, limitedToGroups(b, from, expertGroupsOf(op)), selectOptionsOf(op));
    }
    RoutingType type = op.getRouting().getType();
    replaceRouting(rewriter, b, op, {slots, {}, type.getExperts(), type.getK()});
    return success();
  }
};

struct GivenPattern : OpConversionPattern<GivenOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(GivenOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {});
    RoutingType type = op.getRouting().getType();
    Value slots = given(b, valueOf(adaptor.getIds()), type.getExperts());
    replaceRouting(rewriter, b, op, {slots, {}, type.getExperts(), type.getK()});
    return success();
  }
};

struct WeighPattern : OpConversionPattern<WeighOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(WeighOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value source = valueOf(adaptor.getSource()), bias = valueOf(adaptor.getBias()),
          scale = valueOf(adaptor.getExpertScale());
    ReferenceBuilder b(op.getLoc(), rewriter, {source, bias, scale});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    routing.weights = weigh(b, routing, source, bias, weighOptionsOf(op, scale));
    replaceRouting(rewriter, b, op, routing);
    return success();
  }
};

struct FilterPattern : OpConversionPattern<FilterOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(FilterOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value random = valueOf(adaptor.getRandom());
    ReferenceBuilder b(op.getLoc(), rewriter, {random});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    replaceRouting(
        rewriter, b, op,
        filter(b, routing, random, op.getFromSlot(), op.getThreshold().convertToDouble()));
    return success();
  }
};

struct CapacityPattern : OpConversionPattern<CapacityOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(CapacityOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value priority = valueOf(adaptor.getPriority());
    ReferenceBuilder b(op.getLoc(), rewriter, {priority});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    Groups groups = groupsOf(b, b.size(routing.slots, 0), valueOf(adaptor.getGroupSize()));
    CapacityOptions options = {op.getCapacity(), op.getOrder(), op.getKept(), priority};
    replaceRouting(rewriter, b, op, limit(b, routing, options, groups));
    return success();
  }
};

struct ComposePattern : OpConversionPattern<ComposeOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ComposeOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {});
    SmallVector<Routing> inner;
    for (auto [original, converted] : llvm::zip(op.getInner(), adaptor.getInner()))
      inner.push_back(routingOf(original, converted));
    int64_t k = op.getResult().getType().getK();
    replaceRouting(rewriter, b, op,
                   compose(b, routingOf(op.getOuter(), adaptor.getOuter()), inner, k));
    return success();
  }
};

struct TreeSelectPattern : OpConversionPattern<TreeSelectOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(TreeSelectOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value x = valueOf(adaptor.getX());
    Trees trees = {valueOf(adaptor.getNodeWeight()),  valueOf(adaptor.getNodeBias()),
                   valueOf(adaptor.getLeafWeight()),  valueOf(adaptor.getLeafBias()),
                   valueOf(adaptor.getPermutation()), op.getRouting().getType().getExperts(),
                   op.getGamma().convertToDouble(),   op.getLogEps().convertToDouble(),
                   op.getPMin().convertToDouble()};
    ReferenceBuilder b(op.getLoc(), rewriter, {x, trees.nodeWeight, trees.leafWeight});
    auto [routing, visited] = treeSelect(b, x, trees);
    SmallVector<SmallVector<Value>> results = {valuesOf(b, routing)};
    if (op.getVisited())
      results.push_back({castTo(b, visited, op.getVisited().getType())});
    rewriter.replaceOpWithMultiple(op, std::move(results));
    return success();
  }
};

struct BlendPattern : OpConversionPattern<BlendOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(BlendOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value source = valueOf(adaptor.getSource()), shared = valueOf(adaptor.getSharedSource());
    ReferenceBuilder b(op.getLoc(), rewriter, {source, shared});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    auto [weights, sharedWeights] =
        blend(b, routing, source, shared, op.getMode(), elementTypeOf(op.getSharedWeights()));
    routing.weights = weights;
    SmallVector<SmallVector<Value>> results = {
        valuesOf(b, routing), {castTo(b, sharedWeights, op.getSharedWeights().getType())}};
    rewriter.replaceOpWithMultiple(op, std::move(results));
    return success();
  }
};

struct RemapPattern : OpConversionPattern<RemapOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(RemapOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    ReferenceBuilder b(op.getLoc(), rewriter, {});
    Routing routing = routingOf(op.getRouting(), adaptor.getRouting());
    replaceRouting(rewriter, b, op,
                   remap(b, routing, valueOf(adaptor.getMap()), op.getPolicy(),
                         op.getResult().getType().getExperts()));
    return success();
  }
};

struct GatingPattern : OpConversionPattern<GatingOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(GatingOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value logits = valueOf(adaptor.getLogits()), bias = valueOf(adaptor.getBias()),
          source = valueOf(adaptor.getSource()), scale = valueOf(adaptor.getExpertScale());
    ReferenceBuilder b(op.getLoc(), rewriter, {logits, bias, source, scale});
    Value scores = score(b, logits, op.getScore(), Axis::Experts, /*groupSize=*/{}, b.getReal());
    Candidates from = candidates(b, scores, bias, valueOf(adaptor.getTokenMask()),
                                 valueOf(adaptor.getExpertMask()));
    from = limitedToGroups(b, from, expertGroupsOf(op));
    RoutingType type = op.getRouting().getType();
    Routing routing = {select(b, from, selectOptionsOf(op)), {}, type.getExperts(), type.getK()};

    if (op.getWeighSource() == WeighSource::Score)
      source = scores;
    else if (op.getWeighSource() == WeighSource::Logit)
      source = logits;
    routing.weights =
        weigh(b, routing, source, valueOf(adaptor.getSourceBias()), weighOptionsOf(op, scale));
    if (op.getCapacity()) {
      CapacityOptions options = {*op.getCapacity(), *op.getOrder(), type.getK(), {}};
      Groups all = groupsOf(b, b.size(routing.slots, 0), /*groupSize=*/{});
      routing = limit(b, routing, options, all);
    }
    replaceRouting(rewriter, b, op, routing);
    return success();
  }
};

} // namespace

void reference::populateRoutingPatterns(const TypeConverter &converter,
                                        RewritePatternSet &patterns) {
  patterns.add<LogitsPattern, ScorePattern, SelectPattern, GivenPattern, WeighPattern,
               FilterPattern, CapacityPattern, ComposePattern, TreeSelectPattern, BlendPattern,
               RemapPattern, GatingPattern>(converter, patterns.getContext());
}

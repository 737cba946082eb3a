// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Folders and canonicalizations of the moe dialect. Each says why it is right; what it
// changes is at most the rounding of results.

#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;

/// identity(L) = L.
OpFoldResult ScoreOp::fold(FoldAdaptor) {
  bool same = getFn() == ScoreFn::Identity && getLogits().getType() == getScores().getType();
  return same ? OpFoldResult(getLogits()) : OpFoldResult();
}

//===----------------------------------------------------------------------===//
// What is known of slots
//===----------------------------------------------------------------------===//

/// True when nothing that is made of the routing depends on the order of its slots, nor
/// on empty slots among them, but for the rounding of sums.
static bool ignoresSlotOrder(Value routing) {
  return llvm::all_of(routing.getUsers(), [](Operation *user) {
    if (auto weigh = dyn_cast<WeighOp>(user))
      return weigh.getFn() != WeighFn::MaskedSoftmax && ignoresSlotOrder(weigh.getResult());
    if (auto blend = dyn_cast<BlendOp>(user))
      return ignoresSlotOrder(blend.getResult());
    if (auto capacity = dyn_cast<CapacityOp>(user))
      return capacity.getOrder() == CapacityOrder::PerExpert &&
             ignoresSlotOrder(capacity.getResult());
    if (auto aux = dyn_cast<AuxOp>(user))
      return aux.getFraction().value_or(AuxFraction::All) == AuxFraction::All;
    return isa<DispatchOp, GroupedMatmulOp, ExpertFFNOp, CombineOp, ExpertsOp>(user);
  });
}

/// True when the slots of a token's entries are known to be 0, 1, ….
static bool hasDenseSlots(Value routing) {
  Operation *producer = routing.getDefiningOp();
  if (auto weigh = dyn_cast_or_null<WeighOp>(producer))
    return hasDenseSlots(weigh.getRouting());
  if (auto blend = dyn_cast_or_null<BlendOp>(producer))
    return hasDenseSlots(blend.getRouting());
  if (auto select = dyn_cast_or_null<SelectOp>(producer))
    return select.getMode() != SelectMode::All || !select.isMasked();
  return isa_and_present<CapacityOp, ComposeOp, RemapOp, TreeSelectOp>(producer);
}

namespace {

//===----------------------------------------------------------------------===//
// Biases
//===----------------------------------------------------------------------===//

/// x + 0 = x.
template <typename OpT> struct EraseZeroBias : OpRewritePattern<OpT> {
  using OpRewritePattern<OpT>::OpRewritePattern;

  LogicalResult matchAndRewrite(OpT op, PatternRewriter &rewriter) const override {
    if (!op.getBias())
      return rewriter.notifyMatchFailure(op, "no bias");
    if (!matchPattern(op.getBias(), m_AnyZeroFloat()))
      return rewriter.notifyMatchFailure(op, "the bias is not a constant of zeros");
    rewriter.modifyOpInPlace(op, [&] { op.getBiasMutable().clear(); });
    return success();
  }
};

/// A selection of all experts looks at no key, so it needs no bias.
struct EraseBiasOfAll : OpRewritePattern<SelectOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(SelectOp op, PatternRewriter &rewriter) const override {
    if (op.getMode() != SelectMode::All || !op.getBias())
      return rewriter.notifyMatchFailure(op, "not a selection of all experts with a bias");
    rewriter.modifyOpInPlace(op, [&] { op.getBiasMutable().clear(); });
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Selection
//===----------------------------------------------------------------------===//

/// Softmax, then top-k, then division by the sum of the kept weights equals top-k on
/// the logits and a softmax over the kept ones (softmax is monotone, and its
/// denominator cancels): exponentiates k values instead of E. Only for norm_eps = 0,
/// where both are equal, and without a bias, which would change the order. Masks and
/// scales per expert do not matter; sums over groups of experts do.
struct NormalizeAfterSelect : OpRewritePattern<WeighOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(WeighOp op, PatternRewriter &rewriter) const override {
    auto select = op.getRouting().getDefiningOp<SelectOp>();
    if (!select)
      return rewriter.notifyMatchFailure(op, "routing is not produced by moe.select");
    auto score = op.getSource() ? op.getSource().getDefiningOp<ScoreOp>() : ScoreOp();
    if (!score || score.getFn() != ScoreFn::Softmax || score.getAxis() != Axis::Experts)
      return rewriter.notifyMatchFailure(op, "weights are not a softmax over the experts");
    if (getElementTypeOrSelf(score.getScores()).getIntOrFloatBitWidth() < 32)
      return rewriter.notifyMatchFailure(op, "rounding the score to less than f32 makes ties");
    if (select.getKey() != score.getScores() || select.getBias())
      return rewriter.notifyMatchFailure(op, "selection is not by the unbiased score");
    SelectMode mode = select.getMode();
    if ((mode != SelectMode::TopK && mode != SelectMode::All) || select.isGrouped())
      return rewriter.notifyMatchFailure(op, "the selection is neither a plain topk nor all");
    if (op.getFn() != WeighFn::None || op.getNorm() != WeighNorm::Sum || !op.getNormEps().isZero())
      return rewriter.notifyMatchFailure(op, "not normalised by the plain sum");
    if (op.getBias())
      return rewriter.notifyMatchFailure(op, "the weights have a bias");
    if (!select->hasOneUse())
      return rewriter.notifyMatchFailure(op, "the selection has other users");

    rewriter.modifyOpInPlace(select, [&] { select.getKeyMutable().assign(score.getLogits()); });
    rewriter.modifyOpInPlace(op, [&] {
      op.getSourceMutable().assign(score.getLogits());
      op.setFn(WeighFn::Softmax);
      op.setNorm(WeighNorm::None);
    });
    return success();
  }
};

/// The k = E largest are all of them; only the order of the slots differs.
struct TopKOfAll : OpRewritePattern<SelectOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(SelectOp op, PatternRewriter &rewriter) const override {
    if (op.getMode() != SelectMode::TopK)
      return rewriter.notifyMatchFailure(op, "not a top-k selection");
    if (op.getRouting().getType().getExperts() != int64_t(op.getK()))
      return rewriter.notifyMatchFailure(op, "k < E");
    if (op.isGrouped())
      return rewriter.notifyMatchFailure(op, "groups of experts are dropped");
    if (!ignoresSlotOrder(op.getRouting()))
      return rewriter.notifyMatchFailure(op, "a user may depend on the order of the slots");
    rewriter.modifyOpInPlace(op, [&] {
      op.setMode(SelectMode::All);
      op.setTieBreak(TieBreak::Lower);
      op.getBiasMutable().clear();
    });
    return success();
  }
};

/// Top-p takes k experts when p ≥ 1, by definition.
struct TopPOfOne : OpRewritePattern<SelectOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(SelectOp op, PatternRewriter &rewriter) const override {
    if (op.getMode() != SelectMode::TopP || op.getP()->convertToDouble() < 1)
      return rewriter.notifyMatchFailure(op, "not a top-p selection with p ≥ 1");
    rewriter.modifyOpInPlace(op, [&] {
      op.setMode(SelectMode::TopK);
      op.removePAttr();
    });
    return success();
  }
};

/// When every group stays, no expert is masked or filled.
struct EraseGroups : OpRewritePattern<SelectOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(SelectOp op, PatternRewriter &rewriter) const override {
    if (!op.isGrouped() || op.getTopkGroup() != op.getNGroup())
      return rewriter.notifyMatchFailure(op, "no groups, or some are dropped");
    rewriter.modifyOpInPlace(op, [&] {
      op.setNGroup(1);
      op.setTopkGroup(1);
      op.setGroupScore(GroupScore::Max);
      op.setGroupFill(GroupFill::NegInf);
    });
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

/// w · scale · v = w · (scale · v) for the same v at every expert.
struct FoldUniformExpertScale : OpRewritePattern<WeighOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(WeighOp op, PatternRewriter &rewriter) const override {
    DenseFPElementsAttr scales;
    if (!op.getExpertScale() || !matchPattern(op.getExpertScale(), m_Constant(&scales)))
      return rewriter.notifyMatchFailure(op, "no constant scale per expert");
    if (!scales.isSplat())
      return rewriter.notifyMatchFailure(op, "the scales differ");
    double scale = scales.getSplatValue<APFloat>().convertToDouble();
    rewriter.modifyOpInPlace(op, [&] {
      op.setScale(APFloat(op.getScale().convertToDouble() * scale));
      op.getExpertScaleMutable().clear();
    });
    return success();
  }
};

/// w · scale · s[e] = w · (scale · s[e]); only scales of at least f32, so that a product
/// is not rounded to less than the weights are.
struct FoldScaleIntoExpertScale : OpRewritePattern<WeighOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(WeighOp op, PatternRewriter &rewriter) const override {
    DenseFPElementsAttr scales;
    if (op.getScale().isExactlyValue(1.0))
      return rewriter.notifyMatchFailure(op, "no scale");
    if (!op.getExpertScale() || !matchPattern(op.getExpertScale(), m_Constant(&scales)))
      return rewriter.notifyMatchFailure(op, "no constant scale per expert");
    auto type = cast<FloatType>(scales.getElementType());
    if (type.getWidth() < 32)
      return rewriter.notifyMatchFailure(op, "the scales are rounded to less than f32");
    double scale = op.getScale().convertToDouble();
    auto product = [&](const APFloat &value) {
      return FloatAttr::get(type, value.convertToDouble() * scale).getValue();
    };
    SmallVector<APFloat> products = llvm::map_to_vector(scales.getValues<APFloat>(), product);
    auto folded = DenseElementsAttr::get(scales.getType(), products);
    Value constant = arith::ConstantOp::create(rewriter, op.getLoc(), folded);
    rewriter.modifyOpInPlace(op, [&] {
      op.getExpertScaleMutable().assign(constant);
      op.setScale(APFloat(1.0));
    });
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Capacity
//===----------------------------------------------------------------------===//

/// True when the capacity is at least the number of tokens T for every T < 2³¹. With
/// the value c · T in exact arithmetic, the f64 value is at least T when no factor makes
/// it smaller (rounding is monotone), or when c exceeds 1 by more than all roundings (few
/// factors, none of them extreme).
bool isAtLeastTokens(CapacityAttr capacity, int64_t experts, int64_t k) {
  if (capacity.getTerms().size() > 16)
    return false;
  int tokens = 0;
  double factor = 1;
  bool neverSmaller = true;
  for (const CapacityTerm &term : capacity.getTerms()) {
    if (term.kind == CapacityTerm::Tokens) {
      tokens += term.divides ? -1 : 1;
      continue;
    }
    double value = term.kind == CapacityTerm::Number    ? term.number
                   : term.kind == CapacityTerm::Experts ? double(experts)
                                                        : double(k);
    if (value < 1e-9 || value > 1e9)
      return false;
    factor = term.divides ? factor / value : factor * value;
    neverSmaller &= term.divides ? value <= 1 : value >= 1;
  }
  return tokens == 1 && (neverSmaller || factor > 1 + 1e-9);
}

/// A token chooses an expert once, so that an expert has at most T entries: with room for
/// as many, every entry stays. Without groups of tokens, whose size must be checked at
/// run time.
struct EraseCapacity : OpRewritePattern<CapacityOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(CapacityOp op, PatternRewriter &rewriter) const override {
    RoutingType type = op.getRouting().getType();
    if (op.getGroupSize())
      return rewriter.notifyMatchFailure(op, "the size of the groups is to be checked");
    if (op.getKept() != type.getK())
      return rewriter.notifyMatchFailure(op, "a token keeps fewer entries than it has");
    if (!isAtLeastTokens(op.getCapacity(), type.getExperts(), type.getK()))
      return rewriter.notifyMatchFailure(op, "the capacity may bind");
    if (!hasDenseSlots(op.getRouting()) && !ignoresSlotOrder(op.getResult()))
      return rewriter.notifyMatchFailure(op, "the slots may have to be renumbered");
    rewriter.replaceOp(op, op.getRouting());
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Kinds of experts
//===----------------------------------------------------------------------===//

/// Neighbours of the same kind are one range, and networks alone need no kinds.
template <typename OpT> struct SimplifyKinds : OpRewritePattern<OpT> {
  using OpRewritePattern<OpT>::OpRewritePattern;

  LogicalResult matchAndRewrite(OpT op, PatternRewriter &rewriter) const override {
    if (!op.getKinds())
      return rewriter.notifyMatchFailure(op, "all experts are networks");
    SmallVector<Attribute> merged;
    for (auto kind : op.getKindsAttr().template getAsRange<ExpertKindAttr>()) {
      auto last = merged.empty() ? ExpertKindAttr() : cast<ExpertKindAttr>(merged.back());
      if (last && last.getKind() == kind.getKind())
        merged.back() =
            ExpertKindAttr::get(op.getContext(), kind.getKind(), last.getCount() + kind.getCount());
      else
        merged.push_back(kind);
    }
    bool isPlain =
        merged.size() == 1 && cast<ExpertKindAttr>(merged[0]).getKind() == ExpertKind::FFN;
    if (!isPlain && merged.size() == op.getKindsAttr().size())
      return rewriter.notifyMatchFailure(op, "neighbours differ");
    rewriter.modifyOpInPlace(
        op, [&] { op.setKindsAttr(isPlain ? ArrayAttr() : rewriter.getArrayAttr(merged)); });
    return success();
  }
};

} // namespace

/// w · 1 = w: without a source, a norm or a scale nothing is left to do.
OpFoldResult WeighOp::fold(FoldAdaptor) {
  bool same = !getSource() && getNorm() == WeighNorm::None && !getExpertScale() &&
              getScale().isExactlyValue(1.0);
  return same ? OpFoldResult(getRouting()) : OpFoldResult();
}

void LogitsOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<EraseZeroBias<LogitsOp>>(context);
}

void LinearOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<EraseZeroBias<LinearOp>>(context);
}

void SelectOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<EraseZeroBias<SelectOp>, EraseBiasOfAll, TopKOfAll, TopPOfOne, EraseGroups>(context);
}

void WeighOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<EraseZeroBias<WeighOp>, NormalizeAfterSelect, FoldUniformExpertScale,
               FoldScaleIntoExpertScale>(context);
}

void CapacityOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<EraseCapacity>(context);
}

void ExpertFFNOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<SimplifyKinds<ExpertFFNOp>>(context);
}

void ExpertsOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<SimplifyKinds<ExpertsOp>>(context);
}

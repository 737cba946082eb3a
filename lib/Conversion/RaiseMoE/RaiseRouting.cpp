// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The routers behind routings, as moe ops.

#include "NodeBuilder.h"
#include "Router.h"
#include "Routing.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

namespace {

/// Replaces one routing that `buildRouting` made from ids.
struct RouterBuilder : NodeBuilder {
  RouterBuilder(RewriterBase &rewriter, Location loc) : NodeBuilder(rewriter, loc) {}

  /// [T, E]; the same op for the same scores.
  Value score(const ScoredTensor &scores, int64_t experts);
  Value select(const Selection &selection);
  Value weigh(Value selected, const SlotWeights &weights, int64_t experts);
  Value limit(Value routing, const CapacityMask &mask);

private:
  Value vector(Value value, int64_t size);

  SmallVector<ScoreOp> scoreOps;
};

} // namespace

/// [E] of a float type, whatever its shape was.
Value RouterBuilder::vector(Value value, int64_t size) {
  if (!value)
    return {};
  auto type = cast<RankedTensorType>(value.getType());
  if (type.getRank() == 1)
    return value;
  return node("Reshape", type.clone(ArrayRef(size)), {value, constant(ArrayRef(size))}, 14);
}

Value RouterBuilder::score(const ScoredTensor &scores, int64_t experts) {
  Value logits = reshape(scores.logits, {experts});
  if (scores.fn == ScoreFn::Identity)
    return logits;
  Type type = cast<RankedTensorType>(logits.getType()).clone(scores.elementType);
  for (ScoreOp op : scoreOps)
    if (op.getLogits() == logits && op.getFn() == scores.fn && op.getType() == type)
      return op;
  scoreOps.push_back(ScoreOp::create(rewriter, loc, type, logits, scores.fn));
  return scoreOps.back();
}

Value RouterBuilder::select(const Selection &selection) {
  int64_t experts = selection.experts;
  auto op = SelectOp::create(rewriter, loc, score(selection.key, experts),
                             vector(selection.key.bias, experts), SelectMode::TopK, selection.k);
  op.setTieBreak(selection.tieBreak);
  if (selection.isGrouped()) {
    op.setNGroup(selection.numGroups);
    op.setTopkGroup(selection.topGroups);
    op.setGroupScore(selection.groupScore);
    op.setGroupFill(selection.groupFill);
  }
  return op;
}

Value RouterBuilder::weigh(Value selected, const SlotWeights &weights, int64_t experts) {
  auto op = WeighOp::create(rewriter, loc, selected, score(weights.source, experts), weights.fn,
                            weights.norm, weights.eps, weights.normEps, weights.scale);
  if (Value bias = vector(weights.source.bias, experts))
    op.getBiasMutable().assign(bias);
  if (weights.expertScale)
    op.getExpertScaleMutable().assign(weights.expertScale);
  if (weights.normP)
    op.setNormPAttr(rewriter.getF64FloatAttr(*weights.normP));
  return op;
}

/// The weights that were scattered into the source [T, E] of a built routing.
static Value getScattered(WeighOp weigh, Value ids) {
  NodeOp scatter = getNode(weigh.getSource(), "ScatterElements");
  bool isBuilt = scatter && scatter.getInput(1) == ids && weigh.getFn() == WeighFn::None &&
                 weigh.getNorm() == WeighNorm::None && !weigh.getBias() &&
                 getSplat(scatter.getInput(0)) == 0.0;
  return isBuilt ? scatter.getInput(2) : Value();
}

/// Replaces `moe.given` and the `moe.weigh`s of it.
static void raiseGiven(RewriterBase &rewriter, GivenOp given) {
  Location loc = given.getLoc();
  Refusal refusal;
  int64_t experts = cast<RoutingType>(given.getType()).getExperts();
  FailureOr<Selection> selection = matchSelection(given.getIds(), experts, refusal);
  if (failed(selection))
    return emitNotRaised(loc, "the router of a MoE block is not recognised", refusal);
  // Without its weights the selection would be computed twice.
  SmallVector<std::pair<WeighOp, SlotWeights>> weighs;
  for (Operation *user : given->getUsers()) {
    auto weigh = dyn_cast<WeighOp>(user);
    Value weights = weigh && weigh.getSource() ? getScattered(weigh, given.getIds()) : Value();
    if (!weights)
      continue;
    FailureOr<SlotWeights> read = matchSlotWeights(weights, *selection, refusal);
    if (failed(read))
      return emitNotRaised(loc, "the weights of a MoE block are not recognised", refusal);
    weighs.push_back({weigh, *read});
  }
  rewriter.setInsertionPoint(given);
  RouterBuilder builder(rewriter, loc);
  Value selected = builder.select(*selection);
  for (auto &[weigh, weights] : weighs) {
    rewriter.setInsertionPoint(weigh);
    RouterBuilder here = builder; // What it adds need not dominate the next one.
    rewriter.replaceOp(weigh, here.weigh(selected, weights, experts));
  }
  rewriter.replaceOp(given, selected);
}

Value RouterBuilder::limit(Value routing, const CapacityMask &mask) {
  auto counted = cast<RankedTensorType>(mask.counted.getType());
  bool isStatic = mask.groupDim >= 0 && !counted.isDynamicDim(mask.groupDim);
  if (isStatic && counted.getDimSize(mask.groupDim) <= mask.capacity)
    return routing; // There is always room.
  Value groupSize;
  if (mask.groupDim >= 0)
    groupSize = tensor::DimOp::create(rewriter, loc, mask.counted, mask.groupDim);
  return buildCapacity(rewriter, loc, routing, getCapacity(rewriter.getContext(), mask.capacity),
                       groupSize);
}

/// The weights [T, 1] that `buildRouting` repeated for all experts.
static Value getSpread(Value source) {
  NodeOp expand = getNode(source, "Expand");
  return expand && getLastDim(expand.getInput(0)) == 1 ? expand.getInput(0) : Value();
}

/// Replaces a selection of all experts under a mask, and its `moe.weigh`s.
static void raiseMasked(RewriterBase &rewriter, SelectOp select) {
  Location loc = select.getLoc();
  int64_t experts = cast<RoutingType>(select.getType()).getExperts();
  Refusal refusal;
  FailureOr<CapacityMask> mask = matchCapacityMask(select.getExpertMask(), experts, refusal);
  if (failed(mask))
    return emitNotRaised(loc, "the router of a MoE block is not recognised", refusal);
  FailureOr<Selection> selection = matchSelection(mask->ids, experts, refusal);
  if (failed(selection))
    return emitNotRaised(loc, "the router of a MoE block is not recognised", refusal);
  if (selection->k != 1)
    return; // The mask would be of several slots.

  rewriter.setInsertionPoint(select);
  RouterBuilder builder(rewriter, loc);
  Value selected = builder.select(*selection);
  for (Operation *user : llvm::make_early_inc_range(select->getUsers())) {
    auto weigh = dyn_cast<WeighOp>(user);
    Value weights = weigh && weigh.getSource() ? getSpread(weigh.getSource()) : Value();
    if (!weights)
      continue;
    rewriter.setInsertionPoint(weigh);
    FailureOr<SlotWeights> read = matchSlotWeights(weights, *selection, refusal);
    Value weighted;
    if (succeeded(read))
      weighted = RouterBuilder(builder).weigh(selected, *read, experts);
    else // One weight per token is right at any expert.
      weighted = WeighOp::create(rewriter, loc, selected, weigh.getSource(), WeighFn::None,
                                 WeighNorm::None);
    rewriter.replaceOp(weigh, builder.limit(weighted, *mask));
  }
  rewriter.setInsertionPoint(select);
  if (!select.use_empty())
    rewriter.replaceOp(select, builder.limit(selected, *mask));
}

void mlir::moe::raiseRoutings(RewriterBase &rewriter, Operation *root) {
  SmallVector<GivenOp> givens;
  SmallVector<SelectOp> masked;
  auto isComputed = [](Value value) { return value && value.getDefiningOp<NodeOp>(); };
  root->walk([&](GivenOp given) {
    if (isComputed(given.getIds()))
      givens.push_back(given);
  });
  root->walk([&](SelectOp select) {
    if (select.getMode() == SelectMode::All && isComputed(select.getExpertMask()))
      masked.push_back(select);
  });
  for (GivenOp given : givens)
    raiseGiven(rewriter, given);
  for (SelectOp select : masked)
    raiseMasked(rewriter, select);
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From the logits to a weighted routing: builders, verifiers and shapes. Folders and
// canonicalizations: MoEFolds.cpp.

#include "Verify.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// LogitsOp, ScoreOp
//===----------------------------------------------------------------------===//

void LogitsOp::build(OpBuilder &builder, OperationState &state, Type type, Value x, Value weight,
                     Value bias, Layout layout) {
  build(builder, state, type, x, weight, bias, /*noise=*/Value(), layout, /*softcap=*/FloatAttr());
}

LogicalResult LogitsOp::verify() {
  bool outIn = getLayout() == Layout::OutIn;
  int64_t e = dim(getWeight(), outIn ? 0 : 1), h = dim(getWeight(), outIn ? 1 : 0);
  if (failed(checkDim(*this, "C1", "H of x and the weight", dim(getX(), 1), h)) ||
      failed(checkDim(*this, "C2", "E of the logits and the weight", dim(getLogits(), 1), e)) ||
      failed(checkDim(*this, "C2", "T of the logits and x", dim(getLogits(), 0), dim(getX(), 0))) ||
      failed(checkVector(*this, "C3", "E of the bias and the weight", getBias(), e)))
    return failure();
  if (getNoise() && failed(checkDims(*this, "C4",
                                     {{"T of the noise", dim(getNoise(), 0), dim(getX(), 0)},
                                      {"E of the noise", dim(getNoise(), 1), e}})))
    return failure();
  if (getSoftcap() && !(getSoftcap()->convertToDouble() > 0))
    return emitOpError() << "C5: the softcap is not positive";
  return success();
}

LogicalResult LogitsOp::reifyResultShapes(OpBuilder &builder, ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getX(), getLogits(), shapes);
}

void ScoreOp::build(OpBuilder &builder, OperationState &state, Type type, Value logits, ScoreFn fn,
                    Axis axis) {
  build(builder, state, type, logits, /*group_size=*/Value(), fn, axis);
}

LogicalResult ScoreOp::verify() {
  for (unsigned i : {0, 1})
    if (failed(checkDim(*this, "C1", "dimension " + Twine(i) + " of logits and scores",
                        dim(getScores(), i), dim(getLogits(), i))))
      return failure();
  if (getGroupSize() && (getFn() != ScoreFn::Softmax || getAxis() != Axis::Tokens))
    return emitOpError() << "C2: a group size needs a softmax over the tokens";
  return success();
}

LogicalResult ScoreOp::reifyResultShapes(OpBuilder &builder, ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getLogits(), getScores(), shapes);
}

//===----------------------------------------------------------------------===//
// Constraints that moe.gating shares
//===----------------------------------------------------------------------===//

/// Whether experts are taken in falling order of their keys.
static bool isSorted(SelectMode mode) {
  return mode == SelectMode::TopK || mode == SelectMode::TopP || mode == SelectMode::Threshold;
}

/// C5, C6 of moe.select, C4 of moe.gating.
template <typename OpT>
static LogicalResult verifyMasks(OpT op, Value rows, int64_t experts, StringRef token,
                                 StringRef expert) {
  if (failed(checkVector(op, token, "T of token_mask", op.getTokenMask(), dim(rows, 0))))
    return failure();
  Value mask = op.getExpertMask();
  if (!mask)
    return success();
  unsigned rank = cast<ShapedType>(mask.getType()).getRank();
  if (rank == 2 && failed(checkDim(op, expert, "T of expert_mask", dim(mask, 0), dim(rows, 0))))
    return failure();
  return checkDim(op, expert, "E of expert_mask", dim(mask, rank - 1), experts);
}

/// Names of the constraints on how experts are selected.
struct SelectConstraints {
  const char *all, *groups, *groupMode, *groupSize, *p, *tau, *tie;
};

template <typename OpT> static LogicalResult verifyGroups(OpT op, const SelectConstraints &names) {
  int64_t experts = op.getRouting().getType().getExperts();
  int64_t groups = op.getNGroup(), kept = op.getTopkGroup(), k = op.getK();
  if (groups < 1 || experts % groups)
    return op.emitOpError() << names.groups << ": n_group = " << groups
                            << " does not divide E = " << experts;
  if (kept < 1 || kept > groups)
    return op.emitOpError() << names.groups << ": topk_group = " << kept
                            << " is not between 1 and n_group = " << groups;
  if (groups == 1)
    return success();
  if (!isSorted(op.getMode()))
    return op.emitOpError() << names.groupMode << ": groups need topk, topp or threshold";
  if (op.getGroupFill() == GroupFill::NegInf && k > kept * (experts / groups))
    return op.emitOpError() << names.groupSize << ": k = " << k << " exceeds the "
                            << kept * (experts / groups) << " experts of the groups that stay";
  return success();
}

/// Mode, groups, p, tau and tie_break.
template <typename OpT>
static LogicalResult verifySelection(OpT op, const SelectConstraints &names) {
  SelectMode mode = op.getMode();
  int64_t k = op.getK(), experts = op.getRouting().getType().getExperts();
  if (!isSorted(mode) && k != experts)
    return mismatch(op, names.all, "k of a selection of all experts", k, experts);
  if (failed(verifyGroups(op, names)))
    return failure();
  bool hasP = op.getP() && op.getP()->convertToDouble() > 0;
  if (failed(checkGoesWith(op, names.p, "a positive p", hasP, "mode = topp",
                           mode == SelectMode::TopP)) ||
      failed(checkGoesWith(op, names.p, "p", bool(op.getP()), "mode = topp", hasP)))
    return failure();
  bool hasTau = op.getTau() && !op.getTau()->isNaN();
  if (failed(checkGoesWith(op, names.tau, "a tau that is a number", hasTau, "mode = threshold",
                           mode == SelectMode::Threshold)) ||
      failed(checkGoesWith(op, names.tau, "tau", bool(op.getTau()), "mode = threshold", hasTau)))
    return failure();
  if (op.getTieBreak() == TieBreak::Higher && !isSorted(mode))
    return op.emitOpError() << names.tie << ": tie_break = higher needs topk, topp or threshold";
  return success();
}

/// Names of the constraints on how entries are weighed.
struct WeighConstraints {
  const char *masked, *clamp, *pnorm;
};

template <typename OpT> static LogicalResult verifyWeighing(OpT op, const WeighConstraints &names) {
  if (op.getFn() == WeighFn::MaskedSoftmax && !(op.getEps().convertToDouble() > 0))
    return op.emitOpError() << names.masked << ": masked_softmax needs eps > 0";
  if (op.getNorm() == WeighNorm::Clamp && !(op.getNormEps().convertToDouble() > 0))
    return op.emitOpError() << names.clamp << ": clamp needs norm_eps > 0";
  bool hasNormP = op.getNormP() && op.getNormP()->convertToDouble() > 0;
  if (failed(checkGoesWith(op, names.pnorm, "a positive norm_p", hasNormP, "norm = pnorm",
                           op.getNorm() == WeighNorm::PNorm)))
    return failure();
  return checkGoesWith(op, names.pnorm, "norm_p", bool(op.getNormP()), "norm = pnorm", hasNormP);
}

//===----------------------------------------------------------------------===//
// SelectOp, GivenOp, EntriesOp
//===----------------------------------------------------------------------===//

void SelectOp::build(OpBuilder &builder, OperationState &state, Value key, Value bias,
                     SelectMode mode, int64_t k) {
  build(builder, state, key, bias, /*token_mask=*/Value(), /*expert_mask=*/Value(),
        /*group_size=*/Value(), mode, k, /*p=*/FloatAttr(), /*tau=*/FloatAttr(),
        /*capacity=*/CapacityAttr());
}

LogicalResult SelectOp::inferReturnTypes(MLIRContext *context, std::optional<Location> loc,
                                         Adaptor adaptor, SmallVectorImpl<Type> &results) {
  auto key = dyn_cast<RankedTensorType>(adaptor.getKey().getType());
  if (!key || key.getRank() != 2 || key.isDynamicDim(1))
    return emitOptionalError(loc, "C2: the number of experts E must be static, got ",
                             adaptor.getKey().getType());
  int64_t k = adaptor.getK(), experts = key.getDimSize(1);
  if (k < 1 || k > experts)
    return emitOptionalError(loc, "C1: k = ", k, " is not between 1 and E = ", experts);
  results.push_back(RoutingType::get(context, experts, k, /*weighted=*/false));
  return success();
}

LogicalResult SelectOp::verify() {
  int64_t experts = dim(getKey(), 1);
  bool byExperts = getMode() == SelectMode::ExpertTopK;
  if (failed(checkVector(*this, "C3", "E of the bias", getBias(), experts)) ||
      failed(verifyMasks(*this, getKey(), experts, "C5", "C6")) ||
      failed(verifySelection(*this, {"C4", "C7", "C8", "C9", "C10", "C11", "C13"})) ||
      failed(checkGoesWith(*this, "C12", "capacity", bool(getCapacity()), "mode = expert_topk",
                           byExperts)))
    return failure();
  if (getGroupSize() && !byExperts)
    return emitOpError() << "C12: a group size needs mode = expert_topk";
  return success();
}

LogicalResult GivenOp::verify() {
  RoutingType type = routingOf(getRouting());
  if (failed(checkDim(*this, "C1", "k of ids", dim(getIds(), 1), type.getK())))
    return failure();
  return type.getWeighted() ? emitOpError() << "C2: the routing is weighted" : success();
}

LogicalResult EntriesOp::verify() {
  RoutingType type = getRouting().getType();
  if (failed(checkDim(*this, "C1", "k of ids", dim(getIds(), 1), type.getK())))
    return failure();
  if (type.getWeighted() != bool(getWeights()))
    return emitOpError() << "C2: the routing is " << (type.getWeighted() ? "" : "not ")
                         << "weighted";
  return getWeights() ? checkDim(*this, "C1", "k of weights", dim(getWeights(), 1), type.getK())
                      : success();
}

LogicalResult EntriesOp::reifyResultShapes(OpBuilder &builder,
                                           ReifiedRankedShapedTypeDims &shapes) {
  SmallVector<OpFoldResult> shape = {getTokens(),
                                     builder.getIndexAttr(getRouting().getType().getK())};
  shapes.assign((*this)->getNumResults(), shape);
  return success();
}

//===----------------------------------------------------------------------===//
// WeighOp, FilterOp, CapacityOp
//===----------------------------------------------------------------------===//

void WeighOp::build(OpBuilder &builder, OperationState &state, Value routing, Value source,
                    WeighFn fn, WeighNorm norm, double eps, double normEps, double scale) {
  RoutingType type = routingOf(routing);
  build(builder, state,
        RoutingType::get(builder.getContext(), type.getExperts(), type.getK(), true), routing,
        source, /*bias=*/Value(), /*expert_scale=*/Value(), fn, llvm::APFloat(eps), norm,
        llvm::APFloat(normEps), /*norm_p=*/FloatAttr(), llvm::APFloat(scale));
}

LogicalResult WeighOp::verify() {
  RoutingType in = routingOf(getRouting()), out = routingOf(getResult());
  int64_t experts = in.getExperts();
  if (getSource() &&
      failed(checkDim(*this, "C1", "columns of the source", dim(getSource(), 1), experts)))
    return failure();
  if (in.getWeighted() == bool(getSource()) || !out.getWeighted() || experts != out.getExperts() ||
      in.getK() != out.getK())
    return emitOpError() << "C2: weighs " << in << " into " << out
                         << (getSource() ? " with" : " without") << " a source";
  if (!getSource() && (getFn() != WeighFn::None || getBias()))
    return emitOpError() << "C4: fn and bias need a source";
  if (failed(checkVector(*this, "C5", "E of the bias", getBias(), experts)) ||
      failed(checkVector(*this, "C5", "E of expert_scale", getExpertScale(), experts)))
    return failure();
  return verifyWeighing(*this, {"C3", "C6", "C7"});
}

LogicalResult FilterOp::verify() {
  RoutingType in = routingOf(getRouting()), out = routingOf(getResult());
  if (in != out || !in.getWeighted())
    return emitOpError() << "C1: filters " << in << " into " << out;
  if (int64_t(getFromSlot()) < 0)
    return emitOpError() << "C2: from_slot = " << int64_t(getFromSlot()) << " is negative";
  if (getThreshold().isNaN())
    return emitOpError() << "C3: the threshold is not a number";
  return success();
}

LogicalResult CapacityOp::verify() {
  RoutingType in = routingOf(getRouting()), out = routingOf(getResult());
  if (in.getExperts() != out.getExperts() || in.getWeighted() != out.getWeighted() ||
      out.getK() != getKept())
    return emitOpError() << "C1: limits " << in << " to " << out << " with keep = " << getKept();
  if (getPriority() && failed(checkDim(*this, "C2", "columns of the priority",
                                       dim(getPriority(), 1), in.getExperts())))
    return failure();
  CapacityOrder order = getOrder();
  bool usesPriority = order == CapacityOrder::BPR || order == CapacityOrder::PerExpert;
  if (usesPriority && !getPriority() && !in.getWeighted())
    return emitOpError() << "C3: order = " << stringifyCapacityOrder(order)
                         << " needs a priority or a weighted routing";
  if (!usesPriority && getPriority())
    return emitOpError() << "C3: order = " << stringifyCapacityOrder(order) << " has no priority";
  if (getKept() > in.getK())
    return emitOpError() << "C4: keep = " << getKept() << " exceeds k = " << in.getK();
  if (getKept() < in.getK() && order == CapacityOrder::PerExpert)
    return emitOpError() << "C4: keep < k needs entries that ask in one order";
  return success();
}

//===----------------------------------------------------------------------===//
// ComposeOp, TreeSelectOp, BlendOp, RemapOp
//===----------------------------------------------------------------------===//

LogicalResult ComposeOp::verify() {
  RoutingType outer = routingOf(getOuter()), result = routingOf(getResult());
  if (outer.getExperts() != int64_t(getInner().size()))
    return mismatch(*this, "C1", "number of inner routings", getInner().size(), outer.getExperts());
  int64_t experts = 0, k = 0;
  for (Value inner : getInner()) {
    RoutingType type = routingOf(inner);
    if (type.getWeighted() != outer.getWeighted())
      return emitOpError() << "C3: some routings are weighted and others are not";
    if (llvm::AddOverflow(experts, type.getExperts(), experts))
      return emitOpError() << "C2: too many experts";
    k = std::max(k, type.getK());
  }
  if (llvm::MulOverflow(k, outer.getK(), k))
    k = experts;
  k = std::min(k, experts);
  if (result.getWeighted() != outer.getWeighted())
    return emitOpError() << "C3: composes " << outer << " into " << result;
  if (failed(checkDim(*this, "C2", "E of the result", result.getExperts(), experts)))
    return failure();
  return checkDim(*this, "C2", "k of the result", result.getK(), k);
}

LogicalResult TreeSelectOp::verify() {
  RoutingType type = routingOf(getRouting());
  Value nodes = getNodeWeight(), leaves = getLeafWeight();
  int64_t h = dim(getX(), 1), trees = dim(nodes, 0), n = type.getExperts();
  if (failed(checkDims(
          *this, "C1",
          {{"H of the nodes", dim(nodes, 2), h}, {"H of the leaves", dim(leaves, 2), h}})) ||
      failed(checkDim(*this, "C2", "R of the leaves", dim(leaves, 0), trees)))
    return failure();
  if (n < 2)
    return emitOpError() << "C3: a tree needs two leaves, got " << n;
  if (failed(checkDims(
          *this, "C3",
          {{"number of leaves", dim(leaves, 1), n}, {"number of nodes", dim(nodes, 1), n - 1}})))
    return failure();
  for (auto [bias, count] : {std::pair(getNodeBias(), n - 1), std::pair(getLeafBias(), n)})
    if (bias && (failed(checkDim(*this, "C2", "R of a bias", dim(bias, 0), trees)) ||
                 failed(checkDim(*this, "C3", "width of a bias", dim(bias, 1), count))))
      return failure();
  if (Value ids = getPermutation()) {
    int64_t rows = dim(ids, 0);
    if ((rows != 1 && !agree(rows, trees)) || !agree(dim(ids, 1), n))
      return emitOpError() << "C4: the permutation is " << ids.getType() << ", expected [" << trees
                           << " or 1, " << n << "]";
  }
  if (!type.getWeighted() || type.getK() != n)
    return emitOpError() << "C5: the routing is " << type << ", expected weighted with k = " << n;
  double pMin = getPMin().convertToDouble();
  if (!(getGamma().convertToDouble() > 0) || !(getLogEps().convertToDouble() >= 0) ||
      !(pMin >= 0 && pMin < 1))
    return emitOpError() << "C6: needs gamma > 0, log_eps ≥ 0 and 0 ≤ p_min < 1";
  return checkVector(*this, "C7", "T of visited", getVisited(), dim(getX(), 0));
}

LogicalResult BlendOp::verify() {
  RoutingType in = routingOf(getRouting()), out = routingOf(getResult());
  if (failed(checkDim(*this, "C1", "columns of the source", dim(getSource(), 1), in.getExperts())))
    return failure();
  bool joint = getMode() == BlendMode::Joint;
  if (in.getWeighted() == joint || !out.getWeighted() || in.getExperts() != out.getExperts() ||
      in.getK() != out.getK())
    return emitOpError() << "C2: blends " << in << " into " << out << " by "
                         << stringifyBlendMode(getMode());
  Value shared = getSharedSource(), weights = getSharedWeights();
  return checkDims(*this, "C3",
                   {{"S of the shared weights", dim(weights, 1), dim(shared, 1)},
                    {"T of the shared weights", dim(weights, 0), dim(shared, 0)},
                    {"T of the source", dim(getSource(), 0), dim(shared, 0)}});
}

LogicalResult RemapOp::verify() {
  RoutingType in = routingOf(getRouting()), out = routingOf(getResult());
  if (failed(checkDim(*this, "C1", "rows of the map", dim(getMap(), 0), in.getExperts())))
    return failure();
  if (in.getWeighted() != out.getWeighted() || out.getK() != std::min(in.getK(), out.getExperts()))
    return emitOpError() << "C2: maps " << in << " to " << out;
  return success();
}

//===----------------------------------------------------------------------===//
// GatingOp
//===----------------------------------------------------------------------===//

void GatingOp::build(OpBuilder &builder, OperationState &state, Type type, Value logits, Value bias,
                     Value source, ScoreFn score, int64_t k, WeighSource weighSource, WeighFn fn) {
  auto &properties = setOperands<GatingOp>(state, {logits, bias, source});
  MLIRContext *context = builder.getContext();
  properties.score = ScoreFnAttr::get(context, score);
  properties.k = builder.getI64IntegerAttr(k);
  properties.weigh_source = WeighSourceAttr::get(context, weighSource);
  properties.fn = WeighFnAttr::get(context, fn);
  state.addTypes(type);
}

LogicalResult GatingOp::verify() {
  RoutingType type = routingOf(getRouting());
  int64_t experts = dim(getLogits(), 1), k = getK();
  if (failed(checkK(*this, k, experts)))
    return failure();
  if (type.getK() != k || !agree(type.getExperts(), experts) || !type.getWeighted())
    return emitOpError() << "C1: k = " << k << " of E = " << experts << " gives " << type;
  if (failed(checkVector(*this, "C2", "E of the bias", getBias(), experts)))
    return failure();
  if (getSource() &&
      failed(checkDims(*this, "C2",
                       {{"columns of the source", dim(getSource(), 1), experts},
                        {"rows of the source", dim(getSource(), 0), dim(getLogits(), 0)}})))
    return failure();
  if (bool(getSource()) != (getWeighSource() == WeighSource::Operand))
    return emitOpError() << "C3: a source operand and weigh_source = operand go together";
  if (getMode() == SelectMode::ExpertTopK)
    return emitOpError() << "C5: expert_topk is not a selection token by token";
  if (failed(verifyMasks(*this, getLogits(), experts, "C4", "C4")) ||
      failed(verifySelection(*this, {"C5", "C5", "C5", "C5", "C5", "C5", "C5"})) ||
      failed(verifyWeighing(*this, {"C6", "C6", "C6"})) ||
      failed(checkVector(*this, "C7", "E of source_bias", getSourceBias(), experts)) ||
      failed(checkVector(*this, "C7", "E of expert_scale", getExpertScale(), experts)) ||
      failed(
          checkGoesWith(*this, "C8", "capacity", bool(getCapacity()), "order", bool(getOrder()))))
    return failure();
  bool counts =
      !getOrder() || *getOrder() == CapacityOrder::Choice || *getOrder() == CapacityOrder::Token;
  return counts ? success() : emitOpError() << "C8: the order is choice or token";
}

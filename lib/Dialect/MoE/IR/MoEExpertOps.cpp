// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From rows to the layer's result: verifiers and shapes.

#include "Verify.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult DispatchOp::verify() {
  if (failed(checkDim(*this, "C1", "H of rows and x", dim(getRows(), 1), dim(getX(), 1))))
    return failure();
  if (getScaleInput() && !routingOf(getRouting()).getWeighted())
    return emitOpError() << "C2: scale_input needs a weighted routing";
  return success();
}

LogicalResult GroupedMatmulOp::verify() {
  bool outIn = getLayout() == Layout::OutIn;
  int64_t e = dim(getWeight(), 0), n = dim(getWeight(), outIn ? 1 : 2),
          k = dim(getWeight(), outIn ? 2 : 1);
  if (failed(checkDim(*this, "C1", "K of the rows and the weight", dim(getRows(), 1), k)) ||
      failed(checkDim(*this, "C2", "N of the result and the weight", dim(getResult(), 1), n)) ||
      failed(checkDim(*this, "C2", "S of the result and the rows", dim(getResult(), 0),
                      dim(getRows(), 0))) ||
      failed(checkDim(*this, "C3", "E of the weight and the routing", e,
                      routingOf(getRouting()).getExperts())))
    return failure();
  if (!getBias())
    return success();
  if (failed(checkDim(*this, "C4", "E of the bias", dim(getBias(), 0), e)))
    return failure();
  return checkDim(*this, "C4", "N of the bias", dim(getBias(), 1), n);
}

LogicalResult LinearOp::verify() {
  bool outIn = getLayout() == Layout::OutIn;
  int64_t n = dim(getWeight(), outIn ? 0 : 1), k = dim(getWeight(), outIn ? 1 : 0);
  if (failed(checkDim(*this, "C1", "K of x and the weight", dim(getX(), 1), k)) ||
      failed(checkDim(*this, "C2", "N of the result and the weight", dim(getResult(), 1), n)) ||
      failed(checkDim(*this, "C2", "T of the result and x", dim(getResult(), 0), dim(getX(), 0))))
    return failure();
  return checkVector(*this, "C3", "N of the bias and the weight", getBias(), n);
}

LogicalResult LinearOp::reifyResultShapes(OpBuilder &builder, ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getX(), getResult(), shapes);
}

LogicalResult ActivateOp::verify() {
  int64_t n = dim(getRows(), 1);
  if (getActivation().isFused()) {
    if (!ShapedType::isDynamic(n) && n % 2)
      return emitOpError() << "C1: " << n << " columns do not hold a gate and a linear part";
    n = ShapedType::isDynamic(n) ? n : n / 2;
  }
  if (failed(checkDim(*this, "C1", "I of the result", dim(getResult(), 1), n)) ||
      failed(checkDim(*this, "C1", "S of the result and the rows", dim(getResult(), 0),
                      dim(getRows(), 0))))
    return failure();
  if (bool(getLinear()) != (getActivation().getGlu() == Glu::Separate))
    return emitOpError() << "C2: a linear operand and glu = separate go together";
  if (getLinear() && getLinear().getType() != getRows().getType())
    return emitOpError() << "C2: linear is " << getLinear().getType() << ", expected "
                         << getRows().getType();
  return success();
}

LogicalResult ActivateOp::reifyResultShapes(OpBuilder &builder,
                                            ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getRows(), getResult(), shapes);
}

//===----------------------------------------------------------------------===//
// Feed-forward networks
//===----------------------------------------------------------------------===//

/// Dimension of a bank's output rows; the other one holds the inputs.
static unsigned outDim(Layout layout) { return layout == Layout::OutIn ? 1 : 2; }
static unsigned inDim(Layout layout) { return layout == Layout::OutIn ? 2 : 1; }

/// C1 … C5 of the feed-forward ops, for banks of `experts` experts.
template <typename FeedForwardOp>
static LogicalResult verifyFeedForward(FeedForwardOp op, int64_t experts) {
  ActivationAttr activation = op.getActivation();
  unsigned out = outDim(op.getLayout()), in = inDim(op.getLayout());
  int64_t h = dim(op.getInput(), 1), i = dim(op.getDown(), in);
  int64_t rows = i;
  if (activation.isFused() && !ShapedType::isDynamic(i) && llvm::MulOverflow<int64_t>(i, 2, rows))
    return op.emitOpError() << "C2: I = " << i << " is too large";

  if (failed(checkDim(op, "C1", "H of up", dim(op.getUp(), in), h)) ||
      failed(checkDim(op, "C1", "H of the result and the input", dim(op.getResult(), 1), h)) ||
      failed(checkDim(op, "C1", "rows of the result and the input", dim(op.getResult(), 0),
                      dim(op.getInput(), 0))) ||
      failed(checkDim(op, "C1", "H of down", dim(op.getDown(), out), h)) ||
      failed(checkDim(op, "C2", "rows of up", dim(op.getUp(), out), rows)) ||
      failed(checkDim(op, "C3", "E of up", dim(op.getUp(), 0), experts)) ||
      failed(checkDim(op, "C3", "E of down", dim(op.getDown(), 0), experts)))
    return failure();
  if (bool(op.getGate()) != (activation.getGlu() == Glu::Separate))
    return op.emitOpError() << "C5: a gate operand and glu = separate go together";
  if (op.getGateBias() && !op.getGate())
    return op.emitOpError() << "C5: a gate bias without a gate";
  if (Value gate = op.getGate())
    if (failed(checkDim(op, "C1", "H of the gate", dim(gate, in), h)) ||
        failed(checkDim(op, "C2", "I of the gate", dim(gate, out), i)) ||
        failed(checkDim(op, "C3", "E of the gate", dim(gate, 0), experts)))
      return failure();
  std::pair<Value, int64_t> biases[] = {
      {op.getUpBias(), rows}, {op.getGateBias(), i}, {op.getDownBias(), h}};
  for (auto [bias, width] : biases) {
    if (!bias)
      continue;
    if (failed(checkDim(op, "C3", "E of a bias", dim(bias, 0), experts)) ||
        failed(checkDim(op, "C4", "width of a bias", dim(bias, 1), width)))
      return failure();
  }
  return success();
}

/// C1 … C5, C7, C8 of `moe.expert_ffn` and `moe.experts`.
template <typename FeedForwardOp> static LogicalResult verifyRouted(FeedForwardOp op) {
  int64_t experts = routingOf(op.getRouting()).getExperts();
  ArrayAttr kinds = op.getKindsAttr();
  SmallVector<ExpertRange> ranges = expertRanges(kinds, experts);
  int64_t end = ranges.empty() ? 0 : ranges.back().end;
  if (end != experts)
    return mismatch(op, "C7", "number of experts of all kinds", end, experts);
  int64_t networks = countExperts(kinds, experts, ExpertKind::FFN);
  if (networks == 0)
    return op.emitOpError() << "C7: no expert is a feed-forward network";
  int64_t constants = countExperts(kinds, experts, ExpertKind::Constant);
  if (failed(checkGoesWith(op, "C8", "constants", bool(op.getConstants()), "constant experts",
                           constants > 0)))
    return failure();
  if (Value rows = op.getConstants())
    if (failed(checkDims(op, "C8",
                         {{"number of constants", dim(rows, 0), constants},
                          {"H of the constants", dim(rows, 1), dim(op.getInput(), 1)}})))
      return failure();
  return verifyFeedForward(op, networks);
}

void ExpertFFNOp::build(OpBuilder &, OperationState &state, Type type, Value input, Value routing,
                        Value up, Value upBias, Value gate, Value gateBias, Value down,
                        Value downBias, ActivationAttr activation) {
  auto &properties =
      setOperands<ExpertFFNOp>(state, {input, routing, up, upBias, gate, gateBias, down, downBias});
  properties.activation = activation;
  state.addTypes(type);
}

void ExpertsOp::build(OpBuilder &, OperationState &state, Type type, Value input, Value routing,
                      Value up, Value upBias, Value gate, Value gateBias, Value down,
                      Value downBias, ActivationAttr activation) {
  auto &properties =
      setOperands<ExpertsOp>(state, {input, routing, up, upBias, gate, gateBias, down, downBias});
  properties.activation = activation;
  state.addTypes(type);
}

LogicalResult ExpertFFNOp::verify() { return verifyRouted(*this); }

LogicalResult ExpertsOp::verify() {
  if (failed(verifyRouted(*this)))
    return failure();
  bool needsWeights = getWeight() == CombineWeight::Output || getScaleInput();
  if (needsWeights && !routingOf(getRouting()).getWeighted())
    return emitOpError() << "C6: the routing is unweighted";
  if (getUncoveredRouting() && !routingOf(getUncoveredRouting()).getWeighted())
    return emitOpError() << "C9: the routing of uncovered tokens is unweighted";
  return success();
}

LogicalResult ExpertsOp::reifyResultShapes(OpBuilder &builder,
                                           ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getInput(), getResult(), shapes);
}

LogicalResult SharedOp::verify() {
  int64_t experts = dim(getUp(), 0), tokens = dim(getInput(), 0);
  if (ShapedType::isDynamic(experts))
    return emitOpError() << "C3: the number of shared experts must be static";
  if (failed(verifyFeedForward(*this, experts)))
    return failure();
  if (getWeight() && failed(checkDims(*this, "C6",
                                      {{"T of the weight", dim(getWeight(), 0), tokens},
                                       {"S of the weight", dim(getWeight(), 1), experts}})))
    return failure();
  if (getAdd() && getAdd().getType() != getResult().getType())
    return emitOpError() << "C7: y is " << getAdd().getType() << ", expected "
                         << getResult().getType();
  if (getMerge() == Merge::Average && !getAdd())
    return emitOpError() << "C8: an average needs y";
  return success();
}

LogicalResult SharedOp::reifyResultShapes(OpBuilder &builder, ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getInput(), getResult(), shapes);
}

//===----------------------------------------------------------------------===//
// CombineOp
//===----------------------------------------------------------------------===//

void CombineOp::build(OpBuilder &builder, OperationState &state, Type type, Value rows,
                      Value routing, Value tokens) {
  build(builder, state, type, rows, routing, tokens, /*uncovered=*/Value(),
        /*uncovered_routing=*/Value(), CombineWeight::Output, Accum::F32, llvm::APFloat(1.0));
}

LogicalResult CombineOp::verify() {
  if (getWeight() == CombineWeight::Output && !routingOf(getRouting()).getWeighted())
    return emitOpError() << "C1: the routing is unweighted";
  if (failed(checkDim(*this, "C2", "H of the result and the rows", dim(getResult(), 1),
                      dim(getRows(), 1))))
    return failure();
  if (failed(checkGoesWith(*this, "C3", "uncovered tokens", bool(getUncovered()), "their routing",
                           bool(getUncoveredRouting()))))
    return failure();
  if (!getUncovered())
    return success();
  RoutingType type = routingOf(getUncoveredRouting());
  if (!type.getWeighted() || type.getExperts() != routingOf(getRouting()).getExperts())
    return emitOpError() << "C3: the routing of uncovered tokens is " << type;
  return checkDims(*this, "C3",
                   {{"T of uncovered", dim(getUncovered(), 0), dim(getResult(), 0)},
                    {"H of uncovered", dim(getUncovered(), 1), dim(getResult(), 1)}});
}

LogicalResult CombineOp::reifyResultShapes(OpBuilder &builder,
                                           ReifiedRankedShapedTypeDims &shapes) {
  auto type = cast<RankedTensorType>(getResult().getType());
  shapes.push_back({OpFoldResult(getTokens()), builder.getIndexAttr(type.getDimSize(1))});
  return success(!type.isDynamicDim(1));
}

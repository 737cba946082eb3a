// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Verifiers and shape reification. Folders and canonicalizations: MoEFolds.cpp.

#include "moec/Dialect/MoE/IR/MoE.h"

#include "Shapes.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace mlir::moe;

#define GET_OP_CLASSES
#include "moec/Dialect/MoE/IR/MoEOps.cpp.inc"

namespace {

int64_t dim(Value value, unsigned i) { return cast<ShapedType>(value.getType()).getDimSize(i); }

/// Two sizes agree when they are equal or one is not known.
bool agree(int64_t a, int64_t b) {
  return ShapedType::isDynamic(a) || ShapedType::isDynamic(b) || a == b;
}

RoutingType routingOf(Value value) { return cast<RoutingType>(value.getType()); }

/// `C<number>: what: found a, expected b`.
LogicalResult mismatch(Operation *op, StringRef constraint, const Twine &what, int64_t found,
                       int64_t expected) {
  return op->emitOpError() << constraint << ": " << what << ": found " << found << ", expected "
                           << expected;
}

LogicalResult checkDim(Operation *op, StringRef constraint, const Twine &what, int64_t found,
                       int64_t expected) {
  return agree(found, expected) ? success() : mismatch(op, constraint, what, found, expected);
}

LogicalResult checkK(Operation *op, int64_t k, int64_t experts) {
  if (k < 1)
    return op->emitOpError() << "C1: k = " << k << " is less than 1";
  if (!ShapedType::isDynamic(experts) && k > experts)
    return op->emitOpError() << "C1: k = " << k << " exceeds the number of experts E = " << experts;
  return success();
}

/// Reified shape [dim 0 of `rows`, dim 1 of `columns`].
LogicalResult reifyMatrix(OpBuilder &builder, Location loc, Value rows, Value result,
                          ReifiedRankedShapedTypeDims &shapes) {
  auto type = cast<RankedTensorType>(result.getType());
  shapes.push_back(
      {tensor::getMixedSize(builder, loc, rows, 0), builder.getIndexAttr(type.getDimSize(1))});
  return success(!type.isDynamicDim(1));
}

} // namespace

//===----------------------------------------------------------------------===//
// WeightOp, LoadWeightOp
//===----------------------------------------------------------------------===//

void WeightOp::build(OpBuilder &builder, OperationState &state, StringRef name,
                     RankedTensorType type, ArrayRef<Attribute> sources,
                     ArrayRef<Attribute> transforms) {
  build(builder, state, builder.getStringAttr(name), TypeAttr::get(type),
        builder.getArrayAttr(sources), builder.getArrayAttr(transforms), {}, {}, {});
}

static RankedTensorType sourceTypeOf(Attribute source) {
  if (auto segment = dyn_cast<SegmentAttr>(source))
    return segment.getType();
  if (auto elements = dyn_cast<DenseElementsAttr>(source))
    return dyn_cast<RankedTensorType>(elements.getType());
  return {};
}

RankedTensorType WeightOp::getSourceType() {
  RankedTensorType stacked;
  for (Attribute source : getSources()) {
    RankedTensorType type = sourceTypeOf(source);
    if (!type)
      return {};
    if (!stacked) {
      stacked = type;
      continue;
    }
    if (type.getRank() < 2 || type.getRank() != stacked.getRank() ||
        type.getElementType() != stacked.getElementType())
      return {};
    SmallVector<int64_t> shape(stacked.getShape());
    for (int64_t i = 0; i < type.getRank(); ++i)
      if (i != 1 && shape[i] != type.getDimSize(i))
        return {};
    if (llvm::AddOverflow(shape[1], type.getDimSize(1), shape[1]))
      return {};
    stacked = RankedTensorType::get(shape, type.getElementType());
  }
  return stacked && isCountable(stacked.getShape()) ? stacked : RankedTensorType();
}

/// C3, against the bank's member before this one.
static LogicalResult verifyBank(WeightOp op) {
  if (!op.getBankAttr())
    return success();
  RankedTensorType type = op.getTensorType();
  if (type.getRank() == 0)
    return op.emitOpError() << "C3: a member of a bank has experts in dimension 0";
  for (Operation *other = op->getPrevNode(); other; other = other->getPrevNode()) {
    auto member = dyn_cast<WeightOp>(other);
    if (!member || member.getBankAttr() != op.getBankAttr())
      continue;
    auto memberType = dyn_cast<RankedTensorType>(member.getType());
    if (!memberType || memberType.getRank() == 0)
      return success(); // the member's own error
    return checkDim(op, "C3", "experts of a member of bank " + op.getBankAttr().getValue(),
                    type.getDimSize(0), memberType.getDimSize(0));
  }
  return success();
}

LogicalResult WeightOp::verify() {
  RankedTensorType type = getSourceType();
  if (!type)
    return emitOpError() << "C1: needs sources (#moe.segment or dense) of one element type that "
                            "differ in dimension 1 only and fit in memory";
  auto emit = [&] { return emitOpError() << "C2: "; };
  for (Attribute transform : getTransforms()) {
    auto step = dyn_cast<WeightTransformInterface>(transform);
    if (!step)
      return emitOpError() << "C2: " << transform << " is not a weight transform";
    type = step.getResultType(type, emit);
    if (!type)
      return failure();
  }
  if (type != getTensorType())
    return emitOpError() << "C2: the transforms lead to " << type << ", not to " << getType();
  return verifyBank(*this);
}

LogicalResult LoadWeightOp::verifySymbolUses(SymbolTableCollection &tables) {
  auto weight = tables.lookupNearestSymbolFrom<WeightOp>(*this, getWeightAttr());
  if (!weight)
    return emitOpError() << "C1: no moe.weight named " << getWeightAttr();
  if (weight.getType() != getResult().getType())
    return emitOpError() << "C1: " << getWeightAttr() << " is of type " << weight.getType();
  return success();
}

void LoadWeightOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getResult(), getWeight());
}

//===----------------------------------------------------------------------===//
// DequantizeOp
//===----------------------------------------------------------------------===//

LogicalResult DequantizeOp::verify() {
  int64_t bits = getBits(), block = getBlock();
  if (bits != 2 && bits != 4 && bits != 8)
    return emitOpError() << "C1: bits = " << bits << ", expected 2, 4 or 8";
  auto type = cast<RankedTensorType>(getResult().getType());
  if (!type.hasStaticShape())
    return emitOpError() << "C2: needs a static result shape, got " << type;
  int64_t e = type.getDimSize(0), n = type.getDimSize(1), k = type.getDimSize(2);
  auto packed = [&](int64_t count) { return getPackedBytes(count, bits); };
  if (dim(getCodes(), 0) != e || dim(getCodes(), 1) != n || dim(getCodes(), 2) != packed(k))
    return emitOpError() << "C2: codes " << getCodes().getType() << ", expected [" << e << ", " << n
                         << ", " << packed(k) << "]";
  if (block != 0 && (block < 16 || !llvm::isPowerOf2_64(block) || k % block))
    return emitOpError() << "C3: block = " << block
                         << " is not a power of two of at least 16 that divides K = " << k;
  int64_t blocks = block ? k / block : 1;
  auto scales = cast<RankedTensorType>(getScales().getType());
  SmallVector<int64_t> shape = {e, n};
  if (block)
    shape.push_back(blocks);
  if (scales.getShape() != ArrayRef(shape))
    return emitOpError() << "C4: scales " << scales << " do not fit " << type
                         << " with block = " << block;
  if (!getZeroPoints())
    return success();
  shape = block ? SmallVector<int64_t>{e, n, packed(blocks)} : SmallVector<int64_t>{e, packed(n)};
  if (cast<RankedTensorType>(getZeroPoints().getType()).getShape() != ArrayRef(shape))
    return emitOpError() << "C5: zero points " << getZeroPoints().getType() << " do not fit "
                         << type << " with block = " << block;
  return success();
}

//===----------------------------------------------------------------------===//
// Gating
//===----------------------------------------------------------------------===//

LogicalResult LogitsOp::verify() {
  bool outIn = getLayout() == Layout::OutIn;
  int64_t e = dim(getWeight(), outIn ? 0 : 1), h = dim(getWeight(), outIn ? 1 : 0);
  if (failed(checkDim(*this, "C1", "H of x and the weight", dim(getX(), 1), h)) ||
      failed(checkDim(*this, "C2", "E of the logits and the weight", dim(getLogits(), 1), e)) ||
      failed(checkDim(*this, "C2", "T of the logits and x", dim(getLogits(), 0), dim(getX(), 0))))
    return failure();
  return getBias() ? checkDim(*this, "C3", "E of the bias and the weight", dim(getBias(), 0), e)
                   : success();
}

LogicalResult LogitsOp::reifyResultShapes(OpBuilder &builder, ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getX(), getLogits(), shapes);
}

LogicalResult ScoreOp::verify() {
  for (unsigned i : {0, 1})
    if (failed(checkDim(*this, "C1", "dimension " + Twine(i) + " of logits and scores",
                        dim(getScores(), i), dim(getLogits(), i))))
      return failure();
  return success();
}

LogicalResult ScoreOp::reifyResultShapes(OpBuilder &builder, ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getLogits(), getScores(), shapes);
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
  int64_t experts = dim(getKey(), 1), k = getK();
  if (getBias() && failed(checkDim(*this, "C3", "E of the bias", dim(getBias(), 0), experts)))
    return failure();
  if (getMode() == SelectMode::All && k != experts)
    return mismatch(*this, "C4", "k of a selection of all experts", k, experts);
  return success();
}

void WeighOp::build(OpBuilder &builder, OperationState &state, Value routing, Value source,
                    WeighFn fn, WeighNorm norm, double eps, double normEps, double scale) {
  RoutingType type = routingOf(routing);
  build(builder, state,
        RoutingType::get(builder.getContext(), type.getExperts(), type.getK(), true), routing,
        source, fn, llvm::APFloat(eps), norm, llvm::APFloat(normEps), llvm::APFloat(scale));
}

LogicalResult WeighOp::verify() {
  RoutingType in = routingOf(getRouting()), out = routingOf(getResult());
  if (failed(checkDim(*this, "C1", "columns of the source", dim(getSource(), 1), in.getExperts())))
    return failure();
  if (in.getWeighted() || !out.getWeighted() || in.getExperts() != out.getExperts() ||
      in.getK() != out.getK())
    return emitOpError() << "C2: weighs " << in << " into " << out;
  if (getFn() == WeighFn::MaskedSoftmax && !(getEps().convertToDouble() > 0))
    return emitOpError() << "C3: masked_softmax needs eps > 0";
  return success();
}

LogicalResult GatingOp::verify() {
  RoutingType type = routingOf(getRouting());
  int64_t experts = dim(getLogits(), 1), k = getK();
  if (failed(checkK(*this, k, experts)))
    return failure();
  if (type.getK() != k || !agree(type.getExperts(), experts) || !type.getWeighted())
    return emitOpError() << "C1: k = " << k << " of E = " << experts << " gives " << type;
  if (getBias() && failed(checkDim(*this, "C2", "E of the bias", dim(getBias(), 0), experts)))
    return failure();
  if (getSource() &&
      (failed(checkDim(*this, "C2", "columns of the source", dim(getSource(), 1), experts)) ||
       failed(
           checkDim(*this, "C2", "rows of the source", dim(getSource(), 0), dim(getLogits(), 0)))))
    return failure();
  if (bool(getSource()) != (getWeighSource() == WeighSource::Operand))
    return emitOpError() << "C3: a source operand and weigh_source = operand go together";
  return success();
}

//===----------------------------------------------------------------------===//
// Experts
//===----------------------------------------------------------------------===//

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

/// C1 … C5 of `moe.expert_ffn` and `moe.experts`.
template <typename FeedForwardOp> static LogicalResult verifyFeedForward(FeedForwardOp op) {
  ActivationAttr activation = op.getActivation();
  int64_t experts = routingOf(op.getRouting()).getExperts();
  int64_t h = dim(op.getInput(), 1), i = dim(op.getDown(), 2);
  int64_t rows = i;
  if (activation.isFused() && !ShapedType::isDynamic(i) && llvm::MulOverflow<int64_t>(i, 2, rows))
    return op.emitOpError() << "C2: I = " << i << " is too large";

  if (failed(checkDim(op, "C1", "H of up", dim(op.getUp(), 2), h)) ||
      failed(checkDim(op, "C1", "H of the result and the input", dim(op.getResult(), 1), h)) ||
      failed(checkDim(op, "C1", "rows of the result and the input", dim(op.getResult(), 0),
                      dim(op.getInput(), 0))) ||
      failed(checkDim(op, "C1", "H of down", dim(op.getDown(), 1), h)) ||
      failed(checkDim(op, "C2", "rows of up", dim(op.getUp(), 1), rows)) ||
      failed(checkDim(op, "C3", "E of up", dim(op.getUp(), 0), experts)) ||
      failed(checkDim(op, "C3", "E of down", dim(op.getDown(), 0), experts)))
    return failure();
  if (bool(op.getGate()) != (activation.getGlu() == Glu::Separate))
    return op.emitOpError() << "C5: a gate operand and glu = separate go together";
  if (op.getGateBias() && !op.getGate())
    return op.emitOpError() << "C5: a gate bias without a gate";
  if (Value gate = op.getGate())
    if (failed(checkDim(op, "C1", "H of the gate", dim(gate, 2), h)) ||
        failed(checkDim(op, "C2", "I of the gate", dim(gate, 1), i)) ||
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

LogicalResult ExpertFFNOp::verify() { return verifyFeedForward(*this); }

LogicalResult ExpertsOp::verify() {
  if (failed(verifyFeedForward(*this)))
    return failure();
  if (!routingOf(getRouting()).getWeighted())
    return emitOpError() << "C6: the routing is unweighted";
  return success();
}

LogicalResult ExpertsOp::reifyResultShapes(OpBuilder &builder,
                                           ReifiedRankedShapedTypeDims &shapes) {
  return reifyMatrix(builder, getLoc(), getInput(), getResult(), shapes);
}

LogicalResult CombineOp::verify() {
  if (!routingOf(getRouting()).getWeighted())
    return emitOpError() << "C1: the routing is unweighted";
  return checkDim(*this, "C2", "H of the result and the rows", dim(getResult(), 1),
                  dim(getRows(), 1));
}

LogicalResult CombineOp::reifyResultShapes(OpBuilder &builder,
                                           ReifiedRankedShapedTypeDims &shapes) {
  auto type = cast<RankedTensorType>(getResult().getType());
  shapes.push_back({OpFoldResult(getTokens()), builder.getIndexAttr(type.getDimSize(1))});
  return success(!type.isDynamicDim(1));
}

void CheckOp::build(OpBuilder &builder, OperationState &state, Value condition,
                    const Twine &message) {
  auto pointer = LLVM::LLVMPointerType::get(builder.getContext());
  Value call = CurrentCallOp::create(builder, state.location, pointer);
  build(builder, state, call, condition, builder.getStringAttr(message));
}

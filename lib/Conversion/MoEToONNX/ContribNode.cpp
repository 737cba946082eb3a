// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// com.microsoft.MoE and com.microsoft.QMoE. Source of what they mean, and of what ONNX
// Runtime's CPU provider computes: the operators' schemas and CPU kernels, 1.30 and 1.31.

#include "Experts.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Writes one moe.experts. Steps return false, with the reason, when the contrib
/// operators cannot say it.
class ContribWriter {
public:
  ContribWriter(OpBuilder &builder, const IRMapping &written, RoutingWriter &routings,
                ExpertsOp experts, std::string &reason)
      : b(builder, experts.getLoc()), written(written), routings(routings), experts(experts),
        reason(reason) {}

  FailureOr<Value> write();

private:
  bool checkCombination();
  bool checkActivation();
  bool checkBanks();
  bool mergeGate(Bank gate);
  bool no(const Twine &why) {
    reason = why.str();
    return false;
  }

  FailureOr<Value> writeMoE(const SoftmaxRouting &routing);
  FailureOr<Value> writeRouted();
  Value writeNode(Value key, Value weights, bool normalize);
  Value multiply(Value result, double factor);
  SmallVector<NamedAttribute> getAttributes(bool normalize);
  Value get(Value value) const { return written.lookupOrDefault(value); }
  bool isGated() { return experts.getActivation().getGlu() != Glu::None; }

  GraphBuilder b;
  const IRMapping &written;
  RoutingWriter &routings;
  ExpertsOp experts;
  std::string &reason;
  Bank up, down;
};

} // namespace

//===----------------------------------------------------------------------===//
// What the operators can say
//===----------------------------------------------------------------------===//

bool ContribWriter::checkCombination() {
  if (experts.getKinds())
    return no("there are experts without a feed-forward network");
  if (experts.getUncoveredRouting())
    return no("tokens without an expert keep a value");
  if (experts.getScaleInput() || experts.getWeight() != CombineWeight::Output)
    return no("the weights multiply the experts' input");
  Type type = cast<ShapedType>(experts.getInput().getType()).getElementType();
  if (!type.isF32() && !type.isF16() && !type.isBF16())
    return no("the model's type is not float32, float16 or bfloat16");
  return true;
}

static StringRef getActivationType(ActivationAttr activation) {
  if (activation.getGlu() != Glu::None)
    return activation.getKind() == ActivationKind::Silu ? "swiglu" : "";
  switch (activation.getKind()) {
  case ActivationKind::Identity:
    return "identity";
  case ActivationKind::Relu:
    return "relu";
  case ActivationKind::GeluTanh:
    return "gelu";
  case ActivationKind::Silu:
    return activation.getAlphaValue() == 1 ? "silu" : "";
  default:
    return "";
  }
}

bool ContribWriter::checkActivation() {
  ActivationAttr activation = experts.getActivation();
  if (getActivationType(activation).empty())
    return no("no contrib operator has the activation");
  if (activation.getClamp() != ActivationClamp::Pre)
    return no("the limit is that of the activation's result");
  return isGated() || !activation.getLimit() || no("the activation has a limit but no gate");
}

static bool isAlike(const Bank &first, const Bank &second) {
  return first.bits == second.bits && first.block == second.block &&
         bool(first.zeroPoints) == bool(second.zeroPoints);
}

/// Gate and linear rows in turn.
bool ContribWriter::mergeGate(Bank gate) {
  Glu glu = experts.getActivation().getGlu();
  if (glu == Glu::None || glu == Glu::Interleaved)
    return true;
  if (up.hasPackedRows())
    return no("zero points are packed across gate and linear rows");
  if (glu == Glu::Separate) {
    if (!isAlike(gate, up))
      return no("gate and linear matrices are not quantised alike");
    for (auto [bank, other] : {std::pair(&gate, &up), {&up, &gate}})
      if (!bank->bias && other->bias)
        bank->bias = b.constant(DenseElementsAttr::get(
            cast<ShapedType>(other->bias.getType()),
            b.builder.getZeroAttr(cast<ShapedType>(other->bias.getType()).getElementType())));
    up = stackBanks(b, gate, up);
  }
  up = reorderRows(b, up, Glu::Concat, Glu::Interleaved);
  return true;
}

bool ContribWriter::checkBanks() {
  if (up.bits != down.bits)
    return no("not all matrices have codes of the same number of bits");
  if (!up.isQuantized())
    return true;
  int64_t block = std::max(up.block, down.block);
  for (Bank *bank : {&up, &down}) {
    // The operators take a row of one block for a row with one scale.
    bool oneBlock = block && bank->k == block;
    if (bank->block != block && !oneBlock)
      return no("not all matrices have blocks of the same size");
    if (oneBlock && bank->block && bank->zeroPoints && bank->bits < 8)
      return no("zero points of rows with one block are not packed across rows");
  }
  return true;
}

//===----------------------------------------------------------------------===//
// Nodes
//===----------------------------------------------------------------------===//

SmallVector<NamedAttribute> ContribWriter::getAttributes(bool normalize) {
  ActivationAttr activation = experts.getActivation();
  RoutingType routing = experts.getRouting().getType();
  SmallVector<NamedAttribute> attributes = {
      b.attr("activation_type", getActivationType(activation)), b.attr("k", routing.getK()),
      b.attr("normalize_routing_weights", normalize)};
  if (isGated()) {
    attributes.push_back(b.attr("swiglu_fusion", 1));
    // Spelled out: releases before the attributes had other defaults.
    attributes.push_back(b.floatAttr("activation_alpha", activation.getAlphaValue()));
    attributes.push_back(b.floatAttr("activation_beta", activation.getBetaValue()));
    if (activation.getLimit())
      attributes.push_back(b.floatAttr("swiglu_limit", activation.getLimitValue()));
  }
  if (up.isQuantized())
    attributes.push_back(b.attr("expert_weight_bits", up.bits));
  if (int64_t block = std::max(up.block, down.block))
    attributes.push_back(b.attr("block_size", block));
  return attributes;
}

Value ContribWriter::writeNode(Value key, Value weights, bool normalize) {
  bool quantized = up.isQuantized();
  SmallVector<Value> inputs(quantized ? 15 : 8);
  inputs[0] = get(experts.getInput());
  inputs[1] = key;
  unsigned position = 2, zeroPoints = 11;
  for (const Bank *bank : {&up, &down}) {
    inputs[position++] = bank->weights;
    if (quantized)
      inputs[position++] = bank->scales;
    inputs[position++] = bank->bias;
    if (quantized)
      inputs[zeroPoints++] = bank->zeroPoints;
  }
  if (weights)
    inputs[14] = weights;
  while (!inputs.back())
    inputs.pop_back();
  StringRef opType = quantized ? "com.microsoft.QMoE" : "com.microsoft.MoE";
  Type type = experts.getResult().getType();
  auto node = onnx::NodeOp::create(b.builder, b.loc, TypeRange(type), opType, inputs,
                                   /*version=*/1, getAttributes(normalize));
  return node.getResult(0);
}

Value ContribWriter::multiply(Value result, double factor) {
  Type type = cast<ShapedType>(experts.getResult().getType()).getElementType();
  return factor == 1 ? result : b.node("Mul", {result, b.scalar(type, factor)});
}

/// Always the normalised node: ONNX Runtime 1.31's CPU provider gives zeros without
/// `normalize_routing_weights` unless the node's tensors are the graph's, and QMoE always
/// normalises. Σ w f(x) / Σ w, times Σ w where the probabilities are not normalised.
FailureOr<Value> ContribWriter::writeMoE(const SoftmaxRouting &routing) {
  Type type = cast<ShapedType>(experts.getInput().getType()).getElementType();
  Value logits = get(routing.logits);
  Value result = writeNode(logits, {}, /*normalize=*/true);
  if (!routing.normalized) {
    Value probabilities =
        b.node("Softmax", b.cast(logits, b.builder.getF32Type()), b.attr("axis", 1));
    Value kept = b.reduce("ReduceSum", b.topK(probabilities, routing.k, 1).first, 1);
    result = b.node("Mul", {result, b.cast(kept, type)});
  }
  double scale = routing.scale * experts.getPostScale().convertToDouble();
  return multiply(result, scale);
}

/// The key and the weights of the experts as QMoE takes them: the k largest of the one
/// select, and the other is used as it is or divided by its sum. False for others.
static bool isPlain(SelectOp select, WeighOp weigh) {
  if (!select || !weigh.getSource() || weigh.getBias() || weigh.getExpertScale())
    return false;
  bool sums = weigh.getNorm() == WeighNorm::Sum && weigh.getNormEps().isZero();
  return (sums || weigh.getNorm() == WeighNorm::None) && weigh.getFn() == WeighFn::None &&
         select.getMode() == SelectMode::TopK && select.getNGroup() == 1 &&
         !select.getTokenMask() && !select.getExpertMask();
}

/// QMoE takes any weights for the k largest of router_probs. Where selecting is more than
/// that, what was selected becomes a key of ones and zeros.
FailureOr<Value> ContribWriter::writeRouted() {
  Type type = cast<ShapedType>(experts.getInput().getType()).getElementType();
  auto hasType = [&](Value value) {
    return cast<ShapedType>(value.getType()).getElementType() == type;
  };
  double scale = experts.getPostScale().convertToDouble();
  auto weigh = experts.getRouting().getDefiningOp<WeighOp>();
  auto select = weigh ? weigh.getRouting().getDefiningOp<SelectOp>() : SelectOp();
  if (weigh && isPlain(select, weigh) && hasType(select.getKey()) && hasType(weigh.getSource())) {
    FailureOr<Value> key = routings.getKey(select);
    if (failed(key))
      return failure();
    Value result = writeNode(*key, get(weigh.getSource()), weigh.getNorm() == WeighNorm::Sum);
    return multiply(result, scale * weigh.getScale().convertToDouble());
  }

  FailureOr<Entries> entries = routings.getEntries(experts.getRouting());
  if (failed(entries))
    return failure();
  Type f32 = b.builder.getF32Type();
  Value weights = b.cast(entries->weights, f32);
  if (entries->kept)
    weights = b.node("Where", {entries->kept, weights, b.scalar(f32, 0)});
  Value tokens = b.node("Shape", entries->ids, {b.attr("start", 0), b.attr("end", 1)});
  Value shape = b.concat({tokens, b.ints(entries->experts)}, 0);
  Value zeros = b.node("Expand", {b.scalar(f32, 0), shape});
  Value ones = b.filled(entries->ids, b.builder.getF32FloatAttr(1));
  auto scatter = [&](Value values) {
    Value scattered = b.node("ScatterElements", {zeros, entries->ids, values}, b.attr("axis", 1));
    return b.cast(scattered, type);
  };
  return multiply(writeNode(scatter(ones), scatter(weights), /*normalize=*/false), scale);
}

FailureOr<Value> ContribWriter::write() {
  if (!checkCombination() || !checkActivation())
    return Value();
  std::optional<SoftmaxRouting> routing = matchSoftmaxRouting(experts.getRouting(), reason);
  // The operators have logits of the model's type.
  Type type = cast<ShapedType>(experts.getInput().getType()).getElementType();
  if (routing && cast<ShapedType>(routing->logits.getType()).getElementType() != type) {
    reason = "the logits are of another type than the experts' input";
    routing.reset();
  }
  if (!routing && !experts.getUp().getDefiningOp<DequantizeOp>())
    return Value();
  Layout layout = experts.getLayout();
  auto gate = getBank(b, written, experts.getGate(), experts.getGateBias(), layout);
  auto linear = getBank(b, written, experts.getUp(), experts.getUpBias(), layout);
  auto last = getBank(b, written, experts.getDown(), experts.getDownBias(), layout);
  if (failed(gate) || failed(linear) || failed(last))
    return failure();
  up = *linear;
  down = *last;
  if (!checkBanks() || !mergeGate(*gate))
    return Value();
  return routing ? writeMoE(*routing) : writeRouted();
}

FailureOr<Value> mlir::moe::writeContribNode(OpBuilder &builder, const IRMapping &written,
                                             RoutingWriter &routings, ExpertsOp experts,
                                             std::string &reason) {
  return ContribWriter(builder, written, routings, experts, reason).write();
}

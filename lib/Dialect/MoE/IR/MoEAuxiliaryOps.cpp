// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.aux and moe.bias_update: verifiers.

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// The operands that a kind has, by name; `routing|probabilities` is one of both.
struct AuxOperands {
  bool logits = false, probabilities = false, routing = false, groupSize = false, noise = false;
};

AuxOperands operandsOf(AuxOp op) {
  bool byRouting = bool(op.getRouting());
  switch (op.getKind()) {
  case AuxKind::LoadBalance:
    return {false, true, true, bool(op.getGroupSize()), false};
  case AuxKind::ZLoss:
    return {true};
  case AuxKind::ImportanceCV2:
    return {false, !byRouting, byRouting};
  case AuxKind::LoadCV2:
    return {true, false, false, false, true};
  case AuxKind::TokensPerExpert:
    return {false, false, true};
  case AuxKind::MeanProbability:
  case AuxKind::Entropy:
    return {false, true};
  }
  llvm_unreachable("all kinds are handled");
}

/// Number of experts, as the operand that has it says.
int64_t expertsOf(AuxOp op) {
  if (op.getRouting())
    return routingOf(op.getRouting()).getExperts();
  return dim(op.getLogits() ? op.getLogits() : op.getProbabilities(), 1);
}

LogicalResult checkOperands(AuxOp op) {
  AuxOperands expected = operandsOf(op);
  std::tuple<Value, bool, StringRef> operands[] = {
      {op.getLogits(), expected.logits, "logits"},
      {op.getProbabilities(), expected.probabilities, "probabilities"},
      {op.getRouting(), expected.routing, "routing"},
      {op.getGroupSize(), expected.groupSize, "group_size"},
      {op.getNoisyLogits(), expected.noise, "noisy_logits"},
      {op.getNoiseStd(), expected.noise, "noise_std"}};
  for (auto [value, needed, name] : operands)
    if (bool(value) != needed)
      return op.emitOpError() << "C1: " << stringifyAuxKind(op.getKind())
                              << (needed ? " needs " : " does not take ") << name;
  if (op.getKind() == AuxKind::ImportanceCV2 && op.getRouting() &&
      !routingOf(op.getRouting()).getWeighted())
    return op.emitOpError() << "C1: importance_cv2 needs a weighted routing";
  return success();
}

LogicalResult checkAttributes(AuxOp op) {
  bool balance = op.getKind() == AuxKind::LoadBalance, load = op.getKind() == AuxKind::LoadCV2;
  if ((op.getFraction() || op.getPerSlot()) && !balance)
    return op.emitOpError() << "C2: fraction and per_slot need load_balance";
  if (failed(checkGoesWith(op, "C2", "variant", bool(op.getVariant()), "load_cv2", load)) ||
      failed(checkGoesWith(op, "C2", "k", bool(op.getK()), "load_cv2", load)))
    return failure();
  int64_t experts = expertsOf(op);
  if (load && ShapedType::isDynamic(experts))
    return op.emitOpError() << "C3: load_cv2 needs a static number of experts";
  if (load && (int64_t(*op.getK()) < 1 || int64_t(*op.getK()) >= experts))
    return op.emitOpError() << "C3: k = " << *op.getK()
                            << " is not between 1 and E - 1 = " << experts - 1;
  return success();
}

LogicalResult checkShapes(AuxOp op) {
  int64_t experts = expertsOf(op);
  for (Value matrix :
       {op.getLogits(), op.getProbabilities(), op.getNoisyLogits(), op.getNoiseStd()})
    if (matrix && cast<ShapedType>(matrix.getType()).getRank() == 2 &&
        failed(checkDim(op, "C4", "E of an operand", dim(matrix, 1), experts)))
      return failure();
  for (Value matrix : {op.getNoisyLogits(), op.getNoiseStd()})
    if (matrix && cast<ShapedType>(matrix.getType()).getRank() == 2 &&
        failed(checkDim(op, "C4", "T of an operand", dim(matrix, 0), dim(op.getLogits(), 0))))
      return failure();
  return success();
}

} // namespace

LogicalResult AuxOp::verify() {
  if (failed(checkOperands(*this)) || failed(checkShapes(*this)) || failed(checkAttributes(*this)))
    return failure();
  bool counts = getKind() == AuxKind::TokensPerExpert;
  bool perExpert = counts || getKind() == AuxKind::MeanProbability;
  auto type = cast<RankedTensorType>(getResult().getType());
  if (type.getRank() != (perExpert ? 1 : 0) ||
      (perExpert && !agree(type.getDimSize(0), expertsOf(*this))) ||
      type.getElementType().isInteger() != counts)
    return emitOpError() << "C5: " << stringifyAuxKind(getKind()) << " is a "
                         << (counts      ? "tensor of E numbers of type i64"
                             : perExpert ? "tensor of E floats"
                                         : "scalar float")
                         << ", got " << type;
  return success();
}

LogicalResult BiasUpdateOp::verify() {
  return checkDim(*this, "C1", "E of the count", dim(getCount(), 0), dim(getBias(), 0));
}

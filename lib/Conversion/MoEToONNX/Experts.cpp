// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Feed-forward networks of experts as standard operators.

#include "Experts.h"

#include "moec/Support/Unsupported.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Activation
//===----------------------------------------------------------------------===//

/// v · (1 + f) / 2.
static Value halfTimes(GraphBuilder &b, Value v, Value f, Type type) {
  Value sum = b.node("Add", {f, b.scalar(type, 1)});
  return b.node("Mul", {b.node("Mul", {v, sum}), b.scalar(type, 0.5)});
}

static Value writeFunction(GraphBuilder &b, ActivationAttr activation, Value v, Type type) {
  switch (activation.getKind()) {
  case ActivationKind::Identity:
    return v;
  case ActivationKind::Relu:
    return b.node("Relu", v);
  case ActivationKind::Relu2: {
    Value positive = b.node("Relu", v);
    return b.node("Mul", {positive, positive});
  }
  case ActivationKind::Gelu:
    return halfTimes(b, v, b.node("Erf", b.node("Mul", {v, b.scalar(type, std::sqrt(0.5))})), type);
  case ActivationKind::GeluTanh: {
    Value cube = b.node("Mul", {v, b.node("Mul", {v, v})});
    Value inner = b.node("Add", {v, b.node("Mul", {cube, b.scalar(type, 0.044715)})});
    Value scaled = b.node("Mul", {inner, b.scalar(type, std::sqrt(2 / M_PI))});
    return halfTimes(b, v, b.node("Tanh", scaled), type);
  }
  case ActivationKind::Silu: {
    double alpha = activation.getAlphaValue();
    Value scaled = alpha == 1 ? v : b.node("Mul", {v, b.scalar(type, alpha)});
    return b.node("Mul", {v, b.node("Sigmoid", scaled)});
  }
  }
  llvm_unreachable("unknown activation");
}

/// See #moe.activation. `linear` is null without a gate.
static Value writeActivation(GraphBuilder &b, ActivationAttr activation, Value gate, Value linear,
                             Type type) {
  bool limited = bool(activation.getLimit());
  Value limit = limited ? b.scalar(type, activation.getLimitValue()) : Value();
  bool post = activation.getClamp() == ActivationClamp::Post;
  if (limited && !post)
    gate = b.node("Min", {gate, limit});
  Value result = writeFunction(b, activation, gate, type);
  if (limited && post)
    result = b.node("Min", {result, limit});
  if (!linear)
    return result;
  if (limited)
    linear = b.node("Clip", {linear, b.scalar(type, -activation.getLimitValue()), limit});
  if (double beta = activation.getBetaValue(); beta != 0)
    linear = b.node("Add", {linear, b.scalar(type, beta)});
  return b.node("Mul", {result, linear});
}

//===----------------------------------------------------------------------===//
// Gathered experts
//===----------------------------------------------------------------------===//

namespace {

/// How a feed-forward network is computed.
struct FeedForward {
  GraphBuilder &b;
  /// The matrices of a bank in `type`, and a bias, as products and their results want them.
  llvm::function_ref<Value(const Bank &)> matrices;
  llvm::function_ref<Value(Value)> bias;
  llvm::function_ref<Value(Value, Value)> product;
  Type type;
  /// The dimension of a product's result that has the features, and the sizes after it.
  int64_t axis;
  SmallVector<int64_t> tail;

  Value apply(const Bank &bank, Value x) {
    Value result = product(x, matrices(bank));
    return bank.bias ? b.node("Add", {result, bias(bank.bias)}) : result;
  }
};

/// The banks of an op, gate rows first where gate and linear rows are one bank.
struct Banks {
  Bank gate, up, down;
};

} // namespace

template <typename OpTy>
static FailureOr<Banks> getBanks(GraphBuilder &b, const IRMapping &written, OpTy op) {
  Layout layout = op.getLayout();
  auto gate = getBank(b, written, op.getGate(), op.getGateBias(), layout);
  auto up = getBank(b, written, op.getUp(), op.getUpBias(), layout);
  auto down = getBank(b, written, op.getDown(), op.getDownBias(), layout);
  if (failed(gate) || failed(up) || failed(down))
    return failure();
  return Banks{*gate, *up, *down};
}

static Value writeNetwork(FeedForward &network, const Banks &banks, ActivationAttr activation,
                          Value x) {
  GraphBuilder &b = network.b;
  Value up = network.apply(banks.up, x), gate, linear;
  switch (activation.getGlu()) {
  case Glu::None:
    gate = up;
    break;
  case Glu::Separate:
    gate = network.apply(banks.gate, x);
    linear = up;
    break;
  case Glu::Concat:
    std::tie(gate, linear) = b.halve(up, network.axis);
    break;
  case Glu::Interleaved: {
    SmallVector<int64_t> pairs(network.axis, 0);
    pairs.append({banks.up.n / 2, 2});
    llvm::append_range(pairs, network.tail);
    auto [first, second] = b.halve(b.reshape(up, pairs), network.axis + 1);
    gate = b.squeeze(first, {network.axis + 1});
    linear = b.squeeze(second, {network.axis + 1});
    break;
  }
  }
  Value inner = writeActivation(b, activation, gate, linear, network.type);
  return network.apply(banks.down, inner);
}

/// Codes as real numbers: (code - zero point) · scale, of the experts that `take` takes
/// from each tensor; `lead` dimensions come before N. Null when codes are no constants.
static Value dequantize(GraphBuilder &b, const Bank &bank, llvm::function_ref<Value(Value)> take,
                        int64_t lead) {
  Type f32 = b.builder.getF32Type();
  int64_t blocks = bank.block ? bank.k / bank.block : 1;
  Value codes = unpackCodes(b, bank.weights, bank.bits, 2, bank.k);
  Value zeroPoints = bank.zeroPoints;
  if (zeroPoints)
    zeroPoints = bank.block ? unpackCodes(b, zeroPoints, bank.bits, 2, blocks)
                            : unpackCodes(b, zeroPoints, bank.bits, 1, bank.n);
  if (!codes || (bank.zeroPoints && !zeroPoints))
    return {};
  SmallVector<int64_t> sizes(lead, 0);
  auto spread = [&](Value value) {
    SmallVector<int64_t> perBlock = sizes;
    perBlock.append({bank.n, blocks, 1});
    return b.reshape(b.cast(take(value), f32), perBlock);
  };
  SmallVector<int64_t> blocked = sizes, flat = sizes;
  blocked.append({bank.n, blocks, bank.k / blocks});
  flat.append({bank.n, bank.k});
  Value values = b.reshape(b.cast(take(codes), f32), blocked);
  Value middle = zeroPoints ? spread(zeroPoints) : b.scalar(f32, 1 << (bank.bits - 1));
  values = b.node("Mul", {b.node("Sub", {values, middle}), spread(bank.scales)});
  return b.reshape(values, flat);
}

static Type getType(const Bank &bank, Type modelType, GraphBuilder &b) {
  return bank.isQuantized() ? b.builder.getF32Type() : modelType;
}

static bool checkExperts(ExpertsOp experts) {
  if (!experts.getKinds())
    return true;
  emitUnsupported(experts) << "experts without a feed-forward network cannot be written as ONNX "
                              "nodes";
  return false;
}

/// The sum of each token's weights, [T,1].
static Value sumWeights(GraphBuilder &b, const Entries &entries, Type type) {
  Value weights = b.cast(entries.weights, type);
  if (entries.kept)
    weights = b.node("Where", {entries.kept, weights, b.scalar(type, 0)});
  return b.reduce("ReduceSum", weights, 1);
}

FailureOr<Value> mlir::moe::writeExperts(OpBuilder &builder, const IRMapping &written,
                                         RoutingWriter &routings, ExpertsOp experts) {
  GraphBuilder b(builder, experts.getLoc());
  auto banks = getBanks(b, written, experts);
  auto entries = routings.getEntries(experts.getRouting());
  if (!checkExperts(experts) || failed(banks) || failed(entries))
    return failure();
  Type modelType = cast<ShapedType>(experts.getInput().getType()).getElementType();
  Type type = getType(banks->up, modelType, b), sumType = getComputeType(modelType);
  bool missing = false;
  // Matrices [T,k,N,K] times columns [T,k,K,1].
  auto take = [&](Value value) { return b.gather(value, entries->ids, 0); };
  auto matrices = [&](const Bank &bank) {
    Value matrix =
        bank.isQuantized() ? dequantize(b, bank, take, 2) : b.cast(take(bank.weights), type);
    missing |= !matrix;
    return matrix ? matrix : bank.weights;
  };
  auto bias = [&](Value value) { return b.unsqueeze(b.cast(take(value), type), {3}); };
  auto product = [&](Value x, Value matrix) { return b.node("MatMul", {matrix, x}); };
  FeedForward network{b, matrices, bias, product, type, 2, {1}};

  Value input = written.lookupOrDefault(experts.getInput());
  Value x = b.unsqueeze(b.cast(input, type), {1, 3});
  Value weights = entries->weights ? b.unsqueeze(b.cast(entries->weights, sumType), 2) : Value();
  if (experts.getScaleInput())
    x = b.node("Mul", {x, b.unsqueeze(b.cast(entries->weights, type), {2, 3})});
  Value rows = b.squeeze(writeNetwork(network, *banks, experts.getActivation(), x), {3});
  if (missing) {
    emitUnsupported(experts) << "codes that are no constants cannot be written as ONNX nodes";
    return failure();
  }
  rows = b.cast(rows, sumType);
  if (experts.getWeight() == CombineWeight::Output)
    rows = b.node("Mul", {rows, weights});
  if (entries->kept)
    rows = b.node("Where", {b.unsqueeze(entries->kept, 2), rows, b.scalar(sumType, 0)});
  Value result = b.reduce("ReduceSum", rows, 1, /*keep=*/false);
  if (Value routing = experts.getUncoveredRouting()) {
    auto first = routings.getEntries(routing);
    if (failed(first))
      return failure();
    Value kept = entries->kept
                     ? b.cast(entries->kept, sumType)
                     : b.cast(b.filled(entries->ids, builder.getF32FloatAttr(1)), sumType);
    Value covered = b.cast(b.reduce("ReduceMax", kept, 1), builder.getI1Type());
    Value alone = b.node("Mul", {b.cast(input, sumType), sumWeights(b, *first, sumType)});
    result = b.node("Where", {covered, result, alone});
  }
  if (double scale = experts.getPostScale().convertToDouble(); scale != 1)
    result = b.node("Mul", {result, b.scalar(sumType, scale)});
  return b.cast(result, modelType);
}

//===----------------------------------------------------------------------===//
// Shared experts
//===----------------------------------------------------------------------===//

FailureOr<Value> mlir::moe::writeShared(OpBuilder &builder, const IRMapping &written,
                                        SharedOp shared) {
  GraphBuilder b(builder, shared.getLoc());
  auto banks = getBanks(b, written, shared);
  if (failed(banks))
    return failure();
  Type modelType = cast<ShapedType>(shared.getInput().getType()).getElementType();
  Type type = getType(banks->up, modelType, b), sumType = getComputeType(modelType);
  bool missing = false;
  auto all = [](Value value) { return value; };
  // Rows [1,T,K] times matrices [S,K,N].
  auto matrices = [&](const Bank &bank) {
    if (!bank.isQuantized())
      return b.cast(permuteWeight(b, bank.weights, {0, 2, 1}), type);
    Value matrix = dequantize(b, bank, all, 1);
    missing |= !matrix;
    return matrix ? b.transpose(matrix, {0, 2, 1}) : bank.weights;
  };
  auto bias = [&](Value value) { return b.unsqueeze(b.cast(value, type), {1}); };
  auto product = [&](Value x, Value matrix) { return b.node("MatMul", {x, matrix}); };
  FeedForward network{b, matrices, bias, product, type, 2, {}};

  Value x = b.unsqueeze(b.cast(written.lookupOrDefault(shared.getInput()), type), {0});
  Value rows = writeNetwork(network, *banks, shared.getActivation(), x);
  if (missing) {
    emitUnsupported(shared) << "codes that are no constants cannot be written as ONNX nodes";
    return failure();
  }
  rows = b.cast(rows, sumType);
  if (Value weight = shared.getWeight()) {
    Value columns = b.transpose(b.cast(written.lookupOrDefault(weight), sumType), {1, 0});
    rows = b.node("Mul", {rows, b.unsqueeze(columns, {2})});
  }
  Value result = b.reduce("ReduceSum", rows, 0, /*keep=*/false);
  if (Value add = shared.getAdd())
    result = b.node("Add", {b.cast(written.lookupOrDefault(add), sumType), result});
  if (shared.getMerge() == Merge::Average)
    result = b.node("Mul", {result, b.scalar(sumType, 0.5)});
  return b.cast(result, modelType);
}

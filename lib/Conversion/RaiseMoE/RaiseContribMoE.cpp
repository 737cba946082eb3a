// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// com.microsoft.MoE and com.microsoft.QMoE as moe ops. Everything that can be wrong
// with a node was checked when it was read.

#include "ContribMoE.h"

#include "moec/Conversion/RaiseMoE/RaiseMoE.h"
#include "moec/Support/NodeLocation.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::moe;

/// True for two inputs of the model whose first dimensions have one name: the library
/// checks that they agree.
static bool haveSameSymbol(Value lhs, Value rhs) {
  auto symbolOf = [](Value value) -> StringAttr {
    auto argument = dyn_cast<BlockArgument>(value);
    auto func = argument ? dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp()) : nullptr;
    auto dims = func ? func.getArgAttrOfType<ArrayAttr>(argument.getArgNumber(), onnx::kDimsAttr)
                     : ArrayAttr();
    return dims && !dims.empty() ? dyn_cast<StringAttr>(dims[0]) : StringAttr();
  };
  StringAttr symbol = symbolOf(lhs);
  bool sameRank =
      cast<ShapedType>(lhs.getType()).getRank() == cast<ShapedType>(rhs.getType()).getRank();
  return sameRank && symbol && !symbol.empty() && symbol.getValue() != "?" &&
         symbol == symbolOf(rhs);
}

namespace {

/// Threshold of PhiMoE's sparse mixer (`jitter_eps`; ONNX Runtime has the same).
constexpr double kSparseMixerEps = 0.01;

/// Builds the ops of one node.
struct Raiser {
  RewriterBase &rewriter;
  ContribMoE &moe;
  Location loc;

  /// [B,S,H] as [T,H].
  Value flattenTokens() {
    auto type = cast<RankedTensorType>(moe.input.getType());
    if (type.getRank() == 2)
      return moe.input;
    SmallVector<ReassociationIndices> groups = {{0, 1}, {2}};
    return tensor::CollapseShapeOp::create(rewriter, loc, moe.input, groups);
  }

  /// [T,H] in the shape of the input.
  Value restoreTokens(Value y) {
    auto type = cast<RankedTensorType>(moe.input.getType());
    if (type.getRank() == 2)
      return y;
    SmallVector<ReassociationIndices> groups = {{0, 1}, {2}};
    return tensor::ExpandShapeOp::create(rewriter, loc, type, y, groups,
                                         tensor::getMixedSizes(rewriter, loc, moe.input));
  }

  Value select(Value key) {
    return SelectOp::create(rewriter, loc, key, /*bias=*/Value(), SelectMode::TopK, moe.topK);
  }

  Value weigh(Value routing, Value source, WeighFn fn, WeighNorm norm, double eps = 0) {
    return WeighOp::create(rewriter, loc, routing, source, fn, norm, eps);
  }

  /// Which experts, with which weights. The operators differ: MoE takes the softmax
  /// over all experts and normalises on demand; QMoE takes it over the selected ones,
  /// which always normalises, unless the weights are given.
  Value route() {
    WeighNorm norm = moe.normalize ? WeighNorm::Sum : WeighNorm::None;
    if (moe.sparseMixer)
      return weigh(select(moe.logits), moe.logits, WeighFn::MaskedSoftmax, WeighNorm::None,
                   kSparseMixerEps);
    if (moe.routerWeights)
      return weigh(select(moe.logits), moe.routerWeights, WeighFn::None, norm);
    if (moe.quantized)
      return weigh(select(moe.logits), moe.logits, WeighFn::Softmax, WeighNorm::None);
    Value scores = score();
    return weigh(select(scores), scores, WeighFn::None, norm);
  }

  /// In f32 whatever the model's type: probabilities of many experts are close.
  Value score() {
    auto type = cast<RankedTensorType>(moe.logits.getType()).clone(rewriter.getF32Type());
    return ScoreOp::create(rewriter, loc, type, moe.logits, ScoreFn::Softmax);
  }

  /// The real values of fc1, fc2 or fc3 as [E, N, K]; null when absent.
  Value bank(const ContribMatrix &matrix) {
    if (!matrix.weights)
      return {};
    if (!moe.quantized)
      return relabel(rewriter, loc, matrix.weights, {moe.experts, matrix.n, matrix.k});
    return dequantize(matrix);
  }

  Value dequantize(const ContribMatrix &matrix) {
    int64_t e = moe.experts, n = matrix.n, k = matrix.k, block = matrix.block;
    Value codes = relabel(rewriter, loc, matrix.weights, {e, n, k * moe.bits / 8});
    SmallVector<int64_t> shape = {e, n};
    if (block)
      shape.push_back(k / block);
    Value scales = relabel(rewriter, loc, matrix.scales, shape);
    Value zeroPoints = matrix.zeroPoints;
    if (zeroPoints && !block)
      zeroPoints =
          relabel(rewriter, loc, zeroPoints, {e, int64_t(llvm::divideCeil(n * moe.bits, 8))});
    // f32 whatever the model's type: a product of a code and a scale is not rounded.
    auto type = RankedTensorType::get({e, n, k}, rewriter.getF32Type());
    return DequantizeOp::create(rewriter, loc, type, codes, scales, zeroPoints, moe.bits, block);
  }

  Value feedForward(Value rows, Value routing) {
    bool separate = moe.activation.getGlu() == Glu::Separate;
    // With a third matrix fc1 is what is activated and fc3 the linear part.
    const ContribMatrix &up = separate ? moe.fc3 : moe.fc1;
    Value gate = separate ? bank(moe.fc1) : Value();
    Value gateBias = separate ? moe.fc1.bias : Value();
    auto ffn = ExpertFFNOp::create(rewriter, loc, rows.getType(), rows, routing, bank(up), up.bias,
                                   gate, gateBias, bank(moe.fc2), moe.fc2.bias, moe.activation);
    StringRef name = getNodeName(loc);
    ffn->setAttr(kSourcesAttr,
                 rewriter.getStrArrayAttr({name.empty() ? moe.node.getOpType() : name}));
    return ffn;
  }

  /// The run fails unless `value` has as many rows as `x`, where that is not known.
  void checkTokens(StringRef name, Value value, Value x) {
    auto sizeOf = [](Value value) { return cast<RankedTensorType>(value.getType()).getDimSize(0); };
    bool isStatic = !ShapedType::isDynamic(sizeOf(value)) && !ShapedType::isDynamic(sizeOf(x));
    if (isStatic || haveSameSymbol(value, moe.input))
      return;
    Value rows = tensor::DimOp::create(rewriter, loc, value, 0);
    Value tokens = tensor::DimOp::create(rewriter, loc, x, 0);
    Value equal = arith::CmpIOp::create(rewriter, loc, arith::CmpIPredicate::eq, rows, tokens);
    CheckOp::create(rewriter, loc, equal,
                    describeNode(moe.node) + ": " + name +
                        " and input differ in the number of tokens");
  }

  Value raise() {
    Value x = flattenTokens();
    checkTokens("router_probs", moe.logits, x);
    if (moe.routerWeights)
      checkTokens("router_weights", moe.routerWeights, x);
    Value routing = route();
    auto rowsType = RankedTensorType::get({ShapedType::kDynamic, moe.hidden}, moe.elementType);
    Value rows = DispatchOp::create(rewriter, loc, rowsType, x, routing);
    Value results = feedForward(rows, routing);
    Value tokens = tensor::DimOp::create(rewriter, loc, x, 0);
    Value y = CombineOp::create(rewriter, loc, x.getType(), results, routing, tokens);
    return restoreTokens(y);
  }
};

} // namespace

Value mlir::moe::castToStated(RewriterBase &rewriter, onnx::NodeOp node, Value result, Value like) {
  auto found = cast<RankedTensorType>(result.getType());
  auto stated = cast<ShapedType>(node.getResult(0).getType());
  if (found == stated)
    return result;
  Location loc = node.getLoc();
  for (int64_t dim = 0; stated.hasRank() && dim < found.getRank(); ++dim) {
    if (!found.isDynamicDim(dim) || stated.isDynamicDim(dim))
      continue;
    // Not of the result: the cast may become part of what makes it.
    Value size = tensor::DimOp::create(rewriter, loc, like, dim);
    Value expected = arith::ConstantIndexOp::create(rewriter, loc, stated.getDimSize(dim));
    Value equal = arith::CmpIOp::create(rewriter, loc, arith::CmpIPredicate::eq, size, expected);
    CheckOp::create(rewriter, loc, equal,
                    describeNode(node) + ": dimension " + Twine(dim) + " of output '" +
                        node.getOutputName(0) + "' is not " + Twine(stated.getDimSize(dim)) +
                        ", as the model states");
  }
  return tensor::CastOp::create(rewriter, loc, stated, result);
}

bool mlir::moe::isContribMoE(onnx::NodeOp node) { return node.isOp(kMoEOp) || node.isOp(kQMoEOp); }

LogicalResult mlir::moe::raiseContribMoE(RewriterBase &rewriter, onnx::NodeOp node) {
  FailureOr<ContribMoE> moe = readContribMoE(node);
  if (failed(moe))
    return failure();
  OpBuilder::InsertionGuard guard(rewriter);
  rewriter.setInsertionPoint(node);
  Value result = Raiser{rewriter, *moe, node.getLoc()}.raise();
  rewriter.replaceOp(node, castToStated(rewriter, node, result, moe->input));
  return success();
}

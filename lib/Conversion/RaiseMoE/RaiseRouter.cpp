// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The product that yields the logits of a routing, as moe.logits.

#include "ContribMoE.h"
#include "Dataflow.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

bool isConstant(Value value) {
  return value.getDefiningOp<LoadWeightOp>() || onnx::getConstantValue(value);
}

/// The logits that a routing was selected or weighed by; null when there are none.
Value findLogits(Value routing) {
  while (Operation *op = routing.getDefiningOp()) {
    if (!isa<WeighOp, FilterOp, CapacityOp>(op))
      break;
    routing = op->getOperand(0);
  }
  auto select = routing.getDefiningOp<SelectOp>();
  if (!select)
    return {};
  auto score = select.getKey().getDefiningOp<ScoreOp>();
  return score ? score.getLogits() : select.getKey();
}

/// x · W + b, or x · Wᵀ + b.
struct Product {
  onnx::NodeOp node;
  Value x, weight, bias;
  Layout layout = Layout::InOut;
};

/// A bias [E] added to the last dimension.
bool isBias(Value value, int64_t experts) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getRank() == 1 && type.getDimSize(0) == experts;
}

std::optional<Product> matchGemm(onnx::NodeOp node, int64_t experts) {
  Value bias = node.getInput(2);
  bool plain = node.getFloatAttr("alpha", 1.0f) == 1.0f && node.getIntAttr("transA", 0) == 0 &&
               (!bias || (node.getFloatAttr("beta", 1.0f) == 1.0f && isBias(bias, experts)));
  if (!plain)
    return std::nullopt;
  Layout layout = node.getIntAttr("transB", 0) ? Layout::OutIn : Layout::InOut;
  return Product{node, node.getInput(0), node.getInput(1), bias, layout};
}

/// A MatMul or Gemm, with at most one Add of a bias, between reshapes.
std::optional<Product> matchProduct(Value logits, int64_t experts) {
  auto node = stripReshapes(logits).getDefiningOp<onnx::NodeOp>();
  Value bias;
  if (node && node.isOp("Add")) {
    bool biasFirst = isBias(node.getInput(0), experts);
    bias = node.getInput(biasFirst ? 0 : 1);
    Value sum = node.getInput(biasFirst ? 1 : 0);
    // The bias belongs to E, so E must still be the last dimension here.
    if (!isBias(bias, experts) || getLastDim(sum) != experts)
      return std::nullopt;
    node = stripReshapes(sum).getDefiningOp<onnx::NodeOp>();
  }
  if (!node)
    return std::nullopt;
  std::optional<Product> product;
  if (node.isOp("Gemm"))
    product = matchGemm(node, experts);
  else if (node.isOp("MatMul"))
    product = Product{node, node.getInput(0), node.getInput(1), {}, Layout::InOut};
  if (!product || (bias && product->bias))
    return std::nullopt;
  if (bias)
    product->bias = bias;
  return product;
}

/// The op after which both values exist; null when they are in different blocks. x
/// may be reshaped only after the logits were computed.
Operation *laterOf(Value logits, Value x) {
  Operation *first = logits.getDefiningOp(), *second = x.getDefiningOp();
  if (!second || second->getBlock() != first->getBlock())
    return x.getParentBlock()->getParent()->isAncestor(first->getParentRegion()) ? first : nullptr;
  return first->isBeforeInBlock(second) ? second : first;
}

bool allUsesFollow(Value value, Operation *op) {
  return llvm::all_of(value.getUsers(), [&](Operation *user) {
    Operation *ancestor = op->getBlock()->findAncestorOpInBlock(*user);
    return ancestor && op->isBeforeInBlock(ancestor);
  });
}

/// Anchored at moe.dispatch, which has both x and, through the routing, the logits.
struct RaiseRouter : OpRewritePattern<DispatchOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(DispatchOp op, PatternRewriter &rewriter) const override {
    Value logits = findLogits(op.getRouting());
    if (!logits || !logits.getDefiningOp<onnx::NodeOp>())
      return rewriter.notifyMatchFailure(op, "the routing is not selected by a node's logits");
    auto type = cast<RankedTensorType>(logits.getType());
    int64_t experts = type.getDimSize(1), hidden = getLastDim(op.getX());
    std::optional<Product> product = matchProduct(logits, experts);
    if (!product)
      return rewriter.notifyMatchFailure(op, "the logits are not a plain product with a bias");
    if (!isConstant(product->weight))
      return rewriter.notifyMatchFailure(op, "the router's weight is not constant");
    bool outIn = product->layout == Layout::OutIn;
    SmallVector<int64_t> shape = {outIn ? experts : hidden, outIn ? hidden : experts};
    auto weightType = dyn_cast<RankedTensorType>(product->weight.getType());
    if (!weightType || weightType.getShape() != ArrayRef(shape))
      return rewriter.notifyMatchFailure(op, "the router's weight is not [H, E] or [E, H]");
    auto hasType = [&](Value operand) {
      return !operand ||
             cast<TensorType>(operand.getType()).getElementType() == type.getElementType();
    };
    if (!hasType(op.getX()) || !hasType(product->weight) || !hasType(product->bias))
      return rewriter.notifyMatchFailure(op, "the product mixes element types");
    // Rows of H elements on both sides of equal elements are equal rows.
    if (stripReshapes(op.getX()) != stripReshapes(product->x) || getLastDim(product->x) != hidden)
      return rewriter.notifyMatchFailure(op, "the router does not read the experts' input");
    if (product->node.getResult(0) != logits && !product->node->hasOneUse())
      return rewriter.notifyMatchFailure(op, "the product has other users");

    Operation *after = laterOf(logits, op.getX());
    if (!after || !allUsesFollow(logits, after))
      return rewriter.notifyMatchFailure(op, "the logits are used before the experts' input is");

    rewriter.setInsertionPointAfter(after);
    int64_t tokens = cast<RankedTensorType>(op.getX().getType()).getDimSize(0);
    Location loc = product->node.getLoc();
    Value raised = LogitsOp::create(rewriter, loc, type.clone({tokens, experts}), op.getX(),
                                    product->weight, product->bias, product->layout);
    raised = castToStated(rewriter, logits.getDefiningOp<onnx::NodeOp>(), raised, op.getX());
    rewriter.replaceAllUsesWith(logits, raised);
    return success();
  }
};

} // namespace

void mlir::moe::populateRaiseRouterPatterns(RewritePatternSet &patterns) {
  patterns.add<RaiseRouter>(patterns.getContext());
}

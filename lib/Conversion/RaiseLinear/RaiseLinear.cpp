// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Conversion/RaiseLinear/RaiseLinear.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Support/NodeLocation.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/TypeUtilities.h"

namespace mlir::moe {
#define GEN_PASS_DEF_RAISELINEAR
#include "moec/Conversion/RaiseLinear/RaiseLinear.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// x · W + b (`in_out`) or x · Wᵀ + b (`out_in`). `last` is the node whose result it is.
struct Product {
  onnx::NodeOp node, last;
  Value x, weight, bias;
  Layout layout = Layout::InOut;
  int64_t n = 0, k = 0;

  Type elementType() { return getElementTypeOrSelf(weight.getType()); }
};

bool isConstant(Value value) {
  return value.getDefiningOp<LoadWeightOp>() || onnx::getConstantValue(value);
}

/// Takes the operand of a transposition that only makes the constant another layout.
void lookThroughTranspose(Product &product) {
  auto node = product.weight.getDefiningOp<onnx::NodeOp>();
  if (!node || !node.isOp("Transpose"))
    return;
  std::optional<ArrayRef<int64_t>> order = node.getIntsAttr("perm");
  if (order && *order != ArrayRef<int64_t>{1, 0})
    return;
  product.weight = node.getInput(0);
  product.layout = product.layout == Layout::InOut ? Layout::OutIn : Layout::InOut;
}

/// Finds the weight and its sizes; false unless it is a constant matrix.
bool readWeight(Product &product) {
  lookThroughTranspose(product);
  auto type = dyn_cast<RankedTensorType>(product.weight.getType());
  if (!type || type.getRank() != 2 || !type.hasStaticShape() || !isConstant(product.weight))
    return false;
  bool inOut = product.layout == Layout::InOut;
  product.n = type.getDimSize(inOut ? 1 : 0);
  product.k = type.getDimSize(inOut ? 0 : 1);
  Type element = type.getElementType();
  return product.n > 0 && product.k > 0 && (element.isF32() || element.isF16() || element.isBF16());
}

bool isConstantVector(Value value, int64_t size, Type element) {
  return isConstant(value) && value.getType() == RankedTensorType::get(size, element);
}

/// Rows of K elements, in a tensor of rank 2 or more.
bool hasRows(Product &product) {
  auto type = dyn_cast<RankedTensorType>(product.x.getType());
  return type && type.getRank() >= 2 && type.getShape().back() == product.k &&
         type.getElementType() == product.elementType();
}

/// Whether a Gemm is no more than a product and a bias for each column.
bool isPlainGemm(onnx::NodeOp node) {
  return node.getFloatAttr("alpha", 1) == 1 && node.getFloatAttr("beta", 1) == 1 &&
         node.getIntAttr("transA", 0) == 0;
}

/// Makes an Add of a constant bias, the only user of the product, part of it.
void absorbBias(Product &product) {
  Value result = product.node.getResult(0);
  if (product.bias || !result.hasOneUse())
    return;
  auto add = dyn_cast<onnx::NodeOp>(*result.user_begin());
  if (!add || !add.isOp("Add") || add->getBlock() != product.node->getBlock())
    return;
  Value bias = add.getInput(add.getInput(0) == result ? 1 : 0);
  if (!isConstantVector(bias, product.n, product.elementType()))
    return;
  product.bias = bias;
  product.last = add;
}

std::optional<Product> match(onnx::NodeOp node) {
  Product product;
  product.node = product.last = node;
  if (node.isOp("Gemm")) {
    if (!isPlainGemm(node))
      return std::nullopt;
    product.bias = node.getInput(2);
    product.layout = node.getIntAttr("transB", 0) ? Layout::OutIn : Layout::InOut;
  } else if (!node.isOp("MatMul")) {
    return std::nullopt;
  }
  product.x = node.getInput(0);
  product.weight = node.getInput(1);
  if (!readWeight(product) || !hasRows(product))
    return std::nullopt;
  if (product.bias && !isConstantVector(product.bias, product.n, product.elementType()))
    return std::nullopt;
  absorbBias(product);
  // A size that only the model states is to be checked when the node is lowered.
  SmallVector<int64_t> shape(cast<RankedTensorType>(product.x.getType()).getShape());
  shape.back() = product.n;
  if (product.last.getResult(0).getType() != RankedTensorType::get(shape, product.elementType()))
    return std::nullopt;
  return product;
}

/// All dimensions but the last as one.
SmallVector<ReassociationIndices> rowsOf(int64_t rank) {
  return {llvm::to_vector<2>(llvm::seq<int64_t>(0, rank - 1)), {rank - 1}};
}

Value raise(OpBuilder &builder, Product &product) {
  Location loc = product.node.getLoc();
  auto type = cast<RankedTensorType>(product.x.getType());
  int64_t rank = type.getRank();
  Value rows = product.x;
  if (rank > 2)
    rows = tensor::CollapseShapeOp::create(builder, loc, rows, rowsOf(rank));
  int64_t numRows = cast<RankedTensorType>(rows.getType()).getDimSize(0);
  auto resultType = RankedTensorType::get({numRows, product.n}, product.elementType());
  auto linear = LinearOp::create(builder, loc, resultType, rows, product.weight, product.bias,
                                 product.layout);
  linear->setAttr("moe.sources", builder.getStrArrayAttr({getNodeName(loc)}));
  if (rank == 2)
    return linear;
  SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(builder, loc, product.x);
  sizes.back() = builder.getIndexAttr(product.n);
  return tensor::ExpandShapeOp::create(builder, loc, product.last.getResult(0).getType(), linear,
                                       rowsOf(rank), sizes);
}

struct RaiseLinear : moe::impl::RaiseLinearBase<RaiseLinear> {
  void runOnOperation() override {
    SmallVector<onnx::NodeOp> nodes;
    getOperation().walk([&](onnx::NodeOp node) {
      if (node.isOp("MatMul") || node.isOp("Gemm"))
        nodes.push_back(node);
    });
    for (onnx::NodeOp node : nodes) {
      std::optional<Product> product = match(node);
      if (!product)
        continue;
      OpBuilder builder(product->last);
      product->last.getResult(0).replaceAllUsesWith(raise(builder, *product));
      if (product->last != node)
        product->last->erase();
      node->erase();
      ++numRaised;
    }
  }
};

} // namespace

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Another shape for the same elements in the same order.

#include "ContribMoE.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::moe;

/// A copy of the weight that `load` reads, with a reshape as its last transform.
static Value relabelWeight(RewriterBase &rewriter, LoadWeightOp load, RankedTensorType type) {
  Operation *table = SymbolTable::getNearestSymbolTable(load);
  SymbolTable symbols(table);
  auto weight = symbols.lookup<WeightOp>(load.getWeight());
  SmallVector<Attribute> transforms(weight.getTransforms().getValue());
  transforms.push_back(
      ReshapeAttr::get(rewriter.getContext(), rewriter.getDenseI64ArrayAttr(type.getShape())));

  // Detached, so that the symbol table makes the name unique and places the copy.
  auto copy = cast<WeightOp>(weight->clone());
  copy.setType(type);
  copy.setTransformsAttr(rewriter.getArrayAttr(transforms));
  StringAttr name = symbols.insert(copy, std::next(Block::iterator(weight)));
  return LoadWeightOp::create(rewriter, load.getLoc(), type, FlatSymbolRefAttr::get(name));
}

static Value relabelConstant(RewriterBase &rewriter, onnx::NodeOp constant,
                             DenseElementsAttr elements, RankedTensorType type) {
  NamedAttribute value = rewriter.getNamedAttr("value", elements.reshape(type));
  return onnx::NodeOp::create(rewriter, constant.getLoc(), TypeRange(type), "Constant",
                              ArrayRef<Value>(), constant.getVersion(), value)
      .getResult(0);
}

/// [E, …] to [E, all else], then to `type`.
static Value relabelTensor(RewriterBase &rewriter, Location loc, Value value,
                           RankedTensorType type) {
  auto regroup = [](int64_t rank) {
    SmallVector<ReassociationIndices> groups(2);
    groups[0] = {0};
    for (int64_t i = 1; i < rank; ++i)
      groups[1].push_back(i);
    return groups;
  };
  int64_t rank = cast<RankedTensorType>(value.getType()).getRank();
  if (rank > 2)
    value = tensor::CollapseShapeOp::create(rewriter, loc, value, regroup(rank));
  if (type.getRank() > 2)
    value = tensor::ExpandShapeOp::create(rewriter, loc, type, value, regroup(type.getRank()));
  return value;
}

Value mlir::moe::relabel(RewriterBase &rewriter, Location loc, Value value,
                         ArrayRef<int64_t> shape) {
  auto type = cast<RankedTensorType>(value.getType());
  if (type.getShape() == shape)
    return value;
  auto newType = type.clone(shape);
  if (auto load = value.getDefiningOp<LoadWeightOp>())
    return relabelWeight(rewriter, load, newType);
  if (DenseElementsAttr elements = onnx::getConstantValue(value))
    return relabelConstant(rewriter, value.getDefiningOp<onnx::NodeOp>(), elements, newType);
  return relabelTensor(rewriter, loc, value, newType);
}

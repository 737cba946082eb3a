// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "LoopNest.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Transforms/RegionUtils.h"

using namespace mlir;
using namespace mlir::moe;

llvm::SetVector<Value> moe::getBodyOperands(linalg::GenericOp op, Value inBody) {
  llvm::SetVector<Value> values;
  values.insert(inBody);
  for (size_t i = 0; i < values.size(); ++i) {
    Operation *producer = values[i].getDefiningOp();
    if (!producer || producer->getBlock() != op.getBody())
      continue;
    values.insert(producer->operand_begin(), producer->operand_end());
    getUsedValuesDefinedAbove(producer->getRegions(), values);
  }
  return values;
}

LoopNest::LoopNest(linalg::GenericOp op, KernelBody body)
    : op(op), loc(op.getLoc()), builder(body.builder), mapping(body.mapping) {
  for (auto [loop, type] : llvm::enumerate(op.getIteratorTypesArray()))
    (type == utils::IteratorType::parallel ? parallel : reduction).push_back(loop);
  ivs.assign(op.getNumLoops(), Value());
  computeSizes();
}

/// Each from the first operand that has it.
void LoopNest::computeSizes() {
  sizes.assign(op.getNumLoops(), Value());
  for (OpOperand &operand : op->getOpOperands()) {
    if (!isa<MemRefType>(operand.get().getType()))
      continue;
    Value memref = mapping.lookup(operand.get());
    for (auto [dim, expr] : llvm::enumerate(op.getMatchingIndexingMap(&operand).getResults()))
      if (auto loop = dyn_cast<AffineDimExpr>(expr); loop && !sizes[loop.getPosition()])
        sizes[loop.getPosition()] = memref::DimOp::create(builder, loc, memref, dim);
  }
}

void LoopNest::setPoint(Value index, ArrayRef<unsigned> loops) {
  for (auto [i, loop] : llvm::enumerate(llvm::reverse(loops))) {
    bool isLast = i + 1 == loops.size();
    ivs[loop] = isLast ? index : arith::RemUIOp::create(builder, loc, index, sizes[loop]);
    if (!isLast)
      index = arith::DivUIOp::create(builder, loc, index, sizes[loop]);
  }
}

Value LoopNest::countPoints(ArrayRef<unsigned> loops) {
  Value count = arith::ConstantIndexOp::create(builder, loc, 1);
  for (unsigned loop : loops)
    count = arith::MulIOp::create(builder, loc, count, sizes[loop]);
  return count;
}

SmallVector<Value> LoopNest::getIndices(OpOperand *operand) {
  SmallVector<Value> indices;
  for (AffineExpr expr : op.getMatchingIndexingMap(operand).getResults())
    indices.push_back(affine::expandAffineExpr(builder, loc, expr, ivs, {}));
  return indices;
}

SmallVector<Value> LoopNest::loadInits() {
  SmallVector<Value> values;
  for (OpOperand &init : op.getDpsInitsMutable()) {
    Type element = cast<MemRefType>(init.get().getType()).getElementType();
    auto start = op->getAttrOfType<TypedAttr>(kStartAttr);
    if (start || !op.payloadUsesValueFromOperand(&init))
      values.push_back(arith::ConstantOp::create(
          builder, loc, start ? start : cast<TypedAttr>(builder.getZeroAttr(element))));
    else
      values.push_back(
          memref::LoadOp::create(builder, loc, mapping.lookup(init.get()), getIndices(&init)));
  }
  return values;
}

void LoopNest::storeResults(ArrayRef<Value> results) {
  for (auto [init, result] : llvm::zip(op.getDpsInitsMutable(), results))
    memref::StoreOp::create(builder, loc, result, mapping.lookup(init.get()), getIndices(&init));
}

void LoopNest::mapInput(OpOperand *input, IRMapping &step) {
  Value source = mapping.lookup(input->get());
  step.map(op.getMatchingBlockArgument(input),
           isa<MemRefType>(source.getType())
               ? memref::LoadOp::create(builder, loc, source, getIndices(input))
               : source);
}

/// Also where indices of the loops are asked for in regions.
void LoopNest::cloneBody(Operation &inner, IRMapping &step) {
  if (auto index = dyn_cast<linalg::IndexOp>(inner)) {
    step.map(index.getResult(), ivs[index.getDim()]);
    return;
  }
  Operation *clone = builder.clone(inner, step);
  clone->walk([&](linalg::IndexOp index) {
    index.replaceAllUsesWith(ivs[index.getDim()]);
    index.erase();
  });
}

SmallVector<Value> LoopNest::emitStep(ArrayRef<Value> values) {
  IRMapping step(mapping);
  for (OpOperand *input : op.getDpsInputOperands())
    if (!op.getMatchingBlockArgument(input).use_empty())
      mapInput(input, step);
  for (auto [scalar, value] : llvm::zip(op.getRegionOutputArgs(), values))
    step.map(scalar, value);
  for (Operation &inner : op.getBody()->without_terminator())
    cloneBody(inner, step);
  return llvm::map_to_vector(op.getBody()->getTerminator()->getOperands(),
                             [&](Value value) { return step.lookupOrDefault(value); });
}

Value LoopNest::evaluate(Value inBody) {
  llvm::SetVector<Value> needed = getBodyOperands(op, inBody);
  IRMapping step(mapping);
  for (OpOperand *input : op.getDpsInputOperands())
    if (needed.contains(op.getMatchingBlockArgument(input)))
      mapInput(input, step);
  for (Operation &inner : op.getBody()->without_terminator())
    if (llvm::any_of(inner.getResults(), [&](Value result) { return needed.contains(result); }))
      cloneBody(inner, step);
  return step.lookupOrDefault(inBody);
}

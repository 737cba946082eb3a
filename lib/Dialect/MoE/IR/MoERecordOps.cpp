// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/MoE/IR/MoERecord.h"

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

#define GET_OP_CLASSES
#include "moec/Dialect/MoE/IR/MoERecordOps.cpp.inc"

LogicalResult EntriesOp::verify() {
  RoutingType type = getRouting().getType();
  if (failed(checkDim(*this, "C1", "k of ids", dim(getIds(), 1), type.getK())))
    return failure();
  if (type.getWeighted() != bool(getWeights()))
    return emitOpError() << "C2: the routing is " << (type.getWeighted() ? "" : "not ")
                         << "weighted";
  return getWeights() ? checkDim(*this, "C1", "k of weights", dim(getWeights(), 1), type.getK())
                      : success();
}

LogicalResult EntriesOp::reifyResultShapes(OpBuilder &builder,
                                           ReifiedRankedShapedTypeDims &shapes) {
  SmallVector<OpFoldResult> shape = {getTokens(),
                                     builder.getIndexAttr(getRouting().getType().getK())};
  shapes.assign((*this)->getNumResults(), shape);
  return success();
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The loops of an operation inside of a kernel.

#ifndef MOEC_LIB_CONVERSION_LINALGTOGPU_LOOPNEST_H
#define MOEC_LIB_CONVERSION_LINALGTOGPU_LOOPNEST_H

#include "KernelOutliner.h"

namespace mlir::moe {

/// An attribute of an operation with one result: the number that it starts from, instead of
/// what is in memory.
constexpr StringLiteral kStartAttr = "moec.start";

/// `inBody` and all values of the body that it is computed from.
llvm::SetVector<Value> getBodyOperands(linalg::GenericOp op, Value inBody);

/// Reads operands of `op` and computes what its body says, at the point `ivs`.
class LoopNest {
public:
  LoopNest(linalg::GenericOp op, KernelBody body);

  /// Sets `ivs` of these loops to point `index` of them, the last loop fastest.
  void setPoint(Value index, ArrayRef<unsigned> loops);
  /// Number of points of these loops, 1 for none.
  Value countPoints(ArrayRef<unsigned> loops);
  /// What the results are before the first step.
  SmallVector<Value> loadInits();
  /// One step: the results so far to the next ones.
  SmallVector<Value> emitStep(ArrayRef<Value> values);
  /// A value of the body that depends on no result.
  Value evaluate(Value inBody);
  void storeResults(ArrayRef<Value> results);

  linalg::GenericOp op;
  Location loc;
  OpBuilder &builder;
  IRMapping &mapping;
  SmallVector<unsigned> parallel, reduction;
  /// Of all loops.
  SmallVector<Value> sizes, ivs;

private:
  void computeSizes();
  SmallVector<Value> getIndices(OpOperand *operand);
  void mapInput(OpOperand *input, IRMapping &step);
  void cloneBody(Operation &inner, IRMapping &step);
};

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_LINALGTOGPU_LOOPNEST_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// How values go in and out of the sub-graphs of If, Loop and Scan.
// Source: the operators' definitions in ONNX 1.23.

#ifndef MOEC_DIALECT_ONNX_IR_CONTROLFLOW_H
#define MOEC_DIALECT_ONNX_IR_CONTROLFLOW_H

#include "moec/Dialect/ONNX/IR/ONNX.h"

namespace mlir::moe::onnx {

/// The body of a Loop or Scan. Value i that is carried from step to step comes from input
/// and to argument firstInput + i, is yielded as firstYield + i, and is result i. What steps
/// collect follows behind: yielded value firstYield + numCarried + j is in result
/// numCarried + j. Arguments behind those carried are slices of the inputs of the same number.
struct LoopGraph {
  Block *body;
  unsigned firstInput, firstYield;
  unsigned numCarried, numSlices, numCollected;

  BlockArgument getArgument(unsigned i) const { return body->getArgument(firstInput + i); }
  Value getNext(unsigned i) const { return body->getTerminator()->getOperand(firstYield + i); }
  Value getCollected(unsigned j) const { return getNext(numCarried + j); }
};

/// Reports an error at the node when its body does not go with its inputs and outputs.
FailureOr<LoopGraph> getLoopGraph(NodeOp loop);

/// The two branches of an If: what runs when the condition holds is first. Reports an error
/// at the node when they do not go with its outputs.
FailureOr<std::array<Block *, 2>> getBranches(NodeOp node);

/// The axis along which a Scan slices the input `position`, of rank `rank`; nullopt for
/// what is no such input, and for an axis out of range.
std::optional<int64_t> getSlicedAxis(NodeOp node, unsigned position, int64_t rank);
/// The axis of the collected result number `index`, of rank `rank`, along which the steps
/// are; nullopt when it is out of range.
std::optional<int64_t> getStepAxis(NodeOp node, unsigned index, int64_t rank);

} // namespace mlir::moe::onnx

#endif // MOEC_DIALECT_ONNX_IR_CONTROLFLOW_H

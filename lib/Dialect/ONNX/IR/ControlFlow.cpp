// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/ONNX/IR/ControlFlow.h"

#include "moec/Support/NodeLocation.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

static InFlightDiagnostic fail(NodeOp node) {
  return mlir::emitError(node.getLoc()) << describeNode(node.getLoc(), node.getOpType()) << ": ";
}

/// The only block of the sub-graph `name`.
static FailureOr<Block *> getBlock(NodeOp node, StringRef name) {
  Region *region = node.getGraph(name);
  if (!region || region->empty())
    return fail(node) << "has no sub-graph '" << name << "'";
  return &region->front();
}

FailureOr<std::array<Block *, 2>> mlir::moe::onnx::getBranches(NodeOp node) {
  std::array<Block *, 2> branches;
  if (!node.getInput(0))
    return fail(node) << "has no condition";
  static const StringRef kNames[] = {"then_branch", "else_branch"};
  for (auto [branch, name] : llvm::zip(branches, kNames)) {
    FailureOr<Block *> block = getBlock(node, name);
    if (failed(block))
      return failure();
    branch = *block;
    if (branch->getNumArguments() != 0)
      return fail(node) << "sub-graph '" << name << "' has inputs";
    if (unsigned count = branch->getTerminator()->getNumOperands(); count != node.getNumResults())
      return fail(node) << "has " << node.getNumResults() << " outputs, but sub-graph '" << name
                        << "' has " << count;
  }
  return branches;
}

FailureOr<LoopGraph> mlir::moe::onnx::getLoopGraph(NodeOp loop) {
  FailureOr<Block *> body = getBlock(loop, "body");
  if (failed(body))
    return failure();
  bool isScan = loop.isOp("Scan");
  LoopGraph graph{*body, isScan ? 0u : 2u, isScan ? 0u : 1u, 0, 0, 0};
  unsigned numInputs = std::max(loop.getNumInputs(), graph.firstInput);
  int64_t slices = isScan ? loop.getIntAttr("num_scan_inputs", 0) : 0;
  if (slices < 0 || slices > numInputs || (isScan && slices == 0))
    return fail(loop) << "num_scan_inputs is " << slices << " where there are " << numInputs
                      << " inputs";
  graph.numSlices = slices;
  graph.numCarried = numInputs - graph.firstInput - graph.numSlices;
  if (graph.body->getNumArguments() != numInputs)
    return fail(loop) << "the body has " << graph.body->getNumArguments() << " inputs, expected "
                      << numInputs;
  unsigned numYields = graph.body->getTerminator()->getNumOperands();
  if (numYields < graph.firstYield + graph.numCarried)
    return fail(loop) << "the body has " << numYields << " outputs, expected "
                      << graph.firstYield + graph.numCarried << " or more";
  graph.numCollected = numYields - graph.firstYield - graph.numCarried;
  if (loop.getNumResults() > graph.numCarried + graph.numCollected)
    return fail(loop) << "has " << loop.getNumResults() << " outputs, but its body gives "
                      << graph.numCarried + graph.numCollected;
  for (unsigned i = graph.firstInput; i < numInputs; ++i)
    if (!loop.getInput(i))
      return fail(loop) << "input " << i << " is missing";
  return graph;
}

/// Element `index` of a list of axes, counted from the front.
static std::optional<int64_t> getAxis(NodeOp node, StringRef name, unsigned index, int64_t rank) {
  std::optional<ArrayRef<int64_t>> axes = node.getIntsAttr(name);
  int64_t axis = axes && index < axes->size() ? (*axes)[index] : 0;
  axis += axis < 0 ? rank : 0;
  return axis >= 0 && axis < rank ? std::optional(axis) : std::nullopt;
}

std::optional<int64_t> mlir::moe::onnx::getSlicedAxis(NodeOp node, unsigned position,
                                                      int64_t rank) {
  int64_t index = int64_t(position) - node.getNumInputs() + node.getIntAttr("num_scan_inputs", 0);
  if (!node.isOp("Scan") || index < 0)
    return std::nullopt;
  return getAxis(node, "scan_input_axes", index, rank);
}

std::optional<int64_t> mlir::moe::onnx::getStepAxis(NodeOp node, unsigned index, int64_t rank) {
  return getAxis(node, "scan_output_axes", index, rank);
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Results of nodes with sub-graphs, which have been inferred before.

#include "Inference.h"

#include "moec/Dialect/ONNX/IR/ControlFlow.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

static Type getElement(Value value) {
  Type type = cast<TensorType>(value.getType()).getElementType();
  return isa<UnknownType>(type) ? Type() : type;
}

static std::optional<Shape> getShape(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type ? std::optional(Shape(type.getShape())) : std::nullopt;
}

/// A result of either branch has the sizes that both agree on.
static LogicalResult inferIf(Inference &in) {
  FailureOr<std::array<Block *, 2>> branches = getBranches(in.node);
  if (failed(branches))
    return failure();
  auto [taken, other] = *branches;
  for (unsigned i = 0; i < in.node.getNumResults(); ++i) {
    Value a = taken->getTerminator()->getOperand(i), b = other->getTerminator()->getOperand(i);
    Type element = getElement(a) ? getElement(a) : getElement(b);
    if (getElement(a) && getElement(b) && getElement(a) != getElement(b))
      return in.fail() << "output " << i << " is of type " << getElement(a) << " in one branch and "
                       << getElement(b) << " in the other";
    std::optional<Shape> shape = getShape(a), otherShape = getShape(b);
    if (!shape || !otherShape || shape->size() != otherShape->size()) {
      in.set(i, element, std::nullopt);
      continue;
    }
    for (auto [size, otherSize] : llvm::zip(*shape, *otherShape))
      if (size != otherSize)
        size = kDynamic;
    in.set(i, element, shape);
  }
  return success();
}

/// How often the body of a Loop or Scan runs; kDynamic when that is not known.
static int64_t getNumSteps(Inference &in, const LoopGraph &graph) {
  if (in.node.isOp("Scan")) {
    unsigned position = graph.numCarried;
    std::optional<Shape> shape = in.shape(position);
    std::optional<int64_t> axis =
        shape ? getSlicedAxis(in.node, position, shape->size()) : std::nullopt;
    return axis ? (*shape)[*axis] : kDynamic;
  }
  auto isTrue = [&](Value value) {
    return !value || in.shapes.getKnown(value) == SmallVector<int64_t>{1};
  };
  Value next = graph.body->getTerminator()->getOperand(0);
  bool isCounted =
      isTrue(in.node.getInput(1)) && (next == graph.body->getArgument(1) || isTrue(next));
  std::optional<SmallVector<int64_t>> count = in.ints(0);
  if (!isCounted || !count || count->size() != 1)
    return kDynamic;
  return std::max<int64_t>(count->front(), 0);
}

static LogicalResult inferLoop(Inference &in) {
  FailureOr<LoopGraph> graph = getLoopGraph(in.node);
  if (failed(graph))
    return failure();
  for (unsigned i = 0; i < graph->numCarried; ++i) {
    Value argument = graph->getArgument(i), next = graph->getNext(i);
    if (getElement(argument) && getElement(next) && getElement(argument) != getElement(next))
      return in.fail() << "carried value " << i << " is of type " << getElement(argument)
                       << " before a step and " << getElement(next) << " after it";
    in.set(i, getElement(argument), getShape(argument));
  }
  int64_t steps = getNumSteps(in, *graph);
  for (unsigned j = 0; j < graph->numCollected; ++j) {
    Value value = graph->getCollected(j);
    std::optional<Shape> shape = getShape(value);
    if (shape) {
      std::optional<int64_t> axis = getStepAxis(in.node, j, shape->size() + 1);
      if (!axis)
        return in.fail() << "scan_output_axes does not go with scan output " << j;
      shape->insert(shape->begin() + *axis, steps);
    }
    in.set(graph->numCarried + j, getElement(value), shape);
  }
  return success();
}

void inference::addControlFlow(InferTable &table) {
  table["If"] = inferIf;
  table["Loop"] = inferLoop;
  table["Scan"] = inferLoop;
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Sub-graphs: branches that are known take the place of their If, and the arguments of
// the bodies of loops get their types.

#include "Normalizer.h"

#include "moec/Dialect/ONNX/IR/ControlFlow.h"
#include "moec/Support/NodeLocation.h"

#include "mlir/IR/IRMapping.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

static InFlightDiagnostic fail(NodeOp node) {
  return mlir::emitError(node.getLoc()) << describeNode(node.getLoc(), node.getOpType()) << ": ";
}

void Normalizer::forgetResults(Operation *op) {
  op->walk([&](Operation *inner) {
    for (Value result : inner->getResults()) {
      shapes.forget(result);
      sequences.erase(result);
    }
  });
}

/// The other branch is not looked at: it may be wrong where the condition does not hold.
FailureOr<bool> Normalizer::takeKnownBranch(NodeOp node) {
  FailureOr<std::array<Block *, 2>> branches = getBranches(node);
  if (failed(branches))
    return failure();
  std::optional<SmallVector<int64_t>> condition = shapes.getKnown(node.getInput(0));
  if (!condition || condition->size() != 1)
    return false;
  Block *taken = (*branches)[condition->front() ? 0 : 1];
  Operation *yield = taken->getTerminator();
  SmallVector<NodeOp> nodes(taken->getOps<NodeOp>());
  node->getBlock()->getOperations().splice(node->getIterator(), taken->getOperations(),
                                           taken->begin(), yield->getIterator());
  for (NodeOp inner : nodes)
    if (failed(visit(inner)))
      return failure();
  node->replaceAllUsesWith(yield->getOperands());
  node->erase();
  ++numFolded;
  return true;
}

/// The type of a value that starts as `first` and that the body takes as `stated`. A size
/// that the model leaves open there may change from step to step.
static TensorType getCarriedType(TensorType first, TensorType stated) {
  Type element = first.getElementType();
  if (isa<UnknownType>(element))
    element = stated.getElementType();
  auto firstShape = dyn_cast<RankedTensorType>(first);
  auto statedShape = dyn_cast<RankedTensorType>(stated);
  if (!firstShape)
    return UnrankedTensorType::get(element);
  SmallVector<int64_t> shape(firstShape.getShape());
  bool isStated = statedShape && statedShape.getRank() == firstShape.getRank();
  for (size_t i = 0; isStated && i < shape.size(); ++i)
    if (statedShape.isDynamicDim(i))
      shape[i] = ShapedType::kDynamic;
  return RankedTensorType::get(shape, element);
}

/// The type of the slice of an input of a Scan.
static FailureOr<TensorType> getSliceType(NodeOp node, unsigned position) {
  auto type = cast<TensorType>(node.getInput(position).getType());
  auto ranked = dyn_cast<RankedTensorType>(type);
  if (!ranked)
    return TensorType(UnrankedTensorType::get(type.getElementType()));
  std::optional<int64_t> axis = getSlicedAxis(node, position, ranked.getRank());
  if (!axis)
    return fail(node) << "scan_input_axes does not go with input " << position << " of rank "
                      << ranked.getRank();
  SmallVector<int64_t> shape(ranked.getShape());
  shape.erase(shape.begin() + *axis);
  return TensorType(RankedTensorType::get(shape, type.getElementType()));
}

static LogicalResult setArgumentTypes(NodeOp node, const LoopGraph &graph) {
  Builder b(node.getContext());
  if (graph.firstInput == 2) {
    graph.body->getArgument(0).setType(RankedTensorType::get({}, b.getI64Type()));
    graph.body->getArgument(1).setType(RankedTensorType::get({}, b.getI1Type()));
  }
  for (unsigned i = 0; i < graph.numCarried; ++i) {
    BlockArgument argument = graph.getArgument(i);
    auto first = cast<TensorType>(node.getInput(graph.firstInput + i).getType());
    argument.setType(getCarriedType(first, cast<TensorType>(argument.getType())));
  }
  for (unsigned i = 0; i < graph.numSlices; ++i) {
    unsigned position = graph.firstInput + graph.numCarried + i;
    FailureOr<TensorType> type = getSliceType(node, position);
    if (failed(type))
      return failure();
    graph.body->getArgument(position).setType(*type);
  }
  return success();
}

/// `type` without the sizes that `next` has not.
static TensorType generalize(TensorType type, TensorType next) {
  auto shape = dyn_cast<RankedTensorType>(type);
  auto nextShape = dyn_cast<RankedTensorType>(next);
  if (!shape || !nextShape || shape.getRank() != nextShape.getRank())
    return UnrankedTensorType::get(type.getElementType());
  SmallVector<int64_t> sizes(shape.getShape());
  for (auto [size, after] : llvm::zip(sizes, nextShape.getShape()))
    if (size != after)
      size = ShapedType::kDynamic;
  return RankedTensorType::get(sizes, type.getElementType());
}

/// What a step leaves of the sizes that its body was normalized with decides what holds
/// for all steps: the body is normalized again with what is left.
LogicalResult Normalizer::visitLoopBody(NodeOp node) {
  FailureOr<LoopGraph> graph = getLoopGraph(node);
  if (failed(graph) || failed(setArgumentTypes(node, *graph)))
    return failure();
  Region *region = graph->body->getParent();
  while (true) {
    Region before;
    IRMapping mapping;
    region->cloneInto(&before, mapping);
    if (failed(run(region->front())))
      return failure();
    graph = getLoopGraph(node);
    SmallVector<TensorType> types;
    bool isStable = true;
    for (unsigned i = 0; i < graph->numCarried; ++i) {
      auto type = cast<TensorType>(graph->getArgument(i).getType());
      types.push_back(generalize(type, cast<TensorType>(graph->getNext(i).getType())));
      isStable &= types.back() == type;
    }
    if (isStable)
      return success();
    for (Operation &op : region->front())
      forgetResults(&op);
    region->takeBody(before);
    graph = getLoopGraph(node);
    for (auto [i, type] : llvm::enumerate(types))
      graph->getArgument(i).setType(type);
  }
}

LogicalResult Normalizer::visitGraphs(NodeOp node, bool &done) {
  if (node.isOp("If")) {
    FailureOr<bool> taken = takeKnownBranch(node);
    if (failed(taken))
      return failure();
    done = *taken;
    if (done)
      return success();
  }
  if (node.isOp("Loop") || node.isOp("Scan"))
    return visitLoopBody(node);
  for (Region &body : node.getBodies())
    if (!body.empty() && failed(run(body.front())))
      return failure();
  return success();
}

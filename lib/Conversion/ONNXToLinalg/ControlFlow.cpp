// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// If, Loop and Scan. Nodes of a sub-graph are lowered where they are; then its operations
// move into one of scf.

#include "Lowering.h"

#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "moec/Dialect/ONNX/IR/ControlFlow.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;
using onnx::LoopGraph;

//===----------------------------------------------------------------------===//
// Sub-graphs
//===----------------------------------------------------------------------===//

static LogicalResult lowerGraph(NodeLowering &n, Block &block) {
  return lowerNodes(SmallVector<onnx::NodeOp>(block.getOps<onnx::NodeOp>()), n.vectorBits);
}

/// Moves what computes `value` in a sub-graph of `node` before the node; false when that
/// is more than arithmetic on what is there.
static bool hoist(Value value, Operation *node) {
  Operation *op = value.getDefiningOp();
  Operation *owner = op ? op->getParentOp() : value.getParentBlock()->getParentOp();
  if (!node->isAncestor(owner))
    return true;
  if (!op || !isPure(op) || op->getNumRegions() != 0 ||
      !llvm::all_of(op->getOperands(), [&](Value operand) { return hoist(operand, node); }))
    return false;
  op->moveBefore(node);
  return true;
}

/// The sizes of a value of the sub-graph `graph`, known before the node; null for those that
/// are not.
static Sizes hoistSizes(NodeLowering &n, Block &graph, Value value) {
  ImplicitLocOpBuilder b(n.b.getLoc(), graph.getTerminator());
  Sizes sizes = getSizes(b, value);
  for (OpFoldResult &size : sizes)
    if (auto computed = dyn_cast<Value>(size); computed && !hoist(computed, n.node))
      size = {};
  return sizes;
}

/// `value` with sizes that are known from elsewhere; a null one is what it is.
static Value withSizes(ImplicitLocOpBuilder &b, Value value, ArrayRef<OpFoldResult> sizes) {
  auto type = cast<RankedTensorType>(value.getType());
  if (type.hasStaticShape())
    return value;
  Sizes known(sizes), offsets(sizes.size(), b.getIndexAttr(0)),
      ones(sizes.size(), b.getIndexAttr(1));
  for (auto [dim, size] : llvm::enumerate(known))
    if (!size)
      size = tensor::DimOp::create(b, value, dim).getResult();
  return tensor::ExtractSliceOp::create(b, value, offsets, known, ones);
}

static RankedTensorType getTypeOf(ArrayRef<OpFoldResult> sizes, Type element) {
  SmallVector<int64_t> shape;
  for (OpFoldResult size : sizes) {
    std::optional<int64_t> known = size ? getConstantIntValue(size) : std::nullopt;
    shape.push_back(known.value_or(ShapedType::kDynamic));
  }
  return RankedTensorType::get(shape, element);
}

static Value copy(ImplicitLocOpBuilder &b, Value tensor) {
  return bufferization::AllocTensorOp::create(b, cast<RankedTensorType>(tensor.getType()),
                                              ValueRange(), tensor);
}

/// True when `value` is memory that an operation of `block` made, as a whole.
static bool isOwnMemory(Value value, Block &block) {
  Operation *op = value.getDefiningOp();
  if (!op || op->getBlock() != &block)
    return false;
  if (isa<tensor::CastOp, tensor::ExpandShapeOp, tensor::CollapseShapeOp>(op))
    return isOwnMemory(op->getOperand(0), block);
  if (auto styled = dyn_cast<DestinationStyleOpInterface>(op))
    return llvm::all_of(styled.getDpsInits(), [&](Value init) { return isOwnMemory(init, block); });
  return isa<tensor::EmptyOp, tensor::FromElementsOp, tensor::GenerateOp, tensor::PadOp,
             tensor::ConcatOp>(op);
}

/// The only element of a condition.
static FailureOr<Value> getCondition(NodeLowering &n, Value tensor) {
  ImplicitLocOpBuilder &b = n.b;
  auto type = dyn_cast<RankedTensorType>(tensor.getType());
  if (!type || !type.getElementType().isInteger(1) || !type.hasStaticShape() ||
      type.getNumElements() != 1)
    return n.fail("a condition must be one bool");
  if (std::optional<SmallVector<Value>> scalars = getScalars(b, tensor))
    return scalars->front();
  SmallVector<Value> zeros(type.getRank(), arith::ConstantIndexOp::create(b, 0));
  return tensor::ExtractOp::create(b, tensor, zeros).getResult();
}

//===----------------------------------------------------------------------===//
// If
//===----------------------------------------------------------------------===//

/// Sizes of a result that has these in one branch and those in the other.
static Sizes selectSizes(ImplicitLocOpBuilder &b, Value condition, ArrayRef<OpFoldResult> taken,
                         ArrayRef<OpFoldResult> other) {
  Sizes sizes;
  for (auto [lhs, rhs] : llvm::zip(taken, other)) {
    if (!lhs || !rhs) {
      sizes.push_back({});
      continue;
    }
    if (isSameSize(lhs, rhs)) {
      sizes.push_back(lhs);
      continue;
    }
    sizes.push_back(
        arith::SelectOp::create(b, condition, toValue(b, lhs), toValue(b, rhs)).getResult());
  }
  return sizes;
}

static LogicalResult lowerIf(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  FailureOr<std::array<Block *, 2>> branches = onnx::getBranches(n.node);
  if (failed(branches))
    return failure();
  FailureOr<Value> condition = getCondition(n, n.input(0));
  if (failed(condition))
    return failure();
  for (Block *branch : *branches)
    if (failed(lowerGraph(n, *branch)))
      return failure();

  SmallVector<Sizes> sizes;
  SmallVector<Type> types;
  for (unsigned i = 0; i < n.node.getNumResults(); ++i) {
    Value taken = (*branches)[0]->getTerminator()->getOperand(i);
    Value other = (*branches)[1]->getTerminator()->getOperand(i);
    auto type = dyn_cast<RankedTensorType>(taken.getType());
    auto otherType = dyn_cast<RankedTensorType>(other.getType());
    if (!type || !otherType || type.getRank() != otherType.getRank() ||
        type.getElementType() != otherType.getElementType())
      return n.unsupported("output " + Twine(i) +
                           " has not the same rank and element type in both branches");
    Sizes takenSizes = hoistSizes(n, *(*branches)[0], taken);
    sizes.push_back(selectSizes(b, *condition, takenSizes, hoistSizes(n, *(*branches)[1], other)));
    types.push_back(getTypeOf(sizes.back(), type.getElementType()));
  }

  auto choice = scf::IfOp::create(b, types, *condition, /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
  Block *targets[] = {choice.thenBlock(), choice.elseBlock()};
  for (auto [branch, target] : llvm::zip(*branches, targets)) {
    Operation *yield = branch->getTerminator();
    SmallVector<Value> values(yield->getOperands());
    target->getOperations().splice(target->end(), branch->getOperations(), branch->begin(),
                                   yield->getIterator());
    auto inner = ImplicitLocOpBuilder::atBlockEnd(b.getLoc(), target);
    for (auto [value, type] : llvm::zip(values, types)) {
      if (!isOwnMemory(value, *target))
        value = copy(inner, value);
      value = castTo(inner, value, cast<RankedTensorType>(type));
    }
    scf::YieldOp::create(inner, values);
  }
  SmallVector<Value> results;
  for (auto [result, known] : llvm::zip(choice.getResults(), sizes))
    results.push_back(withSizes(b, result, known));
  return n.replace(results);
}

//===----------------------------------------------------------------------===//
// Loop and Scan
//===----------------------------------------------------------------------===//

namespace {
/// A Loop or Scan while it is lowered.
class LoopLowering {
public:
  LoopLowering(NodeLowering &n, LoopGraph graph) : n(n), b(n.b), graph(graph) {}

  LogicalResult run();

private:
  /// Values that go from step to step: carried ones, then collected ones.
  struct Part {
    /// Of the carried value, or of the collected one.
    unsigned number;
    RankedTensorType type;
    Value init;
    /// What the result has when the loop has ended.
    Sizes sizes;
    /// Along which steps are collected.
    int64_t axis = -1;
    bool isReversed = false;
  };

  bool isScan() { return n.node.isOp("Scan"); }
  LogicalResult findSteps();
  /// True for what every step hands on as it is.
  bool isInvariant(unsigned i) { return graph.getNext(i) == graph.getArgument(i); }
  LogicalResult addCarried(unsigned i);
  LogicalResult addCollected(unsigned j);
  Value takeSlice(ImplicitLocOpBuilder &b, unsigned position, Value step);
  Value addStep(ImplicitLocOpBuilder &b, const Part &part, Value collection, Value value,
                Value step);
  /// The body of one step: what is yielded to the next one, and whether there is one.
  std::pair<SmallVector<Value>, Value> emitStep(Block &target, Value step, ValueRange values);
  SmallVector<Value> emitCounted();
  SmallVector<Value> emitConditional();
  /// True when element `index` of a list of directions says backwards.
  bool isBackward(StringRef directions, unsigned index) {
    std::optional<ArrayRef<int64_t>> given = n.node.getIntsAttr(directions);
    return given && index < given->size() && (*given)[index] == 1;
  }

  NodeLowering &n;
  ImplicitLocOpBuilder &b;
  LoopGraph graph;
  /// Steps at most; null when only a condition ends them.
  OpFoldResult count;
  /// Whether there is a first step; null when there is.
  Value first;
  /// The steps end on a condition too.
  bool isConditional = false;
  SmallVector<Part> parts;
};
} // namespace

static bool isTrue(Value tensor) {
  std::optional<SmallVector<int64_t>> value = getConstantInts(tensor);
  return value && value->size() == 1 && value->front();
}

LogicalResult LoopLowering::findSteps() {
  if (isScan()) {
    for (unsigned i = 0; i < graph.numSlices; ++i) {
      unsigned position = graph.numCarried + i;
      Value input = n.input(position);
      std::optional<int64_t> axis =
          onnx::getSlicedAxis(n.node, position, n.inputType(position).getRank());
      if (!axis)
        return n.fail("scan_input_axes does not go with input " + Twine(position));
      OpFoldResult size = getSize(b, input, *axis);
      if (!count)
        count = size;
      else if (failed(agreeOnSize(n, count, size, "the inputs have different numbers of steps")))
        return failure();
    }
    return success();
  }
  if (n.input(0)) {
    FailureOr<OpFoldResult> given = n.scalarInput(0, "the trip count");
    if (failed(given))
      return failure();
    count = maxSizes(b, *given, b.getIndexAttr(0));
  }
  if (n.input(1) && !isTrue(n.input(1))) {
    FailureOr<Value> condition = getCondition(n, n.input(1));
    if (failed(condition))
      return failure();
    first = *condition;
  }
  Value next = graph.body->getTerminator()->getOperand(0);
  isConditional = next != graph.body->getArgument(1) && !isTrue(next);
  if (!isConditional && !count)
    return n.unsupported("neither a trip count nor a condition ends it");
  if (!isConditional && first)
    count = arith::SelectOp::create(b, first, toValue(b, count), toValue(b, b.getIndexAttr(0)))
                .getResult();
  return success();
}

/// A carried value has the same sizes in all steps.
LogicalResult LoopLowering::addCarried(unsigned i) {
  auto type = dyn_cast<RankedTensorType>(graph.getArgument(i).getType());
  Value init = n.input(graph.firstInput + i), next = graph.getNext(i);
  auto nextType = dyn_cast<RankedTensorType>(next.getType());
  if (!type || !nextType || type.getRank() != nextType.getRank() ||
      type.getElementType() != nextType.getElementType())
    return n.unsupported("carried value " + Twine(i) +
                         " changes its rank or element type from step to step");
  Part part;
  part.number = i;
  part.type = type;
  part.sizes = getSizes(b, init);
  // The steps write to it.
  part.init = castTo(b, copy(b, init), type);
  ImplicitLocOpBuilder inner(b.getLoc(), graph.body->getTerminator());
  NodeLowering step(n.node);
  step.b.setInsertionPoint(graph.body->getTerminator());
  std::string message =
      "carried value " + std::to_string(i) + " changes its size from step to step";
  for (auto [dim, size] : llvm::enumerate(getSizes(inner, next))) {
    if (isSameSize(size, part.sizes[dim]))
      continue;
    if (getConstantIntValue(size) && getConstantIntValue(part.sizes[dim]))
      return n.unsupported(message);
    step.check(equalSizes(inner, size, part.sizes[dim]), message);
  }
  parts.push_back(part);
  return success();
}

LogicalResult LoopLowering::addCollected(unsigned j) {
  Value row = graph.getCollected(j);
  auto type = dyn_cast<RankedTensorType>(row.getType());
  if (!type)
    return n.unsupported("the rank of scan output " + Twine(j) + " is not known");
  Part part;
  part.number = j;
  std::optional<int64_t> axis = onnx::getStepAxis(n.node, j, type.getRank() + 1);
  if (!axis)
    return n.fail("scan_output_axes does not go with scan output " + Twine(j));
  part.axis = *axis;
  part.isReversed = isBackward("scan_output_directions", j);
  std::optional<int64_t> known = count ? getConstantIntValue(count) : std::nullopt;
  if (!count || (isConditional && known && *known > std::numeric_limits<int32_t>::max()))
    return n.unsupported("scan output " + Twine(j) + " needs a trip count that bounds its size");
  part.sizes = hoistSizes(n, *graph.body, row);
  if (llvm::is_contained(part.sizes, OpFoldResult()))
    return n.unsupported("the size of scan output " + Twine(j) +
                         " is only known while the body runs");
  part.sizes.insert(part.sizes.begin() + *axis, count);
  part.init = emptyTensor(b, part.sizes, type.getElementType());
  part.type = cast<RankedTensorType>(part.init.getType());
  parts.push_back(part);
  return success();
}

/// Slice `step` of an input of a Scan.
Value LoopLowering::takeSlice(ImplicitLocOpBuilder &b, unsigned position, Value step) {
  Value input = n.input(position);
  Sizes sizes = getSizes(b, input);
  int64_t axis = *onnx::getSlicedAxis(n.node, position, sizes.size());
  Sizes offsets(sizes.size(), b.getIndexAttr(0)), ones(sizes.size(), b.getIndexAttr(1));
  if (isBackward("scan_input_directions", position - graph.numCarried)) {
    Value last = arith::SubIOp::create(b, toValue(b, count), arith::ConstantIndexOp::create(b, 1));
    step = arith::SubIOp::create(b, last, step);
  }
  offsets[axis] = step;
  sizes[axis] = b.getIndexAttr(1);
  RankedTensorType full = getTensorType(sizes, getElementTypeOrSelf(input.getType()));
  SmallVector<int64_t> shape(full.getShape());
  shape.erase(shape.begin() + axis);
  auto type = RankedTensorType::get(shape, full.getElementType());
  Value slice = tensor::ExtractSliceOp::create(b, type, input, offsets, sizes, ones);
  return castTo(b, slice, cast<RankedTensorType>(graph.body->getArgument(position).getType()));
}

/// Puts what a step gives in its place of the collection.
Value LoopLowering::addStep(ImplicitLocOpBuilder &b, const Part &part, Value collection,
                            Value value, Value step) {
  Sizes sizes = part.sizes;
  Sizes offsets(sizes.size(), b.getIndexAttr(0)), ones(sizes.size(), b.getIndexAttr(1));
  if (part.isReversed) {
    Value last = arith::SubIOp::create(b, toValue(b, count), arith::ConstantIndexOp::create(b, 1));
    step = arith::SubIOp::create(b, last, step);
  }
  offsets[part.axis] = step;
  sizes[part.axis] = b.getIndexAttr(1);
  SmallVector<int64_t> shape(part.type.getShape());
  shape.erase(shape.begin() + part.axis);
  value = castTo(b, value, RankedTensorType::get(shape, part.type.getElementType()));
  return tensor::InsertSliceOp::create(b, value, collection, offsets, sizes, ones);
}

std::pair<SmallVector<Value>, Value> LoopLowering::emitStep(Block &target, Value step,
                                                            ValueRange values) {
  auto inner = ImplicitLocOpBuilder::atBlockEnd(b.getLoc(), &target);
  Block &body = *graph.body;
  if (!isScan()) {
    Value number = arith::IndexCastOp::create(inner, inner.getI64Type(), step);
    auto scalar = [&](unsigned i) { return cast<RankedTensorType>(body.getArgument(i).getType()); };
    body.getArgument(0).replaceAllUsesWith(
        tensor::FromElementsOp::create(inner, scalar(0), number));
    Value goesOn = arith::ConstantIntOp::create(inner, 1, 1);
    body.getArgument(1).replaceAllUsesWith(
        tensor::FromElementsOp::create(inner, scalar(1), goesOn));
  }
  for (auto [part, value] : llvm::zip(parts, values))
    if (part.axis < 0)
      graph.getArgument(part.number).replaceAllUsesWith(value);
  for (unsigned i = 0; i < graph.numSlices; ++i) {
    unsigned position = graph.numCarried + i;
    body.getArgument(position).replaceAllUsesWith(takeSlice(inner, position, step));
  }
  Operation *yield = body.getTerminator();
  target.getOperations().splice(target.end(), body.getOperations(), body.begin(),
                                yield->getIterator());

  // Copies: the memory of the carried values must not be written while they are read.
  SmallVector<Value> next;
  for (auto [part, kept] : llvm::zip(parts, values)) {
    Value value = part.axis >= 0 ? graph.getCollected(part.number) : graph.getNext(part.number);
    next.push_back(part.axis >= 0 ? addStep(inner, part, kept, value, step)
                                  : castTo(inner, copy(inner, value), part.type));
  }
  for (auto [part, value, kept] : llvm::zip(parts, next, values))
    if (part.axis < 0)
      value = bufferization::MaterializeInDestinationOp::create(inner, part.type, value, kept)
                  ->getResult(0);
  Value goesOn;
  if (isConditional) {
    SmallVector<Value> zeros(cast<RankedTensorType>(yield->getOperand(0).getType()).getRank(),
                             arith::ConstantIndexOp::create(inner, 0));
    goesOn = tensor::ExtractOp::create(inner, yield->getOperand(0), zeros);
  }
  return {next, goesOn};
}

SmallVector<Value> LoopLowering::emitCounted() {
  SmallVector<Value> inits = llvm::map_to_vector(parts, [](const Part &part) { return part.init; });
  Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
  auto loop = scf::ForOp::create(b, zero, toValue(b, count), one, inits);
  Block &target = *loop.getBody();
  if (inits.empty())
    target.getTerminator()->erase();
  auto [next, goesOn] = emitStep(target, loop.getInductionVar(), loop.getRegionIterArgs());
  auto end = ImplicitLocOpBuilder::atBlockEnd(b.getLoc(), &target);
  scf::YieldOp::create(end, next);
  return loop.getResults();
}

/// Carries the number of the step and whether it is taken, too: behind the others, which
/// bufferization wants to find at the same place before and after the condition.
SmallVector<Value> LoopLowering::emitConditional() {
  Value zero = arith::ConstantIndexOp::create(b, 0);
  SmallVector<Value> inits = llvm::map_to_vector(parts, [](const Part &part) { return part.init; });
  inits.push_back(zero);
  inits.push_back(first ? first : arith::ConstantIntOp::create(b, 1, 1));
  unsigned numParts = parts.size();
  SmallVector<Type> types = llvm::to_vector(ValueRange(inits).getTypes());
  SmallVector<Location> locs(types.size(), b.getLoc());
  auto loop = scf::WhileOp::create(b, types, inits);
  Block *before = b.createBlock(&loop.getBefore(), {}, types, locs);
  Block *after = b.createBlock(&loop.getAfter(), {}, types, locs);
  b.setInsertionPoint(n.node);

  auto head = ImplicitLocOpBuilder::atBlockEnd(b.getLoc(), before);
  Value isTaken = before->getArgument(numParts + 1);
  if (count) {
    Value isInside = arith::CmpIOp::create(head, arith::CmpIPredicate::slt,
                                           before->getArgument(numParts), toValue(head, count));
    isTaken = arith::AndIOp::create(head, isTaken, isInside);
  }
  scf::ConditionOp::create(head, isTaken, before->getArguments());

  Value step = after->getArgument(numParts);
  auto [next, goesOn] = emitStep(*after, step, after->getArguments().take_front(numParts));
  auto end = ImplicitLocOpBuilder::atBlockEnd(b.getLoc(), after);
  Value one = arith::ConstantIndexOp::create(end, 1);
  next.push_back(arith::AddIOp::create(end, step, one));
  next.push_back(goesOn);
  scf::YieldOp::create(end, next);
  for (Part &part : parts)
    if (part.axis >= 0)
      part.sizes[part.axis] = loop.getResult(numParts);
  return llvm::to_vector(ValueRange(loop.getResults()).take_front(numParts));
}

LogicalResult LoopLowering::run() {
  if (failed(lowerGraph(n, *graph.body)) || failed(findSteps()))
    return failure();
  SmallVector<Value> results(graph.numCarried + graph.numCollected);
  for (unsigned i = 0; i < graph.numCarried; ++i) {
    if (isInvariant(i)) {
      results[i] = n.input(graph.firstInput + i);
      auto type = cast<RankedTensorType>(graph.getArgument(i).getType());
      graph.getArgument(i).replaceAllUsesWith(castTo(b, results[i], type));
    } else if (failed(addCarried(i))) {
      return failure();
    }
  }
  for (unsigned j = 0; j < graph.numCollected; ++j)
    if (failed(addCollected(j)))
      return failure();
  SmallVector<Value> values = isConditional ? emitConditional() : emitCounted();
  for (auto [value, part] : llvm::zip(values, parts))
    results[part.number + (part.axis >= 0 ? graph.numCarried : 0)] =
        withSizes(b, value, part.sizes);
  results.resize(n.node.getNumResults());
  return n.replace(results);
}

static LogicalResult lowerLoop(NodeLowering &n) {
  FailureOr<LoopGraph> graph = onnx::getLoopGraph(n.node);
  if (failed(graph))
    return failure();
  return LoopLowering(n, *graph).run();
}

void lowering::addControlFlow(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"If", 11, kNewestOpset, lowerIf});
  table.push_back({"Loop", 11, kNewestOpset, lowerLoop});
  table.push_back({"Scan", 11, kNewestOpset, lowerLoop});
}

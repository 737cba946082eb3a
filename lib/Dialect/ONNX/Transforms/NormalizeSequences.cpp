// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Sequences whose number of tensors is known stand for these tensors: no node of a
// normalized graph reads or makes one.

#include "Normalizer.h"

#include "moec/Support/NodeLocation.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

static InFlightDiagnostic fail(NodeOp node) {
  return mlir::emitError(node.getLoc()) << describeNode(node.getLoc(), node.getOpType()) << ": ";
}

/// The tensors of a sequence; null when they are not known.
static const SmallVector<Value> *getSequence(NodeOp node, unsigned position,
                                             Normalizer &normalizer) {
  auto it = normalizer.sequences.find(node.getInput(position));
  return it == normalizer.sequences.end() ? nullptr : &it->second;
}

/// A known position in a sequence of `size` tensors, `size` itself too if `end`; nullopt
/// when it is not known. Reports one that is out of range.
static FailureOr<std::optional<int64_t>> getPosition(NodeOp node, unsigned input, int64_t size,
                                                     bool end, Normalizer &normalizer) {
  std::optional<SmallVector<int64_t>> known = normalizer.shapes.getKnown(node.getInput(input));
  if (!known || known->size() != 1)
    return std::optional<int64_t>();
  int64_t given = known->front(), position = given < 0 ? given + size : given;
  if (position < 0 || position >= size + end)
    return fail(node) << "position " << given << " is out of range for a sequence of " << size
                      << " tensors";
  return std::optional(position);
}

//===----------------------------------------------------------------------===//
// Making sequences
//===----------------------------------------------------------------------===//

static LogicalResult upgradeConstruct(NodeOp node, Normalizer &normalizer, bool &done) {
  normalizer.sequences[node.getResult(0)] = SmallVector<Value>(node.getInputs());
  return success();
}

static LogicalResult upgradeEmpty(NodeOp node, Normalizer &normalizer, bool &done) {
  normalizer.sequences[node.getResult(0)] = {};
  return success();
}

/// Sizes of the parts along a dimension of size `size`; nullopt when unknown.
static std::optional<SmallVector<int64_t>> getParts(NodeOp node, int64_t size,
                                                    Normalizer &normalizer) {
  Value split = node.getInput(1);
  std::optional<SmallVector<int64_t>> given =
      split ? normalizer.shapes.getKnown(split) : SmallVector<int64_t>{1};
  if (!given)
    return std::nullopt;
  bool isVector = split && cast<ShapedType>(split.getType()).getRank() == 1;
  if (isVector)
    return given;
  if (ShapedType::isDynamic(size) || given->front() <= 0)
    return std::nullopt;
  SmallVector<int64_t> parts;
  for (int64_t begin = 0; begin < size; begin += given->front())
    parts.push_back(std::min(given->front(), size - begin));
  return parts;
}

static LogicalResult upgradeSplit(NodeOp node, Normalizer &normalizer, bool &done) {
  auto type = dyn_cast<RankedTensorType>(node.getInput(0).getType());
  if (!type)
    return success();
  int64_t axis = node.getIntAttr("axis", 0), rank = type.getRank();
  if (axis < -rank || axis >= rank)
    return fail(node) << "axis " << axis << " is out of range for rank " << rank;
  axis += axis < 0 ? rank : 0;
  std::optional<SmallVector<int64_t>> parts = getParts(node, type.getDimSize(axis), normalizer);
  if (!parts)
    return success();
  if (parts->empty()) {
    normalizer.sequences[node.getResult(0)] = {};
    return success();
  }
  Builder &b = normalizer.builder;
  FailureOr<SmallVector<Value>> results =
      normalizer.createMany("Split", {node.getInput(0), normalizer.createInts(*parts)}, 18,
                            b.getNamedAttr("axis", b.getI64IntegerAttr(axis)), parts->size());
  if (failed(results))
    return failure();
  // keepdims counts only for parts of size 1 that nobody asked for.
  if (!node.getInput(1) && !node.getIntAttr("keepdims", 1))
    for (Value &part : *results) {
      FailureOr<Value> squeezed =
          normalizer.create("Squeeze", {part, normalizer.createInts(axis)}, 13);
      if (failed(squeezed))
        return failure();
      part = *squeezed;
    }
  normalizer.sequences[node.getResult(0)] = *results;
  return success();
}

//===----------------------------------------------------------------------===//
// Reading sequences
//===----------------------------------------------------------------------===//

static LogicalResult upgradeAt(NodeOp node, Normalizer &normalizer, bool &done) {
  const SmallVector<Value> *sequence = getSequence(node, 0, normalizer);
  if (!sequence)
    return success();
  FailureOr<std::optional<int64_t>> position =
      getPosition(node, 1, sequence->size(), /*end=*/false, normalizer);
  if (failed(position))
    return failure();
  return *position ? normalizer.replace(node, (*sequence)[**position]) : success();
}

static LogicalResult upgradeLength(NodeOp node, Normalizer &normalizer, bool &done) {
  const SmallVector<Value> *sequence = getSequence(node, 0, normalizer);
  if (!sequence)
    return success();
  Builder &b = normalizer.builder;
  auto value = DenseElementsAttr::get(RankedTensorType::get({}, b.getI64Type()),
                                      static_cast<int64_t>(sequence->size()));
  FailureOr<Value> constant = normalizer.create("Constant", {}, 13, b.getNamedAttr("value", value));
  return success(succeeded(constant) && succeeded(normalizer.replace(node, *constant)));
}

static LogicalResult upgradeInsert(NodeOp node, Normalizer &normalizer, bool &done) {
  const SmallVector<Value> *sequence = getSequence(node, 0, normalizer);
  if (!sequence)
    return success();
  SmallVector<Value> result = *sequence;
  int64_t position = result.size();
  if (node.getInput(2)) {
    FailureOr<std::optional<int64_t>> given =
        getPosition(node, 2, position, /*end=*/true, normalizer);
    if (failed(given) || !*given)
      return failure(failed(given));
    position = **given;
  }
  result.insert(result.begin() + position, node.getInput(1));
  normalizer.sequences[node.getResult(0)] = result;
  return success();
}

static LogicalResult upgradeErase(NodeOp node, Normalizer &normalizer, bool &done) {
  const SmallVector<Value> *sequence = getSequence(node, 0, normalizer);
  if (!sequence)
    return success();
  SmallVector<Value> result = *sequence;
  int64_t position = static_cast<int64_t>(result.size()) - 1;
  if (node.getInput(1)) {
    FailureOr<std::optional<int64_t>> given =
        getPosition(node, 1, result.size(), /*end=*/false, normalizer);
    if (failed(given) || !*given)
      return failure(failed(given));
    position = **given;
  }
  if (position < 0)
    return fail(node) << "the sequence is empty";
  result.erase(result.begin() + position);
  normalizer.sequences[node.getResult(0)] = result;
  return success();
}

static LogicalResult upgradeConcat(NodeOp node, Normalizer &normalizer, bool &done) {
  const SmallVector<Value> *sequence = getSequence(node, 0, normalizer);
  if (!sequence)
    return success();
  if (sequence->empty())
    return fail(node) << "the sequence is empty";
  auto type = dyn_cast<RankedTensorType>(sequence->front().getType());
  if (!type)
    return success();
  bool isNew = node.getIntAttr("new_axis", 0) != 0;
  int64_t axis = node.getIntAttr("axis", 0), rank = type.getRank() + isNew;
  if (axis < -rank || axis >= rank)
    return fail(node) << "axis " << axis << " is out of range for rank " << rank;
  axis += axis < 0 ? rank : 0;
  SmallVector<Value> parts = *sequence;
  if (isNew)
    for (Value &part : parts) {
      FailureOr<Value> unsqueezed =
          normalizer.create("Unsqueeze", {part, normalizer.createInts(axis)}, 13);
      if (failed(unsqueezed))
        return failure();
      part = *unsqueezed;
    }
  Builder &b = normalizer.builder;
  FailureOr<Value> result =
      normalizer.create("Concat", parts, 13, b.getNamedAttr("axis", b.getI64IntegerAttr(axis)));
  return success(succeeded(result) && succeeded(normalizer.replace(node, *result)));
}

void mlir::moe::onnx::addSequenceUpgrades(llvm::StringMap<Canonical> &table) {
  table["ConcatFromSequence"] = {11, upgradeConcat};
  table["SequenceAt"] = {11, upgradeAt};
  table["SequenceConstruct"] = {11, upgradeConstruct};
  table["SequenceEmpty"] = {11, upgradeEmpty};
  table["SequenceErase"] = {11, upgradeErase};
  table["SequenceInsert"] = {11, upgradeInsert};
  table["SequenceLength"] = {11, upgradeLength};
  table["SplitToSequence"] = {11, upgradeSplit};
}

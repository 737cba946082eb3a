// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Masks that let an expert accept its first tokens only.

#include "Router.h"
#include "Routing.h"

#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

namespace {

/// Reads `one_hot · (cumsum(one_hot) <= capacity)`.
struct CapacityReader {
  int64_t experts;
  Refusal &refusal;

  FailureOr<CapacityMask> read(Value mask);

private:
  FailureOr<CapacityMask> readProduct(Value oneHot, Value keep);
  LogicalResult readComparison(Value keep, CapacityMask &result, Value oneHot);
  LogicalResult readPosition(Value position, CapacityMask &result, Value oneHot, double &first);
  LogicalResult readScope(NodeOp cumSum, CapacityMask &result);
  bool isOneHotOf(Value value, Value ids) const;
};

} // namespace

static RankedTensorType getType(Value value) { return dyn_cast<RankedTensorType>(value.getType()); }

/// The numbers 0 and 1 in whatever type.
static Value stripNumbers(Value mask) {
  while (true) {
    mask = stripReshapes(mask);
    NodeOp cast = getNode(mask, "Cast");
    if (!cast)
      return mask;
    mask = cast.getInput(0);
  }
}

bool CapacityReader::isOneHotOf(Value value, Value ids) const {
  Value found = getOneHotIds(value, experts);
  return found && stripReshapesAndCasts(found) == stripReshapesAndCasts(ids);
}

FailureOr<CapacityMask> CapacityReader::read(Value mask) {
  Value root = stripNumbers(mask);
  auto node = root.getDefiningOp<NodeOp>();
  if (node && (node.isOp("Mul") || node.isOp("And")))
    for (int i : {0, 1})
      if (getOneHotIds(node.getInput(i), experts))
        return readProduct(node.getInput(i), node.getInput(1 - i));
  if (node && node.isOp("Where") && getSplat(node.getInput(2)) == 0.0 &&
      getOneHotIds(node.getInput(1), experts))
    return readProduct(node.getInput(1), node.getInput(0));
  return refusal.refuse(root, "is the mask of a routing, expected one-hot vectors times a mask of "
                              "those within the capacity");
}

FailureOr<CapacityMask> CapacityReader::readProduct(Value oneHot, Value keep) {
  CapacityMask result;
  result.ids = getOneHotIds(oneHot, experts);
  if (failed(readComparison(keep, result, oneHot)))
    return failure();
  return result;
}

/// The comparison of a position with a constant; positions are whole numbers.
LogicalResult CapacityReader::readComparison(Value keep, CapacityMask &result, Value oneHot) {
  Value root = stripNumbers(keep);
  bool inverted = false;
  while (NodeOp inverse = getNode(root, "Not")) {
    root = stripNumbers(inverse.getInput(0));
    inverted = !inverted;
  }
  auto node = root.getDefiningOp<NodeOp>();
  bool isComparison = node && (node.isOp("LessOrEqual") || node.isOp("Less") ||
                               node.isOp("Greater") || node.isOp("GreaterOrEqual"));
  if (!isComparison)
    return refusal.refuse(root, "is the mask of a capacity, expected a comparison");
  bool constantFirst = getSplat(node.getInput(0)).has_value();
  Value position = node.getInput(constantFirst ? 1 : 0);
  std::optional<double> bound = getSplat(node.getInput(constantFirst ? 0 : 1));
  if (!bound)
    return refusal.refuse(root, "compares with a capacity that is not constant");
  bool isLess = node.getOpType().starts_with("Less");
  bool orEqual = node.getOpType().ends_with("OrEqual");
  if (constantFirst)
    isLess = !isLess;
  if (inverted) {
    isLess = !isLess;
    orEqual = !orEqual;
  }
  if (!isLess)
    return refusal.refuse(root, "keeps the last tokens of an expert, expected the first");
  double first = 0;
  if (failed(readPosition(position, result, oneHot, first)))
    return failure();
  // The last position that is kept, and how many there are from the first on.
  double last = orEqual ? std::floor(*bound) : std::ceil(*bound) - 1;
  double capacity = last - first + 1;
  if (!(capacity >= 1) || capacity > double(CapacityAttr::kLargest))
    return refusal.refuse(root, "keeps " + Twine(int64_t(capacity)) + " tokens of an expert");
  result.capacity = int64_t(capacity);
  return success();
}

/// A running count of the one-hot vectors, plus constants; what it is elsewhere than at the
/// ones does not matter. `first` is the position of the first token.
LogicalResult CapacityReader::readPosition(Value position, CapacityMask &result, Value oneHot,
                                           double &first) {
  first = 1;
  while (true) {
    position = stripReshapesAndCasts(position);
    auto node = position.getDefiningOp<NodeOp>();
    bool shifts = node && (node.isOp("Sub") || node.isOp("Add"));
    if (std::optional<double> shift = shifts ? getSplat(node.getInput(1)) : std::nullopt) {
      first += node.isOp("Sub") ? -*shift : *shift;
      position = node.getInput(0);
    } else if (node && node.isOp("Mul") && isOneHotOf(node.getInput(1), result.ids)) {
      position = node.getInput(0);
    } else if (node && node.isOp("Mul") && isOneHotOf(node.getInput(0), result.ids)) {
      position = node.getInput(1);
    } else {
      break;
    }
  }
  NodeOp cumSum = getNode(position, "CumSum");
  if (!cumSum || cumSum.getIntAttr("reverse", 0) != 0 ||
      !isOneHotOf(cumSum.getInput(0), result.ids))
    return refusal.refuse(position, "is the position at an expert, expected CumSum of the one-hot "
                                    "vectors");
  if (cumSum.getIntAttr("exclusive", 0) != 0)
    first -= 1;
  return readScope(cumSum, result);
}

/// Which tokens are counted together: those of a sequence, or all.
LogicalResult CapacityReader::readScope(NodeOp cumSum, CapacityMask &result) {
  auto type = getType(cumSum.getInput(0));
  std::optional<SmallVector<int64_t>> axes = onnx::getConstantInts(cumSum.getInput(1));
  int64_t rank = type ? type.getRank() : 0;
  if (rank < 2 || !axes || axes->size() != 1)
    return refusal.refuse(cumSum.getResult(0), "counts along an axis that is not known");
  int64_t axis = axes->front() < 0 ? axes->front() + rank : axes->front();
  auto areOnes = [&](int64_t from, int64_t to) {
    return llvm::all_of(type.getShape().slice(from, to - from), [](int64_t d) { return d == 1; });
  };
  // Dimensions between the axis and the experts would be slots.
  if (axis >= rank - 1 || !areOnes(axis + 1, rank - 1))
    return refusal.refuse(cumSum.getResult(0), "counts along dimension " + Twine(axis) +
                                                   ", expected that of the tokens");
  result.counted = cumSum.getInput(0);
  result.groupDim = areOnes(0, axis) ? -1 : axis;
  return success();
}

FailureOr<CapacityMask> mlir::moe::matchCapacityMask(Value mask, int64_t experts,
                                                     Refusal &refusal) {
  return CapacityReader{experts, refusal}.read(mask);
}

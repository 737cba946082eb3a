// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Positions at experts, and the capacities that limit them.

#include "PlacementReader.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::placement;
using onnx::NodeOp;

bool placement::isAtLeast(CapacityAttr lhs, CapacityAttr rhs) {
  auto getNumber = [](CapacityAttr capacity) -> double {
    ArrayRef<CapacityTerm> terms = capacity.getTerms();
    bool isNumber = terms.size() == 1 && terms[0].kind == CapacityTerm::Number;
    return isNumber ? terms[0].number : std::nan("");
  };
  return lhs == rhs || getNumber(lhs) >= getNumber(rhs);
}

/// `value`, whose rows are those of the tokens, without reshapes and conversions.
Value PlacementReader::asRows(Value value) const {
  while (true) {
    Value inner = stripReshapes(value);
    if (getLastDim(inner) != experts)
      return value;
    NodeOp cast = getCast(inner);
    if (!cast)
      return inner;
    value = cast.getInput(0);
  }
}

void PlacementReader::collectFactors(Value value, SmallVectorImpl<Value> &factors) const {
  value = asRows(value);
  auto node = value.getDefiningOp<NodeOp>();
  bool isProduct = node && (node.isOp("Mul") || node.isOp("And"));
  bool isMasked = node && node.isOp("Where") && getSplat(node.getInput(2)) == 0.0;
  if ((!isProduct && !isMasked) || oneHotIds(value)) {
    factors.push_back(value);
    return;
  }
  for (unsigned i : {0, 1})
    collectFactors(node.getInput(i), factors);
}

/// The factors of the product that `value` is the sum of, over the experts.
Value PlacementReader::getSummedOverExperts(Value value, SmallVectorImpl<Value> &factors) const {
  auto node = stripNumbers(value).getDefiningOp<NodeOp>();
  if (!node || !node.getInput(0) || getLastDim(node.getInput(0)) != experts)
    return {};
  if (node.isOp("ReduceSum") && reducesLastDim(node)) {
    collectFactors(node.getInput(0), factors);
    return node.getResult(0);
  }
  auto equation = node.getStringAttr("equation", "");
  bool isSumOfProduct = node.isOp("Einsum") && node.getNumInputs() == 2 && equation.size() == 8 &&
                        equation.substr(0, 2) == equation.substr(3, 2) &&
                        equation[0] != equation[1] && equation[2] == ',' &&
                        equation.substr(5, 2) == "->" && equation[7] == equation[0] &&
                        getLastDim(node.getInput(1)) == experts;
  if (!isSumOfProduct)
    return {};
  collectFactors(node.getInput(0), factors);
  collectFactors(node.getInput(1), factors);
  return node.getResult(0);
}

FailureOr<ExpertProduct> placement::classify(ArrayRef<Value> factors, int64_t experts,
                                             Refusal &refusal) {
  ExpertProduct product;
  for (Value factor : factors) {
    if (Value ids = getOneHotIds(factor, experts)) {
      if (product.ids && !areSame(ids, product.ids))
        return refusal.refuse(factor, "is a mask of another choice than the one that it is "
                                      "multiplied with");
      product.ids = ids;
    } else if (isComparison(factor)) {
      product.keeps.push_back(factor);
    } else {
      product.others.push_back(factor);
    }
  }
  return product;
}

FailureOr<ExpertProduct> PlacementReader::readExpertProduct(Value value) {
  SmallVector<Value> factors;
  collectFactors(value, factors);
  return classify(factors, experts, refusal);
}

/// How often each expert is chosen: the one-hot vectors of a choice, summed over the tokens.
/// Limited to a capacity, the positions after it are beyond that, too.
LogicalResult PlacementReader::readTotals(Value value, Count &count) {
  auto node = stripNumbers(value).getDefiningOp<NodeOp>();
  if (node && node.isOp("Add"))
    return success(succeeded(readTotals(node.getInput(0), count)) &&
                   succeeded(readTotals(node.getInput(1), count)));
  RankedTensorType type = node && node.isOp("ReduceSum") ? getType(node.getInput(0)) : nullptr;
  std::optional<SmallVector<int64_t>> axes = type ? getAxes(node) : std::nullopt;
  if (!type || type.getRank() != 2 || type.getDimSize(1) != experts || !axes || axes->size() != 1 ||
      (axes->front() != 0 && axes->front() != -2))
    return refuse(value, "is added to the positions, expected a constant or how often an earlier "
                         "choice has each expert");
  FailureOr<ExpertProduct> product = readExpertProduct(node.getInput(0));
  if (failed(product))
    return failure();
  if (!product->ids || !product->others.empty())
    return refuse(node.getResult(0), "is added to the positions, expected the sum of the one-hot "
                                     "vectors of an earlier choice");
  count.earlier.push_back(product->ids);
  for (Value keep : product->keeps)
    count.keeps.push_back({keep, product->ids});
  return success();
}

/// One number for each expert, for all tokens.
bool PlacementReader::isPerExpert(Value value) const {
  RankedTensorType type = getType(value);
  return type && type.hasStaticShape() && type.getNumElements() == experts &&
         getLastDim(value) == experts;
}

/// A running count of one-hot vectors, plus constants and the counts of earlier choices.
FailureOr<Count> PlacementReader::readCount(Value value) {
  Count count;
  Value masks;
  while (true) {
    value = asRows(value);
    auto node = value.getDefiningOp<NodeOp>();
    bool isSum = node && (node.isOp("Add") || node.isOp("Sub"));
    bool shiftFirst = node && node.isOp("Add") && getSplat(node.getInput(0));
    std::optional<double> shift =
        isSum ? getSplat(node.getInput(shiftFirst ? 0 : 1)) : std::nullopt;
    if (shift) {
      count.first += node.isOp("Sub") ? -*shift : *shift;
      value = node.getInput(shiftFirst ? 1 : 0);
    } else if (node && node.isOp("Add")) {
      bool totalsSecond = isPerExpert(node.getInput(1));
      if (failed(readTotals(node.getInput(totalsSecond ? 1 : 0), count)))
        return failure();
      value = node.getInput(totalsSecond ? 0 : 1);
    } else if (node && node.isOp("Mul") &&
               (oneHotIds(node.getInput(0)) || oneHotIds(node.getInput(1)))) {
      bool maskSecond = bool(oneHotIds(node.getInput(1)));
      Value ids = oneHotIds(node.getInput(maskSecond ? 1 : 0));
      if (masks && !areSame(ids, masks))
        return refuse(value, "masks positions by another choice than the one that is counted");
      masks = ids;
      value = node.getInput(maskSecond ? 0 : 1);
    } else {
      break;
    }
  }
  NodeOp cumSum = getNode(value, "CumSum");
  count.ids = cumSum ? oneHotIds(cumSum.getInput(0)) : Value();
  if (!count.ids || cumSum.getIntAttr("reverse", 0) != 0)
    return refuse(value, "is the position at an expert, expected CumSum of the one-hot vectors");
  if (masks && !areSame(masks, count.ids))
    return refuse(value, "counts another choice than the one whose positions these are");
  RankedTensorType type = getType(cumSum.getInput(0));
  std::optional<SmallVector<int64_t>> axis = onnx::getConstantInts(cumSum.getInput(1));
  bool overTokens = type.getRank() == 2 && axis && axis->size() == 1 &&
                    (axis->front() == 0 || axis->front() == -2);
  if (!overTokens)
    return refuse(value, "counts along another dimension than that of the tokens");
  if (cumSum.getIntAttr("exclusive", 0) != 0)
    count.first -= 1;
  return count;
}

/// Positions [tokens]: those of [tokens, experts] at the ids.
FailureOr<TokenPositions> PlacementReader::readLocation(Value value) {
  TokenPositions location;
  Value root = stripNumbers(value);
  SmallVector<Value> factors;
  NodeOp gather = getNode(root, "GatherElements");
  if (gather && isAlongLastDim(gather) && getLastDim(gather.getInput(0)) == experts) {
    FailureOr<Count> count = readCount(gather.getInput(0));
    if (failed(count))
      return failure();
    if (!areSame(gather.getInput(1), count->ids))
      return refuse(root, "gathers positions of another choice than the one that is counted");
    location.count = *count;
    return location;
  }
  if (!getSummedOverExperts(root, factors))
    return refuse(root, "is the position of each token, expected the sum over the experts of the "
                        "positions times the one-hot vectors");
  FailureOr<ExpertProduct> product = classify(factors, experts, refusal);
  if (failed(product))
    return failure();
  if (product->others.size() != 1)
    return refuse(root, "is the position of each token, expected one tensor of positions times "
                        "masks");
  FailureOr<Count> count = readCount(product->others[0]);
  if (failed(count))
    return failure();
  // A mask may already have been multiplied with before constants were added: then what is
  // summed is not the position alone.
  if (!product->ids)
    return refuse(root, "sums positions over all experts, expected those of the chosen one");
  if (!areSame(product->ids, count->ids))
    return refuse(root, "takes positions of another choice than the one that is counted");
  location.count = *count;
  location.keeps = product->keeps;
  return location;
}

/// The capacity below which positions stay. `ids` and `earlier` are what must be counted.
FailureOr<CapacityAttr> PlacementReader::readKeep(Value keep, Value ids, ArrayRef<Value> earlier) {
  bool inverted = false;
  NodeOp node = getComparison(keep, inverted);
  if (!node)
    return refuse(keep, "is the mask of a capacity, expected a comparison");
  auto isBound = [&](Value value) { return getSplat(value) || readCapacity(value, isTokenCount); };
  bool constantFirst = isBound(node.getInput(0));
  Value limit = node.getInput(constantFirst ? 0 : 1);
  if (!isBound(limit))
    return refuse(node.getResult(0), "compares with a capacity that is neither constant nor a "
                                     "function of the number of tokens");
  Value position = node.getInput(constantFirst ? 1 : 0);
  bool isByExpert = getLastDim(asRows(position)) == experts && getType(position).getRank() > 1;
  Count count;
  if (isByExpert) {
    FailureOr<Count> read = readCount(position);
    if (failed(read))
      return failure();
    count = *read;
  } else {
    FailureOr<TokenPositions> read = readLocation(position);
    if (failed(read))
      return failure();
    if (!read->keeps.empty())
      return refuse(position, "is compared with a capacity after another one");
    count = read->count;
  }
  if (!areSame(count.ids, ids) || !areSame(count.earlier, earlier))
    return refuse(node.getResult(0), "keeps by other positions than those of the choice");
  bool isLess = node.getOpType().starts_with("Less");
  bool orEqual = node.getOpType().ends_with("OrEqual");
  isLess ^= constantFirst;
  if (inverted) {
    isLess = !isLess;
    orEqual = !orEqual;
  }
  if (!isLess)
    return refuse(node.getResult(0), "keeps the last tokens of an expert, expected the first");
  CapacityAttr capacity = getKept(limit, count.first, orEqual);
  if (!capacity)
    return refuse(node.getResult(0), "keeps another number of an expert's tokens than the capacity "
                                     "that it compares with");
  if (failed(checkLimits(count, capacity)))
    return failure();
  return capacity;
}

/// How many positions from `first` on are below `limit`, or at most that.
CapacityAttr PlacementReader::getKept(Value limit, double first, bool orEqual) const {
  std::optional<double> bound = getSplat(limit);
  if (!bound)
    return first == (orEqual ? 1 : 0) ? readCapacity(limit, isTokenCount) : CapacityAttr();
  double last = orEqual ? std::floor(*bound) : std::ceil(*bound) - 1;
  double capacity = last - first + 1;
  bool isCapacity = capacity >= 1 && capacity <= double(CapacityAttr::kLargest);
  return isCapacity ? getCapacity(limit.getContext(), int64_t(capacity)) : CapacityAttr();
}

/// Counts that end at a capacity end no earlier than what is kept.
LogicalResult PlacementReader::checkLimits(const Count &count, CapacityAttr capacity) {
  for (auto [keep, ids] : count.keeps) {
    Value limited = ids;
    auto before = llvm::find_if(count.earlier, [&](Value v) { return areSame(v, limited); });
    FailureOr<CapacityAttr> limit =
        readKeep(keep, ids, SmallVector<Value>(count.earlier.begin(), before));
    if (failed(limit))
      return failure();
    if (!isAtLeast(*limit, capacity))
      return refuse(keep, "limits what is counted to less than the capacity");
  }
  return success();
}

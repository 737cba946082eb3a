// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "PlacementReader.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::placement;
using onnx::NodeOp;

bool placement::areSame(Value lhs, Value rhs) {
  return stripReshapesAndCasts(lhs) == stripReshapesAndCasts(rhs);
}

bool placement::areSame(ArrayRef<Value> lhs, ArrayRef<Value> rhs) {
  auto same = [](auto pair) { return areSame(std::get<0>(pair), std::get<1>(pair)); };
  return lhs.size() == rhs.size() && llvm::all_of(llvm::zip(lhs, rhs), same);
}

NodeOp placement::getCast(Value value) {
  NodeOp cast = getNode(value, "Cast");
  if (!cast)
    return {};
  Type from = getElementTypeOrSelf(cast.getInput(0).getType()),
       to = getElementTypeOrSelf(value.getType());
  return isa<FloatType>(to) || (isa<IntegerType>(from) && !to.isInteger(1)) || from == to
             ? cast
             : NodeOp();
}

Value placement::stripExact(Value value) {
  while (true) {
    value = stripReshapes(value);
    NodeOp cast = getCast(value);
    if (!cast)
      return value;
    value = cast.getInput(0);
  }
}

Value placement::stripNumbers(Value value) {
  while (true) {
    value = stripExact(value);
    NodeOp cast = getNode(value, "Cast");
    if (!cast || getElementTypeOrSelf(value.getType()).isInteger(1))
      return value;
    value = cast.getInput(0);
  }
}

NodeOp placement::getComparison(Value mask, bool &inverted) {
  mask = stripNumbers(mask);
  while (NodeOp inverse = getNode(mask, "Not")) {
    inverted = !inverted;
    mask = stripNumbers(inverse.getInput(0));
  }
  auto node = mask.getDefiningOp<NodeOp>();
  bool compares = node && (node.isOp("Less") || node.isOp("LessOrEqual") || node.isOp("Greater") ||
                           node.isOp("GreaterOrEqual"));
  return compares ? node : NodeOp();
}

bool placement::isComparison(Value mask) {
  bool inverted = false;
  return bool(getComparison(mask, inverted));
}

//===----------------------------------------------------------------------===//
// Terms
//===----------------------------------------------------------------------===//

/// Gates [tokens, experts] at one choice, by token.
FailureOr<ExpertProduct> PlacementReader::readGate(Value value) {
  SmallVector<Value> factors;
  if (!getSummedOverExperts(value, factors))
    return failure();
  Refusal ignored;
  FailureOr<ExpertProduct> product = classify(factors, experts, ignored);
  bool isGate = succeeded(product) && product->ids && product->others.size() == 1 &&
                isa<FloatType>(getElementTypeOrSelf(product->others[0].getType()));
  if (!isGate)
    return failure();
  return product;
}

/// The weight of a choice: gates at its experts, perhaps divided, or any number per token.
LogicalResult PlacementReader::readWeight(const Factor &factor, ReadTerm &result) {
  Placement::Choice &choice = result.choice;
  if (choice.gates || choice.weight)
    return refuse(factor.value, "is a second factor of the weights");
  if (!isa<FloatType>(getElementTypeOrSelf(factor.value.getType())))
    return refuse(factor.value, "is the weight of a token, expected floating-point numbers");
  if (factor.is("te")) {
    choice.gates = factor.value;
    return success();
  }
  if (!factor.is("t"))
    return refuse(factor.value, "is a weight, expected one of each token, or of each token and "
                                "expert");
  Value weight = factor.value;
  NodeOp div = getNode(stripReshapesAndCasts(weight), "Div");
  if (div && !getSplat(div.getInput(1))) {
    weight = div.getInput(0);
    result.divisor = div.getInput(1);
  }
  result.weight = choice.weight = factor.value;
  FailureOr<ExpertProduct> gate = readGate(weight);
  if (failed(gate) || !areSame(gate->ids, choice.ids) ||
      !areWithin(gate->keeps, choice.ids, result.earlier, result.capacity)) {
    result.divisor = {};
    return success();
  }
  choice.weight = {};
  choice.gates = gate->others[0];
  return success();
}

/// Whether masks are 1 at all positions of a choice below the capacity.
bool PlacementReader::areWithin(ArrayRef<Value> keeps, Value ids, ArrayRef<Value> earlier,
                                CapacityAttr capacity) {
  return llvm::all_of(keeps, [&](Value keep) {
    Refusal ignored;
    std::swap(ignored, refusal);
    FailureOr<CapacityAttr> limit = readKeep(keep, ids, earlier);
    std::swap(ignored, refusal);
    return succeeded(limit) && isAtLeast(*limit, capacity);
  });
}

/// Below which number one-hot vectors have their 1.
CapacityAttr PlacementReader::getDepth(Value oneHot) const {
  if (!ShapedType::isDynamic(positions))
    return getCapacity(oneHot.getContext(), positions);
  NodeOp node = getNode(stripNumbers(oneHot), "OneHot");
  return node ? readCapacity(node.getInput(1), isTokenCount) : CapacityAttr();
}

FailureOr<ReadTerm> PlacementReader::readTerm(const Term &term) {
  ReadTerm result;
  Value position;
  CapacityAttr depth;
  Term rest;
  SmallVector<Value> keeps;
  for (const Factor &factor : term) {
    Value ids = factor.is("te") ? oneHotIds(factor.value) : Value();
    Value place = factor.is("tc") ? getOneHotIds(factor.value, positions) : Value();
    if (ids && result.choice.ids && !areSame(ids, result.choice.ids))
      return refuse(factor.value, "is a mask of another choice than the one beside it");
    if (place && position && !areSame(place, position))
      return refuse(factor.value, "is a second position of the tokens");
    if (ids)
      result.choice.ids = ids;
    else if (place)
      std::tie(position, depth) = std::pair(place, getDepth(factor.value));
    else if (isComparison(factor.value))
      keeps.push_back(factor.value);
    else if (getSplat(factor.value) != 1.0)
      rest.push_back(factor);
  }
  if (!position)
    return failure(); // It does not look like one.
  if (!result.choice.ids)
    return refuse(position, "is a position, expected that it is multiplied with the one-hot "
                            "vectors of the experts");
  FailureOr<TokenPositions> location = readLocation(position);
  if (failed(location))
    return failure();
  const Count &count = location->count;
  if (!areSame(count.ids, result.choice.ids))
    return refuse(position, "is a position at other experts than those that the tokens are put to");
  if (count.first != 0)
    return refuse(position,
                  "counts positions from " + Twine(int64_t(count.first)) + ", expected 0");
  result.earlier = count.earlier;
  // Positions of those left out are those of others, so that these must be left out, too.
  if (!location->keeps.empty() && keeps.empty())
    return refuse(position, "is the position within the capacity, expected that the mask beside "
                            "it leaves the others out");
  result.capacity = depth;
  if (!depth)
    return refuse(position, "is a position below a number that is neither constant nor a function "
                            "of the number of tokens");
  llvm::append_range(keeps, location->keeps);
  CapacityAttr kept;
  for (Value keep : keeps) {
    FailureOr<CapacityAttr> capacity = readKeep(keep, count.ids, count.earlier);
    if (failed(capacity))
      return failure();
    if (kept && kept != *capacity)
      return refuse(keep, "is a second capacity");
    kept = *capacity;
    if (!isAtLeast(*capacity, depth) && !isAtLeast(depth, *capacity))
      return refuse(keep, "is another capacity than the number of positions");
    if (!isAtLeast(*capacity, depth))
      result.capacity = *capacity;
  }
  if (failed(checkLimits(count, result.capacity)))
    return failure();
  for (const Factor &factor : rest)
    if (failed(readWeight(factor, result)))
      return failure();
  return result;
}

/// What bounds the divisor of weights; the sum itself is returned.
static Value readBound(Value divisor, Placement &placement) {
  Value root = stripReshapesAndCasts(divisor);
  auto node = root.getDefiningOp<NodeOp>();
  placement.norm = WeighNorm::Sum;
  bool isClip = node && node.isOp("Clip");
  if (!isClip && !(node && (node.isOp("Max") || node.isOp("Add"))))
    return root;
  bool swapped = !isClip && getSplat(node.getInput(0));
  Value other = node.getInput(swapped ? 0 : 1);
  std::optional<double> bound = other ? getSplat(other) : std::nullopt;
  if (!bound || !(*bound > 0) || (isClip && node.getInput(2)))
    return root;
  placement.norm = node.isOp("Add") ? WeighNorm::Sum : WeighNorm::Clamp;
  placement.normEps = *bound;
  return node.getInput(swapped ? 1 : 0);
}

/// Whether all gates are divided by the sum of all of them, perhaps with a bound.
bool PlacementReader::readNorm(ArrayRef<ReadTerm> terms, Placement &placement) {
  Value divisor = terms[0].divisor;
  if (!divisor || !llvm::all_of(terms, [&](const ReadTerm &term) {
        return term.divisor && areSame(term.divisor, divisor);
      }))
    return false;
  SmallVector<Value> pending = {readBound(divisor, placement)};
  SmallVector<bool> found(terms.size(), false);
  size_t kept = 0;
  while (!pending.empty()) {
    Value value = stripReshapesAndCasts(pending.pop_back_val());
    if (NodeOp add = getNode(value, "Add")) {
      llvm::append_range(pending, add.getInputs());
      continue;
    }
    FailureOr<ExpertProduct> gate = readGate(value);
    auto term = llvm::find_if(terms, [&](const ReadTerm &term) {
      return succeeded(gate) && areSame(term.choice.ids, gate->ids);
    });
    if (term == terms.end() || found[term - terms.begin()] ||
        !areSame(gate->others[0], term->choice.gates))
      return false;
    found[term - terms.begin()] = true;
    kept += !gate->keeps.empty();
    for (Value keep : gate->keeps) {
      FailureOr<CapacityAttr> capacity = readKeep(keep, gate->ids, term->earlier);
      if (failed(capacity) || *capacity != placement.capacity)
        return false;
    }
  }
  placement.normalizesKept = kept != 0;
  return !llvm::is_contained(found, false) && (kept == 0 || kept == terms.size());
}

FailureOr<Placement> PlacementReader::read(Value tensor) {
  Placement placement;
  placement.experts = experts;
  placement.root = stripExact(tensor);
  // 1 where it is not 0.
  while (true) {
    NodeOp cast = getNode(placement.root, "Cast"), inverse = getNode(placement.root, "Not");
    NodeOp equal = inverse ? getNode(stripReshapes(inverse.getInput(0)), "Equal") : NodeOp();
    bool isToBool = cast && getElementTypeOrSelf(placement.root.getType()).isInteger(1);
    if (isToBool)
      placement.root = stripExact(cast.getInput(0));
    else if (equal && getSplat(equal.getInput(1)) == 0.0)
      placement.root = stripExact(equal.getInput(0));
    else
      break;
    placement.isNonZero = true;
  }
  Terms terms;
  if (!getType(placement.root) ||
      getType(placement.root).getShape() != getType(tensor).getShape() ||
      !expand(placement.root, "tec", terms))
    return failure();
  SmallVector<ReadTerm> read;
  for (const Term &term : terms) {
    FailureOr<ReadTerm> one = readTerm(term);
    if (failed(one))
      return failure();
    read.push_back(*one);
  }
  // The choices in their order: each is counted after all before it.
  llvm::sort(read, [](const ReadTerm &lhs, const ReadTerm &rhs) {
    return lhs.earlier.size() < rhs.earlier.size();
  });
  placement.capacity = read[0].capacity;
  for (const ReadTerm &term : read) {
    auto isBefore = [&](const Placement::Choice &choice) {
      return llvm::any_of(term.earlier, [&](Value ids) { return areSame(ids, choice.ids); });
    };
    if (term.earlier.size() != placement.choices.size() ||
        !llvm::all_of(placement.choices, isBefore))
      return refuse(term.choice.ids, "is a choice whose positions are not counted after those of "
                                     "all earlier choices");
    if (term.capacity != placement.capacity)
      return refuse(term.choice.ids, "is a choice with another capacity than the first");
    placement.choices.push_back(term.choice);
  }
  if (read.size() > 1 && failed(checkDistinct(placement)))
    return failure();
  bool isDivided = llvm::any_of(read, [](const ReadTerm &term) { return bool(term.divisor); });
  if (!isDivided)
    return placement;
  refusal = {};
  if (readNorm(read, placement))
    return placement;
  // Any number per token is right.
  refusal = {};
  placement.norm = WeighNorm::None;
  placement.normEps = 0;
  placement.normalizesKept = false;
  for (auto [choice, term] : llvm::zip(placement.choices, read))
    if (term.divisor)
      choice = {choice.ids, {}, term.weight};
  return placement;
}

/// A token has an expert in one choice only.
LogicalResult PlacementReader::checkDistinct(const Placement &placement) {
  SmallVector<Value> ids;
  for (const Placement::Choice &choice : placement.choices)
    ids.push_back(choice.ids);
  return success(succeeded(matchRounds(ids, experts, refusal)));
}

bool Placement::isUnweighted() const {
  return llvm::all_of(choices, [](const Choice &c) { return !c.gates && !c.weight; });
}

FailureOr<Placement> mlir::moe::readPlacement(Value tensor, IsTokenCount isTokenCount,
                                              Refusal &refusal) {
  RankedTensorType type = getType(tensor);
  if (!type || type.getRank() != 3 || type.isDynamicDim(1))
    return failure();
  return PlacementReader(type.getDimSize(1), type.getDimSize(2), isTokenCount, refusal)
      .read(tensor);
}

bool mlir::moe::movesSameTokens(const Placement &mask, const Placement &weights) {
  if (mask.isNonZero)
    return mask.root == weights.root && !weights.isNonZero;
  bool alike = mask.isUnweighted() && mask.experts == weights.experts &&
               mask.capacity == weights.capacity && mask.getK() == weights.getK();
  return alike && llvm::all_of(llvm::zip(mask.choices, weights.choices), [](auto pair) {
           return areSame(std::get<0>(pair).ids, std::get<1>(pair).ids);
         });
}

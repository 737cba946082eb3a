// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Placement.h"

#include "Router.h"
#include "Routing.h"

#include "mlir/IR/TypeUtilities.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

static RankedTensorType getType(Value value) { return dyn_cast<RankedTensorType>(value.getType()); }

namespace {

/// A factor of a product, and what its dimensions are: 't' tokens, 'e' experts, 'c'
/// positions, '1' none.
struct Factor {
  Value value;
  std::string roles;

  bool is(StringRef wanted) const {
    std::string used;
    llvm::copy_if(roles, std::back_inserter(used), [](char role) { return role != '1'; });
    return used == wanted;
  }
};
using Term = SmallVector<Factor, 4>;
using Terms = SmallVector<Term, 2>;

/// A product over [tokens, experts]: the one-hot vectors of `ids`, masks of positions within
/// a capacity, and the rest.
struct ExpertProduct {
  Value ids;
  SmallVector<Value, 2> keeps;
  SmallVector<Value, 2> others;
};

/// Positions [tokens, experts] that count the choices `ids`, from `first` on, after all
/// choices `earlier`; only those at the ids matter.
struct Count {
  Value ids;
  SmallVector<Value, 2> earlier;
  /// Masks that limit `earlier`, and of which of them.
  SmallVector<std::pair<Value, Value>, 2> keeps;
  double first = 1;
};

/// The position of each token at its expert; what it is for tokens that `keeps` leaves out
/// is not known.
struct TokenPositions {
  Count count;
  SmallVector<Value, 2> keeps;
};

/// One choice, not yet beside the others.
struct ReadTerm {
  Placement::Choice choice;
  SmallVector<Value, 2> earlier;
  CapacityAttr capacity;
  /// What the gates are divided by, and the result.
  Value divisor, weight;
};

class PlacementReader {
public:
  PlacementReader(int64_t experts, int64_t positions, IsTokenCount isTokenCount, Refusal &refusal)
      : experts(experts), positions(positions), isTokenCount(isTokenCount), refusal(refusal) {}
  FailureOr<Placement> read(Value tensor);

private:
  bool expand(Value value, StringRef roles, Terms &terms);
  bool expandOperand(Value operand, StringRef roles, Terms &terms);
  bool expandProduct(ArrayRef<std::pair<Value, std::string>> operands, Terms &terms);
  bool isIndicator(const Factor &factor) const;

  Value oneHotIds(Value value) const { return getOneHotIds(value, experts); }
  Value asRows(Value value) const;
  void collectFactors(Value value, SmallVectorImpl<Value> &factors) const;
  FailureOr<ExpertProduct> readExpertProduct(Value value);
  Value getSummedOverExperts(Value value, SmallVectorImpl<Value> &factors) const;

  bool isPerExpert(Value value) const;
  FailureOr<Count> readCount(Value value);
  CapacityAttr getKept(Value limit, double first, bool orEqual) const;
  LogicalResult checkLimits(const Count &count, CapacityAttr capacity);
  LogicalResult readTotals(Value value, Count &count);
  FailureOr<TokenPositions> readLocation(Value value);
  FailureOr<CapacityAttr> readKeep(Value keep, Value ids, ArrayRef<Value> earlier);
  CapacityAttr getDepth(Value oneHot) const;
  FailureOr<ReadTerm> readTerm(const Term &term);
  LogicalResult readWeight(const Factor &factor, ReadTerm &result);
  FailureOr<ExpertProduct> readGate(Value value);
  bool areWithin(ArrayRef<Value> keeps, Value ids, ArrayRef<Value> earlier, CapacityAttr capacity);
  LogicalResult checkDistinct(const Placement &placement);
  bool readNorm(ArrayRef<ReadTerm> terms, Placement &placement);

  LogicalResult refuse(Value value, const Twine &reason) { return refusal.refuse(value, reason); }

  int64_t experts, positions;
  IsTokenCount isTokenCount;
  Refusal &refusal;
};

} // namespace

static bool areSame(Value lhs, Value rhs) {
  return stripReshapesAndCasts(lhs) == stripReshapesAndCasts(rhs);
}

static bool areSame(ArrayRef<Value> lhs, ArrayRef<Value> rhs) {
  auto same = [](auto pair) { return areSame(std::get<0>(pair), std::get<1>(pair)); };
  return lhs.size() == rhs.size() && llvm::all_of(llvm::zip(lhs, rhs), same);
}

/// A cast that rounds at most.
static NodeOp getCast(Value value) {
  NodeOp cast = getNode(value, "Cast");
  if (!cast)
    return {};
  Type from = getElementTypeOrSelf(cast.getInput(0).getType()),
       to = getElementTypeOrSelf(value.getType());
  return isa<FloatType>(to) || (isa<IntegerType>(from) && !to.isInteger(1)) || from == to
             ? cast
             : NodeOp();
}

static Value stripExact(Value value) {
  while (true) {
    value = stripReshapes(value);
    NodeOp cast = getCast(value);
    if (!cast)
      return value;
    value = cast.getInput(0);
  }
}

/// The same for whole numbers, which may be converted to integers.
static Value stripNumbers(Value value) {
  while (true) {
    value = stripExact(value);
    NodeOp cast = getNode(value, "Cast");
    if (!cast || getElementTypeOrSelf(value.getType()).isInteger(1))
      return value;
    value = cast.getInput(0);
  }
}

/// The comparison behind a mask; `inverted` says that it must not hold.
static NodeOp getComparison(Value mask, bool &inverted) {
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

static bool isComparison(Value mask) {
  bool inverted = false;
  return bool(getComparison(mask, inverted));
}

//===----------------------------------------------------------------------===//
// Sums of products
//===----------------------------------------------------------------------===//

/// The roles of an operand that is broadcast to `roles`.
static std::optional<std::string> operandRoles(Value operand, StringRef roles) {
  RankedTensorType type = getType(operand);
  if (!type || type.getRank() > int64_t(roles.size()))
    return std::nullopt;
  std::string result = roles.take_back(type.getRank()).str();
  for (auto [role, size] : llvm::zip(result, type.getShape()))
    role = size == 1 ? '1' : role;
  return result;
}

/// The roles of the input of an operator that only arranges elements; none for others.
static std::optional<std::string> arrangedRoles(NodeOp node, StringRef roles) {
  RankedTensorType from = getType(node.getInput(0)), to = getType(node.getResult(0));
  if (!from || !to || to.getRank() != int64_t(roles.size()))
    return std::nullopt;
  std::string result(from.getRank(), '1');
  if (node.isOp("Transpose")) {
    std::optional<ArrayRef<int64_t>> perm = node.getIntsAttr("perm");
    if (!perm || perm->size() != roles.size())
      return std::nullopt;
    for (auto [role, dim] : llvm::zip(roles, *perm))
      result[dim] = role;
    return result;
  }
  static const StringRef kReshapes[] = {"Reshape", "Squeeze", "Unsqueeze", "Identity"};
  if (!llvm::is_contained(kReshapes, node.getOpType()))
    return std::nullopt;
  // The dimensions that are not 1 stay.
  int64_t next = 0;
  for (auto [role, size] : llvm::zip(roles, to.getShape())) {
    if (size == 1)
      continue;
    while (next < from.getRank() && from.getDimSize(next) == 1)
      ++next;
    if (next == from.getRank() || from.getDimSize(next) != size)
      return std::nullopt;
    result[next++] = role;
  }
  bool allTaken = llvm::all_of(from.getShape().drop_front(next), [](int64_t d) { return d == 1; });
  return allTaken ? std::optional(result) : std::nullopt;
}

bool PlacementReader::expandOperand(Value operand, StringRef roles, Terms &terms) {
  std::optional<std::string> own = operandRoles(operand, roles);
  return own && expand(operand, *own, terms);
}

/// Every term of one operand times every term of the others.
bool PlacementReader::expandProduct(ArrayRef<std::pair<Value, std::string>> operands,
                                    Terms &terms) {
  Terms product = {Term()};
  for (const auto &[value, roles] : operands) {
    Terms factors, longer;
    if (!expand(value, roles, factors) || product.size() * factors.size() > 8)
      return false;
    for (const Term &left : product)
      for (const Term &right : factors) {
        longer.push_back(left);
        llvm::append_range(longer.back(), right);
        if (longer.back().size() > 16)
          return false;
      }
    product = longer;
  }
  llvm::append_range(terms, product);
  return true;
}

bool PlacementReader::isIndicator(const Factor &factor) const {
  if (factor.is("te"))
    return bool(oneHotIds(factor.value));
  return factor.is("tc") && getOneHotIds(factor.value, positions);
}

/// Writes `value` as a sum of products. What is neither a sum nor a product is a factor.
bool PlacementReader::expand(Value value, StringRef roles, Terms &terms) {
  auto node = value.getDefiningOp<NodeOp>();
  bool hasInput = node && node.getNumInputs() > 0 && node.getInput(0);
  if (!hasInput || isIndicator({value, roles.str()})) {
    terms.push_back({{value, roles.str()}});
    return terms.size() <= 8;
  }
  if (NodeOp cast = getCast(value))
    return expand(cast.getInput(0), roles, terms);
  if (node.isOp("Expand"))
    return expandOperand(node.getInput(0), roles, terms);
  if (std::optional<std::string> arranged = arrangedRoles(node, roles))
    return expand(node.getInput(0), *arranged, terms);
  if (node.isOp("Add") || node.isOp("Sum") || node.isOp("Or"))
    return llvm::all_of(node.getInputs(),
                        [&](Value input) { return expandOperand(input, roles, terms); });
  if (node.isOp("Where") && getSplat(node.getInput(2)) == 0.0) {
    auto mask = operandRoles(node.getInput(0), roles), kept = operandRoles(node.getInput(1), roles);
    return mask && kept &&
           expandProduct({{node.getInput(0), *mask}, {node.getInput(1), *kept}}, terms);
  }
  if (node.isOp("Mul") || node.isOp("And")) {
    auto lhs = operandRoles(node.getInput(0), roles), rhs = operandRoles(node.getInput(1), roles);
    return lhs && rhs && expandProduct({{node.getInput(0), *lhs}, {node.getInput(1), *rhs}}, terms);
  }
  std::string equation;
  llvm::copy_if(node.getStringAttr("equation", ""), std::back_inserter(equation),
                [](char c) { return c != ' '; });
  auto [inputs, output] = StringRef(equation).split("->");
  auto [first, second] = inputs.split(',');
  if (node.isOp("Einsum") && output.size() == roles.size() && node.getNumInputs() == 2) {
    // Without a letter that is summed over.
    auto rolesOf = [&, output = output](StringRef letters) -> std::optional<std::string> {
      std::string result;
      for (char letter : letters) {
        size_t at = output.find(letter);
        if (at == StringRef::npos)
          return std::nullopt;
        result.push_back(roles[at]);
      }
      return result;
    };
    if (auto lhs = rolesOf(first), rhs = rolesOf(second); lhs && rhs)
      return expandProduct({{node.getInput(0), *lhs}, {node.getInput(1), *rhs}}, terms);
  }
  terms.push_back({{value, roles.str()}});
  return terms.size() <= 8;
}

/// Whether one capacity is known to be no smaller than another.
static bool isAtLeast(CapacityAttr lhs, CapacityAttr rhs) {
  auto getNumber = [](CapacityAttr capacity) -> double {
    ArrayRef<CapacityTerm> terms = capacity.getTerms();
    bool isNumber = terms.size() == 1 && terms[0].kind == CapacityTerm::Number;
    return isNumber ? terms[0].number : std::nan("");
  };
  return lhs == rhs || getNumber(lhs) >= getNumber(rhs);
}

//===----------------------------------------------------------------------===//
// Positions
//===----------------------------------------------------------------------===//

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

static FailureOr<ExpertProduct> classify(ArrayRef<Value> factors, int64_t experts,
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

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Rules of arithmetic on rows: element-wise operators, products with weights, and sums.

#include "FactBuilder.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Expressions
//===----------------------------------------------------------------------===//

/// An element-wise operator on expressions of the same rows and constants.
const Fact *Facts::Builder::elementwise(ArrayRef<const Fact *> operands) {
  const Fact *rows = nullptr;
  for (const Fact *operand : operands)
    if (operand->kind == Fact::Expression &&
        (!rows || operand->node->columns > rows->node->columns))
      rows = operand;
  if (!rows)
    return nullptr;
  auto feature = llvm::find(rows->axes, Labels{kFeature});
  if (feature == rows->axes.end())
    return nullptr;
  size_t fromEnd = rows->axes.end() - feature;
  Node made{Node::Elementwise, {}};
  made.columns = rows->node->columns;
  Fact result = *rows;
  for (const Fact *operand : operands) {
    result.promising |= operand->promising;
    if (operand->kind == Fact::Expression) {
      if (operand->axes != rows->axes || operand->node->columns != made.columns)
        return nullptr;
      made.operands.push_back(operand->node);
      continue;
    }
    if (operand->kind != Fact::Splat && !isConstant(operand))
      return nullptr;
    // The columns of a constant are those of the rows.
    Fact constant = *operand;
    Node leaf{Node::Leaf, {}};
    if (operand->kind == Fact::View && fromEnd <= constant.axes.size()) {
      Labels &axis = constant.axes[constant.axes.size() - fromEnd];
      if (axis.size() == 1 && axis[0] != kFeature) {
        if (f.getSize(axis[0]) != made.columns)
          return nullptr;
        leaf.out = axis[0];
        leaf.columns = made.columns;
        axis = {kFeature};
      } else if (!axis.empty()) {
        return nullptr;
      }
    }
    SmallVector<Labels> axes;
    if (constant.kind == Fact::View && !align(constant, rows->axes, axes))
      return nullptr;
    if (constant.kind == Fact::View && ArrayRef<Labels>(axes) != ArrayRef<Labels>(rows->axes))
      return nullptr;
    leaf.view = make(std::move(constant));
    made.operands.push_back(makeNode(std::move(leaf)));
  }
  result.node = makeNode(std::move(made));
  return make(std::move(result));
}

const Fact *Facts::Builder::unary() {
  const Fact *fact = input(0);
  if (!fact || fact->kind != Fact::Expression)
    return nullptr;
  Node made{Node::Elementwise, {fact->node}};
  made.columns = fact->node->columns;
  return withNode(fact, makeNode(std::move(made)));
}

const Fact *Facts::Builder::clip() {
  const Fact *fact = input(0);
  if (!fact)
    return nullptr;
  if (fact->kind == Fact::View && !isConstant(fact)) {
    std::optional<double> low = scalar(input(1)), high = scalar(input(2));
    if (!isa<IntegerType>(llvm::cast<ShapedType>(fact->src.getType()).getElementType()) ||
        (node.getInput(1) && !low) || (node.getInput(2) && !high))
      return nullptr;
    return tableOf(fact, [&](double value) {
      value = low ? std::max(value, *low) : value;
      return high ? std::min(value, *high) : value;
    });
  }
  return unary();
}

const Fact *Facts::Builder::binary() {
  const Fact *lhs = input(0), *rhs = input(1);
  if (!lhs || !rhs || node.getNumInputs() != 2)
    return nullptr;
  StringRef op = node.getOpType();
  for (auto [first, second] : {std::pair(lhs, rhs), std::pair(rhs, lhs)}) {
    std::optional<double> constant = scalar(second);
    bool isIds =
        first->kind == Fact::View && !isConstant(first) && constant &&
        (!first->table.empty() ||
         isa<IntegerType>(llvm::cast<ShapedType>(first->src.getType()).getElementType())) &&
        second->axes.size() <= first->axes.size() && getNumExperts(first->src);
    if (isIds)
      return arithmeticOnIds(first, *constant, first == rhs);
  }
  if (lhs->kind == Fact::Index || rhs->kind == Fact::Index)
    return arithmeticOnIndex(lhs, rhs);
  bool isSum = lhs->kind == Fact::Sum || rhs->kind == Fact::Sum || lhs->kind == Fact::Weighted ||
               rhs->kind == Fact::Weighted;
  if (op == "Add" && isSum) {
    if (scalar(lhs) == 0.0)
      return asSum(rhs);
    if (scalar(rhs) == 0.0)
      return asSum(lhs);
    return addSums(lhs, rhs);
  }
  for (auto [first, second] : {std::pair(lhs, rhs), std::pair(rhs, lhs)}) {
    // Times a number.
    std::optional<double> constant = scalar(second);
    bool isScaled = (op == "Mul" || (op == "Div" && first == lhs)) &&
                    first->kind == Fact::Weighted && constant && *constant != 0 &&
                    second->axes.size() <= first->axes.size();
    if (!isScaled)
      continue;
    Fact scaled = *first;
    scaled.value = op == "Mul" ? scaled.value * *constant : scaled.value / *constant;
    return make(std::move(scaled));
  }
  if (op == "Mul") {
    for (auto [first, second] : {std::pair(lhs, rhs), std::pair(rhs, lhs)}) {
      if (first->kind == Fact::Expression && !isConstant(second) &&
          (second->kind == Fact::View || second->kind == Fact::Pick))
        return weigh(first, second);
      if (second->kind == Fact::View && !isConstant(second)) {
        if (const Fact *weighted = pickWeight(first, second))
          return weighted;
      }
      if (const Fact *scaled = scaleRows(first, second))
        return scaled;
    }
  }
  const Fact *operands[] = {lhs, rhs};
  return elementwise(operands);
}

/// What an indicator of an expert, or a mask at an expert, is multiplied with.
const Fact *Facts::Builder::pickWeight(const Fact *pick, const Fact *weight) {
  if (pick->kind == Fact::View && weight->kind == Fact::View) {
    auto type = llvm::cast<ShapedType>(pick->src.getType());
    auto isFixed = [](const Group &group) { return group.constant.has_value(); };
    if (isa<FloatType>(type.getElementType()) || llvm::count_if(pick->groups, isFixed) != 1 ||
        isConstant(pick))
      return nullptr;
    Fact made;
    made.kind = Fact::Pick;
    made.axes = pick->axes;
    made.ids = pick;
    made.expert = *llvm::find_if(pick->groups, isFixed)->constant;
    pick = make(std::move(made));
  }
  if (pick->kind != Fact::Pick || pick->weight || pick->summed)
    return nullptr;
  Fact result = *pick, view = *weight;
  SmallVector<Labels> axes;
  if (!align(view, pick->axes, axes) || ArrayRef<Labels>(axes) != ArrayRef<Labels>(pick->axes))
    return nullptr;
  result.weight = make(std::move(view));
  result.promising = true;
  return make(std::move(result));
}

/// Rows before the experts, times the weights of the experts that read them.
const Fact *Facts::Builder::scaleRows(const Fact *rows, const Fact *weight) {
  auto isComputed = [](const Fact *fact) {
    return fact->kind == Fact::View && !isConstant(fact) &&
           isa<FloatType>(llvm::cast<ShapedType>(fact->src.getType()).getElementType());
  };
  if (!isComputed(rows) || !isComputed(weight) || rows->axes.empty() || weight->axes.empty() ||
      rows->axes.back().empty() || !weight->axes.back().empty())
    return nullptr;
  // Positions times weights are no rows.
  Refusal refusal;
  auto isUnknown = [](Value) { return false; };
  if (succeeded(readPlacement(node.getResult(0), isUnknown, refusal)) || refusal.at)
    return nullptr;
  Fact result = *rows, factor = *weight;
  SmallVector<Labels> axes;
  if (!align(factor, rows->axes, axes))
    return nullptr;
  Labels own;
  for (const Group &group : rows->groups)
    for (Ref ref : group.refs)
      own.push_back(ref.label);
  bool isByCopy = llvm::any_of(factor.groups, [&](const Group &group) {
    return llvm::any_of(group.refs, [&](Ref ref) { return !llvm::is_contained(own, ref.label); });
  });
  if (!isByCopy)
    return nullptr;
  result.kind = Fact::Scaled;
  result.axes.assign(axes.begin(), axes.end());
  result.weight = make(std::move(factor));
  return make(std::move(result));
}

const Fact *Facts::Builder::weigh(const Fact *expression, const Fact *weight) {
  // A factor of each column is no weight.
  size_t rank = expression->axes.size();
  auto feature = llvm::find(expression->axes, Labels{kFeature});
  size_t fromEnd = expression->axes.end() - feature;
  if (weight->axes.size() > rank ||
      (weight->axes.size() >= fromEnd && !weight->axes[weight->axes.size() - fromEnd].empty()))
    return nullptr;
  Fact result = *expression, factor = *weight;
  SmallVector<Labels> axes;
  if (!align(factor, expression->axes, axes) ||
      ArrayRef<Labels>(axes) != ArrayRef<Labels>(expression->axes))
    return nullptr;
  result.kind = Fact::Weighted;
  result.weight = make(std::move(factor));
  if (weight->kind == Fact::Pick) {
    result.expert = weight->expert;
    result.promising = true;
  }
  return make(std::move(result));
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

const Fact *Facts::Builder::matMul() {
  const Fact *lhs = input(0), *rhs = input(1);
  if (!lhs || !rhs || lhs->axes.empty() || rhs->axes.empty())
    return nullptr;
  // Letters: batch dimensions from the end 'A', 'B', …; m, k, n.
  auto letters = [](size_t rank, char row, char column, bool isLeft) {
    SmallVector<char> result;
    if (rank == 1)
      return SmallVector<char>{'k'};
    for (size_t i = 0; i + 2 < rank; ++i)
      result.push_back('A' + (rank - 3 - i));
    result.push_back(row);
    result.push_back(column);
    return result;
  };
  Side left{lhs, letters(lhs->axes.size(), 'm', 'k', true)};
  Side right{rhs, letters(rhs->axes.size(), 'k', 'n', false)};
  SmallVector<char> out;
  size_t batch = std::max(lhs->axes.size(), rhs->axes.size());
  for (size_t i = 0; i + 2 < batch; ++i)
    out.push_back('A' + (batch - 3 - i));
  if (lhs->axes.size() > 1)
    out.push_back('m');
  if (rhs->axes.size() > 1)
    out.push_back('n');
  return contract(left, right, out);
}

/// Letters of rows, whose columns are summed over, and of the result with `n` columns.
static std::pair<SmallVector<char>, SmallVector<char>> rowLetters(size_t rank) {
  SmallVector<char> rows, out;
  for (size_t i = 0; i + 1 < rank; ++i)
    rows.push_back('A' + i);
  out = rows;
  rows.push_back('k');
  out.push_back('n');
  return {rows, out};
}

/// The weight is a view [N, K] of the codes [N, blocks, bytes].
const Fact *Facts::Builder::matMulNBits() {
  const Fact *rows = input(0), *codes = input(1), *bias = input(5);
  int64_t k = node.getIntAttr("K", 0), n = node.getIntAttr("N", 0);
  if (!rows || !codes || rows->axes.empty() || !isConstant(codes) ||
      getShape(node.getInput(1)).empty() || getShape(node.getInput(1)).front() != n || k < 1)
    return nullptr;
  Fact weight;
  weight.src = node.getInput(1);
  weight.axes = {{f.labelOf(weight.src, 0)}, {f.newLabel(k)}};
  weight.groups.resize(2);
  weight.groups[0].refs = {{weight.axes[0][0]}};
  weight.groups[1].firstDim = 1;
  weight.groups[1].numDims = 2;
  weight.groups[1].refs = {{weight.axes[1][0]}};
  auto [letters, out] = rowLetters(rows->axes.size());
  const Fact *product = contract({rows, letters}, {make(std::move(weight)), {'n', 'k'}}, out);
  if (!product || !bias)
    return product;
  const Fact *operands[] = {product, bias};
  return elementwise(operands);
}

const Fact *Facts::Builder::gemm() {
  const Fact *lhs = input(0), *rhs = input(1), *bias = input(2);
  if (!lhs || !rhs || lhs->axes.size() != 2 || rhs->axes.size() != 2 ||
      node.getFloatAttr("alpha", 1) != 1 || (bias && node.getFloatAttr("beta", 1) != 1))
    return nullptr;
  auto letters = [](char row, char column, bool transposed) {
    return transposed ? SmallVector<char>{column, row} : SmallVector<char>{row, column};
  };
  Side left{lhs, letters('m', 'k', node.getIntAttr("transA", 0))};
  Side right{rhs, letters('k', 'n', node.getIntAttr("transB", 0))};
  const Fact *product = contract(left, right, {'m', 'n'});
  if (!product || !bias)
    return product;
  const Fact *operands[] = {product, bias};
  return elementwise(operands);
}

const Fact *Facts::Builder::einsum() {
  std::string equation;
  for (char c : node.getStringAttr("equation", ""))
    if (c != ' ')
      equation.push_back(c);
  auto [inputs, output] = StringRef(equation).split("->");
  auto [first, second] = inputs.split(',');
  const Fact *lhs = input(0), *rhs = input(1);
  if (!lhs || !rhs || node.getNumInputs() != 2 || StringRef(equation).contains('.') ||
      !StringRef(equation).contains("->") || second.contains(','))
    return nullptr;
  if (first.size() != lhs->axes.size() || second.size() != rhs->axes.size())
    return nullptr;
  auto letters = [](StringRef text) { return SmallVector<char>(text.begin(), text.end()); };
  return contract({lhs, letters(first)}, {rhs, letters(second)}, letters(output));
}

const Fact *Facts::Builder::contract(Side lhs, Side rhs, ArrayRef<char> out) {
  for (const Side &side : {lhs, rhs})
    if (llvm::SmallDenseSet<char>(side.letters.begin(), side.letters.end()).size() !=
        side.letters.size())
      return nullptr;
  SmallVector<char> summed;
  for (char letter : lhs.letters)
    if (!llvm::is_contained(out, letter))
      summed.push_back(letter);
  for (char letter : rhs.letters)
    if (!llvm::is_contained(out, letter) && !llvm::is_contained(summed, letter))
      summed.push_back(letter);
  auto isRows = [](const Fact *fact) {
    return (fact->kind == Fact::View && !isConstant(fact)) || fact->kind == Fact::Scaled ||
           fact->kind == Fact::Expression;
  };
  if (isConstant(rhs.fact) && isRows(lhs.fact) && summed.size() == 1)
    return linear(lhs, rhs, out, summed[0]);
  if (isConstant(lhs.fact) && isRows(rhs.fact) && summed.size() == 1)
    return linear(rhs, lhs, out, summed[0]);
  for (auto [first, second] : {std::pair(lhs, rhs), std::pair(rhs, lhs)}) {
    if (const Fact *placed = placeRows(first, second, out, summed))
      return placed;
    if (const Fact *back = takeBackRows(first, second, out, summed))
      return back;
  }
  // A product of elements, then a sum.
  if (lhs.fact->kind != Fact::Expression)
    std::swap(lhs, rhs);
  if (lhs.fact->kind != Fact::Expression || rhs.fact->kind != Fact::View)
    return nullptr;
  SmallVector<char> all(out.begin(), out.end());
  llvm::append_range(all, summed);
  auto spread = [&](const Side &side) {
    SmallVector<Labels, 4> axes;
    for (char letter : all) {
      auto it = llvm::find(side.letters, letter);
      axes.push_back(it == side.letters.end() ? Labels()
                                              : side.fact->axes[it - side.letters.begin()]);
    }
    return withAxes(side.fact, axes);
  };
  const Fact *weighted = weigh(spread(lhs), spread(rhs));
  if (!weighted)
    return nullptr;
  SmallVector<int64_t> axes;
  for (size_t i = out.size(); i < all.size(); ++i)
    axes.push_back(i);
  return axes.empty() ? weighted : reduce(weighted, axes, false);
}

/// Rows times a constant matrix, perhaps another one for each expert.
const Fact *Facts::Builder::linear(const Side &rows, const Side &weight, ArrayRef<char> out,
                                   char in) {
  auto axisOf = [](const Side &side, char letter) { return side.axisOf(letter); };
  const Labels *inRows = axisOf(rows, in), *inWeight = axisOf(weight, in);
  if (!inRows || !inWeight || inRows->size() != 1 || inWeight->size() != 1)
    return nullptr;
  int64_t width = f.getSize(inWeight->front());
  if (ShapedType::isDynamic(width) || sizeOf(inRows->front(), rows.fact) != width)
    return nullptr;
  // The letter of the weight's rows: a dimension of its own, the experts' comes before.
  char outLetter = 0;
  unsigned outDim = 0;
  for (char letter : weight.letters) {
    const Labels &axis = *axisOf(weight, letter);
    if (letter == in || axisOf(rows, letter) || axis.size() != 1)
      continue;
    auto group = llvm::find_if(weight.fact->groups,
                               [&](const Group &g) { return g.refs == Refs{{axis[0]}}; });
    if (group == weight.fact->groups.end() || (outLetter && group->firstDim < outDim))
      continue;
    outLetter = letter;
    outDim = group->firstDim;
  }
  if (!outLetter || !llvm::is_contained(out, outLetter))
    return nullptr;

  Fact matrix = *weight.fact, x = *rows.fact;
  bool isView = x.kind != Fact::Expression;
  if (isView) {
    // The columns must be a dimension of x and nothing else.
    Label column = inRows->front();
    auto group = llvm::find_if(x.groups, [&](const Group &g) { return g.refs == Refs{{column}}; });
    if (group == x.groups.end())
      return nullptr;
    group->refs = {{kFeature}};
  }
  // The matrix has an axis of its own for the experts, or one of copies of x.
  for (char letter : weight.letters) {
    const Labels *mine = axisOf(weight, letter);
    if (letter == in || letter == outLetter || mine->size() != 1)
      continue;
    int64_t size = f.getSize(mine->front());
    bool isOwn = llvm::any_of(weight.fact->groups,
                              [&](const Group &g) { return g.refs == Refs{{mine->front()}}; });
    if (!isOwn || ShapedType::isDynamic(size))
      continue;
    Label numbers = f.numbersBelow(size);
    if (!rename(matrix, mine->front(), {{numbers}}))
      return nullptr;
    matrix.axes[llvm::find(weight.letters, letter) - weight.letters.begin()] = {numbers};
    matrix.promising = true;
    const Labels *copies = axisOf(rows, letter);
    if (copies && !copies->empty() && isView) {
      if (copies->size() != 1 || !replaceLabels(x, *copies, toRefs({numbers})))
        return nullptr;
      x.axes[llvm::find(rows.letters, letter) - rows.letters.begin()] = {numbers};
    }
  }

  // Axes of the result; the labels of ids are those of the rows.
  SmallVector<Labels, 4> axes;
  for (char letter : out) {
    if (letter == outLetter) {
      axes.push_back({kFeature});
      continue;
    }
    auto mine = llvm::find(weight.letters, letter), other = llvm::find(rows.letters, letter);
    Labels ofWeight =
        mine == weight.letters.end() ? Labels() : matrix.axes[mine - weight.letters.begin()];
    Labels ofRows = other == rows.letters.end() ? Labels() : x.axes[other - rows.letters.begin()];
    if (ofWeight.empty() || ofRows.empty() || ofWeight == ofRows) {
      axes.push_back(ofRows.empty() ? ofWeight : ofRows);
    } else if (isView) {
      if (!replaceLabels(x, ofRows, toRefs(ofWeight)))
        return nullptr;
      axes.push_back(ofWeight);
    } else {
      if (!replaceLabels(matrix, ofWeight, toRefs(ofRows)))
        return nullptr;
      axes.push_back(ofRows);
    }
  }

  Node made{Node::Linear, {}};
  made.in = inWeight->front();
  const Labels *outAxis = axisOf(weight, outLetter);
  made.out = outAxis->front();
  made.columns = f.getSize(made.out);
  Fact result;
  result.kind = Fact::Expression;
  result.promising = rows.fact->promising || matrix.promising;
  if (isView) {
    Node leaf{Node::Leaf, {}};
    leaf.columns = width;
    leaf.view = make(std::move(x));
    made.operands.push_back(makeNode(std::move(leaf)));
  } else {
    if (inRows->front() != kFeature)
      return nullptr;
    made.operands.push_back(x.node);
  }
  for (const Group &group : matrix.groups)
    result.promising |= group.ids || group.constant;
  made.view = make(std::move(matrix));
  result.node = makeNode(std::move(made));
  result.axes = axes;
  return make(std::move(result));
}

//===----------------------------------------------------------------------===//
// Sums
//===----------------------------------------------------------------------===//

const Fact *Facts::Builder::reduceSum() {
  const Fact *fact = input(0);
  std::optional<SmallVector<int64_t>> axes = ints(1);
  if (!fact || !axes)
    return nullptr;
  return reduce(fact, *axes, node.getIntAttr("keepdims", 1) != 0);
}

/// The scaled rows that an expression is of; null when it is of others.
static const Fact *scaledRowsOf(const Node *root) {
  SmallVector<const Node *> pending = {root};
  DenseSet<const Node *> seen;
  while (!pending.empty()) {
    const Node *node = pending.pop_back_val();
    if (!seen.insert(node).second)
      continue;
    if (node->kind == Node::Leaf && node->view && node->view->kind == Fact::Scaled)
      return node->view;
    llvm::append_range(pending, node->operands);
  }
  return nullptr;
}

const Fact *Facts::Builder::reduce(const Fact *fact, ArrayRef<int64_t> axes, bool keep) {
  Fact copy = *fact;
  Labels reduced;
  copy.axes.clear();
  int64_t rank = fact->axes.size();
  for (int64_t i = 0; i < rank; ++i) {
    bool isReduced = llvm::is_contained(axes, i) || llvm::is_contained(axes, i - rank);
    if (isReduced)
      llvm::append_range(reduced, fact->axes[i]);
    if (!isReduced)
      copy.axes.push_back(fact->axes[i]);
    else if (keep)
      copy.axes.emplace_back();
  }
  if (reduced.empty())
    return fact->kind == Fact::Splat ? nullptr : make(std::move(copy));
  if (llvm::is_contained(reduced, kFeature))
    return nullptr;
  switch (fact->kind) {
  case Fact::Pick: {
    // Over the slots: the last dimension of the ids, or of the mask before the experts.
    if (fact->summed)
      return nullptr;
    Refs slots;
    for (const Group &group : llvm::reverse(fact->ids->groups)) {
      if (group.constant)
        continue;
      slots = group.refs;
      break;
    }
    if (slots != toRefs(reduced))
      return nullptr;
    copy.summed = true;
    return make(std::move(copy));
  }
  case Fact::Counts: {
    if (fact->axes.size() != 2 || reduced != fact->axes[0])
      return nullptr;
    copy.axes = {fact->axes[1]};
    return make(std::move(copy));
  }
  case Fact::View: {
    // How often a mask has each expert, its last dimension.
    const Group &last = fact->groups.back();
    Labels left = flatten(copy.axes);
    bool isMask = isa<IntegerType>(llvm::cast<ShapedType>(fact->src.getType()).getElementType()) &&
                  !isConstant(fact) && fact->table.empty();
    if (!isMask || left.size() != 1 || last.refs != toRefs(left) ||
        reduced.size() + 1 != flatten(fact->axes).size())
      return nullptr;
    Fact counts;
    counts.kind = Fact::Counts;
    counts.axes = copy.axes;
    counts.ids = fact;
    return make(std::move(counts));
  }
  case Fact::Expression: {
    // A sum over experts whose inputs had the weights.
    const Fact *rows = scaledRowsOf(fact->node);
    if (!rows)
      return nullptr;
    copy.kind = Fact::Weighted;
    copy.weight = rows->weight;
    copy.choices = {toRefs(reduced)};
    copy.summed = copy.promising = true;
    return make(std::move(copy));
  }
  case Fact::Weighted:
    // Whether this is all experts, or all slots, is seen when the block is complete.
    if (fact->summed)
      return nullptr;
    copy.choices = {toRefs(reduced)};
    copy.summed = true;
    return make(std::move(copy));
  default:
    return nullptr;
  }
}

const Fact *Facts::Builder::sumOf() {
  const Fact *result = nullptr;
  for (unsigned i = 0; i < node.getNumInputs(); ++i) {
    const Fact *part = input(i);
    if (!part)
      return nullptr;
    if (scalar(part) == 0.0)
      continue;
    result = result ? addSums(result, part) : asSum(part);
    if (!result)
      return nullptr;
  }
  return result;
}

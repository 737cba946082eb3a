// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Labels, the facts of values without a rule, and the sizes that shape arithmetic computes.
// The rules are in FactRules.cpp and the files that its table points to.

#include "Facts.h"

#include "Dataflow.h"
#include "Routing.h"

#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Labels
//===----------------------------------------------------------------------===//

Label Facts::newLabel(int64_t size) {
  labels.emplace_back();
  labels.back().size = size;
  return labels.size() - 1;
}

Label Facts::numbersBelow(int64_t size) {
  Label &label = numberLabels[size];
  if (!label)
    label = newLabel(size);
  return label;
}

Label Facts::labelOf(Value value, unsigned dim) {
  auto found = dimLabels.find({value, dim});
  if (found != dimLabels.end())
    return found->second;
  Labels alias = aliasOf(value, dim);
  Label label = newLabel(cast<RankedTensorType>(value.getType()).getDimSize(dim));
  labels[label].value = value;
  labels[label].dim = dim;
  labels[label].alias = alias;
  dimLabels[{value, dim}] = label;
  return label;
}

/// The dimension of input 0 that dimension `dim` of the result is, where the operator keeps
/// the sizes of its first input but for those that it works along.
static std::optional<unsigned> keptDim(onnx::NodeOp node, unsigned dim, int64_t rank) {
  StringRef type = node.getOpType();
  if (type == "TopK" || type == "ArgMax" || type == "ArgMin") {
    int64_t axis = node.getIntAttr("axis", type == "TopK" ? -1 : 0);
    axis = axis < 0 ? axis + rank : axis;
    if (int64_t(dim) == axis)
      return std::nullopt;
    bool keeps = type == "TopK" || node.getIntAttr("keepdims", 1);
    return keeps || int64_t(dim) < axis ? dim : dim + 1;
  }
  if (type.starts_with("Reduce")) {
    std::optional<SmallVector<int64_t>> axes = getAxes(node);
    if (!axes || axes->size() != 1)
      return std::nullopt;
    int64_t axis = axes->front() < 0 ? axes->front() + rank : axes->front();
    bool keeps = node.getIntAttr("keepdims", 1);
    if (keeps && int64_t(dim) == axis)
      return std::nullopt;
    return keeps || int64_t(dim) < axis ? dim : dim + 1;
  }
  if (type == "ScatterElements" || type == "ScatterND")
    return dim;
  return std::nullopt;
}

/// Operators on elements, whose inputs are broadcast.
static bool isElementwise(onnx::NodeOp node) {
  static const llvm::StringSet<> types = {
      "Softmax", "LogSoftmax", "Sigmoid", "Relu",     "Cast",     "CumSum", "Not", "Log",
      "Exp",     "Sqrt",       "Tanh",    "Softplus", "Div",      "Sub",    "Mul", "Add",
      "And",     "Identity",   "Or",      "Where",    "CastLike", "Clip",   "Max", "Min",
      "Neg",     "Abs",        "Pow",     "Equal",    "Less",     "Greater"};
  return types.contains(node.getOpType());
}

/// The labels along a dimension of an operand; none where its size is 1.
Labels Facts::sizeLabels(Value value, unsigned dim) {
  if (cast<RankedTensorType>(value.getType()).getDimSize(dim) == 1)
    return {};
  const Fact *fact = get(value);
  bool isKnown = fact && dim < fact->axes.size() && !fact->axes[dim].empty() &&
                 !llvm::is_contained(fact->axes[dim], kFeature);
  return isKnown ? fact->axes[dim] : Labels{labelOf(value, dim)};
}

/// The size of the only dimension of a Reshape's result that is not known.
std::optional<Extent> Facts::restOfReshape(onnx::NodeOp node, unsigned dim) {
  auto from = dyn_cast<RankedTensorType>(node.getInput(0).getType());
  auto to = cast<RankedTensorType>(node.getResult(0).getType());
  if (!from)
    return std::nullopt;
  Labels all;
  for (unsigned i = 0; i < from.getRank(); ++i)
    llvm::append_range(all, sizeLabels(node.getInput(0), i));
  Extent rest = getExtent(all);
  for (auto [i, size] : llvm::enumerate(to.getShape())) {
    if (i == dim)
      continue;
    if (ShapedType::isDynamic(size) || size < 1 || rest.factor % size != 0)
      return std::nullopt;
    rest.factor /= size;
  }
  return rest;
}

/// Labels whose sizes multiply to that of this dimension.
Labels Facts::aliasOf(Value value, unsigned dim) {
  auto node = value.getDefiningOp<onnx::NodeOp>();
  auto type = cast<RankedTensorType>(value.getType());
  if (!node || !type.isDynamicDim(dim) || node.getNumInputs() == 0 || !node.getInput(0))
    return {};
  auto rankOf = [](Value operand) -> int64_t {
    auto type = dyn_cast<RankedTensorType>(operand.getType());
    return type ? type.getRank() : -1;
  };
  auto labelsOf = [&](const std::optional<Extent> &extent) -> Labels {
    if (!extent)
      return {};
    Labels alias(extent->roots.begin(), extent->roots.end());
    if (extent->factor != 1)
      alias.push_back(numbersBelow(extent->factor));
    return alias;
  };
  if (node.isOp("Reshape"))
    return labelsOf(restOfReshape(node, dim));
  if (node.isOp("ConstantOfShape") || (node.isOp("Expand") && rankOf(node.getInput(0)) == 0)) {
    const auto &sizes = getExtents(node.getInput(node.isOp("Expand") ? 1 : 0));
    return int64_t(sizes.size()) == type.getRank() ? labelsOf(sizes[dim]) : Labels();
  }
  if (std::optional<unsigned> kept = keptDim(node, dim, rankOf(node.getInput(0))))
    return *kept < rankOf(node.getInput(0)) ? sizeLabels(node.getInput(0), *kept) : Labels();
  if (!isElementwise(node))
    return {};
  // Inputs of lower rank or of size 1 are repeated; the others must agree.
  Labels alias;
  for (Value operand : node.getInputs()) {
    if (!operand || rankOf(operand) < type.getRank())
      continue;
    Labels found = sizeLabels(operand, dim);
    if (found.empty())
      continue;
    if (!alias.empty() && !(getExtent(found) == getExtent(alias)))
      return {};
    alias = found;
  }
  return alias;
}

Label Facts::rowsOfMask(const Fact *pick) {
  const Fact *ids = pick->kind == Fact::Pick ? pick->ids : pick;
  SmallVector<Label, 1> &known = maskRows[{ids->src, pick->expert}];
  for (Label label : known)
    if (labels[label].rows.from->kind == pick->kind && labels[label].rows.from->axes == pick->axes)
      return label;
  Label label = newLabel(ShapedType::kDynamic);
  labels[label].rows = {RowList::Mask, pick, 0, pick->expert};
  maskRows[{ids->src, pick->expert}].push_back(label);
  return label;
}

Label Facts::rowsSorted(const Fact *ids, int64_t size) {
  Label &label = sortedRows[ids->src];
  if (label)
    return label;
  label = newLabel(size);
  labels[label].rows = {RowList::Sorted, ids};
  labels[label].alias = ids->axes[0];
  return label;
}

Label Facts::rowsOfSegment(Label rows, int64_t expert) {
  Label &label = segmentRows[{rows, expert}];
  if (label)
    return label;
  label = newLabel(ShapedType::kDynamic);
  labels[label].rows = {RowList::Segment, labels[rows].rows.from, rows, expert};
  return label;
}

/// `mask` has the dimensions tokens, experts and positions.
Label Facts::rowsPlaced(const Fact *mask, const Placement &placement, const Labels &tokens) {
  Label positions = mask->groups[2].refs[0].label;
  Label label = newLabel(getSize(positions));
  labels[label].alias = {positions};
  labels[label].rows = {RowList::Placed, mask};
  PlacedRows &rows = placed[label];
  rows.placement = placement;
  rows.tokens = tokens;
  return label;
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

Extent Facts::getExtent(ArrayRef<Label> axis) const {
  Extent extent;
  SmallVector<Label> pending(axis.begin(), axis.end());
  while (!pending.empty()) {
    Label label = pending.pop_back_val();
    const LabelInfo &info = labels[label];
    if (!ShapedType::isDynamic(info.size))
      extent.factor *= info.size;
    else if (!info.alias.empty())
      llvm::append_range(pending, info.alias);
    else
      extent.roots.push_back(label);
  }
  llvm::sort(extent.roots);
  return extent;
}

using Extents = SmallVector<std::optional<Extent>>;

static Extents constantExtents(ArrayRef<int64_t> values) {
  Extents result;
  for (int64_t value : values)
    result.push_back(value < 0 ? std::nullopt : std::optional(Extent{value, {}}));
  return result;
}

/// Elements of a tensor of sizes; empty when they are not followed.
const Extents &Facts::getExtents(Value shape) {
  auto found = extents.find(shape);
  if (found != extents.end())
    return found->second;
  extents[shape] = {};
  auto node = shape.getDefiningOp<onnx::NodeOp>();
  Extents result;
  if (auto values = onnx::getConstantInts(shape)) {
    if (values->size() <= 16)
      result = constantExtents(*values);
  } else if (!node || !node.getInput(0)) {
    return extents[shape];
  } else if (node.isOp("Shape")) {
    const Fact *input = get(node.getInput(0));
    int64_t rank = input ? input->axes.size() : 0;
    auto clamp = [&](int64_t i) { return std::clamp<int64_t>(i < 0 ? i + rank : i, 0, rank); };
    int64_t end = node.hasNodeAttr("end") ? clamp(node.getIntAttr("end", 0)) : rank;
    for (int64_t i = clamp(node.getIntAttr("start", 0)); i < end; ++i) {
      bool columns = llvm::is_contained(input->axes[i], kFeature);
      result.push_back(columns ? std::nullopt : std::optional(getExtent(input->axes[i])));
    }
  } else if (node.isOp("Concat")) {
    for (Value input : node.getInputs()) {
      const Extents &part = getExtents(input);
      if (part.empty())
        return extents[shape];
      result.append(part.begin(), part.end());
    }
  } else if (node.isOp("Gather")) {
    const Extents &data = getExtents(node.getInput(0));
    auto indices = onnx::getConstantInts(node.getInput(1));
    for (int64_t i : indices.value_or(SmallVector<int64_t>())) {
      i = i < 0 ? i + int64_t(data.size()) : i;
      if (i < 0 || i >= int64_t(data.size()))
        return extents[shape];
      result.push_back(data[i]);
    }
  } else if (node.isOp("Mul")) {
    Extents lhs = getExtents(node.getInput(0)), rhs = getExtents(node.getInput(1));
    if (lhs.size() == 1 && rhs.size() == 1 && lhs[0] && rhs[0]) {
      Extent product{lhs[0]->factor * rhs[0]->factor, lhs[0]->roots};
      llvm::append_range(product.roots, rhs[0]->roots);
      llvm::sort(product.roots);
      result.push_back(product);
    }
  } else if (node.isOp("Squeeze") || node.isOp("Unsqueeze") || node.isOp("Reshape") ||
             node.isOp("Cast") || node.isOp("Identity")) {
    Extents input = getExtents(node.getInput(0));
    result = input;
  }
  return extents[shape] = result;
}

//===----------------------------------------------------------------------===//
// Facts
//===----------------------------------------------------------------------===//

const Fact *Facts::get(Value value) {
  auto found = facts.find(value);
  if (found != facts.end())
    return found->second;
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type)
    return facts[value] = nullptr;
  Fact fact;
  fact.src = value;
  for (unsigned dim = 0; dim < type.getRank(); ++dim) {
    Group group;
    group.firstDim = dim;
    fact.axes.emplace_back();
    if (type.getDimSize(dim) != 1) {
      Label label = labelOf(value, dim);
      fact.axes.back().push_back(label);
      group.refs.push_back({label});
    }
    fact.groups.push_back(group);
  }
  factStore.push_back(std::move(fact));
  return facts[value] = &factStore.back();
}

bool Facts::isConstant(const Fact *fact) {
  if (!fact || fact->kind != Fact::View)
    return false;
  auto isGiven = [](Value value) {
    auto node = value ? value.getDefiningOp<onnx::NodeOp>() : onnx::NodeOp();
    return !value || value.getDefiningOp<LoadWeightOp>() || (node && node.isOp("Constant"));
  };
  auto node = fact->src.getDefiningOp<onnx::NodeOp>();
  bool isDequantized =
      node && (node.isOp("DequantizeLinear") || node.isOp("com.microsoft.DequantizeLinear"));
  return isDequantized ? llvm::all_of(node.getInputs(), isGiven) : isGiven(fact->src);
}

int64_t Facts::getNumExperts(Value ids) {
  while (auto node = ids.getDefiningOp<onnx::NodeOp>()) {
    bool topK = node.isOp("TopK") && cast<OpResult>(ids).getResultNumber() == 1;
    if (topK || node.isOp("ArgMax")) {
      auto type = dyn_cast<RankedTensorType>(node.getInput(0).getType());
      int64_t axis = node.getIntAttr("axis", topK ? -1 : 0);
      if (!type)
        return 0;
      int64_t size = type.getDimSize(axis < 0 ? axis + type.getRank() : axis);
      return ShapedType::isDynamic(size) ? 0 : size;
    }
    if (!node.isOp("Concat") && !node.isOp("Reshape") && !node.isOp("Unsqueeze") &&
        !node.isOp("Squeeze") && !node.isOp("Cast"))
      return 0;
    ids = node.getInput(0);
  }
  return 0;
}

int64_t Facts::getNumExperts(Value mask, unsigned dim) {
  auto type = cast<RankedTensorType>(mask.getType());
  int64_t size = type.getDimSize(dim);
  if (int64_t(dim) != type.getRank() - 1)
    return size;
  Value ids = getOneHotIds(mask, size);
  int64_t chosen = ids ? getNumExperts(ids) : 0;
  return chosen ? std::min(size, chosen) : size;
}

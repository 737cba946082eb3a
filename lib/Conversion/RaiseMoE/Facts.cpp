// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Labels, the facts of values without a rule, and the sizes that shape arithmetic computes.
// The rules are in FactRules.cpp and the files that its table points to.

#include "Facts.h"

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

/// Operators whose result has the size of their first input in every dimension that they
/// do not work along.
static bool keepsSizes(onnx::NodeOp node, unsigned dim, int64_t rank) {
  StringRef type = node.getOpType();
  if (type == "TopK" || type == "ArgMax" || type == "ArgMin") {
    int64_t axis = node.getIntAttr("axis", type == "TopK" ? -1 : 0);
    bool keeps = type == "TopK" || node.getIntAttr("keepdims", 1);
    return int64_t(dim) != (axis < 0 ? axis + rank : axis) && (keeps || axis == rank);
  }
  static const llvm::StringSet<> same = {
      "Softmax", "LogSoftmax", "Sigmoid",  "Relu", "Cast", "CumSum", "Not", "Log",     "Exp",
      "Sqrt",    "Tanh",       "Softplus", "Div",  "Sub",  "Mul",    "Add", "Identity"};
  return same.contains(type);
}

/// The labels of an operand's dimension that has the size of this one.
Labels Facts::aliasOf(Value value, unsigned dim) {
  auto node = value.getDefiningOp<onnx::NodeOp>();
  auto type = cast<RankedTensorType>(value.getType());
  if (!node || !type.isDynamicDim(dim))
    return {};
  // An element-wise operator may broadcast inputs of lower rank or of size 1.
  for (Value operand : node.getInputs()) {
    auto inputType = dyn_cast<RankedTensorType>(operand.getType());
    if (!inputType || inputType.getRank() < type.getRank() ||
        !keepsSizes(node, dim, inputType.getRank()))
      continue;
    const Fact *input = get(operand);
    if (input && dim < input->axes.size() && !input->axes[dim].empty())
      return input->axes[dim];
  }
  return {};
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
  if (fact->src.getDefiningOp<LoadWeightOp>())
    return true;
  auto node = fact->src.getDefiningOp<onnx::NodeOp>();
  return node && node.isOp("Constant");
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

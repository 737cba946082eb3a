// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Rules of operators that choose elements, and of the integers that say which.

#include "FactBuilder.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

static bool sameGroups(const Fact *lhs, const Fact *rhs) {
  if (lhs->src != rhs->src || lhs->groups.size() != rhs->groups.size())
    return false;
  return llvm::all_of(llvm::zip(lhs->groups, rhs->groups), [](auto pair) {
    auto &[l, r] = pair;
    return l.refs == r.refs && l.constant == r.constant && l.ids == r.ids;
  });
}

//===----------------------------------------------------------------------===//
// Indices
//===----------------------------------------------------------------------===//

/// The elements at a constant index along an axis, which stays with size 1 or goes.
const Fact *Facts::Builder::atConstant(const Fact *fact, unsigned axis, int64_t index, bool keep) {
  Fact copy = *fact;
  if (keep)
    copy.axes[axis].clear();
  else
    copy.axes.erase(copy.axes.begin() + axis);
  const Labels &labels = fact->axes[axis];
  if (labels.empty())
    return index == 0 || index == -1 ? make(std::move(copy)) : nullptr;
  if (labels.size() != 1)
    return nullptr;
  int64_t size = sizeOf(labels[0], fact);
  if (index < 0 && !ShapedType::isDynamic(size))
    index += size;
  if (index < 0)
    return nullptr;
  // The rows that are at one expert's positions.
  for (Labels &axis : copy.axes) {
    bool isPlaced = fact->kind == Fact::View && axis.size() == 1 && axis[0] != kFeature &&
                    f.getRows(axis[0]).kind == RowList::Placed &&
                    labels[0] == f.numbersBelow(f.getPlaced(axis[0]).placement.experts);
    if (!isPlaced)
      continue;
    axis = {f.rowsOfSegment(axis[0], index)};
    return make(std::move(copy));
  }
  switch (fact->kind) {
  case Fact::View:
    for (Group &group : copy.groups) {
      if (group.refs != Refs{{labels[0]}})
        continue;
      group.refs.clear();
      group.constant = index;
      return make(std::move(copy));
    }
    return nullptr;
  case Fact::Index:
    if (fact->choice != labels[0] || index >= int64_t(fact->choices.size()))
      return nullptr;
    copy.choices = {fact->choices[index]};
    copy.choice = 0;
    return make(std::move(copy));
  case Fact::Bounds:
    copy.expert = index;
    return make(std::move(copy));
  default:
    return nullptr;
  }
}

/// `data` at positions of a list of rows along an axis.
const Fact *Facts::Builder::atRows(const Fact *data, unsigned axis, const Fact *index) {
  if (data->axes[axis].size() != 1 || index->axes.size() != 1)
    return nullptr;
  Label rows = data->axes[axis][0];
  if (rows == kFeature || f.getRows(rows).kind != RowList::Sorted)
    return nullptr;
  Fact copy = *data;
  copy.promising = true;
  if (index->kind == Fact::Positions) {
    if (f.getRows(rows).from->src != index->ids->src)
      return nullptr;
    copy.axes[axis] = {f.rowsOfSegment(rows, index->expert)};
    if (data->kind == Fact::Expression) {
      Node segment{Node::Segment, {data->node}};
      segment.columns = data->node->columns;
      segment.expert = index->expert;
      copy.node = makeNode(std::move(segment));
    } else if (data->kind != Fact::View) {
      return nullptr;
    }
    return make(std::move(copy));
  }
  if (index->kind != Fact::Inverse || index->rows != rows)
    return nullptr;
  copy.axes[axis] = index->axes[0];
  return make(std::move(copy));
}

/// `data` at an index known by its coordinates.
const Fact *Facts::Builder::atIndex(const Fact *data, unsigned axis, const Fact *index) {
  if (data->kind != Fact::View || index->choice || index->scale != 1)
    return nullptr;
  Fact copy = *data;
  if (!replaceLabels(copy, data->axes[axis], index->choices[0]))
    return nullptr;
  copy.axes.erase(copy.axes.begin() + axis);
  copy.axes.insert(copy.axes.begin() + axis, index->axes.begin(), index->axes.end());
  copy.promising |= llvm::any_of(index->choices[0], [](Ref ref) { return ref.via != 0; });
  return make(std::move(copy));
}

/// A bank of constants at the experts that `ids` says.
const Fact *Facts::Builder::atIds(const Fact *data, unsigned axis, const Fact *ids) {
  auto type = llvm::cast<ShapedType>(ids->src.getType());
  if (!isConstant(data) || !isa<IntegerType>(type.getElementType()) || isConstant(ids) ||
      !ids->table.empty() || data->axes[axis].size() != 1)
    return nullptr;
  Fact copy = *data;
  for (Group &group : copy.groups) {
    if (group.refs != Refs{{data->axes[axis][0]}})
      continue;
    group.refs.clear();
    group.ids = ids;
    copy.axes.erase(copy.axes.begin() + axis);
    copy.axes.insert(copy.axes.begin() + axis, ids->axes.begin(), ids->axes.end());
    copy.promising = getNumExperts(ids->src) != 0;
    return make(std::move(copy));
  }
  return nullptr;
}

const Fact *Facts::Builder::gather() {
  const Fact *data = input(0), *index = input(1);
  if (!data || !index)
    return nullptr;
  std::optional<int64_t> axis = getAxis(0, data->axes.size());
  if (!axis)
    return nullptr;
  if (data->kind == Fact::Splat)
    return splat(data->value);
  if (auto constant = ints(1)) {
    if (constant->size() != 1 || index->axes.size() > 1)
      return nullptr;
    return atConstant(data, *axis, constant->front(), index->axes.size() == 1);
  }
  if (index->kind == Fact::Splat && index->axes.size() <= 1)
    return atConstant(data, *axis, int64_t(index->value), index->axes.size() == 1);
  if (index->kind == Fact::Index)
    return atIndex(data, *axis, index);
  if (index->kind == Fact::View)
    return atIds(data, *axis, index);
  if (index->kind == Fact::Positions || index->kind == Fact::Inverse)
    return atRows(data, *axis, index);
  return nullptr;
}

const Fact *Facts::Builder::gatherND() {
  const Fact *data = input(0), *index = input(1);
  if (!data || !index || node.getIntAttr("batch_dims", 0) != 0 || index->axes.empty())
    return nullptr;
  int64_t depth = getLastDim(node.getInput(1));
  if (depth == 1) {
    const Fact *single =
        withAxes(index, SmallVector<Labels, 4>(index->axes.begin(), std::prev(index->axes.end())));
    if (index->kind == Fact::Index)
      return atIndex(data, 0, single);
    if (index->kind == Fact::View)
      return atIds(data, 0, single);
    if (index->kind == Fact::Positions || index->kind == Fact::Inverse)
      return atRows(data, 0, single);
    return nullptr;
  }
  // Several coordinates at once.
  if (index->kind != Fact::Index || data->kind != Fact::View ||
      index->axes.back() != Labels{index->choice} || int64_t(index->choices.size()) != depth ||
      depth > int64_t(data->axes.size()))
    return nullptr;
  Fact copy = *data;
  for (int64_t i = 0; i < depth; ++i)
    if (!replaceLabels(copy, data->axes[i], index->choices[i]))
      return nullptr;
  copy.axes.erase(copy.axes.begin(), copy.axes.begin() + depth);
  copy.axes.insert(copy.axes.begin(), index->axes.begin(), std::prev(index->axes.end()));
  copy.promising = true;
  return make(std::move(copy));
}

/// Columns of an expression; elements of other facts when one is left.
const Fact *Facts::Builder::columns(const Fact *fact, int64_t start, int64_t step, int64_t count) {
  Node slice{Node::Columns, {fact->node}};
  slice.columns = count;
  slice.start = start;
  slice.step = step;
  return withNode(fact, makeNode(std::move(slice)));
}

const Fact *Facts::Builder::slice() {
  const Fact *fact = input(0);
  if (!fact)
    return nullptr;
  if (fact->kind == Fact::Splat)
    return splat(fact->value);
  ArrayRef<int64_t> shape = getShape(node.getInput(0));
  std::optional<SmallVector<int64_t>> axes = ints(3), steps = ints(4);
  int64_t count = getRank(node.getResult(0)) ? getLastDim(node.getInput(1)) : 0;
  if (count != 1 || (node.getInput(3) && !axes))
    return nullptr;
  int64_t axis = axes ? axes->front() : 0;
  axis = axis < 0 ? axis + int64_t(shape.size()) : axis;
  int64_t step = steps ? steps->front() : 1;
  if (axis < 0 || axis >= int64_t(shape.size()) || step < 1)
    return nullptr;

  std::optional<SmallVector<int64_t>> starts = ints(1), ends = ints(2);
  const Fact *first = input(1), *last = input(2);
  if (!starts || !ends) {
    // The rows of one expert in a sorted list.
    bool fromBounds = first && last && step == 1 && last->kind == Fact::Bounds &&
                      (first->kind == Fact::Bounds || (starts && starts->front() == 0));
    if (!fromBounds)
      return nullptr;
    auto bound = [](const Fact *b) { return b->expert + (b->exclusive ? 0 : 1); };
    int64_t low = starts ? 0 : bound(first), high = bound(last);
    if (high != low + 1)
      return nullptr;
    Fact positions;
    positions.kind = Fact::Positions;
    positions.ids = last->ids;
    positions.expert = low;
    positions.axes.resize(1);
    return atRows(fact, axis, make(std::move(positions)));
  }
  int64_t size = shape[axis], start = starts->front(), end = ends->front();
  if (ShapedType::isDynamic(size))
    return start == 0 && step == 1 && end == std::numeric_limits<int64_t>::max() ? fact : nullptr;
  start = std::clamp<int64_t>(start < 0 ? start + size : start, 0, size);
  end = std::clamp<int64_t>(end < 0 ? end + size : end, 0, size);
  int64_t length = end > start ? llvm::divideCeil(end - start, step) : 0;
  if (length == size)
    return fact;
  if (fact->axes[axis] == Labels{kFeature} && length > 0)
    return columns(fact, start, step, length);
  return length == 1 ? atConstant(fact, axis, start, true) : nullptr;
}

const Fact *Facts::Builder::split() {
  const Fact *fact = input(0);
  if (!fact)
    return nullptr;
  std::optional<int64_t> axis = getAxis(0, fact->axes.size());
  if (!axis)
    return nullptr;
  int64_t start = 0;
  // As many experts as there are cannot be hit unless each one is.
  bool isEveryExpert = false;
  if (fact->kind == Fact::Hits && fact->axes[*axis].size() == 1) {
    int64_t experts = f.getSize(fact->axes[*axis][0]), count = node->getNumResults();
    if (!getNumExperts(fact->ids->src))
      experts = getNumExperts(fact->ids->src, fact->ids->groups.back().firstDim);
    isEveryExpert = count == experts;
    if (!isEveryExpert)
      f.frozen.push_back({node, count, experts});
  }
  for (OpResult result : node.getResults()) {
    int64_t size = getShape(result).empty() ? ShapedType::kDynamic : getShape(result)[*axis];
    if (ShapedType::isDynamic(size))
      return nullptr;
    const Fact *part = nullptr;
    if (fact->kind == Fact::Splat)
      part = splat(fact->value, result.getResultNumber());
    else if (isEveryExpert && size == 1)
      part = splat(double(start), result.getResultNumber());
    else if (fact->axes[*axis] == Labels{kFeature})
      part = columns(fact, start, 1, size);
    else if (size == 1)
      part = atConstant(fact, *axis, start, true);
    if (part)
      f.facts[result] = part;
    start += size;
  }
  return nullptr;
}

/// A chunk of a tensor that is split in equal ones.
const Fact *Facts::Builder::sequenceAt() {
  auto split = node.getInput(0).getDefiningOp<onnx::NodeOp>();
  std::optional<SmallVector<int64_t>> position = ints(1);
  if (!split || !split.isOp("SplitToSequence") || !split.getInput(1) || !position)
    return nullptr;
  const Fact *fact = f.get(split.getInput(0));
  std::optional<SmallVector<int64_t>> chunk = onnx::getConstantInts(split.getInput(1));
  ArrayRef<int64_t> shape = getShape(split.getInput(0));
  int64_t axis = split.getIntAttr("axis", 0);
  axis = axis < 0 ? axis + int64_t(shape.size()) : axis;
  if (!fact || !chunk || getRank(split.getInput(1)) != 0 || axis < 0 ||
      axis >= int64_t(shape.size()) || ShapedType::isDynamic(shape[axis]) || chunk->front() < 1)
    return nullptr;
  int64_t start = position->front() * chunk->front();
  int64_t size = std::min(chunk->front(), shape[axis] - start);
  if (start < 0 || size < 1)
    return nullptr;
  if (fact->axes[axis] == Labels{kFeature})
    return columns(fact, start, 1, size);
  return size == 1 ? atConstant(fact, axis, start, true) : nullptr;
}

/// The positions of all experts, from those of each one.
const Fact *Facts::Builder::joinPlaced(ArrayRef<const Fact *> parts, unsigned axis) {
  const Fact *first = parts[0];
  Label rows = 0;
  Node experts{Node::Experts, {}};
  for (auto [e, part] : llvm::enumerate(parts)) {
    if (part->kind != Fact::Expression || part->axes.size() != first->axes.size() ||
        part->node->columns != first->node->columns)
      return nullptr;
    Labels all = flatten(part->axes);
    auto isSegment = [&](Label label) { return f.getRows(label).kind == RowList::Segment; };
    auto found = llvm::find_if(all, isSegment);
    if (found == all.end() || all.size() != 2)
      return nullptr;
    const RowList &list = f.getRows(*found);
    if (f.getRows(list.of).kind != RowList::Placed || list.expert != int64_t(e) ||
        (rows && list.of != rows))
      return nullptr;
    rows = list.of;
    experts.operands.push_back(part->node);
  }
  if (int64_t(parts.size()) != f.getPlaced(rows).placement.experts)
    return nullptr;
  // Before the positions, in this dimension or one before.
  Label all = f.numbersBelow(parts.size());
  Fact copy = *first;
  experts.columns = first->node->columns;
  for (Labels &labels : copy.axes)
    if (labels.size() == 1 && labels[0] != kFeature)
      labels = {rows};
  if (llvm::is_contained(copy.axes[axis], kFeature))
    return nullptr;
  copy.axes[axis].insert(copy.axes[axis].begin(), all);
  copy.node = makeNode(std::move(experts));
  return make(std::move(copy));
}

const Fact *Facts::Builder::concat() {
  SmallVector<const Fact *> parts;
  for (unsigned i = 0; i < node.getNumInputs(); ++i) {
    if (!input(i))
      return nullptr;
    parts.push_back(input(i));
  }
  const Fact *first = parts[0];
  std::optional<int64_t> axis = getAxis(0, first->axes.size());
  if (!axis)
    return nullptr;
  if (parts.size() == 1)
    return first;
  // Coordinates side by side.
  if (first->kind == Fact::Index) {
    Fact index = *first;
    index.choice = f.newLabel(parts.size());
    index.axes[*axis] = {index.choice};
    index.choices.clear();
    for (const Fact *part : parts) {
      if (part->kind != Fact::Index || part->choice || part->scale != 1 ||
          part->axes != first->axes || !part->axes[*axis].empty())
        return nullptr;
      index.choices.push_back(part->choices[0]);
    }
    return make(std::move(index));
  }
  if (const Fact *joined = joinPlaced(parts, *axis))
    return joined;
  // The experts' rows of a sorted list one after the other are all rows.
  bool isRows = (first->kind == Fact::Expression || first->kind == Fact::Weighted) &&
                first->axes[*axis].size() == 1;
  if (!isRows)
    return nullptr;
  Label rows = f.getRows(first->axes[*axis][0]).of;
  if (f.getRows(rows).kind != RowList::Sorted)
    return nullptr;
  Node experts{Node::Experts, {}};
  experts.columns = first->node->columns;
  for (auto [e, part] : llvm::enumerate(parts)) {
    if (part->kind != first->kind || part->axes.size() != first->axes.size() ||
        part->axes[*axis].size() != 1 || part->node->columns != experts.columns)
      return nullptr;
    const RowList &list = f.getRows(part->axes[*axis][0]);
    if (list.kind != RowList::Segment || list.of != rows || list.expert != int64_t(e))
      return nullptr;
    if (part->kind == Fact::Weighted &&
        (part->weight->kind != Fact::View || !sameGroups(part->weight, first->weight)))
      return nullptr;
    experts.operands.push_back(part->node);
  }
  int64_t count = getNumExperts(f.getRows(rows).from->src);
  if (count && count != int64_t(parts.size()))
    return nullptr;
  Fact copy = *first;
  copy.axes[*axis] = {rows};
  copy.node = makeNode(std::move(experts));
  return make(std::move(copy));
}

const Fact *Facts::Builder::equal() {
  const Fact *lhs = input(0), *rhs = input(1);
  if (!lhs || !rhs)
    return nullptr;
  std::optional<double> left = scalar(lhs), right = scalar(rhs);
  if (left && right)
    return splat(*left == *right);
  if (left)
    std::swap(lhs, rhs);
  std::optional<double> expert = left ? left : right;
  if (!expert || lhs->kind != Fact::View || isConstant(lhs) || !lhs->table.empty() ||
      !getNumExperts(lhs->src) || rhs->axes.size() > lhs->axes.size())
    return nullptr;
  Fact pick;
  pick.kind = Fact::Pick;
  pick.axes = lhs->axes;
  pick.ids = lhs;
  pick.expert = int64_t(*expert);
  f.seen.insert({lhs->src, pick.expert});
  return make(std::move(pick));
}

/// Positions against the bounds of experts; indices are never negative.
const Fact *Facts::Builder::compare() {
  const Fact *lhs = input(0), *rhs = input(1);
  bool less = node.isOp("Less") || node.isOp("LessOrEqual");
  bool orEqual = node.isOp("LessOrEqual") || node.isOp("GreaterOrEqual");
  if (!lhs || !rhs)
    return nullptr;
  if (rhs->kind == Fact::Index && lhs->kind != Fact::Index) {
    std::swap(lhs, rhs);
    less = !less;
  }
  if (lhs->kind == Fact::Counts && lhs->axes.size() == 1 && !less && !orEqual &&
      scalar(rhs) == 0.0) {
    Fact hit = *lhs;
    hit.kind = Fact::Hits;
    return make(std::move(hit));
  }
  if (lhs->kind != Fact::Index || lhs->choice || lhs->scale != 1)
    return nullptr;
  std::optional<double> constant = scalar(rhs);
  if (constant && *constant == 0 && less && !orEqual)
    return splat(0);
  bool zero = constant && *constant == 0;
  if ((rhs->kind != Fact::Bounds && !zero) || lhs->axes.size() != 1 || less == orEqual)
    return nullptr;
  Fact interval;
  interval.kind = Fact::Interval;
  interval.axes = lhs->axes;
  interval.ids = zero ? nullptr : rhs->ids;
  int64_t bound = zero ? 0 : rhs->expert + (rhs->exclusive ? 0 : 1);
  interval.low = less ? -1 : bound;
  interval.high = less ? bound : -1;
  return make(std::move(interval));
}

const Fact *Facts::Builder::logicalAnd() {
  const Fact *lhs = input(0), *rhs = input(1);
  for (const Fact *fact : {lhs, rhs})
    if (fact && scalar(fact) == 0.0)
      return splat(0);
  if (!lhs || !rhs || lhs->kind != Fact::Interval || rhs->kind != Fact::Interval ||
      lhs->axes != rhs->axes)
    return nullptr;
  Fact both = *lhs;
  both.ids = lhs->ids ? lhs->ids : rhs->ids;
  if (rhs->ids && both.ids->src != rhs->ids->src)
    return nullptr;
  both.low = std::max(lhs->low, rhs->low);
  both.high = lhs->high < 0 ? rhs->high : rhs->high < 0 ? lhs->high : -2;
  return make(std::move(both));
}

const Fact *Facts::Builder::nonZero() {
  const Fact *fact = input(0);
  if (!fact)
    return nullptr;
  if (fact->kind == Fact::Interval) {
    if (!fact->ids || fact->low < 0 || fact->high != fact->low + 1)
      return nullptr;
    Fact positions;
    positions.kind = Fact::Positions;
    positions.ids = fact->ids;
    positions.expert = fact->low;
    positions.axes = {Labels(), Labels{f.labelOf(node.getResult(0), 1)}};
    return make(std::move(positions));
  }
  if (fact->kind == Fact::Hits && fact->axes.size() == 1) {
    Fact list = *fact;
    list.axes.insert(list.axes.begin(), Labels());
    return make(std::move(list));
  }
  bool isMask = fact->kind == Fact::View && !isConstant(fact) &&
                llvm::count_if(fact->groups, [](const Group &g) { return g.constant; }) == 1;
  if (!isMask && (fact->kind != Fact::Pick || fact->weight || fact->summed))
    return nullptr;
  Fact mask = *fact;
  for (const Group &group : fact->groups)
    if (group.constant)
      mask.expert = *group.constant;
  if (isMask)
    f.seen.insert({mask.src, mask.expert});
  Label rows = f.rowsOfMask(make(std::move(mask)));
  Fact index;
  index.kind = Fact::Index;
  for (const Labels &axis : fact->axes)
    index.choices.push_back(toRefs(axis, rows));
  index.axes = {Labels(), Labels{rows}};
  if (index.choices.size() > 1) {
    index.choice = f.newLabel(index.choices.size());
    index.axes[0] = {index.choice};
  }
  return make(std::move(index));
}

const Fact *Facts::Builder::range() {
  const Fact *start = input(0), *limit = input(1);
  std::optional<double> first = scalar(start), step = scalar(input(2));
  if (step != 1.0 || !start || !limit)
    return nullptr;
  if (limit->kind == Fact::Bounds) {
    auto bound = [](const Fact *b) { return b->expert + (b->exclusive ? 0 : 1); };
    if (start->kind != Fact::Bounds && first != 0.0)
      return nullptr;
    int64_t low = first == 0.0 ? 0 : bound(start);
    if (bound(limit) != low + 1 ||
        (start->kind == Fact::Bounds && start->ids->src != limit->ids->src))
      return nullptr;
    Fact positions;
    positions.kind = Fact::Positions;
    positions.ids = limit->ids;
    positions.expert = low;
    positions.axes = {Labels{f.labelOf(node.getResult(0), 0)}};
    return make(std::move(positions));
  }
  auto type = dyn_cast<RankedTensorType>(node.getResult(0).getType());
  if (first != 0.0 || !type || type.getDimSize(0) == 1)
    return nullptr;
  Label label = f.labelOf(node.getResult(0), 0);
  if (f.labels[label].alias.empty()) {
    // As many as the limit says.
    const auto &extent = f.getExtents(node.getInput(1));
    if (extent.size() == 1 && extent[0] && extent[0]->factor == 1)
      f.labels[label].alias.assign(extent[0]->roots.begin(), extent[0]->roots.end());
  }
  Fact index;
  index.kind = Fact::Index;
  index.axes = {Labels{label}};
  index.choices = {toRefs({label})};
  return make(std::move(index));
}

/// Sorting of all pairs by expert, and of an order to its inverse.
const Fact *Facts::Builder::topK() {
  const Fact *fact = input(0);
  if (!fact || fact->axes.size() != 1 || node.getIntAttr("largest", 1) != 0 ||
      node.getIntAttr("sorted", 1) != 1 || fact->axes[0].empty() || node->getNumResults() != 2)
    return nullptr;
  const auto &count = f.getExtents(node.getInput(1));
  if (count.size() != 1 || !count[0] || !(*count[0] == f.getExtent(fact->axes[0])))
    return nullptr;
  if (fact->kind == Fact::Index && fact->choices.size() == 1) {
    Label rows = fact->axes[0][0];
    if (f.getRows(rows).kind != RowList::Sorted ||
        fact->choices[0] != toRefs(f.getRows(rows).from->axes[0], rows))
      return nullptr;
    Fact inverse;
    inverse.kind = Fact::Inverse;
    inverse.rows = rows;
    inverse.axes = f.getRows(rows).from->axes;
    f.facts[node.getResult(1)] = make(std::move(inverse));
    return nullptr;
  }
  auto type = llvm::cast<ShapedType>(node.getInput(0).getType());
  if (fact->kind != Fact::View || !isa<IntegerType>(type.getElementType()) || isConstant(fact) ||
      !fact->table.empty() || !getNumExperts(fact->src))
    return nullptr;
  Label rows = f.rowsSorted(fact, type.getDimSize(0));
  Fact sorted = *fact;
  for (Label label : fact->axes[0])
    if (!rename(sorted, label, {{label, rows}}))
      return nullptr;
  sorted.axes[0] = {rows};
  Fact index;
  index.kind = Fact::Index;
  index.axes = sorted.axes;
  index.choices = {toRefs(fact->axes[0], rows)};
  f.facts[node.getResult(1)] = make(std::move(index));
  return make(std::move(sorted));
}

const Fact *Facts::Builder::cumSum() {
  const Fact *fact = input(0);
  std::optional<SmallVector<int64_t>> axis = ints(1);
  if (!fact || fact->kind != Fact::Counts || fact->axes.size() != 1 || !axis ||
      (axis->front() != 0 && axis->front() != -1) || node.getIntAttr("reverse", 0))
    return nullptr;
  Fact bounds = *fact;
  bounds.kind = Fact::Bounds;
  bounds.exclusive = node.getIntAttr("exclusive", 0) != 0;
  return make(std::move(bounds));
}

//===----------------------------------------------------------------------===//
// Arithmetic on integers
//===----------------------------------------------------------------------===//

/// `fn` of each value of the ids. What is the identity on all of them is dropped.
const Fact *Facts::Builder::tableOf(const Fact *ids, llvm::function_ref<double(double)> fn) {
  Fact copy = *ids;
  int64_t experts = getNumExperts(ids->src);
  if (!experts || experts > 1 << 20)
    return nullptr;
  if (copy.table.empty())
    for (int64_t e = 0; e < experts; ++e)
      copy.table.push_back(double(e));
  bool isIdentity = true;
  for (auto [e, value] : llvm::enumerate(copy.table)) {
    value = fn(value);
    isIdentity &= value == double(e);
  }
  auto type = llvm::cast<ShapedType>(node.getResult(0).getType());
  if (isIdentity && isa<IntegerType>(type.getElementType()))
    copy.table.clear();
  return make(std::move(copy));
}

const Fact *Facts::Builder::arithmeticOnIds(const Fact *ids, double constant, bool constantFirst) {
  Type type = llvm::cast<ShapedType>(node.getResult(0).getType()).getElementType();
  StringRef op = node.getOpType();
  bool isFloat = isa<FloatType>(type);
  if (isFloat && !type.isF32() && !type.isF64())
    return nullptr;
  return tableOf(ids, [&](double value) {
    double a = constantFirst ? constant : value, b = constantFirst ? value : constant;
    double result = std::nan("");
    if (op == "Add")
      result = a + b;
    else if (op == "Sub")
      result = a - b;
    else if (op == "Mul")
      result = a * b;
    else if (op == "Div" && b != 0)
      result = isFloat ? a / b : std::trunc(a / b);
    else if (op == "Min")
      result = std::min(a, b);
    else if (op == "Max")
      result = std::max(a, b);
    return type.isF32() ? double(float(result)) : result;
  });
}

/// Multiples, sums, quotients and remainders of indices.
const Fact *Facts::Builder::arithmeticOnIndex(const Fact *lhs, const Fact *rhs) {
  StringRef op = node.getOpType();
  if (op != "Sub" && op != "Div" && op != "Mod" && rhs->kind == Fact::Index &&
      (lhs->kind != Fact::Index))
    std::swap(lhs, rhs);
  if (lhs->kind != Fact::Index || lhs->choice || lhs->choices.size() != 1)
    return nullptr;
  Fact index = *lhs;
  Refs &refs = index.choices[0];
  if (std::optional<double> constant = scalar(rhs)) {
    int64_t c = int64_t(*constant);
    if (rhs->axes.size() > lhs->axes.size())
      return nullptr;
    if ((op == "Add" || op == "Sub") && c == 0)
      return lhs;
    if (op == "Mul" && c > 0) {
      index.scale *= c;
      return make(std::move(index));
    }
    if ((op != "Div" && op != "Mod") || index.scale != 1)
      return nullptr;
    if (c == 1) {
      if (op == "Mod")
        refs.clear();
      return make(std::move(index));
    }
    if (refs.empty() || f.getSize(refs.back().label) != c)
      return nullptr;
    if (op == "Div")
      refs.pop_back();
    else
      refs = {refs.back()};
    return make(std::move(index));
  }
  if (op != "Add" || rhs->kind != Fact::Index || rhs->choice || rhs->choices.size() != 1 ||
      lhs->axes != rhs->axes)
    return nullptr;
  // Of the outer and the inner index, either may come first.
  if (rhs->choices[0].empty())
    return lhs->scale == 1 ? lhs : nullptr;
  if (lhs->choices[0].empty())
    return rhs->scale == 1 ? rhs : nullptr;
  if (lhs->scale == 1)
    std::swap(lhs, rhs);
  int64_t inner = 1;
  for (Ref ref : rhs->choices[0])
    inner = ShapedType::isDynamic(f.getSize(ref.label)) ? -1 : inner * f.getSize(ref.label);
  if (rhs->scale != 1 || lhs->scale != inner)
    return nullptr;
  Fact both = *lhs;
  both.scale = 1;
  llvm::append_range(both.choices[0], rhs->choices[0]);
  return make(std::move(both));
}

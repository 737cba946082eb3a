// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Rules of operators that arrange elements, and renaming of the labels of views.

#include "FactBuilder.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Renaming of labels in views
//===----------------------------------------------------------------------===//

/// Puts `refs` in the place of `label` in the groups (not in the axes).
bool Facts::Builder::rename(Fact &view, Label label, const Refs &refs) {
  auto renameIn = [&](Refs &list) {
    Refs result;
    for (Ref ref : list) {
      if (ref.label != label) {
        result.push_back(ref);
      } else if (!ref.via) {
        llvm::append_range(result, refs);
      } else {
        return false;
      }
    }
    list = result;
    return true;
  };
  for (Group &group : view.groups) {
    if (!renameIn(group.refs))
      return false;
    if (group.ids) {
      Fact ids = *group.ids;
      if (!rename(ids, label, refs))
        return false;
      group.ids = make(std::move(ids));
    }
  }
  if (view.ids) {
    Fact ids = *view.ids;
    if (!rename(ids, label, refs))
      return false;
    view.ids = make(std::move(ids));
  }
  if (view.weight) {
    Fact weight = *view.weight;
    if (!rename(weight, label, refs))
      return false;
    view.weight = make(std::move(weight));
  }
  return true;
}

/// Makes one group, with index `ref`, of the groups with the indices `labels`.
bool Facts::Builder::collapse(Fact &view, ArrayRef<Label> labels, Ref ref) {
  Refs wanted = toRefs(labels);
  for (size_t begin = 0; begin < view.groups.size(); ++begin) {
    Refs refs;
    unsigned dims = 0;
    for (size_t end = begin; end < view.groups.size(); ++end) {
      const Group &group = view.groups[end];
      if (group.ids || group.constant)
        break;
      llvm::append_range(refs, group.refs);
      dims += group.numDims;
      if (refs != wanted)
        continue;
      view.groups[begin].refs = {ref};
      view.groups[begin].numDims = dims;
      view.groups.erase(view.groups.begin() + begin + 1, view.groups.begin() + end + 1);
      return true;
    }
  }
  return false;
}

/// The linear index over `labels` becomes that over `refs`.
bool Facts::Builder::replaceLabels(Fact &view, ArrayRef<Label> labels, ArrayRef<Ref> refs) {
  auto sizeOfRef = [&](Ref ref) { return f.getSize(ref.label); };
  while (!labels.empty() && !refs.empty()) {
    if (labels.size() == 1 && refs.size() == 1)
      break;
    int64_t lhs = f.getSize(labels.back()), rhs = sizeOfRef(refs.back());
    if (ShapedType::isDynamic(lhs) || lhs != rhs)
      break;
    if (!rename(view, labels.back(), {refs.back()}))
      return false;
    labels = labels.drop_back();
    refs = refs.drop_back();
  }
  if (labels.empty() || refs.empty())
    return labels.empty() && refs.empty();
  if (labels.size() == refs.size()) {
    for (auto [label, ref] : llvm::zip(labels, refs))
      if (!isCompatible(f.getSize(label), sizeOfRef(ref)))
        return false;
    for (auto [label, ref] : llvm::zip(labels, refs))
      if (!(Ref{label} == ref) && !rename(view, label, {ref}))
        return false;
    return true;
  }
  if (labels.size() == 1)
    return rename(view, labels.front(), Refs(refs));
  return refs.size() == 1 && collapse(view, labels, refs.front());
}

/// Renames the labels of `view` to those of `target`, aligned at the last axis. `result`
/// receives the axes of both together.
bool Facts::Builder::align(Fact &view, ArrayRef<Labels> target, SmallVectorImpl<Labels> &result) {
  size_t rank = std::max(view.axes.size(), target.size());
  result.assign(rank, Labels());
  SmallVector<Labels, 4> axes = view.axes;
  for (size_t i = 0; i < rank; ++i) {
    size_t fromView = rank - view.axes.size(), fromTarget = rank - target.size();
    Labels *mine = i >= fromView ? &axes[i - fromView] : nullptr;
    const Labels *other = i >= fromTarget ? &target[i - fromTarget] : nullptr;
    if (other && !other->empty()) {
      result[i] = *other;
      if (mine && !mine->empty() && *mine != *other) {
        if (!replaceLabels(view, *mine, toRefs(*other)))
          return false;
        *mine = *other;
      }
    } else if (mine) {
      result[i] = *mine;
    }
  }
  view.axes = axes;
  return true;
}

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

const Fact *Facts::Builder::arrange() {
  const Fact *fact = input(0);
  auto type = dyn_cast<RankedTensorType>(node.getResult(0).getType());
  if (!fact || !type)
    return nullptr;
  if (fact->kind == Fact::Splat)
    return splat(fact->value);
  SmallVector<Label> all;
  for (const Labels &axis : fact->axes)
    llvm::append_range(all, axis);

  int64_t rank = type.getRank();
  SmallVector<std::optional<Extent>> wanted(rank);
  if (node.isOp("Reshape") && node.getInput(1)) {
    const auto &stated = f.getExtents(node.getInput(1));
    if (int64_t(stated.size()) == rank)
      wanted.assign(stated.begin(), stated.end());
  }
  for (int64_t i = 0; i < rank; ++i) {
    if (!type.isDynamicDim(i))
      wanted[i] = Extent{type.getDimSize(i), {}};
    else if (wanted[i] && wanted[i]->roots.empty()) // 0: as in the input
      wanted[i] = i < int64_t(fact->axes.size()) && wanted[i]->factor == 0
                      ? std::optional(f.getExtent(fact->axes[i]))
                      : std::nullopt;
  }

  SmallVector<Labels, 4> axes(rank);
  size_t front = 0, back = all.size();
  int64_t low = 0, high = rank;
  auto take = [&](const Extent &extent, bool fromFront, Labels &axis) {
    Labels taken;
    Extent product;
    size_t first = front, last = back;
    while (!(product == extent)) {
      if (first == last)
        return false;
      Label label = fromFront ? all[first++] : all[--last];
      taken.insert(fromFront ? taken.end() : taken.begin(), label);
      Extent part = extentOf(label, fact);
      product.factor *= part.factor;
      llvm::append_range(product.roots, part.roots);
      llvm::sort(product.roots);
      if (product.factor > extent.factor || product.roots.size() > extent.roots.size())
        return false;
    }
    axis = taken;
    front = first;
    back = last;
    return true;
  };
  while (low < high && wanted[low] && take(*wanted[low], true, axes[low]))
    ++low;
  while (low < high && wanted[high - 1] && take(*wanted[high - 1], false, axes[high - 1]))
    --high;
  // What is left in one dimension is what is left of the labels.
  int64_t rest = -1;
  for (int64_t i = low; i < high; ++i) {
    if (type.getDimSize(i) == 1)
      continue;
    if (rest >= 0)
      return nullptr;
    rest = i;
  }
  ArrayRef<Label> left = ArrayRef(all).slice(front, back - front);
  if (rest < 0)
    return left.empty() ? withAxes(fact, axes) : nullptr;
  int64_t product = 1;
  for (Label label : left) {
    int64_t size = sizeOf(label, fact);
    product = ShapedType::isDynamic(size) || ShapedType::isDynamic(product) ? ShapedType::kDynamic
                                                                            : product * size;
  }
  if (!isCompatible(product, type.getDimSize(rest)))
    return nullptr;
  axes[rest].assign(left.begin(), left.end());
  return withAxes(fact, axes);
}

const Fact *Facts::Builder::flattenTo2D() {
  const Fact *fact = input(0);
  if (!fact)
    return nullptr;
  int64_t rank = fact->axes.size(), axis = node.getIntAttr("axis", 1);
  axis = axis < 0 ? axis + rank : axis;
  if (axis < 0 || axis > rank)
    return nullptr;
  return withAxes(fact, {flatten(ArrayRef(fact->axes).take_front(axis)),
                         flatten(ArrayRef(fact->axes).drop_front(axis))});
}

const Fact *Facts::Builder::transpose() {
  const Fact *fact = input(0);
  std::optional<ArrayRef<int64_t>> perm = node.getIntsAttr("perm");
  if (!fact)
    return nullptr;
  SmallVector<Labels, 4> axes;
  int64_t rank = fact->axes.size();
  for (int64_t i = 0; i < rank; ++i) {
    int64_t from = perm && int64_t(perm->size()) == rank ? (*perm)[i] : rank - 1 - i;
    if (from < 0 || from >= rank)
      return nullptr;
    axes.push_back(fact->axes[from]);
  }
  return withAxes(fact, axes);
}

const Fact *Facts::Builder::squeeze() {
  const Fact *fact = input(0);
  if (!fact)
    return nullptr;
  std::optional<SmallVector<int64_t>> squeezed = ints(1);
  int64_t rank = fact->axes.size();
  SmallVector<Labels, 4> axes;
  ArrayRef<int64_t> shape = getShape(node.getInput(0));
  for (int64_t i = 0; i < rank; ++i) {
    bool removed = squeezed
                       ? llvm::is_contained(*squeezed, i) || llvm::is_contained(*squeezed, i - rank)
                       : shape[i] == 1;
    if (removed && !fact->axes[i].empty())
      return nullptr;
    if (!removed)
      axes.push_back(fact->axes[i]);
  }
  return withAxes(fact, axes);
}

const Fact *Facts::Builder::unsqueeze() {
  const Fact *fact = input(0);
  std::optional<SmallVector<int64_t>> added = ints(1);
  if (!fact || !added)
    return nullptr;
  int64_t rank = fact->axes.size() + added->size();
  SmallVector<Labels, 4> axes(rank);
  size_t next = 0;
  for (int64_t i = 0; i < rank; ++i) {
    if (llvm::is_contained(*added, i) || llvm::is_contained(*added, i - rank))
      continue;
    if (next == fact->axes.size())
      return nullptr;
    axes[i] = fact->axes[next++];
  }
  return next == fact->axes.size() ? withAxes(fact, axes) : nullptr;
}

const Fact *Facts::Builder::expand() {
  const Fact *fact = input(0);
  auto type = dyn_cast<RankedTensorType>(node.getResult(0).getType());
  if (!fact || !type || type.getRank() < int64_t(fact->axes.size()))
    return nullptr;
  if (std::optional<double> value = scalar(fact))
    return splat(*value);
  SmallVector<Labels, 4> axes(type.getRank());
  size_t added = type.getRank() - fact->axes.size();
  for (int64_t i = 0; i < type.getRank(); ++i) {
    if (size_t(i) >= added && !fact->axes[i - added].empty())
      axes[i] = fact->axes[i - added];
    else if (type.getDimSize(i) != 1)
      axes[i].push_back(f.labelOf(node.getResult(0), i));
  }
  return withAxes(fact, axes);
}

/// Integers that are constant, or OneHot of such in another shape, as repeat_interleave of
/// TorchScript has them.
static std::optional<SmallVector<int64_t>> evaluateInts(Value value) {
  auto node = value ? value.getDefiningOp<onnx::NodeOp>() : onnx::NodeOp();
  if (!node)
    return std::nullopt;
  if (node.isOp("Reshape") || node.isOp("Squeeze") || node.isOp("Unsqueeze"))
    return evaluateInts(node.getInput(0));
  if (!node.isOp("OneHot"))
    return onnx::getConstantInts(value);
  auto indices = evaluateInts(node.getInput(0)), depth = evaluateInts(node.getInput(1)),
       values = evaluateInts(node.getInput(2));
  bool isVector = indices && indices->size() == 1 && depth && values && values->size() == 2;
  if (!isVector || depth->front() < 1 || depth->front() > 8)
    return std::nullopt;
  SmallVector<int64_t> result(depth->front(), values->front());
  int64_t hot = indices->front() < 0 ? indices->front() + depth->front() : indices->front();
  if (hot >= 0 && hot < depth->front())
    result[hot] = values->back();
  return result;
}

const Fact *Facts::Builder::tile() {
  const Fact *fact = input(0);
  std::optional<SmallVector<int64_t>> repeats = evaluateInts(node.getInput(1));
  if (!fact || !repeats || repeats->size() != fact->axes.size())
    return nullptr;
  if (fact->kind == Fact::Splat)
    return splat(fact->value);
  SmallVector<Labels, 4> axes = fact->axes;
  for (auto [axis, count] : llvm::zip(axes, *repeats)) {
    if (count < 1)
      return nullptr;
    if (count > 1)
      axis.insert(axis.begin(), f.newLabel(count));
  }
  return withAxes(fact, axes);
}

const Fact *Facts::Builder::cast() {
  const Fact *fact = input(0);
  if (!fact)
    return nullptr;
  Type from = cast_or_null<ShapedType>(node.getInput(0).getType()).getElementType();
  Type to = llvm::cast<ShapedType>(node.getResult(0).getType()).getElementType();
  switch (fact->kind) {
  case Fact::Splat:
    return splat(isa<FloatType>(to) ? fact->value : std::trunc(fact->value));
  case Fact::Expression: {
    if (!isa<FloatType>(from) || !isa<FloatType>(to))
      return nullptr;
    return unary();
  }
  case Fact::Sum:
  case Fact::Weighted:
    return isa<FloatType>(from) && isa<FloatType>(to) ? fact : nullptr;
  case Fact::Pick:
    return !fact->weight || isa<FloatType>(to) ? fact : nullptr;
  case Fact::View: {
    if (from == to)
      return fact;
    // To a wider type and back.
    auto isWider = [](Type wide, Type narrow) {
      return isa<FloatType>(wide) && isa<FloatType>(narrow) &&
             wide.getIntOrFloatBitWidth() > narrow.getIntOrFloatBitWidth();
    };
    auto before = node.getInput(0).getDefiningOp<onnx::NodeOp>();
    if (before && before.isOp("Cast") && isWider(from, to) &&
        llvm::cast<ShapedType>(before.getInput(0).getType()).getElementType() == to)
      return f.get(before.getInput(0));
    // A number of its own, unless it is what a mask or ids say.
    if (isa<FloatType>(from)) {
      if (!fact->table.empty())
        return tableOf(fact, [&](double v) { return isa<FloatType>(to) ? v : std::trunc(v); });
      bool isWhole = llvm::all_of(fact->groups, [](const Group &group) {
        return !group.ids && !group.constant &&
               llvm::all_of(group.refs, [](Ref ref) { return !ref.via; });
      });
      if (!isa<FloatType>(to) || (isWhole && !isConstant(fact)))
        return nullptr;
      Fact copy = *fact;
      copy.casts.push_back(to);
      return make(std::move(copy));
    }
    return isConstant(fact) || (to.isInteger(1) && !from.isInteger(1) && isa<FloatType>(from))
               ? nullptr
               : fact;
  }
  default:
    return isa<FloatType>(to) ? nullptr : fact;
  }
}

const Fact *Facts::Builder::constantOfShape() {
  if (node.isOp("Constant")) {
    const Fact *fact = f.get(node.getResult(0));
    std::optional<double> value = scalar(fact);
    if (value && fact->axes.empty())
      return splat(*value);
    // 0, 1, 2, …
    std::optional<SmallVector<int64_t>> values = onnx::getConstantInts(node.getResult(0));
    if (!values || values->size() < 2 || getRank(node.getResult(0)) != 1 ||
        !llvm::equal(*values, llvm::seq<int64_t>(0, values->size())))
      return nullptr;
    Fact index;
    index.kind = Fact::Index;
    index.axes = fact->axes;
    index.choices = {toRefs(fact->axes[0])};
    return make(std::move(index));
  }
  DenseElementsAttr value = node.getTensorAttr("value");
  if (!value)
    return splat(0);
  if (isa<FloatType>(value.getElementType()))
    return splat(value.getSplatValue<APFloat>().convertToDouble());
  return splat(double(value.getSplatValue<APInt>().getSExtValue()));
}

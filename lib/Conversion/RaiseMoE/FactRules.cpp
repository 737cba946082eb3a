// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One rule per operator: the fact of a node's result from those of its inputs. A rule
// returns null when the result is no more than a tensor of its own.

#include "Facts.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

namespace {

Labels flatten(ArrayRef<Labels> axes) {
  Labels result;
  for (const Labels &axis : axes)
    llvm::append_range(result, axis);
  return result;
}

Refs toRefs(ArrayRef<Label> labels, Label via = 0) {
  Refs refs;
  for (Label label : labels)
    refs.push_back({label, via});
  return refs;
}

bool sameGroups(const Fact *lhs, const Fact *rhs) {
  if (lhs->src != rhs->src || lhs->groups.size() != rhs->groups.size())
    return false;
  return llvm::all_of(llvm::zip(lhs->groups, rhs->groups), [](auto pair) {
    auto &[l, r] = pair;
    return l.refs == r.refs && l.constant == r.constant && l.ids == r.ids;
  });
}

} // namespace

class Facts::Builder {
public:
  Builder(Facts &facts, onnx::NodeOp node) : f(facts), node(node) {}
  void run();

private:
  using Rule = const Fact *(Builder::*)();
  static const llvm::StringMap<Rule> &getRules();

  // Rules.
  const Fact *arrange();
  const Fact *flattenTo2D();
  const Fact *transpose();
  const Fact *squeeze();
  const Fact *unsqueeze();
  const Fact *expand();
  const Fact *tile();
  const Fact *cast();
  const Fact *gather();
  const Fact *gatherND();
  const Fact *slice();
  const Fact *split();
  const Fact *concat();
  const Fact *equal();
  const Fact *compare();
  const Fact *logicalAnd();
  const Fact *nonZero();
  const Fact *range();
  const Fact *topK();
  const Fact *cumSum();
  const Fact *constantOfShape();
  const Fact *scatterElements();
  const Fact *scatterND();
  const Fact *binary();
  const Fact *unary();
  const Fact *clip();
  const Fact *matMul();
  const Fact *gemm();
  const Fact *einsum();
  const Fact *reduceSum();
  const Fact *sumOf();
  const Fact *sequenceAt();

  // Making facts.
  const Fact *make(Fact fact) {
    f.factStore.push_back(std::move(fact));
    return &f.factStore.back();
  }
  const Node *makeNode(Node made) {
    made.at = node;
    f.nodeStore.push_back(std::move(made));
    return &f.nodeStore.back();
  }
  const Fact *withAxes(const Fact *fact, SmallVector<Labels, 4> axes) {
    Fact copy = *fact;
    copy.axes = std::move(axes);
    return make(std::move(copy));
  }
  const Fact *splat(double value, unsigned result = 0) {
    Fact fact;
    fact.kind = Fact::Splat;
    fact.value = value;
    fact.axes.resize(getRank(node.getResult(result)));
    return make(std::move(fact));
  }
  const Fact *withNode(const Fact *fact, const Node *made) {
    Fact copy = *fact;
    copy.node = made;
    return make(std::move(copy));
  }

  // Inputs.
  const Fact *input(unsigned position) {
    Value value = node.getInput(position);
    return value ? f.get(value) : nullptr;
  }
  std::optional<SmallVector<int64_t>> ints(unsigned position) {
    Value value = node.getInput(position);
    return value ? onnx::getConstantInts(value) : std::nullopt;
  }
  std::optional<double> scalar(const Fact *fact);
  static int64_t getRank(Value value) {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    return type ? type.getRank() : 0;
  }
  static ArrayRef<int64_t> getShape(Value value) {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    return type ? type.getShape() : ArrayRef<int64_t>();
  }
  std::optional<int64_t> getAxis(int64_t fallback, int64_t rank) {
    int64_t axis = node.getIntAttr("axis", fallback);
    axis = axis < 0 ? axis + rank : axis;
    return axis >= 0 && axis < rank ? std::optional(axis) : std::nullopt;
  }

  // Axes.
  int64_t sizeOf(Label label, const Fact *fact) {
    return label == kFeature ? fact->node->columns : f.getSize(label);
  }
  Extent extentOf(Label label, const Fact *fact) {
    if (label == kFeature)
      return {fact->node->columns, {}};
    return f.getExtent({label});
  }
  bool isCompatible(int64_t lhs, int64_t rhs) {
    return ShapedType::isDynamic(lhs) || ShapedType::isDynamic(rhs) || lhs == rhs;
  }
  bool rename(Fact &view, Label label, const Refs &refs);
  bool collapse(Fact &view, ArrayRef<Label> labels, Ref ref);
  bool replaceLabels(Fact &view, ArrayRef<Label> labels, ArrayRef<Ref> refs);
  bool align(Fact &view, ArrayRef<Labels> target, SmallVectorImpl<Labels> &result);
  const Fact *atConstant(const Fact *fact, unsigned axis, int64_t index, bool keep);
  const Fact *atIndex(const Fact *data, unsigned axis, const Fact *index);
  const Fact *atIds(const Fact *data, unsigned axis, const Fact *ids);
  const Fact *atRows(const Fact *data, unsigned axis, const Fact *index);

  // Expressions.
  const Fact *asExpression(const Fact *view);
  const Fact *elementwise(ArrayRef<const Fact *> operands);
  const Fact *columns(const Fact *fact, int64_t start, int64_t step, int64_t count);
  struct Side {
    const Fact *fact;
    SmallVector<char> letters;
  };
  const Fact *contract(Side lhs, Side rhs, ArrayRef<char> out);
  const Fact *linear(const Side &rows, const Side &weight, ArrayRef<char> out, char in);
  const Fact *weigh(const Fact *expression, const Fact *weight);
  const Fact *pickWeight(const Fact *pick, const Fact *weight);
  const Fact *reduce(const Fact *fact, ArrayRef<int64_t> axes, bool keep);
  const Fact *addSums(const Fact *lhs, const Fact *rhs);
  const Fact *asSum(const Fact *fact);
  const Fact *scatterRows(const Fact *base, const Fact *index, const Fact *updates, bool adds);
  const Fact *tableOf(const Fact *ids, llvm::function_ref<double(double)> fn);
  const Fact *arithmeticOnIds(const Fact *ids, double constant, bool constantFirst);
  const Fact *arithmeticOnIndex(const Fact *lhs, const Fact *rhs);

  Facts &f;
  onnx::NodeOp node;
};

void Facts::visit(onnx::NodeOp node) { Builder(*this, node).run(); }

void Facts::Builder::run() {
  if (!node.getGraphs().empty() || node->getNumResults() == 0)
    return;
  auto rule = getRules().find(node.getOpType());
  const Fact *fact = rule == getRules().end() ? nullptr : (this->*rule->second)();
  if (fact) {
    f.facts[node.getResult(0)] = fact;
    return;
  }
  if (f.facts.contains(node.getResult(0)))
    return; // several results, set by the rule
  for (Value operand : node.getInputs()) {
    const Fact *lost = f.get(operand);
    if (lost && lost->promising && !node.isOp("Shape") && !node.isOp("SplitToSequence"))
      f.stops.push_back({node, lost});
  }
}

const llvm::StringMap<Facts::Builder::Rule> &Facts::Builder::getRules() {
  static const llvm::StringMap<Rule> rules = [] {
    llvm::StringMap<Rule> map;
    map["Reshape"] = &Builder::arrange;
    map["Flatten"] = &Builder::flattenTo2D;
    for (StringRef type : {"Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Pow"})
      map[type] = &Builder::binary;
    for (StringRef type : {"Sigmoid",
                           "Tanh",
                           "Relu",
                           "Gelu",
                           "Erf",
                           "Softplus",
                           "Exp",
                           "Neg",
                           "Abs",
                           "Sqrt",
                           "Mish",
                           "Elu",
                           "Swish",
                           "HardSwish",
                           "HardSigmoid",
                           "LeakyRelu",
                           "Softsign",
                           "Reciprocal",
                           "com.microsoft.QuickGelu",
                           "com.microsoft.FastGelu",
                           "com.microsoft.Gelu"})
      map[type] = &Builder::unary;
    map["Transpose"] = &Builder::transpose;
    map["Squeeze"] = &Builder::squeeze;
    map["Unsqueeze"] = &Builder::unsqueeze;
    map["Expand"] = &Builder::expand;
    map["Tile"] = &Builder::tile;
    map["Cast"] = &Builder::cast;
    map["CastLike"] = &Builder::cast;
    map["Gather"] = &Builder::gather;
    map["GatherND"] = &Builder::gatherND;
    map["Slice"] = &Builder::slice;
    map["Split"] = &Builder::split;
    map["Concat"] = &Builder::concat;
    map["Equal"] = &Builder::equal;
    for (StringRef type : {"Less", "GreaterOrEqual", "LessOrEqual", "Greater"})
      map[type] = &Builder::compare;
    map["And"] = &Builder::logicalAnd;
    map["NonZero"] = &Builder::nonZero;
    map["Range"] = &Builder::range;
    map["TopK"] = &Builder::topK;
    map["CumSum"] = &Builder::cumSum;
    map["ConstantOfShape"] = &Builder::constantOfShape;
    map["Constant"] = &Builder::constantOfShape;
    map["ScatterElements"] = &Builder::scatterElements;
    map["ScatterND"] = &Builder::scatterND;
    map["Clip"] = &Builder::clip;
    map["MatMul"] = &Builder::matMul;
    map["Gemm"] = &Builder::gemm;
    map["Einsum"] = &Builder::einsum;
    map["ReduceSum"] = &Builder::reduceSum;
    map["Sum"] = &Builder::sumOf;
    map["SequenceAt"] = &Builder::sequenceAt;
    return map;
  }();
  return rules;
}

/// The value of all elements of a constant or splat.
std::optional<double> Facts::Builder::scalar(const Fact *fact) {
  if (!fact)
    return std::nullopt;
  if (fact->kind == Fact::Splat)
    return fact->value;
  if (!isConstant(fact) || !fact->casts.empty())
    return std::nullopt;
  DenseElementsAttr elements = onnx::getConstantValue(fact->src);
  if (!elements || elements.empty() || !(elements.isSplat() || elements.getNumElements() == 1))
    return std::nullopt;
  if (isa<FloatType>(elements.getElementType()))
    return elements.getSplatValue<APFloat>().convertToDouble();
  if (!isa<IntegerType>(elements.getElementType()))
    return std::nullopt;
  if (std::optional<SmallVector<int64_t>> values = onnx::getConstantInts(fact->src))
    return double(values->front());
  return std::nullopt;
}

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
    else if (wanted[i] && wanted[i]->roots.empty())
      wanted[i] = std::nullopt; // 0: as in the input
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
  int64_t depth = getShape(node.getInput(1)).back();
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
  int64_t count = getRank(node.getResult(0)) ? getShape(node.getInput(1)).front() : 0;
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
  bool isEveryExpert = fact->kind == Fact::Hits && fact->axes[*axis].size() == 1 &&
                       f.getSize(fact->axes[*axis][0]) == node->getNumResults();
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
  // The experts' rows of a sorted list one after the other are all rows.
  bool isRows = (first->kind == Fact::Expression || first->kind == Fact::Weighted) &&
                first->axes[*axis].size() == 1;
  if (!isRows)
    return nullptr;
  Label rows = f.getRows(first->axes[*axis][0]).of;
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
// Scattering
//===----------------------------------------------------------------------===//

const Fact *Facts::Builder::scatterElements() {
  const Fact *base = input(0), *index = input(1), *updates = input(2);
  if (!base || !index || !updates)
    return nullptr;
  std::optional<int64_t> axis = getAxis(0, base->axes.size());
  StringRef reduction = node.getStringAttr("reduction", "none");
  if (!axis || (reduction != "none" && reduction != "add"))
    return nullptr;
  bool adds = reduction == "add";
  int64_t rank = getRank(node.getResult(0));
  if (index->kind == Fact::View && scalar(base) == 0.0 && scalar(updates) == 1.0) {
    // Counts of ids: over all of them, or by token.
    int64_t experts = getShape(node.getResult(0))[*axis];
    if (isConstant(index) || !index->table.empty() || getNumExperts(index->src) != experts)
      return nullptr;
    if ((rank == 1 && !adds) || *axis != rank - 1 || rank > 2)
      return nullptr;
    Fact counts;
    counts.kind = Fact::Counts;
    counts.ids = index;
    if (rank == 2)
      counts.axes.push_back(index->axes[0]);
    counts.axes.push_back({f.numbersBelow(experts)});
    return make(std::move(counts));
  }
  if (*axis != 0 || index->axes.size() != updates->axes.size())
    return nullptr;
  if (index->kind == Fact::Index) {
    // The same row index for all columns.
    if (!llvm::equal(getShape(node.getInput(1)).drop_front(),
                     getShape(node.getResult(0)).drop_front()))
      return nullptr;
    const Fact *rows = withAxes(index, {index->axes[0]});
    return scatterRows(base, rows, updates, adds);
  }
  return nullptr;
}

const Fact *Facts::Builder::scatterND() {
  const Fact *base = input(0), *index = input(1), *updates = input(2);
  if (!base || !index || !updates || index->axes.empty() || getShape(node.getInput(1)).back() != 1)
    return nullptr;
  StringRef reduction = node.getStringAttr("reduction", "none");
  if (reduction != "none" && reduction != "add")
    return nullptr;
  const Fact *rows =
      withAxes(index, SmallVector<Labels, 4>(index->axes.begin(), std::prev(index->axes.end())));
  return scatterRows(base, rows, updates, reduction == "add");
}

/// Rows of `updates` put, or added, to rows `index` of `base`.
const Fact *Facts::Builder::scatterRows(const Fact *base, const Fact *index, const Fact *updates,
                                        bool adds) {
  if (index->kind != Fact::Index || index->choice || index->scale != 1 || index->axes.size() != 1 ||
      index->choices[0].empty())
    return nullptr;
  const Refs &refs = index->choices[0];
  Label via = refs[0].via;
  const RowList &list = f.getRows(via);
  // The order of a sorted list undone: every pair is written once.
  if (via && list.kind == RowList::Sorted && refs == toRefs(list.from->axes[0], via)) {
    bool isPlain = !adds || scalar(base) == 0.0;
    if (updates->kind == Fact::Index && updates->axes.size() == 1 && !updates->choice &&
        updates->choices[0] == toRefs(updates->axes[0]) && isPlain) {
      Fact inverse;
      inverse.kind = Fact::Inverse;
      inverse.rows = via;
      inverse.axes = list.from->axes;
      return make(std::move(inverse));
    }
    bool isRows = (updates->kind == Fact::Expression || updates->kind == Fact::Weighted) &&
                  updates->axes[0] == Labels{via};
    if (!isRows || !isPlain)
      return nullptr;
    Fact copy = *updates;
    copy.axes[0] = list.from->axes[0];
    return make(std::move(copy));
  }
  if (updates->kind != Fact::Weighted || updates->axes.size() != 2 ||
      updates->axes[0] != index->axes[0])
    return nullptr;
  bool baseIsZero = scalar(base) == 0.0;
  // Pairs added to their tokens: the sum over the slots.
  bool isPairs = llvm::all_of(refs, [](Ref ref) { return !ref.via; });
  if (isPairs || list.kind == RowList::Sorted) {
    if (!adds || !baseIsZero)
      return nullptr;
    const Labels &pairs = isPairs ? index->axes[0] : list.from->axes[0];
    Refs prefix = toRefs(ArrayRef(pairs).take_front(refs.size()), via);
    if (refs.size() > pairs.size() || prefix != refs)
      return nullptr;
    Fact split = *updates;
    split.axes = {Labels(pairs.begin(), pairs.begin() + refs.size()),
                  Labels(pairs.begin() + refs.size(), pairs.end()), updates->axes[1]};
    return reduce(make(std::move(split)), {1}, false);
  }
  if (list.kind != RowList::Mask || !llvm::all_of(refs, [&](Ref r) { return r.via == via; }))
    return nullptr;
  // The rows of one expert to their tokens. A token has each expert once at most, so
  // writing into zeros is adding.
  Fact term = *updates;
  Labels tokens;
  for (Ref ref : refs)
    tokens.push_back(ref.label);
  term.axes[0] = tokens;
  term.expert = list.expert;
  term.rows = via;
  const Fact *made = asSum(make(std::move(term)));
  if (baseIsZero)
    return made;
  if (!adds || base->kind != Fact::Sum)
    return nullptr;
  return addSums(base, made);
}

const Fact *Facts::Builder::asSum(const Fact *fact) {
  if (fact->kind == Fact::Sum)
    return fact;
  if (fact->kind != Fact::Weighted)
    return nullptr;
  Fact sum;
  sum.kind = Fact::Sum;
  sum.axes = fact->axes;
  sum.promising = fact->promising;
  sum.node = fact->node;
  f.sumStore.push_back({fact});
  sum.sum = &f.sumStore.back();
  return make(std::move(sum));
}

const Fact *Facts::Builder::addSums(const Fact *lhs, const Fact *rhs) {
  lhs = asSum(lhs);
  rhs = asSum(rhs);
  if (!lhs || !rhs || lhs->axes.size() != rhs->axes.size())
    return nullptr;
  for (auto [l, r] : llvm::zip(lhs->axes, rhs->axes))
    if (l.empty() != r.empty() ||
        (llvm::is_contained(l, kFeature) != llvm::is_contained(r, kFeature)))
      return nullptr;
  if (lhs->node->columns != rhs->node->columns)
    return nullptr;
  Fact sum = *lhs;
  f.sumStore.push_back({nullptr, lhs->sum, rhs->sum, lhs->sum->count + rhs->sum->count});
  sum.sum = &f.sumStore.back();
  return make(std::move(sum));
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
    return (fact->kind == Fact::View && !isConstant(fact)) || fact->kind == Fact::Expression;
  };
  if (isConstant(rhs.fact) && isRows(lhs.fact) && summed.size() == 1)
    return linear(lhs, rhs, out, summed[0]);
  if (isConstant(lhs.fact) && isRows(rhs.fact) && summed.size() == 1)
    return linear(rhs, lhs, out, summed[0]);
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
  auto axisOf = [](const Side &side, char letter) -> const Labels * {
    auto it = llvm::find(side.letters, letter);
    return it == side.letters.end() ? nullptr : &side.fact->axes[it - side.letters.begin()];
  };
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
  bool isView = x.kind == Fact::View;
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

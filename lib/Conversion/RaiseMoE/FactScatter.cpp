// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Rules of operators that put rows to their tokens, and sums of what several put there.

#include "FactBuilder.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Scattering
//===----------------------------------------------------------------------===//

const Fact *Facts::Builder::scatterElements() {
  const Fact *base = input(0), *index = input(1), *updates = input(2);
  if (!base || !index || !updates)
    return nullptr;
  std::optional<int64_t> axis = getAxis(0, base->axes.size());
  StringRef reduction = node.getStringAttr("reduction", "none");
  int64_t rank = getRank(node.getResult(0));
  if (!axis || *axis >= rank || (reduction != "none" && reduction != "add"))
    return nullptr;
  bool adds = reduction == "add";
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
  if (!base || !index || !updates || index->axes.empty() || getLastDim(node.getInput(1)) != 1)
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

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Rules of products that put tokens to positions at experts, and take the results back.

#include "FactBuilder.h"

using namespace mlir;
using namespace mlir::moe;

/// A computed tensor as it is, of tokens, experts and positions.
static bool isWhole(const Fact *fact) {
  return fact->kind == Fact::View && !Facts::isConstant(fact) && fact->groups.size() == 3 &&
         llvm::all_of(fact->groups, [](const Group &group) {
           return !group.ids && !group.constant && !group.refs.empty() &&
                  llvm::all_of(group.refs, [](Ref ref) { return !ref.via; });
         });
}

FailureOr<Placement> Facts::Builder::readPlacementOf(Value tensor, const Labels &tokens,
                                                     Refusal &refusal) {
  auto isTokenCount = [&](Value value) {
    const auto &extents = f.getExtents(value);
    return extents.size() == 1 && extents[0] && *extents[0] == f.getExtent(tokens);
  };
  return readPlacement(tensor, isTokenCount, refusal);
}

/// Σ over t of mask[t, e, c] · x[t]: each (e, c) has the row of one token, or 0.
const Fact *Facts::Builder::placeRows(const Side &mask, const Side &rows, ArrayRef<char> out,
                                      ArrayRef<char> summed) {
  if (!isWhole(mask.fact) || rows.fact->kind != Fact::View || isConstant(rows.fact) ||
      summed.size() != 1 || mask.letters.size() + rows.letters.size() != out.size() + 2)
    return nullptr;
  const Labels *maskTokens = mask.axisOf(summed[0]), *tokens = rows.axisOf(summed[0]);
  ArrayRef<Group> groups = mask.fact->groups;
  if (!maskTokens || !tokens || tokens->empty() || groups[0].refs != toRefs(*maskTokens) ||
      groups[1].refs.size() != 1 || groups[2].refs.size() != 1)
    return nullptr;
  Refusal refusal;
  FailureOr<Placement> placement = readPlacementOf(mask.fact->src, *tokens, refusal);
  if (failed(placement)) {
    if (refusal.at)
      f.refusals.push_back({node, refusal});
    return nullptr;
  }
  Label positions = f.rowsPlaced(mask.fact, *placement, *tokens);
  Label experts = f.numbersBelow(placement->experts);
  Fact x = *rows.fact;
  for (Group &group : x.groups) {
    for (Ref &ref : group.refs) {
      if (ref.via)
        return nullptr;
      if (llvm::is_contained(*tokens, ref.label))
        ref.via = positions;
    }
  }
  x.axes.clear();
  for (char letter : out) {
    const Labels *ofMask = mask.axisOf(letter), *ofRows = rows.axisOf(letter);
    Labels axis = ofMask ? *ofMask : *ofRows;
    for (Label &label : axis) {
      label = label == groups[1].refs[0].label ? experts : label;
      label = label == groups[2].refs[0].label ? positions : label;
    }
    x.axes.push_back(axis);
  }
  x.promising = true;
  return make(std::move(x));
}

/// Σ over e and c of weights[t, e, c] · rows[e, c], where the rows are at the positions of a
/// placement.
const Fact *Facts::Builder::takeBackRows(const Side &weights, const Side &rows, ArrayRef<char> out,
                                         ArrayRef<char> summed) {
  if (rows.fact->kind != Fact::Expression || !isWhole(weights.fact))
    return nullptr;
  Labels all = flatten(rows.fact->axes);
  auto placed = llvm::find_if(all, [&](Label label) {
    return label != kFeature && f.getRows(label).kind == RowList::Placed;
  });
  if (placed == all.end())
    return nullptr;
  const auto &[placement, tokens, known] = f.getPlaced(*placed);
  Label positions = *placed, experts = f.numbersBelow(placement.experts);

  Fact view = *weights.fact;
  for (char letter : summed) {
    const Labels *mine = weights.axisOf(letter), *other = rows.axisOf(letter);
    if (!mine || !other || !replaceLabels(view, *mine, toRefs(*other)))
      return nullptr;
  }
  if (view.groups[1].refs != Refs{{experts}} || view.groups[2].refs != Refs{{positions}})
    return nullptr;
  Fact result = *rows.fact;
  result.axes.clear();
  for (char letter : out) {
    const Labels *mine = weights.axisOf(letter), *other = rows.axisOf(letter);
    if (bool(mine) == bool(other) || (mine && toRefs(*mine) != weights.fact->groups[0].refs) ||
        (other && *other != Labels{kFeature}))
      return nullptr;
    result.axes.push_back(mine ? tokens : *other);
  }
  Refusal refusal;
  FailureOr<Placement> back = readPlacementOf(view.src, tokens, refusal);
  if (succeeded(back) && !movesSameTokens(placement, *back))
    (void)refusal.refuse(view.src, "weights other tokens or positions than those that were put to "
                                   "the experts");
  if (refusal.at)
    f.refusals.push_back({node, refusal});
  if (failed(back) || refusal.at)
    return nullptr;
  f.placed[positions].weights[view.src] = *back;
  result.kind = Fact::Weighted;
  result.weight = make(std::move(view));
  result.rows = positions;
  result.summed = result.promising = true;
  result.choices = {toRefs({experts, positions})};
  return make(std::move(result));
}

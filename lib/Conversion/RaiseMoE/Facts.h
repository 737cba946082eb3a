// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the tensors of a normalized ONNX graph mean to an MoE block, found by one walk
// over the graph. A fact describes a tensor by the index variables ("labels") that run
// along its axes, and by what its elements are in terms of them. All spellings of a block
// are different ways to the same last fact, a sum over slots or experts.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_FACTS_H
#define MOEC_LIB_CONVERSION_RAISEMOE_FACTS_H

#include "Placement.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"

#include "llvm/ADT/DenseMap.h"

#include <deque>

namespace mlir::moe {

/// An index variable. Labels are compared by identity: a dimension of a tensor, the copies
/// that Expand or Tile make, the numbers below n, or a list of rows (see `RowList`).
using Label = unsigned;

/// The columns of an expression (`Fact::node`); no other label is 0.
inline constexpr Label kFeature = 0;

/// A label, or the coordinate that it has at the rows of the row list `via`.
struct Ref {
  Label label = 0;
  Label via = 0;
  bool operator==(const Ref &other) const { return label == other.label && via == other.via; }
};
using Refs = SmallVector<Ref, 2>;

/// The labels along one dimension, outermost first; none where its size is 1.
using Labels = SmallVector<Label, 2>;

struct Fact;

/// Index into consecutive dimensions of a tensor: their linear index is that of `refs`, or
/// `constant`, or the value of `ids`.
struct Group {
  unsigned firstDim = 0, numDims = 1;
  Refs refs;
  std::optional<int64_t> constant;
  const Fact *ids = nullptr;
};

/// A number of elements: `factor` times the sizes of the labels `roots` (sorted).
struct Extent {
  int64_t factor = 1;
  SmallVector<Label, 2> roots;
  bool operator==(const Extent &other) const {
    return factor == other.factor && roots == other.roots;
  }
};

/// A function of x's rows: a term whose leaves are x and constants. All operands have the
/// axes of the fact but for the columns.
struct Node {
  enum Kind {
    /// x, or a constant: `view`.
    Leaf,
    /// operand 0 times the weight `view`, whose labels `in` and `out` are the columns of
    /// the operand and the result.
    Linear,
    /// Columns start, start + step, … of operand 0.
    Columns,
    /// An element-wise operator `type` on the operands.
    Elementwise,
    /// The rows of expert `expert` of operand 0.
    Segment,
    /// Rows one after the other: operand e holds those of expert e.
    Experts,
  };
  Kind kind;
  SmallVector<const Node *, 2> operands;
  /// The node of the graph.
  Operation *at = nullptr;
  /// Number of columns, 1 when they do not matter (scalars).
  int64_t columns = 1;
  const Fact *view = nullptr;
  Label in = 0, out = 0;
  int64_t start = 0, step = 1, expert = 0;
};

/// One of the terms, or the sum of two sums.
struct SumTree {
  const Fact *term = nullptr;
  const SumTree *left = nullptr, *right = nullptr;
  int64_t count = 1;
};

struct Fact {
  enum Kind {
    /// Elements of the tensor `src` in another arrangement: `src` at `groups`, through
    /// `casts`; of integers, `table` at it when that is not empty.
    View,
    /// A view times `weight`, which is one number per row and has labels of its own: the
    /// copies of a row that the experts read have different weights.
    Scaled,
    /// All elements are `value`.
    Splat,
    /// The linear index of `choices[i]`, times `scale`; i runs along label `choice`, or is 0.
    Index,
    /// The linear index, among the elements of `ids`, that row r of a sorted list has.
    Inverse,
    /// Positions in the sorted list `rows` that belong to `expert`.
    Positions,
    /// 1 where the expert chosen is `expert`, else 0, times `weight`; chosen by `ids`, or by
    /// a nonzero element of the mask `ids` at the constant `expert`. `summed` over slots.
    Pick,
    /// How often each expert occurs in `ids`, [experts]; or in each token, [tokens, experts].
    Counts,
    /// Whether each expert occurs; after NonZero, those that do.
    Hits,
    /// Running sums of the counts, [experts] or at one expert: pairs with an id below
    /// `expert` + `choice`.
    Bounds,
    /// True at positions with low ≤ position < high, the bounds of experts `low`, `high`.
    Interval,
    /// `node` of x's rows.
    Expression,
    /// An expression times `weight`: a view or a pick. When `summed`, over the labels
    /// `choices[0]`. As a term of a sum, the rows `rows` of `expert`, put to their tokens.
    Weighted,
    /// A sum of weighted expressions, one per expert.
    Sum,
  };
  Kind kind = View;
  SmallVector<Labels, 4> axes;

  // View.
  Value src;
  SmallVector<Group, 4> groups;
  SmallVector<Type, 1> casts;
  SmallVector<double, 0> table;

  /// Of a splat; what the others are multiplied with.
  double value = 1;

  SmallVector<Refs, 1> choices;
  Label choice = 0;
  int64_t scale = 1;

  const Fact *ids = nullptr, *weight = nullptr;
  Label rows = 0;
  int64_t expert = 0, low = 0, high = 0;
  bool summed = false, exclusive = false;
  /// Depends on the choice of experts or on their weights, so that a reader expects more.
  bool promising = false;

  const Node *node = nullptr;
  const SumTree *sum = nullptr;
};

/// Rows in an order of their own: where a mask is nonzero, or all (token, slot) pairs by
/// rising expert, or those of them that one expert has; or the tokens at the positions of a
/// placement, a list for each expert.
struct RowList {
  enum Kind { None, Mask, Sorted, Segment, Placed } kind = None;
  /// Mask: the Pick or View of which it is a list. Sorted: the view of the ids. Placed: the
  /// view of the mask.
  const Fact *from = nullptr;
  /// Segment: of which list, and of which expert.
  Label of = 0;
  int64_t expert = 0;
};

/// Where facts stopped: a node that reads a promising tensor and is not understood.
struct Stop {
  Operation *at;
  const Fact *fact;
};

/// The placement of a row list, and the labels of its tokens.
struct PlacedRows {
  Placement placement;
  Labels tokens;
  /// The weights with which the rows are taken back, by tensor.
  DenseMap<Value, Placement> weights;
};

/// A node that takes the experts that were hit for `count` ones, as they were when the model
/// was traced.
struct Frozen {
  Operation *at;
  int64_t count, experts;
};

/// All facts of one block of a function.
class Facts {
public:
  /// The fact of a value; null when nothing is known of its shape.
  const Fact *get(Value value);
  /// Derives the facts of the node's results.
  void visit(onnx::NodeOp node);
  /// The value is replaced by one of which nothing is known.
  void forget(Value value) { facts.erase(value); }

  int64_t getSize(Label label) const { return labels[label].size; }
  /// The product of the sizes.
  Extent getExtent(ArrayRef<Label> axis) const;
  const RowList &getRows(Label label) const { return labels[label].rows; }
  /// The dimension that a label was made for; null for others.
  std::pair<Value, unsigned> getOrigin(Label label) const {
    return {labels[label].value, labels[label].dim};
  }
  /// True for a view of a constant.
  static bool isConstant(const Fact *fact);
  /// Number of experts that the values of the integer tensor `ids` are below; 0 when that
  /// is not known.
  static int64_t getNumExperts(Value ids);
  /// Number of experts that dimension `dim` of a mask is for. One-hot vectors may be longer.
  static int64_t getNumExperts(Value mask, unsigned dim);

  const PlacedRows &getPlaced(Label rows) const { return placed.find(rows)->second; }

  ArrayRef<Stop> getStops() const { return stops; }
  /// Nodes that move tokens by products with tensors of which that is not proven, and why.
  ArrayRef<std::pair<Operation *, Refusal>> getRefusals() const { return refusals; }
  ArrayRef<Frozen> getFrozen() const { return frozen; }
  /// Whether some node asks who chose `expert` in these ids or in this mask.
  bool isSeen(Value ids, int64_t expert) const { return seen.contains({ids, expert}); }

private:
  struct LabelInfo {
    int64_t size = ShapedType::kDynamic;
    /// Labels whose sizes multiply to this one's, when it is not a root.
    Labels alias;
    Value value;
    unsigned dim = 0;
    RowList rows;
  };
  class Builder;
  friend class Builder;

  Label newLabel(int64_t size);
  Label labelOf(Value value, unsigned dim);
  Label numbersBelow(int64_t size);
  Label rowsOfMask(const Fact *pick);
  Label rowsSorted(const Fact *ids, int64_t size);
  Label rowsOfSegment(Label rows, int64_t expert);
  Label rowsPlaced(const Fact *mask, const Placement &placement, const Labels &tokens);
  Labels aliasOf(Value value, unsigned dim);
  Labels sizeLabels(Value value, unsigned dim);
  std::optional<Extent> restOfReshape(onnx::NodeOp node, unsigned dim);

  SmallVector<LabelInfo> labels = SmallVector<LabelInfo>(1);
  DenseMap<std::pair<Value, unsigned>, Label> dimLabels;
  DenseMap<int64_t, Label> numberLabels;
  DenseMap<std::pair<Value, int64_t>, SmallVector<Label, 1>> maskRows;
  DenseMap<Value, Label> sortedRows;
  DenseMap<std::pair<Label, int64_t>, Label> segmentRows;
  const SmallVector<std::optional<Extent>> &getExtents(Value shape);

  DenseMap<Value, const Fact *> facts;
  DenseMap<Value, SmallVector<std::optional<Extent>>> extents;
  std::deque<Fact> factStore;
  std::deque<Node> nodeStore;
  std::deque<SumTree> sumStore;
  DenseMap<Label, PlacedRows> placed;
  SmallVector<Stop> stops;
  SmallVector<std::pair<Operation *, Refusal>> refusals;
  SmallVector<Frozen> frozen;
  DenseSet<std::pair<Value, int64_t>> seen;
};

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_FACTS_H

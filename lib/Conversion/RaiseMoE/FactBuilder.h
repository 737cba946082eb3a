// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The rules of facts, one per operator: the fact of a node's result from those of its
// inputs. A rule returns null when the result is no more than a tensor of its own.

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_FACTBUILDER_H
#define MOEC_LIB_CONVERSION_RAISEMOE_FACTBUILDER_H

#include "Facts.h"

#include "llvm/ADT/StringMap.h"

namespace mlir::moe {

inline Labels flatten(ArrayRef<Labels> axes) {
  Labels result;
  for (const Labels &axis : axes)
    llvm::append_range(result, axis);
  return result;
}

inline Refs toRefs(ArrayRef<Label> labels, Label via = 0) {
  Refs refs;
  for (Label label : labels)
    refs.push_back({label, via});
  return refs;
}

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
  const Fact *matMulNBits();
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
  const Fact *joinPlaced(ArrayRef<const Fact *> parts, unsigned axis);
  const Fact *atRows(const Fact *data, unsigned axis, const Fact *index);

  // Expressions.
  const Fact *asExpression(const Fact *view);
  const Fact *elementwise(ArrayRef<const Fact *> operands);
  const Fact *columns(const Fact *fact, int64_t start, int64_t step, int64_t count);
  struct Side {
    const Fact *fact;
    SmallVector<char> letters;

    /// The labels at a letter; null when it is not on this side.
    const Labels *axisOf(char letter) const {
      auto it = llvm::find(letters, letter);
      return it == letters.end() ? nullptr : &fact->axes[it - letters.begin()];
    }
  };
  const Fact *contract(Side lhs, Side rhs, ArrayRef<char> out);
  const Fact *placeRows(const Side &mask, const Side &rows, ArrayRef<char> out,
                        ArrayRef<char> summed);
  FailureOr<Placement> readPlacementOf(Value tensor, const Labels &tokens, Refusal &refusal);
  const Fact *takeBackRows(const Side &weights, const Side &rows, ArrayRef<char> out,
                           ArrayRef<char> summed);
  const Fact *linear(const Side &rows, const Side &weight, ArrayRef<char> out, char in);
  const Fact *weigh(const Fact *expression, const Fact *weight);
  const Fact *scaleRows(const Fact *rows, const Fact *weight);
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

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_RAISEMOE_FACTBUILDER_H

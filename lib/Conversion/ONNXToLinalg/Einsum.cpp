// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Sums of products over labelled dimensions.

#include "Lowering.h"

#include "moec/Dialect/ONNX/IR/Einsum.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

using Labels = SmallVector<int64_t>;

namespace {
/// A tensor and the label of each of its dimensions.
struct Operand {
  Value tensor;
  Labels labels;
};
} // namespace

/// Dimensions of one operand that have the same label get the same size.
static LogicalResult unifyDiagonals(NodeLowering &n, Operand &operand) {
  for (auto [dim, label] : llvm::enumerate(operand.labels)) {
    auto *first = llvm::find(operand.labels, label);
    if (first == &operand.labels[dim])
      continue;
    if (failed(unifyDim(n, operand.tensor, first - operand.labels.begin(), operand.tensor, dim,
                        "the sizes of a diagonal differ")))
      return failure();
  }
  return success();
}

/// The size of each label, 1 broadcasting.
static FailureOr<Sizes> getLabelSizes(NodeLowering &n, ArrayRef<Operand> operands,
                                      int64_t numLabels) {
  Sizes sizes;
  for (int64_t label = 0; label < numLabels; ++label) {
    SmallVector<Sizes> candidates;
    for (const Operand &operand : operands)
      for (auto [dim, own] : llvm::enumerate(operand.labels))
        if (own == label)
          candidates.push_back({getSize(n.b, operand.tensor, dim)});
    FailureOr<Sizes> common = broadcastSizes(n, candidates);
    if (failed(common))
      return failure();
    sizes.push_back(common->front());
  }
  return sizes;
}

/// How `operand` is read in loops over `loops`, labels. It is materialized where its
/// size is only known to broadcast at run time.
static AffineMap getAccess(NodeLowering &n, Operand &operand, ArrayRef<int64_t> loops,
                           ArrayRef<OpFoldResult> sizes) {
  ImplicitLocOpBuilder &b = n.b;
  Sizes own = getSizes(b, operand.tensor), target;
  bool proven = true;
  for (auto [dim, label] : llvm::enumerate(operand.labels)) {
    target.push_back(sizes[label]);
    proven &= isSize(own[dim], 1) || isSameSize(own[dim], sizes[label]);
  }
  if (!proven) {
    operand.tensor = broadcastTo(n, operand.tensor, target);
    own = target;
  }
  SmallVector<AffineExpr> exprs;
  for (auto [dim, label] : llvm::enumerate(operand.labels)) {
    int64_t loop = llvm::find(loops, label) - loops.begin();
    exprs.push_back(isSameSize(own[dim], sizes[label]) ? b.getAffineDimExpr(loop)
                                                       : b.getAffineConstantExpr(0));
  }
  return AffineMap::get(loops.size(), 0, exprs, b.getContext());
}

/// The product of one or two operands, summed over the labels that are not `kept`, in
/// the type that elements are computed in.
static Operand contract(NodeLowering &n, MutableArrayRef<Operand> operands, ArrayRef<int64_t> kept,
                        ArrayRef<OpFoldResult> sizes) {
  ImplicitLocOpBuilder &b = n.b;
  Labels loops(kept);
  for (const Operand &operand : operands)
    for (int64_t label : operand.labels)
      if (!llvm::is_contained(loops, label))
        loops.push_back(label);
  bool sums = loops.size() > kept.size();

  SmallVector<AffineMap> maps;
  SmallVector<Value> inputs;
  for (Operand &operand : operands) {
    maps.push_back(getAccess(n, operand, loops, sizes));
    inputs.push_back(operand.tensor);
  }
  SmallVector<AffineExpr> resultExprs;
  for (size_t loop = 0; loop < kept.size(); ++loop)
    resultExprs.push_back(b.getAffineDimExpr(loop));
  maps.push_back(AffineMap::get(loops.size(), 0, resultExprs, b.getContext()));
  SmallVector<utils::IteratorType> iterators(loops.size(), utils::IteratorType::reduction);
  std::fill_n(iterators.begin(), kept.size(), utils::IteratorType::parallel);

  Sizes resultSizes;
  for (int64_t label : kept)
    resultSizes.push_back(sizes[label]);
  Type type = getComputeType(getElementTypeOrSelf(operands[0].tensor.getType()));
  Value init = sums ? filledTensor(b, resultSizes, type, 0) : emptyTensor(b, resultSizes, type);
  auto body = [&](OpBuilder &builder, Location loc, ValueRange args) {
    ImplicitLocOpBuilder inner(loc, builder);
    Value value = toComputeType(inner, args[0]);
    if (operands.size() == 2)
      value = multiplyElements(inner, value, toComputeType(inner, args[1]));
    linalg::YieldOp::create(inner, sums ? addElements(inner, args.back(), value) : value);
  };
  Value result = linalg::GenericOp::create(b, TypeRange{init.getType()}, inputs, ValueRange{init},
                                           maps, iterators, body)
                     .getResult(0);
  return {result, Labels(kept)};
}

/// The labels of `operand` that the result or one of the `others` has, each once.
static Labels getNeeded(const Operand &operand, ArrayRef<Operand> others,
                        ArrayRef<int64_t> result) {
  Labels needed;
  for (int64_t label : operand.labels) {
    bool isNeeded =
        llvm::is_contained(result, label) || llvm::any_of(others, [&](const Operand &other) {
          return llvm::is_contained(other.labels, label);
        });
    if (isNeeded && !llvm::is_contained(needed, label))
      needed.push_back(label);
  }
  return needed;
}

static LogicalResult lowerEinsum(NodeLowering &n) {
  SmallVector<Operand> operands;
  SmallVector<int64_t> ranks;
  Type type = n.inputType(0).getElementType();
  if (type.isInteger(1))
    return n.fail("the operands must be numbers");
  for (Value input : n.inputs()) {
    if (!input || getElementTypeOrSelf(input.getType()) != type)
      return n.fail("the inputs differ in element type");
    operands.push_back({input, {}});
    ranks.push_back(cast<RankedTensorType>(input.getType()).getRank());
  }
  auto labels = onnx::parseEinsum(n.node.getStringAttr("equation", ""), ranks);
  if (!labels)
    return n.fail(llvm::toString(labels.takeError()));
  for (auto [operand, own] : llvm::zip(operands, labels->operands)) {
    operand.labels = own;
    if (failed(unifyDiagonals(n, operand)))
      return failure();
  }
  FailureOr<Sizes> sizes = getLabelSizes(n, operands, labels->numLabels);
  if (failed(sizes))
    return failure();

  // From left to right, two at a time. What only one operand has is summed first, which
  // saves a loop of the product.
  for (auto [i, operand] : llvm::enumerate(operands)) {
    SmallVector<Operand> others(operands);
    others.erase(others.begin() + i);
    Labels needed = getNeeded(operand, others, labels->result);
    if (operands.size() > 1 && needed.size() < operand.labels.size())
      operand = contract(n, operand, needed, *sizes);
  }
  Operand product = operands.front();
  for (size_t i = 1; i < operands.size(); ++i) {
    ArrayRef<Operand> rest = ArrayRef(operands).drop_front(i + 1);
    Operand both{{}, product.labels};
    llvm::append_range(both.labels, operands[i].labels);
    Operand factors[] = {product, operands[i]};
    product = contract(
        n, factors, rest.empty() ? labels->result : getNeeded(both, rest, labels->result), *sizes);
  }
  if (product.labels != labels->result)
    product = contract(n, product, labels->result, *sizes);
  return n.replace(convertTensor(n, product.tensor, type));
}

void lowering::addEinsum(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"Einsum", 12, kNewestOpset, lowerEinsum});
}

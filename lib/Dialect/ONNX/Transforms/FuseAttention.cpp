// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --fuse-attention: attention written as products and a Softmax.

#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Dialect/ONNX/Transforms/Passes.h"

#include "mlir/IR/Remarks.h"

namespace mlir::moe {
#define GEN_PASS_DEF_FUSEATTENTIONPASS
#include "moec/Dialect/ONNX/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

static NodeOp getNode(Value value, StringRef opType) {
  auto node = value ? value.getDefiningOp<NodeOp>() : NodeOp();
  return node && node.isOp(opType) ? node : NodeOp();
}

/// The one number that all elements of a floating-point constant are.
static std::optional<double> getNumber(Value value) {
  DenseElementsAttr constant = getConstantValue(value);
  if (!constant || !constant.isSplat() || !isa<FloatType>(constant.getElementType()))
    return std::nullopt;
  APFloat number = constant.getSplatValue<APFloat>();
  bool losesInfo;
  number.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven, &losesInfo);
  return number.convertToDouble();
}

/// `value` without factors that are numbers, which multiply `scale`.
static Value peelFactors(Value value, double &scale) {
  while (true) {
    NodeOp mul = getNode(value, "Mul"), div = getNode(value, "Div");
    NodeOp node = mul ? mul : div;
    if (!node || !value.hasOneUse())
      return value;
    std::optional<double> right = getNumber(node.getInput(1));
    std::optional<double> left = mul ? getNumber(node.getInput(0)) : std::nullopt;
    if (!right && !left)
      return value;
    Value rest = node.getInput(right ? 0 : 1);
    // A constant of a higher rank would add dimensions.
    auto from = dyn_cast<RankedTensorType>(rest.getType());
    auto to = dyn_cast<RankedTensorType>(value.getType());
    if (!from || !to || from.getRank() != to.getRank())
      return value;
    double factor = right ? *right : *left;
    scale *= div ? 1 / factor : factor;
    value = rest;
  }
}

//===----------------------------------------------------------------------===//
// Transposed keys
//===----------------------------------------------------------------------===//

namespace {
/// An element of a shape: a number, or a dimension of a tensor.
struct ShapeElement {
  std::optional<int64_t> number;
  Value tensor;
  int64_t dim = 0;
};
} // namespace

/// Number of elements of an integer vector; nullopt when unknown.
static std::optional<int64_t> getLength(Value vector) {
  auto type = dyn_cast<RankedTensorType>(vector.getType());
  if (!type || type.getRank() > 1 || !type.hasStaticShape())
    return std::nullopt;
  return type.getNumElements();
}

/// Follows element `index` of `vector` to where it comes from.
static std::optional<ShapeElement> traceElement(Value vector, int64_t index) {
  while (true) {
    if (std::optional<SmallVector<int64_t>> constant = getConstantInts(vector))
      return index < static_cast<int64_t>(constant->size())
                 ? std::optional(ShapeElement{(*constant)[index], {}, 0})
                 : std::nullopt;
    auto node = vector.getDefiningOp<NodeOp>();
    if (!node)
      return std::nullopt;
    if (node.isOp("Shape")) {
      int64_t start = node.getIntAttr("start", 0);
      auto type = dyn_cast<RankedTensorType>(node.getInput(0).getType());
      if (!type || start < 0 || start + index >= type.getRank())
        return std::nullopt;
      return ShapeElement{std::nullopt, node.getInput(0), start + index};
    }
    if (node.isOp("Slice")) {
      std::optional<SmallVector<int64_t>> starts = getConstantInts(node.getInput(1));
      std::optional<int64_t> length = getLength(node.getInput(0));
      std::optional<SmallVector<int64_t>> steps = std::nullopt;
      if (Value step = node.getInput(4))
        steps = getConstantInts(step);
      if (!starts || starts->size() != 1 || !length || !steps || steps->front() != 1)
        return std::nullopt;
      int64_t start = starts->front() < 0 ? starts->front() + *length : starts->front();
      index += std::clamp<int64_t>(start, 0, *length);
    } else if (node.isOp("Gather")) {
      std::optional<SmallVector<int64_t>> indices = getConstantInts(node.getInput(1));
      std::optional<int64_t> length = getLength(node.getInput(0));
      if (!indices || index >= static_cast<int64_t>(indices->size()) || !length)
        return std::nullopt;
      int64_t from = (*indices)[index];
      index = from < 0 ? from + *length : from;
    } else if (node.isOp("Concat")) {
      Value part;
      for (Value input : node.getInputs()) {
        std::optional<int64_t> length = getLength(input);
        if (!length)
          return std::nullopt;
        part = input;
        if (index < *length)
          break;
        index -= *length;
        part = {};
      }
      if (!part)
        return std::nullopt;
      vector = part;
      continue;
    } else if (!node.isOp("Squeeze") && !node.isOp("Unsqueeze") && !node.isOp("Reshape")) {
      return std::nullopt;
    }
    vector = node.getInput(0);
    if (!getLength(vector))
      return std::nullopt;
  }
}

/// True when element `index` of `shape` is dimension `dim` of `tensor`, or -1 if `open`.
static bool isDimension(Value shape, int64_t index, Value tensor, int64_t dim, bool open = false) {
  std::optional<ShapeElement> element = traceElement(shape, index);
  if (!element)
    return false;
  if (element->number)
    return (open && *element->number == -1) ||
           *element->number == cast<RankedTensorType>(tensor.getType()).getDimSize(dim);
  return element->tensor == tensor && element->dim == dim;
}

static bool hasPermutation(NodeOp node, ArrayRef<int64_t> permutation) {
  std::optional<ArrayRef<int64_t>> perm = node.getIntsAttr("perm");
  return perm && *perm == permutation;
}

static bool hasRank(Value value, int64_t rank) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getRank() == rank;
}

namespace {
/// Keys [batch, heads, rows, size], or [batch, rows, heads, size] if `rowsFirst`.
struct Keys {
  Value tensor;
  bool rowsFirst = false;
};
} // namespace

/// The keys of which `value` is the transposition [batch, heads, size, rows], in one step or
/// by way of rank 3; null for others.
static Keys getKeys(Value value) {
  if (NodeOp transpose = getNode(value, "Transpose")) {
    if (hasPermutation(transpose, {0, 1, 3, 2}))
      return {transpose.getInput(0)};
    if (hasPermutation(transpose, {0, 2, 3, 1}))
      return {transpose.getInput(0), /*rowsFirst=*/true};
    return {};
  }
  NodeOp outer = getNode(value, "Reshape");
  NodeOp transpose = outer ? getNode(outer.getInput(0), "Transpose") : NodeOp();
  NodeOp inner = transpose ? getNode(transpose.getInput(0), "Reshape") : NodeOp();
  if (!inner || !hasPermutation(transpose, {0, 2, 1}))
    return {};
  Value keys = inner.getInput(0), flat = inner.getInput(1), full = outer.getInput(1);
  if (!hasRank(keys, 4) || getLength(flat) != 3 || getLength(full) != 4)
    return {};
  bool merges = isDimension(flat, 1, keys, 2) && isDimension(flat, 2, keys, 3);
  bool splits = isDimension(full, 0, keys, 0, /*open=*/true) && isDimension(full, 1, keys, 1) &&
                isDimension(full, 2, keys, 3) && isDimension(full, 3, keys, 2);
  return {merges && splits ? keys : Value()};
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

namespace {
struct Attention {
  Value query, value;
  Keys key;
  /// They are added to the scores.
  SmallVector<Value, 2> biases;
  double scale = 1;
  bool emptyIsNaN = true;
};
} // namespace

/// The Softmax of which `weights` are the results, with NaN replaced by zeros or not.
static NodeOp getSoftmax(Value weights, Attention &attention) {
  NodeOp softmax = getNode(weights, "Softmax");
  if (softmax)
    return weights.hasOneUse() ? softmax : NodeOp();
  NodeOp where = getNode(weights, "Where");
  NodeOp isNaN = where ? getNode(where.getInput(0), "IsNaN") : NodeOp();
  if (!isNaN || !weights.hasOneUse() || !isNaN->hasOneUse() || getNumber(where.getInput(1)) != 0.0)
    return {};
  Value scores = where.getInput(2);
  softmax = getNode(scores, "Softmax");
  attention.emptyIsNaN = false;
  return softmax && isNaN.getInput(0) == scores && scores.hasNUses(2) ? softmax : NodeOp();
}

/// True when heads of queries and keys go together without broadcasting the queries.
static bool fitTogether(const Attention &attention) {
  auto query = cast<RankedTensorType>(attention.query.getType());
  auto key = cast<RankedTensorType>(attention.key.tensor.getType());
  auto value = cast<RankedTensorType>(attention.value.getType());
  int64_t heads = query.getDimSize(1), keyHeads = key.getDimSize(attention.key.rowsFirst ? 2 : 1);
  for (RankedTensorType type : {key, value})
    if (type.getElementType() != query.getElementType() ||
        type.getDimSize(0) != query.getDimSize(0))
      return false;
  return !ShapedType::isDynamic(heads) && (keyHeads == heads || keyHeads == 1) &&
         value.getDimSize(1) == keyHeads;
}

/// The side of a sum that is a product, perhaps times numbers, or else another sum.
static std::optional<unsigned> getScoresSide(NodeOp add) {
  for (StringRef opType : {"MatMul", "Add"})
    for (unsigned side : {0u, 1u}) {
      double scale = 1;
      Value value = add.getInput(side);
      if (hasRank(value, 4) && getNode(peelFactors(value, scale), opType))
        return side;
    }
  return std::nullopt;
}

/// Takes what is added to a product from `scores`.
static Value peelBiases(Value scores, Attention &attention) {
  Value rest = scores;
  while (NodeOp add = rest.hasOneUse() ? getNode(rest, "Add") : NodeOp()) {
    std::optional<unsigned> side = getScoresSide(add);
    if (!side)
      break;
    attention.biases.push_back(add.getInput(1 - *side));
    rest = add.getInput(*side);
  }
  return rest;
}

static bool isMask(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getRank() >= 1 && type.getRank() <= 4;
}

/// Why the product `node` of a Softmax is not attention; empty when it is, or when there is
/// no Softmax in sight.
static StringRef match(NodeOp node, Attention &attention, bool &found) {
  NodeOp softmax = getSoftmax(node.getInput(0), attention);
  if (!softmax)
    return "";
  attention.value = node.getInput(1);
  Value scores = softmax.getInput(0);
  if (!hasRank(scores, 4) || !hasRank(attention.value, 4) || softmax.getIntAttr("axis", -1) != 3)
    return "the Softmax is not over the last of four dimensions";
  scores = peelBiases(scores, attention);
  scores = peelFactors(scores, attention.scale);
  NodeOp product = getNode(scores, "MatMul");
  if (!product || !scores.hasOneUse())
    return "the scores are no product that only the Softmax reads";
  attention.query = peelFactors(product.getInput(0), attention.scale);
  attention.key = getKeys(peelFactors(product.getInput(1), attention.scale));
  if (!attention.key.tensor || !hasRank(attention.query, 4) || !hasRank(attention.key.tensor, 4))
    return "the second factor of the scores is not known to be transposed keys";
  if (!fitTogether(attention))
    return "queries, keys and values do not have the same batch and heads";
  if (!llvm::all_of(attention.biases, isMask))
    return "the rank of the mask is not known";
  found = true;
  return "";
}

/// The shape of a sum.
static RankedTensorType broadcast(RankedTensorType lhs, RankedTensorType rhs) {
  if (lhs.getRank() < rhs.getRank())
    std::swap(lhs, rhs);
  SmallVector<int64_t> shape(lhs.getShape());
  for (auto [size, other] : llvm::zip(llvm::reverse(shape), llvm::reverse(rhs.getShape())))
    size = size == 1 || other > 1 ? other : size;
  return lhs.clone(shape);
}

/// The sum of all biases; null for none.
static Value sumUp(OpBuilder &builder, Location loc, ArrayRef<Value> biases) {
  Value sum;
  for (Value bias : llvm::reverse(biases)) {
    if (!sum) {
      sum = bias;
      continue;
    }
    auto type =
        broadcast(cast<RankedTensorType>(sum.getType()), cast<RankedTensorType>(bias.getType()));
    sum = NodeOp::create(builder, loc, TypeRange(type), "Add", {sum, bias}, 14).getResult(0);
  }
  return sum;
}

static Value getHeadsFirst(OpBuilder &builder, Location loc, const Keys &keys) {
  if (!keys.rowsFirst)
    return keys.tensor;
  auto type = cast<RankedTensorType>(keys.tensor.getType());
  SmallVector<int64_t> shape(type.getShape());
  std::swap(shape[1], shape[2]);
  auto perm = builder.getNamedAttr("perm", builder.getDenseI64ArrayAttr({0, 2, 1, 3}));
  return NodeOp::create(builder, loc, TypeRange(type.clone(shape)), "Transpose", {keys.tensor}, 13,
                        {perm})
      .getResult(0);
}

static void replace(NodeOp node, const Attention &attention) {
  OpBuilder builder(node);
  Value key = getHeadsFirst(builder, node.getLoc(), attention.key);
  Value bias = sumUp(builder, node.getLoc(), attention.biases);
  SmallVector<NamedAttribute> attributes = {
      builder.getNamedAttr("scale", builder.getF32FloatAttr(attention.scale))};
  if (attention.emptyIsNaN)
    attributes.push_back(builder.getNamedAttr("__empty_is_nan", builder.getI64IntegerAttr(1)));
  auto fused = NodeOp::create(builder, node.getLoc(), node.getResultTypes(), "Attention",
                              {attention.query, key, attention.value, bias}, 23, attributes,
                              node.getOutputName(0));
  node.getResult(0).replaceAllUsesWith(fused.getResult(0));
}

namespace {
struct FuseAttentionPass : moe::impl::FuseAttentionPassBase<FuseAttentionPass> {
  void runOnOperation() override {
    SmallVector<NodeOp> products;
    getOperation().walk([&](NodeOp node) {
      if (node.isOp("MatMul"))
        products.push_back(node);
    });
    for (NodeOp node : products) {
      Attention attention;
      bool found = false;
      StringRef reason = match(node, attention, found);
      if (!reason.empty())
        remark::missed(node.getLoc(), remark::RemarkOpts::name("kept").category(getArgument()))
            << reason;
      if (!found)
        continue;
      replace(node, attention);
      remark::passed(node.getLoc(), remark::RemarkOpts::name("fused").category(getArgument()))
          << remark::metric("scale", std::to_string(attention.scale));
      ++numFused;
    }
    eraseUnused();
  }

  /// What only the fused products read.
  void eraseUnused() {
    SmallVector<NodeOp> nodes;
    getOperation().walk([&](NodeOp node) { nodes.push_back(node); });
    for (NodeOp node : llvm::reverse(nodes))
      if (isOpTriviallyDead(node))
        node.erase();
  }
};
} // namespace

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A feed-forward network of every token that is added to a MoE block, perhaps times a
// sigmoid gate, as moe.shared.

#include "ContribMoE.h"
#include "Dataflow.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

namespace {

/// input · W, or input · Wᵀ, without a bias.
struct Product {
  Value input, weight;
  Layout layout = Layout::InOut;
};

/// down(act(gate(x)) · up(x)), or down(act(up(x))).
struct SharedExpert {
  Product up, gate, down;
  ActivationAttr activation;
  /// x · W [H, 1], whose sigmoid the result is multiplied with; its input is null when there
  /// is none.
  Product weight;
};

/// Reads what is added to the routed experts' result; `x` is [T, H].
struct SharedReader {
  Value x;

  std::optional<SharedExpert> read(Value added) const;

private:
  std::optional<SharedExpert> readNetwork(Value value) const;
  bool readActivated(Value hidden, SharedExpert &shared) const;
  bool readGated(NodeOp product, SharedExpert &shared) const;
  bool isOfX(const Product &product) const;
};

} // namespace

static std::optional<Product> matchProduct(Value value) {
  auto node = stripReshapes(value).getDefiningOp<NodeOp>();
  if (!node || node.getNumInputs() != 2)
    return std::nullopt;
  bool isGemm = node.isOp("Gemm") && node.getFloatAttr("alpha", 1.0f) == 1.0f &&
                node.getIntAttr("transA", 0) == 0;
  if (!isGemm && !node.isOp("MatMul"))
    return std::nullopt;
  auto type = dyn_cast<RankedTensorType>(node.getInput(1).getType());
  bool isMatrix = type && type.getRank() == 2 && type.hasStaticShape();
  if (!isMatrix || type.getElementType() != getElementTypeOrSelf(node.getInput(0).getType()))
    return std::nullopt;
  bool outIn = isGemm && node.getIntAttr("transB", 0) != 0;
  return Product{node.getInput(0), node.getInput(1), outIn ? Layout::OutIn : Layout::InOut};
}

/// The value that is multiplied with its own sigmoid, or that Swish takes.
static Value getSiluInput(Value value) {
  NodeOp swish = getNode(value, "Swish");
  if (swish && swish.getFloatAttr("alpha", 1.0f) == 1.0f)
    return swish.getInput(0);
  NodeOp mul = getNode(value, "Mul");
  for (int i : {0, 1}) {
    NodeOp sigmoid = mul ? getNode(mul.getInput(i), "Sigmoid") : NodeOp();
    if (sigmoid && haveSameElements(sigmoid.getInput(0), mul.getInput(1 - i)))
      return mul.getInput(1 - i);
  }
  return {};
}

/// What is activated, and how.
static Value matchActivation(Value value, ActivationKind &kind) {
  value = stripReshapes(value);
  if (Value input = getSiluInput(value)) {
    kind = ActivationKind::Silu;
    return input;
  }
  if (NodeOp relu = getNode(value, "Relu")) {
    kind = ActivationKind::Relu;
    return relu.getInput(0);
  }
  if (NodeOp gelu = getNode(value, "Gelu")) {
    bool isTanh = gelu.getStringAttr("approximate", "none") == "tanh";
    kind = isTanh ? ActivationKind::GeluTanh : ActivationKind::Gelu;
    return gelu.getInput(0);
  }
  return {};
}

/// Rows of H elements on both sides of equal elements are equal rows.
bool SharedReader::isOfX(const Product &product) const {
  return stripReshapes(product.input) == stripReshapes(x) &&
         getLastDim(product.input) == getLastDim(x);
}

std::optional<SharedExpert> SharedReader::read(Value added) const {
  added = stripReshapes(added);
  NodeOp mul = getNode(added, "Mul");
  for (int i : {0, 1}) {
    NodeOp sigmoid = mul ? getNode(stripReshapes(mul.getInput(i)), "Sigmoid") : NodeOp();
    std::optional<Product> gate = sigmoid ? matchProduct(sigmoid.getInput(0)) : std::nullopt;
    // One number per token, not one that is repeated over the tokens.
    if (!gate || getLastDim(mul.getInput(i)) != 1 || !isOfX(*gate) ||
        cast<ShapedType>(gate->weight.getType()).getNumElements() != getLastDim(x))
      continue;
    std::optional<SharedExpert> shared = readNetwork(mul.getInput(1 - i));
    if (!shared)
      return std::nullopt;
    shared->weight = *gate;
    return shared;
  }
  return readNetwork(added);
}

std::optional<SharedExpert> SharedReader::readNetwork(Value value) const {
  SharedExpert shared;
  std::optional<Product> down = matchProduct(value);
  if (!down || !readActivated(down->input, shared))
    return std::nullopt;
  shared.down = *down;
  auto shapeOf = [](const Product &product) {
    return cast<RankedTensorType>(product.weight.getType()).getShape();
  };
  // The other direction in the same layout.
  SmallVector<int64_t> upShape(llvm::reverse(shapeOf(*down)));
  for (const Product &product : {shared.up, shared.gate})
    if (product.input && (product.layout != down->layout || shapeOf(product) != ArrayRef(upShape)))
      return std::nullopt;
  return shared;
}

bool SharedReader::readActivated(Value hidden, SharedExpert &shared) const {
  hidden = stripReshapes(hidden);
  ActivationKind kind;
  Value input = matchActivation(hidden, kind);
  std::optional<Product> up = input ? matchProduct(input) : std::nullopt;
  if (up && isOfX(*up)) {
    shared.up = *up;
    shared.activation = ActivationAttr::get(x.getContext(), kind, Glu::None, {}, {}, {});
    return true;
  }
  NodeOp product = getNode(hidden, "Mul");
  return product && readGated(product, shared);
}

bool SharedReader::readGated(NodeOp product, SharedExpert &shared) const {
  for (int i : {0, 1}) {
    ActivationKind kind;
    Value input = matchActivation(product.getInput(i), kind);
    std::optional<Product> gate = input ? matchProduct(input) : std::nullopt;
    std::optional<Product> up = matchProduct(product.getInput(1 - i));
    if (!gate || !up || !isOfX(*gate) || !isOfX(*up))
      continue;
    shared.gate = *gate;
    shared.up = *up;
    shared.activation = ActivationAttr::get(x.getContext(), kind, Glu::Separate, {}, {}, {});
    return true;
  }
  return false;
}

/// The segment of a file that a weight is, null for other values.
static SegmentAttr getSegment(Value value) {
  auto load = value.getDefiningOp<LoadWeightOp>();
  if (!load)
    return {};
  auto weight = SymbolTable::lookupNearestSymbolFrom<WeightOp>(load, load.getWeightAttr());
  bool isPlain = weight && weight.getSources().size() == 1 && weight.getTransforms().empty();
  return isPlain ? dyn_cast<SegmentAttr>(weight.getSources()[0]) : SegmentAttr();
}

static bool canBuildBank(Value value) { return onnx::getConstantValue(value) || getSegment(value); }

/// The weight [N, K] as a bank [1, N, K] of the same bytes.
static Value buildBank(RewriterBase &rewriter, Value value) {
  auto type = cast<RankedTensorType>(value.getType());
  auto bankType = type.clone({1, type.getDimSize(0), type.getDimSize(1)});
  if (DenseElementsAttr elements = onnx::getConstantValue(value))
    return NodeOp::create(rewriter, value.getLoc(), TypeRange(bankType), "Constant",
                          ArrayRef<Value>(), 13,
                          rewriter.getNamedAttr("value", elements.reshape(bankType)))
        .getResult(0);
  auto load = value.getDefiningOp<LoadWeightOp>();
  SymbolTable symbols(SymbolTable::getNearestSymbolTable(load));
  auto weight = symbols.lookup<WeightOp>(load.getWeight());
  SegmentAttr segment = getSegment(value);
  Attribute source = SegmentAttr::get(rewriter.getContext(), segment.getFile(), segment.getOffset(),
                                      segment.getLength(), bankType);
  // Detached, so that the symbol table makes the name unique and places the copy.
  auto copy = cast<WeightOp>(weight->clone());
  copy.setType(bankType);
  copy.setSourcesAttr(rewriter.getArrayAttr(source));
  StringAttr name = symbols.insert(copy, std::next(mlir::Block::iterator(weight)));
  return LoadWeightOp::create(rewriter, load.getLoc(), bankType, FlatSymbolRefAttr::get(name));
}

/// The dispatch whose rows a chain of expert networks turned into `rows`.
static DispatchOp findDispatch(Value rows) {
  while (auto ffn = rows.getDefiningOp<ExpertFFNOp>())
    rows = ffn.getInput();
  return rows.getDefiningOp<DispatchOp>();
}

/// The ops between `from` and `to`, each another shape of its first operand, once more on
/// `value`.
static Value repeatReshapes(RewriterBase &rewriter, Value from, Value to, Value value) {
  SmallVector<Operation *> ops;
  for (Value at = to; at != from; at = at.getDefiningOp()->getOperand(0))
    ops.push_back(at.getDefiningOp());
  for (Operation *op : llvm::reverse(ops)) {
    IRMapping mapping;
    mapping.map(op->getOperand(0), value);
    value = rewriter.clone(*op, mapping)->getResult(0);
  }
  return value;
}

namespace {

/// Anchored at the Add of the routed and the shared experts.
struct RaiseShared : OpRewritePattern<NodeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(NodeOp add, PatternRewriter &rewriter) const override {
    if (!add.isOp("Add"))
      return failure();
    for (int i : {0, 1})
      if (auto combine = stripReshapes(add.getInput(i)).getDefiningOp<CombineOp>())
        return raise(add, i, combine, rewriter);
    return rewriter.notifyMatchFailure(add, "adds nothing to a MoE block");
  }

private:
  LogicalResult raise(NodeOp add, int position, CombineOp combine, PatternRewriter &rewriter) const;
};

} // namespace

/// True unless the types say that the sum broadcasts one operand to the shape of the other.
static bool addsShapesAlike(NodeOp add) {
  auto first = dyn_cast<RankedTensorType>(add.getInput(0).getType()),
       second = dyn_cast<RankedTensorType>(add.getInput(1).getType());
  return first && second && succeeded(verifyCompatibleShape(first, second));
}

LogicalResult RaiseShared::raise(NodeOp add, int position, CombineOp combine,
                                 PatternRewriter &rewriter) const {
  Value routed = combine.getResult();
  DispatchOp dispatch = findDispatch(combine.getRows());
  if (!dispatch || dispatch.getX().getType() != routed.getType())
    return rewriter.notifyMatchFailure(add, "the block's input is not known");
  Value x = dispatch.getX();
  Value added = add.getInput(1 - position);
  std::optional<SharedExpert> shared = SharedReader{x}.read(added);
  auto type = cast<RankedTensorType>(x.getType());
  if (!shared || getLastDim(added) != type.getDimSize(1) ||
      getLastDim(add.getResult(0)) != type.getDimSize(1))
    return rewriter.notifyMatchFailure(add, "adds no feed-forward network of the block's input");
  if (!addsShapesAlike(add))
    return rewriter.notifyMatchFailure(add, "adds tensors of different shapes");
  if (getElementTypeOrSelf(shared->down.weight.getType()) != type.getElementType() ||
      getElementTypeOrSelf(shared->up.weight.getType()) != type.getElementType())
    return rewriter.notifyMatchFailure(add, "the network is of another element type");
  if (!canBuildBank(shared->up.weight) || !canBuildBank(shared->down.weight) ||
      (shared->gate.weight && !canBuildBank(shared->gate.weight)))
    return rewriter.notifyMatchFailure(add, "the network's weights are not plain tensors");

  Location loc = add.getLoc();
  rewriter.setInsertionPoint(add);
  Value weight;
  if (shared->weight.input) {
    auto gateType = type.clone({type.getDimSize(0), 1});
    weight = LogitsOp::create(rewriter, loc, gateType, x, shared->weight.weight, Value(),
                              shared->weight.layout);
    weight = ScoreOp::create(rewriter, loc, gateType, weight, ScoreFn::Sigmoid);
  }
  Value gate = shared->gate.weight ? buildBank(rewriter, shared->gate.weight) : Value();
  Value up = buildBank(rewriter, shared->up.weight),
        down = buildBank(rewriter, shared->down.weight);
  Value sum = SharedOp::create(rewriter, loc, type, x, up, /*up_bias=*/Value(), gate,
                               /*gate_bias=*/Value(), down, /*down_bias=*/Value(), weight, routed,
                               shared->activation, shared->down.layout, Merge::Add);
  sum = repeatReshapes(rewriter, routed, add.getInput(position), sum);
  if (sum.getType() != add.getResult(0).getType())
    sum = tensor::CastOp::create(rewriter, loc, add.getResult(0).getType(), sum);
  rewriter.replaceOp(add, sum);
  return success();
}

void mlir::moe::populateRaiseSharedPatterns(RewritePatternSet &patterns) {
  patterns.add<RaiseShared>(patterns.getContext());
}

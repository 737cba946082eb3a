// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "ExpertWeights.h"

#include "ContribMoE.h"

#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class Reader {
public:
  Reader(ArrayRef<ExpertFunction> functions, int64_t experts, Refusal &refusal)
      : functions(functions), experts(experts), refusal(refusal) {}

  FailureOr<ExpertWeights> read();

private:
  using LayerOf = LinearLayer ExpertFunction::*;
  LogicalResult readMatrix(LayerOf layer, ExpertBank &bank, Layout &layout);
  LogicalResult readBias(LayerOf layer, ExpertBank &bank);
  LogicalResult readPart(const Fact *view, ArrayRef<Label> columns, int64_t expert,
                         ExpertBank::Part &part, SmallVectorImpl<int64_t> &shape,
                         SmallVectorImpl<Label> &order);
  LogicalResult join(SmallVectorImpl<ExpertBank::Part> &parts, ExpertBank &bank, Value at);

  ArrayRef<ExpertFunction> functions;
  int64_t experts;
  Refusal &refusal;
};

} // namespace

/// What `view` reads of its source: all of a bank [E, …], or the slice of `expert`. `shape`
/// and `order` receive the sizes and labels of its columns, as the source has them.
LogicalResult Reader::readPart(const Fact *view, ArrayRef<Label> columns, int64_t expert,
                               ExpertBank::Part &part, SmallVectorImpl<int64_t> &shape,
                               SmallVectorImpl<Label> &order) {
  part.source = view->src;
  bool hasExperts = false;
  for (const Group &group : view->groups) {
    int64_t size = cast<ShapedType>(view->src.getType()).getDimSize(group.firstDim);
    if (group.refs.size() == 1 && llvm::is_contained(columns, group.refs[0].label)) {
      order.push_back(group.refs[0].label);
      shape.push_back(size);
      continue;
    }
    if (!group.ids && !group.constant && group.refs.empty())
      continue; // of size 1
    if (hasExperts || group.firstDim != 0)
      return refusal.refuse(view->src, "is a weight, expected its experts in the first dimension");
    hasExperts = true;
    part.index = group.constant.value_or(functions.size() > 1 ? expert : -1);
    if (!group.constant && size != experts)
      return refusal.refuse(view->src,
                            "holds " + Twine(size) + " experts, expected " + Twine(experts));
  }
  if (!view->casts.empty())
    return refusal.refuse(view->src, "is a weight that is converted");
  if (functions.size() == 1 && (!hasExperts || part.index >= 0) && experts > 1)
    return refusal.refuse(view->src, "is one weight for all experts");
  return success();
}

/// The experts' slices are a whole tensor when they are its slices in order.
LogicalResult Reader::join(SmallVectorImpl<ExpertBank::Part> &parts, ExpertBank &bank, Value at) {
  bool isWhole = parts.size() == 1;
  if (parts.size() > 1) {
    Value source = parts[0].source;
    isWhole = cast<ShapedType>(source.getType()).getDimSize(0) == experts;
    for (auto [e, part] : llvm::enumerate(parts))
      isWhole &= part.source == source && part.index == int64_t(e);
  }
  if (isWhole) {
    bank.parts.push_back({parts[0].source, -1});
    return success();
  }
  bank.parts.assign(parts.begin(), parts.end());
  return success();
}

LogicalResult Reader::readMatrix(LayerOf layer, ExpertBank &bank, Layout &layout) {
  if (!(functions[0].*layer).product)
    return success();
  SmallVector<ExpertBank::Part> parts;
  for (auto [e, function] : llvm::enumerate(functions)) {
    const Node *product = (function.*layer).product;
    if (!product)
      return refusal.refuse(functions[0].x->src, "feeds experts of different forms");
    SmallVector<int64_t> shape = {experts};
    SmallVector<Label> order;
    ExpertBank::Part part;
    if (failed(readPart(product->view, {product->in, product->out}, e, part, shape, order)))
      return failure();
    if (order.size() != 2)
      return refusal.refuse(product->view->src, "is a weight, expected [E, N, K] or [E, K, N]");
    Layout found = order[0] == product->out ? Layout::OutIn : Layout::InOut;
    if (parts.empty()) {
      bank.shape = shape;
      layout = found;
    }
    if (found != layout || bank.shape != shape)
      return refusal.refuse(product->view->src, "is a weight of another shape than the first's");
    parts.push_back(part);
  }
  return join(parts, bank, parts[0].source);
}

LogicalResult Reader::readBias(LayerOf layer, ExpertBank &bank) {
  SmallVector<ExpertBank::Part> parts;
  for (auto [e, function] : llvm::enumerate(functions)) {
    const Node *bias = (function.*layer).bias;
    if (bool(bias) != bool((functions[0].*layer).bias))
      return refusal.refuse(functions[0].x->src, "feeds experts of which some have a bias");
    if (!bias)
      continue;
    SmallVector<int64_t> shape = {experts};
    SmallVector<Label> order;
    ExpertBank::Part part;
    if (bias->view->kind != Fact::View)
      return refusal.refuse(bias->at->getResult(0), "adds one number, expected a bias");
    if (failed(readPart(bias->view, {bias->out}, e, part, shape, order)))
      return failure();
    if (order.size() != 1 || (!parts.empty() && bank.shape != shape))
      return refusal.refuse(bias->view->src, "is a bias, expected [E, N]");
    bank.shape = shape;
    parts.push_back(part);
  }
  return parts.empty() ? success() : join(parts, bank, parts[0].source);
}

FailureOr<ExpertWeights> Reader::read() {
  ExpertWeights weights;
  Layout up = Layout::OutIn, gate = Layout::OutIn, down = Layout::OutIn;
  if (failed(readMatrix(&ExpertFunction::up, weights.up, up)) ||
      failed(readMatrix(&ExpertFunction::gate, weights.gate, gate)) ||
      failed(readMatrix(&ExpertFunction::down, weights.down, down)) ||
      failed(readBias(&ExpertFunction::up, weights.upBias)) ||
      failed(readBias(&ExpertFunction::gate, weights.gateBias)) ||
      failed(readBias(&ExpertFunction::down, weights.downBias)))
    return failure();
  weights.layout = up;
  bool hasGate = !weights.gate.shape.empty();
  if (up != down || (hasGate && gate != up)) {
    // One layout for all: [E, out, in].
    weights.layout = Layout::OutIn;
    for (auto [bank, layout] : {std::pair(&weights.up, up), std::pair(&weights.gate, gate),
                                std::pair(&weights.down, down)}) {
      if (bank->shape.empty() || layout == Layout::OutIn)
        continue;
      bank->permute = true;
      std::swap(bank->shape[1], bank->shape[2]);
    }
  }
  weights.elementType = getElementTypeOrSelf(weights.up.parts[0].source.getType());
  return weights;
}

FailureOr<ExpertWeights> mlir::moe::readExpertWeights(ArrayRef<ExpertFunction> functions,
                                                      int64_t experts, Refusal &refusal) {
  return Reader(functions, experts, refusal).read();
}

//===----------------------------------------------------------------------===//
// Building
//===----------------------------------------------------------------------===//

/// The bytes of a part of a constant: a #moe.segment or elements of type `type`. Null when
/// they are transformed or stacked.
static Attribute sourceOf(SymbolTable &symbols, const ExpertBank::Part &part,
                          RankedTensorType type) {
  MLIRContext *context = type.getContext();
  Attribute source = onnx::getConstantValue(part.source);
  if (auto load = part.source.getDefiningOp<LoadWeightOp>()) {
    auto weight = symbols.lookup<WeightOp>(load.getWeight());
    bool isPlain = weight && weight.getSources().size() == 1 && weight.getTransforms().empty();
    source = isPlain ? weight.getSources()[0] : Attribute();
  }
  int64_t count = type.getNumElements(), first = std::max<int64_t>(part.index, 0) * count;
  if (auto segment = dyn_cast_or_null<SegmentAttr>(source)) {
    uint64_t width = type.getElementTypeBitWidth();
    if (width % 8)
      return {};
    return SegmentAttr::get(context, segment.getFile(), segment.getOffset() + first * width / 8,
                            count * width / 8, type);
  }
  auto elements = dyn_cast_or_null<DenseElementsAttr>(source);
  if (!elements)
    return {};
  if (elements.isSplat())
    return elements.resizeSplat(type);
  int64_t width = type.getElementTypeBitWidth() / 8;
  return DenseElementsAttr::getFromRawBuffer(
      type, elements.getRawData().slice(first * width, count * width));
}

bool ExpertBank::canBuild(SymbolTable &symbols) const {
  if (parts.size() <= 1 && !permute)
    return true;
  for (const Part &part : parts) {
    auto type = cast<RankedTensorType>(part.source.getType());
    if (!sourceOf(symbols, part, RankedTensorType::get({1}, type.getElementType())))
      return false;
  }
  return true;
}

Value ExpertBank::build(RewriterBase &rewriter, SymbolTable &symbols, Location loc) const {
  if (parts.empty())
    return {};
  bool isWhole = parts.size() == 1;
  if (isWhole && !permute)
    return relabel(rewriter, loc, parts[0].source, shape);

  Type elementType = getElementTypeOrSelf(parts[0].source.getType());
  auto type = RankedTensorType::get(shape, elementType);
  SmallVector<int64_t> stored = shape;
  SmallVector<Attribute> transforms;
  if (permute) {
    std::swap(stored[1], stored[2]);
    transforms.push_back(
        PermuteAttr::get(rewriter.getContext(), rewriter.getDenseI64ArrayAttr({0, 2, 1})));
  }
  auto storedType = RankedTensorType::get(stored, elementType);
  Attribute source;
  if (isWhole) {
    source = sourceOf(symbols, parts[0], storedType);
  } else {
    auto partType = RankedTensorType::get(ArrayRef(stored).drop_front(), elementType);
    SmallVector<Attribute> sources;
    for (const Part &part : parts)
      sources.push_back(sourceOf(symbols, part, partType));
    source = ExpertsAttr::get(rewriter.getContext(), rewriter.getArrayAttr(sources), storedType);
  }
  // Named after the first expert's, beside which it stands.
  auto load = parts[0].source.getDefiningOp<LoadWeightOp>();
  auto first = load ? symbols.lookup<WeightOp>(load.getWeight()) : WeightOp();
  OpBuilder detached(rewriter.getContext());
  auto weight =
      WeightOp::create(detached, loc, first ? (first.getSymName() + "_experts").str() : "experts",
                       type, source, transforms);
  StringAttr name = first ? symbols.insert(weight, std::next(mlir::Block::iterator(first)))
                          : symbols.insert(weight);
  return LoadWeightOp::create(rewriter, loc, type, FlatSymbolRefAttr::get(name));
}

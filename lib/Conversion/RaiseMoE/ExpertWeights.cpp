// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "ExpertWeights.h"

#include "ContribMoE.h"
#include "QuantizedWeight.h"

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
  LogicalResult readMatrix(LayerOf layer, ExpertMatrix &matrix, Layout &layout);
  LogicalResult readBias(LayerOf layer, ExpertBank &bank);
  LogicalResult readPart(const Fact *view, ArrayRef<Label> columns, int64_t expert,
                         ExpertBank::Part &part, SmallVectorImpl<int64_t> &shape,
                         SmallVectorImpl<Label> &order);
  void join(ArrayRef<ExpertBank::Part> parts, ExpertBank &bank);
  LogicalResult takeRows(const LinearLayer &layer, ExpertBank &bank);
  LogicalResult joinCodes(ArrayRef<QuantizedWeight> codes, ArrayRef<ExpertBank::Part> parts,
                          ExpertMatrix &matrix);

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
void Reader::join(ArrayRef<ExpertBank::Part> parts, ExpertBank &bank) {
  bool isWhole = parts.size() == 1;
  if (parts.size() > 1) {
    Value source = parts[0].source;
    isWhole = cast<ShapedType>(source.getType()).getDimSize(0) == experts;
    for (auto [e, part] : llvm::enumerate(parts))
      isWhole &= part.source == source && part.index == int64_t(e);
  }
  if (isWhole)
    bank.parts.push_back({parts[0].source, -1});
  else
    bank.parts.assign(parts.begin(), parts.end());
}

/// The results of a layer that are meant, of a bank that has all.
LogicalResult Reader::takeRows(const LinearLayer &layer, ExpertBank &bank) {
  if (!layer.count || bank.parts.empty() || bank.takeRows(layer.start, layer.count))
    return success();
  return refusal.refuse(bank.parts[0].source,
                        "has the gate after the linear part, expected rows that stand together");
}

/// Codes, scales and zero points, all as the first expert's.
LogicalResult Reader::joinCodes(ArrayRef<QuantizedWeight> codes, ArrayRef<ExpertBank::Part> parts,
                                ExpertMatrix &matrix) {
  const QuantizedWeight &first = codes[0];
  auto joinOne = [&](Value QuantizedWeight::*member, ArrayRef<int64_t> shape, ExpertBank &bank) {
    SmallVector<ExpertBank::Part> found;
    for (auto [weight, part] : llvm::zip(codes, parts))
      found.push_back({weight.*member, part.index});
    bank.shape = {experts};
    llvm::append_range(bank.shape, shape);
    join(found, bank);
  };
  for (const QuantizedWeight &weight : codes)
    if (!weight.isLike(first))
      return refusal.refuse(weight.codes, "is quantized in another way than the first expert's");
  auto byte = IntegerType::get(first.codes.getContext(), 8, IntegerType::Unsigned);
  matrix.bits = first.bits;
  matrix.block = first.block;
  joinOne(&QuantizedWeight::codes, {first.n, first.k * first.bits / 8}, matrix.values);
  joinOne(&QuantizedWeight::scales, first.getScaleShape(), matrix.scales);
  matrix.values.permute = first.isInOut;
  matrix.scales.permute = first.isInOut && first.block;
  matrix.values.elementType = byte;
  matrix.values.signedBits = first.isSigned ? first.storedBits : 0;
  matrix.values.unpackedBits = first.isUnpacked() ? first.storedBits : 0;
  if (!first.zeroPoints) {
    matrix.zeroPoint = first.zeroPoint;
    return success();
  }
  joinOne(&QuantizedWeight::zeroPoints, first.getZeroPointShape(), matrix.zeroPoints);
  matrix.zeroPoints.permute = matrix.scales.permute;
  matrix.zeroPoints.elementType = byte;
  matrix.zeroPoints.signedBits = matrix.values.signedBits;
  matrix.zeroPoints.unpackedBits = matrix.values.unpackedBits;
  return success();
}

LogicalResult Reader::readMatrix(LayerOf layer, ExpertMatrix &matrix, Layout &layout) {
  if (!(functions[0].*layer).product)
    return success();
  ExpertBank &bank = matrix.values;
  SmallVector<ExpertBank::Part> parts;
  SmallVector<QuantizedWeight, 0> codes;
  SmallVector<int64_t> firstShape;
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
      firstShape = shape;
      layout = found;
    }
    if (found != layout || firstShape != shape)
      return refusal.refuse(product->view->src, "is a weight of another shape than the first's");
    parts.push_back(part);
    if (!isQuantized(product))
      continue;
    FailureOr<QuantizedWeight> read = readQuantizedWeight(product, found, refusal);
    if (succeeded(read))
      codes.push_back(*read);
    else if (functions.size() > 1)
      return failure();
  }
  if (codes.size() == parts.size()) {
    if (failed(joinCodes(codes, parts, matrix)))
      return failure();
    layout = Layout::OutIn;
  } else if (!codes.empty()) {
    return refusal.refuse(parts[0].source, "is a weight, of which some experts' are quantized");
  } else {
    bank.shape = firstShape;
    join(parts, bank);
  }
  const LinearLayer &rows = functions[0].*layer;
  if (rows.count && layout != Layout::OutIn)
    return refusal.refuse(bank.parts[0].source, "has the gate after the linear part, expected "
                                                "rows that stand together");
  return success(succeeded(takeRows(rows, bank)) && succeeded(takeRows(rows, matrix.scales)) &&
                 succeeded(takeRows(rows, matrix.zeroPoints)));
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
  if (parts.empty())
    return success();
  join(parts, bank);
  return takeRows(functions[0].*layer, bank);
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
  bool hasGate = !weights.gate.values.shape.empty();
  if (up != down || (hasGate && gate != up)) {
    // One layout for all: [E, out, in].
    weights.layout = Layout::OutIn;
    for (auto [bank, layout] :
         {std::pair(&weights.up.values, up), std::pair(&weights.gate.values, gate),
          std::pair(&weights.down.values, down)}) {
      if (bank->shape.empty() || layout == Layout::OutIn)
        continue;
      bank->permute = true;
      std::swap(bank->shape[1], bank->shape[2]);
    }
  }
  for (const ExpertMatrix *matrix : {&weights.down, &weights.gate, &weights.up})
    if (!matrix->bits && !matrix->values.parts.empty())
      weights.elementType = getElementTypeOrSelf(matrix->values.parts[0].source.getType());
  return weights;
}

FailureOr<ExpertWeights> mlir::moe::readExpertWeights(ArrayRef<ExpertFunction> functions,
                                                      int64_t experts, Refusal &refusal) {
  return Reader(functions, experts, refusal).read();
}

//===----------------------------------------------------------------------===//
// Building
//===----------------------------------------------------------------------===//

SmallVector<const ExpertBank *> ExpertWeights::getBanks() const {
  SmallVector<const ExpertBank *> banks = {&upBias, &gateBias, &downBias};
  for (const ExpertMatrix *matrix : {&up, &gate, &down})
    banks.append({&matrix->values, &matrix->scales, &matrix->zeroPoints});
  return banks;
}

bool ExpertBank::takeRows(int64_t start, int64_t count) {
  if (permute || unpackedBits || shape[1] % count != 0 || start + count > shape[1])
    return false;
  int64_t width = ShapedType::getNumElements(ArrayRef(shape).drop_front(2));
  first = start * width;
  stride = shape[1] * width;
  shape[1] = count;
  if (parts.size() == 1 && parts[0].index < 0) {
    Value source = parts[0].source;
    parts.clear();
    for (int64_t e = 0; e < shape[0]; ++e)
      parts.push_back({source, e});
  }
  return true;
}

/// Elements from `first` of a constant as the elements of `type`, which may be packed codes.
static DenseElementsAttr takeElements(DenseElementsAttr elements, int64_t first,
                                      RankedTensorType type) {
  int64_t width = type.getElementTypeBitWidth();
  int64_t bits = elements.getElementType().getIntOrFloatBitWidth();
  ArrayRef<char> raw = elements.getRawData();
  // In memory an element has whole bytes, and a splat is one element.
  auto byteOf = [&](int64_t element, int64_t byte) {
    int64_t bytes = std::max<int64_t>(bits / 8, 1);
    return raw[(elements.isSplat() ? 0 : element * bytes) + byte];
  };
  std::vector<char> result(type.getNumElements() * width / 8);
  for (int64_t i = 0, e = result.size(); i < e; ++i) {
    int64_t bit = first * width + i * 8;
    if (bits >= 8) {
      result[i] = byteOf(bit / bits, bit % bits / 8);
      continue;
    }
    for (int64_t shift = 0; shift < 8; shift += bits)
      result[i] |= (byteOf((bit + shift) / bits, 0) & ((1 << bits) - 1)) << shift;
  }
  return DenseElementsAttr::getFromRawBuffer(type, result);
}

/// The bytes of a part of a constant: a #moe.segment or elements of type `type`. Null when
/// they are transformed or stacked.
static Attribute sourceOf(SymbolTable &symbols, const ExpertBank &bank,
                          const ExpertBank::Part &part, RankedTensorType type) {
  MLIRContext *context = type.getContext();
  Attribute source = onnx::getConstantValue(part.source);
  if (auto load = part.source.getDefiningOp<LoadWeightOp>()) {
    auto weight = symbols.lookup<WeightOp>(load.getWeight());
    bool isPlain = weight && weight.getSources().size() == 1 && weight.getTransforms().empty();
    source = isPlain ? weight.getSources()[0] : Attribute();
  }
  int64_t count = type.getNumElements();
  int64_t first = std::max<int64_t>(part.index, 0) * (bank.stride ? bank.stride : count);
  first += bank.first;
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
  if (elements.isSplat() && elements.getElementType() == type.getElementType())
    return elements.resizeSplat(type);
  return type.getElementTypeBitWidth() % 8 ? Attribute() : takeElements(elements, first, type);
}

bool ExpertBank::canBuild(SymbolTable &symbols) const {
  if (isAsStored())
    return true;
  for (const Part &part : parts) {
    Type type = elementType ? elementType : getElementTypeOrSelf(part.source.getType());
    if (!sourceOf(symbols, *this, part, RankedTensorType::get({1}, type)))
      return false;
  }
  return true;
}

Value ExpertBank::build(RewriterBase &rewriter, SymbolTable &symbols, Location loc) const {
  if (parts.empty())
    return {};
  if (isAsStored())
    return relabel(rewriter, loc, parts[0].source, shape);

  Type element = elementType ? elementType : getElementTypeOrSelf(parts[0].source.getType());
  auto type = RankedTensorType::get(shape, element);
  SmallVector<int64_t> stored = shape;
  if (permute)
    std::swap(stored[1], stored[2]);
  MLIRContext *context = rewriter.getContext();
  SmallVector<Attribute> transforms;
  if (signedBits)
    transforms.push_back(ToUnsignedAttr::get(context, signedBits));
  if (unpackedBits) {
    int64_t count = ShapedType::getNumElements(ArrayRef(stored).drop_front());
    transforms.push_back(UnpackAttr::get(context, unpackedBits, /*axis=*/1, count));
    transforms.push_back(ReshapeAttr::get(context, rewriter.getDenseI64ArrayAttr(stored)));
    stored = {shape[0], count * unpackedBits / 8};
  }
  if (permute)
    transforms.push_back(PermuteAttr::get(context, rewriter.getDenseI64ArrayAttr({0, 2, 1})));
  if (unpackedBits)
    transforms.push_back(ToUnsignedAttr::get(context, 8));
  auto storedType = RankedTensorType::get(stored, element);
  Attribute source;
  if (parts.size() == 1 && !stride) {
    source = sourceOf(symbols, *this, parts[0], storedType);
  } else {
    auto partType = RankedTensorType::get(ArrayRef(stored).drop_front(), element);
    SmallVector<Attribute> sources;
    for (const Part &part : parts)
      sources.push_back(sourceOf(symbols, *this, part, partType));
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

Value ExpertMatrix::build(RewriterBase &rewriter, SymbolTable &symbols, Location loc) const {
  Value built = values.build(rewriter, symbols, loc);
  if (!bits)
    return built;
  auto type = cast<RankedTensorType>(built.getType());
  SmallVector<int64_t> shape(type.getShape());
  shape[2] = shape[2] * 8 / bits;
  Value zeros = zeroPoints.build(rewriter, symbols, loc);
  if (zeroPoint) {
    auto byte = IntegerType::get(rewriter.getContext(), 8, IntegerType::Unsigned);
    auto elements = DenseElementsAttr::get(RankedTensorType::get(scales.shape, byte),
                                           APInt(8, uint64_t(*zeroPoint)));
    zeros = onnx::NodeOp::create(rewriter, loc, TypeRange(elements.getType()), "Constant",
                                 ArrayRef<Value>(), 13, rewriter.getNamedAttr("value", elements))
                .getResult(0);
  }
  // f32 whatever the model's type: a product of a code and a scale is not rounded.
  return DequantizeOp::create(rewriter, loc, RankedTensorType::get(shape, rewriter.getF32Type()),
                              built, scales.build(rewriter, symbols, loc), zeros, bits, block);
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "WeightPacking.h"

#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/IR/Matchers.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Support/Unsupported.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

/// The same bytes under another shape; null when `source` is of no known kind.
static Attribute withShape(Attribute source, ArrayRef<int64_t> shape) {
  if (auto segment = dyn_cast<SegmentAttr>(source))
    return SegmentAttr::get(source.getContext(), segment.getFile(), segment.getOffset(),
                            segment.getLength(),
                            RankedTensorType::get(shape, segment.getType().getElementType()));
  if (auto experts = dyn_cast<ExpertsAttr>(source))
    return ExpertsAttr::get(source.getContext(), experts.getParts(),
                            RankedTensorType::get(shape, experts.getType().getElementType()));
  auto dense = cast<DenseElementsAttr>(source);
  return dense.reshape(dense.getType().clone(shape));
}

/// A leading #moe.reshape only says how the source's bytes are to be read.
static void foldLeadingReshape(SmallVectorImpl<Attribute> &sources,
                               SmallVectorImpl<Attribute> &transforms) {
  while (sources.size() == 1 && !transforms.empty()) {
    auto reshape = dyn_cast<ReshapeAttr>(transforms.front());
    if (!reshape)
      return;
    sources[0] = withShape(sources[0], reshape.getShape());
    transforms.erase(transforms.begin());
  }
}

/// Whether trace() finds the bytes of `value` at compile time; so it is for null.
static bool isConstant(Value value) {
  DenseElementsAttr dense;
  return !value || value.getDefiningOp<LoadWeightOp>() || onnx::getConstantValue(value) ||
         matchPattern(value, m_Constant(&dense));
}

FailureOr<WeightPacker::Source> WeightPacker::trace(Operation *user, Value value) {
  Source source;
  source.type = cast<RankedTensorType>(value.getType());
  if (auto load = value.getDefiningOp<LoadWeightOp>()) {
    auto weight = symbols.lookup<WeightOp>(load.getWeight());
    if (llvm::any_of(weight.getSources(), llvm::IsaPred<TensorAttr>))
      return weight.emitOpError() << "is a named tensor whose file is not given; resolve it with "
                                     "--resolve-weights";
    source.name = load.getWeight().str();
    llvm::append_range(source.sources, weight.getSources());
    llvm::append_range(source.transforms, weight.getTransforms());
    foldLeadingReshape(source.sources, source.transforms);
    return source;
  }
  DenseElementsAttr dense = onnx::getConstantValue(value);
  if (!dense && !matchPattern(value, m_Constant(&dense)))
    return emitUnsupported(user) << "has a weight of type " << value.getType()
                                 << " that is not a constant: codes and their scales must be "
                                    "constants with optimization; compile with -O0";
  source.name = "constant";
  source.sources.push_back(dense);
  return source;
}

/// Whether each row (index of dimension 1) of the result depends on that row alone, for
/// `rows` rows.
static bool isRowWise(Attribute transform, int64_t rows) {
  auto quantize = dyn_cast<QuantizeAttr>(transform);
  if (!quantize)
    return isa<ConvertAttr>(transform);
  // Zero points of whole rows share bytes.
  bool sharesBytes = quantize.getPart() == QuantizedPart::ZeroPoints && quantize.getBlock() == 0;
  return !sharesBytes || rows * quantize.getBits() % 8 == 0;
}

/// Transforms of both halves of a weight whose sources are stacked, from those of one
/// half, of `half`: other orders and shapes as those of [E, 2, …], then what is done row by
/// row. Nullopt when there is anything else.
static std::optional<SmallVector<Attribute>> stackTransforms(ArrayRef<Attribute> transforms,
                                                             RankedTensorType half) {
  MLIRContext *context = half.getContext();
  auto reshapeTo = [&](ArrayRef<int64_t> shape) -> Attribute {
    return ReshapeAttr::get(context, DenseI64ArrayAttr::get(context, shape));
  };
  auto unexpected = [&] { return emitError(UnknownLoc::get(context)); };
  auto isRowWiseHere = [&](Attribute transform) {
    return isRowWise(transform, half.getDimSize(1));
  };
  SmallVector<Attribute> stacked;
  auto split = [](ArrayRef<int64_t> shape) {
    SmallVector<int64_t> halves(shape);
    halves.insert(halves.begin() + 1, 2);
    return halves;
  };
  ArrayRef<Attribute> rest = transforms;
  for (; !rest.empty() && isa<ReshapeAttr, PermuteAttr>(rest.front()); rest = rest.drop_front()) {
    if (stacked.empty())
      stacked.push_back(reshapeTo(split(half.getShape())));
    if (auto reshape = dyn_cast<ReshapeAttr>(rest.front())) {
      stacked.push_back(reshapeTo(split(reshape.getShape().asArrayRef())));
    } else {
      SmallVector<int64_t> order = {0, 1};
      for (int64_t dim : cast<PermuteAttr>(rest.front()).getPermutation().asArrayRef().drop_front())
        order.push_back(dim + 1);
      stacked.push_back(PermuteAttr::get(context, DenseI64ArrayAttr::get(context, order)));
    }
    half = cast<WeightTransformInterface>(rest.front()).getResultType(half, unexpected);
  }
  if (half.getRank() < 2 || !llvm::all_of(rest, isRowWiseHere))
    return std::nullopt;
  if (!stacked.empty()) {
    SmallVector<int64_t> whole(half.getShape());
    whole[1] *= 2;
    stacked.push_back(reshapeTo(whole));
  }
  llvm::append_range(stacked, rest);
  return stacked;
}

/// `first` rows above `second` rows (dimension 1); `second` may be null.
FailureOr<WeightPacker::Source> WeightPacker::traceStacked(Operation *user, Value first,
                                                           Value second) {
  FailureOr<Source> source = trace(user, first);
  if (failed(source) || !second)
    return source;
  FailureOr<Source> below = trace(user, second);
  if (failed(below))
    return failure();
  bool areAlike = source->type.getElementType() == below->type.getElementType() &&
                  source->transforms == below->transforms;
  if (areAlike && !source->transforms.empty()) {
    RankedTensorType half = WeightOp::getTypeOf(source->sources[0]);
    areAlike = source->sources.size() == 1 && below->sources.size() == 1 &&
               WeightOp::getTypeOf(below->sources[0]) == half;
    auto stacked = areAlike ? stackTransforms(source->transforms, half) : std::nullopt;
    areAlike = stacked.has_value();
    if (areAlike)
      source->transforms = std::move(*stacked);
  }
  if (!areAlike)
    return emitUnsupported(user) << "cannot stack a gate of type " << first.getType()
                                 << " and an up weight of type " << second.getType()
                                 << " that were transformed before";
  llvm::append_range(source->sources, below->sources);
  SmallVector<int64_t> shape(source->type.getShape());
  shape[1] += below->type.getDimSize(1);
  source->type = RankedTensorType::get(shape, source->type.getElementType());
  return source;
}

/// Makes the (untransformed, single) source's tensor one of `shape`.
LogicalResult WeightPacker::retype(Operation *user, Source &source, ArrayRef<int64_t> shape) {
  auto result = RankedTensorType::get(shape, source.type.getElementType());
  if (source.type == result)
    return success();
  if (source.transforms.empty() && source.sources.size() == 1) {
    source.sources[0] = withShape(source.sources[0], shape);
  } else if (source.type.getDimSize(0) == shape[0]) {
    source.transforms.push_back(
        ReshapeAttr::get(user->getContext(), DenseI64ArrayAttr::get(user->getContext(), shape)));
  } else {
    return emitUnsupported(user) << "cannot read a weight of type " << source.type << " as "
                                 << result;
  }
  source.type = result;
  return success();
}

/// Loads the packed weight as a buffer whose expert stride is known only when the
/// weights file is planned.
Value WeightPacker::load(OpBuilder &builder, Location loc, Source source, StringAttr bank) {
  MLIRContext *context = module.getContext();
  auto key = std::make_pair(Attribute(builder.getArrayAttr(source.sources)),
                            Attribute(builder.getArrayAttr(source.transforms)));
  WeightOp &weight = packed[key];
  if (!weight) {
    RankedTensorType type;
    for (Attribute part : source.sources) {
      RankedTensorType partType = WeightOp::getTypeOf(part);
      SmallVector<int64_t> shape(type ? type.getShape() : partType.getShape());
      if (type)
        shape[1] += partType.getDimSize(1);
      type = RankedTensorType::get(shape, partType.getElementType());
    }
    for (Attribute transform : source.transforms)
      type = cast<WeightTransformInterface>(transform).getResultType(
          type, [&] { return emitError(loc); });
    OpBuilder atTop = OpBuilder::atBlockBegin(module.getBody());
    weight = WeightOp::create(atTop, loc, source.name + "_packed", type, source.sources,
                              source.transforms);
    weight.setBankAttr(bank);
    symbols.insert(weight);
  }
  RankedTensorType type = weight.getTensorType();
  Value tensor =
      LoadWeightOp::create(builder, loc, type, FlatSymbolRefAttr::get(weight.getSymNameAttr()));
  SmallVector<int64_t> strides(type.getRank(), 1);
  for (int64_t i = type.getRank() - 2; i >= 0; --i)
    strides[i] = strides[i + 1] * type.getDimSize(i + 1);
  strides[0] = ShapedType::kDynamic;
  auto layout = StridedLayoutAttr::get(context, ShapedType::kDynamic, strides);
  auto bufferType = MemRefType::get(type.getShape(), type.getElementType(), layout);
  return bufferization::ToBufferOp::create(builder, loc, bufferType, tensor, /*read_only=*/true);
}

FailureOr<Value> WeightPacker::packBias(Operation *user, OpBuilder &builder, Value bias,
                                        Value gateBias, int64_t experts, int64_t n, bool separate,
                                        Glu glu, StringAttr bank) {
  if (!bias && !gateBias)
    return Value();
  Location loc = user->getLoc();
  FailureOr<Source> source = failure();
  if (!separate) {
    source = trace(user, bias);
  } else {
    // One of the two may be missing: then it is zero.
    auto zeros = [&](Value other) -> Value {
      auto type = cast<RankedTensorType>(other.getType());
      return arith::ConstantOp::create(builder, loc, cast<TypedAttr>(builder.getZeroAttr(type)));
    };
    Value first = gateBias ? gateBias : zeros(bias), second = bias ? bias : zeros(gateBias);
    source = traceStacked(user, first, second);
  }
  if (failed(source) || failed(retype(user, *source, {experts, n, 1})))
    return failure();
  source->transforms.push_back(PanelsAttr::get(user->getContext(), kPanelWidth, glu));
  return load(builder, loc, std::move(*source), bank);
}

FailureOr<PackedWeight> WeightPacker::pack(Operation *user, Value weight, Value bias, Value gate,
                                           Value gateBias, Glu glu, Layout layout,
                                           StringAttr bank) {
  MLIRContext *context = module.getContext();
  OpBuilder builder(user);
  Location loc = user->getLoc();
  bool separate = gate != nullptr;
  if (separate)
    glu = Glu::Concat;

  auto dequantize = weight.getDefiningOp<DequantizeOp>();
  DequantizeOp gateDequantize = gate ? gate.getDefiningOp<DequantizeOp>() : DequantizeOp();
  if (separate &&
      (bool(dequantize) != bool(gateDequantize) ||
       (dequantize && (dequantize.getBits() != gateDequantize.getBits() ||
                       dequantize.getBlock() != gateDequantize.getBlock() ||
                       bool(dequantize.getZeroPoints()) != bool(gateDequantize.getZeroPoints())))))
    return emitUnsupported(user) << "has gate and up weights that are quantized differently";

  auto type = cast<RankedTensorType>(weight.getType());
  if (!type.hasStaticShape())
    return emitUnsupported(user) << "has a weight of unknown shape " << type;
  SmallVector<int64_t> shape(type.getShape());
  if (shape.size() == 2)
    shape.insert(shape.begin(), 1);
  if (layout == Layout::InOut)
    std::swap(shape[1], shape[2]);
  int64_t experts = shape[0], n = separate ? 2 * shape[1] : shape[1], k = shape[2];

  PackedWeight result;
  result.n = n;
  result.k = k;
  result.experts = experts;
  if (!dequantize && !gateDequantize &&
      !llvm::all_of(ArrayRef{weight, bias, gate, gateBias}, isConstant)) {
    result.glu = separate ? Glu::Separate : glu;
    result.layout = layout;
    return result;
  }
  auto panels = [&](Source &source) {
    source.transforms.push_back(PanelsAttr::get(context, kPanelWidth, glu));
    return load(builder, loc, std::move(source), bank);
  };
  if (!dequantize) {
    FailureOr<Source> source = separate ? traceStacked(user, gate, weight) : trace(user, weight);
    if (failed(source))
      return failure();
    auto permute = [&](ArrayRef<int64_t> order) {
      source->transforms.push_back(
          PermuteAttr::get(context, DenseI64ArrayAttr::get(context, order)));
    };
    auto reshape = [&](ArrayRef<int64_t> shape) {
      source->transforms.push_back(
          ReshapeAttr::get(context, DenseI64ArrayAttr::get(context, shape)));
    };
    bool isStacked = layout == Layout::InOut && separate;
    SmallVector<int64_t> asStored = {experts, n, k};
    if (isStacked)
      asStored = {experts, 2, k, n / 2};
    else if (layout == Layout::InOut)
      asStored = {experts, k, n};
    if (failed(retype(user, *source, asStored)))
      return failure();
    if (isStacked) {
      // The gate's columns, then those of up.
      permute({0, 1, 3, 2});
      reshape({experts, n, k});
    } else if (layout == Layout::InOut) {
      permute({0, 2, 1});
    }
    bool hasPairs = source->type.getElementType().isBF16() && k % 2 == 0;
    source->transforms.push_back(PanelsAttr::get(context, kPanelWidth, glu));
    if (hasPairs) {
      int64_t width = kPanelWidth;
      int64_t count =
          glu == Glu::None ? llvm::divideCeil(n, width) : llvm::divideCeil(n / 2, width / 2);
      reshape({experts, count, k / 2, 2, width});
      permute({0, 1, 2, 4, 3});
      reshape({experts, count, k / 2, 2 * width});
    }
    result.panels = load(builder, loc, std::move(*source), bank);
    result.pairs = hasPairs;
  } else {
    int64_t bits = dequantize.getBits(), block = dequantize.getBlock();
    int64_t perByte = 8 / bits;
    result.bits = bits;
    result.block = block ? block : k;
    if (k % perByte != 0)
      return emitUnsupported(user) << "has rows of " << k << " codes of " << bits
                                   << " bits, which do not fill whole bytes";
    auto operand = [&](auto get) {
      return separate ? traceStacked(user, get(gateDequantize), get(dequantize))
                      : trace(user, get(dequantize));
    };
    FailureOr<Source> codes = operand([](DequantizeOp op) { return op.getCodes(); });
    FailureOr<Source> scales = operand([](DequantizeOp op) { return op.getScales(); });
    if (failed(codes) || failed(scales) ||
        failed(retype(user, *scales, {experts, n, k / result.block})))
      return failure();
    codes->transforms.push_back(CodePanelsAttr::get(context, bits, k, glu));
    result.panels = load(builder, loc, std::move(*codes), bank);
    result.scales = panels(*scales);
    if (dequantize.getZeroPoints()) {
      bool rowWise = block == 0;
      if (separate && rowWise && (n / 2) % perByte != 0)
        return emitUnsupported(user) << "has zero points of gate and up rows that share bytes";
      FailureOr<Source> zeros = operand([](DequantizeOp op) { return op.getZeroPoints(); });
      if (failed(zeros))
        return failure();
      int64_t axis = rowWise ? 1 : 2, count = rowWise ? n : k / block;
      zeros->transforms.push_back(UnpackAttr::get(context, bits, axis, count));
      SmallVector<int64_t> unpacked(zeros->type.getShape());
      unpacked[axis] = count;
      zeros->type = RankedTensorType::get(unpacked, builder.getI8Type());
      if (failed(retype(user, *zeros, {experts, n, k / result.block})))
        return failure();
      result.zeroPoints = panels(*zeros);
    }
  }
  FailureOr<Value> packedBias =
      packBias(user, builder, bias, gateBias, experts, n, separate, glu, bank);
  if (failed(packedBias))
    return failure();
  result.bias = *packedBias;
  return result;
}

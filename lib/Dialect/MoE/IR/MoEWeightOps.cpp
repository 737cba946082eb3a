// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.weight, moe.load_weight and moe.dequantize.

#include "Shapes.h"
#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// WeightOp, LoadWeightOp
//===----------------------------------------------------------------------===//

void WeightOp::build(OpBuilder &builder, OperationState &state, StringRef name,
                     RankedTensorType type, ArrayRef<Attribute> sources,
                     ArrayRef<Attribute> transforms) {
  build(builder, state, builder.getStringAttr(name), TypeAttr::get(type),
        builder.getArrayAttr(sources), builder.getArrayAttr(transforms), {}, {}, {});
}

RankedTensorType WeightOp::getTypeOf(Attribute source) {
  if (auto segment = dyn_cast<SegmentAttr>(source))
    return segment.getType();
  if (auto experts = dyn_cast<ExpertsAttr>(source))
    return experts.getType();
  if (auto tensor = dyn_cast<TensorAttr>(source))
    return tensor.getType();
  if (auto elements = dyn_cast<DenseElementsAttr>(source))
    return dyn_cast<RankedTensorType>(elements.getType());
  return {};
}

/// The weight's one source, a named tensor that does not say its type.
static bool isOneTensorWithoutType(WeightOp op) {
  auto tensor = op.getSources().size() == 1 ? dyn_cast<TensorAttr>(op.getSources()[0]) : nullptr;
  return tensor && !tensor.getType() && op.getTransforms().empty();
}

RankedTensorType WeightOp::getSourceType() {
  if (isOneTensorWithoutType(*this))
    return isCountable(getTensorType().getShape()) ? getTensorType() : RankedTensorType();
  RankedTensorType stacked;
  for (Attribute source : getSources()) {
    RankedTensorType type = getTypeOf(source);
    if (!type)
      return {};
    if (!stacked) {
      stacked = type;
      continue;
    }
    if (type.getRank() < 2 || type.getRank() != stacked.getRank() ||
        type.getElementType() != stacked.getElementType())
      return {};
    SmallVector<int64_t> shape(stacked.getShape());
    for (int64_t i = 0; i < type.getRank(); ++i)
      if (i != 1 && shape[i] != type.getDimSize(i))
        return {};
    if (llvm::AddOverflow(shape[1], type.getDimSize(1), shape[1]))
      return {};
    stacked = RankedTensorType::get(shape, type.getElementType());
  }
  return stacked && isCountable(stacked.getShape()) ? stacked : RankedTensorType();
}

/// C3, against the bank's member before this one.
static LogicalResult verifyBank(WeightOp op) {
  if (!op.getBankAttr())
    return success();
  RankedTensorType type = op.getTensorType();
  if (type.getRank() == 0)
    return op.emitOpError() << "C3: a member of a bank has experts in dimension 0";
  for (Operation *other = op->getPrevNode(); other; other = other->getPrevNode()) {
    auto member = dyn_cast<WeightOp>(other);
    if (!member || member.getBankAttr() != op.getBankAttr())
      continue;
    auto memberType = dyn_cast<RankedTensorType>(member.getType());
    if (!memberType || memberType.getRank() == 0)
      return success(); // the member's own error
    return checkDim(op, "C3", "experts of a member of bank " + op.getBankAttr().getValue(),
                    type.getDimSize(0), memberType.getDimSize(0));
  }
  return success();
}

LogicalResult WeightOp::verify() {
  for (auto source : getSources().getAsRange<Attribute>())
    if (auto tensor = dyn_cast<TensorAttr>(source))
      if (!tensor.getType() && !isOneTensorWithoutType(*this))
        return emitOpError() << "C4: " << source << " needs a type: it is one of several sources "
                             << "or transformed";
  RankedTensorType type = getSourceType();
  if (!type)
    return emitOpError() << "C1: needs sources (#moe.segment, #moe.experts, #moe.tensor or dense) of one "
                            "element type that differ in dimension 1 only and fit in memory";
  auto emit = [&] { return emitOpError() << "C2: "; };
  for (Attribute transform : getTransforms()) {
    auto step = dyn_cast<WeightTransformInterface>(transform);
    if (!step)
      return emitOpError() << "C2: " << transform << " is not a weight transform";
    type = step.getResultType(type, emit);
    if (!type)
      return failure();
  }
  if (type != getTensorType())
    return emitOpError() << "C2: the transforms lead to " << type << ", not to " << getType();
  return verifyBank(*this);
}

LogicalResult LoadWeightOp::verifySymbolUses(SymbolTableCollection &tables) {
  auto weight = tables.lookupNearestSymbolFrom<WeightOp>(*this, getWeightAttr());
  if (!weight)
    return emitOpError() << "C1: no moe.weight named " << getWeightAttr();
  if (weight.getType() != getResult().getType())
    return emitOpError() << "C1: " << getWeightAttr() << " is of type " << weight.getType();
  return success();
}

void LoadWeightOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getResult(), getWeight());
}

//===----------------------------------------------------------------------===//
// DequantizeOp
//===----------------------------------------------------------------------===//

LogicalResult DequantizeOp::verify() {
  int64_t bits = getBits(), block = getBlock();
  if (bits != 2 && bits != 4 && bits != 8)
    return emitOpError() << "C1: bits = " << bits << ", expected 2, 4 or 8";
  auto type = cast<RankedTensorType>(getResult().getType());
  if (!type.hasStaticShape())
    return emitOpError() << "C2: needs a static result shape, got " << type;
  int64_t e = type.getDimSize(0), n = type.getDimSize(1), k = type.getDimSize(2);
  auto packed = [&](int64_t count) { return getPackedBytes(count, bits); };
  if (dim(getCodes(), 0) != e || dim(getCodes(), 1) != n || dim(getCodes(), 2) != packed(k))
    return emitOpError() << "C2: codes " << getCodes().getType() << ", expected [" << e << ", " << n
                         << ", " << packed(k) << "]";
  if (block != 0 && (block < 16 || !llvm::isPowerOf2_64(block) || k % block))
    return emitOpError() << "C3: block = " << block
                         << " is not a power of two of at least 16 that divides K = " << k;
  int64_t blocks = block ? k / block : 1;
  auto scales = cast<RankedTensorType>(getScales().getType());
  SmallVector<int64_t> shape = {e, n};
  if (block)
    shape.push_back(blocks);
  if (scales.getShape() != ArrayRef(shape))
    return emitOpError() << "C4: scales " << scales << " do not fit " << type
                         << " with block = " << block;
  if (!getZeroPoints())
    return success();
  shape = block ? SmallVector<int64_t>{e, n, packed(blocks)} : SmallVector<int64_t>{e, packed(n)};
  if (cast<RankedTensorType>(getZeroPoints().getType()).getShape() != ArrayRef(shape))
    return emitOpError() << "C5: zero points " << getZeroPoints().getType() << " do not fit "
                         << type << " with block = " << block;
  return success();
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/MoE/IR/MoE.h"

#include "Shapes.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;

#include "moec/Dialect/MoE/IR/MoEAttrInterfaces.cpp.inc"

#define GET_ATTRDEF_CLASSES
#include "moec/Dialect/MoE/IR/MoEAttributes.cpp.inc"

void MoEDialect::registerAttributes() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "moec/Dialect/MoE/IR/MoEAttributes.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// ActivationAttr
//===----------------------------------------------------------------------===//

static double valueOr(FloatAttr attr, double fallback) {
  return attr ? attr.getValueAsDouble() : fallback;
}

double ActivationAttr::getAlphaValue() const { return valueOr(getAlpha(), 1.0); }
double ActivationAttr::getBetaValue() const { return valueOr(getBeta(), 0.0); }
double ActivationAttr::getLimitValue() const {
  return valueOr(getLimit(), std::numeric_limits<double>::infinity());
}

LogicalResult ActivationAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                     ActivationKind kind, Glu glu, FloatAttr alpha, FloatAttr beta,
                                     FloatAttr limit) {
  if (alpha && kind != ActivationKind::Silu)
    return emitError() << "alpha is a parameter of silu, not of " << stringifyActivationKind(kind);
  if ((beta || limit) && glu == Glu::None)
    return emitError() << "beta and limit need a gate (glu = …)";
  if (limit && !(limit.getValueAsDouble() > 0))
    return emitError() << "limit must be positive";
  return success();
}

//===----------------------------------------------------------------------===//
// SegmentAttr
//===----------------------------------------------------------------------===//

LogicalResult SegmentAttr::verify(function_ref<InFlightDiagnostic()> emitError, StringAttr file,
                                  uint64_t offset, uint64_t length, RankedTensorType type) {
  if (!type.hasStaticShape() || !type.getElementType().isIntOrFloat())
    return emitError() << "a segment has a static shape of integers or floats, got " << type;
  uint64_t bits = type.getElementTypeBitWidth();
  if (!isCountable(type.getShape()) || bits > 128)
    return emitError() << "a segment of type " << type << " does not fit in memory";
  // A bool has a byte of its own; elements of 2 and 4 bits are packed.
  uint64_t bytes = llvm::divideCeil(type.getNumElements() * (bits == 1 ? 8 : bits), 8);
  if (bytes != length)
    return emitError() << "a segment of type " << type << " is " << bytes
                       << " bytes long, got length = " << length;
  return success();
}

//===----------------------------------------------------------------------===//
// Weight transforms
//===----------------------------------------------------------------------===//

RankedTensorType ReshapeAttr::getResultType(RankedTensorType input,
                                            function_ref<InFlightDiagnostic()> emitError) const {
  ArrayRef<int64_t> shape = getShape().asArrayRef();
  if (!isCountable(shape) || ShapedType::getNumElements(shape) != input.getNumElements() ||
      shape.empty() || input.getRank() == 0 || shape[0] != input.getDimSize(0)) {
    emitError() << "cannot reshape " << input << " to [" << shape << "] expert by expert";
    return {};
  }
  return RankedTensorType::get(shape, input.getElementType());
}

RankedTensorType PermuteAttr::getResultType(RankedTensorType input,
                                            function_ref<InFlightDiagnostic()> emitError) const {
  ArrayRef<int64_t> order = getPermutation().asArrayRef();
  SmallVector<bool> seen(order.size());
  SmallVector<int64_t> shape;
  bool valid = int64_t(order.size()) == input.getRank() && !order.empty() && order[0] == 0;
  for (int64_t dim : order) {
    if (!valid || dim < 0 || dim >= input.getRank() || seen[dim]) {
      emitError() << "not a permutation of the dimensions of " << input
                  << " that keeps dimension 0";
      return {};
    }
    seen[dim] = true;
    shape.push_back(input.getDimSize(dim));
  }
  return RankedTensorType::get(shape, input.getElementType());
}

RankedTensorType UnpackAttr::getResultType(RankedTensorType input,
                                           function_ref<InFlightDiagnostic()> emitError) const {
  bool fits = (getBits() == 2 || getBits() == 4 || getBits() == 8) && getAxis() > 0 &&
              getAxis() < input.getRank() && input.getElementType().isUnsignedInteger(8) &&
              getCount() > 0 &&
              getPackedBytes(getCount(), getBits()) == input.getDimSize(getAxis());
  if (!fits) {
    emitError() << "cannot unpack " << getCount() << " codes of " << getBits()
                << " bits from dimension " << getAxis() << " of " << input;
    return {};
  }
  SmallVector<int64_t> shape(input.getShape());
  shape[getAxis()] = getCount();
  return RankedTensorType::get(shape, IntegerType::get(getContext(), 8));
}

/// Checks common to both panel layouts; returns the number of panels or -1.
static int64_t numPanels(RankedTensorType input, int64_t width, Glu glu,
                         function_ref<InFlightDiagnostic()> emitError) {
  if (input.getRank() != 3 || width < 2 || width % 2 || glu == Glu::Separate ||
      (glu != Glu::None && input.getDimSize(1) % 2)) {
    emitError() << "panels need [E, N, K] (N even with a gate) and an even width, got " << input
                << " and width " << width;
    return -1;
  }
  return llvm::divideCeil(input.getDimSize(1), width);
}

RankedTensorType PanelsAttr::getResultType(RankedTensorType input,
                                           function_ref<InFlightDiagnostic()> emitError) const {
  int64_t panels = numPanels(input, getWidth(), getGlu(), emitError);
  if (panels < 0)
    return {};
  int64_t shape[] = {input.getDimSize(0), panels, input.getDimSize(2), getWidth()};
  if (!isCountable(shape)) {
    emitError() << "panels of " << input << " with width " << getWidth() << " do not fit in memory";
    return {};
  }
  return RankedTensorType::get(shape, input.getElementType());
}

RankedTensorType CodePanelsAttr::getResultType(RankedTensorType input,
                                               function_ref<InFlightDiagnostic()> emitError) const {
  int64_t panels = numPanels(input, /*width=*/32, getGlu(), emitError);
  if (panels < 0)
    return {};
  int64_t bits = getBits(), k = getColumns();
  if ((bits != 2 && bits != 4 && bits != 8) || !input.getElementType().isUnsignedInteger(8) ||
      k < 1 || getPackedBytes(k, bits) != input.getDimSize(2)) {
    emitError() << "codes of " << bits << " bits with K = " << k << " do not fit " << input;
    return {};
  }
  int64_t group = bits == 2 ? 2 : 1;
  return RankedTensorType::get(
      {input.getDimSize(0), panels, int64_t(llvm::divideCeil(k, group)), bits == 8 ? 32 : 16},
      IntegerType::get(getContext(), 8));
}

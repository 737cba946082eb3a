// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/MoE/IR/MoE.h"

#include "Shapes.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/ADT/TypeSwitch.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

using namespace mlir;
using namespace mlir::moe;

#include "moec/Dialect/MoE/IR/MoEAttrInterfaces.cpp.inc"

/// `, zero_points`, or nothing.
static ParseResult parseZeroPoints(AsmParser &parser, bool &zeroPoints) {
  zeroPoints = succeeded(parser.parseOptionalComma());
  return zeroPoints ? parser.parseKeyword("zero_points") : success();
}
static void printZeroPoints(AsmPrinter &printer, bool zeroPoints) {
  if (zeroPoints)
    printer << ", zero_points";
}

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
                                     FloatAttr limit, ActivationClamp clamp) {
  if (alpha && kind != ActivationKind::Silu)
    return emitError() << "alpha is a parameter of silu, not of " << stringifyActivationKind(kind);
  if ((beta || limit) && glu == Glu::None)
    return emitError() << "beta and limit need a gate (glu = …)";
  if (limit && !(limit.getValueAsDouble() > 0))
    return emitError() << "limit must be positive";
  if (clamp == ActivationClamp::Post && !limit)
    return emitError() << "clamp = post needs a limit";
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
// ExpertsAttr
//===----------------------------------------------------------------------===//

LogicalResult ExpertsAttr::verify(function_ref<InFlightDiagnostic()> emitError, ArrayAttr parts,
                                  RankedTensorType type) {
  if (!type.hasStaticShape() || type.getRank() == 0 || !isCountable(type.getShape()))
    return emitError() << "experts have a static shape with their number first, got " << type;
  if (int64_t(parts.size()) != type.getDimSize(0))
    return emitError() << type << " has " << type.getDimSize(0) << " experts, got " << parts.size()
                       << " parts";
  for (Attribute part : parts) {
    if (!isa<SegmentAttr, DenseElementsAttr>(part))
      return emitError() << part << " is neither a #moe.segment nor elements";
    RankedTensorType partType = WeightOp::getTypeOf(part);
    if (!partType || partType.getElementType() != type.getElementType() ||
        partType.getNumElements() != type.getNumElements() / type.getDimSize(0))
      return emitError() << "a part of type " << partType << " is not an expert of " << type;
  }
  return success();
}

//===----------------------------------------------------------------------===//
// CapacityAttr
//===----------------------------------------------------------------------===//

static FailureOr<CapacityTerm> parseTerm(AsmParser &parser, bool divides) {
  StringRef symbol;
  if (succeeded(parser.parseOptionalKeyword(&symbol, {"tokens", "experts", "k"}))) {
    auto kind = llvm::StringSwitch<CapacityTerm::Kind>(symbol)
                    .Case("tokens", CapacityTerm::Tokens)
                    .Case("experts", CapacityTerm::Experts)
                    .Default(CapacityTerm::K);
    return CapacityTerm{divides, kind, 0};
  }
  int64_t integer;
  OptionalParseResult isInteger = parser.parseOptionalInteger(integer);
  if (isInteger.has_value()) {
    if (failed(*isInteger))
      return failure();
    return CapacityTerm{divides, CapacityTerm::Number, double(integer)};
  }
  double number;
  if (failed(parser.parseFloat(number)))
    return failure();
  return CapacityTerm{divides, CapacityTerm::Number, number};
}

/// `, name = value` for each of the attribute's numbers and its rounding.
static ParseResult parseCapacityOptions(AsmParser &parser, CapacityRound &round, int64_t &min,
                                        int64_t &multiple, int64_t &times) {
  while (succeeded(parser.parseOptionalComma())) {
    StringRef name;
    SMLoc loc = parser.getCurrentLocation();
    if (parser.parseKeyword(&name) || parser.parseEqual())
      return failure();
    if (name == "round") {
      FailureOr<CapacityRound> value = FieldParser<CapacityRound>::parse(parser);
      if (failed(value))
        return failure();
      round = *value;
      continue;
    }
    int64_t *number = llvm::StringSwitch<int64_t *>(name)
                          .Case("min", &min)
                          .Case("multiple", &multiple)
                          .Case("times", &times)
                          .Default(nullptr);
    if (!number)
      return parser.emitError(loc) << "expected round, min, multiple or times";
    if (parser.parseInteger(*number))
      return failure();
  }
  return success();
}

Attribute CapacityAttr::parse(AsmParser &parser, Type) {
  SmallVector<CapacityTerm> terms;
  auto parseInto = [&](bool divides) -> ParseResult {
    FailureOr<CapacityTerm> term = parseTerm(parser, divides);
    if (failed(term))
      return failure();
    terms.push_back(*term);
    return success();
  };
  CapacityRound round = CapacityRound::Floor;
  int64_t min = 0, multiple = 1, times = 1;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parseInto(false))
    return {};
  while (true) {
    bool divides = false;
    if (failed(parser.parseOptionalStar())) {
      divides = succeeded(parser.parseOptionalSlash());
      if (!divides)
        break;
    }
    if (parseInto(divides))
      return {};
  }
  if (parseCapacityOptions(parser, round, min, multiple, times) || parser.parseGreater())
    return {};
  return parser.getChecked<CapacityAttr>(loc, parser.getContext(), terms, round, min, multiple,
                                         times);
}

/// A decimal that reads back as `number`: an integer, or one with a point.
static std::string printNumber(double number) {
  if (number == std::floor(number) && number < 1e15)
    return std::to_string(int64_t(number));
  char text[40];
  std::snprintf(text, sizeof(text), "%.15g", number);
  if (!StringRef(text).contains('e') && std::strtod(text, nullptr) == number)
    return text;
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*e", digits, number);
    if (std::strtod(text, nullptr) == number)
      break;
  }
  return text;
}

void CapacityAttr::print(AsmPrinter &printer) const {
  static constexpr StringLiteral symbols[] = {"", "tokens", "experts", "k"};
  printer << '<';
  for (auto [i, term] : llvm::enumerate(getTerms())) {
    if (i > 0)
      printer << (term.divides ? " / " : " * ");
    if (term.kind == CapacityTerm::Number)
      printer << printNumber(term.number);
    else
      printer << symbols[term.kind];
  }
  if (getRound() != CapacityRound::Floor)
    printer << ", round = " << stringifyCapacityRound(getRound());
  if (getMin() != 0)
    printer << ", min = " << getMin();
  if (getMultiple() != 1)
    printer << ", multiple = " << getMultiple();
  if (getTimes() != 1)
    printer << ", times = " << getTimes();
  printer << '>';
}

LogicalResult CapacityAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                   ArrayRef<CapacityTerm> terms, CapacityRound, int64_t min,
                                   int64_t multiple, int64_t times) {
  if (terms.empty() || terms.front().divides)
    return emitError() << "a capacity starts with a number, tokens, experts or k";
  for (const CapacityTerm &term : terms)
    if (term.kind == CapacityTerm::Number && !(term.number > 0 && std::isfinite(term.number)))
      return emitError() << "the numbers of a capacity are positive";
  if (min < 0 || min > kLargest)
    return emitError() << "min = " << min << " is not between 0 and " << kLargest;
  for (int64_t number : {multiple, times})
    if (number < 1 || number > kLargest)
      return emitError() << "multiple and times are between 1 and " << kLargest << ", got "
                         << number;
  return success();
}

//===----------------------------------------------------------------------===//
// ExpertKindAttr
//===----------------------------------------------------------------------===//

LogicalResult ExpertKindAttr::verify(function_ref<InFlightDiagnostic()> emitError, ExpertKind,
                                     int64_t count) {
  // Sums of counts stay within 64 bits.
  if (count < 1 || count > std::numeric_limits<int32_t>::max())
    return emitError() << "a kind stands for 1 to 2147483647 experts, got " << count;
  return success();
}

SmallVector<ExpertRange> moe::expertRanges(ArrayAttr kinds, int64_t experts) {
  if (!kinds)
    return {{ExpertKind::FFN, 0, experts, 0}};
  SmallVector<ExpertRange> ranges;
  int64_t begin = 0;
  DenseMap<int, int64_t> seen;
  for (auto kind : kinds.getAsRange<ExpertKindAttr>()) {
    int64_t &data = seen[int(kind.getKind())];
    ranges.push_back({kind.getKind(), begin, begin + kind.getCount(), data});
    begin += kind.getCount();
    data += kind.getCount();
  }
  return ranges;
}

int64_t moe::countExperts(ArrayAttr kinds, int64_t experts, ExpertKind kind) {
  int64_t count = 0;
  for (const ExpertRange &range : expertRanges(kinds, experts))
    count += range.kind == kind ? range.end - range.begin : 0;
  return count;
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

RankedTensorType ToUnsignedAttr::getResultType(RankedTensorType input,
                                               function_ref<InFlightDiagnostic()> emitError) const {
  Type element = input.getElementType();
  bool isByte = element.isInteger(8) && !element.isSignedInteger();
  if ((getBits() != 2 && getBits() != 4 && getBits() != 8) || !isByte) {
    emitError() << "cannot make codes of " << getBits() << " bits unsigned in " << input;
    return {};
  }
  return RankedTensorType::get(input.getShape(),
                               IntegerType::get(getContext(), 8, IntegerType::Unsigned));
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

/// The types that weights are converted from.
static bool isConvertible(Type element) {
  return element.isF32() || element.isF16() || element.isBF16();
}

LogicalResult ConvertAttr::verify(function_ref<InFlightDiagnostic()> emitError, Type type) {
  if (type.isF16() || type.isBF16())
    return success();
  return emitError() << "weights are converted to f16 or bf16, got " << type;
}

RankedTensorType ConvertAttr::getResultType(RankedTensorType input,
                                            function_ref<InFlightDiagnostic()> emitError) const {
  if (isConvertible(input.getElementType()))
    return RankedTensorType::get(input.getShape(), getType());
  emitError() << "cannot convert " << input << " to " << getType();
  return {};
}

LogicalResult QuantizeAttr::verify(function_ref<InFlightDiagnostic()> emitError, QuantizedPart part,
                                   int64_t bits, int64_t block, bool zeroPoints) {
  if (bits != 2 && bits != 4 && bits != 8)
    return emitError() << "bits = " << bits << ", expected 2, 4 or 8";
  if (block != 0 && (block < 16 || !llvm::isPowerOf2_64(block)))
    return emitError() << "block = " << block << " is neither 0 nor a power of two of at least 16";
  if (part == QuantizedPart::ZeroPoints && !zeroPoints)
    return emitError() << "symmetric weights have no zero points";
  return success();
}

RankedTensorType QuantizeAttr::getResultType(RankedTensorType input,
                                             function_ref<InFlightDiagnostic()> emitError) const {
  bool rowWise = getBlock() == 0;
  if (input.getRank() != 3 || !isConvertible(input.getElementType()) || input.getDimSize(2) == 0 ||
      (!rowWise && input.getDimSize(2) % getBlock())) {
    emitError() << "cannot quantize " << input << " with block = " << getBlock();
    return {};
  }
  int64_t e = input.getDimSize(0), n = input.getDimSize(1), k = input.getDimSize(2);
  auto packed = [&](int64_t count) { return getPackedBytes(count, getBits()); };
  auto codes = IntegerType::get(getContext(), 8, IntegerType::Unsigned);
  switch (getPart()) {
  case QuantizedPart::Codes:
    return RankedTensorType::get({e, n, packed(k)}, codes);
  case QuantizedPart::Scales: {
    SmallVector<int64_t> shape = {e, n};
    if (!rowWise)
      shape.push_back(k / getBlock());
    return RankedTensorType::get(shape, Float32Type::get(getContext()));
  }
  case QuantizedPart::ZeroPoints:
    if (rowWise)
      return RankedTensorType::get({e, packed(n)}, codes);
    return RankedTensorType::get({e, n, packed(k / getBlock())}, codes);
  }
  llvm_unreachable("all parts are handled");
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Capacities that a graph computes from the number of tokens.

#include "Placement.h"

#include "mlir/IR/TypeUtilities.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

namespace {

/// A capacity as it is computed, from left to right. In f32 it is exact for fewer than 65536
/// tokens: one factor below 16 with four fractional bits leaves 20 bits, powers of 2 take
/// none, and a last quotient stays on its side of the whole numbers when it is rounded.
struct CapacityExpression {
  SmallVector<CapacityTerm, 2> terms;
  CapacityRound round = CapacityRound::Floor;
  bool isRounded = false, hasFactor = false, hasQuotient = false;
  int64_t min = 0;

  /// Multiplies or divides. False when that is not known to be exact.
  bool scale(double number, bool divides) {
    if (isRounded || hasQuotient || !(number > 0) || number >= 65536)
      return false;
    terms.push_back({divides, CapacityTerm::Number, number});
    int exponent = 0;
    if (std::frexp(number, &exponent) == 0.5)
      return true;
    if (divides) {
      hasQuotient = true;
      return number == std::floor(number);
    }
    bool isFirst = !hasFactor;
    hasFactor = true;
    return isFirst && number < 16 && number * 16 == std::floor(number * 16);
  }
  bool roundTo(CapacityRound to) {
    if (!isRounded)
      round = to;
    return isRounded = true;
  }
};

} // namespace

static bool readExpression(Value value, IsTokenCount isTokenCount, CapacityExpression &result) {
  value = stripReshapes(value);
  if (isTokenCount(value)) {
    result.terms.push_back({/*divides=*/false, CapacityTerm::Tokens});
    return true;
  }
  auto node = value.getDefiningOp<NodeOp>();
  static const StringRef kKnown[] = {"Cast", "Ceil", "Floor", "Mul", "Div", "Max", "Clip"};
  if (!node || !llvm::is_contained(kKnown, node.getOpType()))
    return false;
  Type type = getElementTypeOrSelf(value.getType());
  if (isa<FloatType>(type) && !type.isF32() && !type.isF64())
    return false;
  bool swapped = (node.isOp("Mul") || node.isOp("Max")) && getSplat(node.getInput(0));
  if (!readExpression(node.getInput(swapped ? 1 : 0), isTokenCount, result))
    return false;
  bool isWhole = isa<IntegerType>(type);
  if (node.isOp("Cast"))
    return !isWhole || result.roundTo(CapacityRound::Floor);
  if (node.isOp("Ceil") || node.isOp("Floor"))
    return result.roundTo(node.isOp("Ceil") ? CapacityRound::Ceil : CapacityRound::Floor);
  Value operand = node.getInput(swapped ? 0 : 1);
  std::optional<double> number = operand ? getSplat(operand) : std::nullopt;
  if (!number)
    return false;
  if (node.isOp("Mul") || node.isOp("Div")) {
    bool divides = node.isOp("Div");
    return result.scale(*number, divides) &&
           (!divides || !isWhole || result.roundTo(CapacityRound::Floor));
  }
  bool isBounded = result.isRounded && result.min == 0 && *number >= 0 &&
                   *number == std::floor(*number) && *number < double(CapacityAttr::kLargest);
  result.min = isBounded ? int64_t(*number) : 0;
  return isBounded && !(node.isOp("Clip") && node.getInput(2));
}

CapacityAttr mlir::moe::readCapacity(Value value, IsTokenCount isTokenCount) {
  std::optional<double> number = getSplat(value);
  if (number && *number >= 1 && *number == std::floor(*number) &&
      *number <= double(CapacityAttr::kLargest))
    return getCapacity(value.getContext(), int64_t(*number));
  CapacityExpression read;
  if (number || !readExpression(value, isTokenCount, read) ||
      !isa<IntegerType>(getElementTypeOrSelf(value.getType())))
    return {};
  return CapacityAttr::get(value.getContext(), read.terms, read.round, read.min, /*multiple=*/1,
                           /*times=*/1);
}

CapacityAttr mlir::moe::getCapacity(MLIRContext *context, int64_t number) {
  CapacityTerm term{/*divides=*/false, CapacityTerm::Number, double(number)};
  return CapacityAttr::get(context, term, CapacityRound::Floor, /*min=*/0, /*multiple=*/1,
                           /*times=*/1);
}

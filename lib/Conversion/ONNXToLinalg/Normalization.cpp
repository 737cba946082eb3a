// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Normalization over the last dimensions.

#include "Lowering.h"

#include "moec/Dialect/ONNX/IR/ElementType.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// `sum` / count.
static Value divideByCount(ImplicitLocOpBuilder &b, Value sum, OpFoldResult count) {
  Value divisor = arith::SIToFPOp::create(b, sum.getType(), fromIndex(b, count, b.getI64Type()));
  return arith::DivFOp::create(b, sum, divisor);
}

static Value addSquare(ImplicitLocOpBuilder &b, Value acc, Value element) {
  return addElements(b, acc, multiplyElements(b, element, element));
}

FailureOr<Normalized> lowering::normalize(NodeLowering &n, Value data, Value scale, Value bias,
                                          const NormalizeOptions &options) {
  ImplicitLocOpBuilder &b = n.b;
  Type type = getComputeType(getElementTypeOrSelf(data.getType()));
  Sizes sizes = getSizes(b, data);
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(options.axis, sizes.size()));
  OpFoldResult count = productOf(b, ArrayRef(sizes).drop_front(options.axis));
  Value zero = constantOf(b, type, 0);

  Normalized normalized;
  if (options.center) {
    Value sum = unsqueeze(b, reduce(b, data, axes, zero, addElements), axes);
    normalized.mean = *mapElements(n, sum, type, [&](ImplicitLocOpBuilder &b, ValueRange x) {
      return divideByCount(b, x[0], count);
    });
    data = *mapElements(n, {data, normalized.mean}, type,
                        [](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
                          return arith::SubFOp::create(b, x[0], x[1]);
                        });
  }
  Value squares = unsqueeze(b, reduce(b, data, axes, zero, addSquare), axes);
  normalized.inverse =
      *mapElements(n, squares, type, [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        Value shifted = arith::AddFOp::create(b, divideByCount(b, x[0], count),
                                              constantOf(b, type, options.epsilon));
        return arith::DivFOp::create(b, constantOf(b, type, 1), math::SqrtOp::create(b, shifted));
      });

  SmallVector<Value> operands{data, normalized.inverse};
  for (Value operand : {scale, bias})
    if (operand)
      operands.push_back(operand);
  // The scale may be of a wider type than the data.
  Type wide = getComputeType(options.resultType);
  FailureOr<Value> result =
      mapElements(n, operands, options.resultType, [&](ImplicitLocOpBuilder &b, ValueRange x) {
        Value value = castElement(b, multiplyElements(b, x[0], x[1]), type, wide);
        size_t next = 2;
        if (scale)
          value = multiplyElements(b, value, castElement(b, x[next], x[next].getType(), wide)),
          ++next;
        if (bias)
          value = addElements(b, value, castElement(b, x[next], x[next].getType(), wide));
        return value;
      });
  if (failed(result))
    return failure();
  normalized.result = *result;
  return normalized;
}

/// LayerNormalization (`center`) and RMSNormalization: the result, then the mean, and the
/// reciprocal of the deviation.
template <bool center> static LogicalResult lowerNormalization(NodeLowering &n) {
  for (Value input : n.inputs())
    if (input && !isArithmeticFloat(getElementTypeOrSelf(input.getType())))
      return n.fail("the inputs must be floating-point tensors");
  FailureOr<int64_t> axis = n.axis("axis", -1, n.inputType(0).getRank());
  if (failed(axis))
    return failure();
  NormalizeOptions options;
  options.axis = *axis;
  options.center = center;
  options.epsilon = n.node.getFloatAttr("epsilon", 1e-5f);
  options.resultType = n.inputType(center ? 0 : 1).getElementType();
  FailureOr<Normalized> normalized =
      normalize(n, n.input(0), n.input(1), center ? n.input(2) : Value(), options);
  if (failed(normalized))
    return failure();

  SmallVector<Value> results{normalized->result};
  Type stash = onnx::getElementType(n.node.getIntAttr("stash_type", 1), n.b.getContext());
  if (!stash || !isArithmeticFloat(stash))
    return n.fail("stash_type is " + Twine(n.node.getIntAttr("stash_type", 1)));
  for (Value statistic : {normalized->mean, normalized->inverse})
    if (statistic && results.size() < n.node.getNumResults())
      results.push_back(convertTensor(n, statistic, stash));
  return n.replace(results);
}

void lowering::addNormalization(SmallVectorImpl<LoweringEntry> &table) {
  // Optimizers write these two in the default domain at any operator set.
  table.push_back({"LayerNormalization", 1, kNewestOpset, lowerNormalization<true>});
  table.push_back({"SimplifiedLayerNormalization", 1, kNewestOpset, lowerNormalization<false>});
  table.push_back(
      {"com.microsoft.SimplifiedLayerNormalization", 1, kNewestOpset, lowerNormalization<false>});
  table.push_back({"RMSNormalization", 23, kNewestOpset, lowerNormalization<false>});
}

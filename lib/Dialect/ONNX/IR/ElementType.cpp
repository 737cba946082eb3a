// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/ONNX/IR/ElementType.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"

using namespace mlir;

Type mlir::moe::onnx::getElementType(int64_t number, MLIRContext *context) {
  Builder builder(context);
  auto getUnsigned = [&](unsigned width) {
    return IntegerType::get(context, width, IntegerType::Unsigned);
  };
  switch (number) {
  case 1:
    return builder.getF32Type();
  case 2:
    return getUnsigned(8);
  case 3:
    return builder.getI8Type();
  case 4:
    return getUnsigned(16);
  case 5:
    return builder.getI16Type();
  case 6:
    return builder.getI32Type();
  case 7:
    return builder.getI64Type();
  case 9:
    return builder.getI1Type();
  case 10:
    return builder.getF16Type();
  case 11:
    return builder.getF64Type();
  case 12:
    return getUnsigned(32);
  case 13:
    return getUnsigned(64);
  case 14:
    return ComplexType::get(builder.getF32Type());
  case 15:
    return ComplexType::get(builder.getF64Type());
  case 16:
    return builder.getBF16Type();
  case 17:
    return Float8E4M3FNType::get(context);
  case 18:
    return Float8E4M3FNUZType::get(context);
  case 19:
    return Float8E5M2Type::get(context);
  case 20:
    return Float8E5M2FNUZType::get(context);
  case 21:
    return getUnsigned(4);
  case 22:
    return builder.getIntegerType(4);
  case 23:
    return Float4E2M1FNType::get(context);
  case 24:
    return Float8E8M0FNUType::get(context);
  case 25:
    return getUnsigned(2);
  case 26:
    return builder.getIntegerType(2);
  default:
    return {};
  }
}

/// The largest number of an element type.
static constexpr int64_t kLastElementType = 26;

std::optional<int64_t> mlir::moe::onnx::getElementTypeNumber(Type type) {
  for (int64_t number = 1; number <= kLastElementType; ++number)
    if (getElementType(number, type.getContext()) == type)
      return number;
  return std::nullopt;
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/ModelDescription.h"

#include "mlir/IR/BuiltinTypes.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;

/// Codes of DLDataTypeCode (https://dmlc.github.io/dlpack).
enum DLPackCode : uint8_t {
  DLInt = 0,
  DLUInt = 1,
  DLFloat = 2,
  DLBfloat = 4,
  DLBool = 6,
  DLFloat8E4M3FN = 10,
  DLFloat8E4M3FNUZ = 11,
  DLFloat8E5M2 = 12,
  DLFloat8E5M2FNUZ = 13,
};

bool mlir::moe::getDLPackType(Type type, uint8_t &code, uint8_t &bits) {
  if (type.isInteger(1)) {
    code = DLBool;
    bits = 8;
    return true;
  }
  if (!type.isIntOrFloat() || type.getIntOrFloatBitWidth() > 64)
    return false;
  bits = type.getIntOrFloatBitWidth();
  if (type.isIntOrIndex()) {
    code = type.isUnsignedInteger() ? DLUInt : DLInt;
    return bits % 8 == 0;
  }
  if (type.isBF16())
    code = DLBfloat;
  else if (type.isF16() || type.isF32() || type.isF64())
    code = DLFloat;
  else if (isa<Float8E4M3FNType>(type))
    code = DLFloat8E4M3FN;
  else if (isa<Float8E4M3FNUZType>(type))
    code = DLFloat8E4M3FNUZ;
  else if (isa<Float8E5M2Type>(type))
    code = DLFloat8E5M2;
  else if (isa<Float8E5M2FNUZType>(type))
    code = DLFloat8E5M2FNUZ;
  else
    return false;
  return true;
}

std::string mlir::moe::getDTypeName(Type type) {
  if (type.isInteger(1))
    return "bool";
  if (type.isBF16())
    return "bfloat16";
  if (type.isF16() || type.isF32() || type.isF64())
    return "float" + llvm::utostr(type.getIntOrFloatBitWidth());
  if (auto integer = dyn_cast<IntegerType>(type))
    return (integer.isUnsigned() ? "uint" : "int") + llvm::utostr(integer.getWidth());
  if (isa<Float8E4M3FNType>(type))
    return "float8_e4m3fn";
  if (isa<Float8E4M3FNUZType>(type))
    return "float8_e4m3fnuz";
  if (isa<Float8E5M2Type>(type))
    return "float8_e5m2";
  if (isa<Float8E5M2FNUZType>(type))
    return "float8_e5m2fnuz";
  std::string text;
  llvm::raw_string_ostream(text) << type;
  return text;
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Element types of safetensors files.

#include "moec/Support/Safetensors.h"

using namespace mlir::moe;

namespace {
struct TypeEntry {
  SafetensorsType type;
  const char *spelling;
  unsigned bytes;
};
} // namespace

static const TypeEntry typeTable[] = {
    {SafetensorsType::Bool, "BOOL", 1},      {SafetensorsType::U8, "U8", 1},
    {SafetensorsType::I8, "I8", 1},          {SafetensorsType::F8E4M3, "F8_E4M3", 1},
    {SafetensorsType::F8E5M2, "F8_E5M2", 1}, {SafetensorsType::F8E8M0, "F8_E8M0", 1},
    {SafetensorsType::U16, "U16", 2},        {SafetensorsType::I16, "I16", 2},
    {SafetensorsType::F16, "F16", 2},        {SafetensorsType::BF16, "BF16", 2},
    {SafetensorsType::U32, "U32", 4},        {SafetensorsType::I32, "I32", 4},
    {SafetensorsType::F32, "F32", 4},        {SafetensorsType::U64, "U64", 8},
    {SafetensorsType::I64, "I64", 8},        {SafetensorsType::F64, "F64", 8},
};

static const TypeEntry &getEntry(SafetensorsType type) {
  for (const TypeEntry &entry : typeTable)
    if (entry.type == type)
      return entry;
  llvm_unreachable("every SafetensorsType has an entry");
}

llvm::StringRef mlir::moe::stringifySafetensorsType(SafetensorsType type) {
  return getEntry(type).spelling;
}

std::optional<SafetensorsType> mlir::moe::symbolizeSafetensorsType(llvm::StringRef text) {
  for (const TypeEntry &entry : typeTable)
    if (text == entry.spelling)
      return entry.type;
  return std::nullopt;
}

unsigned mlir::moe::getByteWidth(SafetensorsType type) { return getEntry(type).bytes; }

bool SafetensorsTensor::isPadding() const {
  return llvm::StringRef(name).starts_with("__padding_");
}

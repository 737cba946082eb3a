// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Tensors of moe-run.

#include "Values.h"
#include "Status.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/APInt.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::APFloat;
using llvm::ArrayRef;
using llvm::Error;
using llvm::StringRef;

// Codes of DLPack 1.1 that moec.h does not need.
static constexpr uint8_t float8E4M3FN = 10;
static constexpr uint8_t float8E5M2 = 12;
static constexpr uint8_t float8E8M0 = 14;

static const ElementType elementTypes[] = {
    {"bool", {kDLBool, 8, 1}, SafetensorsType::Bool},
    {"uint8", {kDLUInt, 8, 1}, SafetensorsType::U8},
    {"int8", {kDLInt, 8, 1}, SafetensorsType::I8},
    {"uint16", {kDLUInt, 16, 1}, SafetensorsType::U16},
    {"int16", {kDLInt, 16, 1}, SafetensorsType::I16},
    {"uint32", {kDLUInt, 32, 1}, SafetensorsType::U32},
    {"int32", {kDLInt, 32, 1}, SafetensorsType::I32},
    {"uint64", {kDLUInt, 64, 1}, SafetensorsType::U64},
    {"int64", {kDLInt, 64, 1}, SafetensorsType::I64},
    {"float8_e4m3fn", {float8E4M3FN, 8, 1}, SafetensorsType::F8E4M3},
    {"float8_e5m2", {float8E5M2, 8, 1}, SafetensorsType::F8E5M2},
    {"float8_e8m0fnu", {float8E8M0, 8, 1}, SafetensorsType::F8E8M0},
    {"float16", {kDLFloat, 16, 1}, SafetensorsType::F16},
    {"bfloat16", {kDLBfloat, 16, 1}, SafetensorsType::BF16},
    {"float32", {kDLFloat, 32, 1}, SafetensorsType::F32},
    {"float64", {kDLFloat, 64, 1}, SafetensorsType::F64},
};

const ElementType *mlir::moe::run::findElementType(StringRef name) {
  const ElementType *it =
      llvm::find_if(elementTypes, [&](const ElementType &type) { return type.name == name; });
  return it == std::end(elementTypes) ? nullptr : it;
}

const ElementType *mlir::moe::run::findElementType(SafetensorsType file) {
  const ElementType *it =
      llvm::find_if(elementTypes, [&](const ElementType &type) { return type.file == file; });
  return it == std::end(elementTypes) ? nullptr : it;
}

/// Null for types that are no floats.
static const llvm::fltSemantics *getSemantics(SafetensorsType type) {
  switch (type) {
  case SafetensorsType::F8E4M3:
    return &APFloat::Float8E4M3FN();
  case SafetensorsType::F8E5M2:
    return &APFloat::Float8E5M2();
  case SafetensorsType::F8E8M0:
    return &APFloat::Float8E8M0FNU();
  case SafetensorsType::F16:
    return &APFloat::IEEEhalf();
  case SafetensorsType::BF16:
    return &APFloat::BFloat();
  case SafetensorsType::F32:
    return &APFloat::IEEEsingle();
  case SafetensorsType::F64:
    return &APFloat::IEEEdouble();
  default:
    return nullptr;
  }
}

bool ElementType::isFloat() const { return getSemantics(file); }

std::string mlir::moe::run::formatShape(ArrayRef<int64_t> shape) {
  std::string text = "[";
  llvm::raw_string_ostream os(text);
  llvm::interleaveComma(shape, os);
  os << "]";
  return text;
}

static int64_t countElements(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t dim : shape)
    count *= dim;
  return count;
}

Value::Value(StringRef name, const ElementType *type, ArrayRef<int64_t> shape)
    : name(name.str()), type(type), shape(shape),
      bytes(size_t(countElements(shape)) * type->getNumBytes()) {}

Value::Value(const SafetensorsFile &file, const SafetensorsTensor &source)
    : name(source.name), type(findElementType(source.type)), shape(source.shape) {
  ArrayRef<char> data = file.getData(source);
  bytes.assign(data.begin(), data.end());
}

int64_t Value::getNumElements() const { return countElements(shape); }

/// Stores a double, rounded to nearest even.
static void storeFloat(char *element, const ElementType *type, double value) {
  if (type->file == SafetensorsType::F32) {
    auto narrow = float(value);
    memcpy(element, &narrow, sizeof(narrow));
    return;
  }
  APFloat number(value);
  bool losesInfo;
  number.convert(*getSemantics(type->file), APFloat::rmNearestTiesToEven, &losesInfo);
  uint64_t bits = number.bitcastToAPInt().getZExtValue();
  memcpy(element, &bits, type->getNumBytes());
}

void Value::fillRandom(std::mt19937_64 &random) {
  std::normal_distribution<double> normal;
  unsigned width = type->getNumBytes();
  uint64_t mask = type->file == SafetensorsType::Bool ? 1 : 7;
  for (size_t i = 0; i < bytes.size(); i += width) {
    if (type->isFloat()) {
      storeFloat(&bytes[i], type, normal(random));
      continue;
    }
    uint64_t bits = random() & mask;
    memcpy(&bytes[i], &bits, width);
  }
}

double Value::getElement(int64_t index) const {
  unsigned width = type->getNumBytes();
  uint64_t bits = 0;
  memcpy(&bits, &bytes[size_t(index) * width], width);
  if (const llvm::fltSemantics *semantics = getSemantics(type->file)) {
    APFloat number(*semantics, llvm::APInt(8 * width, bits));
    bool losesInfo;
    number.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven, &losesInfo);
    return number.convertToDouble();
  }
  if (type->dlpack.code == kDLInt)
    return double(llvm::SignExtend64(bits, 8 * width));
  return double(bits);
}

DLTensor &Value::getTensor() {
  tensor.data = bytes.data();
  tensor.device = {kDLCPU, 0};
  tensor.ndim = int32_t(shape.size());
  tensor.dtype = type->dlpack;
  tensor.shape = shape.data();
  tensor.strides = nullptr;
  tensor.byte_offset = 0;
  return tensor;
}

static Error writeFile(StringRef path, ArrayRef<Value> values) {
  SafetensorsWriter writer;
  for (const Value &value : values) {
    auto offset = writer.declare(value.getName(), value.getType()->file, value.getShape());
    if (!offset)
      return offset.takeError();
  }
  if (Error error = writer.open(path))
    return error;
  for (const Value &value : values)
    if (Error error = writer.write(value.getBytes()))
      return error;
  return writer.finish();
}

Error mlir::moe::run::writeValues(StringRef path, ArrayRef<Value> values) {
  std::string partial = (path + ".part").str();
  Error error = writeFile(partial, values);
  if (!error)
    error = llvm::errorCodeToError(llvm::sys::fs::rename(partial, path));
  if (!error)
    return Error::success();
  llvm::sys::fs::remove(partial);
  return makeError(Status::Output, "cannot write '" + path + "': " + toString(std::move(error)));
}

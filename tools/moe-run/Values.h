// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Tensors of moe-run: from and to safetensors files, random, compared.

#ifndef MOEC_TOOLS_MOERUN_VALUES_H
#define MOEC_TOOLS_MOERUN_VALUES_H

#include "moec/Runtime/moec.h"
#include "moec/Support/Safetensors.h"
#include <random>

namespace mlir::moe::run {

/// An element type under its three names.
struct ElementType {
  const char *name; // as in NAME.json
  DLDataType dlpack;
  SafetensorsType file;

  bool isFloat() const;
  unsigned getNumBytes() const { return getByteWidth(file); }
};

/// Null when there is no such type.
const ElementType *findElementType(llvm::StringRef name);
const ElementType *findElementType(SafetensorsType type);

/// "[3, 128]"
std::string formatShape(llvm::ArrayRef<int64_t> shape);

/// A row-major tensor that owns its elements.
class Value {
public:
  Value(llvm::StringRef name, const ElementType *type, llvm::ArrayRef<int64_t> shape);
  /// A copy of a tensor of a file.
  Value(const SafetensorsFile &file, const SafetensorsTensor &tensor);

  const std::string &getName() const { return name; }
  const ElementType *getType() const { return type; }
  llvm::ArrayRef<int64_t> getShape() const { return shape; }
  int64_t getNumElements() const;
  llvm::ArrayRef<char> getBytes() const { return bytes; }
  llvm::MutableArrayRef<char> getBytes() { return bytes; }

  /// Floats are drawn from the normal distribution, bools are 0 or 1, other
  /// integers 0 ... 7: small enough to be indices in most models.
  void fillRandom(std::mt19937_64 &random);
  /// One element as a double.
  double getElement(int64_t index) const;

  /// Valid as long as this value.
  DLTensor &getTensor();

private:
  std::string name;
  const ElementType *type;
  llvm::SmallVector<int64_t, 4> shape;
  std::vector<char> bytes;
  DLTensor tensor = {};
};

/// Writes values to a file. It appears under its name when it is complete.
llvm::Error writeValues(llvm::StringRef path, llvm::ArrayRef<Value> values);

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_VALUES_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What a compiled library knows of itself: the tables of
// moec/Runtime/model_abi.h before they are constants.

#ifndef MOEC_TARGET_CPU_MODELDESCRIPTION_H
#define MOEC_TARGET_CPU_MODELDESCRIPTION_H

#include "mlir/IR/Types.h"
#include "moec/Target/CPU/WeightsFile.h"
#include "llvm/ADT/SmallVector.h"
#include <optional>
#include <string>
#include <vector>

namespace mlir::moe {

/// A dimension of an output that only the entry's `shapes` function knows.
constexpr int64_t kComputedDim = INT64_MIN;

struct TensorDescription {
  std::string name;
  Type elementType;
  /// As in moec_tensor_desc: a size; -1 - number of a symbol; kComputedDim.
  llvm::SmallVector<int64_t, 4> dims;
  /// How the model writes each dimension: "tokens", "128", "2*batch".
  std::vector<std::string> dimNames;
  /// Of an output: the number of the input whose rows it begins with; -1 for none.
  int64_t extends = -1;
};

struct EntryDescription {
  std::string name;
  std::vector<TensorDescription> inputs, outputs;
  std::vector<std::string> symbols;
  /// Bytes of workspace as an expression of the symbols and of `workers`, their
  /// number (see DimExpression.h); empty when it cannot be written so.
  std::string workspace;
  /// Bytes that are alive together at most; nullopt unless all sizes are static.
  std::optional<int64_t> liveBytes;
};

/// Code for GPUs, as in moec_image_desc.
struct ImageDescription {
  uint32_t capability = 0;
  bool isExact = false;
  uint32_t kind = 0;
  std::string bytes;
};

/// What a model for CUDA devices has in addition: images of its kernels, and their names by their
/// numbers.
struct CUDADescription {
  std::vector<ImageDescription> images;
  std::vector<std::string> kernels;
  /// The part of the weights' data section that the kernels read.
  uint64_t weightsBegin = 0, weightsBytes = 0;
  uint32_t numTensorMaps = 0;
};

/// The code for one level of instructions, or for GPUs that have the same kernels.
struct LevelDescription {
  /// Its number, by which the model's tables find it.
  unsigned number;
  /// Name of the machine.
  std::string name;
  std::string infoJSON;
  std::vector<EntryDescription> entries;
  /// nullopt: the entries run on the CPU.
  std::optional<CUDADescription> cuda;
};

struct ModelDescription {
  std::string name;
  unsigned numLevels;
  WeightsFileInfo weights;
};

/// DLPack's code and bits of an element type; false when it has none.
bool getDLPackType(Type elementType, uint8_t &code, uint8_t &bits);
/// NumPy's name of an element type: "float32", "bool", "uint8", "bfloat16", …
std::string getDTypeName(Type elementType);

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_MODELDESCRIPTION_H

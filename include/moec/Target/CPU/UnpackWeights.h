// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From a weights file back to the tensors of the model.
//
// The weights file's metadata has "moec.origin", JSON:
//
//   {"files": ["model.onnx"],
//    "tensors": [{"name": "fc1", "type": "tensor<4x64x32xf32>", "at": [0, 1234]}],
//    "weights": {"fc1_packed": {"sources": [{"type": "tensor<4x64x32xf32>",
//                                            "parts": [[0, 1234, 32768]]}],
//                               "transforms": ["#moe.panels<width = 32>"]}}}
//
// Tensors are those of the model that any weight has bytes of: the number of the file and the
// offset in it. A part of a source is file, offset and length, or null for constants of the
// program; there is one part, or one for each expert.

#ifndef MOEC_TARGET_CPU_UNPACKWEIGHTS_H
#define MOEC_TARGET_CPU_UNPACKWEIGHTS_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"
#include <cstdint>
#include <string>
#include <vector>

namespace mlir::moe {

/// Module attribute: [name, #moe.segment<…>] of each tensor of the model's files.
inline constexpr llvm::StringLiteral kTensorsAttr = "moe.tensors";

/// Writes the attribute, if there is none, from the weights that are as their file has them.
void recordTensors(ModuleOp module);

/// "moec.origin" of the planned weights; "" when the module does not say where they come from.
std::string getWeightsOrigin(ModuleOp module);

struct UnpackedWeights {
  /// How many tensors were written, and their bytes.
  size_t numTensors = 0;
  uint64_t numBytes = 0;
  /// Names of those that the weights have only some bytes of. They are left out.
  std::vector<std::string> incomplete;
};

/// Writes the model's tensors, bit for bit, from the weights file `path` to the safetensors
/// file `output`, with the memory of one expert. Elements of less than 8 bits are plain bytes
/// there, as in the model; bits of their last byte that no element has are zero. The error code
/// is std::errc::not_supported when weights were converted, io_error when the output cannot be
/// written.
llvm::Expected<UnpackedWeights> unpackWeights(llvm::StringRef path, llvm::StringRef output);

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_UNPACKWEIGHTS_H

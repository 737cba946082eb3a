// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The weights file of a package: NAME.safetensors.
//
// A weight is one tensor of its name; a weight in a bank is one tensor per
// expert, "WEIGHT/EXPERT". The data section starts at a multiple of 4096 and
// holds each weight where `--plan-weights` put it. "__metadata__" has
// "moec.digest" (hexadecimal BLAKE3 of the layout and the data, without
// padding), "moec.layout" (JSON, see `getWeightsLayout`), "moec.origin" (JSON, see
// UnpackWeights.h) and "moec.version".

#ifndef MOEC_TARGET_CPU_WEIGHTSFILE_H
#define MOEC_TARGET_CPU_WEIGHTSFILE_H

#include "mlir/IR/BuiltinOps.h"
#include "moec/Target/CPU/WeightTransforms.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/Support/Error.h"
#include <cstdint>
#include <string>

namespace mlir::moe {

/// What the library must know of its weights file. All zero: there is none.
struct WeightsFileInfo {
  uint64_t fileBytes = 0;
  uint64_t dataOffset = 0;
  uint64_t dataBytes = 0;
  std::string digest;
  /// Of each weight that was converted (see WeightPacker), by its name.
  llvm::StringMap<ConversionError> conversionErrors;
};

/// Called with the bytes written until now and in all; false stops the writing.
using WeightsProgress = llvm::function_ref<bool(uint64_t, uint64_t)>;

/// The planned weights as JSON: a list of {"name", "type", "offset",
/// "expert_stride", "experts", "bank"?}.
std::string getWeightsLayout(ModuleOp module);

/// Streams the planned weights of `module` to `path`, expert by expert, through
/// their transforms. Sources are relative to `modelFolder`. Writes no file when
/// there are no weights. An unfinished file is left to the caller to remove.
/// `sourceFailed` is set when the error is in the model's files and not in
/// writing.
llvm::Expected<WeightsFileInfo> writeWeightsFile(ModuleOp module, llvm::StringRef modelFolder,
                                                 llvm::StringRef path, bool &sourceFailed,
                                                 WeightsProgress progress);

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_WEIGHTSFILE_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Modules of the onnx dialect as ONNX models.

#ifndef MOEC_FRONTEND_ONNX_EXPORTER_H
#define MOEC_FRONTEND_ONNX_EXPORTER_H

#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mlir::moe {

/// A weight in the data file of a model.
struct ExternalWeight {
  WeightOp weight;
  uint64_t offset, length;
};

/// A model whose large tensors are in a file beside it.
struct ExportedModel {
  /// The serialized ModelProto.
  std::string bytes;
  /// In the order of their offsets.
  std::vector<ExternalWeight> weights;
  uint64_t dataBytes = 0;
};

/// The function of `module` as an ONNX model: every op is an `onnx.node`, a
/// `moe.load_weight` or the return. Nodes are named after their locations, values after
/// their `outputs`; names that are missing or taken are made. The operator set is the
/// newest of the model's and of its nodes' versions. Weights are external, in a file called
/// `dataName`; constants are in the model. On what cannot be written emits an error at
/// the op, for each.
FailureOr<ExportedModel> exportONNX(ModuleOp module, StringRef dataName);

/// Called with the bytes written until now and in all; false stops the writing.
using ExportProgress = llvm::function_ref<bool(uint64_t, uint64_t)>;

/// Streams the external weights to `path`, expert by expert, through their transforms.
/// Sources are relative to `modelFolder`. `sourceFailed` is set when the error is in the
/// model's files and not in writing. An unfinished file is left to the caller.
llvm::Error writeExternalData(const ExportedModel &model, StringRef modelFolder, StringRef path,
                              bool &sourceFailed, ExportProgress progress);

} // namespace mlir::moe

#endif // MOEC_FRONTEND_ONNX_EXPORTER_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A slim copy of an ONNX model: everything but its large tensors.

#ifndef MOEC_FRONTEND_ONNX_WIREFORMAT_H
#define MOEC_FRONTEND_ONNX_WIREFORMAT_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mlir::moe {

/// Bytes of a tensor inside the model file.
struct PayloadRange {
  uint64_t offset = 0;
  uint64_t length = 0;
};

/// A serialized ModelProto without its large payloads. A TensorProto whose
/// `raw_data`, packed `float_data` or packed `double_data` was larger than the
/// threshold has instead the field `segment` with `begin` = index into
/// `payloads` and `end` = number of the field that held the data (ONNX never
/// came to use `segment`; models that do are refused). Doc strings, metadata
/// and training information are left out.
struct SlimModel {
  std::string bytes;
  std::vector<PayloadRange> payloads;
};

/// Tensors up to this many bytes stay inside the slim model, and become
/// attributes later.
inline constexpr uint64_t kLargeTensorBytes = 4096;

/// Copies the serialized ModelProto `data` without its large payloads, whose
/// pages are never touched. Checks all tags and lengths on its way: truncated
/// or malformed data, and nesting deeper than 96 messages, is an error that
/// says where; std::errc::not_supported for a segmented tensor.
llvm::Expected<SlimModel> makeSlimModel(llvm::StringRef data,
                                        uint64_t threshold = kLargeTensorBytes);

} // namespace mlir::moe

#endif // MOEC_FRONTEND_ONNX_WIREFORMAT_H

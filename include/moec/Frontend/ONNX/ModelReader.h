// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// An ONNX model as plain structures, read without loading its weights.

#ifndef MOEC_FRONTEND_ONNX_MODELREADER_H
#define MOEC_FRONTEND_ONNX_MODELREADER_H

#include "moec/Frontend/ONNX/WireFormat.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/Support/LLVM.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mlir::moe {

/// A dimension: a size, or text (a symbol or an expression), or neither when
/// the model leaves it unset.
struct ModelDim {
  std::optional<int64_t> size;
  std::string text;
};

/// Element types are numbered as in TensorProto.DataType.
struct ModelType {
  enum Kind { None, Tensor, Other } kind = None;
  int32_t elementType = 0;
  bool hasShape = false;
  std::vector<ModelDim> dims;
};

struct ModelValue {
  std::string name;
  ModelType type;
};

/// A tensor: its elements as in ONNX's `raw_data` (little-endian, row-major,
/// 4-bit elements two to a byte, low half first), either here or in a file.
/// The number of bytes was checked against type and shape, except for strings,
/// which have none.
struct ModelTensor {
  std::string name;
  int32_t elementType = 0;
  std::vector<int64_t> dims;
  /// Elements, when `file` is empty.
  std::string bytes;
  /// Path relative to the model's folder, and the range in it.
  std::string file;
  uint64_t offset = 0, length = 0;

  uint64_t getNumBytes() const { return file.empty() ? bytes.size() : length; }
};

struct ModelSparseTensor {
  ModelTensor values, indices;
  std::vector<int64_t> dims;
};

struct ModelGraph;

struct ModelAttribute {
  enum Kind {
    Float,
    Int,
    String,
    Tensor,
    Graph,
    Sparse,
    Type,
    Floats,
    Ints,
    Strings,
    Tensors,
    Reference
  } kind = Int;
  std::string name;
  /// For `Reference`: the function's attribute that gives the value.
  std::string reference;
  float f = 0;
  int64_t i = 0;
  std::string s;
  std::vector<float> floats;
  std::vector<int64_t> ints;
  std::vector<std::string> strings;
  std::vector<ModelTensor> tensors;
  std::vector<ModelSparseTensor> sparse;
  std::shared_ptr<ModelGraph> graph;
  ModelType type;
};

struct ModelNode {
  std::string name, opType, domain, overload;
  std::vector<std::string> inputs, outputs;
  std::vector<ModelAttribute> attributes;
};

struct ModelGraph {
  std::string name;
  std::vector<ModelNode> nodes;
  std::vector<ModelTensor> initializers;
  std::vector<ModelSparseTensor> sparseInitializers;
  std::vector<ModelValue> inputs, outputs, values;
};

using ModelOpsets = std::map<std::string, int64_t>;

struct ModelFunction {
  std::string domain, name, overload;
  std::vector<std::string> inputs, outputs;
  /// Attributes that have a default value.
  std::vector<ModelAttribute> defaults;
  std::vector<ModelNode> nodes;
  std::vector<ModelValue> values;
  ModelOpsets opsets;
};

struct Model {
  /// File name without folder, and the folder ("." when there is none).
  std::string fileName, folder;
  int64_t irVersion = 0;
  /// The default domain is "".
  ModelOpsets opsets;
  ModelGraph graph;
  std::vector<ModelFunction> functions;
};

/// Range of versions that are read.
inline constexpr int64_t kMinIRVersion = 3, kMaxIRVersion = 14;
inline constexpr int64_t kMinOpset = 11, kMaxOpset = 28;

/// Reads the ONNX file at `path`. The file is mapped, and large tensors are not
/// loaded. Bad input gives one error through the context's diagnostics.
FailureOr<Model> readModel(StringRef path, MLIRContext *context);

/// The elements of a tensor, from memory or from its file.
FailureOr<std::string> loadTensor(const Model &model, const ModelTensor &tensor,
                                  MLIRContext *context);

/// Name of an element type as in ONNX ("float", "bfloat16"), or its number.
std::string getElementTypeName(int32_t elementType);

/// Bits of an element; 0 for strings and unknown types. A bool has 8.
unsigned getElementTypeBits(int32_t elementType);

} // namespace mlir::moe

#endif // MOEC_FRONTEND_ONNX_MODELREADER_H

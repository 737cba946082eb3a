// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Frontend/ONNX/ModelReader.h"

#include "moec/Support/Unsupported.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Location.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include "onnx-ml.pb.h"

#include <climits>
#include <cstring>

using namespace mlir;
using namespace mlir::moe;
namespace path = llvm::sys::path;
namespace fs = llvm::sys::fs;

//===----------------------------------------------------------------------===//
// Element types
//===----------------------------------------------------------------------===//

namespace {
/// Where elements are when they are not `raw_data`.
enum class Storage { None, Floats, Doubles, Int32s, Int64s, UInt64s };

struct ElementInfo {
  const char *name;
  unsigned bits;
  Storage storage;
  /// Range of the values in `int32_data` and `uint64_data`.
  int64_t min, max;
};
} // namespace

/// Indexed by TensorProto.DataType. 4-bit and 2-bit types hold packed bytes in
/// `int32_data`. 6-bit types are not read: no operator that we know uses them.
static const ElementInfo kElements[] = {
    {"undefined", 0, Storage::None, 0, 0},
    {"float", 32, Storage::Floats, 0, 0},
    {"uint8", 8, Storage::Int32s, 0, UINT8_MAX},
    {"int8", 8, Storage::Int32s, INT8_MIN, INT8_MAX},
    {"uint16", 16, Storage::Int32s, 0, UINT16_MAX},
    {"int16", 16, Storage::Int32s, INT16_MIN, INT16_MAX},
    {"int32", 32, Storage::Int32s, INT32_MIN, INT32_MAX},
    {"int64", 64, Storage::Int64s, 0, 0},
    {"string", 0, Storage::None, 0, 0},
    {"bool", 8, Storage::Int32s, 0, 1},
    {"float16", 16, Storage::Int32s, 0, UINT16_MAX},
    {"double", 64, Storage::Doubles, 0, 0},
    {"uint32", 32, Storage::UInt64s, 0, UINT32_MAX},
    {"uint64", 64, Storage::UInt64s, 0, 0},
    {"complex64", 64, Storage::Floats, 0, 0},
    {"complex128", 128, Storage::Doubles, 0, 0},
    {"bfloat16", 16, Storage::Int32s, 0, UINT16_MAX},
    {"float8e4m3fn", 8, Storage::Int32s, 0, UINT8_MAX},
    {"float8e4m3fnuz", 8, Storage::Int32s, 0, UINT8_MAX},
    {"float8e5m2", 8, Storage::Int32s, 0, UINT8_MAX},
    {"float8e5m2fnuz", 8, Storage::Int32s, 0, UINT8_MAX},
    {"uint4", 4, Storage::Int32s, INT8_MIN, UINT8_MAX},
    {"int4", 4, Storage::Int32s, INT8_MIN, UINT8_MAX},
    {"float4e2m1", 4, Storage::Int32s, INT8_MIN, UINT8_MAX},
    {"float8e8m0", 8, Storage::Int32s, 0, UINT8_MAX},
    {"uint2", 2, Storage::Int32s, INT8_MIN, UINT8_MAX},
    {"int2", 2, Storage::Int32s, INT8_MIN, UINT8_MAX},
};

static const ElementInfo *lookupElement(int32_t elementType) {
  if (elementType < 0 || elementType >= int32_t(std::size(kElements)))
    return nullptr;
  return &kElements[elementType];
}

std::string mlir::moe::getElementTypeName(int32_t elementType) {
  const ElementInfo *info = lookupElement(elementType);
  return info ? info->name : "data type " + std::to_string(elementType);
}

unsigned mlir::moe::getElementTypeBits(int32_t elementType) {
  const ElementInfo *info = lookupElement(elementType);
  return info ? info->bits : 0;
}

//===----------------------------------------------------------------------===//
// Reader
//===----------------------------------------------------------------------===//

namespace {
class Reader {
public:
  Reader(StringRef filePath, MLIRContext *context) : filePath(filePath), context(context) {}

  FailureOr<Model> read();

private:
  Location getFileLocation() {
    return FileLineColLoc::get(context, path::filename(filePath), 0, 0);
  }
  InFlightDiagnostic emitError() { return mlir::emitError(getFileLocation()); }
  InFlightDiagnostic emitUnsupported() { return moe::emitUnsupported(getFileLocation()); }

  /// Names end up in JSON and in the package, which hold UTF-8 only.
  LogicalResult checkText(StringRef text, StringRef what);
  LogicalResult readOpsets(const google::protobuf::RepeatedPtrField<::onnx::OperatorSetIdProto> &in,
                           StringRef owner, ModelOpsets &out);
  LogicalResult readType(const ::onnx::TypeProto &in, StringRef owner, ModelType &out);
  LogicalResult readValues(const google::protobuf::RepeatedPtrField<::onnx::ValueInfoProto> &in,
                           std::vector<ModelValue> &out);
  FailureOr<uint64_t> countBytes(const ::onnx::TensorProto &in, StringRef owner);
  LogicalResult readExternal(const ::onnx::TensorProto &in, StringRef owner, uint64_t expected,
                             ModelTensor &out);
  LogicalResult readTyped(const ::onnx::TensorProto &in, StringRef owner, uint64_t expected,
                          ModelTensor &out);
  LogicalResult readTensor(const ::onnx::TensorProto &in, StringRef owner, ModelTensor &out);
  LogicalResult readSparse(const ::onnx::SparseTensorProto &in, ModelSparseTensor &out);
  LogicalResult readAttribute(const ::onnx::AttributeProto &in, StringRef owner,
                              ModelAttribute &out);
  LogicalResult readNode(const ::onnx::NodeProto &in, ModelNode &out);
  LogicalResult readGraph(const ::onnx::GraphProto &in, ModelGraph &out);
  LogicalResult readFunction(const ::onnx::FunctionProto &in, ModelFunction &out);
  FailureOr<uint64_t> getFileSize(StringRef relativePath, StringRef owner);

  StringRef filePath;
  MLIRContext *context;
  Model model;
  std::vector<PayloadRange> payloads;
  /// Sizes of the external files that were checked.
  llvm::StringMap<uint64_t> fileSizes;
};
} // namespace

LogicalResult Reader::checkText(StringRef text, StringRef what) {
  if (llvm::json::isUTF8(text))
    return success();
  return emitError() << "not a valid ONNX file: " << what << " '" << llvm::json::fixUTF8(text)
                     << "' is not UTF-8";
}

/// "ai.onnx" is the long name of the default domain.
static std::string canonicalDomain(const std::string &domain) {
  return domain == "ai.onnx" ? "" : domain;
}

LogicalResult
Reader::readOpsets(const google::protobuf::RepeatedPtrField<::onnx::OperatorSetIdProto> &in,
                   StringRef owner, ModelOpsets &out) {
  for (const ::onnx::OperatorSetIdProto &opset : in) {
    std::string domain = canonicalDomain(opset.domain());
    int64_t version = opset.version();
    if (failed(checkText(domain, "the operator set")))
      return failure();
    if (version < 1)
      return emitError() << owner << " imports version " << version << " of the operator set '"
                         << domain << "'; expected a positive one";
    if (domain.empty() && (version < kMinOpset || version > kMaxOpset))
      return emitUnsupported() << owner << " uses ONNX operator set " << version
                               << "; supported are " << kMinOpset << " to " << kMaxOpset;
    auto [it, added] = out.insert({domain, version});
    if (!added && it->second != version)
      return emitError() << owner << " imports two versions of the operator "
                         << "set '" << domain << "': " << it->second << " and " << version;
  }
  return success();
}

LogicalResult Reader::readType(const ::onnx::TypeProto &in, StringRef owner, ModelType &out) {
  if (in.value_case() == ::onnx::TypeProto::VALUE_NOT_SET)
    return success();
  if (in.value_case() != ::onnx::TypeProto::kTensorType) {
    out.kind = ModelType::Other;
    return success();
  }
  const ::onnx::TypeProto::Tensor &tensor = in.tensor_type();
  out.kind = ModelType::Tensor;
  out.elementType = tensor.elem_type();
  if (!lookupElement(out.elementType))
    return emitError() << owner << " has the unknown data type " << out.elementType;
  if (!tensor.has_shape())
    return success();
  out.hasShape = true;
  int64_t elements = 1;
  for (const ::onnx::TensorShapeProto::Dimension &dim : tensor.shape().dim()) {
    ModelDim &result = out.dims.emplace_back();
    if (dim.value_case() == ::onnx::TensorShapeProto::Dimension::kDimParam)
      result.text = dim.dim_param();
    if (failed(checkText(result.text, "the dimension")))
      return failure();
    if (dim.value_case() != ::onnx::TensorShapeProto::Dimension::kDimValue)
      continue;
    // Some exporters write -1 for a dimension that they do not know.
    if (dim.dim_value() == -1)
      continue;
    if (dim.dim_value() < 0)
      return emitError() << owner << " has the negative dimension " << dim.dim_value();
    result.size = dim.dim_value();
    if (llvm::MulOverflow(elements, std::max<int64_t>(dim.dim_value(), 1), elements) ||
        elements > INT64_MAX / 128)
      return emitError() << owner << " has more elements than fit in memory";
  }
  return success();
}

LogicalResult
Reader::readValues(const google::protobuf::RepeatedPtrField<::onnx::ValueInfoProto> &in,
                   std::vector<ModelValue> &out) {
  for (const ::onnx::ValueInfoProto &value : in) {
    ModelValue &result = out.emplace_back();
    result.name = value.name();
    if (failed(checkText(result.name, "the value")))
      return failure();
    if (failed(readType(value.type(), "value '" + value.name() + "'", result.type)))
      return failure();
  }
  return success();
}

/// Bytes of the tensor's elements, from its type and shape.
FailureOr<uint64_t> Reader::countBytes(const ::onnx::TensorProto &in, StringRef owner) {
  int64_t elements = 1;
  bool overflow = false, empty = false;
  for (int64_t dim : in.dims()) {
    if (dim < 0)
      return emitError() << owner << " has the negative dimension " << dim;
    empty |= dim == 0;
    overflow |= llvm::MulOverflow(elements, std::max<int64_t>(dim, 1), elements);
  }
  if (overflow || elements > INT64_MAX / 128)
    return emitError() << owner << " has more elements than fit in memory";
  if (empty)
    return 0;
  uint64_t bits = elements * getElementTypeBits(in.data_type());
  return llvm::divideCeil(bits, 8);
}

/// Size of a file of external data, which must lie in the model's folder.
FailureOr<uint64_t> Reader::getFileSize(StringRef relativePath, StringRef owner) {
  auto known = fileSizes.find(relativePath);
  if (known != fileSizes.end())
    return known->second;
  if (relativePath.empty() || path::is_absolute(relativePath) ||
      llvm::is_contained(llvm::make_range(path::begin(relativePath), path::end(relativePath)),
                         ".."))
    return emitError() << owner << " is stored in '" << relativePath
                       << "', which is not a path inside the model's folder";
  SmallString<256> full(model.folder), realFolder, realFile;
  path::append(full, relativePath);
  if (std::error_code error = fs::real_path(full, realFile))
    return emitError() << owner << " is stored in '" << relativePath
                       << "', which cannot be opened: " << error.message();
  if (std::error_code error = fs::real_path(model.folder, realFolder))
    return emitError() << "cannot resolve the model's folder: " << error.message();
  if (!path::is_separator(realFolder.back()))
    realFolder.push_back('/');
  if (!realFile.str().starts_with(realFolder))
    return emitError() << owner << " is stored in '" << relativePath
                       << "', a link that leads out of the model's folder";
  uint64_t size = 0;
  if (!fs::is_regular_file(realFile) || fs::file_size(realFile, size))
    return emitError() << owner << " is stored in '" << relativePath
                       << "', which is not a regular file";
  fileSizes[relativePath] = size;
  return size;
}

LogicalResult Reader::readExternal(const ::onnx::TensorProto &in, StringRef owner,
                                   uint64_t expected, ModelTensor &out) {
  std::optional<uint64_t> length;
  for (const ::onnx::StringStringEntryProto &entry : in.external_data()) {
    StringRef key = entry.key(), value = entry.value();
    if (key == "location")
      out.file = value;
    uint64_t number = 0;
    if ((key == "offset" || key == "length") && value.getAsInteger(10, number))
      return emitError() << owner << " has the external-data " << key << " '" << value
                         << "'; expected a number of bytes";
    if (key == "offset")
      out.offset = number;
    if (key == "length")
      length = number;
  }
  SmallString<128> clean(out.file);
  path::remove_dots(clean);
  out.file = clean.str();
  if (length && *length != expected)
    return emitError() << owner << " has " << *length
                       << " bytes of external data; its type and shape need " << expected;
  out.length = expected;
  FailureOr<uint64_t> size = getFileSize(out.file, owner);
  if (failed(size))
    return failure();
  if (out.offset > *size || expected > *size - out.offset)
    return emitError() << owner << " needs bytes " << out.offset << " to " << out.offset << " + "
                       << expected << " of '" << out.file << "', which has " << *size;
  return success();
}

/// Appends the low `bytes` bytes of `value`.
static void appendLittleEndian(uint64_t value, unsigned bytes, std::string &out) {
  for (unsigned i = 0; i < bytes; ++i)
    out.push_back(static_cast<char>(value >> (8 * i)));
}

LogicalResult Reader::readTyped(const ::onnx::TensorProto &in, StringRef owner, uint64_t expected,
                                ModelTensor &out) {
  const ElementInfo &info = *lookupElement(in.data_type());
  unsigned width = std::max(info.bits / 8, 1u);
  auto append = [&](const auto &values) -> LogicalResult {
    for (int64_t value : values) {
      if (info.min != info.max && (value < info.min || value > info.max))
        return emitError() << owner << " holds " << value << ", which is not a value of type "
                           << info.name;
      appendLittleEndian(value, width, out.bytes);
    }
    return success();
  };
  auto appendReals = [&](const auto &values) {
    for (auto value : values)
      out.bytes.append(reinterpret_cast<const char *>(&value), sizeof(value));
  };
  LogicalResult result = success();
  switch (info.storage) {
  case Storage::None:
    break;
  case Storage::Floats:
    appendReals(in.float_data());
    break;
  case Storage::Doubles:
    appendReals(in.double_data());
    break;
  case Storage::Int32s:
    result = append(in.int32_data());
    break;
  case Storage::Int64s:
    result = append(in.int64_data());
    break;
  case Storage::UInt64s:
    result = append(in.uint64_data());
    break;
  }
  if (failed(result))
    return failure();
  if (out.bytes.size() != expected)
    return emitError() << owner << " has " << out.bytes.size()
                       << " bytes of data; its type and shape need " << expected;
  return success();
}

LogicalResult Reader::readTensor(const ::onnx::TensorProto &in, StringRef owner, ModelTensor &out) {
  out.name = in.name();
  if (failed(checkText(out.name, "the tensor")))
    return failure();
  out.elementType = in.data_type();
  out.dims.assign(in.dims().begin(), in.dims().end());
  FailureOr<uint64_t> expected = countBytes(in, owner);
  if (failed(expected))
    return failure();
  if (in.data_type() == ::onnx::TensorProto::STRING)
    return success();
  if (getElementTypeBits(in.data_type()) == 0)
    return emitError() << owner << " has the unknown data type " << in.data_type();

  if (in.data_location() == ::onnx::TensorProto::EXTERNAL) {
    if (failed(readExternal(in, owner, *expected, out)))
      return failure();
    if (out.length > kLargeTensorBytes)
      return success();
    FailureOr<std::string> bytes = loadTensor(model, out, context);
    if (failed(bytes))
      return failure();
    out.bytes = std::move(*bytes);
    out.file.clear();
    return success();
  }
  if (in.has_segment()) {
    const PayloadRange &payload = payloads[in.segment().begin()];
    Storage storage = lookupElement(in.data_type())->storage;
    bool fits = in.segment().end() == ::onnx::TensorProto::kRawDataFieldNumber ||
                (in.segment().end() == ::onnx::TensorProto::kFloatDataFieldNumber
                     ? storage == Storage::Floats
                     : storage == Storage::Doubles);
    if (!fits)
      return emitError() << owner << " is of type " << getElementTypeName(in.data_type())
                         << " but holds its data as another type";
    if (payload.length != *expected)
      return emitError() << owner << " has " << payload.length
                         << " bytes of data; its type and shape need " << *expected;
    out.file = model.fileName;
    out.offset = payload.offset;
    out.length = payload.length;
    return success();
  }
  if (!in.has_raw_data())
    return readTyped(in, owner, *expected, out);
  if (in.raw_data().size() != *expected)
    return emitError() << owner << " has " << in.raw_data().size()
                       << " bytes of data; its type and shape need " << *expected;
  out.bytes = in.raw_data();
  return success();
}

LogicalResult Reader::readSparse(const ::onnx::SparseTensorProto &in, ModelSparseTensor &out) {
  std::string owner = "sparse tensor '" + in.values().name() + "'";
  out.dims.assign(in.dims().begin(), in.dims().end());
  return success(succeeded(readTensor(in.values(), owner, out.values)) &&
                 succeeded(readTensor(in.indices(), owner, out.indices)));
}

using AttributeKind = ::onnx::AttributeProto::AttributeType;

/// Whether an attribute holds a value of a kind.
static bool holds(const ::onnx::AttributeProto &in, AttributeKind kind) {
  using Proto = ::onnx::AttributeProto;
  switch (kind) {
  case Proto::FLOAT:
    return in.has_f();
  case Proto::INT:
    return in.has_i();
  case Proto::STRING:
    return in.has_s();
  case Proto::TENSOR:
    return in.has_t();
  case Proto::GRAPH:
    return in.has_g();
  case Proto::SPARSE_TENSOR:
    return in.has_sparse_tensor();
  case Proto::TYPE_PROTO:
    return in.has_tp();
  case Proto::FLOATS:
    return in.floats_size();
  case Proto::INTS:
    return in.ints_size();
  case Proto::STRINGS:
    return in.strings_size();
  case Proto::TENSORS:
    return in.tensors_size();
  case Proto::GRAPHS:
    return in.graphs_size();
  case Proto::SPARSE_TENSORS:
    return in.sparse_tensors_size();
  case Proto::TYPE_PROTOS:
    return in.type_protos_size();
  default:
    return false;
  }
}

/// The first kind that an attribute holds a value of.
static AttributeKind findKind(const ::onnx::AttributeProto &in) {
  using Proto = ::onnx::AttributeProto;
  for (int kind = Proto::AttributeType_MIN; kind <= Proto::AttributeType_MAX; ++kind)
    if (holds(in, AttributeKind(kind)))
      return AttributeKind(kind);
  return Proto::UNDEFINED;
}

/// The kind of an attribute. Old models do not state it.
static AttributeKind inferKind(const ::onnx::AttributeProto &in) {
  return in.type() != ::onnx::AttributeProto::UNDEFINED ? in.type() : findKind(in);
}

/// Whether the value is of the stated kind. Zeros and empty lists need not be written.
static bool holdsItsKind(const ::onnx::AttributeProto &in) {
  using Proto = ::onnx::AttributeProto;
  AttributeKind kind = inferKind(in);
  bool isMessage = kind == Proto::TENSOR || kind == Proto::GRAPH || kind == Proto::SPARSE_TENSOR ||
                   kind == Proto::TYPE_PROTO;
  return holds(in, kind) || (findKind(in) == Proto::UNDEFINED && !isMessage);
}

LogicalResult Reader::readAttribute(const ::onnx::AttributeProto &in, StringRef node,
                                    ModelAttribute &out) {
  using Proto = ::onnx::AttributeProto;
  std::string owner = "attribute '" + in.name() + "' of node '" + node.str() + "'";
  out.name = in.name();
  if (failed(checkText(out.name, "the attribute")))
    return failure();
  if (out.name.empty())
    return emitError() << "an attribute of node '" << node << "' has no name";
  if (!in.ref_attr_name().empty()) {
    out.kind = ModelAttribute::Reference;
    out.reference = in.ref_attr_name();
    return success();
  }
  if (!holdsItsKind(in)) {
    AttributeKind found = findKind(in);
    return emitError() << owner << " is stated to be of kind "
                       << Proto::AttributeType_Name(inferKind(in)) << ", but holds "
                       << (found == Proto::UNDEFINED ? "nothing"
                                                     : Proto::AttributeType_Name(found));
  }
  switch (inferKind(in)) {
  case Proto::FLOAT:
    out.kind = ModelAttribute::Float;
    out.f = in.f();
    return success();
  case Proto::INT:
    out.kind = ModelAttribute::Int;
    out.i = in.i();
    return success();
  case Proto::STRING:
    out.kind = ModelAttribute::String;
    out.s = in.s();
    return success();
  case Proto::TENSOR:
    out.kind = ModelAttribute::Tensor;
    return readTensor(in.t(), owner, out.tensors.emplace_back());
  case Proto::GRAPH:
    out.kind = ModelAttribute::Graph;
    out.graph = std::make_shared<ModelGraph>();
    return readGraph(in.g(), *out.graph);
  case Proto::SPARSE_TENSOR:
    out.kind = ModelAttribute::Sparse;
    return readSparse(in.sparse_tensor(), out.sparse.emplace_back());
  case Proto::TYPE_PROTO:
    out.kind = ModelAttribute::Type;
    return readType(in.tp(), owner, out.type);
  case Proto::FLOATS:
    out.kind = ModelAttribute::Floats;
    out.floats.assign(in.floats().begin(), in.floats().end());
    return success();
  case Proto::INTS:
    out.kind = ModelAttribute::Ints;
    out.ints.assign(in.ints().begin(), in.ints().end());
    return success();
  case Proto::STRINGS:
    out.kind = ModelAttribute::Strings;
    out.strings.assign(in.strings().begin(), in.strings().end());
    return success();
  case Proto::TENSORS:
    out.kind = ModelAttribute::Tensors;
    for (const ::onnx::TensorProto &tensor : in.tensors())
      if (failed(readTensor(tensor, owner, out.tensors.emplace_back())))
        return failure();
    return success();
  case Proto::GRAPHS:
  case Proto::SPARSE_TENSORS:
  case Proto::TYPE_PROTOS:
    return emitUnsupported() << owner << " is of kind " << Proto::AttributeType_Name(inferKind(in))
                             << ", which is not supported";
  default:
    return emitError() << owner << " has no value and is of the unknown kind "
                       << int(inferKind(in));
  }
}

LogicalResult Reader::readNode(const ::onnx::NodeProto &in, ModelNode &out) {
  out.name = in.name();
  out.opType = in.op_type();
  out.domain = canonicalDomain(in.domain());
  out.overload = in.overload();
  out.inputs.assign(in.input().begin(), in.input().end());
  out.outputs.assign(in.output().begin(), in.output().end());
  for (StringRef text : {out.name, out.opType, out.domain, out.overload})
    if (failed(checkText(text, "the node")))
      return failure();
  for (const std::vector<std::string> *names : {&out.inputs, &out.outputs})
    for (const std::string &name : *names)
      if (failed(checkText(name, "the value")))
        return failure();
  if (out.opType.empty())
    return emitError() << "node '" << out.name << "' has no operator";
  for (const ::onnx::AttributeProto &attribute : in.attribute()) {
    if (failed(readAttribute(attribute, out.name.empty() ? out.opType : out.name,
                             out.attributes.emplace_back())))
      return failure();
  }
  return success();
}

LogicalResult Reader::readGraph(const ::onnx::GraphProto &in, ModelGraph &out) {
  out.name = in.name();
  for (const ::onnx::NodeProto &node : in.node())
    if (failed(readNode(node, out.nodes.emplace_back())))
      return failure();
  for (const ::onnx::TensorProto &tensor : in.initializer())
    if (failed(readTensor(tensor, "initializer '" + tensor.name() + "'",
                          out.initializers.emplace_back())))
      return failure();
  for (const ::onnx::SparseTensorProto &tensor : in.sparse_initializer())
    if (failed(readSparse(tensor, out.sparseInitializers.emplace_back())))
      return failure();
  return success(succeeded(readValues(in.input(), out.inputs)) &&
                 succeeded(readValues(in.output(), out.outputs)) &&
                 succeeded(readValues(in.value_info(), out.values)));
}

LogicalResult Reader::readFunction(const ::onnx::FunctionProto &in, ModelFunction &out) {
  out.domain = canonicalDomain(in.domain());
  out.name = in.name();
  out.overload = in.overload();
  out.inputs.assign(in.input().begin(), in.input().end());
  out.outputs.assign(in.output().begin(), in.output().end());
  for (const ::onnx::AttributeProto &attribute : in.attribute_proto())
    if (failed(readAttribute(attribute, "function " + in.name(), out.defaults.emplace_back())))
      return failure();
  for (const ::onnx::NodeProto &node : in.node())
    if (failed(readNode(node, out.nodes.emplace_back())))
      return failure();
  if (failed(readValues(in.value_info(), out.values)))
    return failure();
  return readOpsets(in.opset_import(), "function '" + in.name() + "'", out.opsets);
}

FailureOr<Model> Reader::read() {
  auto buffer = llvm::MemoryBuffer::getFile(filePath, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
  if (!buffer)
    return emitError() << "cannot open '" << filePath << "': " << buffer.getError().message();
  model.fileName = path::filename(filePath);
  model.folder = path::parent_path(filePath);
  if (model.folder.empty())
    model.folder = ".";

  llvm::Expected<SlimModel> slim = makeSlimModel((*buffer)->getBuffer());
  if (!slim) {
    std::string message;
    std::error_code code;
    llvm::handleAllErrors(slim.takeError(), [&](const llvm::StringError &error) {
      message = error.getMessage();
      code = error.convertToErrorCode();
    });
    return (code == std::errc::not_supported ? emitUnsupported() : emitError()) << message;
  }
  payloads = std::move(slim->payloads);
  ::onnx::ModelProto proto;
  if (slim->bytes.size() > INT_MAX)
    return emitUnsupported() << "the graph without its large tensors is larger than "
                                "2 GB";
  if (!proto.ParseFromArray(slim->bytes.data(), slim->bytes.size()))
    return emitError() << "not a valid ONNX file: its messages cannot be parsed";
  slim->bytes = std::string();

  model.irVersion = proto.ir_version();
  if (!proto.has_ir_version() || !proto.has_graph())
    return emitError() << "not an ONNX model: it has no "
                       << (proto.has_graph() ? "IR version" : "graph");
  if (model.irVersion < kMinIRVersion || model.irVersion > kMaxIRVersion)
    return emitUnsupported() << "the model has ONNX IR version " << model.irVersion
                             << "; supported are " << kMinIRVersion << " to " << kMaxIRVersion;
  if (failed(readOpsets(proto.opset_import(), "the model", model.opsets)) ||
      failed(readGraph(proto.graph(), model.graph)))
    return failure();
  for (const ::onnx::FunctionProto &function : proto.functions())
    if (failed(readFunction(function, model.functions.emplace_back())))
      return failure();
  return std::move(model);
}

FailureOr<Model> mlir::moe::readModel(StringRef filePath, MLIRContext *context) {
  return Reader(filePath, context).read();
}

FailureOr<std::string> mlir::moe::loadTensor(const Model &model, const ModelTensor &tensor,
                                             MLIRContext *context) {
  if (tensor.file.empty())
    return tensor.bytes;
  SmallString<256> full(model.folder);
  path::append(full, tensor.file);
  auto slice = llvm::MemoryBuffer::getFileSlice(full, tensor.length, tensor.offset);
  if (!slice || (*slice)->getBufferSize() != tensor.length)
    return mlir::emitError(FileLineColLoc::get(context, model.fileName, 0, 0))
           << "cannot read " << tensor.length << " bytes of tensor '" << tensor.name << "' from '"
           << tensor.file << "'";
  return (*slice)->getBuffer().str();
}

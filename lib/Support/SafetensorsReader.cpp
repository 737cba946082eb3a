// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Validation of safetensors files. Nothing in the header is trusted.

#include "moec/Support/Safetensors.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir::moe;
using llvm::ArrayRef;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;

/// Larger headers are refused, as by the format's reference implementation.
static constexpr uint64_t maxHeaderBytes = 100'000'000;
static constexpr uint64_t lengthBytes = 8;

namespace mlir::moe {
/// Fills a SafetensorsFile from its buffer.
class SafetensorsHeaderParser {
public:
  explicit SafetensorsHeaderParser(SafetensorsFile &file) : file(file) {}

  Error parse();

private:
  Error fail(const Twine &message) const;
  Error failTensor(StringRef name, const Twine &message) const;
  Expected<StringRef> findHeader();
  Error checkNesting(StringRef text, size_t &numKeys) const;
  Error parseMetadata(const llvm::json::Value &value);
  Error parseTensor(StringRef name, const llvm::json::Value &value);
  Error parseShape(const llvm::json::Object &object, SafetensorsTensor &tensor);
  Error parseOffsets(const llvm::json::Object &object, SafetensorsTensor &tensor);
  Error checkSize(const SafetensorsTensor &tensor) const;
  Error checkTiling();

  SafetensorsFile &file;
};
} // namespace mlir::moe

Error SafetensorsHeaderParser::fail(const Twine &message) const {
  return llvm::createStringError(file.buffer->getBufferIdentifier() + ": " + message);
}

Error SafetensorsHeaderParser::failTensor(StringRef name, const Twine &message) const {
  return fail("tensor '" + name + "': " + message);
}

Expected<StringRef> SafetensorsHeaderParser::findHeader() {
  StringRef bytes = file.buffer->getBuffer();
  if (bytes.size() < lengthBytes)
    return fail("not a safetensors file: it has " + Twine(bytes.size()) +
                " bytes, less than the length field of 8");
  uint64_t length = llvm::support::endian::read64le(bytes.data());
  if (length > maxHeaderBytes)
    return fail("not a safetensors file: a header of " + Twine(length) + " bytes (the limit is " +
                Twine(maxHeaderBytes) + ")");
  if (length > bytes.size() - lengthBytes)
    return fail("truncated: the header should have " + Twine(length) +
                " bytes, the file ends after " + Twine(bytes.size() - lengthBytes));
  file.dataOffset = lengthBytes + length;
  StringRef header = bytes.substr(lengthBytes, length);
  if (!header.starts_with("{"))
    return fail("not a safetensors file: the header does not begin with '{'");
  return header;
}

/// The JSON parser recurses without a limit and keeps only one of two equal
/// keys. A header nests three deep, and its keys can be counted.
Error SafetensorsHeaderParser::checkNesting(StringRef text, size_t &numKeys) const {
  unsigned depth = 0;
  bool inString = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (inString) {
      if (c == '\\')
        ++i;
      inString = c != '"';
      continue;
    }
    if (c == '"')
      inString = true;
    else if (c == ':')
      ++numKeys;
    else if (c == '{' || c == '[')
      ++depth;
    else if ((c == '}' || c == ']') && depth > 0)
      --depth;
    if (depth > 3)
      return fail("the header nests deeper than a safetensors header can");
  }
  return Error::success();
}

Error SafetensorsHeaderParser::parse() {
  Expected<StringRef> header = findHeader();
  if (!header)
    return header.takeError();
  size_t numKeys = 0;
  if (Error error = checkNesting(*header, numKeys))
    return error;
  Expected<llvm::json::Value> root = llvm::json::parse(*header);
  if (!root)
    return fail("the header is not JSON: " + toString(root.takeError()));
  const llvm::json::Object *object = root->getAsObject();
  if (!object)
    return fail("the header is not a JSON object");

  size_t numDistinctKeys = object->size();
  for (const auto &[key, value] : *object) {
    if (const llvm::json::Object *inner = value.getAsObject())
      numDistinctKeys += inner->size();
    Error error = key == "__metadata__" ? parseMetadata(value) : parseTensor(key, value);
    if (error)
      return error;
  }
  if (numKeys != numDistinctKeys)
    return fail("the header has the same key twice");
  return checkTiling();
}

Error SafetensorsHeaderParser::parseMetadata(const llvm::json::Value &value) {
  const llvm::json::Object *object = value.getAsObject();
  if (!object)
    return fail("__metadata__ is not an object");
  for (const auto &[key, entry] : *object) {
    std::optional<StringRef> text = entry.getAsString();
    if (!text)
      return fail("__metadata__: the value of '" + key.str() + "' is not a string");
    file.metadata[key.str()] = text->str();
  }
  return Error::success();
}

Error SafetensorsHeaderParser::parseTensor(StringRef name, const llvm::json::Value &value) {
  const llvm::json::Object *object = value.getAsObject();
  if (!object)
    return failTensor(name, "its description is not an object");
  if (object->size() != 3)
    return failTensor(name, "its description has " + Twine(object->size()) +
                                " keys instead of dtype, shape, data_offsets");
  SafetensorsTensor tensor;
  tensor.name = name.str();
  std::optional<StringRef> spelling = object->getString("dtype");
  if (!spelling)
    return failTensor(name, "no dtype");
  std::optional<SafetensorsType> type = symbolizeSafetensorsType(*spelling);
  if (!type)
    return failTensor(name, "unknown dtype '" + *spelling + "'");
  tensor.type = *type;
  if (Error error = parseShape(*object, tensor))
    return error;
  if (Error error = parseOffsets(*object, tensor))
    return error;
  if (Error error = checkSize(tensor))
    return error;
  file.tensors.push_back(std::move(tensor));
  return Error::success();
}

Error SafetensorsHeaderParser::parseShape(const llvm::json::Object &object,
                                          SafetensorsTensor &tensor) {
  const llvm::json::Array *shape = object.getArray("shape");
  if (!shape)
    return failTensor(tensor.name, "no shape");
  for (const llvm::json::Value &dim : *shape) {
    std::optional<int64_t> size = dim.getAsInteger();
    if (!size || *size < 0)
      return failTensor(tensor.name, "its shape has a size that is no whole number");
    tensor.shape.push_back(*size);
  }
  return Error::success();
}

Error SafetensorsHeaderParser::parseOffsets(const llvm::json::Object &object,
                                            SafetensorsTensor &tensor) {
  const llvm::json::Array *offsets = object.getArray("data_offsets");
  if (!offsets || offsets->size() != 2)
    return failTensor(tensor.name, "data_offsets is not a pair");
  std::optional<uint64_t> begin = (*offsets)[0].getAsUINT64();
  std::optional<uint64_t> end = (*offsets)[1].getAsUINT64();
  if (!begin || !end || *begin > *end)
    return failTensor(tensor.name, "data_offsets is not a range");
  uint64_t dataBytes = file.buffer->getBufferSize() - file.dataOffset;
  if (*end > dataBytes)
    return failTensor(tensor.name, "truncated: it ends at offset " + Twine(*end) +
                                       " of the data, which has " + Twine(dataBytes) + " bytes");
  tensor.begin = *begin;
  tensor.end = *end;
  return Error::success();
}

Error SafetensorsHeaderParser::checkSize(const SafetensorsTensor &tensor) const {
  uint64_t bytes = getByteWidth(tensor.type);
  bool isEmpty = llvm::is_contained(tensor.shape, 0);
  bool overflow = false;
  for (int64_t dim : tensor.shape) {
    bytes = llvm::SaturatingMultiply(bytes, uint64_t(dim), &overflow);
    if (overflow && !isEmpty)
      return failTensor(tensor.name, "its shape has more elements than any file");
  }
  if (isEmpty)
    bytes = 0;
  if (bytes != tensor.getNumBytes())
    return failTensor(tensor.name, "dtype and shape need " + Twine(bytes) +
                                       " bytes, data_offsets give " + Twine(tensor.getNumBytes()));
  return Error::success();
}

/// Sorts the tensors by offset (empty ones first, then by name, so that the
/// order is the same in every process) and checks that they tile the data.
Error SafetensorsHeaderParser::checkTiling() {
  llvm::sort(file.tensors, [](const auto &a, const auto &b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t position = 0;
  for (const auto &[index, tensor] : llvm::enumerate(file.tensors)) {
    if (tensor.begin != position)
      return failTensor(tensor.name, Twine(tensor.begin < position ? "overlaps"
                                                                   : "leaves "
                                                                     "a hole "
                                                                     "after") +
                                         " the tensor before it: it begins at offset " +
                                         Twine(tensor.begin) + " instead of " + Twine(position));
    position = tensor.end;
    file.indices[tensor.name] = index;
  }
  uint64_t dataBytes = file.buffer->getBufferSize() - file.dataOffset;
  if (position != dataBytes)
    return fail("the tensors cover " + Twine(position) + " bytes, the data section has " +
                Twine(dataBytes));
  return Error::success();
}

Expected<SafetensorsFile> SafetensorsFile::open(StringRef path) {
  auto buffer = llvm::MemoryBuffer::getFile(path, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
  if (!buffer)
    return llvm::createStringError(buffer.getError(),
                                   "cannot open '" + path + "': " + buffer.getError().message());
  return parse(std::move(*buffer));
}

Expected<SafetensorsFile> SafetensorsFile::parse(std::unique_ptr<llvm::MemoryBuffer> buffer) {
  SafetensorsFile file;
  file.buffer = std::move(buffer);
  if (Error error = SafetensorsHeaderParser(file).parse())
    return std::move(error);
  return std::move(file);
}

const SafetensorsTensor *SafetensorsFile::find(StringRef name) const {
  auto it = indices.find(name);
  return it == indices.end() ? nullptr : &tensors[it->second];
}

ArrayRef<char> SafetensorsFile::getAllData() const {
  return ArrayRef<char>(buffer->getBufferStart() + dataOffset, buffer->getBufferEnd());
}

ArrayRef<char> SafetensorsFile::getData(const SafetensorsTensor &tensor) const {
  return ArrayRef<char>(buffer->getBufferStart() + dataOffset + tensor.begin, tensor.getNumBytes());
}

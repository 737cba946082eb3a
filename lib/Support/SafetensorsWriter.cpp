// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Streaming writer of safetensors files.

#include "moec/Support/Safetensors.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir::moe;
using llvm::ArrayRef;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;

static constexpr uint64_t lengthBytes = 8;
/// Offsets above this cannot be offsets in a file (they are signed there).
static constexpr uint64_t maxOffset = INT64_MAX;

SafetensorsWriter::SafetensorsWriter(uint64_t dataAlignment) : dataAlignment(dataAlignment) {
  assert(dataAlignment >= lengthBytes && llvm::isPowerOf2_64(dataAlignment) &&
         "the alignment is a power of two of at least 8");
}

/// raw_fd_ostream aborts when it is destroyed with an error that nobody took.
SafetensorsWriter::~SafetensorsWriter() {
  if (!stream)
    return;
  stream->close();
  stream->clear_error();
}

Error SafetensorsWriter::makeError(const Twine &message) const {
  if (path.empty())
    return llvm::createStringError(message);
  return llvm::createStringError(path + ": " + message);
}

Error SafetensorsWriter::checkStream() {
  if (!stream->has_error())
    return Error::success();
  std::error_code code = stream->error();
  stream->clear_error();
  return makeError("cannot write: " + code.message());
}

void SafetensorsWriter::setMetadata(StringRef key, StringRef value) {
  metadata[llvm::json::fixUTF8(key)] = llvm::json::fixUTF8(value);
}

Expected<uint64_t> SafetensorsWriter::declare(StringRef name, SafetensorsType type,
                                              ArrayRef<int64_t> shape, uint64_t alignment) {
  assert(alignment > 0 && "an alignment is at least one byte");
  uint64_t offset = llvm::alignTo(getDataSize(), alignment);
  if (Error error = declareAt(name, type, shape, offset))
    return std::move(error);
  return offset;
}

static std::optional<uint64_t> countBytes(SafetensorsType type, ArrayRef<int64_t> shape) {
  if (llvm::any_of(shape, [](int64_t dim) { return dim < 0; }))
    return std::nullopt;
  if (llvm::is_contained(shape, 0))
    return 0;
  uint64_t bytes = getByteWidth(type);
  for (int64_t dim : shape) {
    bool overflow = false;
    bytes = llvm::SaturatingMultiply(bytes, uint64_t(dim), &overflow);
    if (overflow)
      return std::nullopt;
  }
  return bytes;
}

Error SafetensorsWriter::declareAt(StringRef name, SafetensorsType type, ArrayRef<int64_t> shape,
                                   uint64_t offset) {
  assert(!stream && "tensors are declared before the file is opened");
  if (name.empty() || name == "__metadata__" || name.starts_with("__padding_") ||
      !llvm::json::isUTF8(name))
    return makeError("'" + name + "' cannot be the name of a tensor");
  if (indices.count(name))
    return makeError("two tensors are called '" + name + "'");
  std::optional<uint64_t> bytes = countBytes(type, shape);
  if (!bytes || offset > maxOffset || *bytes > maxOffset - offset)
    return makeError("tensor '" + name + "' is larger than any file");
  uint64_t end = getDataSize();
  if (offset < end)
    return makeError("tensor '" + name + "' at offset " + Twine(offset) +
                     " overlaps the tensor before it, which ends at " + Twine(end));
  if (offset > end) {
    SafetensorsTensor padding;
    padding.name = "__padding_" + std::to_string(numPaddings++);
    padding.shape = {int64_t(offset - end)};
    padding.begin = end;
    padding.end = offset;
    indices[padding.name] = tensors.size();
    tensors.push_back(std::move(padding));
  }
  SafetensorsTensor tensor;
  tensor.name = name.str();
  tensor.type = type;
  tensor.shape.assign(shape.begin(), shape.end());
  tensor.begin = offset;
  tensor.end = offset + *bytes;
  indices[name] = tensors.size();
  tensors.push_back(std::move(tensor));
  return Error::success();
}

/// The metadata comes first, so that a reader that only checks the digest need
/// not parse the rest.
std::string SafetensorsWriter::buildHeader() const {
  std::string text;
  llvm::raw_string_ostream os(text);
  llvm::json::OStream json(os);
  json.object([&] {
    if (!metadata.empty())
      json.attributeObject("__metadata__", [&] {
        for (const auto &[key, value] : metadata)
          json.attribute(key, value);
      });
    for (const SafetensorsTensor &tensor : tensors)
      json.attributeObject(tensor.name, [&] {
        json.attribute("dtype", stringifySafetensorsType(tensor.type));
        json.attributeArray("shape", [&] {
          for (int64_t dim : tensor.shape)
            json.value(dim);
        });
        json.attributeArray("data_offsets", [&] {
          json.value(int64_t(tensor.begin));
          json.value(int64_t(tensor.end));
        });
      });
  });
  os.flush();
  text.resize(llvm::alignTo(lengthBytes + text.size(), dataAlignment) - lengthBytes, ' ');
  return text;
}

uint64_t SafetensorsWriter::getDataOffset() const { return lengthBytes + buildHeader().size(); }

uint64_t SafetensorsWriter::getDataSize() const { return tensors.empty() ? 0 : tensors.back().end; }

Error SafetensorsWriter::open(StringRef filePath) {
  assert(!stream && "a writer writes one file");
  path = filePath.str();
  std::error_code code;
  stream = std::make_unique<llvm::raw_fd_ostream>(path, code, llvm::sys::fs::CD_CreateAlways);
  if (code) {
    stream.reset();
    return makeError("cannot create: " + code.message());
  }
  writtenHeader = buildHeader();
  char length[lengthBytes];
  llvm::support::endian::write64le(length, writtenHeader.size());
  stream->write(length, lengthBytes);
  *stream << writtenHeader;
  return writePadding();
}

/// Writes the padding at the current position, if any, and steps over tensors
/// that are complete.
Error SafetensorsWriter::writePadding() {
  while (current < tensors.size()) {
    const SafetensorsTensor &tensor = tensors[current];
    if (tensor.isPadding()) {
      // write_zeros takes 32 bits.
      for (uint64_t left = tensor.end - position; left > 0;) {
        unsigned step = unsigned(std::min<uint64_t>(left, 1u << 20));
        stream->write_zeros(step);
        left -= step;
      }
      position = tensor.end;
    }
    if (position < tensor.end)
      break;
    ++current;
  }
  return checkStream();
}

Error SafetensorsWriter::write(ArrayRef<char> bytes) {
  assert(stream && "write comes after open");
  if (bytes.empty())
    return Error::success();
  if (current == tensors.size())
    return makeError(Twine(bytes.size()) + " bytes too many: every tensor is complete");
  const SafetensorsTensor &tensor = tensors[current];
  if (bytes.size() > tensor.end - position)
    return makeError("tensor '" + tensor.name + "' has " + Twine(tensor.getNumBytes()) +
                     " bytes, got " + Twine(position - tensor.begin + bytes.size()));
  stream->write(bytes.data(), bytes.size());
  position += bytes.size();
  if (Error error = checkStream())
    return error;
  return position < tensor.end ? Error::success() : writePadding();
}

Error SafetensorsWriter::finish() {
  assert(stream && "finish comes after open");
  if (current < tensors.size())
    return makeError("tensor '" + tensors[current].name + "' has " +
                     Twine(tensors[current].getNumBytes()) + " bytes, got " +
                     Twine(position - tensors[current].begin));
  std::string header = buildHeader();
  if (header.size() != writtenHeader.size())
    return makeError("the metadata grew after the header was written");
  if (header != writtenHeader) {
    stream->seek(lengthBytes);
    *stream << header;
  }
  stream->close();
  Error error = checkStream();
  stream.reset();
  return error;
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Weights that are computed instead of read.

#include "SyntheticWeights.h"
#include "Status.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/APInt.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/ThreadPool.h"
#include "llvm/Support/Threading.h"
#include <cmath>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::APFloat;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;

namespace {
/// A tensor of the weights file: the experts, or all of it, `stride` bytes apart.
struct Tensor {
  uint64_t offset = 0, stride = 0, numParts = 1, partElements = 0;
  unsigned width = 0;                            // bytes of an element
  const llvm::fltSemantics *semantics = nullptr; // null: an integer
  bool isBool = false;
  float scale = 1;
  uint64_t key = 0;
};
} // namespace

static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static uint64_t hashName(StringRef name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name)
    hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

//===----------------------------------------------------------------------===//
// Descriptions
//===----------------------------------------------------------------------===//

static bool parseElementType(StringRef text, Tensor &tensor) {
  tensor.semantics = llvm::StringSwitch<const llvm::fltSemantics *>(text)
                         .Case("f64", &APFloat::IEEEdouble())
                         .Case("f32", &APFloat::IEEEsingle())
                         .Case("f16", &APFloat::IEEEhalf())
                         .Case("bf16", &APFloat::BFloat())
                         .Case("f8E4M3FN", &APFloat::Float8E4M3FN())
                         .Case("f8E5M2", &APFloat::Float8E5M2())
                         .Default(nullptr);
  if (tensor.semantics) {
    tensor.width = APFloat::getSizeInBits(*tensor.semantics) / 8;
    return true;
  }
  unsigned bits = 0;
  (void)(text.consume_front("si") || text.consume_front("ui") || text.consume_front("i"));
  if (text == "ndex")
    bits = 64;
  else if (text.getAsInteger(10, bits) || bits == 0 || bits > 64)
    return false;
  tensor.isBool = bits == 1;
  tensor.width = (bits + 7) / 8;
  return true;
}

/// "tensor<8x64x32xf32>"
static bool parseType(StringRef text, Tensor &tensor) {
  if (!text.consume_front("tensor<") || !text.consume_back(">"))
    return false;
  llvm::SmallVector<StringRef> parts;
  text.split(parts, 'x');
  llvm::SmallVector<uint64_t> shape(parts.size() - 1);
  for (size_t i = 0; i < shape.size(); ++i)
    if (parts[i].getAsInteger(10, shape[i]))
      return false;
  if (!parseElementType(parts.back(), tensor))
    return false;
  tensor.numParts = shape.empty() ? 1 : shape.front();
  tensor.partElements = 1;
  for (uint64_t size : llvm::ArrayRef(shape).drop_front(shape.empty() ? 0 : 1))
    tensor.partElements *= size;
  tensor.scale = 1 / std::sqrt(float(shape.empty() || !shape.back() ? 1 : shape.back()));
  return true;
}

static bool parseTensor(const llvm::json::Object *object, uint64_t seed, uint64_t dataBytes,
                        Tensor &tensor) {
  if (!object)
    return false;
  auto name = object->getString("name"), type = object->getString("type");
  auto offset = object->getInteger("offset"), stride = object->getInteger("expert_stride");
  if (!name || !type || !offset || !stride || *offset < 0 || *stride < 0 ||
      !parseType(*type, tensor))
    return false;
  tensor.offset = uint64_t(*offset);
  tensor.stride = uint64_t(*stride);
  tensor.key = mix(seed ^ hashName(*name));
  // Nothing is written behind the end.
  uint64_t last = tensor.numParts ? tensor.numParts - 1 : 0;
  return tensor.numParts == 0 ||
         tensor.offset + last * tensor.stride + tensor.partElements * tensor.width <= dataBytes;
}

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

static uint64_t computeBits(const Tensor &tensor, uint64_t index) {
  uint64_t hash = mix(tensor.key + index);
  if (!tensor.semantics)
    return tensor.isBool ? hash & 1 : hash;
  float value = (2 * float(hash >> 40) / float(1 << 24) - 1) * tensor.scale;
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (tensor.semantics == &APFloat::IEEEsingle())
    return bits;
  // Finite, so that this is rounding to nearest even.
  if (tensor.semantics == &APFloat::BFloat())
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  APFloat number(value);
  bool losesInfo;
  number.convert(*tensor.semantics, APFloat::rmNearestTiesToEven, &losesInfo);
  return number.bitcastToAPInt().getZExtValue();
}

static void fillPart(const Tensor &tensor, char *data, uint64_t part, uint64_t begin,
                     uint64_t end) {
  char *to = data + tensor.offset + part * tensor.stride + begin * tensor.width;
  for (uint64_t i = begin; i < end; ++i, to += tensor.width) {
    uint64_t bits = computeBits(tensor, part * tensor.partElements + i);
    memcpy(to, &bits, tensor.width);
  }
}

static void fill(llvm::ArrayRef<Tensor> tensors, char *data) {
  const uint64_t chunk = 1 << 20;
  llvm::DefaultThreadPool pool(llvm::hardware_concurrency());
  for (const Tensor &tensor : tensors)
    for (uint64_t part = 0; part < tensor.numParts; ++part)
      for (uint64_t begin = 0; begin < tensor.partElements; begin += chunk)
        pool.async([&tensor, data, part, begin] {
          fillPart(tensor, data, part, begin, std::min(begin + chunk, tensor.partElements));
        });
  pool.wait();
}

//===----------------------------------------------------------------------===//
// The file
//===----------------------------------------------------------------------===//

static Error makeMemoryError(uint64_t bytes) {
  return makeError(Status::Package, "cannot make " + llvm::Twine(bytes) +
                                        " bytes of weights in memory: " + strerror(errno));
}

/// The header that the library looks for: its digest, and spaces up to the data.
static std::string makeHeader(StringRef digest, uint64_t dataOffset) {
  std::string header(8, '\0');
  uint64_t length = dataOffset - 8;
  memcpy(header.data(), &length, sizeof(length));
  header += ("{\"__metadata__\":{\"moec.digest\":\"" + digest + "\"}}").str();
  header.resize(std::max<uint64_t>(header.size(), dataOffset), ' ');
  return header;
}

static Error writeFile(int file, uint64_t bytes, const std::string &header,
                       llvm::ArrayRef<Tensor> tensors) {
  if (ftruncate(file, off_t(bytes)) != 0)
    return makeMemoryError(bytes);
  void *map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (map == MAP_FAILED)
    return makeMemoryError(bytes);
  memcpy(map, header.data(), header.size());
  fill(tensors, static_cast<char *>(map) + header.size());
  munmap(map, bytes);
  return Error::success();
}

Expected<SyntheticWeights> SyntheticWeights::create(const llvm::json::Object &info, uint64_t seed) {
  auto invalid = [] {
    return makeError(Status::Package, "NAME.json does not describe the weights as "
                                      "--synthetic-weights needs it");
  };
  const llvm::json::Object *weights = info.getObject("weights");
  if (!weights)
    return invalid();
  auto bytes = weights->getInteger("bytes"), offset = weights->getInteger("data_offset");
  auto digest = weights->getString("digest");
  const llvm::json::Array *list = weights->getArray("tensors");
  if (!bytes || !offset || !digest || !list)
    return invalid();
  if (*bytes == 0)
    return SyntheticWeights(-1);
  if (*offset < 8 || *offset > *bytes)
    return invalid();
  std::string header = makeHeader(*digest, uint64_t(*offset));
  if (header.size() > uint64_t(*offset))
    return invalid();
  std::vector<Tensor> tensors;
  for (const llvm::json::Value &json : *list)
    if (!parseTensor(json.getAsObject(), seed, uint64_t(*bytes - *offset), tensors.emplace_back()))
      return invalid();
  SyntheticWeights result(memfd_create("moe-run-weights", MFD_CLOEXEC));
  if (result.file < 0)
    return makeMemoryError(uint64_t(*bytes));
  if (Error error = writeFile(result.file, uint64_t(*bytes), header, tensors))
    return std::move(error);
  return std::move(result);
}

SyntheticWeights::~SyntheticWeights() {
  if (file >= 0)
    close(file);
}

std::string SyntheticWeights::getPath() const {
  return file < 0 ? "" : "/proc/self/fd/" + std::to_string(file);
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Mutates ONNX models as trees of protobuf fields, so that most results are
// still models: lengths stay right, and names, operators, sizes and whole nodes
// are exchanged for others of the same kind.

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringRef.h"

#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

using llvm::StringRef;

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t maxSize);

namespace {

enum WireType : uint32_t { Varint = 0, Fixed64 = 1, Length = 2, Fixed32 = 5 };

struct Message;
struct Submessage {
  uint32_t number;
  const Message *type;
};
/// The fields of a message type that are messages. Numbers are those of
/// onnx-ml.proto.
struct Message {
  llvm::ArrayRef<Submessage> fields;
};

extern const Message kGraph;
const Message kLeaf = {{}};
const Submessage kTensorFields[] = {{13, &kLeaf}};
const Message kTensor = {kTensorFields};
const Submessage kSparseFields[] = {{1, &kTensor}, {2, &kTensor}};
const Message kSparse = {kSparseFields};
const Submessage kShapeFields[] = {{1, &kLeaf}};
const Message kShape = {kShapeFields};
const Submessage kTensorTypeFields[] = {{2, &kShape}};
const Message kTensorType = {kTensorTypeFields};
const Submessage kTypeFields[] = {{1, &kTensorType}, {8, &kTensorType}};
const Message kType = {kTypeFields};
const Submessage kValueFields[] = {{2, &kType}};
const Message kValue = {kValueFields};
const Submessage kAttributeFields[] = {{5, &kTensor}, {6, &kGraph},   {10, &kTensor}, {11, &kGraph},
                                       {14, &kType},  {22, &kSparse}, {23, &kSparse}};
const Message kAttribute = {kAttributeFields};
const Submessage kNodeFields[] = {{5, &kAttribute}};
const Message kNode = {kNodeFields};
const Submessage kGraphFields[] = {{1, &kNode},   {5, &kTensor}, {11, &kValue},
                                   {12, &kValue}, {13, &kValue}, {15, &kSparse}};
const Message kGraph = {kGraphFields};
const Submessage kFunctionFields[] = {{7, &kNode}, {9, &kLeaf}, {11, &kAttribute}, {12, &kValue}};
const Message kFunction = {kFunctionFields};
const Submessage kModelFields[] = {{7, &kGraph}, {8, &kLeaf}, {25, &kFunction}};
const Message kModel = {kModelFields};

const Message *lookup(const Message &parent, uint32_t number) {
  const auto *field =
      llvm::find_if(parent.fields, [&](const Submessage &sub) { return sub.number == number; });
  return field == parent.fields.end() ? nullptr : field->type;
}

struct Field {
  uint32_t number;
  WireType wire;
  uint64_t value = 0; // Varint, Fixed64, Fixed32
  std::string bytes;  // Length that is no message
  const Message *message = nullptr;
  std::vector<Field> fields; // of the message
};

//===----------------------------------------------------------------------===//
// Reading and writing
//===----------------------------------------------------------------------===//

bool readVarint(StringRef &data, uint64_t &value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !data.empty(); shift += 7) {
    uint8_t byte = data.front();
    data = data.drop_front();
    value |= uint64_t(byte & 0x7f) << shift;
    if (!(byte & 0x80))
      return true;
  }
  return false;
}

/// Nullopt when the data is no message.
std::optional<std::vector<Field>> read(StringRef data, const Message &type, unsigned depth = 0) {
  std::vector<Field> fields;
  while (!data.empty()) {
    uint64_t tag, value;
    if (depth > 32 || !readVarint(data, tag))
      return std::nullopt;
    Field &field = fields.emplace_back();
    field.number = tag >> 3;
    field.wire = WireType(tag & 7);
    size_t width = field.wire == Fixed64 ? 8 : 4;
    switch (field.wire) {
    case Varint:
      if (!readVarint(data, field.value))
        return std::nullopt;
      break;
    case Fixed64:
    case Fixed32:
      if (data.size() < width)
        return std::nullopt;
      std::memcpy(&field.value, data.data(), width);
      data = data.drop_front(width);
      break;
    case Length:
      if (!readVarint(data, value) || value > data.size())
        return std::nullopt;
      if (const Message *inner = lookup(type, field.number))
        if (auto parsed = read(data.take_front(value), *inner, depth + 1)) {
          field.message = inner;
          field.fields = std::move(*parsed);
        }
      if (!field.message)
        field.bytes = data.take_front(value).str();
      data = data.drop_front(value);
      break;
    default:
      return std::nullopt;
    }
  }
  return fields;
}

void writeVarint(uint64_t value, std::string &out) {
  for (; value >= 0x80; value >>= 7)
    out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

std::string write(llvm::ArrayRef<Field> fields) {
  std::string out;
  for (const Field &field : fields) {
    writeVarint(uint64_t(field.number) << 3 | field.wire, out);
    if (field.wire == Varint) {
      writeVarint(field.value, out);
    } else if (field.wire == Length) {
      std::string bytes = field.message ? write(field.fields) : field.bytes;
      writeVarint(bytes.size(), out);
      out += bytes;
    } else {
      out.append(reinterpret_cast<const char *>(&field.value), field.wire == Fixed64 ? 8 : 4);
    }
  }
  return out;
}

//===----------------------------------------------------------------------===//
// Mutation
//===----------------------------------------------------------------------===//

/// A field, by the list that holds it.
struct Site {
  std::vector<Field> *owner;
  const Message *type;
  size_t index;

  Field &get() const { return (*owner)[index]; }
  bool isLike(const Site &other) const {
    return type == other.type && get().number == other.get().number &&
           get().wire == other.get().wire;
  }
};

void collect(std::vector<Field> &fields, const Message &type, std::vector<Site> &sites) {
  for (size_t i = 0; i < fields.size(); ++i) {
    sites.push_back({&fields, &type, i});
    if (fields[i].message)
      collect(fields[i].fields, *fields[i].message, sites);
  }
}

class Mutator {
public:
  Mutator(std::vector<Field> &model, unsigned seed) : random(seed) {
    collect(model, kModel, sites);
  }

  /// Changes one field.
  void mutate() {
    Site site = sites[pick(sites.size())];
    std::vector<Field> &owner = *site.owner;
    switch (pick(8)) {
    case 0:
      owner.erase(owner.begin() + site.index);
      break;
    case 1: {
      Field copy = site.get();
      owner.insert(owner.begin() + pick(owner.size() + 1), std::move(copy));
      break;
    }
    case 2:
      std::swap(site.get(), owner[pick(owner.size())]);
      break;
    case 3:
    case 4:
    case 5:
      replace(site, sites);
      break;
    default:
      mutateValue(site.get());
      break;
    }
  }

  /// Takes a field from another model.
  void cross(std::vector<Field> &other) {
    std::vector<Site> others;
    collect(other, kModel, others);
    replace(sites[pick(sites.size())], others);
  }

private:
  size_t pick(size_t count) { return std::uniform_int_distribution<size_t>(0, count - 1)(random); }

  /// Replaces the field by one of the same kind, or adds that before it.
  void replace(Site site, llvm::ArrayRef<Site> from) {
    std::vector<const Site *> alike;
    for (const Site &other : from)
      if (other.isLike(site))
        alike.push_back(&other);
    if (alike.empty())
      return;
    Field copy = alike[pick(alike.size())]->get();
    if (pick(4) == 0)
      site.owner->insert(site.owner->begin() + site.index, std::move(copy));
    else
      site.get() = std::move(copy);
  }

  void mutateValue(Field &field) {
    if (field.message)
      return;
    if (field.wire == Length)
      return mutateBytes(field.bytes);
    static const uint64_t kValues[] = {
        0,           1,          2,          3,          4,          7,          8,
        16,          INT8_MAX,   UINT8_MAX,  INT16_MAX,  UINT16_MAX, INT32_MAX,  UINT32_MAX,
        INT64_MAX,   1ull << 63, 1ull << 31, 1ull << 32, 1ull << 40, 1ull << 62, uint64_t(-1),
        uint64_t(-2)};
    switch (pick(3)) {
    case 0:
      field.value = kValues[pick(std::size(kValues))];
      break;
    case 1:
      field.value += pick(2) ? 1 : -1;
      break;
    default:
      LLVMFuzzerMutate(reinterpret_cast<uint8_t *>(&field.value), 8, 8);
      break;
    }
  }

  /// From nothing, the mutation is a word of the dictionary more often.
  void mutateBytes(std::string &bytes) {
    if (pick(2))
      bytes.clear();
    size_t size = bytes.size();
    bytes.resize(size + 64);
    bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t *>(bytes.data()), size, bytes.size()));
  }

  std::minstd_rand random;
  std::vector<Site> sites;
};

} // namespace

/// Writes the model to `out` and returns its size; 0 when it does not fit.
static size_t store(llvm::ArrayRef<Field> model, uint8_t *out, size_t maxSize) {
  std::string bytes = write(model);
  if (bytes.size() > maxSize)
    return 0;
  std::memcpy(out, bytes.data(), bytes.size());
  return bytes.size();
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t maxSize,
                                          unsigned seed) {
  auto model = read({reinterpret_cast<const char *>(data), size}, kModel);
  // Plain mutations too: what is no protobuf is input as well.
  if (!model || model->empty() || seed % 16 == 0)
    return LLVMFuzzerMutate(data, size, maxSize);
  Mutator(*model, seed).mutate();
  size_t mutated = store(*model, data, maxSize);
  return mutated ? mutated : LLVMFuzzerMutate(data, size, maxSize);
}

extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1,
                                            const uint8_t *data2, size_t size2, uint8_t *out,
                                            size_t maxOutSize, unsigned seed) {
  auto first = read({reinterpret_cast<const char *>(data1), size1}, kModel);
  auto second = read({reinterpret_cast<const char *>(data2), size2}, kModel);
  if (!first || !second || first->empty() || second->empty())
    return 0;
  Mutator(*first, seed).cross(*second);
  return store(*first, out, maxOutSize);
}

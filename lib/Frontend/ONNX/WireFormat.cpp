// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Frontend/ONNX/WireFormat.h"

#include "llvm/ADT/ArrayRef.h"

using namespace llvm;
using namespace mlir::moe;

namespace {

enum WireType : uint8_t { Varint = 0, Fixed64 = 1, Length = 2, Fixed32 = 5 };

struct Message;

/// What to do with a length-delimited field of a message.
struct Field {
  enum Action { Enter, Drop, Payload, Refuse };
  uint32_t number;
  Action action;
  const Message *message;
};

/// A message type: its name for diagnostics, and the fields that need more than
/// copying. Field numbers are those of onnx-ml.proto.
struct Message {
  const char *name;
  ArrayRef<Field> fields;
};

extern const Message kGraph;

const Field kTensorFields[] = {{3, Field::Refuse, nullptr},   // segment
                               {4, Field::Payload, nullptr},  // float_data
                               {9, Field::Payload, nullptr},  // raw_data
                               {10, Field::Payload, nullptr}, // double_data
                               {12, Field::Drop, nullptr},    // doc_string
                               {16, Field::Drop, nullptr}};   // metadata_props
const Message kTensor = {"TensorProto", kTensorFields};

const Field kSparseFields[] = {{1, Field::Enter, &kTensor},  // values
                               {2, Field::Enter, &kTensor}}; // indices
const Message kSparse = {"SparseTensorProto", kSparseFields};

const Field kAttributeFields[] = {{5, Field::Enter, &kTensor},   // t
                                  {6, Field::Enter, &kGraph},    // g
                                  {10, Field::Enter, &kTensor},  // tensors
                                  {11, Field::Enter, &kGraph},   // graphs
                                  {13, Field::Drop, nullptr},    // doc_string
                                  {22, Field::Enter, &kSparse},  // sparse_tensor
                                  {23, Field::Enter, &kSparse}}; // sparse_tensors
const Message kAttribute = {"AttributeProto", kAttributeFields};

const Field kNodeFields[] = {{5, Field::Enter, &kAttribute}, // attribute
                             {6, Field::Drop, nullptr},      // doc_string
                             {9, Field::Drop, nullptr}};     // metadata_props
const Message kNode = {"NodeProto", kNodeFields};

const Field kValueInfoFields[] = {{3, Field::Drop, nullptr},  // doc_string
                                  {4, Field::Drop, nullptr}}; // metadata_props
const Message kValueInfo = {"ValueInfoProto", kValueInfoFields};

const Field kGraphFields[] = {{1, Field::Enter, &kNode},       // node
                              {5, Field::Enter, &kTensor},     // initializer
                              {10, Field::Drop, nullptr},      // doc_string
                              {11, Field::Enter, &kValueInfo}, // input
                              {12, Field::Enter, &kValueInfo}, // output
                              {13, Field::Enter, &kValueInfo}, // value_info
                              {15, Field::Enter, &kSparse},    // sparse_initializer
                              {16, Field::Drop, nullptr}};     // metadata_props
const Message kGraph = {"GraphProto", kGraphFields};

const Field kFunctionFields[] = {{7, Field::Enter, &kNode},       // node
                                 {8, Field::Drop, nullptr},       // doc_string
                                 {11, Field::Enter, &kAttribute}, // attribute_proto
                                 {12, Field::Enter, &kValueInfo}, // value_info
                                 {14, Field::Drop, nullptr}};     // metadata_props
const Message kFunction = {"FunctionProto", kFunctionFields};

const Field kModelFields[] = {{6, Field::Drop, nullptr},       // doc_string
                              {7, Field::Enter, &kGraph},      // graph
                              {14, Field::Drop, nullptr},      // metadata_props
                              {20, Field::Drop, nullptr},      // training_info
                              {25, Field::Enter, &kFunction}}; // functions
const Message kModel = {"ModelProto", kModelFields};

constexpr unsigned kMaxDepth = 96;

class Slimmer {
public:
  Slimmer(StringRef data, uint64_t threshold, SlimModel &model)
      : data(data), threshold(threshold), model(model) {}

  /// Copies the message in [begin, end) to `out`.
  Error copy(const Message &message, uint64_t begin, uint64_t end, unsigned depth,
             std::string &out);

private:
  Error fail(const Message &message, uint64_t at, const Twine &what) const {
    return createStringError(inconvertibleErrorCode(), Twine("not a valid ONNX file: in ") +
                                                           message.name + " at byte " + Twine(at) +
                                                           ": " + what);
  }

  /// Reads a varint that ends before `end`; false when it does not, or is
  /// longer than 64 bits.
  bool readVarint(uint64_t &position, uint64_t end, uint64_t &value) const;
  Error copyLengthField(const Message &message, uint32_t number, uint64_t fieldBegin,
                        uint64_t begin, uint64_t end, unsigned depth, std::string &out);

  StringRef data;
  uint64_t threshold;
  SlimModel &model;
};

} // namespace

static void writeVarint(uint64_t value, std::string &out) {
  for (; value >= 0x80; value >>= 7)
    out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

static void writeMessage(uint32_t number, StringRef bytes, std::string &out) {
  writeVarint(uint64_t(number) << 3 | Length, out);
  writeVarint(bytes.size(), out);
  out.append(bytes.data(), bytes.size());
}

bool Slimmer::readVarint(uint64_t &position, uint64_t end, uint64_t &value) const {
  value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (position >= end)
      return false;
    uint8_t byte = data[position++];
    // The tenth byte holds bit 63 only.
    if (shift == 63 && byte > 1)
      return false;
    value |= uint64_t(byte & 0x7f) << shift;
    if (!(byte & 0x80))
      return true;
  }
  return false;
}

Error Slimmer::copyLengthField(const Message &message, uint32_t number, uint64_t fieldBegin,
                               uint64_t begin, uint64_t end, unsigned depth, std::string &out) {
  const Field *field =
      find_if(message.fields, [&](const Field &candidate) { return candidate.number == number; });
  if (field == message.fields.end()) {
    out.append(data.data() + fieldBegin, end - fieldBegin);
    return Error::success();
  }
  switch (field->action) {
  case Field::Drop:
    return Error::success();
  case Field::Refuse:
    return createStringError(std::errc::not_supported,
                             "a tensor is stored in segments, which is not supported");
  case Field::Enter: {
    std::string inner;
    if (Error error = copy(*field->message, begin, end, depth + 1, inner))
      return error;
    writeMessage(number, inner, out);
    return Error::success();
  }
  case Field::Payload:
    break;
  }
  if (end - begin <= threshold) {
    out.append(data.data() + fieldBegin, end - fieldBegin);
    return Error::success();
  }
  std::string segment;
  writeVarint(1 << 3 | Varint, segment);
  writeVarint(model.payloads.size(), segment);
  writeVarint(2 << 3 | Varint, segment);
  writeVarint(number, segment);
  writeMessage(3, segment, out);
  model.payloads.push_back({begin, end - begin});
  return Error::success();
}

Error Slimmer::copy(const Message &message, uint64_t begin, uint64_t end, unsigned depth,
                    std::string &out) {
  if (depth > kMaxDepth)
    return fail(message, begin, "messages are nested too deeply");
  uint64_t position = begin;
  while (position < end) {
    uint64_t fieldBegin = position;
    uint64_t tag;
    if (!readVarint(position, end, tag))
      return fail(message, fieldBegin, "a field tag is cut off or malformed");
    uint64_t number = tag >> 3;
    if (number == 0 || number > 0x1fffffff)
      return fail(message, fieldBegin, "invalid field number " + Twine(number));
    uint64_t value = 0;
    switch (tag & 7) {
    case Varint:
      if (!readVarint(position, end, value))
        return fail(message, fieldBegin, "an integer is cut off or malformed");
      break;
    case Fixed64:
    case Fixed32:
      value = (tag & 7) == Fixed64 ? 8 : 4;
      if (end - position < value)
        return fail(message, fieldBegin, "a number is cut off");
      position += value;
      break;
    case Length: {
      if (!readVarint(position, end, value))
        return fail(message, fieldBegin, "a length is cut off or malformed");
      if (value > end - position)
        return fail(message, fieldBegin,
                    "field " + Twine(number) + " needs " + Twine(value) + " bytes, " +
                        Twine(end - position) + " are left");
      uint64_t valueBegin = position;
      position += value;
      if (Error error =
              copyLengthField(message, number, fieldBegin, valueBegin, position, depth, out))
        return error;
      continue;
    }
    default:
      return fail(message, fieldBegin, "invalid wire type " + Twine(tag & 7));
    }
    out.append(data.data() + fieldBegin, position - fieldBegin);
  }
  return Error::success();
}

Expected<SlimModel> mlir::moe::makeSlimModel(StringRef data, uint64_t threshold) {
  SlimModel model;
  Slimmer slimmer(data, threshold, model);
  if (Error error = slimmer.copy(kModel, 0, data.size(), 0, model.bytes))
    return std::move(error);
  return std::move(model);
}

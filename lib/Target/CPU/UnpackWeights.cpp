// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/UnpackWeights.h"
#include "WeightSteps.h"

#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Support/DebugStringHelper.h"
#include "moec/Support/Safetensors.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"

#include <algorithm>
#include <system_error>
#include <tuple>

using namespace mlir;
using namespace mlir::moe;
using llvm::createStringError;
using llvm::Error;
using llvm::Expected;
using llvm::formatv;
using llvm::json::Array;
using llvm::json::Object;

//===----------------------------------------------------------------------===//
// Writing it down
//===----------------------------------------------------------------------===//

void mlir::moe::recordTensors(ModuleOp module) {
  if (module->hasAttr(kTensorsAttr))
    return;
  SmallVector<Attribute> tensors;
  for (WeightOp weight : module.getOps<WeightOp>())
    if (weight.getSources().size() == 1 && weight.getTransforms().empty() &&
        isa<SegmentAttr>(weight.getSources()[0]))
      tensors.push_back(
          ArrayAttr::get(module.getContext(), {weight.getSymNameAttr(), weight.getSources()[0]}));
  if (!tensors.empty())
    module->setAttr(kTensorsAttr, ArrayAttr::get(module.getContext(), tensors));
}

namespace {
/// Bytes of a file of the model.
struct Range {
  int64_t file, begin, end;

  bool operator<(const Range &other) const {
    return std::tie(file, begin, end) < std::tie(other.file, other.begin, other.end);
  }
};

class OriginWriter {
public:
  std::string write(ModuleOp module, ArrayAttr tensors);

private:
  int64_t getFile(StringRef name);
  llvm::json::Value describePart(Attribute part);
  Object describeSource(Attribute source);
  Object describeWeight(WeightOp weight);
  /// Whether a weight has any of these bytes.
  bool isUsed(const Range &range) const;

  std::vector<std::string> files;
  std::vector<Range> used;
};
} // namespace

int64_t OriginWriter::getFile(StringRef name) {
  auto known = llvm::find(files, name);
  if (known == files.end())
    known = files.insert(files.end(), name.str());
  return known - files.begin();
}

llvm::json::Value OriginWriter::describePart(Attribute part) {
  auto segment = dyn_cast<SegmentAttr>(part);
  if (!segment)
    return nullptr;
  int64_t offset = segment.getOffset(), length = segment.getLength();
  used.push_back({getFile(segment.getFile()), offset, offset + length});
  return Array{used.back().file, offset, length};
}

Object OriginWriter::describeSource(Attribute source) {
  Array parts;
  if (auto experts = dyn_cast<ExpertsAttr>(source))
    for (Attribute part : experts.getParts())
      parts.push_back(describePart(part));
  else
    parts.push_back(describePart(source));
  return Object{{"type", debugString(WeightOp::getTypeOf(source))}, {"parts", std::move(parts)}};
}

Object OriginWriter::describeWeight(WeightOp weight) {
  Array sources, transforms;
  for (Attribute source : weight.getSources())
    sources.push_back(describeSource(source));
  for (Attribute transform : weight.getTransforms())
    transforms.push_back(debugString(transform));
  return Object{{"sources", std::move(sources)}, {"transforms", std::move(transforms)}};
}

bool OriginWriter::isUsed(const Range &range) const {
  // Ranges of one length end in the order in which they begin; of others, look at all that
  // begin before this one ends.
  auto end = llvm::lower_bound(used, Range{range.file, range.end, 0});
  return std::any_of(used.begin(), end, [&](const Range &other) {
    return other.file == range.file && other.end > range.begin;
  });
}

std::string OriginWriter::write(ModuleOp module, ArrayAttr tensors) {
  Object weights;
  for (WeightOp weight : module.getOps<WeightOp>())
    weights[llvm::json::fixUTF8(weight.getSymName())] = describeWeight(weight);
  llvm::sort(used);
  // Merged, so that a search finds at once what covers a byte.
  std::vector<Range> merged;
  for (const Range &range : used)
    if (!merged.empty() && merged.back().file == range.file && range.begin <= merged.back().end)
      merged.back().end = std::max(merged.back().end, range.end);
    else
      merged.push_back(range);
  used = std::move(merged);
  Array list;
  for (auto tensor : tensors.getAsRange<ArrayAttr>()) {
    auto segment = cast<SegmentAttr>(tensor[1]);
    int64_t offset = segment.getOffset(), file = getFile(segment.getFile());
    if (isUsed({file, offset, offset + int64_t(segment.getLength())}))
      list.push_back(Object{{"name", llvm::json::fixUTF8(cast<StringAttr>(tensor[0]).getValue())},
                            {"type", debugString(segment.getType())},
                            {"at", Array{file, offset}}});
  }
  Array names;
  for (const std::string &file : files)
    names.push_back(llvm::json::fixUTF8(file));
  return formatv("{0}", llvm::json::Value(Object{{"files", std::move(names)},
                                                 {"tensors", std::move(list)},
                                                 {"weights", std::move(weights)}}));
}

std::string mlir::moe::getWeightsOrigin(ModuleOp module) {
  auto tensors = module->getAttrOfType<ArrayAttr>(kTensorsAttr);
  return tensors ? OriginWriter().write(module, tensors) : "";
}

//===----------------------------------------------------------------------===//
// Reading it
//===----------------------------------------------------------------------===//

namespace {
struct Source {
  RankedTensorType type;
  /// One, or one for each expert; file -1 for constants of the program.
  std::vector<Range> parts;
};

/// A weight of the file, and how to come from an expert's bytes to those of its sources.
struct Weight {
  std::string name;
  int64_t offset = 0, stride = 0, experts = 0, expertBytes = 0;
  std::vector<Source> sources;
  std::vector<WeightStep> steps;
  std::vector<std::string> conversions;
};

struct Tensor {
  std::string name;
  RankedTensorType type;
  Range range;
};

/// Bytes of the model that experts `first` to `last` (excluded) of a source have.
struct Piece {
  Range range;
  size_t weight, source;
  int64_t first, last;

  bool operator<(const Piece &other) const { return range < other.range; }
};

class Unpacker {
public:
  Unpacker(StringRef path, SafetensorsFile &file) : path(path.str()), file(file) {
    context.loadDialect<MoEDialect>();
  }
  Error read();
  Expected<UnpackedWeights> write(StringRef output);

private:
  Error damaged(const llvm::Twine &what) const {
    return createStringError("the weights file '" + path + "' is damaged: " + what);
  }
  Error readOrigin(const Object &origin);
  Error readWeight(const Object &layout, const Object &origin);
  Error readSource(const Object &object, Weight &weight);
  Error readTensor(const Object &object);
  Error checkConversions() const;
  RankedTensorType parseTensorType(std::optional<StringRef> text);
  void addPieces(size_t weight);
  bool isComplete(const Tensor &tensor) const;
  /// Those that may have bytes of the range, in their order.
  ArrayRef<Piece> getPieces(const Range &range) const;
  Error writeTensor(const Tensor &tensor, SafetensorsWriter &writer);
  ArrayRef<char> unpack(const Piece &piece);
  ArrayRef<char> unpackExpert(const Weight &weight, int64_t expert);

  std::string path;
  SafetensorsFile &file;
  MLIRContext context;
  ArrayRef<char> data;
  std::vector<Weight> weights;
  std::vector<Tensor> tensors;
  std::vector<Piece> pieces;
  int64_t longestPiece = 0;
  std::vector<char> buffers[2], codes;
};
} // namespace

RankedTensorType Unpacker::parseTensorType(std::optional<StringRef> text) {
  return text ? dyn_cast_or_null<RankedTensorType>(parseType(*text, &context)) : RankedTensorType();
}

static bool hasSubByteElements(RankedTensorType type) {
  unsigned bits = type.getElementTypeBitWidth();
  return bits > 1 && bits < 8;
}

/// Bytes of a tensor in the model's files.
static int64_t getFileBytes(RankedTensorType type) {
  if (!hasSubByteElements(type))
    return type.getNumElements() * getElementBytes(type.getElementType());
  return llvm::divideCeil(type.getNumElements() * type.getElementTypeBitWidth(), 8);
}

Error Unpacker::readTensor(const Object &object) {
  auto name = object.getString("name");
  RankedTensorType type = parseTensorType(object.getString("type"));
  const Array *at = object.getArray("at");
  auto number = [&](size_t i) {
    return at && i < at->size() ? (*at)[i].getAsInteger() : std::nullopt;
  };
  auto fileNumber = number(0), offset = number(1);
  if (!name || !type || !type.hasStaticShape() || !fileNumber || !offset)
    return damaged("a tensor in its metadata");
  tensors.push_back({name->str(), type, {*fileNumber, *offset, *offset + getFileBytes(type)}});
  return Error::success();
}

Error Unpacker::readSource(const Object &object, Weight &weight) {
  Source source{parseTensorType(object.getString("type")), {}};
  const Array *parts = object.getArray("parts");
  if (!source.type || !source.type.hasStaticShape() || !parts)
    return damaged("a source of weight '" + weight.name + "'");
  for (const llvm::json::Value &part : *parts) {
    const Array *numbers = part.getAsArray();
    if (part.getAsNull()) {
      source.parts.push_back({-1, 0, 0});
      continue;
    }
    SmallVector<int64_t, 3> values;
    for (size_t i = 0; numbers && i < numbers->size(); ++i)
      if (auto value = (*numbers)[i].getAsInteger())
        values.push_back(*value);
    if (values.size() != 3 || values[1] < 0 || values[2] < 0)
      return damaged("a source of weight '" + weight.name + "'");
    source.parts.push_back({values[0], values[1], values[1] + values[2]});
  }
  bool fits = source.parts.size() == 1 || int64_t(source.parts.size()) == weight.experts;
  if (!fits || getNumExperts(source.type) != weight.experts)
    return damaged("the sources of weight '" + weight.name + "'");
  weight.sources.push_back(std::move(source));
  return Error::success();
}

/// The steps that undo the transforms, the last one first.
static Error makeSteps(Weight &weight, RankedTensorType type, ArrayRef<Attribute> transforms) {
  auto emitError = [&] { return mlir::emitError(UnknownLoc::get(type.getContext())); };
  for (Attribute transform : transforms) {
    RankedTensorType result;
    if (auto interface = dyn_cast_or_null<WeightTransformInterface>(transform))
      result = interface.getResultType(type, emitError);
    if (!result)
      return createStringError("transforms that do not fit the sources of weight '" + weight.name +
                               "'");
    if (isa<ConvertAttr, QuantizeAttr>(transform)) {
      weight.conversions.push_back(debugString(transform));
    } else {
      auto step = WeightStep::createInverse(transform, type, result);
      if (!step)
        return step.takeError();
      if (step->apply)
        weight.steps.insert(weight.steps.begin(), std::move(*step));
    }
    type = result;
  }
  weight.expertBytes = getExpertBytes(type);
  return Error::success();
}

Error Unpacker::readWeight(const Object &layout, const Object &origin) {
  Weight weight;
  auto name = layout.getString("name");
  auto offset = layout.getInteger("offset"), stride = layout.getInteger("expert_stride"),
       experts = layout.getInteger("experts");
  if (!name || !offset || !stride || !experts || *experts < 1)
    return damaged("its layout");
  weight.name = name->str();
  std::tie(weight.offset, weight.stride, weight.experts) = std::tuple(*offset, *stride, *experts);
  const Object *description = origin.getObject(*name);
  const Array *sources = description ? description->getArray("sources") : nullptr;
  const Array *transforms = description ? description->getArray("transforms") : nullptr;
  if (!sources || sources->empty() || !transforms)
    return damaged("the origin of weight '" + weight.name + "'");
  RankedTensorType type;
  for (const llvm::json::Value &value : *sources) {
    const Object *source = value.getAsObject();
    if (Error error = readSource(source ? *source : Object(), weight))
      return error;
    RankedTensorType next = weight.sources.back().type;
    SmallVector<int64_t> shape(next.getShape());
    if (type && type.getRank() > 1 && next.getRank() == type.getRank())
      shape[1] += type.getDimSize(1);
    type = RankedTensorType::get(shape, next.getElementType());
  }
  SmallVector<Attribute> attributes;
  for (const llvm::json::Value &transform : *transforms)
    attributes.push_back(parseAttribute(transform.getAsString().value_or(""), &context));
  if (Error error = makeSteps(weight, type, attributes))
    return damaged(llvm::toString(std::move(error)));
  uint64_t end = weight.offset + (weight.experts - 1) * weight.stride + weight.expertBytes;
  if (weight.offset < 0 || weight.stride < weight.expertBytes || end > data.size())
    return damaged("weight '" + weight.name + "' is not inside of it");
  weights.push_back(std::move(weight));
  return Error::success();
}

Error Unpacker::checkConversions() const {
  std::vector<std::string> names;
  for (const Weight &weight : weights)
    if (!weight.conversions.empty())
      names.push_back("'" + weight.name + "' (" + llvm::join(weight.conversions, ", ") + ")");
  if (names.empty())
    return Error::success();
  constexpr size_t kMaxListed = 3;
  std::string rest;
  if (names.size() > kMaxListed)
    rest = formatv(" and {0} more", names.size() - kMaxListed);
  names.resize(std::min(names.size(), kMaxListed));
  return createStringError(std::make_error_code(std::errc::not_supported),
                           "weights were converted when the model was compiled, and what they were "
                           "before cannot be recovered: " +
                               llvm::join(names, ", ") + rest);
}

Error Unpacker::read() {
  const auto &metadata = file.getMetadata();
  auto layoutText = metadata.find("moec.layout"), originText = metadata.find("moec.origin");
  if (layoutText == metadata.end())
    return createStringError("'" + path + "' was not written by moec");
  if (originText == metadata.end())
    return createStringError(
        std::make_error_code(std::errc::not_supported),
        "the weights file '" + path +
            "' does not say where its weights come from: the model was compiled from a program "
            "whose weights are not as in their files");
  auto layout = llvm::json::parse(layoutText->second),
       origin = llvm::json::parse(originText->second);
  if (!layout || !origin) {
    consumeError(layout.takeError());
    consumeError(origin.takeError());
    return damaged("its metadata");
  }
  const Array *layouts = layout->getAsArray();
  const Object *root = origin->getAsObject();
  const Object *weightOrigins = root ? root->getObject("weights") : nullptr;
  const Array *tensorOrigins = root ? root->getArray("tensors") : nullptr;
  if (!layouts || !weightOrigins || !tensorOrigins)
    return damaged("its metadata");
  data = file.getAllData();
  for (const llvm::json::Value &value : *layouts) {
    const Object *object = value.getAsObject();
    if (Error error = readWeight(object ? *object : Object(), *weightOrigins))
      return error;
  }
  for (const llvm::json::Value &value : *tensorOrigins) {
    const Object *object = value.getAsObject();
    if (Error error = readTensor(object ? *object : Object()))
      return error;
  }
  if (Error error = checkConversions())
    return error;
  for (size_t i = 0; i < weights.size(); ++i)
    addPieces(i);
  llvm::sort(pieces);
  for (const Piece &piece : pieces)
    longestPiece = std::max(longestPiece, piece.range.end - piece.range.begin);
  return Error::success();
}

//===----------------------------------------------------------------------===//
// Unpacking
//===----------------------------------------------------------------------===//

void Unpacker::addPieces(size_t number) {
  const Weight &weight = weights[number];
  for (auto [s, source] : llvm::enumerate(weight.sources)) {
    bool isWhole = source.parts.size() == 1;
    // Experts of a whole may begin inside of a byte.
    if (isWhole && source.parts[0].file >= 0 && hasSubByteElements(source.type)) {
      pieces.push_back({source.parts[0], number, s, 0, weight.experts});
      continue;
    }
    int64_t bytes = getExpertBytes(source.type);
    for (int64_t e = 0; e < weight.experts; ++e) {
      Range range = source.parts[isWhole ? 0 : e];
      if (range.file < 0)
        continue;
      if (isWhole)
        range = {range.file, range.begin + e * bytes, range.begin + (e + 1) * bytes};
      pieces.push_back({range, number, s, e, e + 1});
    }
  }
}

ArrayRef<Piece> Unpacker::getPieces(const Range &range) const {
  auto before = [](const Piece &piece, const Range &range) { return piece.range < range; };
  auto begin = std::lower_bound(pieces.begin(), pieces.end(),
                                Range{range.file, range.begin - longestPiece, 0}, before);
  auto end = std::lower_bound(begin, pieces.end(), Range{range.file, range.end, 0}, before);
  return ArrayRef(pieces).slice(begin - pieces.begin(), end - begin);
}

bool Unpacker::isComplete(const Tensor &tensor) const {
  int64_t covered = tensor.range.begin;
  for (const Piece &piece : getPieces(tensor.range))
    if (piece.range.begin <= covered)
      covered = std::max(covered, piece.range.end);
  return covered >= tensor.range.end;
}

/// The bytes of all sources of an expert, one after the other.
ArrayRef<char> Unpacker::unpackExpert(const Weight &weight, int64_t expert) {
  ArrayRef<char> bytes = data.slice(weight.offset + expert * weight.stride, weight.expertBytes);
  unsigned next = 0;
  for (const WeightStep &step : weight.steps) {
    buffers[next].resize(step.resultBytes);
    step.apply(bytes.data(), buffers[next].data());
    bytes = buffers[next];
    next = 1 - next;
  }
  return bytes;
}

/// The bytes of a piece as they were in the file.
ArrayRef<char> Unpacker::unpack(const Piece &piece) {
  const Weight &weight = weights[piece.weight];
  RankedTensorType type = weight.sources[piece.source].type;
  int64_t begin = 0, bytes = getExpertBytes(type);
  for (const Source &before : ArrayRef(weight.sources).take_front(piece.source))
    begin += getExpertBytes(before.type);
  if (!hasSubByteElements(type))
    return unpackExpert(weight, piece.first).slice(begin, bytes);
  std::vector<char> elements;
  for (int64_t e = piece.first; e < piece.last; ++e)
    llvm::append_range(elements, unpackExpert(weight, e).slice(begin, bytes));
  codes.resize(piece.range.end - piece.range.begin);
  packCodes(elements.data(), codes.data(), type.getElementTypeBitWidth(), 1, elements.size(), 1);
  return codes;
}

Error Unpacker::writeTensor(const Tensor &tensor, SafetensorsWriter &writer) {
  int64_t position = tensor.range.begin;
  for (const Piece &piece : getPieces(tensor.range)) {
    if (piece.range.begin > position || piece.range.end <= position)
      continue;
    int64_t end = std::min(piece.range.end, tensor.range.end);
    if (Error error =
            writer.write(unpack(piece).slice(position - piece.range.begin, end - position)))
      return error;
    position = end;
  }
  return Error::success();
}

/// Plain bytes for what a safetensors file has no type for.
static std::pair<SafetensorsType, SmallVector<int64_t>> getStoredType(RankedTensorType type) {
  using T = SafetensorsType;
  Type element = type.getElementType();
  auto known = [&]() -> std::optional<T> {
    if (isa<Float8E4M3FNType>(element))
      return T::F8E4M3;
    if (isa<Float8E5M2Type>(element))
      return T::F8E5M2;
    if (isa<Float8E8M0FNUType>(element))
      return T::F8E8M0;
    bool isUnsigned = element.isUnsignedInteger();
    if (element.isF16() || element.isF32() || element.isF64() || element.isBF16())
      return element.isBF16()  ? T::BF16
             : element.isF16() ? T::F16
             : element.isF32() ? T::F32
                               : T::F64;
    if (!isa<IntegerType>(element))
      return std::nullopt;
    switch (element.getIntOrFloatBitWidth()) {
    case 1:
      return T::Bool;
    case 8:
      return isUnsigned ? T::U8 : T::I8;
    case 16:
      return isUnsigned ? T::U16 : T::I16;
    case 32:
      return isUnsigned ? T::U32 : T::I32;
    case 64:
      return isUnsigned ? T::U64 : T::I64;
    default:
      return std::nullopt;
    }
  }();
  if (known)
    return {*known, SmallVector<int64_t>(type.getShape())};
  return {T::U8, {getFileBytes(type)}};
}

Expected<UnpackedWeights> Unpacker::write(StringRef output) {
  UnpackedWeights result;
  SafetensorsWriter writer;
  std::vector<const Tensor *> complete;
  for (const Tensor &tensor : tensors) {
    if (!isComplete(tensor)) {
      result.incomplete.push_back(tensor.name);
      continue;
    }
    complete.push_back(&tensor);
    auto [type, shape] = getStoredType(tensor.type);
    if (auto offset = writer.declare(tensor.name, type, shape, /*alignment=*/1); !offset)
      return offset.takeError();
  }
  auto outputFailed = [](Error error) {
    return createStringError(std::make_error_code(std::errc::io_error),
                             llvm::toString(std::move(error)));
  };
  if (Error error = writer.open(output))
    return outputFailed(std::move(error));
  for (const Tensor *tensor : complete)
    if (Error error = writeTensor(*tensor, writer))
      return outputFailed(std::move(error));
  if (Error error = writer.finish())
    return outputFailed(std::move(error));
  result.numTensors = complete.size();
  result.numBytes = writer.getDataSize();
  return result;
}

Expected<UnpackedWeights> mlir::moe::unpackWeights(StringRef path, StringRef output) {
  auto file = SafetensorsFile::open(path);
  if (!file)
    return file.takeError();
  Unpacker unpacker(path, *file);
  if (Error error = unpacker.read())
    return std::move(error);
  return unpacker.write(output);
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/WeightsFile.h"

#include "moec/Support/Safetensors.h"
#include "moec/Target/CPU/PlanWeights.h"
#include "moec/Target/CPU/UnpackWeights.h"
#include "moec/Target/CPU/WeightTransforms.h"
#include "llvm/ADT/SmallPtrSet.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/BLAKE3.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <limits>
#include <unistd.h>

using namespace mlir;
using namespace mlir::moe;
using llvm::createStringError;
using llvm::Error;
using llvm::Expected;
using llvm::formatv;

namespace {
/// A tensor of the file: a whole weight, or one expert of a member of a bank.
struct Item {
  WeightOp weight;
  size_t packer;
  int64_t expert; // -1: all
  int64_t offset;
};

class Writer {
public:
  Writer(ModuleOp module, StringRef modelFolder, WeightsProgress progress)
      : module(module), files(modelFolder), progress(progress) {}
  Error openSources();
  Expected<WeightsFileInfo> write(StringRef path);

private:
  Error declare();
  Error writeItem(const Item &item);
  Error writeBytes(WeightOp weight, ArrayRef<char> bytes);
  void recordError(WeightOp weight, const WeightPacker &packer, WeightsFileInfo &info);
  void warnOfNaN(WeightOp weight, ArrayRef<char> bytes);

  ModuleOp module;
  SourceFiles files;
  WeightsProgress progress;
  std::vector<WeightPacker> packers;
  std::vector<Item> items;
  SafetensorsWriter file{kExpertAlignment};
  llvm::BLAKE3 hash;
  uint64_t written = 0;
  llvm::SmallPtrSet<Operation *, 4> warned;
};
} // namespace

static std::optional<SafetensorsType> typeOf(Type type) {
  using T = SafetensorsType;
  if (type.isInteger(1))
    return T::Bool;
  if (isa<Float8E4M3FNType>(type))
    return T::F8E4M3;
  if (isa<Float8E5M2Type>(type))
    return T::F8E5M2;
  if (isa<Float8E8M0FNUType>(type))
    return T::F8E8M0;
  if (type.isBF16())
    return T::BF16;
  bool isSigned = !type.isUnsignedInteger();
  switch (getElementBytes(type)) {
  case 1:
    // Packed codes are i8 in the program, and plain bytes to everybody else.
    return T::U8;
  case 2:
    return type.isF16() ? T::F16 : isSigned ? T::I16 : T::U16;
  case 4:
    return type.isF32() ? T::F32 : isSigned ? T::I32 : T::U32;
  case 8:
    return type.isF64() ? T::F64 : isSigned ? T::I64 : T::U64;
  default:
    return std::nullopt;
  }
}

std::string mlir::moe::getWeightsLayout(ModuleOp module) {
  llvm::json::Array weights;
  for (WeightOp weight : module.getOps<WeightOp>()) {
    std::string type;
    llvm::raw_string_ostream(type) << weight.getType();
    llvm::json::Object object{{"name", llvm::json::fixUTF8(weight.getSymName())},
                              {"type", type},
                              {"offset", int64_t(*weight.getOffset())},
                              {"expert_stride", int64_t(*weight.getExpertStride())},
                              {"experts", getNumExperts(weight.getTensorType())}};
    if (weight.getBankAttr())
      object["bank"] = llvm::json::fixUTF8(*weight.getBank());
    weights.push_back(std::move(object));
  }
  return formatv("{0}", llvm::json::Value(std::move(weights)));
}

Error Writer::openSources() {
  for (WeightOp weight : module.getOps<WeightOp>()) {
    auto packer = WeightPacker::create(weight, files);
    if (!packer)
      return packer.takeError();
    int64_t offset = *weight.getOffset(), stride = *weight.getExpertStride();
    size_t index = packers.size();
    if (!weight.getBankAttr())
      items.push_back({weight, index, -1, offset});
    else
      for (int64_t e = 0; e < packer->getNumExperts(); ++e)
        items.push_back({weight, index, e, offset + e * stride});
    packers.push_back(std::move(*packer));
  }
  llvm::stable_sort(items, [](const Item &a, const Item &b) { return a.offset < b.offset; });
  return Error::success();
}

Error Writer::declare() {
  for (const Item &item : items) {
    WeightOp weight = item.weight;
    RankedTensorType type = weight.getTensorType();
    auto elements = typeOf(type.getElementType());
    if (!elements)
      return createStringError("a safetensors file cannot hold elements of the type of weight '" +
                               weight.getSymName() + "'");
    std::string name = weight.getSymName().str();
    ArrayRef<int64_t> shape = type.getShape();
    if (item.expert >= 0) {
      name += "/" + std::to_string(item.expert);
      shape = shape.drop_front();
    }
    if (Error error = file.declareAt(name, *elements, shape, item.offset))
      return error;
  }
  return Error::success();
}

/// Reserves the space, so that a full disk is known before hours of work.
static Error reserve(StringRef path, uint64_t bytes) {
  int descriptor = ::open(path.str().c_str(), O_WRONLY | O_CLOEXEC);
  int failure = descriptor < 0 ? errno : 0;
  if (!failure && ::fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, bytes) != 0)
    failure = errno;
  if (descriptor >= 0)
    ::close(descriptor);
  if (failure == 0 || failure == EOPNOTSUPP || failure == ENOSYS || failure == EINVAL)
    return Error::success();
  return createStringError(
      formatv("{0}: cannot reserve {1} bytes: {2}", path, bytes, std::strerror(failure)));
}

/// Whether an element of a floating-point type of 2 or 4 bytes is NaN: its bits without
/// the sign are above those of infinity.
template <typename T> static bool anyAbove(ArrayRef<char> bytes, T infinity) {
  bool found = false;
  for (size_t i = 0; i + sizeof(T) <= bytes.size(); i += sizeof(T)) {
    T element;
    std::memcpy(&element, bytes.data() + i, sizeof(T));
    found |= (element & (std::numeric_limits<T>::max() >> 1)) > infinity;
  }
  return found;
}

static bool hasNaN(ArrayRef<char> bytes, Type type) {
  if (type.isF32())
    return anyAbove<uint32_t>(bytes, 0x7f800000u);
  if (type.isBF16())
    return anyAbove<uint16_t>(bytes, 0x7f80u);
  return type.isF16() && anyAbove<uint16_t>(bytes, 0x7c00u);
}

/// NaN is kept, but is hardly ever meant. Constants inside the program were looked at
/// when they were imported.
void Writer::warnOfNaN(WeightOp weight, ArrayRef<char> bytes) {
  bool isInFile = llvm::any_of(weight.getSources(), llvm::IsaPred<SegmentAttr, ExpertsAttr>);
  if (!isInFile || warned.contains(weight) ||
      !hasNaN(bytes, weight.getTensorType().getElementType()))
    return;
  warned.insert(weight);
  emitWarning(weight.getLoc()) << "weight '" << weight.getSymName() << "' holds NaN, which is kept";
}

static Error interrupted() { return createStringError("interrupted"); }

Error Writer::writeBytes(WeightOp weight, ArrayRef<char> bytes) {
  // In pieces, so that progress is shown and mapped pages are dropped.
  constexpr size_t piece = 8 << 20;
  for (; !bytes.empty(); bytes = bytes.drop_front(std::min(piece, bytes.size()))) {
    ArrayRef<char> front = bytes.take_front(piece);
    warnOfNaN(weight, front);
    hash.update({reinterpret_cast<const uint8_t *>(front.data()), front.size()});
    if (Error error = file.write(front))
      return error;
    uint64_t before = written;
    written += front.size();
    if (before / piece != written / piece) {
      files.releasePages();
      if (!progress(written, file.getDataSize()))
        return interrupted();
    }
  }
  return Error::success();
}

Error Writer::writeItem(const Item &item) {
  WeightPacker &packer = packers[item.packer];
  if (item.expert >= 0)
    return writeBytes(item.weight, packer.pack(item.expert));
  if (ArrayRef<char> whole = packer.getWhole(); !whole.empty())
    return writeBytes(item.weight, whole);
  for (int64_t e = 0; e < packer.getNumExperts(); ++e)
    if (Error error = writeBytes(item.weight, packer.pack(e)))
      return error;
  return Error::success();
}

void Writer::recordError(WeightOp weight, const WeightPacker &packer, WeightsFileInfo &info) {
  const ConversionError *error = packer.getConversionError();
  if (!error)
    return;
  info.conversionErrors[weight.getSymName()] = *error;
  if (std::isinf(error->largest))
    emitWarning(weight.getLoc()) << "weight '" << weight.getSymName()
                                 << "' holds numbers beyond the range of the type that it is "
                                    "converted to, which become infinite";
}

Expected<WeightsFileInfo> Writer::write(StringRef path) {
  std::string layout = getWeightsLayout(module);
  constexpr size_t digestDigits = 2 * LLVM_BLAKE3_OUT_LEN;
  file.setMetadata("moec.digest", std::string(digestDigits, '0'));
  file.setMetadata("moec.layout", layout);
  if (std::string origin = getWeightsOrigin(module); !origin.empty())
    file.setMetadata("moec.origin", origin);
  file.setMetadata("moec.version", "1");
  if (Error error = declare())
    return std::move(error);
  WeightsFileInfo info{file.getFileSize(), file.getDataOffset(), file.getDataSize(), "", {}};
  if (Error error = file.open(path))
    return std::move(error);
  if (Error error = reserve(path, info.fileBytes))
    return std::move(error);
  hash.update(layout);
  for (const Item &item : items)
    if (Error error = writeItem(item))
      return std::move(error);
  for (auto [weight, packer] : llvm::zip_equal(module.getOps<WeightOp>(), packers))
    recordError(weight, packer, info);
  auto digest = hash.final();
  info.digest = llvm::toHex(ArrayRef<uint8_t>(digest), /*LowerCase=*/true);
  file.setMetadata("moec.digest", info.digest);
  if (Error error = file.finish())
    return std::move(error);
  if (!progress(info.dataBytes, info.dataBytes))
    return interrupted();
  return info;
}

Expected<WeightsFileInfo> mlir::moe::writeWeightsFile(ModuleOp module, StringRef modelFolder,
                                                      StringRef path, bool &sourceFailed,
                                                      WeightsProgress progress) {
  sourceFailed = false;
  if (module.getOps<WeightOp>().empty())
    return WeightsFileInfo();
  for (WeightOp weight : module.getOps<WeightOp>())
    if (!weight.getOffset() || !weight.getExpertStride())
      return createStringError("weight '" + weight.getSymName() +
                               "' has no place in the file: run --plan-weights first");
  Writer writer(module, modelFolder, progress);
  if (Error error = writer.openSources()) {
    sourceFailed = true;
    return std::move(error);
  }
  return writer.write(path);
}

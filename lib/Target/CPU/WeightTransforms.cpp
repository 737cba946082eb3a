// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/WeightTransforms.h"

#include "WeightSteps.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>

using namespace mlir;
using namespace mlir::moe;
using llvm::createStringError;
using llvm::Error;
using llvm::Expected;
using llvm::formatv;

namespace fs = llvm::sys::fs;
namespace path = llvm::sys::path;

int64_t mlir::moe::getElementBytes(Type elementType) {
  unsigned bits = elementType.getIntOrFloatBitWidth();
  return bits < 8 ? 1 : bits / 8;
}

int64_t mlir::moe::getNumExperts(RankedTensorType type) {
  return type.getRank() == 0 ? 1 : type.getDimSize(0);
}

int64_t mlir::moe::getExpertBytes(RankedTensorType type) {
  int64_t elements =
      type.getRank() == 0 ? 1 : ShapedType::getNumElements(type.getShape().drop_front());
  return elements * getElementBytes(type.getElementType());
}

//===----------------------------------------------------------------------===//
// SourceFiles
//===----------------------------------------------------------------------===//

static bool leavesFolder(StringRef file) {
  if (file.empty() || path::is_absolute(file))
    return true;
  return std::any_of(path::begin(file), path::end(file),
                     [](StringRef part) { return part == ".."; });
}

Expected<const fs::mapped_file_region *> SourceFiles::map(StringRef file) {
  std::unique_ptr<fs::mapped_file_region> &region = files[file];
  if (region)
    return region.get();
  if (leavesFolder(file))
    return createStringError(
        formatv("external data file '{0}' is not inside the model's folder", file));
  llvm::SmallString<256> fullPath(folder);
  path::append(fullPath, file);
  Expected<fs::file_t> handle = fs::openNativeFileForRead(fullPath);
  if (!handle)
    return createStringError(
        formatv("cannot open '{0}': {1}", fullPath, llvm::toString(handle.takeError())));
  fs::file_status status;
  std::error_code failure = fs::status(*handle, status);
  if (!failure && status.type() != fs::file_type::regular_file)
    failure = std::make_error_code(std::errc::invalid_argument);
  if (!failure)
    region = std::make_unique<fs::mapped_file_region>(*handle, fs::mapped_file_region::readonly,
                                                      status.getSize(), 0, failure);
  (void)fs::closeFile(*handle);
  if (failure) {
    region.reset();
    return createStringError(formatv("cannot map '{0}': {1}", fullPath, failure.message()));
  }
  return region.get();
}

Expected<ArrayRef<char>> SourceFiles::getBytes(SegmentAttr segment) {
  auto region = map(segment.getFile());
  if (!region)
    return region.takeError();
  uint64_t size = (*region)->size(), offset = segment.getOffset(), length = segment.getLength();
  if (offset > size || length > size - offset)
    return createStringError(formatv("'{0}' has {1} bytes, too few for {2} bytes at offset {3}",
                                     segment.getFile().getValue(), size, length, offset));
  return ArrayRef<char>((*region)->const_data() + offset, length);
}

void SourceFiles::releasePages() {
  for (auto &[name, region] : files)
    // LLVM's dontNeed is posix_madvise, which glibc ignores. Pages that are used
    // again come back from the file.
    if (region)
      ::madvise(const_cast<char *>(region->const_data()), region->size(), MADV_DONTNEED);
}

//===----------------------------------------------------------------------===//
// WeightPacker
//===----------------------------------------------------------------------===//

std::vector<char> mlir::moe::getElementBytes(DenseElementsAttr dense) {
  int64_t width = getElementBytes(dense.getElementType());
  std::vector<char> bytes(dense.getNumElements() * width);
  if (dense.getElementType().isInteger(1)) {
    char *out = bytes.data();
    for (bool value : dense.getValues<bool>())
      *out++ = value;
    return bytes;
  }
  ArrayRef<char> raw = dense.getRawData();
  if (!dense.isSplat()) {
    std::copy(raw.begin(), raw.end(), bytes.begin());
    return bytes;
  }
  for (int64_t i = 0, e = dense.getNumElements(); i < e; ++i)
    std::memcpy(bytes.data() + i * width, raw.data(), width);
  return bytes;
}

Expected<WeightPacker::Source> WeightPacker::openSource(Attribute source, SourceFiles &files) {
  if (auto dense = dyn_cast<DenseElementsAttr>(source)) {
    auto storage = std::make_shared<std::vector<char>>(getElementBytes(dense));
    int64_t bytes = moe::getExpertBytes(cast<RankedTensorType>(dense.getType()));
    return Source{*storage, bytes, storage, {}};
  }
  if (auto experts = dyn_cast<ExpertsAttr>(source)) {
    Source all{{}, moe::getExpertBytes(experts.getType()), nullptr, {}};
    for (Attribute part : experts.getParts()) {
      Expected<Source> opened = openSource(part, files);
      if (!opened)
        return opened.takeError();
      all.parts.push_back(std::move(*opened));
    }
    return all;
  }
  if (isa<TensorAttr>(source))
    return createStringError("a source is a named tensor, and its file is not given");
  auto segment = cast<SegmentAttr>(source);
  auto bytes = files.getBytes(segment);
  if (!bytes)
    return bytes.takeError();
  RankedTensorType type = segment.getType();
  std::shared_ptr<std::vector<char>> unpacked;
  // Files hold several elements of 2 or 4 bits in a byte, memory one.
  if (unsigned bits = type.getElementTypeBitWidth(); bits > 1 && bits < 8) {
    unpacked = std::make_shared<std::vector<char>>(type.getNumElements());
    unpackCodes(bytes->data(), unpacked->data(), bits, 1, type.getNumElements(), 1);
    bytes = ArrayRef<char>(*unpacked);
  }
  return Source{*bytes, moe::getExpertBytes(type), unpacked, {}};
}

static Error inWeight(WeightOp weight, Error error) {
  return createStringError(
      formatv("weight '{0}': {1}", weight.getSymName(), llvm::toString(std::move(error))));
}

Expected<WeightPacker> WeightPacker::create(WeightOp weight, SourceFiles &files) {
  WeightPacker packer;
  RankedTensorType type = weight.getSourceType();
  packer.numExperts = moe::getNumExperts(type);
  packer.expertBytes = moe::getExpertBytes(weight.getTensorType());
  unsigned bits = type.getElementTypeBitWidth();
  if (bits > 64 || !llvm::isPowerOf2_32(bits))
    return inWeight(weight, createStringError(formatv("elements of {0} bits", bits)));
  for (Attribute source : weight.getSources()) {
    Expected<Source> opened = openSource(source, files);
    if (!opened)
      return inWeight(weight, opened.takeError());
    packer.sources.push_back(std::move(*opened));
  }
  auto emitError = [&] { return weight.emitOpError(); };
  for (Attribute transform : weight.getTransforms()) {
    auto result = cast<WeightTransformInterface>(transform).getResultType(type, emitError);
    if (!result)
      return inWeight(weight, createStringError("its transforms do not fit its sources"));
    auto step = WeightStep::create(transform, type, result, packer.conversionError);
    if (!step)
      return inWeight(weight, step.takeError());
    if (step->apply)
      packer.steps.push_back(std::move(*step));
    type = result;
  }
  return packer;
}

ArrayRef<char> WeightPacker::getWhole() const {
  if (sources.size() != 1 || !steps.empty())
    return {};
  return sources[0].bytes;
}

/// The sources of an expert one after the other: stacked along dimension 1.
ArrayRef<char> WeightPacker::gather(int64_t expert) {
  if (sources.size() == 1)
    return sources[0].getExpert(expert);
  std::vector<char> &buffer = buffers[0];
  buffer.clear();
  for (const Source &source : sources) {
    ArrayRef<char> bytes = source.getExpert(expert);
    buffer.insert(buffer.end(), bytes.begin(), bytes.end());
  }
  return buffer;
}

ArrayRef<char> WeightPacker::pack(int64_t expert) {
  assert(expert >= 0 && expert < numExperts && "no such expert");
  ArrayRef<char> bytes = gather(expert);
  unsigned next = sources.size() == 1 ? 0 : 1;
  for (const WeightStep &step : steps) {
    buffers[next].resize(step.resultBytes);
    step.apply(bytes.data(), buffers[next].data());
    bytes = buffers[next];
    next = 1 - next;
  }
  return bytes;
}

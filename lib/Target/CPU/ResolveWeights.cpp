// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/ResolveWeights.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Support/Safetensors.h"
#include "moec/Support/Suggest.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/Path.h"

namespace mlir::moe {
#define GEN_PASS_DEF_RESOLVEWEIGHTS
#include "moec/Target/CPU/ResolveWeights.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
namespace path = llvm::sys::path;

/// The element type of a tensor in the file.
static Type elementTypeOf(SafetensorsType type, Builder &builder) {
  auto integer = [&](unsigned bits, bool isSigned) {
    // Signed integers are signless in the program.
    return isSigned ? builder.getIntegerType(bits) : builder.getIntegerType(bits, false);
  };
  switch (type) {
  case SafetensorsType::Bool:
    return builder.getI1Type();
  case SafetensorsType::F8E4M3:
    return builder.getType<Float8E4M3FNType>();
  case SafetensorsType::F8E5M2:
    return builder.getType<Float8E5M2Type>();
  case SafetensorsType::F8E8M0:
    return builder.getType<Float8E8M0FNUType>();
  case SafetensorsType::F16:
    return builder.getF16Type();
  case SafetensorsType::BF16:
    return builder.getBF16Type();
  case SafetensorsType::F32:
    return builder.getF32Type();
  case SafetensorsType::F64:
    return builder.getF64Type();
  case SafetensorsType::I8:
  case SafetensorsType::I16:
  case SafetensorsType::I32:
  case SafetensorsType::I64:
    return integer(8 * getByteWidth(type), true);
  case SafetensorsType::U8:
  case SafetensorsType::U16:
  case SafetensorsType::U32:
  case SafetensorsType::U64:
    return integer(8 * getByteWidth(type), false);
  }
  llvm_unreachable("all types of safetensors files are handled");
}

namespace {

class Resolver {
public:
  Resolver(ModuleOp module, StringRef file) : builder(module.getContext()), file(file) {}

  LogicalResult open(ModuleOp module, StringRef folder);
  LogicalResult resolve(WeightOp weight);

private:
  FailureOr<SegmentAttr> find(WeightOp weight, TensorAttr tensor);

  Builder builder;
  StringRef file;
  std::optional<SafetensorsFile> tensors;
};

} // namespace

LogicalResult Resolver::open(ModuleOp module, StringRef folder) {
  if (file.empty())
    return module.emitError() << "the weights are named tensors (#moe.tensor), and no weights file "
                                 "is given";
  if (path::is_absolute(file))
    return module.emitError() << "the weights file '" << file
                              << "' is not a path relative to the model's folder";
  for (StringRef part : llvm::make_range(path::begin(file), path::end(file)))
    if (part == "..")
      return module.emitError() << "the weights file '" << file << "' leaves the model's folder";
  SmallString<256> fullPath(folder);
  path::append(fullPath, file);
  auto opened = SafetensorsFile::open(fullPath);
  if (!opened)
    return module.emitError() << llvm::toString(opened.takeError());
  tensors = std::move(*opened);
  return success();
}

FailureOr<SegmentAttr> Resolver::find(WeightOp weight, TensorAttr tensor) {
  StringRef name = tensor.getName();
  const SafetensorsTensor *found = tensors->find(name);
  if (!found) {
    SmallVector<StringRef> names;
    for (const SafetensorsTensor &candidate : tensors->getTensors())
      if (!candidate.isPadding())
        names.push_back(candidate.name);
    return weight.emitOpError() << "has no tensor '" << name << "' in '" << file << "'"
                                << suggestName(name, names);
  }
  auto type = RankedTensorType::get(found->shape, elementTypeOf(found->type, builder));
  RankedTensorType expected = tensor.getType() ? tensor.getType() : weight.getTensorType();
  if (type != expected)
    return weight.emitOpError() << "finds tensor '" << name << "' of type " << type << " in '"
                                << file << "', expected " << expected;
  return SegmentAttr::get(builder.getContext(), builder.getStringAttr(file),
                          tensors->getDataOffset() + found->begin, found->getNumBytes(), type);
}

LogicalResult Resolver::resolve(WeightOp weight) {
  SmallVector<Attribute> sources;
  for (Attribute source : weight.getSources()) {
    auto tensor = dyn_cast<TensorAttr>(source);
    if (!tensor) {
      sources.push_back(source);
      continue;
    }
    FailureOr<SegmentAttr> segment = find(weight, tensor);
    if (failed(segment))
      return failure();
    sources.push_back(*segment);
  }
  weight.setSourcesAttr(builder.getArrayAttr(sources));
  return success();
}

static bool isNamed(WeightOp weight) {
  return llvm::any_of(weight.getSources(), llvm::IsaPred<TensorAttr>);
}

LogicalResult mlir::moe::resolveWeights(ModuleOp module, StringRef folder, StringRef file) {
  SmallVector<WeightOp> weights;
  for (WeightOp weight : module.getOps<WeightOp>())
    if (isNamed(weight))
      weights.push_back(weight);
  if (weights.empty())
    return success();
  Resolver resolver(module, file);
  if (failed(resolver.open(module, folder)))
    return failure();
  bool ok = true;
  for (WeightOp weight : weights)
    ok &= succeeded(resolver.resolve(weight));
  return success(ok);
}

namespace {
struct ResolveWeights : moe::impl::ResolveWeightsBase<ResolveWeights> {
  using ResolveWeightsBase::ResolveWeightsBase;

  void runOnOperation() override {
    if (failed(resolveWeights(getOperation(), folder, file)))
      signalPassFailure();
  }
};
} // namespace

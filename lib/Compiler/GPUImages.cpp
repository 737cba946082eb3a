// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From gpu.modules to what the library has of its kernels.

#include "Compilation.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "moec/Conversion/GPUToRuntime/GPUToRuntime.h"
#include "moec/Runtime/model_abi.h"
#include "moec/Target/CUDA/Kernels.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
class KernelCompiler {
public:
  explicit KernelCompiler(Compilation &compilation)
      : compilation(compilation), module(*compilation.module) {}

  LogicalResult compile() {
    SmallVector<gpu::GPUModuleOp> modules(module.getOps<gpu::GPUModuleOp>());
    if (modules.size() != 1)
      return compilation.fail(CompileStatus::Internal,
                              "the kernels are in " + Twine(modules.size()) + " modules");
    if (failed(lower(modules.front())) || failed(emitCode(modules.front())) || failed(makeImages()))
      return failure();
    modules.front()->erase();
    module->setAttr(kImagesAttr, ArrayAttr::get(module.getContext(), images));
    return success();
  }

private:
  LogicalResult lower(gpu::GPUModuleOp kernels) {
    PassManager pm(&compilation.context, ModuleOp::getOperationName());
    pm.enableVerifier(compilation.options.verifyEach);
    buildLowerGPUModulePipeline(pm.nest<gpu::GPUModuleOp>());
    return pm.run(module);
  }

  LogicalResult emitCode(gpu::GPUModuleOp kernels) {
    for (const GPUMachine &machine : compilation.gpus) {
      auto ptx = emitPTX(kernels, machine);
      if (!ptx)
        return compilation.fail(CompileStatus::Unsupported, ptx.takeError());
      codes.push_back({machine, /*isPTX=*/true, std::move(*ptx)});
    }
    return success();
  }

  LogicalResult makeImages() {
    StringRef format = compilation.options.gpuFormat;
    if (format == "ptx") {
      for (const GPUCode &code : codes)
        addImage(code.machine, MOEC_IMAGE_PTX, code.bytes);
      return success();
    }
    auto toolkit = CUDAToolkit::find();
    if (!toolkit)
      return compilation.fail(CompileStatus::Output,
                              llvm::toString(toolkit.takeError()) + "; or use --gpu-format=ptx");
    std::vector<GPUCode> binaries;
    for (const GPUCode &code : codes) {
      auto binary = toolkit->assemble(code);
      if (!binary)
        return compilation.fail(CompileStatus::Internal, binary.takeError());
      if (format == "cubin")
        addImage(code.machine, MOEC_IMAGE_CUBIN, binary->bytes);
      binaries.push_back(std::move(*binary));
    }
    if (format == "cubin")
      return success();
    // For newer GPUs.
    binaries.push_back(codes.back());
    auto bundle = toolkit->bundle(binaries);
    if (!bundle)
      return compilation.fail(CompileStatus::Internal, bundle.takeError());
    GPUMachine first = codes.front().machine;
    first.onlyThis &= codes.size() == 1;
    addImage(first, MOEC_IMAGE_FATBIN, *bundle);
    return success();
  }

  void addImage(const GPUMachine &machine, uint32_t kind, StringRef bytes) {
    Builder builder(module.getContext());
    images.push_back(builder.getDictionaryAttr(
        {builder.getNamedAttr("capability", builder.getI32IntegerAttr(machine.capability)),
         builder.getNamedAttr("exact", builder.getBoolAttr(machine.onlyThis)),
         builder.getNamedAttr("kind", builder.getI32IntegerAttr(kind)),
         builder.getNamedAttr("data", builder.getStringAttr(bytes))}));
  }

  Compilation &compilation;
  ModuleOp module;
  /// PTX, by rising capability.
  std::vector<GPUCode> codes;
  SmallVector<Attribute> images;
};
} // namespace

LogicalResult mlir::moe::compileKernels(Compilation &compilation) {
  return KernelCompiler(compilation).compile();
}

CUDADescription mlir::moe::readImages(ModuleOp module) {
  CUDADescription description;
  for (auto image : module->getAttrOfType<ArrayAttr>(kImagesAttr).getAsRange<DictionaryAttr>())
    description.images.push_back(
        {static_cast<uint32_t>(image.getAs<IntegerAttr>("capability").getInt()),
         image.getAs<BoolAttr>("exact").getValue(),
         static_cast<uint32_t>(image.getAs<IntegerAttr>("kind").getInt()),
         image.getAs<StringAttr>("data").str()});
  for (auto name : module->getAttrOfType<ArrayAttr>(kKernelsAttr).getAsRange<StringAttr>())
    description.kernels.push_back(name.str());
  if (auto count = module->getAttrOfType<IntegerAttr>(kTensorMapsAttr))
    description.numTensorMaps = count.getInt();
  return description;
}

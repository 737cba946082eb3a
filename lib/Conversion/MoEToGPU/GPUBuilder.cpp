// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "GPUBuilder.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

/// The gpu.module of all kernels of a module.
static gpu::GPUModuleOp getKernelModule(ModuleOp module) {
  constexpr StringLiteral name = "moec_kernels";
  if (auto found = module.lookupSymbol<gpu::GPUModuleOp>(name))
    return found;
  OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
  module->setAttr(gpu::GPUDialect::getContainerModuleAttrName(), builder.getUnitAttr());
  return gpu::GPUModuleOp::create(builder, module.getLoc(), name);
}

gpu::GPUFuncOp mlir::moe::cuda::getOrCreateGPUKernel(
    ModuleOp module, StringRef name, TypeRange arguments, int64_t threads,
    function_ref<void(GPUBuilder &, Block::BlockArgListType)> body) {
  gpu::GPUModuleOp kernels = getKernelModule(module);
  if (auto found = kernels.lookupSymbol<gpu::GPUFuncOp>(name))
    return found;
  OpBuilder builder = OpBuilder::atBlockEnd(kernels.getBody());
  Location loc = NameLoc::get(builder.getStringAttr(name));
  auto kernel = gpu::GPUFuncOp::create(builder, loc, name, builder.getFunctionType(arguments, {}));
  kernel->setAttr(gpu::GPUDialect::getKernelFuncAttrName(), builder.getUnitAttr());
  kernel.setKnownBlockSizeAttr(builder.getDenseI32ArrayAttr({int32_t(threads), 1, 1}));
  builder.setInsertionPointToStart(&kernel.getBody().front());
  GPUBuilder b(kernel, builder);
  body(b, kernel.getArguments());
  gpu::ReturnOp::create(b);
  return kernel;
}

void mlir::moe::cuda::launch(cpu::KernelBuilder &b, gpu::GPUFuncOp kernel, Value blocks,
                             ValueRange operands) {
  Value one = b.index(1);
  gpu::KernelDim3 grid = {blocks, one, one};
  gpu::KernelDim3 block = {b.index((*kernel.getKnownBlockSize())[0]), one, one};
  gpu::LaunchFuncOp::create(b, kernel, grid, block, /*dynamicSharedMemorySize=*/Value(), operands);
}

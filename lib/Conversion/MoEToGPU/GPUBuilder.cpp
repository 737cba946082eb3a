// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "GPUBuilder.h"

#include "mlir/IR/IRMapping.h"

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
  // Registers may be as many as one block leaves: ptxas would spill for several.
  kernel->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(), builder.getI32IntegerAttr(1));
  builder.setInsertionPointToStart(&kernel.getBody().front());
  GPUBuilder b(kernel, builder);
  body(b, kernel.getArguments());
  gpu::ReturnOp::create(b);
  return kernel;
}

int64_t mlir::moe::cuda::threadsOf(gpu::GPUFuncOp kernel) {
  return (*kernel.getKnownBlockSize())[0];
}

int64_t mlir::moe::cuda::sharedBytesOf(gpu::GPUFuncOp kernel) {
  int64_t bytes = 0;
  for (BlockArgument memory : kernel.getWorkgroupAttributions()) {
    auto type = cast<MemRefType>(memory.getType());
    bytes += llvm::alignTo(type.getNumElements() * type.getElementTypeBitWidth() / 8, 16);
  }
  return bytes;
}

void mlir::moe::cuda::inlineBlock(GPUBuilder &b, gpu::GPUFuncOp kernel, ValueRange arguments,
                                  Value block, Value numBlocks) {
  IRMapping mapping;
  mapping.map(kernel.getArguments().take_front(arguments.size()), arguments);
  for (BlockArgument memory : kernel.getWorkgroupAttributions()) {
    auto type = cast<MemRefType>(memory.getType());
    mapping.map(memory, b.shared(type.getShape(), type.getElementType()));
  }
  SmallVector<Operation *> copies;
  for (Operation &op : kernel.front().without_terminator())
    copies.push_back(b.clone(op, mapping));
  for (Operation *copy : copies)
    copy->walk([&](Operation *op) {
      if (!isa<gpu::BlockIdOp, gpu::GridDimOp>(op))
        return;
      op->replaceAllUsesWith(ValueRange(isa<gpu::BlockIdOp>(op) ? block : numBlocks));
      op->erase();
    });
}

gpu::GPUFuncOp mlir::moe::cuda::kernelOf(gpu::LaunchFuncOp launch) {
  return SymbolTable::lookupNearestSymbolFrom<gpu::GPUFuncOp>(launch, launch.getKernel());
}

gpu::LaunchFuncOp mlir::moe::cuda::launch(cpu::KernelBuilder &b, gpu::GPUFuncOp kernel,
                                          Value blocks, ValueRange operands, int64_t sharedBytes) {
  Value one = b.index(1);
  gpu::KernelDim3 grid = {blocks, one, one};
  gpu::KernelDim3 block = {b.index(threadsOf(kernel)), one, one};
  Value dynamic = sharedBytes ? b.i32(sharedBytes) : Value();
  return gpu::LaunchFuncOp::create(b, kernel, grid, block, dynamic, operands);
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What all generators of GPU kernels share.

#ifndef MOEC_LIB_CONVERSION_MOETOGPU_GPUBUILDER_H
#define MOEC_LIB_CONVERSION_MOETOGPU_GPUBUILDER_H

#include "../MoEToCPU/KernelBuilder.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"

namespace mlir::moe::cuda {

constexpr int64_t kLanes = 32;
/// Blocks of a launch whose work is only known on the device: enough to fill every GPU.
constexpr int64_t kFullGrid = 512;
/// Bytes of static shared memory that every GPU gives a block.
constexpr int64_t kStaticShared = 48 * 1024;

/// A kernel builder inside of a gpu.func.
class GPUBuilder : public cpu::KernelBuilder {
public:
  GPUBuilder(gpu::GPUFuncOp function, OpBuilder &builder)
      : KernelBuilder(function.getLoc(), builder, {{kLanes}}), function(function) {}

  gpu::GPUFuncOp function;

  // Places, as index.
  Value thread() { return gpu::ThreadIdOp::create(*this, gpu::Dimension::x); }
  Value block() { return gpu::BlockIdOp::create(*this, gpu::Dimension::x); }
  Value numBlocks() { return gpu::GridDimOp::create(*this, gpu::Dimension::x); }
  /// Of an index that is not negative; `b` a power of two becomes one instruction.
  Value div(Value a, int64_t b) { return createOrFold<arith::DivUIOp>(a, index(b)); }
  Value mod(Value a, int64_t b) { return createOrFold<arith::RemUIOp>(a, index(b)); }

  // Waiting, with memory made visible.
  void barrier() { gpu::BarrierOp::create(*this); }
  void syncWarp() { NVVM::SyncWarpOp::create(*this, i32(-1)); }

  // Between the lanes of a warp, f32 or i32.
  Value shuffleXor(Value value, int64_t mask) {
    return shuffle(value, i32(mask), gpu::ShuffleMode::XOR);
  }
  Value shuffleUp(Value value, int64_t lanes) {
    return shuffle(value, i32(lanes), gpu::ShuffleMode::UP);
  }
  /// The value of lane `lane` (i32).
  Value shuffleFrom(Value value, Value lane) { return shuffle(value, lane, gpu::ShuffleMode::IDX); }
  /// step(a, b) over all lanes, in an order that gives all of them the same result.
  Value reduce(Value value, function_ref<Value(Value, Value)> step) {
    for (int64_t mask = kLanes / 2; mask > 0; mask /= 2)
      value = step(value, shuffleXor(value, mask));
    return value;
  }

  /// Shared memory of the block.
  Value shared(ArrayRef<int64_t> shape, Type element) {
    auto space =
        gpu::AddressSpaceAttr::get(getContext(), gpu::GPUDialect::getWorkgroupAddressSpace());
    auto type = MemRefType::get(shape, element, MemRefLayoutAttrInterface(), space);
    auto *known = llvm::find_if(reusable, [&](Value v) { return v.getType() == type; });
    if (known != reusable.end()) {
      Value memory = *known;
      reusable.erase(known);
      return memory;
    }
    unsigned number = function.getNumWorkgroupAttributions();
    Value memory = function.addWorkgroupAttribution(type, getLoc());
    // For copies of 16 bytes.
    function.setWorkgroupAttributionAttr(number, LLVM::LLVMDialect::getAlignAttrName(),
                                         getI64IntegerAttr(16));
    return memory;
  }

  /// Whoever allocates next may get the memory that is there already: those who have it are never
  /// at work at the same time.
  void reuseShared() { llvm::append_range(reusable, function.getWorkgroupAttributions()); }
  void endReuse() { reusable.clear(); }

private:
  SmallVector<Value> reusable;

  Value shuffle(Value value, Value offset, gpu::ShuffleMode mode) {
    return gpu::ShuffleOp::create(*this, value, offset, i32(kLanes), mode).getShuffleResult();
  }
};

/// The gpu.func `name` in the module of the kernels, made by `body(builder, arguments)` when it
/// does not exist yet. It is for blocks of `threads` threads.
gpu::GPUFuncOp getOrCreateGPUKernel(ModuleOp module, StringRef name, TypeRange arguments,
                                    int64_t threads,
                                    function_ref<void(GPUBuilder &, Block::BlockArgListType)> body);

/// What block `block` of `numBlocks` of another kernel does, in a kernel with blocks of as many
/// threads. `arguments` are those of that kernel.
void inlineBlock(GPUBuilder &b, gpu::GPUFuncOp kernel, ValueRange arguments, Value block,
                 Value numBlocks);
/// The threads of a block of `kernel`, and its bytes of static shared memory.
int64_t threadsOf(gpu::GPUFuncOp kernel);
int64_t sharedBytesOf(gpu::GPUFuncOp kernel);
gpu::GPUFuncOp kernelOf(gpu::LaunchFuncOp launch);

/// Launches `kernel` with `blocks` (index) blocks; none: not at all,
/// and this many bytes of dynamic shared memory.
gpu::LaunchFuncOp launch(cpu::KernelBuilder &b, gpu::GPUFuncOp kernel, Value blocks,
                         ValueRange operands, int64_t sharedBytes = 0);

} // namespace mlir::moe::cuda

#endif // MOEC_LIB_CONVERSION_MOETOGPU_GPUBUILDER_H

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --emulate-gpu

#include "Emulator.h"

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/NVGPU/IR/NVGPUDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/AttrTypeSubElements.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/Pass/PassRegistry.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace {

struct EmulateGPU : PassWrapper<EmulateGPU, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(EmulateGPU)

  StringRef getArgument() const override { return "emulate-gpu"; }
  StringRef getDescription() const override { return "kernels as functions for the CPU"; }
  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<arith::ArithDialect, func::FuncDialect, LLVM::LLVMDialect,
                    memref::MemRefDialect, scf::SCFDialect>();
  }

  void runOnOperation() override {
    SmallVector<gpu::LaunchFuncOp> launches;
    getOperation().walk([&](gpu::LaunchFuncOp op) { launches.push_back(op); });
    for (gpu::GPUModuleOp kernels :
         llvm::make_early_inc_range(getOperation().getOps<gpu::GPUModuleOp>())) {
      for (gpu::GPUFuncOp kernel : llvm::make_early_inc_range(kernels.getOps<gpu::GPUFuncOp>()))
        makeFunction(kernel);
      kernels.erase();
    }
    getOperation()->removeAttr(gpu::GPUDialect::getContainerModuleAttrName());
    SmallVector<nvgpu::TmaCreateDescriptorOp> maps;
    getOperation().walk([&](nvgpu::TmaCreateDescriptorOp op) { maps.push_back(op); });
    for (nvgpu::TmaCreateDescriptorOp op : maps)
      makeMap(op);
    for (gpu::LaunchFuncOp op : launches)
      makeLoop(op);
  }

private:
  static constexpr int64_t kMostDimensions = 4; ///< of a tensor map

  /// Calls a function of the emulator, declared here.
  Value call(ImplicitLocOpBuilder &b, StringRef name, ValueRange operands, Type result = {}) {
    if (!getOperation().lookupSymbol(name)) {
      OpBuilder atTop = OpBuilder::atBlockBegin(getOperation().getBody());
      auto type = b.getFunctionType(operands.getTypes(), result ? TypeRange(result) : TypeRange());
      func::FuncOp::create(atTop, b.getLoc(), name, type).setPrivate();
    }
    auto op = func::CallOp::create(b, name, result ? TypeRange(result) : TypeRange(), operands);
    return result ? op.getResult(0) : Value();
  }

  Value i32(ImplicitLocOpBuilder &b, int64_t value) {
    return arith::ConstantOp::create(b, b.getI32IntegerAttr(value));
  }
  Value index(ImplicitLocOpBuilder &b, int64_t value) {
    return arith::ConstantIndexOp::create(b, value);
  }

  /// A tensor map is a pointer to what the emulator keeps of it.
  void makeMap(nvgpu::TmaCreateDescriptorOp op) {
    ImplicitLocOpBuilder b(op.getLoc(), op);
    auto cast = op.getTensor().getDefiningOp<memref::CastOp>();
    auto type = cast ? dyn_cast<MemRefType>(cast.getSource().getType()) : MemRefType();
    auto map = cast_if_present<nvgpu::TensorMapDescriptorType>(op.getType());
    if (!type || type.getRank() > kMostDimensions ||
        map.getSwizzle() != nvgpu::TensorMapSwizzleKind::SWIZZLE_128B) {
      op.emitError("is not emulated");
      return signalPassFailure();
    }
    auto parts = memref::ExtractStridedMetadataOp::create(b, cast.getSource());
    Value bytes = index(b, type.getElementTypeBitWidth() / 8);
    SmallVector<Value> zeros(type.getRank(), index(b, 0));
    SmallVector<Value> operands = {addressOf(b, cast.getSource(), zeros), bytes,
                                   index(b, type.getRank())};
    SmallVector<Value> strides = llvm::map_to_vector(parts.getStrides(), [&](Value stride) {
      return arith::MulIOp::create(b, stride, bytes).getResult();
    });
    for (ValueRange list :
         {ValueRange(parts.getSizes()), ValueRange(strides), ValueRange(op.getBoxDimensions())}) {
      llvm::append_range(operands, list);
      operands.append(kMostDimensions - list.size(), index(b, 1));
    }
    op.replaceAllUsesWith(
        call(b, "emulate_tensor_map", operands, LLVM::LLVMPointerType::get(&getContext())));
    op.erase();
  }

  void makeLoop(gpu::LaunchFuncOp op) {
    ImplicitLocOpBuilder b(op.getLoc(), op);
    Value shared = index(b, sharedBytes.lookup(op.getKernelName()));
    if (Value dynamic = op.getDynamicSharedMemorySize())
      shared = arith::AddIOp::create(b, shared,
                                     arith::IndexCastOp::create(b, b.getIndexType(), dynamic));
    // Fewer blocks than asked for: see the emulator.
    call(b, "emulate_launch", {op.getGridSizeX(), op.getBlockSizeX(), shared});
    Value threads = arith::MulIOp::create(b, op.getGridSizeX(), op.getBlockSizeX());
    auto loop = scf::ParallelOp::create(b, ValueRange{index(b, 0)}, ValueRange{threads},
                                        ValueRange{index(b, 1)});
    b.setInsertionPoint(loop.getBody()->getTerminator());
    func::CallOp::create(b, op.getKernelName(), TypeRange(), op.getKernelOperands());
    op.erase();
  }

  void makeFunction(gpu::GPUFuncOp kernel) {
    OpBuilder builder = OpBuilder::atBlockEnd(getOperation().getBody());
    SmallVector<Type> types(kernel.getFunctionType().getInputs());
    for (auto [type, argument] : llvm::zip(types, kernel.getArguments()))
      if (isa<nvgpu::TensorMapDescriptorType>(type)) {
        type = LLVM::LLVMPointerType::get(&getContext());
        argument.setType(type);
      }
    auto type = builder.getFunctionType(types, {});
    auto function = func::FuncOp::create(builder, kernel.getLoc(), kernel.getName(), type);
    function.setPrivate();
    function.getBody().takeBody(kernel.getBody());
    Block &entry = function.front();
    ImplicitLocOpBuilder b(kernel.getLoc(), builder);
    b.setInsertionPointToStart(&entry);
    int64_t bytes = 0;
    unsigned inputs = type.getNumInputs();
    for (BlockArgument memory : entry.getArguments().drop_front(inputs))
      memory.replaceAllUsesWith(makeShared(b, memory, bytes));
    entry.eraseArguments(inputs, entry.getNumArguments() - inputs);
    sharedBytes[kernel.getName()] = bytes;
    Type f32 = b.getF32Type();
    sums = LLVM::AllocaOp::create(b, LLVM::LLVMPointerType::get(&getContext()),
                                  LLVM::LLVMArrayType::get(f32, 4), i32(b, 1));
    warpgroupSums = LLVM::AllocaOp::create(b, LLVM::LLVMPointerType::get(&getContext()),
                                           LLVM::LLVMArrayType::get(f32, 128), i32(b, 1));
    function.walk([&](gpu::DynamicSharedMemoryOp op) {
      ImplicitLocOpBuilder at(op.getLoc(), op);
      op.replaceAllUsesWith(makeDynamic(at, op.getType(), bytes));
      op.erase();
    });
    SmallVector<Operation *> ops;
    function.walk([&](Operation *op) { ops.push_back(op); });
    for (Operation *op : ops)
      replace(op);
    AttrTypeReplacer replacer;
    replacer.addReplacement([](MemRefType type) -> std::optional<Type> {
      if (!gpu::GPUDialect::hasWorkgroupMemoryAddressSpace(type))
        return std::nullopt;
      return MemRefType::get(type.getShape(), type.getElementType(), type.getLayout());
    });
    replacer.recursivelyReplaceElementsIn(function, /*replaceAttrs=*/true, /*replaceLocs=*/false,
                                          /*replaceTypes=*/true);
  }

  Value makeShared(ImplicitLocOpBuilder &b, BlockArgument memory, int64_t &bytes) {
    auto type = cast<MemRefType>(memory.getType());
    auto plain = MemRefType::get(type.getShape(), type.getElementType());
    LLVMTypeConverter converter(&getContext());
    Value pointer =
        call(b, "emulate_shared", index(b, bytes), LLVM::LLVMPointerType::get(&getContext()));
    bytes += llvm::alignTo(
        type.getNumElements() * llvm::divideCeil(type.getElementTypeBitWidth(), 8), 16);
    Value descriptor = MemRefDescriptor::fromStaticShape(b, b.getLoc(), converter, plain, pointer);
    return UnrealizedConversionCastOp::create(b, TypeRange{plain}, ValueRange{descriptor})
        .getResult(0);
  }

  /// What follows the static shared memory. Its size is that of the launch, and not looked at.
  Value makeDynamic(ImplicitLocOpBuilder &b, MemRefType type, int64_t offset) {
    auto pointer = LLVM::LLVMPointerType::get(&getContext());
    auto plain = MemRefType::get({1 << 18}, type.getElementType());
    LLVMTypeConverter converter(&getContext());
    Value descriptor = MemRefDescriptor::fromStaticShape(
        b, b.getLoc(), converter, plain, call(b, "emulate_shared", index(b, offset), pointer));
    Value memory = UnrealizedConversionCastOp::create(b, TypeRange{plain}, ValueRange{descriptor})
                       .getResult(0);
    return memref::CastOp::create(b, MemRefType::get(type.getShape(), type.getElementType()),
                                  memory);
  }

  void replace(Operation *op) {
    ImplicitLocOpBuilder b(op->getLoc(), op);
    auto with = [&](Value value) {
      op->getResult(0).replaceAllUsesWith(value);
      op->erase();
    };
    auto withCall = [&](StringRef name, ValueRange operands = {}) {
      call(b, name, operands);
      op->erase();
    };
    llvm::TypeSwitch<Operation *>(op)
        .Case<gpu::ThreadIdOp>([&](auto) { with(call(b, "emulate_thread", {}, b.getIndexType())); })
        .Case<gpu::BlockIdOp>([&](auto) { with(call(b, "emulate_block", {}, b.getIndexType())); })
        .Case<gpu::GridDimOp>(
            [&](auto) { with(call(b, "emulate_num_blocks", {}, b.getIndexType())); })
        .Case<gpu::BlockDimOp>(
            [&](auto) { with(call(b, "emulate_num_threads", {}, b.getIndexType())); })
        .Case<gpu::BarrierOp>([&](auto) { withCall("emulate_barrier"); })
        .Case<NVVM::SyncWarpOp>([&](auto) { withCall("emulate_sync_warp"); })
        .Case<LLVM::CallIntrinsicOp>([&](auto called) {
          if (called.getIntrin() == "llvm.nvvm.barrier.cta.sync.aligned.count")
            withCall("emulate_named_barrier", called.getArgs());
        })
        .Case<NVVM::MBarrierInitOp>([&](auto init) {
          withCall("emulate_mbarrier_init", {pointer(b, init.getAddr()), init.getCount()});
        })
        .Case<NVVM::MBarrierArriveOp>([&](auto arrive) {
          call(b, "emulate_mbarrier_arrive", {pointer(b, arrive.getAddr())});
          op->erase();
        })
        .Case<NVVM::MBarrierArriveExpectTxOp>([&](auto arrive) {
          withCall("emulate_mbarrier_expect", {pointer(b, arrive.getAddr()), arrive.getTxcount()});
        })
        .Case<NVVM::CpAsyncBulkTensorGlobalToSharedClusterOp>(
            [&](auto copy) { replaceBulkCopy(b, copy); })
        // A tensor map as a pointer.
        .Case<UnrealizedConversionCastOp>([&](auto cast) {
          if (cast.getNumOperands() == 1 && cast.getOperandTypes() == cast.getResultTypes())
            with(cast.getOperand(0));
        })
        .Case<NVVM::MBarrierTryWaitParityOp>([&](auto wait) {
          withCall("emulate_mbarrier_wait", {pointer(b, wait.getAddr()), wait.getPhase()});
        })
        .Case<NVVM::WgmmaMmaAsyncOp>([&](auto mma) { replaceWarpgroupMMA(b, mma); })
        .Case<NVVM::WgmmaGroupSyncAlignedOp>([&](auto) { withCall("emulate_wgmma_commit"); })
        .Case<NVVM::WgmmaWaitGroupSyncOp>(
            [&](auto wait) { withCall("emulate_wgmma_wait", index(b, wait.getGroup())); })
        // Memory has one proxy.
        .Case<NVVM::WgmmaFenceAlignedOp, NVVM::FenceProxyOp, NVVM::SetMaxRegisterOp>(
            [&](auto) { op->erase(); })
        // How a block waits for others.
        .Case<LLVM::LoadOp>([&](auto load) {
          if (load.getOrdering() == LLVM::AtomicOrdering::acquire)
            with(call(b, "emulate_acquire", load.getAddr(), b.getI32Type()));
        })
        .Case<gpu::ReturnOp>([&](auto) {
          func::ReturnOp::create(b);
          op->erase();
        })
        .Case<gpu::ShuffleOp>([&](auto shuffle) { replaceShuffle(b, shuffle); })
        .Case<NVVM::ReduxOp>([&](auto redux) {
          int64_t kind = redux.getKind() == NVVM::ReduxKind::ADD   ? 0
                         : redux.getKind() == NVVM::ReduxKind::MAX ? 1
                                                                   : 2;
          with(call(b, "emulate_redux", {redux.getVal(), i32(b, kind)}, b.getI32Type()));
        })
        .Case<NVVM::MatchSyncOp>(
            [&](auto match) { with(call(b, "emulate_match", {match.getVal()}, b.getI32Type())); })
        .Case<NVVM::ConvertFloatToTF32Op>([&](auto convert) {
          with(call(b, "emulate_tf32", {convert.getSrc()}, b.getI32Type()));
        })
        .Case<NVVM::MmaOp>([&](auto mma) { replaceMMA(b, mma); })
        .Case<nvgpu::DeviceAsyncCopyOp>([&](auto copy) { replaceCopy(b, copy); })
        .Case<NVVM::CpAsyncCommitGroupOp>([&](auto) { withCall("emulate_commit"); })
        .Case<NVVM::CpAsyncWaitGroupOp>(
            [&](auto wait) { withCall("emulate_wait", index(b, wait.getN())); })
        .Default([&](Operation *op) {
          if (!isa<gpu::GPUDialect, nvgpu::NVGPUDialect, NVVM::NVVMDialect>(op->getDialect()))
            return;
          op->emitError("is not emulated");
          signalPassFailure();
        });
  }

  void replaceShuffle(ImplicitLocOpBuilder &b, gpu::ShuffleOp op) {
    Type type = op.getValue().getType(), i32Type = b.getI32Type();
    Value value = type == i32Type ? op.getValue()
                                  : arith::BitcastOp::create(b, i32Type, op.getValue()).getResult();
    Value result =
        call(b, "emulate_shuffle", {value, op.getOffset(), i32(b, int64_t(op.getMode()))}, i32Type);
    if (type != i32Type)
      result = arith::BitcastOp::create(b, type, result);
    op.getShuffleResult().replaceAllUsesWith(result);
    op.erase();
  }

  void replaceMMA(ImplicitLocOpBuilder &b, NVVM::MmaOp op) {
    Type i32Type = b.getI32Type(), f32 = b.getF32Type();
    int64_t kind = op.getMultiplicandAPtxType() == NVVM::MMATypes::f16    ? 0
                   : op.getMultiplicandAPtxType() == NVVM::MMATypes::bf16 ? 1
                                                                          : 2;
    SmallVector<Value> operands = {i32(b, kind)};
    for (Value value : llvm::concat<Value>(op.getOperandA(), op.getOperandB()))
      operands.push_back(value.getType() == i32Type
                             ? value
                             : LLVM::BitcastOp::create(b, i32Type, value).getResult());
    operands.push_back(sums);
    auto place = [&](int32_t i) {
      return LLVM::GEPOp::create(b, sums.getType(), f32, sums, ArrayRef<LLVM::GEPArg>{i});
    };
    for (auto [i, value] : llvm::enumerate(op.getOperandC()))
      LLVM::StoreOp::create(b, value, place(i));
    call(b, "emulate_mma", operands);
    Value result = LLVM::PoisonOp::create(b, op.getType());
    for (int64_t i = 0; i < 4; ++i)
      result = LLVM::InsertValueOp::create(b, result, LLVM::LoadOp::create(b, f32, place(i)), i);
    op.replaceAllUsesWith(result);
    op.erase();
  }

  /// A pointer to shared memory as one of the CPU.
  Value pointer(ImplicitLocOpBuilder &b, Value shared) {
    if (auto cast = shared.getDefiningOp<LLVM::AddrSpaceCastOp>())
      shared = cast.getArg();
    auto cast = shared.getDefiningOp<LLVM::IntToPtrOp>();
    return LLVM::IntToPtrOp::create(b, LLVM::LLVMPointerType::get(&getContext()), cast.getArg());
  }

  void replaceWarpgroupMMA(ImplicitLocOpBuilder &b, NVVM::WgmmaMmaAsyncOp op) {
    LLVM::StoreOp::create(b, op.getInouts(), warpgroupSums);
    bool isBF16 = op.getTypeA() == NVVM::WGMMATypes::bf16;
    call(b, "emulate_wgmma",
         {i32(b, op.getShape().getN()), i32(b, isBF16), op.getDescriptorA(), op.getDescriptorB(),
          warpgroupSums});
    op.replaceAllUsesWith(LLVM::LoadOp::create(b, op.getType(), warpgroupSums).getResult());
    op.erase();
  }

  void replaceBulkCopy(ImplicitLocOpBuilder &b, NVVM::CpAsyncBulkTensorGlobalToSharedClusterOp op) {
    SmallVector<Value> operands = {pointer(b, op.getDstMem()), op.getTmaDescriptor(),
                                   pointer(b, op.getMbar())};
    llvm::append_range(operands, op.getCoordinates());
    operands.append(kMostDimensions - op.getCoordinates().size(), i32(b, 0));
    call(b, "emulate_bulk_copy", operands);
    op.erase();
  }

  /// The address of an element.
  Value addressOf(ImplicitLocOpBuilder &b, Value memref, ValueRange at) {
    auto type = cast<MemRefType>(memref.getType());
    auto parts = memref::ExtractStridedMetadataOp::create(b, memref);
    Value element = parts.getOffset();
    for (auto [i, stride] : llvm::zip(at, parts.getStrides()))
      element = arith::AddIOp::create(b, element, arith::MulIOp::create(b, i, stride));
    Value bytes = arith::MulIOp::create(b, element, index(b, type.getElementTypeBitWidth() / 8));
    Value base = memref::ExtractAlignedPointerAsIndexOp::create(b, memref);
    return arith::AddIOp::create(b, base, bytes);
  }

  void replaceCopy(ImplicitLocOpBuilder &b, nvgpu::DeviceAsyncCopyOp op) {
    Value size = index(b, cast<MemRefType>(op.getSrc().getType()).getElementTypeBitWidth() / 8);
    Value bytes = arith::MulIOp::create(b, size, index(b, op.getDstElements().getSExtValue()));
    Value existing = op.getSrcElements()
                         ? arith::MulIOp::create(b, size, op.getSrcElements()).getResult()
                         : bytes;
    call(b, "emulate_copy",
         {addressOf(b, op.getDst(), op.getDstIndices()),
          addressOf(b, op.getSrc(), op.getSrcIndices()), bytes, existing});
    op.erase();
  }

  llvm::StringMap<int64_t> sharedBytes;
  // On the stack of the kernel that is made.
  Value sums;          ///< f32 [4]
  Value warpgroupSums; ///< f32 [128]
};

} // namespace

void mlir::moe::registerEmulateGPU() { PassRegistration<EmulateGPU>(); }

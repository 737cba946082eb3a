// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --gpu-to-runtime: launches of kernels become calls.

#include "moec/Conversion/GPUToRuntime/GPUToRuntime.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/FunctionCallUtils.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_GPUTORUNTIME
#include "moec/Conversion/GPUToRuntime/GPUToRuntime.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// The kernels of a module by their numbers.
class Kernels {
public:
  FailureOr<int32_t> getNumber(gpu::LaunchFuncOp launch) {
    StringAttr name = launch.getKernelName();
    auto [it, isNew] = numbers.try_emplace(name, names.size(), launch.getKernelModuleName());
    if (it->second.second != launch.getKernelModuleName())
      return launch.emitOpError("kernel '")
             << name.getValue() << "' is in two modules, '" << it->second.second.getValue()
             << "' and '" << launch.getKernelModuleName().getValue() << "'";
    if (isNew)
      names.push_back(name);
    return it->second.first;
  }
  ArrayRef<Attribute> getNames() const { return names; }

private:
  llvm::DenseMap<StringAttr, std::pair<int32_t, StringAttr>> numbers;
  SmallVector<Attribute> names;
};

/// Lowers the launches of one function.
class LaunchLowering {
public:
  LaunchLowering(func::FuncOp func, Kernels &kernels)
      : func(func), kernels(kernels), types(func.getContext()), builder(func.getContext()),
        pointer(LLVM::LLVMPointerType::get(func.getContext())), i32(builder.getI32Type()),
        i64(builder.getI64Type()) {
    auto sizes = LLVM::LLVMArrayType::get(i64, 3);
    // moec_launch_desc
    descriptionType =
        LLVM::LLVMStructType::getLiteral(func.getContext(), {i32, i32, sizes, sizes, sizes});
  }

  LogicalResult lower() {
    SmallVector<gpu::LaunchFuncOp> launches;
    func.walk([&](gpu::LaunchFuncOp launch) { launches.push_back(launch); });
    if (launches.empty())
      return success();
    call = getMarkedArgument(func, kCallAttr);
    if (!call)
      return launches.front().emitOpError("is in a function without an argument marked ")
             << kCallAttr;
    size_t numSlots = 1;
    for (gpu::LaunchFuncOp launch : launches) {
      FailureOr<size_t> count = countParameters(launch);
      if (failed(count))
        return failure();
      numSlots = std::max(numSlots, *count);
    }
    makeStack(numSlots);
    for (gpu::LaunchFuncOp launch : launches)
      if (failed(lower(launch)))
        return failure();
    return success();
  }

private:
  /// Also checks what this lowering relies on.
  FailureOr<size_t> countParameters(gpu::LaunchFuncOp launch) {
    if (launch.getAsyncToken() || !launch.getAsyncDependencies().empty() || launch.getAsyncObject())
      return launch.emitOpError("is asynchronous: not supported");
    size_t count = 0;
    for (Type type : launch.getKernelOperands().getTypes()) {
      if (auto memref = dyn_cast<MemRefType>(type); memref && memref.isStrided()) {
        count += 3 + 2 * memref.getRank();
        continue;
      }
      bool isScalar = type.isIndex() || isa<LLVM::LLVMPointerType>(type) ||
                      (type.isIntOrFloat() && type.getIntOrFloatBitWidth() <= 64);
      if (!isScalar)
        return launch.emitOpError("passes a value of type ") << type << ": not supported";
      ++count;
    }
    return count;
  }

  /// Room for the arguments of any launch, and the pointers to it.
  void makeStack(size_t numSlots) {
    Location loc = func.getLoc();
    builder.setInsertionPointToStart(&func.getBody().front());
    Value one = constant(loc, i64, 1);
    slots =
        LLVM::AllocaOp::create(builder, loc, pointer, LLVM::LLVMArrayType::get(i64, numSlots), one);
    pointers = LLVM::AllocaOp::create(builder, loc, pointer,
                                      LLVM::LLVMArrayType::get(pointer, numSlots), one);
    description = LLVM::AllocaOp::create(builder, loc, pointer, descriptionType, one);
    for (size_t i = 0; i < numSlots; ++i)
      LLVM::StoreOp::create(builder, loc, getElement(loc, slots, i64, i),
                            getElement(loc, pointers, pointer, i));
  }

  LogicalResult lower(gpu::LaunchFuncOp launch) {
    builder.setInsertionPoint(launch);
    FailureOr<int32_t> number = kernels.getNumber(launch);
    if (failed(number))
      return failure();
    storeDescription(launch, *number);
    storeArguments(launch);
    Location loc = launch.getLoc();
    auto module = func->getParentOfType<ModuleOp>();
    FailureOr<LLVM::LLVMFuncOp> callee =
        LLVM::lookupOrCreateFn(builder, module, "moec_launch", {pointer, pointer, pointer},
                               LLVM::LLVMVoidType::get(builder.getContext()));
    if (failed(callee))
      return launch.emitOpError("cannot declare moec_launch");
    LLVM::CallOp::create(builder, loc, *callee, ValueRange{call, description, pointers});
    launch.erase();
    return success();
  }

  void storeDescription(gpu::LaunchFuncOp launch, int32_t number) {
    Location loc = launch.getLoc();
    Value shared = launch.getDynamicSharedMemorySize();
    storeField(loc, {0}, constant(loc, i32, number));
    storeField(loc, {1}, shared ? shared : constant(loc, i32, 0));
    storeSizes(loc, 2, launch.getGridSizeOperandValues());
    storeSizes(loc, 3, launch.getBlockSizeOperandValues());
    if (launch.hasClusterSize()) {
      storeSizes(loc, 4, launch.getClusterSizeOperandValues());
      return;
    }
    for (int32_t i = 0; i < 3; ++i)
      storeField(loc, {4, i}, constant(loc, i64, 0));
  }

  void storeSizes(Location loc, int32_t field, gpu::KernelDim3 sizes) {
    int32_t i = 0;
    for (Value size : {sizes.x, sizes.y, sizes.z})
      storeField(loc, {field, i++}, toInteger(loc, size));
  }

  void storeField(Location loc, ArrayRef<int32_t> path, Value value) {
    SmallVector<LLVM::GEPArg> indices = {0};
    indices.append(path.begin(), path.end());
    LLVM::StoreOp::create(
        builder, loc, value,
        LLVM::GEPOp::create(builder, loc, pointer, descriptionType, description, indices));
  }

  void storeArguments(gpu::LaunchFuncOp launch) {
    Location loc = launch.getLoc();
    int32_t next = 0;
    auto store = [&](Value value) {
      LLVM::StoreOp::create(builder, loc, value, getElement(loc, slots, i64, next++));
    };
    for (Value operand : launch.getKernelOperands()) {
      if (!isa<MemRefType>(operand.getType())) {
        store(operand.getType().isIndex() ? toInteger(loc, operand) : operand);
        continue;
      }
      SmallVector<Value> parts;
      Type type = types.convertType(operand.getType());
      Value descriptor =
          UnrealizedConversionCastOp::create(builder, loc, type, operand).getResult(0);
      MemRefDescriptor::unpack(builder, loc, descriptor, cast<MemRefType>(operand.getType()),
                               parts);
      llvm::for_each(parts, store);
    }
  }

  Value toInteger(Location loc, Value size) {
    if (size.getType().isIndex())
      return arith::IndexCastOp::create(builder, loc, i64, size);
    if (size.getType() == i64)
      return size;
    return arith::ExtUIOp::create(builder, loc, i64, size);
  }

  Value constant(Location loc, Type type, int64_t value) {
    return LLVM::ConstantOp::create(builder, loc, type, builder.getIntegerAttr(type, value));
  }

  Value getElement(Location loc, Value array, Type element, int32_t index) {
    return LLVM::GEPOp::create(builder, loc, pointer, element, array,
                               ArrayRef<LLVM::GEPArg>{index});
  }

  func::FuncOp func;
  Kernels &kernels;
  LLVMTypeConverter types;
  OpBuilder builder;
  Type pointer, i32, i64;
  Type descriptionType;
  Value call, slots, pointers, description;
};

struct GPUToRuntimePass : moe::impl::GPUToRuntimeBase<GPUToRuntimePass> {
  void runOnOperation() override {
    Kernels kernels;
    for (func::FuncOp func : getOperation().getOps<func::FuncOp>())
      if (!func.isDeclaration() && failed(LaunchLowering(func, kernels).lower()))
        return signalPassFailure();
    getOperation()->setAttr(kKernelsAttr, ArrayAttr::get(&getContext(), kernels.getNames()));
  }
};

} // namespace

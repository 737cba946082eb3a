// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --gpu-to-runtime: launches of kernels become calls.

#include "moec/Conversion/GPUToRuntime/GPUToRuntime.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Support/NodeLocation.h"

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/FunctionCallUtils.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/NVGPU/IR/NVGPUDialect.h"
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

  /// A region of the profile: a launch, named by the node that it comes from and its kernel.
  int32_t addRegion(gpu::LaunchFuncOp launch) {
    Builder builder(launch.getContext());
    StringRef source = getNodeName(launch.getLoc());
    if (source.empty())
      source = "launches";
    std::string name = (source + ": " + launch.getKernelName().getValue()).str();
    regions.push_back(
        builder.getDictionaryAttr({builder.getNamedAttr("name", builder.getStringAttr(name)),
                                   builder.getNamedAttr("op", builder.getStringAttr("kernel"))}));
    return regions.size() - 1;
  }
  ArrayRef<Attribute> getRegions() const { return regions; }

  int32_t addTensorMap() { return numTensorMaps++; }
  int32_t getNumTensorMaps() const { return numTensorMaps; }

private:
  SmallVector<Attribute> regions;
  int32_t numTensorMaps = 0;
  llvm::DenseMap<StringAttr, std::pair<int32_t, StringAttr>> numbers;
  SmallVector<Attribute> names;
};

/// The number of an element type among those of CUtensorMapDataType.
std::optional<int32_t> getTensorMapType(Type type) {
  if (type.isF16())
    return 6;
  if (type.isF32())
    return 7;
  if (type.isBF16())
    return 9;
  if (type.isInteger(8))
    return 0;
  if (type.isInteger(32))
    return 3;
  return std::nullopt;
}

constexpr unsigned kMaxTensorMapRank = 5;

/// Lowers the launches of one function.
class LaunchLowering {
public:
  LaunchLowering(func::FuncOp func, Kernels &kernels)
      : func(func), kernels(kernels), types(func.getContext()), builder(func.getContext()),
        pointer(LLVM::LLVMPointerType::get(func.getContext())), i32(builder.getI32Type()),
        i64(builder.getI64Type()) {
    auto sizes = LLVM::LLVMArrayType::get(i64, 3);
    // moec_launch_desc
    descriptionType = LLVM::LLVMStructType::getLiteral(func.getContext(),
                                                       {i32, i32, sizes, sizes, sizes, i32, i32});
    // moec_tensor_map_desc
    auto dims = LLVM::LLVMArrayType::get(i64, kMaxTensorMapRank);
    mapType = LLVM::LLVMStructType::getLiteral(
        func.getContext(), {i32, i32, i32, i32, i32, i32, i32, i32, pointer, dims, dims, dims});
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
    eraseTensorMaps();
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
      if (isa<nvgpu::TensorMapDescriptorType>(type)) {
        ++count;
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
    if (failed(storeArguments(launch)))
      return failure();
    auto callee = declare("moec_launch", {pointer, pointer, pointer},
                          LLVM::LLVMVoidType::get(builder.getContext()));
    if (failed(callee))
      return failure();
    LLVM::CallOp::create(builder, launch.getLoc(), *callee,
                         ValueRange{call, description, pointers});
    restorePointers(launch);
    launch.erase();
    return success();
  }

  FailureOr<LLVM::LLVMFuncOp> declare(StringRef name, ArrayRef<Type> arguments, Type result) {
    auto module = func->getParentOfType<ModuleOp>();
    auto callee = LLVM::lookupOrCreateFn(builder, module, name, arguments, result);
    if (failed(callee))
      func.emitOpError("cannot declare ") << name;
    return callee;
  }

  /// Where a tensor map was in the place of an argument.
  void restorePointers(gpu::LaunchFuncOp launch) {
    Location loc = launch.getLoc();
    for (int32_t i : mapSlots)
      LLVM::StoreOp::create(builder, loc, getElement(loc, slots, i64, i),
                            getElement(loc, pointers, pointer, i));
    mapSlots.clear();
  }

  /// The 128 bytes of a tensor map.
  FailureOr<Value> lowerTensorMap(Value map) {
    auto op = map.getDefiningOp<nvgpu::TmaCreateDescriptorOp>();
    auto cast = op ? op.getTensor().getDefiningOp<memref::CastOp>() : memref::CastOp();
    auto source = cast ? dyn_cast<MemRefType>(cast.getSource().getType()) : MemRefType();
    auto dataType = source ? getTensorMapType(source.getElementType()) : std::nullopt;
    if (!dataType || !source.isStrided() || source.getRank() < 1 ||
        source.getRank() > kMaxTensorMapRank ||
        int64_t(op.getBoxDimensions().size()) != source.getRank()) {
      emitError(map.getLoc(),
                "is no tensor map that can be made: it needs a ranked, strided memref "
                "of 1 to 5 dimensions with a type that tensor maps have, cast to an "
                "unranked one");
      return failure();
    }
    if (!mapDescription) {
      OpBuilder::InsertionGuard guard(builder);
      builder.setInsertionPointToStart(&func.getBody().front());
      Value one = constant(map.getLoc(), i64, 1);
      mapDescription = LLVM::AllocaOp::create(builder, map.getLoc(), pointer, mapType, one);
    }
    describeTensorMap(op, cast.getSource(), *dataType);
    auto callee = declare("moec_tensor_map", {pointer, pointer}, pointer);
    if (failed(callee))
      return failure();
    return LLVM::CallOp::create(builder, op.getLoc(), *callee, ValueRange{call, mapDescription})
        .getResult();
  }

  void describeTensorMap(nvgpu::TmaCreateDescriptorOp op, Value source, int32_t dataType) {
    Location loc = op.getLoc();
    auto type = cast<MemRefType>(source.getType());
    auto kind = op.getTensorMap().getType();
    int32_t rank = type.getRank();
    int32_t bytes = type.getElementTypeBitWidth() / 8;
    auto [number, isNew] = mapNumbers.try_emplace(op, 0);
    if (isNew)
      number->second = kernels.addTensorMap();
    int32_t fields[] = {number->second,
                        dataType,
                        int32_t(kind.getSwizzle()),
                        int32_t(kind.getL2promo()),
                        int32_t(kind.getInterleave()),
                        int32_t(kind.getOob()),
                        bytes,
                        rank};
    for (auto [i, value] : llvm::enumerate(fields))
      storeField(loc, mapType, mapDescription, {int32_t(i)}, constant(loc, i32, value));
    Value cast = UnrealizedConversionCastOp::create(builder, loc, types.convertType(type), source)
                     .getResult(0);
    MemRefDescriptor memref(cast);
    Value data = LLVM::GEPOp::create(builder, loc, pointer, type.getElementType(),
                                     memref.alignedPtr(builder, loc),
                                     ArrayRef<LLVM::GEPArg>{memref.offset(builder, loc)});
    storeField(loc, mapType, mapDescription, {8}, data);
    Value zero = constant(loc, i64, 0);
    for (int32_t i = 0; i < int32_t(kMaxTensorMapRank); ++i) {
      bool isThere = i < rank;
      Value box = isThere ? toInteger(loc, op.getBoxDimensions()[i]) : zero;
      storeField(loc, mapType, mapDescription, {9, i},
                 isThere ? memref.size(builder, loc, i) : zero);
      storeField(loc, mapType, mapDescription, {10, i},
                 isThere ? memref.stride(builder, loc, i) : zero);
      storeField(loc, mapType, mapDescription, {11, i}, box);
    }
  }

  void eraseTensorMaps() {
    for (auto [op, number] : mapNumbers) {
      auto cast = op->getOperand(0).getDefiningOp<memref::CastOp>();
      if (!op->use_empty())
        continue;
      op->erase();
      if (cast->use_empty())
        cast->erase();
    }
  }

  void storeDescription(gpu::LaunchFuncOp launch, int32_t number) {
    Location loc = launch.getLoc();
    Value shared = launch.getDynamicSharedMemorySize();
    storeField(loc, descriptionType, description, {0}, constant(loc, i32, number));
    storeField(loc, descriptionType, description, {5},
               constant(loc, i32, kernels.addRegion(launch)));
    storeField(loc, descriptionType, description, {1}, shared ? shared : constant(loc, i32, 0));
    storeSizes(loc, 2, launch.getGridSizeOperandValues());
    storeSizes(loc, 3, launch.getBlockSizeOperandValues());
    if (launch.hasClusterSize()) {
      storeSizes(loc, 4, launch.getClusterSizeOperandValues());
      return;
    }
    for (int32_t i = 0; i < 3; ++i)
      storeField(loc, descriptionType, description, {4, i}, constant(loc, i64, 0));
  }

  void storeSizes(Location loc, int32_t field, gpu::KernelDim3 sizes) {
    int32_t i = 0;
    for (Value size : {sizes.x, sizes.y, sizes.z})
      storeField(loc, descriptionType, description, {field, i++}, toInteger(loc, size));
  }

  void storeField(Location loc, Type type, Value structure, ArrayRef<int32_t> path, Value value) {
    SmallVector<LLVM::GEPArg> indices = {0};
    indices.append(path.begin(), path.end());
    LLVM::StoreOp::create(builder, loc, value,
                          LLVM::GEPOp::create(builder, loc, pointer, type, structure, indices));
  }

  LogicalResult storeArguments(gpu::LaunchFuncOp launch) {
    Location loc = launch.getLoc();
    int32_t next = 0;
    auto store = [&](Value value) {
      LLVM::StoreOp::create(builder, loc, value, getElement(loc, slots, i64, next++));
    };
    for (Value operand : launch.getKernelOperands()) {
      if (isa<nvgpu::TensorMapDescriptorType>(operand.getType())) {
        auto bytes = lowerTensorMap(operand);
        if (failed(bytes))
          return failure();
        LLVM::StoreOp::create(builder, loc, *bytes, getElement(loc, pointers, pointer, next));
        mapSlots.push_back(next++);
        continue;
      }
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
    return success();
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
  Type descriptionType, mapType;
  Value call, slots, pointers, description;
  /// Made when it is needed.
  Value mapDescription;
  llvm::MapVector<Operation *, int32_t> mapNumbers;
  /// Places of tensor maps among the parameters of the current launch.
  SmallVector<int32_t> mapSlots;
};

struct GPUToRuntimePass : moe::impl::GPUToRuntimeBase<GPUToRuntimePass> {
  void runOnOperation() override {
    Kernels kernels;
    for (func::FuncOp func : getOperation().getOps<func::FuncOp>())
      if (!func.isDeclaration() && failed(LaunchLowering(func, kernels).lower()))
        return signalPassFailure();
    getOperation()->setAttr(kKernelsAttr, ArrayAttr::get(&getContext(), kernels.getNames()));
    getOperation()->setAttr(kRegionsAttr, ArrayAttr::get(&getContext(), kernels.getRegions()));
    if (kernels.getNumTensorMaps() > 0)
      getOperation()->setAttr(kTensorMapsAttr, IntegerAttr::get(IntegerType::get(&getContext(), 32),
                                                                kernels.getNumTensorMaps()));
  }
};

} // namespace

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products of rows with the weights of their experts: what they need, and which kernels make them.

#include "TileKernel.h"

#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/LLVMIR/FunctionCallUtils.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/xxhash.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

//===----------------------------------------------------------------------===//
// Operands
//===----------------------------------------------------------------------===//

SmallVector<Value> Bank::operands() const {
  SmallVector<Value> present;
  llvm::copy_if(ArrayRef{values, scales, zeroPoints}, std::back_inserter(present),
                [](Value v) { return bool(v); });
  return present;
}

Bank Bank::withArguments(Block::BlockArgListType &arguments) const {
  Bank result = *this;
  for (Value *value : {&result.values, &result.scales, &result.zeroPoints})
    if (*value)
      *value = arguments.consume_front();
  return result;
}

static SmallVector<Value> operandsOf(const Product &product) {
  SmallVector<Value> operands;
  auto add = [&](Value value) {
    if (value)
      operands.push_back(value);
  };
  for (Value value : {product.source, product.rowOfSource, product.scales, product.out,
                      product.blocks, product.tiles, product.counts, product.bias, product.gateBias,
                      product.weightMap, product.gateMap, product.sourceMap})
    add(value);
  for (const Bank *bank : {&product.weight, &product.gate})
    llvm::append_range(operands, bank->operands());
  return operands;
}

static Product withArguments(Product product, Block::BlockArgListType &arguments) {
  for (Value *value : {&product.source, &product.rowOfSource, &product.scales, &product.out,
                       &product.blocks, &product.tiles, &product.counts, &product.bias,
                       &product.gateBias, &product.weightMap, &product.gateMap, &product.sourceMap})
    if (*value)
      *value = arguments.consume_front();
  product.weight = product.weight.withArguments(arguments);
  product.gate = product.gate.withArguments(arguments);
  return product;
}

Type mlir::moe::cuda::productType(const Product &product) {
  Type rows = typeOf(product.source).getElementType();
  bool isHalf = rows.isF16() || rows.isBF16();
  auto fits = [&](const Bank &bank) {
    return !bank.values || bank.bits || typeOf(bank.values).getElementType() == rows;
  };
  if (isHalf && fits(product.weight) && fits(product.gate))
    return rows;
  return Float32Type::get(rows.getContext());
}

//===----------------------------------------------------------------------===//
// Launching
//===----------------------------------------------------------------------===//

static ProductKernel kernelFor(const Product &product, int64_t kind, ProductTarget target) {
  int64_t rows = target.blockRows(kind);
  if (productType(product).isF32())
    return target.roundsToTF32 ? getMMAKernel(product, rows) : getFMAKernel(rows);
  if (!hasChunksAlongK(product))
    return getMMAKernel(product, rows);
  if (kind == 0)
    return getFewRowsKernel();
  bool isCopied = copiesRows(product) && copiesWeights(product);
  return target.hasWarpgroups && isCopied ? getWarpgroupKernel(rows) : getMMAKernel(product, rows);
}

/// What a kernel's code depends on.
static std::string describe(const Product &product) {
  std::string text;
  llvm::raw_string_ostream os(text);
  for (Value value : operandsOf(product))
    os << value.getType() << ";";
  for (Value value : {product.rowOfSource, product.scales, product.blocks, product.bias,
                      product.gateBias, product.gate.values, product.weight.zeroPoints})
    os << (value ? '1' : '0');
  os << product.weight.bits << "," << product.weight.block << "," << stringifyLayout(product.layout)
     << "," << product.activation << "," << product.experts << "," << product.n << "," << product.k;
  return text;
}

static std::string nameOf(const Product &product, const Twine &suffix, StringRef description) {
  return llvm::formatv("moec_product_{0}x{1}_{2}{3}_{4}", product.n, product.k,
                       productType(product), suffix,
                       llvm::utohexstr(llvm::xxh3_64bits(description), /*LowerCase=*/true, 16));
}

/// The blocks of a launch; each takes tiles in turn.
static Value numBlocks(cpu::KernelBuilder &b, const Product &product, const ProductKernel &kernel,
                       int64_t kind, ProductTarget target) {
  Value most = b.index(kernel.perMultiprocessor * target.multiprocessors);
  Value rows = product.tokens ? product.tokens : b.dim(product.source, 0);
  if (!product.blocks) {
    Value tiles = b.mul(b.ceilDiv(rows, kernel.tiling.rows),
                        llvm::divideCeil(product.n, kernel.tiling.columns));
    most = b.min(b.createOrFold<arith::MaxSIOp>(tiles, b.index(1)), most);
  }
  if (kind == 0)
    return most;
  return b.select(b.less(b.index(target.blockRows(0)), rows), most, b.index(0));
}

static gpu::LaunchFuncOp launchKind(cpu::KernelBuilder &b, ModuleOp module, Product product,
                                    int64_t kind, ProductTarget target) {
  ProductKernel way = kernelFor(product, kind, target);
  if (way.hasMaps)
    addTensorMaps(b, product, way.tiling.rows);
  SmallVector<Value> operands = operandsOf(product);
  std::string name =
      nameOf(product, way.name + "_rows" + Twine(way.tiling.rows), describe(product));
  gpu::GPUFuncOp kernel =
      getOrCreateGPUKernel(module, name, ValueRange(operands).getTypes(), way.tiling.threads,
                           [&](GPUBuilder &b, Block::BlockArgListType arguments) {
                             Product inside = withArguments(product, arguments);
                             way.make(b, inside, way.tiling, kind)->emit();
                           });
  return launch(b, kernel, numBlocks(b, product, way, kind, target), operands, way.sharedBytes);
}

void mlir::moe::cuda::launchProduct(cpu::KernelBuilder &b, ModuleOp module, const Product &product,
                                    ProductTarget target) {
  for (int64_t kind : {1, 0})
    launchKind(b, module, product, kind, target);
}

static constexpr StringLiteral kCountersFunction = "moec_counters";

static SmallVector<Value> operandsOf(const SmallBlocks &of) {
  SmallVector<Value> operands = operandsOf(of.first);
  llvm::append_range(operands, operandsOf(of.second));
  operands.push_back(of.counters);
  for (const InlinedKernel *part : {&of.routing, &of.combine})
    if (part->kernel) {
      llvm::append_range(operands, part->arguments);
      operands.push_back(part->blocks);
    }
  if (of.routing.kernel)
    llvm::append_range(operands, operandsOf(of.lists));
  return operands;
}

static SmallBlocks withArguments(SmallBlocks of, Block::BlockArgListType &arguments) {
  of.first = withArguments(of.first, arguments);
  of.second = withArguments(of.second, arguments);
  of.counters = arguments.consume_front();
  for (InlinedKernel *part : {&of.routing, &of.combine})
    if (part->kernel) {
      for (Value &value : part->arguments)
        value = arguments.consume_front();
      part->blocks = arguments.consume_front();
    }
  if (of.routing.kernel)
    of.lists = withArguments(of.lists, arguments);
  return of;
}

/// Null when the kernel would need too much shared memory, or the products different threads.
static gpu::LaunchFuncOp launchSmallBlocks(cpu::KernelBuilder &b, ModuleOp module,
                                           const SmallBlocks &of, ProductTarget target) {
  ProductKernel first = kernelFor(of.first, /*kind=*/0, target);
  ProductKernel second = kernelFor(of.second, /*kind=*/0, target);
  if (first.tiling.threads != second.tiling.threads)
    return {};
  std::string description = describe(of.first) + describe(of.second) + second.name.str();
  StringRef suffix = of.routing.kernel ? "_routed_combined" : of.combine.kernel ? "_combined" : "";
  for (const InlinedKernel *part : {&of.routing, &of.combine})
    if (part->kernel)
      description += gpu::GPUFuncOp(part->kernel).getName();
  std::string name = nameOf(
      of.first, first.name + "_" + Twine(of.second.n) + "_rows" + Twine(first.tiling.rows) + suffix,
      description);
  SmallVector<Value> operands = operandsOf(of);
  auto body = [&](GPUBuilder &b, Block::BlockArgListType arguments) {
    emitSmallBlocks(b, withArguments(of, arguments), first, second, target);
  };
  gpu::GPUFuncOp kernel = getOrCreateGPUKernel(module, name, ValueRange(operands).getTypes(),
                                               first.tiling.threads, body);
  if (sharedBytesOf(kernel) > kStaticShared) {
    kernel.erase();
    return {};
  }
  // What is on its way is worth more than the last registers. More blocks would wait for nothing.
  first.perMultiprocessor = 3;
  kernel->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(),
                  b.getI32IntegerAttr(first.perMultiprocessor));
  return launch(b, kernel, numBlocks(b, of.first, first, /*kind=*/0, target), operands);
}

/// i32 [count]; see moec_counters. Asked for at the start of the function, before launches.
static Value makeCounters(cpu::KernelBuilder &b, ModuleOp module, int64_t count) {
  Type pointer = LLVM::LLVMPointerType::get(b.getContext());
  auto function =
      LLVM::lookupOrCreateFn(b, module, kCountersFunction, {pointer, b.getI64Type()}, pointer);
  assert(succeeded(function) && "declared with another type");
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(b.getInsertionBlock());
  Value call = CurrentCallOp::create(b, b.getLoc(), pointer);
  Value bytes = LLVM::ConstantOp::create(b, b.getLoc(), b.getI64IntegerAttr(4 * count));
  Value memory =
      LLVM::CallOp::create(b, b.getLoc(), *function, ValueRange{call, bytes}).getResult();
  LLVMTypeConverter types(b.getContext());
  auto type = MemRefType::get(count, b.getI32Type());
  Value descriptor = MemRefDescriptor::fromStaticShape(b, b.getLoc(), types, type, memory);
  return UnrealizedConversionCastOp::create(b, b.getLoc(), type, descriptor).getResult(0);
}

void mlir::moe::cuda::equalizeCounters(ModuleOp module) {
  SmallVector<LLVM::ConstantOp> sizes;
  module.walk([&](LLVM::CallOp call) {
    if (call.getCallee() == kCountersFunction)
      sizes.push_back(call.getArgOperands()[1].getDefiningOp<LLVM::ConstantOp>());
  });
  auto bytesOf = [](LLVM::ConstantOp size) { return cast<IntegerAttr>(size.getValue()).getInt(); };
  int64_t most = 0;
  for (LLVM::ConstantOp size : sizes)
    most = std::max(most, bytesOf(size));
  for (LLVM::ConstantOp size : sizes)
    size.setValueAttr(IntegerAttr::get(size.getType(), most));
}

/// Both products, without what is before and after.
static SmallBlocks smallBlocksOf(const ProductPair &pair) {
  return {pair.first, pair.second, pair.counters, {}, pair.lists, {}};
}

void mlir::moe::cuda::launchProducts(cpu::KernelBuilder &b, ModuleOp module, ProductPair &pair,
                                     ProductTarget target) {
  pair.firstLaunch = launchKind(b, module, pair.first, /*kind=*/1, target);
  pair.counters = makeCounters(b, module, numCounters(pair.lists, target));
  pair.launch = launchSmallBlocks(b, module, smallBlocksOf(pair), target);
  if (!pair.launch)
    launchKind(b, module, pair.first, /*kind=*/0, target);
  pair.secondLaunch = launchKind(b, module, pair.second, /*kind=*/1, target);
  if (!pair.launch)
    launchKind(b, module, pair.second, /*kind=*/0, target);
}

/// What a launch does, in another one if there are few tokens; else it has no blocks there.
static InlinedKernel inlinedIf(cpu::KernelBuilder &b, Value isFew, gpu::LaunchFuncOp launch) {
  return {kernelOf(launch), llvm::to_vector(launch.getKernelOperands()),
          b.select(isFew, launch.getGridSizeX(), b.index(0))};
}

static void launchUnless(cpu::KernelBuilder &b, Value isFew, gpu::LaunchFuncOp launch) {
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPoint(launch);
  launch.getGridSizeXMutable().assign(b.select(isFew, b.index(0), launch.getGridSizeX()));
}

/// Whether routing and lists may as well be made at `place`: nothing that few tokens have before
/// needs them or changes what they read.
static bool canRouteAt(const ProductPair &pair, Operation *place) {
  gpu::LaunchFuncOp routing = pair.routingLaunch;
  if (!routing || routing->getBlock() != place->getBlock())
    return false;
  Operation *own[] = {routing, pair.listsLaunch, pair.firstLaunch, pair.secondLaunch, pair.launch};
  for (gpu::LaunchFuncOp launch : {routing, pair.listsLaunch})
    for (Value memory : launch.getKernelOperands()) {
      if (!memory.getDefiningOp<memref::AllocOp>())
        continue;
      for (Operation *user : memory.getUsers()) {
        bool isBefore = user->getBlock() != place->getBlock() || user->isBeforeInBlock(place);
        if (isBefore && !isa<memref::DimOp>(user) && !llvm::is_contained(own, user))
          return false;
      }
    }
  // The memory of a tensor may become that of one that is computed from it.
  auto isTensor = [](Type type) { return isa<TensorType>(type); };
  auto isHarmless = [](Operation *op) {
    return isa<MoEDialect>(op->getDialect()) ||
           isa<tensor::CastOp, tensor::CollapseShapeOp, tensor::ExpandShapeOp,
               tensor::ExtractSliceOp>(op);
  };
  for (Operation *op = routing->getNextNode(); op != place; op = op->getNextNode())
    if (!isHarmless(op) && llvm::any_of(op->getOperandTypes(), isTensor) &&
        llvm::any_of(op->getResultTypes(), isTensor))
      return false;
  return true;
}

void mlir::moe::cuda::takeIn(cpu::KernelBuilder &b, ModuleOp module, ProductPair &pair,
                             gpu::LaunchFuncOp combine, ProductTarget target) {
  if (!pair.launch)
    return;
  int64_t threads = threadsOf(kernelOf(pair.launch));
  auto hasThreads = [&](gpu::LaunchFuncOp launch) {
    return threadsOf(kernelOf(launch)) == threads;
  };
  if (!hasThreads(combine))
    return;
  // Large blocks of the second product need nothing of this launch, which so comes after them.
  OpBuilder::InsertionGuard guard(b);
  // The host knows the number of tokens before the first launch.
  Operation *first = pair.routingLaunch ? pair.routingLaunch : pair.launch;
  b.setInsertionPoint(first);
  Value isFew = b.less(b.dim(pair.lists.chosen, 0), b.index(target.blockRows(0) + 1));
  b.setInsertionPoint(combine);
  SmallBlocks all = smallBlocksOf(pair);
  all.combine = inlinedIf(b, isFew, combine);
  gpu::LaunchFuncOp launch;
  bool routes = canRouteAt(pair, combine) && hasThreads(pair.routingLaunch);
  if (routes) {
    all.routing = inlinedIf(b, isFew, pair.routingLaunch);
    launch = launchSmallBlocks(b, module, all, target);
    all.routing = {};
  }
  routes = bool(launch);
  if (!launch)
    launch = launchSmallBlocks(b, module, all, target);
  if (!launch)
    return;
  if (routes)
    for (gpu::LaunchFuncOp inside : {pair.routingLaunch, pair.listsLaunch})
      launchUnless(b, isFew, inside);
  launchUnless(b, isFew, combine);
  gpu::GPUFuncOp alone = kernelOf(pair.launch);
  pair.launch.erase();
  pair.launch = launch;
  if (SymbolTable::symbolKnownUseEmpty(alone, module))
    alone.erase();
}

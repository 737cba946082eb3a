// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products of rows with the weights of their experts: what they need, and which kernels make them.

#include "TileKernel.h"

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

static void launchKind(cpu::KernelBuilder &b, ModuleOp module, Product product, int64_t kind,
                       ProductTarget target) {
  ProductKernel way = kernelFor(product, kind, target);
  if (way.hasMaps)
    addTensorMaps(b, product, way.tiling.rows);
  SmallVector<Value> operands = operandsOf(product);
  std::string name =
      nameOf(product, way.name + "_rows" + Twine(way.tiling.rows), describe(product));
  gpu::GPUFuncOp kernel =
      getOrCreateGPUKernel(module, name, ValueRange(operands).getTypes(), way.tiling.threads,
                           [&](GPUBuilder &b, Block::BlockArgListType arguments) {
                             way.emit(b, withArguments(product, arguments), way.tiling, kind);
                           });
  launch(b, kernel, numBlocks(b, product, way, kind, target), operands, way.sharedBytes);
}

void mlir::moe::cuda::launchProduct(cpu::KernelBuilder &b, ModuleOp module, const Product &product,
                                    ProductTarget target) {
  for (int64_t kind : {1, 0})
    launchKind(b, module, product, kind, target);
}

/// Small blocks of both products, and (unless null) blocks of another kernel after them, its
/// arguments and their number on the host.
static gpu::LaunchFuncOp launchPair(cpu::KernelBuilder &b, ModuleOp module, const ProductPair &pair,
                                    const InlinedKernel *after, ProductTarget target) {
  const Product &first = pair.first, &second = pair.second;
  ProductKernel way = getFewRowsKernel();
  SmallVector<Value> operands = operandsOf(first);
  llvm::append_range(operands, operandsOf(second));
  operands.push_back(pair.ready);
  std::string description = describe(first) + describe(second), suffix;
  if (after) {
    llvm::append_range(operands, after->arguments);
    operands.push_back(after->blocks);
    suffix = "_combine";
    description += gpu::GPUFuncOp(after->kernel).getName();
  }
  std::string name =
      nameOf(first, way.name + "_" + Twine(second.n) + "_rows" + Twine(way.tiling.rows) + suffix,
             description);
  auto body = [&](GPUBuilder &b, Block::BlockArgListType arguments) {
    Product firstInside = withArguments(first, arguments);
    Product secondInside = withArguments(second, arguments);
    Value ready = arguments.consume_front();
    if (!after)
      return emitFewRowsPair(b, firstInside, secondInside, ready, nullptr);
    InlinedKernel inside = {after->kernel, llvm::to_vector_of<Value>(arguments.drop_back()),
                            arguments.back()};
    emitFewRowsPair(b, firstInside, secondInside, ready, &inside);
  };
  gpu::GPUFuncOp kernel =
      getOrCreateGPUKernel(module, name, ValueRange(operands).getTypes(), way.tiling.threads, body);
  // What is on its way is worth more than the last registers.
  kernel->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(), b.getI32IntegerAttr(3));
  return launch(b, kernel, numBlocks(b, first, way, /*kind=*/0, target), operands);
}

void mlir::moe::cuda::launchProducts(cpu::KernelBuilder &b, ModuleOp module, ProductPair &pair,
                                     ProductTarget target) {
  auto isFewRows = [&](const Product &product) {
    return kernelFor(product, /*kind=*/0, target).name == getFewRowsKernel().name;
  };
  if (!isFewRows(pair.first) || !isFewRows(pair.second)) {
    launchProduct(b, module, pair.first, target);
    return launchProduct(b, module, pair.second, target);
  }
  launchKind(b, module, pair.first, /*kind=*/1, target);
  pair.launch = launchPair(b, module, pair, /*after=*/nullptr, target);
  launchKind(b, module, pair.second, /*kind=*/1, target);
}

void mlir::moe::cuda::takeIn(cpu::KernelBuilder &b, ModuleOp module, ProductPair &pair,
                             gpu::LaunchFuncOp after, ProductTarget target) {
  if (!pair.launch)
    return;
  gpu::GPUFuncOp alone = kernelOf(pair.launch), kernel = kernelOf(after);
  if (threadsOf(kernel) != threadsOf(alone) ||
      sharedBytesOf(kernel) + sharedBytesOf(alone) > kStaticShared)
    return;
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPoint(after);
  Value isFew = b.less(pair.first.tokens, b.index(target.blockRows(0) + 1));
  Value blocks = after.getGridSizeX(), none = b.index(0);
  InlinedKernel inlined = {kernel, llvm::to_vector(after.getKernelOperands()),
                           b.select(isFew, blocks, none)};
  after.getGridSizeXMutable().assign(b.select(isFew, none, blocks));
  // Large blocks of the second product need nothing of this launch, which so comes after them.
  gpu::LaunchFuncOp launch = launchPair(b, module, pair, &inlined, target);
  pair.launch.erase();
  pair.launch = launch;
  if (SymbolTable::symbolKnownUseEmpty(alone, module))
    alone.erase();
}

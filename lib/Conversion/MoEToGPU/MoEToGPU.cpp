// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Conversion/MoEToGPU/MoEToGPU.h"

#include "../MoEToCPU/Lowering.h"
#include "Kernels.h"
#include "WarpKernels.h"
#include "moec/Support/Unsupported.h"
#include "moec/Target/CUDA/Machine.h"

#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/NVGPU/IR/NVGPUDialect.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETOGPUPASS
#include "moec/Conversion/MoEToGPU/MoEToGPU.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;
using namespace mlir::moe::cuda;

static constexpr int64_t kDynamic = ShapedType::kDynamic;

namespace {

/// The lowering to kernels on vectors of a warp's width, with other rows and products.
class GPULowering : public Lowering {
public:
  GPULowering(ModuleOp module, ProductTarget products)
      : Lowering(module, KernelTarget{{kLanes}}), products(products), kernels(module) {}

  LogicalResult finish() {
    kernels.eraseSources();
    equalizeCounters(module);
    return success(ok);
  }

private:
  ExpertRows makeRows(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                      int64_t experts) override;
  FailureOr<Value> feedForward(KernelBuilder &b, Operation *op, const ExpertRows &rows,
                               Value source, Value rowOfSource, Value scales,
                               const FFNOperands &operands) override;
  FailureOr<Value> groupedProduct(KernelBuilder &b, Operation *op, const ExpertRows &rows,
                                  Value source, const WeightOperands &weight) override;
  LogicalResult linear(KernelBuilder &b, Operation *op, Value x, const WeightOperands &from,
                       Value y, StringRef phase) override;
  void call(KernelBuilder &b, func::FuncOp kernel, ValueRange operands, Operation *source,
            StringRef phase) override;

  gpu::LaunchFuncOp onlyLaunchWith(Value memory);
  Bank bankOf(KernelBuilder &b, Value weight);
  /// A product with this weight, without source, rows and result.
  FailureOr<Product> productWith(KernelBuilder &b, Operation *op, const WeightOperands &from);
  void setRows(KernelBuilder &b, Product &product, const ExpertRows &rows);

  ProductTarget products;
  WarpKernels kernels;
  /// By the blocks of the lists; without products.
  DenseMap<Value, ProductPair> routed;
  ProductPair lastPair;               ///< that was launched
  DenseSet<Operation *> taskLaunches; ///< of kernels of warps that take tasks in turn
  bool ok = true;
};

} // namespace

void GPULowering::call(KernelBuilder &b, func::FuncOp kernel, ValueRange operands,
                       Operation *source, StringRef phase) {
  FailureOr<SmallVector<gpu::LaunchFuncOp>> launches = kernels.launch(b, source, kernel, operands);
  ++numCalls;
  ok &= succeeded(launches);
  if (failed(launches))
    return;
  if (launches->size() == 1 && threadsOf(kernelOf(launches->front())) > kLanes)
    taskLaunches.insert(launches->front());
  bool isCombine = phase == "combine" && llvm::is_contained(operands, lastPair.second.out);
  if (isCombine && launches->size() == 1)
    takeIn(b, module, lastPair, launches->front(), products);
}

/// The only launch that has `memory` so far, of one token for each warp; null when something else
/// has it.
gpu::LaunchFuncOp GPULowering::onlyLaunchWith(Value memory) {
  gpu::LaunchFuncOp found;
  for (Operation *user : memory.getUsers()) {
    auto launch = dyn_cast<gpu::LaunchFuncOp>(user);
    bool isOther = found && launch != found;
    if (isOther || (!launch && !isa<memref::DimOp>(user)))
      return {};
    if (launch)
      found = launch;
  }
  return taskLaunches.contains(found) ? found : gpu::LaunchFuncOp();
}

ExpertRows GPULowering::makeRows(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                                 int64_t experts) {
  if (experts > mostListedExperts()) {
    emitUnsupported(op) << "has " << experts << " experts; GPU kernels sort rows by at most "
                        << mostListedExperts();
    ok = false;
  }
  int64_t k = cast<MemRefType>(routing.experts.getType()).getDimSize(1);
  Lists lists = {allocate(b, {kDynamic, 4}, i32(), routing.bound),
                 allocate(b, {2, kDynamic}, i32(), routing.bound),
                 allocate(b, 4, i32()),
                 allocate(b, kDynamic, i32(), routing.bound),
                 allocate(b, {kDynamic, k}, i32(), routing.tokens),
                 allocate(b, {2, experts}, i32())};
  ++numCalls;
  ProductPair &pair = routed[lists.blocks];
  pair.lists = {routing.experts, lists, experts};
  pair.routingLaunch = onlyLaunchWith(routing.experts);
  if (ok)
    pair.listsLaunch = launchLists(b, module, pair.lists, products);
  ExpertRows rows;
  rows.bound = rows.padded = routing.bound;
  rows.lists.blocks = lists.blocks;
  rows.lists.rowToken = lists.rowToken;
  rows.lists.position = lists.position;
  rows.lists.cursor = lists.cursor;
  rows.lists.counts = lists.counts;
  return rows;
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

Bank GPULowering::bankOf(KernelBuilder &b, Value weight) {
  Bank bank;
  if (!weight)
    return bank;
  auto dequantize = weight.getDefiningOp<DequantizeOp>();
  if (!dequantize) {
    bank.values = raw(b, weight);
    return bank;
  }
  bank.values = raw(b, dequantize.getCodes());
  bank.scales = raw(b, dequantize.getScales());
  bank.zeroPoints = raw(b, dequantize.getZeroPoints());
  bank.bits = dequantize.getBits();
  int64_t columns = cast<RankedTensorType>(weight.getType()).getDimSize(2);
  bank.block = dequantize.getBlock() ? dequantize.getBlock() : columns;
  return bank;
}

FailureOr<Product> GPULowering::productWith(KernelBuilder &b, Operation *op,
                                            const WeightOperands &from) {
  auto type = cast<RankedTensorType>(from.weight.getType());
  if (!type.hasStaticShape()) {
    emitUnsupported(op) << "has a weight of unknown shape " << type;
    return failure();
  }
  SmallVector<int64_t> shape(type.getShape());
  if (shape.size() == 2)
    shape.insert(shape.begin(), 1);
  if (from.layout == Layout::InOut)
    std::swap(shape[1], shape[2]);
  Product product;
  product.weight = bankOf(b, from.weight);
  product.gate = bankOf(b, from.gate);
  product.bias = raw(b, from.bias);
  product.gateBias = raw(b, from.gateBias);
  product.layout = from.layout;
  product.experts = shape[0];
  product.n = from.glu == Glu::Interleaved || from.glu == Glu::Concat ? shape[1] / 2 : shape[1];
  product.k = shape[2];
  return product;
}

void GPULowering::setRows(KernelBuilder &b, Product &product, const ExpertRows &rows) {
  const Lists &lists = routed.find(rows.lists.blocks)->second.lists.lists;
  product.blocks = lists.blocks;
  product.tiles = lists.tiles;
  product.counts = lists.counts;
  product.tokens = memref::DimOp::create(b, b.getLoc(), lists.position, 0);
}

FailureOr<Value> GPULowering::feedForward(KernelBuilder &b, Operation *op, const ExpertRows &rows,
                                          Value source, Value rowOfSource, Value scales,
                                          const FFNOperands &operands) {
  FailureOr<Product> up = productWith(b, op, operands.up);
  FailureOr<Product> down = productWith(b, op, operands.down);
  if (failed(up) || failed(down))
    return failure();
  up->activation = operands.activation;
  up->source = source;
  up->rowOfSource = rowOfSource;
  up->scales = scales;
  // Between the products rows are as precise as the tensor cores take them.
  up->out = allocate(b, {kDynamic, up->n}, productType(*up), rows.padded);
  setRows(b, *up, rows);
  down->source = up->out;
  down->out = allocate(b, {kDynamic, down->n}, f32(), rows.padded);
  setRows(b, *down, rows);
  lastPair = routed.find(rows.lists.blocks)->second;
  lastPair.first = *up;
  lastPair.second = *down;
  launchProducts(b, module, lastPair, products);
  numCalls += 2;
  return down->out;
}

FailureOr<Value> GPULowering::groupedProduct(KernelBuilder &b, Operation *op,
                                             const ExpertRows &rows, Value source,
                                             const WeightOperands &weight) {
  FailureOr<Product> product = productWith(b, op, weight);
  if (failed(product))
    return failure();
  product->source = source;
  product->out = allocate(b, {kDynamic, product->n}, f32(), rows.padded);
  setRows(b, *product, rows);
  launchProduct(b, module, *product, products);
  ++numCalls;
  return product->out;
}

LogicalResult GPULowering::linear(KernelBuilder &b, Operation *op, Value x,
                                  const WeightOperands &from, Value y, StringRef) {
  FailureOr<Product> product = productWith(b, op, from);
  if (failed(product))
    return failure();
  product->source = x;
  product->out = y;
  launchProduct(b, module, *product, products);
  ++numCalls;
  return success();
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {
struct MoEToGPUPass : public moe::impl::MoEToGPUPassBase<MoEToGPUPass> {
  using MoEToGPUPassBase::MoEToGPUPassBase;

  void runOnOperation() override {
    auto machine = GPUMachine::get(arch);
    if (!machine) {
      getOperation()->emitError() << toString(machine.takeError());
      return signalPassFailure();
    }
    ProductTarget products = {machine->hasWarpgroupProducts(), tf32, machine->multiprocessors};
    GPULowering lowering(getOperation(), products);
    if (failed(lowerAll(getOperation(), lowering, KernelTarget{{kLanes}})) ||
        failed(lowering.finish()))
      signalPassFailure();
  }
};
} // namespace

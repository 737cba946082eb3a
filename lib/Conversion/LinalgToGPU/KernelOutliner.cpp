// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "KernelOutliner.h"
#include "LoopNest.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Transforms/RegionUtils.h"

using namespace mlir;
using namespace mlir::moe;

/// Threads of a block of a kernel with a thread per element.
static constexpr int64_t kBlockSize = 256;

/// Threads that run together, of which one may do all the work.
static constexpr int64_t kWarpSize = 32;

Value moe::getRoot(Value memref) {
  while (true) {
    if (auto view = memref.getDefiningOp<ViewLikeOpInterface>())
      memref = view.getViewSource();
    else if (auto transpose = memref.getDefiningOp<memref::TransposeOp>())
      memref = transpose.getIn();
    else
      return memref;
  }
}

KernelOutliner::KernelOutliner(ModuleOp module) : module(module) {
  auto modules = module.getOps<gpu::GPUModuleOp>();
  if (!modules.empty()) {
    kernels = *modules.begin();
    return;
  }
  OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
  kernels = gpu::GPUModuleOp::create(builder, module.getLoc(), "kernels");
  module->setAttr(gpu::GPUDialect::getContainerModuleAttrName(), builder.getUnitAttr());
}

//===----------------------------------------------------------------------===//
// What a kernel needs
//===----------------------------------------------------------------------===//

/// May the buffer be written through this memref?
static bool isWritten(Value memref) {
  return llvm::any_of(memref.getUses(), [](OpOperand &use) {
    Operation *user = use.getOwner();
    if (isa<memref::LoadOp, memref::DimOp>(user))
      return false;
    if (isa<ViewLikeOpInterface, memref::TransposeOp>(user))
      return llvm::any_of(user->getResults(), isWritten);
    if (auto linalgOp = dyn_cast<linalg::LinalgOp>(user))
      return linalgOp.isDpsInit(&use);
    return true;
  });
}

/// What a launch may write.
SmallVector<Value> KernelOutliner::getWritten(gpu::LaunchFuncOp launch) {
  auto kernel = kernels.getName() == launch.getKernelModuleName()
                    ? kernels.lookupSymbol<gpu::GPUFuncOp>(launch.getKernelName())
                    : gpu::GPUFuncOp();
  SmallVector<Value> written;
  for (auto [i, operand] : llvm::enumerate(launch.getKernelOperands()))
    if (!kernel || isWritten(kernel.getArgument(i)))
      written.push_back(operand);
  return written;
}

/// The operation between the two, in the block of `load`, that writes what it reads; null if there
/// is none.
Operation *KernelOutliner::findWriteBetween(memref::LoadOp load, Operation *to) {
  Value root = getRoot(load.getMemRef());
  Block *block = load->getBlock();
  Operation *end = block->findAncestorOpInBlock(*to);
  for (Operation *op = load->getNextNode(); op && op != end; op = op->getNextNode()) {
    WalkResult result = op->walk([&](Operation *inner) {
      auto isRoot = [&](Value value) {
        return isa<MemRefType>(value.getType()) && getRoot(value) == root;
      };
      SmallVector<Value> written;
      if (auto linalgOp = dyn_cast<linalg::LinalgOp>(inner))
        llvm::append_range(written, linalgOp.getDpsInits());
      else if (auto store = dyn_cast<memref::StoreOp>(inner))
        written = {store.getMemRef()};
      else if (auto copy = dyn_cast<memref::CopyOp>(inner))
        written = {copy.getTarget()};
      else if (auto launch = dyn_cast<gpu::LaunchFuncOp>(inner))
        written = getWritten(launch);
      return llvm::any_of(written, isRoot) ? WalkResult::interrupt() : WalkResult::advance();
    });
    if (result.wasInterrupted())
      return op;
  }
  return nullptr;
}

/// Does the value, by arithmetic alone, depend on an element of memory?
static bool dependsOnMemory(Value value) {
  SmallVector<Value> worklist = {value};
  llvm::SmallPtrSet<Operation *, 16> seen;
  while (!worklist.empty()) {
    Value next = worklist.pop_back_val();
    Operation *op = next.getDefiningOp();
    if (!op || isa<MemRefType>(next.getType()) || !seen.insert(op).second)
      continue;
    if (isa<memref::LoadOp>(op))
      return true;
    llvm::append_range(worklist, op->getOperands());
  }
  return false;
}

LogicalResult KernelOutliner::capture(Value value, Operation *user) {
  Operation *op = value.getDefiningOp();
  if (op && clones.contains(op))
    return success();
  bool isConstant = matchPattern(value, m_Constant());
  if (auto global = dyn_cast_or_null<memref::GetGlobalOp>(op)) {
    addGlobal(global);
    isConstant = true;
  }
  bool isView =
      op && isa<ViewLikeOpInterface>(op) && getRoot(value).getDefiningOp<memref::GetGlobalOp>();
  bool isScalar = !isa<MemRefType>(value.getType());
  if (!isConstant && !isView && !(isScalar && dependsOnMemory(value))) {
    captures.insert(value);
    return success();
  }
  if (op->getNumRegions() != 0 || !(isa<memref::LoadOp>(op) || isMemoryEffectFree(op)))
    return emitUnsupported(op) << "computes a value that kernels need, but cannot be computed in "
                                  "these: not supported";
  if (auto load = dyn_cast<memref::LoadOp>(op))
    if (Operation *writer = findWriteBetween(load, user)) {
      InFlightDiagnostic diagnostic = emitUnsupported(op)
                                      << "loads a value that is overwritten before it is used: not "
                                         "supported";
      diagnostic.attachNote(writer->getLoc()) << "overwritten here";
      return diagnostic;
    }
  for (Value operand : op->getOperands())
    if (failed(capture(operand, user)))
      return failure();
  clones.insert(op);
  return success();
}

LogicalResult KernelOutliner::collectCaptures(ArrayRef<Operation *> ops) {
  captures.clear();
  clones.clear();
  llvm::SmallPtrSet<Operation *, 8> inside(ops.begin(), ops.end());
  auto isInside = [&](Value value) {
    Operation *op = value.getDefiningOp();
    return op && inside.contains(op);
  };
  for (Operation *op : ops) {
    llvm::SetVector<Value> used(op->operand_begin(), op->operand_end());
    getUsedValuesDefinedAbove(op->getRegions(), used);
    for (Value value : used)
      if (!isInside(value) && failed(capture(value, op)))
        return failure();
  }
  return success();
}

void KernelOutliner::addGlobal(memref::GetGlobalOp op) {
  if (kernels.lookupSymbol(op.getName()))
    return;
  auto global = SymbolTable::lookupNearestSymbolFrom<memref::GlobalOp>(op, op.getNameAttr());
  OpBuilder builder = OpBuilder::atBlockBegin(kernels.getBody());
  builder.clone(*global);
}

//===----------------------------------------------------------------------===//
// Kernels and launches
//===----------------------------------------------------------------------===//

static Value indexConstant(OpBuilder &builder, Location loc, int64_t value) {
  return arith::ConstantIndexOp::create(builder, loc, value);
}

Value moe::countPoints(OpBuilder &builder, linalg::GenericOp op, ArrayRef<unsigned> loops) {
  Location loc = op.getLoc();
  SmallVector<Range> ranges =
      cast<linalg::LinalgOp>(op.getOperation()).createLoopRanges(builder, loc);
  Value count = indexConstant(builder, loc, 1);
  for (unsigned loop : loops)
    count = arith::MulIOp::create(builder, loc, count,
                                  getValueOrCreateConstantIndexOp(builder, loc, ranges[loop].size));
  return count;
}

gpu::GPUFuncOp KernelOutliner::makeKernel(Location loc, StringRef name,
                                          llvm::function_ref<void(KernelBody)> emit) {
  OpBuilder builder(module.getContext());
  SmallVector<Type> types = llvm::map_to_vector(captures, [](Value v) { return v.getType(); });
  auto kernel = gpu::GPUFuncOp::create(builder, UnknownLoc::get(builder.getContext()), name,
                                       builder.getFunctionType(types, {}));
  kernel->setAttr(gpu::GPUDialect::getKernelFuncAttrName(), builder.getUnitAttr());
  Block &body = kernel.getBody().front();
  builder.setInsertionPointToStart(&body);
  IRMapping mapping;
  mapping.map(captures.getArrayRef(), body.getArguments().take_front(captures.size()));
  for (Operation *op : clones)
    builder.clone(*op, mapping);
  emit({builder, mapping, kernel});
  builder.setInsertionPointToEnd(&body);
  gpu::ReturnOp::create(builder, loc);
  return kernel;
}

gpu::GPUFuncOp KernelOutliner::getShared(gpu::GPUFuncOp kernel, StringRef name) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  kernel->print(stream, OpPrintingFlags().useLocalScope());
  auto [it, isNew] = known.try_emplace(text, kernel);
  if (!isNew) {
    kernel->erase();
    return it->second;
  }
  SymbolTable symbols(kernels);
  symbols.insert(kernel);
  return kernel;
}

void KernelOutliner::launch(OpBuilder &builder, Location loc, gpu::GPUFuncOp kernel, Value blocks,
                            int64_t blockSize) {
  Value one = indexConstant(builder, loc, 1), block = indexConstant(builder, loc, blockSize);
  gpu::LaunchFuncOp::create(builder, loc, kernel, gpu::KernelDim3{blocks, one, one},
                            gpu::KernelDim3{block, one, one}, /*dynamicSharedMemorySize=*/Value(),
                            captures.getArrayRef());
}

//===----------------------------------------------------------------------===//
// One thread per point
//===----------------------------------------------------------------------===//

/// Goes through the reduction loops from `loops` on, in order.
static SmallVector<Value> emitReductions(LoopNest &nest, ArrayRef<unsigned> loops,
                                         SmallVector<Value> values) {
  if (loops.empty())
    return nest.emitStep(values);
  OpBuilder &builder = nest.builder;
  Value zero = arith::ConstantIndexOp::create(builder, nest.loc, 0);
  Value one = arith::ConstantIndexOp::create(builder, nest.loc, 1);
  auto loop = scf::ForOp::create(builder, nest.loc, zero, nest.sizes[loops.front()], one, values);
  OpBuilder::InsertionGuard insertion(builder);
  builder.setInsertionPointToStart(loop.getBody());
  nest.ivs[loops.front()] = loop.getInductionVar();
  SmallVector<Value> next =
      emitReductions(nest, loops.drop_front(), SmallVector<Value>(loop.getRegionIterArgs()));
  scf::YieldOp::create(builder, nest.loc, next);
  return SmallVector<Value>(loop.getResults());
}

/// The code of one thread: a point of the parallel loops of an operation.
static void emitPoints(LoopNest &nest) {
  OpBuilder &builder = nest.builder;
  Location loc = nest.loc;
  Value block = gpu::BlockIdOp::create(builder, loc, gpu::Dimension::x);
  Value threads = gpu::BlockDimOp::create(builder, loc, gpu::Dimension::x);
  Value thread = gpu::ThreadIdOp::create(builder, loc, gpu::Dimension::x);
  Value index = arith::AddIOp::create(builder, loc,
                                      arith::MulIOp::create(builder, loc, block, threads), thread);
  Value count = nest.countPoints(nest.parallel);
  // As many blocks as the launch has go through all points.
  Value blocks = gpu::GridDimOp::create(builder, loc, gpu::Dimension::x);
  Value step = arith::MulIOp::create(builder, loc, blocks, threads);
  auto points = scf::ForOp::create(builder, loc, index, count, step);
  OpBuilder::InsertionGuard insertion(builder);
  builder.setInsertionPointToStart(points.getBody());
  // Neighbours in a warp are neighbours in memory.
  nest.setPoint(points.getInductionVar(), nest.parallel);
  nest.storeResults(emitReductions(nest, nest.reduction, nest.loadInits()));
}

LogicalResult KernelOutliner::outlineParallel(linalg::GenericOp op) {
  if (failed(collectCaptures({op})))
    return failure();
  Location loc = op.getLoc();
  gpu::GPUFuncOp kernel = makeKernel(loc, "parallel", [&](KernelBody body) {
    LoopNest nest(op, body);
    emitPoints(nest);
  });
  OpBuilder builder(op);
  SmallVector<unsigned> loops;
  op.getParallelDims(loops);
  Value blocks = arith::CeilDivUIOp::create(builder, loc, countPoints(builder, op, loops),
                                            indexConstant(builder, loc, kBlockSize));
  launch(builder, loc, getShared(kernel, "parallel"), blocks, kBlockSize);
  op.erase();
  return success();
}

//===----------------------------------------------------------------------===//
// One block for several points
//===----------------------------------------------------------------------===//

LogicalResult KernelOutliner::outlineBlocks(ArrayRef<Operation *> ops, StringRef name,
                                            int64_t blockSize,
                                            llvm::function_ref<Value(OpBuilder &)> countBlocks,
                                            llvm::function_ref<void(KernelBody)> emit) {
  if (failed(collectCaptures(ops)))
    return failure();
  Location loc = ops.back()->getLoc();
  gpu::GPUFuncOp kernel = makeKernel(loc, name, emit);
  kernel.setKnownBlockSizeAttr(
      DenseI32ArrayAttr::get(module.getContext(), {int32_t(blockSize), 1, 1}));
  OpBuilder builder(ops.back());
  Value blocks = countBlocks(builder);
  launch(builder, loc, getShared(kernel, name), blocks, blockSize);
  for (Operation *op : ops)
    op->erase();
  return success();
}

//===----------------------------------------------------------------------===//
// One thread
//===----------------------------------------------------------------------===//

LogicalResult KernelOutliner::outlineSequential(ArrayRef<Operation *> ops) {
  if (failed(collectCaptures(ops)))
    return failure();
  Location loc = ops.front()->getLoc();
  gpu::GPUFuncOp kernel = makeKernel(loc, "sequential", [&](KernelBody body) {
    OpBuilder &builder = body.builder;
    Value thread = gpu::ThreadIdOp::create(builder, loc, gpu::Dimension::x);
    Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
    Value isFirst = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::eq, thread, zero);
    auto guard = scf::IfOp::create(builder, loc, isFirst);
    OpBuilder::InsertionGuard insertion(builder);
    builder.setInsertionPointToStart(guard.thenBlock());
    for (Operation *op : ops)
      builder.clone(*op, body.mapping);
  });
  SmallVector<linalg::LinalgOp> inner;
  kernel.walk([&](linalg::LinalgOp op) { inner.push_back(op); });
  IRRewriter rewriter(module.getContext());
  for (linalg::LinalgOp op : inner) {
    rewriter.setInsertionPoint(op);
    if (failed(linalg::linalgOpToLoops(rewriter, op))) {
      kernel->erase();
      return emitUnsupported(ops.front()) << "cannot run on a device: not supported";
    }
    rewriter.eraseOp(op);
  }
  OpBuilder builder(ops.front());
  launch(builder, loc, getShared(kernel, "sequential"), indexConstant(builder, loc, 1), kWarpSize);
  for (Operation *op : llvm::reverse(ops))
    op->erase();
  return success();
}

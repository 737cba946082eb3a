// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "KernelOutliner.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Dialect/Affine/Utils.h"
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
  while (auto view = memref.getDefiningOp<ViewLikeOpInterface>())
    memref = view.getViewSource();
  return memref;
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
    if (isa<ViewLikeOpInterface>(user))
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
  emit({builder, mapping});
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

void KernelOutliner::launch(OpBuilder &builder, Location loc, gpu::GPUFuncOp kernel,
                            Value numThreads, int64_t blockSize) {
  auto constant = [&](int64_t value) {
    return arith::ConstantIndexOp::create(builder, loc, value).getResult();
  };
  Value one = constant(1), block = constant(blockSize);
  Value grid = arith::CeilDivUIOp::create(builder, loc, numThreads, block);
  gpu::LaunchFuncOp::create(builder, loc, kernel, gpu::KernelDim3{grid, one, one},
                            gpu::KernelDim3{block, one, one}, /*dynamicSharedMemorySize=*/Value(),
                            captures.getArrayRef());
}

//===----------------------------------------------------------------------===//
// One thread per point
//===----------------------------------------------------------------------===//

namespace {

/// The code of one thread: a point of the parallel loops of an operation.
class PointEmitter {
public:
  PointEmitter(linalg::GenericOp op, KernelBody body)
      : op(op), loc(op.getLoc()), builder(body.builder), mapping(body.mapping) {
    for (auto [loop, type] : llvm::enumerate(op.getIteratorTypesArray()))
      (linalg::isParallelIterator(type) ? parallel : reduction).push_back(loop);
    computeSizes();
  }

  void emit() {
    Value block = gpu::BlockIdOp::create(builder, loc, gpu::Dimension::x);
    Value threads = gpu::BlockDimOp::create(builder, loc, gpu::Dimension::x);
    Value thread = gpu::ThreadIdOp::create(builder, loc, gpu::Dimension::x);
    Value index = arith::AddIOp::create(
        builder, loc, arith::MulIOp::create(builder, loc, block, threads), thread);
    Value count = arith::ConstantIndexOp::create(builder, loc, 1);
    for (unsigned loop : parallel)
      count = arith::MulIOp::create(builder, loc, count, sizes[loop]);
    // As many blocks as the launch has go through all points.
    Value blocks = gpu::GridDimOp::create(builder, loc, gpu::Dimension::x);
    Value step = arith::MulIOp::create(builder, loc, blocks, threads);
    auto points = scf::ForOp::create(builder, loc, index, count, step);
    OpBuilder::InsertionGuard insertion(builder);
    builder.setInsertionPointToStart(points.getBody());
    index = points.getInductionVar();
    splitIndex(index);
    SmallVector<Value> results;
    for (OpOperand &init : op.getDpsInitsMutable())
      results.push_back(loadInit(init));
    results = emitReductions(reduction, std::move(results));
    for (auto [init, result] : llvm::zip(op.getDpsInitsMutable(), results))
      memref::StoreOp::create(builder, loc, result, mapping.lookup(init.get()), getIndices(&init));
  }

private:
  /// The sizes of the loops, each from the first operand that has it.
  void computeSizes() {
    sizes.assign(op.getNumLoops(), Value());
    for (OpOperand &operand : op->getOpOperands()) {
      if (!isa<MemRefType>(operand.get().getType()))
        continue;
      Value memref = mapping.lookup(operand.get());
      for (auto [dim, expr] : llvm::enumerate(op.getMatchingIndexingMap(&operand).getResults()))
        if (auto loop = dyn_cast<AffineDimExpr>(expr); loop && !sizes[loop.getPosition()])
          sizes[loop.getPosition()] = memref::DimOp::create(builder, loc, memref, dim);
    }
  }

  /// The last parallel loop is the fastest: neighbours in a warp are neighbours in memory.
  void splitIndex(Value index) {
    ivs.assign(op.getNumLoops(), Value());
    for (auto [i, loop] : llvm::enumerate(llvm::reverse(parallel))) {
      bool isLast = i + 1 == parallel.size();
      ivs[loop] = isLast ? index : arith::RemUIOp::create(builder, loc, index, sizes[loop]);
      if (!isLast)
        index = arith::DivUIOp::create(builder, loc, index, sizes[loop]);
    }
  }

  SmallVector<Value> getIndices(OpOperand *operand) {
    SmallVector<Value> indices;
    for (AffineExpr expr : op.getMatchingIndexingMap(operand).getResults())
      indices.push_back(affine::expandAffineExpr(builder, loc, expr, ivs, {}));
    return indices;
  }

  /// What a result is before the first step.
  Value loadInit(OpOperand &init) {
    Type element = cast<MemRefType>(init.get().getType()).getElementType();
    if (op.payloadUsesValueFromOperand(&init))
      return memref::LoadOp::create(builder, loc, mapping.lookup(init.get()), getIndices(&init));
    return arith::ConstantOp::create(builder, loc, builder.getZeroAttr(element));
  }

  SmallVector<Value> emitReductions(ArrayRef<unsigned> loops, SmallVector<Value> values) {
    if (loops.empty())
      return emitStep(values);
    Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
    Value one = arith::ConstantIndexOp::create(builder, loc, 1);
    auto loop = scf::ForOp::create(builder, loc, zero, sizes[loops.front()], one, values);
    OpBuilder::InsertionGuard insertion(builder);
    builder.setInsertionPointToStart(loop.getBody());
    ivs[loops.front()] = loop.getInductionVar();
    SmallVector<Value> next =
        emitReductions(loops.drop_front(), SmallVector<Value>(loop.getRegionIterArgs()));
    scf::YieldOp::create(builder, loc, next);
    return SmallVector<Value>(loop.getResults());
  }

  SmallVector<Value> emitStep(ArrayRef<Value> values) {
    IRMapping step(mapping);
    for (OpOperand *input : op.getDpsInputOperands()) {
      BlockArgument scalar = op.getMatchingBlockArgument(input);
      if (scalar.use_empty())
        continue;
      Value source = mapping.lookup(input->get());
      step.map(scalar, isa<MemRefType>(source.getType())
                           ? memref::LoadOp::create(builder, loc, source, getIndices(input))
                           : source);
    }
    for (auto [scalar, value] : llvm::zip(op.getRegionOutputArgs(), values))
      step.map(scalar, value);
    for (Operation &inner : op.getBody()->without_terminator()) {
      if (auto index = dyn_cast<linalg::IndexOp>(inner))
        step.map(index.getResult(), ivs[index.getDim()]);
      else
        cloneBody(inner, step);
    }
    return llvm::map_to_vector(op.getBody()->getTerminator()->getOperands(),
                               [&](Value value) { return step.lookupOrDefault(value); });
  }

  /// Also where indices of the loops are asked for in regions.
  void cloneBody(Operation &inner, IRMapping &step) {
    Operation *clone = builder.clone(inner, step);
    clone->walk([&](linalg::IndexOp index) {
      index.replaceAllUsesWith(ivs[index.getDim()]);
      index.erase();
    });
  }

  linalg::GenericOp op;
  Location loc;
  OpBuilder &builder;
  IRMapping &mapping;
  SmallVector<unsigned> parallel, reduction;
  SmallVector<Value> sizes, ivs;
};

} // namespace

LogicalResult KernelOutliner::outlineParallel(linalg::GenericOp op) {
  if (failed(collectCaptures({op})))
    return failure();
  Location loc = op.getLoc();
  gpu::GPUFuncOp kernel =
      makeKernel(loc, "parallel", [&](KernelBody body) { PointEmitter(op, body).emit(); });
  OpBuilder builder(op);
  Value count = arith::ConstantIndexOp::create(builder, loc, 1);
  SmallVector<Range> ranges =
      cast<linalg::LinalgOp>(op.getOperation()).createLoopRanges(builder, loc);
  for (auto [range, type] : llvm::zip(ranges, op.getIteratorTypesArray()))
    if (linalg::isParallelIterator(type))
      count = arith::MulIOp::create(builder, loc, count,
                                    getValueOrCreateConstantIndexOp(builder, loc, range.size));
  launch(builder, loc, getShared(kernel, "parallel"), count, kBlockSize);
  op.erase();
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
  Value one = arith::ConstantIndexOp::create(builder, loc, 1);
  launch(builder, loc, getShared(kernel, "sequential"), one, kWarpSize);
  for (Operation *op : llvm::reverse(ops))
    op->erase();
  return success();
}

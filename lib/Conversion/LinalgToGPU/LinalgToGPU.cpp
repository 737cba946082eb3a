// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --linalg-to-gpu: what an entry does with memory becomes kernels.

#include "moec/Conversion/LinalgToGPU/LinalgToGPU.h"
#include "Contraction.h"
#include "KernelOutliner.h"
#include "RowGroup.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Conversion/MoEToLLVM/MoEToLLVM.h"
#include "moec/Conversion/PlanMemory/PlanMemory.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/FunctionCallUtils.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Linalg/Utils/Utils.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/Remarks.h"

namespace mlir::moe {
#define GEN_PASS_DEF_LINALGTOGPU
#include "moec/Conversion/LinalgToGPU/LinalgToGPU.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Reads or writes elements one by one.
bool isElementAccess(Operation *op) {
  return isa<memref::LoadOp, memref::StoreOp, memref::AtomicRMWOp, memref::GenericAtomicRMWOp>(op);
}

/// Works on whole memrefs, by itself or through kernels.
bool isWholeAccess(Operation *op) {
  return isa<linalg::LinalgOp, memref::CopyOp, gpu::LaunchFuncOp>(op);
}

/// Does the region hold accesses of that kind? Those of linalg bodies are not its own.
bool holds(Operation *op, bool (*isAccess)(Operation *)) {
  return op
      ->walk<WalkOrder::PreOrder>([&](Operation *inner) {
        if (inner != op && isAccess(inner))
          return WalkResult::interrupt();
        return isa<linalg::LinalgOp>(inner) ? WalkResult::skip() : WalkResult::advance();
      })
      .wasInterrupted();
}

class EntryLowering {
public:
  EntryLowering(func::FuncOp entry, KernelOutliner &outliner)
      : entry(entry), outliner(outliner), rewriter(entry.getContext()) {}

  LogicalResult lower() {
    entry.walk([&](ProfileMarkOp op) { op.erase(); });
    lowerChecks();
    writeResultsInPlace(entry);
    copyConstants();
    generalize();
    Block &body = entry.getBody().front();
    hoistBuffers(body);
    lowerBlock(body);
    eraseUnusedLoads();
    checkHost();
    return success(!failed);
  }

private:
  /// Checks of values in memory are made on the device, which leaves the address of the message of
  /// one that fails in memory of the host's, where the runtime finds it later.
  void lowerChecks() {
    SmallVector<CheckOp> ops;
    entry.walk([&](CheckOp op) {
      if (dependsOnMemory(op.getCondition()))
        ops.push_back(op);
    });
    if (ops.empty())
      return;
    Value place = makeCheckPlace();
    for (CheckOp op : ops)
      lowerCheck(op, place);
  }

  /// What `moec_check_place` returns, as a memref.
  Value makeCheckPlace() {
    Location loc = entry.getLoc();
    auto module = entry->getParentOfType<ModuleOp>();
    rewriter.setInsertionPointToStart(&entry.getBody().front());
    Type pointer = LLVM::LLVMPointerType::get(rewriter.getContext());
    auto function =
        LLVM::lookupOrCreateFn(rewriter, module, "moec_check_place", {pointer}, pointer);
    assert(succeeded(function) && "declared with another type");
    Value memory =
        LLVM::CallOp::create(rewriter, loc, *function, getMarkedArgument(entry, kCallAttr))
            .getResult();
    LLVMTypeConverter types(rewriter.getContext());
    auto type = MemRefType::get({}, rewriter.getI64Type());
    Value descriptor = MemRefDescriptor::fromStaticShape(rewriter, loc, types, type, memory);
    return UnrealizedConversionCastOp::create(rewriter, loc, type, descriptor).getResult(0);
  }

  /// The first failure stays. Only then the host's memory is touched.
  void lowerCheck(CheckOp op, Value place) {
    Location loc = op.getLoc();
    rewriter.setInsertionPoint(op);
    Value message = LLVM::AddressOfOp::create(rewriter, loc, getCheckMessage(op, rewriter));
    Value address = LLVM::PtrToIntOp::create(rewriter, loc, rewriter.getI64Type(), message);
    Value yes = arith::ConstantOp::create(rewriter, loc, rewriter.getBoolAttr(true));
    Value fails = arith::XOrIOp::create(rewriter, loc, op.getCondition(), yes);
    auto check = scf::IfOp::create(rewriter, loc, fails, [&](OpBuilder &b, Location) {
      Value known = memref::LoadOp::create(b, loc, place);
      Value none = arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(0));
      Value isFirst = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, known, none);
      Value first = arith::SelectOp::create(b, loc, isFirst, address, known);
      memref::StoreOp::create(b, loc, first, place);
      scf::YieldOp::create(b, loc);
    });
    checks.insert(check);
    rewriter.eraseOp(op);
  }

  static bool dependsOnMemory(Value value) {
    SmallVector<Value> worklist = {value};
    llvm::SmallPtrSet<Operation *, 16> seen;
    while (!worklist.empty()) {
      Operation *op = worklist.pop_back_val().getDefiningOp();
      if (!op || !seen.insert(op).second || isa<ViewLikeOpInterface, memref::DimOp>(op))
        continue;
      if (isa<memref::LoadOp>(op))
        return true;
      llvm::append_range(worklist, op->getOperands());
    }
    return false;
  }

  static bool reachesLaunch(Value memref) {
    return llvm::any_of(memref.getUsers(), [](Operation *user) {
      return isa<gpu::LaunchFuncOp>(user) || (isa<ViewLikeOpInterface, memref::TransposeOp>(user) &&
                                              llvm::any_of(user->getResults(), reachesLaunch));
    });
  }

  /// Constants that a launch passes to a kernel are copied to memory by a kernel that has them.
  void copyConstants() {
    SmallVector<memref::GetGlobalOp> constants;
    entry.walk([&](memref::GetGlobalOp op) {
      if (reachesLaunch(op))
        constants.push_back(op);
    });
    for (memref::GetGlobalOp op : constants) {
      rewriter.setInsertionPointAfter(op);
      auto buffer = memref::AllocOp::create(rewriter, op.getLoc(), op.getType());
      auto copy = memref::CopyOp::create(rewriter, op.getLoc(), op, buffer);
      rewriter.replaceAllUsesExcept(op, buffer, copy);
    }
  }

  /// Copies and named operations become linalg.generic.
  void generalize() {
    entry.walk([&](memref::CopyOp copy) {
      rewriter.setInsertionPoint(copy);
      if (copy.getSource() == copy.getTarget())
        return rewriter.eraseOp(copy);
      linalg::makeMemRefCopyOp(rewriter, copy.getLoc(), copy.getSource(), copy.getTarget());
      rewriter.eraseOp(copy);
    });
    SmallVector<linalg::LinalgOp> named;
    entry.walk([&](linalg::LinalgOp op) {
      if (!isa<linalg::GenericOp>(op))
        named.push_back(op);
    });
    for (linalg::LinalgOp op : named) {
      rewriter.setInsertionPoint(op);
      // What cannot be one is reported as left on the host.
      (void)linalg::generalizeNamedOp(rewriter, op);
    }
  }

  /// A buffer of a loop is one for all its iterations, as in --plan-memory. One whose size the
  /// loop computes stays there and is reported.
  void hoistBuffers(Block &body) {
    SmallVector<Operation *> allocs;
    entry.walk([&](Operation *op) {
      if (isa<memref::AllocOp, memref::AllocaOp>(op) && op->getBlock() != &body)
        allocs.push_back(op);
    });
    for (Operation *op : allocs) {
      Operation *outer = body.findAncestorOpInBlock(*op);
      bool isKnown = llvm::all_of(op->getOperands(), [&](Value size) {
        return !outer->isAncestor(size.getParentBlock()->getParentOp());
      });
      if (isKnown)
        op->moveBefore(outer);
    }
    // The stack of the host is of no use to a kernel.
    for (auto alloca : llvm::make_early_inc_range(body.getOps<memref::AllocaOp>())) {
      rewriter.setInsertionPoint(alloca);
      rewriter.replaceOpWithNewOp<memref::AllocOp>(alloca, alloca.getType(),
                                                   alloca.getDynamicSizes());
    }
  }

  void lowerBlock(Block &block) {
    for (linalg::GenericOp op : llvm::make_early_inc_range(block.getOps<linalg::GenericOp>()))
      absorbFilling(op);
    SmallVector<Operation *> ops;
    for (Operation &op : block)
      ops.push_back(&op);
    llvm::SmallPtrSet<Operation *, 8> done;
    SmallVector<Operation *> pending;
    auto flush = [&] {
      if (!pending.empty())
        lowerSequential(pending);
      pending.clear();
    };
    for (Operation *op : ops) {
      if (done.contains(op))
        continue;
      if (isSequential(op)) {
        if (!pending.empty() && pending.back()->getNextNode() != op)
          flush();
        pending.push_back(op);
        continue;
      }
      flush();
      auto generic = dyn_cast<linalg::GenericOp>(op);
      RowGroup group = generic ? RowGroup::collect(generic) : RowGroup();
      done.insert(group.getOps().begin(), group.getOps().end());
      if (!group.empty())
        note(group.outline(outliner), generic);
      else if (generic)
        lowerGeneric(generic);
      else
        for (Region &region : op->getRegions())
          for (Block &inner : region)
            lowerBlock(inner);
    }
    flush();
  }

  /// Has to run on one thread.
  static bool isSequential(Operation *op) {
    if (isa<memref::StoreOp, memref::AtomicRMWOp, memref::GenericAtomicRMWOp>(op))
      return true;
    if (op->getNumRegions() == 0 || isa<linalg::LinalgOp>(op) || holds(op, isLaunch))
      return false;
    bool isControlled = llvm::any_of(op->getOperands(), dependsOnMemory);
    return holds(op, isElementAccess) || (isControlled && holds(op, isWholeAccess));
  }
  static bool isLaunch(Operation *op) { return isa<gpu::LaunchFuncOp>(op); }

  void lowerSequential(SmallVector<Operation *> ops) {
    for (Operation *op : SmallVector<Operation *>(ops))
      for (Value result : op->getResults())
        if (mlir::failed(passThroughMemory(result, ops)))
          return;
    if (ops.front()->getNumRegions() != 0 && !checks.contains(ops.front()))
      remark::missed(ops.front()->getLoc(),
                     remark::RemarkOpts::name("sequential").category("linalg-to-gpu"))
          << "runs on one thread of the device";
    note(outliner.outlineSequential(ops), ops.front());
  }

  /// Lets a result of one of `ops` reach what comes behind all of them: they store it, and
  /// whoever uses it loads it.
  LogicalResult passThroughMemory(Value result, SmallVector<Operation *> &ops) {
    auto isOutside = [&](OpOperand &use) {
      return llvm::none_of(ops, [&](Operation *op) { return op->isAncestor(use.getOwner()); });
    };
    if (llvm::none_of(result.getUses(), isOutside))
      return success();
    Operation *op = result.getDefiningOp();
    Location loc = op->getLoc();
    if (!result.getType().isIntOrIndexOrFloat()) {
      fail(op, "chooses memory on the device: not supported on a GPU");
      return failure();
    }
    rewriter.setInsertionPoint(ops.front());
    Value buffer = memref::AllocOp::create(rewriter, loc, MemRefType::get({}, result.getType()));
    rewriter.setInsertionPointAfter(ops.back());
    Value loaded = memref::LoadOp::create(rewriter, loc, buffer);
    result.replaceUsesWithIf(loaded, isOutside);
    rewriter.setInsertionPointAfter(op);
    Operation *store = memref::StoreOp::create(rewriter, loc, result, buffer);
    ops.insert(std::next(llvm::find(ops, op)), store);
    return success();
  }

  void lowerGeneric(linalg::GenericOp op) {
    if (!op.hasPureBufferSemantics()) {
      fail(op, "is not on memory");
      return;
    }
    if (!hasOwnPlaces(op)) {
      note(outliner.outlineSequential({op.getOperation()}), op);
      return;
    }
    if (auto contraction = Contraction::match(op))
      note(contraction->outline(outliner), op);
    else if (auto reduction = Reduction::match(op))
      note(reduction->outline(outliner), op);
    else
      note(outliner.outlineParallel(op), op);
  }

  /// The number that all elements of a result become, if `op` does no more.
  static TypedAttr getFilling(linalg::GenericOp op) {
    if (op.getNumReductionLoops() != 0 || op.getNumDpsInits() != 1 || !hasOwnPlaces(op))
      return {};
    Value value = op.getBody()->getTerminator()->getOperand(0);
    if (auto scalar = dyn_cast<BlockArgument>(value); scalar && scalar.getOwner() == op.getBody())
      value = op.getMatchingOpOperand(scalar)->get();
    TypedAttr constant;
    return matchPattern(value, m_Constant(&constant)) ? constant : TypedAttr();
  }

  /// Lets an operation that begins with what `op` filled begin with the number itself.
  bool absorbFilling(linalg::GenericOp op) {
    TypedAttr filling = getFilling(op);
    if (!filling)
      return false;
    Value memory = op.getDpsInits()[0];
    Operation *next = op->getNextNode();
    while (isa<memref::AllocOp>(next) || (isMemoryEffectFree(next) && next->getNextNode()))
      next = next->getNextNode();
    auto reader = dyn_cast<linalg::GenericOp>(next);
    auto isOther = [&](Value input) {
      return !isa<MemRefType>(input.getType()) || getRoot(input) != getRoot(memory);
    };
    if (!reader || reader.getNumDpsInits() != 1 || reader.getDpsInits()[0] != memory ||
        !llvm::all_of(reader.getDpsInputs(), isOther) || !hasOwnPlaces(reader))
      return false;
    reader->setAttr(kStartAttr, filling);
    op.erase();
    return true;
  }

  /// Does each point of the parallel loops have elements of its own in every result?
  static bool hasOwnPlaces(linalg::GenericOp op) {
    return llvm::all_of(op.getDpsInitsMutable(), [&](OpOperand &init) {
      AffineMap map = op.getMatchingIndexingMap(&init);
      return map.isProjectedPermutation() && map.getNumResults() == op.getNumParallelLoops();
    });
  }

  /// Those that kernels have taken with them, and those that only checks needed.
  void eraseUnusedLoads() {
    SmallVector<Operation *> ops;
    entry.walk([&](Operation *op) {
      if (isa<memref::LoadOp>(op) || isMemoryEffectFree(op))
        ops.push_back(op);
    });
    for (Operation *op : llvm::reverse(ops))
      if (op->use_empty() && !op->hasTrait<OpTrait::IsTerminator>())
        op->erase();
  }

  /// Reports whatever else a host cannot do.
  void checkHost() {
    entry.walk<WalkOrder::PreOrder>([&](Operation *op) {
      if (reported.contains(op))
        return WalkResult::skip();
      auto isReported = [&](Operation *user) { return reported.contains(user); };
      if (isa<memref::LoadOp>(op) && llvm::any_of(op->getUsers(), isReported))
        return WalkResult::advance();
      if (isa<memref::LoadOp>(op))
        fail(op, "gives the host a value that only the device has (a size or a condition that "
                 "depends on data): not supported on a GPU");
      else if (isa<linalg::LinalgOp>(op) || isElementAccess(op))
        fail(op, "cannot run on a GPU: not supported");
      else if (isa<func::CallOp>(op))
        fail(op, "is a kernel for the CPU: not supported on a GPU");
      else if (isa<AllocateOp>(op))
        fail(op, "has a size that depends on data: not supported on a GPU");
      return WalkResult::advance();
    });
  }

  void fail(Operation *op, StringRef message) {
    emitUnsupported(op) << message;
    note(failure(), op);
  }

  void note(LogicalResult result, Operation *op) {
    if (succeeded(result))
      return;
    failed = true;
    reported.insert(op);
  }

  func::FuncOp entry;
  KernelOutliner &outliner;
  IRRewriter rewriter;
  bool failed = false;
  llvm::SmallPtrSet<Operation *, 4> reported;
  /// What checks became.
  llvm::SmallPtrSet<Operation *, 4> checks;
};

struct LinalgToGPUPass : moe::impl::LinalgToGPUBase<LinalgToGPUPass> {
  void runOnOperation() override {
    KernelOutliner outliner(getOperation());
    bool failedAny = false;
    for (func::FuncOp func : getOperation().getOps<func::FuncOp>())
      if (func->hasAttr(kEntryAttr))
        failedAny |= failed(EntryLowering(func, outliner).lower());
    if (failedAny)
      signalPassFailure();
  }
};

} // namespace

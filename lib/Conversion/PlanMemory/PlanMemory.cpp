// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --plan-memory: temporaries become slices of one workspace.

#include "moec/Conversion/PlanMemory/PlanMemory.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Bufferization/Transforms/BufferViewFlowAnalysis.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Dominance.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/LoopLikeInterface.h"
#include "mlir/Transforms/CSE.h"

namespace mlir::moe {
#define GEN_PASS_DEF_PLANMEMORY
#include "moec/Conversion/PlanMemory/PlanMemory.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Covers a cache line and the widest vector.
constexpr int64_t kAlignment = 64;

/// A temporary of the workspace: its size is `bytes` times the product of its dynamic sizes, and it
/// is alive between two operations of the entry block, both included.
struct Temporary {
  memref::AllocOp alloc;
  int64_t bytes;
  SmallVector<Value> dynamicSizes;
  unsigned first, last;
};

/// A part of the workspace, for temporaries with the same dynamic sizes that are
/// never alive together.
struct Slot {
  int64_t bytes;
  SmallVector<Value> dynamicSizes;
  SmallVector<unsigned> members;
  /// Last operation of the entry block at which a member is alive.
  unsigned busyUntil;
};

//===----------------------------------------------------------------------===//
// Lifetimes
//===----------------------------------------------------------------------===//

FailureOr<int64_t> getStaticBytes(memref::AllocOp alloc) {
  MemRefType type = alloc.getType();
  if (!type.getLayout().isIdentity())
    return alloc.emitOpError("has a layout: temporaries must be contiguous");
  Type element = type.getElementType();
  int64_t bytes = 8;
  if (element.isIntOrFloat())
    bytes = llvm::divideCeil(element.getIntOrFloatBitWidth(), 8);
  else if (!element.isIndex())
    return alloc.emitOpError("has elements of unknown size");
  for (int64_t size : type.getShape())
    if (!ShapedType::isDynamic(size))
      bytes *= size;
  return bytes;
}

/// A temporary in a loop is one buffer for all iterations, so no iteration may
/// hand it to the next one or out of the loop.
LogicalResult checkStaysInIteration(memref::AllocOp alloc,
                                    const BufferViewFlowAnalysis::ValueSetT &aliases,
                                    func::FuncOp entry) {
  for (Operation *parent = alloc->getParentOp(); parent != entry; parent = parent->getParentOp()) {
    auto loop = dyn_cast<LoopLikeOpInterface>(parent);
    if (!loop)
      continue;
    if (isa<scf::ParallelOp, scf::ForallOp>(parent))
      return alloc.emitOpError("in a parallel loop: each worker would need its own temporary");
    for (Value alias : aliases)
      if (!parent->isAncestor(alias.getParentBlock()->getParentOp()))
        return emitUnsupported(alloc) << "leaves its loop: not supported";
    for (Value alias : aliases)
      if (auto argument = dyn_cast<BlockArgument>(alias))
        if (argument.getOwner()->getParentOp() == parent)
          return emitUnsupported(alloc)
                 << "is used by the next iteration of its loop: not supported";
  }
  return success();
}

/// The last operation of the entry block that may use one of `aliases`.
unsigned getLastUse(const BufferViewFlowAnalysis::ValueSetT &aliases, Block &body,
                    const DenseMap<Operation *, unsigned> &positions) {
  unsigned last = 0;
  for (Value alias : aliases)
    for (Operation *user : alias.getUsers()) {
      // A view that is no longer a memref (a pointer) is not followed.
      if (isa<memref::ExtractAlignedPointerAsIndexOp, UnrealizedConversionCastOp>(user))
        return positions.size();
      last = std::max(last, positions.lookup(body.findAncestorOpInBlock(*user)));
    }
  return last;
}

/// True when `size` is arithmetic on the dimensions of the entry's arguments, and can be
/// computed before the entry runs.
bool isKnownBefore(Value size, func::FuncOp entry, DenseMap<Value, bool> &known) {
  auto [it, isNew] = known.try_emplace(size, false);
  if (!isNew)
    return it->second;
  Operation *op = size.getDefiningOp();
  if (!op)
    return false;
  bool result;
  if (isa<NumWorkersOp>(op)) {
    result = true;
  } else if (auto dim = dyn_cast<memref::DimOp>(op)) {
    auto argument = dyn_cast<BlockArgument>(dim.getSource());
    result = argument && argument.getOwner() == &entry.getBody().front() && dim.getConstantIndex();
  } else {
    // Not isPure: a division by a size is executed by every call anyway.
    result =
        isMemoryEffectFree(op) && op->getNumRegions() == 0 &&
        llvm::all_of(op->getOperandTypes(), [](Type type) { return type.isIntOrIndexOrFloat(); }) &&
        llvm::all_of(op->getOperands(),
                     [&](Value operand) { return isKnownBefore(operand, entry, known); });
  }
  return known[size] = result;
}

LogicalResult collectTemporaries(func::FuncOp entry, SmallVectorImpl<Temporary> &temporaries) {
  Block &body = entry.getBody().front();
  DenseMap<Operation *, unsigned> positions;
  for (auto [i, op] : llvm::enumerate(body))
    positions[&op] = i;

  DenseMap<Value, unsigned> order;
  DenseMap<Value, bool> known;
  BufferViewFlowAnalysis analysis(entry);
  WalkResult result = entry.walk([&](memref::AllocOp alloc) {
    bool isPlanned = llvm::all_of(alloc.getDynamicSizes(),
                                  [&](Value size) { return isKnownBefore(size, entry, known); });
    if (!isPlanned)
      return WalkResult::advance();
    BufferViewFlowAnalysis::ValueSetT aliases = analysis.resolve(alloc);
    FailureOr<int64_t> bytes = getStaticBytes(alloc);
    if (failed(bytes) || failed(checkStaysInIteration(alloc, aliases, entry)))
      return WalkResult::interrupt();
    Temporary temporary{alloc, *bytes, SmallVector<Value>(alloc.getDynamicSizes()),
                        positions.lookup(body.findAncestorOpInBlock(*alloc)), 0};
    temporary.last = std::max(temporary.first, getLastUse(aliases, body, positions));
    // Products commute: a fixed order makes equal ones compare equal.
    for (Value size : temporary.dynamicSizes)
      order.try_emplace(size, order.size());
    llvm::sort(temporary.dynamicSizes,
               [&](Value a, Value b) { return order.lookup(a) < order.lookup(b); });
    temporaries.push_back(std::move(temporary));
    return WalkResult::advance();
  });
  return failure(result.wasInterrupted());
}

//===----------------------------------------------------------------------===//
// Results in place
//===----------------------------------------------------------------------===//

/// Writes into `out` at once what would be computed in a temporary, perhaps seen in
/// another shape, and copied at the end.
void writeInPlace(BlockArgument out, func::FuncOp entry) {
  if (!out.hasOneUse())
    return;
  auto copy = dyn_cast<memref::CopyOp>(*out.getUsers().begin());
  if (!copy || copy.getTarget() != out || copy->getBlock() != out.getOwner())
    return;
  Value source = copy.getSource();
  auto expand = source.getDefiningOp<memref::ExpandShapeOp>();
  auto alloc = (expand ? expand.getSrc() : source).getDefiningOp<memref::AllocOp>();
  if (!alloc || source.getType() != out.getType())
    return;
  // The copy must be the last one to look at the temporary.
  BufferViewFlowAnalysis analysis(entry);
  for (Value alias : analysis.resolve(alloc))
    for (Operation *user : alias.getUsers()) {
      Operation *ancestor = out.getOwner()->findAncestorOpInBlock(*user);
      if (copy->isBeforeInBlock(ancestor))
        return;
    }
  Value replacement = out;
  if (expand) {
    OpBuilder builder = OpBuilder::atBlockBegin(out.getOwner());
    replacement = memref::CollapseShapeOp::create(builder, expand.getLoc(), out,
                                                  expand.getReassociationIndices());
    if (replacement.getType() != alloc.getType())
      replacement = memref::CastOp::create(builder, expand.getLoc(), alloc.getType(), replacement);
  }
  copy.erase();
  alloc.replaceAllUsesWith(replacement);
  alloc.erase();
}

//===----------------------------------------------------------------------===//
// Slots
//===----------------------------------------------------------------------===//

/// The free slot that wastes least, or null.
Slot *findSlot(MutableArrayRef<Slot> slots, const Temporary &temporary) {
  Slot *best = nullptr;
  for (Slot &slot : slots) {
    if (slot.dynamicSizes != temporary.dynamicSizes || slot.busyUntil >= temporary.first)
      continue;
    auto waste = [&](const Slot &s) { return std::abs(s.bytes - temporary.bytes); };
    if (!best || waste(slot) < waste(*best))
      best = &slot;
  }
  return best;
}

/// `temporaries` are in the order in which they come alive.
SmallVector<Slot> assignSlots(ArrayRef<Temporary> temporaries) {
  SmallVector<Slot> slots;
  for (auto [i, temporary] : llvm::enumerate(temporaries)) {
    Slot *slot = findSlot(slots, temporary);
    if (!slot)
      slot = &slots.emplace_back(Slot{0, temporary.dynamicSizes, {}, 0});
    slot->bytes = std::max(slot->bytes, temporary.bytes);
    slot->members.push_back(i);
    slot->busyUntil = temporary.last;
  }
  // Static ones first: their offsets are constants.
  SmallVector<Slot> ordered;
  auto isStatic = [](const Slot &slot) { return slot.dynamicSizes.empty(); };
  llvm::copy_if(slots, std::back_inserter(ordered), isStatic);
  llvm::copy_if(slots, std::back_inserter(ordered), std::not_fn(isStatic));
  return ordered;
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

/// Recomputes sizes at another place: at the start of the entry, or in the
/// workspace function.
class SizeCloner {
public:
  SizeCloner(OpBuilder &builder, func::FuncOp entry) : builder(builder), entry(entry) {}
  virtual ~SizeCloner() = default;

  /// The size, of which isKnownBefore holds.
  Value get(Value size) {
    if (Value known = mapping.lookupOrNull(size))
      return known;
    Value result = compute(size);
    mapping.map(size, result);
    return result;
  }

protected:
  virtual Value getDim(BlockArgument argument, int64_t dim, Location loc) = 0;
  virtual Value getNumWorkers(NumWorkersOp op) = 0;

  OpBuilder &builder;
  func::FuncOp entry;

private:
  Value compute(Value size) {
    Operation *op = size.getDefiningOp();
    if (auto workers = dyn_cast<NumWorkersOp>(op))
      return getNumWorkers(workers);
    if (auto dim = dyn_cast<memref::DimOp>(op))
      return getDim(cast<BlockArgument>(dim.getSource()), *dim.getConstantIndex(), op->getLoc());
    for (Value operand : op->getOperands())
      get(operand);
    Operation *clone = builder.clone(*op, mapping);
    return clone->getResult(cast<OpResult>(size).getResultNumber());
  }

  IRMapping mapping;
};

class EntrySizes : public SizeCloner {
public:
  using SizeCloner::SizeCloner;

private:
  Value getDim(BlockArgument argument, int64_t dim, Location loc) override {
    return memref::DimOp::create(builder, loc, argument, dim);
  }
  Value getNumWorkers(NumWorkersOp op) override {
    return NumWorkersOp::create(builder, op.getLoc(), op.getType(), op.getCall());
  }
};

/// In a function of the inputs and the number of workers. Dimensions of outputs
/// come from the shapes function.
class WorkspaceSizes : public SizeCloner {
public:
  WorkspaceSizes(OpBuilder &builder, func::FuncOp entry, func::FuncOp workspace,
                 func::FuncOp shapes)
      : SizeCloner(builder, entry), workspace(workspace), shapes(shapes) {}

private:
  Value getDim(BlockArgument argument, int64_t dim, Location loc) override {
    unsigned numInputs = getNumInputs(entry);
    if (argument.getArgNumber() < numInputs)
      return memref::DimOp::create(builder, loc, workspace.getArgument(argument.getArgNumber()),
                                   dim);
    int64_t position = dim;
    for (unsigned i = numInputs; i < argument.getArgNumber(); ++i)
      position += cast<MemRefType>(entry.getArgumentTypes()[i]).getRank();
    if (!outputDims)
      outputDims = func::CallOp::create(builder, loc, shapes,
                                        workspace.getArguments().take_front(numInputs));
    return outputDims.getResult(position);
  }
  Value getNumWorkers(NumWorkersOp) override { return workspace.getArguments().back(); }

  func::FuncOp workspace, shapes;
  func::CallOp outputDims;
};

/// Start of each slot, then the end of the last one. Static slots come first.
SmallVector<Value> emitOffsets(OpBuilder &builder, ArrayRef<Slot> slots, SizeCloner &sizes,
                               Location loc) {
  auto constant = [&](int64_t value) {
    return arith::ConstantIndexOp::create(builder, loc, value);
  };
  SmallVector<Value> offsets = {constant(0)};
  int64_t staticOffset = 0;
  for (const Slot &slot : slots) {
    if (slot.dynamicSizes.empty()) {
      staticOffset += llvm::alignTo(slot.bytes, kAlignment);
      offsets.push_back(constant(staticOffset));
      continue;
    }
    Value bytes = constant(slot.bytes);
    for (Value size : slot.dynamicSizes) {
      bytes = arith::MulIOp::create(builder, loc, bytes, sizes.get(size));
    }
    Value padded = arith::AddIOp::create(builder, loc, bytes, constant(kAlignment - 1));
    Value aligned = arith::AndIOp::create(builder, loc, padded, constant(-kAlignment));
    offsets.push_back(arith::AddIOp::create(builder, loc, offsets.back(), aligned));
  }
  return offsets;
}

//===----------------------------------------------------------------------===//
// Entry and workspace function
//===----------------------------------------------------------------------===//

LogicalResult makeWorkspaceFunction(func::FuncOp entry, SymbolTable &symbols,
                                    ArrayRef<Slot> slots) {
  auto shapes = symbols.lookup<func::FuncOp>((entry.getName() + kShapesSuffix).str());
  if (!shapes)
    return entry.emitError("has no function of its output shapes; run --lower-entry");
  OpBuilder builder(entry.getContext());
  SmallVector<Type> inputs(entry.getArgumentTypes().take_front(getNumInputs(entry)));
  inputs.push_back(builder.getIndexType());
  auto type = builder.getFunctionType(inputs, builder.getIndexType());
  auto workspace = func::FuncOp::create(builder, entry.getLoc(),
                                        (entry.getName() + kWorkspaceSuffix).str(), type);
  symbols.insert(workspace, std::next(entry->getIterator()));
  builder.setInsertionPointToStart(workspace.addEntryBlock());
  WorkspaceSizes sizes(builder, entry, workspace, shapes);
  SmallVector<Value> offsets = emitOffsets(builder, slots, sizes, entry.getLoc());
  func::ReturnOp::create(builder, entry.getLoc(), offsets.back());
  return success();
}

void useWorkspace(func::FuncOp entry, ArrayRef<Slot> slots, ArrayRef<Temporary> temporaries) {
  Value workspace = getMarkedArgument(entry, kWorkspaceAttr);
  OpBuilder builder = OpBuilder::atBlockBegin(&entry.getBody().front());
  EntrySizes sizes(builder, entry);
  SmallVector<Value> offsets = emitOffsets(builder, slots, sizes, entry.getLoc());
  for (auto [slot, offset] : llvm::zip(slots, offsets)) {
    for (unsigned member : slot.members) {
      memref::AllocOp alloc = temporaries[member].alloc;
      SmallVector<Value> dynamicSizes;
      for (Value size : alloc.getDynamicSizes())
        dynamicSizes.push_back(sizes.get(size));
      alloc.replaceAllUsesWith(memref::ViewOp::create(builder, alloc.getLoc(), alloc.getType(),
                                                      workspace, offset, dynamicSizes)
                                   .getResult());
    }
  }
  // At the end: the builder's place may be before one of them.
  for (const Temporary &temporary : temporaries)
    temporary.alloc->erase();
}

//===----------------------------------------------------------------------===//
// Sizes that depend on data
//===----------------------------------------------------------------------===//

/// Bytes of an allocation, -1 when they overflow.
Value emitBytes(OpBuilder &builder, memref::AllocOp alloc, int64_t staticBytes) {
  Location loc = alloc.getLoc();
  Value bytes = arith::ConstantIndexOp::create(builder, loc, staticBytes);
  Value zero = arith::ConstantIndexOp::create(builder, loc, 0), overflow;
  for (Value size : alloc.getDynamicSizes()) {
    auto product = arith::MulUIExtendedOp::create(builder, loc, bytes, size);
    Value isTooLarge =
        arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::ne, product.getHigh(), zero);
    overflow = overflow ? arith::OrIOp::create(builder, loc, overflow, isTooLarge) : isTooLarge;
    bytes = product.getLow();
  }
  Value none = arith::ConstantIndexOp::create(builder, loc, -1);
  return arith::SelectOp::create(builder, loc, overflow, none, bytes);
}

/// Where the memory of `alloc` is free again: before the terminator of its block, or in the
/// entry block after its last use. Null when it leaves its block: then at the end of the call.
Operation *getEndOfLife(memref::AllocOp alloc, const BufferViewFlowAnalysis::ValueSetT &aliases) {
  Block *block = alloc->getBlock();
  Operation *last = alloc;
  for (Value alias : aliases) {
    if (!block->findAncestorOpInBlock(*alias.getParentBlock()->getParentOp()) &&
        alias.getParentBlock() != block)
      return nullptr;
    for (Operation *user : alias.getUsers()) {
      Operation *ancestor = block->findAncestorOpInBlock(*user);
      if (!ancestor || ancestor->hasTrait<OpTrait::IsTerminator>() ||
          isa<memref::ExtractAlignedPointerAsIndexOp, UnrealizedConversionCastOp>(user))
        return nullptr;
      if (last->isBeforeInBlock(ancestor))
        last = ancestor;
    }
  }
  return last;
}

/// Temporaries that are not in the workspace come from the context, when they are needed.
LogicalResult allocateFromCall(func::FuncOp entry) {
  SmallVector<memref::AllocOp> allocs;
  entry.walk([&](memref::AllocOp alloc) { allocs.push_back(alloc); });
  if (allocs.empty())
    return success();
  Value call = getMarkedArgument(entry, kCallAttr);
  BufferViewFlowAnalysis analysis(entry);
  SmallVector<std::pair<memref::AllocOp, Operation *>> lives;
  for (memref::AllocOp alloc : allocs) {
    if (alloc->getParentOfType<scf::ParallelOp>() || alloc->getParentOfType<scf::ForallOp>())
      return alloc.emitOpError("in a parallel loop: each worker would need its own temporary");
    lives.emplace_back(alloc, getEndOfLife(alloc, analysis.resolve(alloc)));
  }
  for (auto [alloc, end] : lives) {
    FailureOr<int64_t> bytes = getStaticBytes(alloc);
    if (failed(bytes))
      return failure();
    OpBuilder builder(alloc);
    Location loc = alloc.getLoc();
    auto type = MemRefType::get(ShapedType::kDynamic, builder.getI8Type());
    auto memory = AllocateOp::create(builder, loc, type, call, emitBytes(builder, alloc, *bytes));
    Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
    auto view = memref::ViewOp::create(builder, loc, alloc.getType(), memory, zero,
                                       alloc.getDynamicSizes());
    if (end) {
      builder.setInsertionPointAfter(end == alloc ? view : end);
      ReleaseOp::create(builder, loc, call, memory);
    }
    alloc.replaceAllUsesWith(view.getResult());
  }
  for (memref::AllocOp alloc : allocs)
    alloc->erase();
  return success();
}

LogicalResult planEntry(func::FuncOp entry, SymbolTable &symbols) {
  if (!entry.getBody().hasOneBlock())
    return entry.emitError("plan the memory before branches are lowered");
  entry.walk([](memref::DeallocOp op) { op.erase(); });
  for (BlockArgument argument : entry.getArguments())
    if (entry.getArgAttr(argument.getArgNumber(), kOutputAttr))
      writeInPlace(argument, entry);
  // Sizes are compared as values.
  IRRewriter rewriter(entry.getContext());
  DominanceInfo dominance(entry);
  eliminateCommonSubExpressions(rewriter, dominance, entry);

  SmallVector<Temporary> temporaries;
  if (failed(collectTemporaries(entry, temporaries)))
    return failure();
  SmallVector<Slot> slots = assignSlots(temporaries);
  if (failed(makeWorkspaceFunction(entry, symbols, slots)))
    return failure();
  useWorkspace(entry, slots, temporaries);
  return allocateFromCall(entry);
}

struct PlanMemoryPass : moe::impl::PlanMemoryBase<PlanMemoryPass> {
  void runOnOperation() override {
    SymbolTable symbols(getOperation());
    for (func::FuncOp func : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>()))
      if (func->hasAttr(kEntryAttr) && failed(planEntry(func, symbols)))
        return signalPassFailure();
    WalkResult rest = getOperation().walk([](memref::AllocOp alloc) {
      alloc.emitOpError("outside of an entry function: kernels get their temporaries as arguments");
      return WalkResult::interrupt();
    });
    if (rest.wasInterrupted())
      signalPassFailure();
  }
};

} // namespace

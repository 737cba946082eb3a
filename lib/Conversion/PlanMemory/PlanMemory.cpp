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

/// What every dimension and the number of workers count as where sizes are only compared.
constexpr int64_t kNominal = 64;

/// Bytes: a number times the product of dynamic sizes, which are in a fixed order.
struct Size {
  int64_t bytes;
  SmallVector<Value> dynamicSizes;
};

/// A temporary of the workspace, alive between two operations of the entry block, both included.
struct Temporary {
  memref::AllocOp alloc;
  Size size;
  double nominalBytes;
  unsigned first, last;

  bool overlaps(const Temporary &other) const { return first <= other.last && other.first <= last; }
};

/// A part of the workspace, for temporaries that are never alive together: as large as the
/// largest of `sizes`.
struct Slot {
  SmallVector<Size> sizes;
  SmallVector<unsigned> members;

  bool isStatic() const { return sizes.size() == 1 && sizes[0].dynamicSizes.empty(); }
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

/// What may be a view of the memory of `alloc`. The analysis does not look through
/// memref.transpose.
BufferViewFlowAnalysis::ValueSetT resolve(const BufferViewFlowAnalysis &analysis,
                                          memref::AllocOp alloc) {
  BufferViewFlowAnalysis::ValueSetT aliases = analysis.resolve(alloc);
  SmallVector<Value> worklist(aliases.begin(), aliases.end());
  while (!worklist.empty())
    for (Operation *user : worklist.pop_back_val().getUsers())
      if (auto transpose = dyn_cast<memref::TransposeOp>(user))
        for (Value alias : analysis.resolve(transpose))
          if (aliases.insert(alias).second)
            worklist.push_back(alias);
  return aliases;
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

/// Sets the first and the last operation of the entry block that may access one of `aliases`: not
/// the allocation and views of it, which may stand far before.
void setLife(Temporary &temporary, const BufferViewFlowAnalysis::ValueSetT &aliases, Block &body,
             const DenseMap<Operation *, unsigned> &positions) {
  unsigned end = positions.size(),
           at = positions.lookup(body.findAncestorOpInBlock(*temporary.alloc));
  temporary.first = end;
  temporary.last = 0;
  for (Value alias : aliases)
    for (Operation *user : alias.getUsers()) {
      unsigned position = positions.lookup(body.findAncestorOpInBlock(*user));
      // A view that is no longer a memref (a pointer) is not followed.
      bool escapes = isa<memref::ExtractAlignedPointerAsIndexOp, UnrealizedConversionCastOp>(user);
      if (!escapes && isa<ViewLikeOpInterface, memref::TransposeOp, memref::DimOp>(user))
        continue;
      temporary.first = std::min(temporary.first, position);
      temporary.last = std::max(temporary.last, escapes ? end : position);
    }
  if (temporary.first == end)
    temporary.first = temporary.last = at;
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

/// The size when every dimension is kNominal; isKnownBefore holds of it.
int64_t getNominal(Value size, DenseMap<Value, int64_t> &nominal) {
  if (auto it = nominal.find(size); it != nominal.end())
    return it->second;
  Operation *op = size.getDefiningOp();
  int64_t result = kNominal;
  if (!isa<NumWorkersOp, memref::DimOp>(op)) {
    SmallVector<Attribute> operands;
    for (Value operand : op->getOperands()) {
      int64_t value = getNominal(operand, nominal);
      operands.push_back(operand.getType().isIntOrIndex()
                             ? IntegerAttr::get(operand.getType(), value)
                             : Attribute());
    }
    SmallVector<OpFoldResult> folded;
    std::optional<int64_t> value;
    if (succeeded(op->fold(operands, folded)) && !folded.empty())
      value = getConstantIntValue(folded[cast<OpResult>(size).getResultNumber()]);
    result = value.value_or(kNominal);
  }
  return nominal[size] = result;
}

LogicalResult collectTemporaries(func::FuncOp entry, SmallVectorImpl<Temporary> &temporaries) {
  Block &body = entry.getBody().front();
  DenseMap<Operation *, unsigned> positions;
  for (auto [i, op] : llvm::enumerate(body))
    positions[&op] = i;

  DenseMap<Value, unsigned> order;
  DenseMap<Value, bool> known;
  DenseMap<Value, int64_t> nominal;
  BufferViewFlowAnalysis analysis(entry);
  WalkResult result = entry.walk([&](memref::AllocOp alloc) {
    bool isPlanned = llvm::all_of(alloc.getDynamicSizes(),
                                  [&](Value size) { return isKnownBefore(size, entry, known); });
    if (!isPlanned)
      return WalkResult::advance();
    BufferViewFlowAnalysis::ValueSetT aliases = resolve(analysis, alloc);
    FailureOr<int64_t> bytes = getStaticBytes(alloc);
    if (failed(bytes) || failed(checkStaysInIteration(alloc, aliases, entry)))
      return WalkResult::interrupt();
    Temporary temporary{alloc, {*bytes, SmallVector<Value>(alloc.getDynamicSizes())}, 0, 0, 0};
    setLife(temporary, aliases, body, positions);
    // Products commute: a fixed order makes equal ones compare equal.
    SmallVector<Value> &factors = temporary.size.dynamicSizes;
    for (Value size : factors)
      order.try_emplace(size, order.size());
    llvm::sort(factors, [&](Value a, Value b) { return order.lookup(a) < order.lookup(b); });
    temporary.nominalBytes = *bytes;
    for (Value size : factors)
      temporary.nominalBytes *= getNominal(size, nominal);
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
  for (Value alias : resolve(analysis, alloc))
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

/// Makes room for `size`.
void enlarge(Slot &slot, const Size &size) {
  for (Size &other : slot.sizes)
    if (other.dynamicSizes == size.dynamicSizes) {
      other.bytes = std::max(other.bytes, size.bytes);
      return;
    }
  slot.sizes.push_back(size);
}

/// The largest temporaries first, each into the smallest slot in which no member is alive
/// together with it (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
/// Inference", 2020, section 4.3: greedy by size).
SmallVector<Slot> assignSlots(ArrayRef<Temporary> temporaries) {
  SmallVector<unsigned> order = llvm::to_vector(llvm::seq<unsigned>(temporaries.size()));
  llvm::sort(order, [&](unsigned a, unsigned b) {
    double first = temporaries[a].nominalBytes, second = temporaries[b].nominalBytes;
    return std::make_pair(-first, a) < std::make_pair(-second, b);
  });
  SmallVector<Slot> slots;
  for (unsigned i : order) {
    const Temporary &temporary = temporaries[i];
    // Later slots are smaller.
    auto slot = llvm::find_if(llvm::reverse(slots), [&](const Slot &slot) {
      return llvm::none_of(
          slot.members, [&](unsigned member) { return temporaries[member].overlaps(temporary); });
    });
    Slot &chosen = slot == slots.rend() ? slots.emplace_back() : *slot;
    enlarge(chosen, temporary.size);
    chosen.members.push_back(i);
  }
  // Static ones first: their offsets are constants.
  SmallVector<Slot> ordered;
  auto isStatic = [](const Slot &slot) { return slot.isStatic(); };
  llvm::copy_if(slots, std::back_inserter(ordered), isStatic);
  llvm::copy_if(slots, std::back_inserter(ordered), std::not_fn(isStatic));
  return ordered;
}

/// The bytes that are alive together at most, which no plan can do without; nullopt when a size
/// is dynamic.
std::optional<int64_t> getLiveBytes(ArrayRef<Temporary> temporaries) {
  std::map<unsigned, int64_t> changes;
  for (const Temporary &temporary : temporaries) {
    if (!temporary.size.dynamicSizes.empty())
      return std::nullopt;
    changes[temporary.first] += temporary.size.bytes;
    changes[temporary.last + 1] -= temporary.size.bytes;
  }
  int64_t live = 0, most = 0;
  for (auto [position, change] : changes)
    most = std::max(most, live += change);
  return most;
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
    if (slot.isStatic()) {
      staticOffset += llvm::alignTo(slot.sizes[0].bytes, kAlignment);
      offsets.push_back(constant(staticOffset));
      continue;
    }
    Value bytes;
    for (const Size &size : slot.sizes) {
      Value product = constant(size.bytes);
      for (Value factor : size.dynamicSizes)
        product = arith::MulIOp::create(builder, loc, product, sizes.get(factor));
      bytes = bytes ? arith::MaxSIOp::create(builder, loc, bytes, product) : product;
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
    lives.emplace_back(alloc, getEndOfLife(alloc, resolve(analysis, alloc)));
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
  writeResultsInPlace(entry);
  // Sizes are compared as values.
  IRRewriter rewriter(entry.getContext());
  DominanceInfo dominance(entry);
  eliminateCommonSubExpressions(rewriter, dominance, entry);

  SmallVector<Temporary> temporaries;
  if (failed(collectTemporaries(entry, temporaries)))
    return failure();
  if (std::optional<int64_t> live = getLiveBytes(temporaries))
    entry->setAttr(kLiveBytesAttr, IntegerAttr::get(IndexType::get(entry.getContext()), *live));
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

void moe::writeResultsInPlace(func::FuncOp entry) {
  for (BlockArgument argument : entry.getArguments())
    if (entry.getArgAttr(argument.getArgNumber(), kOutputAttr))
      writeInPlace(argument, entry);
}

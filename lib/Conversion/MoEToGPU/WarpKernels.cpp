// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "WarpKernels.h"

#include "moec/Support/Unsupported.h"

#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/ViewLikeInterface.h"
#include "mlir/Transforms/RegionUtils.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

//===----------------------------------------------------------------------===//
// Parts of a kernel
//===----------------------------------------------------------------------===//

static bool isMemoryWrite(Operation *op) {
  return isa<memref::StoreOp, vector::StoreOp, vector::MaskedStoreOp>(op);
}

template <typename Predicate> static bool anyNested(Operation *op, Predicate predicate) {
  return op
      ->walk([&](Operation *nested) {
        return predicate(nested) ? WalkResult::interrupt() : WalkResult::advance();
      })
      .wasInterrupted();
}

static bool hasWrites(Operation *op) { return anyNested(op, isMemoryWrite); }

static bool hasReads(Operation *op) {
  return anyNested(op, [](Operation *nested) {
    return isa<memref::LoadOp, vector::LoadOp, vector::MaskedLoadOp>(nested);
  });
}

/// Adds the ops of the kernel's body that `op` needs, and `op`, in the order of the program.
static void collectNeeded(Operation *op, llvm::SetVector<Operation *> &needed) {
  if (needed.contains(op))
    return;
  llvm::SetVector<Value> used(op->operand_begin(), op->operand_end());
  getUsedValuesDefinedAbove(op->getRegions(), used);
  for (Value value : used)
    if (Operation *source = value.getDefiningOp())
      collectNeeded(source, needed);
  needed.insert(op);
}

/// Where the memory of a memref comes from.
static Value rootOf(Value memref) {
  while (auto view = memref.getDefiningOp<ViewLikeOpInterface>())
    memref = view.getViewSource();
  return memref;
}

//===----------------------------------------------------------------------===//
// Lanes
//===----------------------------------------------------------------------===//

namespace {
/// Clones ops of a kernel on vectors, in terms of one lane.
class LaneCloner {
public:
  LaneCloner(GPUBuilder &b, Operation *user, int64_t warps) : b(b), user(user), warps(warps) {
    lane = b.mod(b.thread(), kLanes);
    warp = b.div(b.thread(), kLanes);
    lane32 = b.toI32(lane);
    isFirst = b.equal(lane, b.index(0));
  }

  /// Memory that the ops read: stores to it are seen by all lanes.
  void noteReads(Operation *op);
  LogicalResult clone(Operation *op);
  LogicalResult cloneBody(Block &block, Block *to);

  IRMapping mapping;
  Value lane, warp;

private:
  LogicalResult fail(Operation *op) {
    return emitUnsupported(user) << "has no GPU kernel: '" << op->getName() << "' on "
                                 << (op->getNumResults() ? op->getResult(0).getType() : Type());
  }
  /// A vector's type for one lane.
  Type laneType(Type type) {
    auto vector = dyn_cast<VectorType>(type);
    return vector ? vector.getElementType() : type;
  }
  Value mapped(Value value) { return mapping.lookup(value); }
  SmallVector<Value> mapped(ValueRange values) {
    return llvm::map_to_vector(values, [&](Value v) { return mapped(v); });
  }
  /// Indices into a memref; `perLane` adds the lane to the last one.
  SmallVector<Value> place(Value memref, ValueRange indices, bool perLane);
  void store(Value value, Value memref, ValueRange indices, Value condition, bool perLane);
  LogicalResult cloneAsIs(Operation *op);
  LogicalResult cloneConstant(arith::ConstantOp op);
  LogicalResult cloneReduction(vector::ReductionOp op);
  LogicalResult cloneExtract(vector::ExtractOp op);
  LogicalResult cloneShuffle(vector::ShuffleOp op);
  void cloneMaskedLoad(vector::MaskedLoadOp op);
  void cloneStack(memref::AllocaOp op);

  GPUBuilder &b;
  Operation *user;
  int64_t warps;
  Value lane32, isFirst;
  DenseSet<Value> read;  ///< roots in the source kernel
  DenseSet<Value> stack; ///< buffers in the source kernel
};
} // namespace

void LaneCloner::noteReads(Operation *op) {
  op->walk([&](Operation *nested) {
    llvm::TypeSwitch<Operation *>(nested)
        .Case<memref::LoadOp>([&](auto load) { read.insert(rootOf(load.getMemRef())); })
        .Case<vector::LoadOp, vector::MaskedLoadOp>(
            [&](auto load) { read.insert(rootOf(load.getBase())); });
  });
}

SmallVector<Value> LaneCloner::place(Value memref, ValueRange indices, bool perLane) {
  SmallVector<Value> at = mapped(indices);
  if (perLane)
    at.back() = b.add(at.back(), lane);
  if (stack.contains(memref))
    at.insert(at.begin(), warp);
  return at;
}

void LaneCloner::store(Value value, Value memref, ValueRange indices, Value condition,
                       bool perLane) {
  bool isRead = read.contains(rootOf(memref));
  SmallVector<Value> at = place(memref, indices, perLane);
  if (isRead)
    b.syncWarp();
  if (condition)
    b.ifThen(condition, [&] { b.store(value, mapped(memref), at); });
  else
    b.store(value, mapped(memref), at);
  if (isRead)
    b.syncWarp();
}

LogicalResult LaneCloner::cloneBody(Block &block, Block *to) {
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToEnd(to);
  for (Operation &op : block)
    if (failed(clone(&op)))
      return failure();
  return success();
}

LogicalResult LaneCloner::cloneAsIs(Operation *op) {
  OperationState state(
      op->getLoc(), op->getName(), mapped(op->getOperands()),
      llvm::map_to_vector(op->getResultTypes(), [&](Type t) { return laneType(t); }));
  state.propertiesAttr = op->getPropertiesAsAttribute();
  state.addAttributes(llvm::to_vector(op->getDiscardableAttrs()));
  for (unsigned i = 0; i < op->getNumRegions(); ++i)
    state.addRegion();
  Operation *copy = b.create(state);
  mapping.map(op->getResults(), copy->getResults());
  for (auto [from, to] : llvm::zip(op->getRegions(), copy->getRegions()))
    for (Block &block : from) {
      Block &target = to.emplaceBlock();
      for (BlockArgument argument : block.getArguments())
        mapping.map(argument, target.addArgument(laneType(argument.getType()), argument.getLoc()));
      if (failed(cloneBody(block, &target)))
        return failure();
    }
  return success();
}

/// Constants of lanes: all equal, a sequence, or two values of which one comes first.
LogicalResult LaneCloner::cloneConstant(arith::ConstantOp op) {
  auto dense = dyn_cast<DenseElementsAttr>(op.getValue());
  if (!dense || !isa<VectorType>(op.getType()))
    return cloneAsIs(op);
  Value result;
  if (dense.isSplat()) {
    result = arith::ConstantOp::create(b, b.getLoc(), dense.getSplatValue<TypedAttr>());
  } else if (dense.getElementType().isInteger(32)) {
    SmallVector<int32_t> values = llvm::to_vector(dense.getValues<int32_t>());
    int64_t step = int64_t(values[1]) - values[0];
    bool isSequence = true;
    for (auto [i, value] : llvm::enumerate(values))
      isSequence &= value == values[0] + int64_t(i) * step;
    size_t change =
        std::find_if(values.begin(), values.end(), [&](int32_t v) { return v != values[0]; }) -
        values.begin();
    bool hasTwo = std::all_of(values.begin() + change, values.end(),
                              [&](int32_t v) { return v == values.back(); });
    if (isSequence)
      result = b.add(b.mul(lane32, b.i32(step)), b.i32(values[0]));
    else if (hasTwo)
      result = b.select(b.less(lane32, b.i32(change)), b.i32(values[0]), b.i32(values.back()));
  }
  if (!result)
    return fail(op);
  mapping.map(op.getResult(), result);
  return success();
}

LogicalResult LaneCloner::cloneReduction(vector::ReductionOp op) {
  Value value = mapped(op.getVector());
  Type type = value.getType();
  if (op.getAcc() || !(type.isF32() || type.isInteger(32)))
    return fail(op);
  auto warpReduction = [&](NVVM::ReduxKind kind) {
    return NVVM::ReduxOp::create(b, b.getLoc(), type, value, kind, b.i32(-1)).getResult();
  };
  Value result;
  switch (op.getKind()) {
  case vector::CombiningKind::MAXSI:
    result = warpReduction(NVVM::ReduxKind::MAX);
    break;
  case vector::CombiningKind::MINSI:
    result = warpReduction(NVVM::ReduxKind::MIN);
    break;
  case vector::CombiningKind::ADD:
    result = type.isF32() ? b.reduce(value, [&](Value x, Value y) { return b.addf(x, y); })
                          : warpReduction(NVVM::ReduxKind::ADD);
    break;
  case vector::CombiningKind::MAXNUMF:
    result = b.reduce(value, [&](Value x, Value y) { return b.maxNumber(x, y); });
    break;
  default:
    return fail(op);
  }
  mapping.map(op.getResult(), result);
  return success();
}

LogicalResult LaneCloner::cloneExtract(vector::ExtractOp op) {
  if (!op.getType().isF32() && !op.getType().isInteger(32))
    return fail(op);
  OpFoldResult position = op.getMixedPosition()[0];
  Value from = isa<Attribute>(position)
                   ? b.i32(cast<IntegerAttr>(cast<Attribute>(position)).getInt())
                   : b.toI32(mapped(cast<Value>(position)));
  mapping.map(op.getResult(), b.shuffleFrom(mapped(op.getSource()), from));
  return success();
}

/// Every second element of two vectors.
LogicalResult LaneCloner::cloneShuffle(vector::ShuffleOp op) {
  ArrayRef<int64_t> mask = op.getMask();
  for (auto [i, from] : llvm::enumerate(mask))
    if (int64_t(mask.size()) != kLanes || from != mask[0] + 2 * int64_t(i))
      return fail(op);
  Value from = b.add(b.mul(lane32, b.i32(2)), b.i32(mask[0]));
  Value source = b.both(from, b.i32(kLanes - 1));
  Value low = b.shuffleFrom(mapped(op.getV1()), source);
  Value high = b.shuffleFrom(mapped(op.getV2()), source);
  mapping.map(op.getResult(), b.select(b.less(from, b.i32(kLanes)), low, high));
  return success();
}

void LaneCloner::cloneMaskedLoad(vector::MaskedLoadOp op) {
  SmallVector<Value> at = place(op.getBase(), op.getIndices(), /*perLane=*/true);
  Value result = b.branch(
      mapped(op.getMask()), [&] { return b.load(mapped(op.getBase()), at); },
      [&] { return mapped(op.getPassThru()); });
  mapping.map(op.getResult(), result);
}

void LaneCloner::cloneStack(memref::AllocaOp op) {
  MemRefType type = op.getType();
  mapping.map(op.getResult(), b.shared({warps, type.getDimSize(0)}, type.getElementType()));
  stack.insert(op.getResult());
}

LogicalResult LaneCloner::clone(Operation *op) {
  for (Type type : llvm::concat<const Type>(op->getOperandTypes(), op->getResultTypes()))
    if (auto vector = dyn_cast<VectorType>(type))
      if (vector.getShape() != ArrayRef<int64_t>(kLanes))
        return fail(op);
  auto map = [&](Value value) {
    mapping.map(op->getResult(0), value);
    return success();
  };
  return llvm::TypeSwitch<Operation *, LogicalResult>(op)
      .Case<arith::ConstantOp>([&](auto op) { return cloneConstant(op); })
      .Case<memref::AllocaOp>([&](auto op) {
        cloneStack(op);
        return success();
      })
      .Case<memref::PrefetchOp>([&](auto) { return success(); })
      .Case<memref::LoadOp>([&](auto op) {
        return map(b.load(mapped(op.getMemRef()), place(op.getMemRef(), op.getIndices(), false)));
      })
      .Case<memref::StoreOp>([&](auto op) {
        store(mapped(op.getValueToStore()), op.getMemRef(), op.getIndices(), isFirst, false);
        return success();
      })
      .Case<vector::LoadOp>([&](auto op) {
        return map(b.load(mapped(op.getBase()), place(op.getBase(), op.getIndices(), true)));
      })
      .Case<vector::StoreOp>([&](auto op) {
        store(mapped(op.getValueToStore()), op.getBase(), op.getIndices(), Value(), true);
        return success();
      })
      .Case<vector::MaskedLoadOp>([&](auto op) {
        cloneMaskedLoad(op);
        return success();
      })
      .Case<vector::MaskedStoreOp>([&](auto op) {
        store(mapped(op.getValueToStore()), op.getBase(), op.getIndices(), mapped(op.getMask()),
              true);
        return success();
      })
      .Case<vector::BroadcastOp>([&](auto op) { return map(mapped(op.getSource())); })
      .Case<vector::ConstantMaskOp>(
          [&](auto op) { return map(b.less(lane, b.index(op.getMaskDimSizes()[0]))); })
      .Case<vector::CreateMaskOp>(
          [&](auto op) { return map(b.less(lane, mapped(op.getOperands()[0]))); })
      .Case<vector::ReductionOp>([&](auto op) { return cloneReduction(op); })
      .Case<vector::ExtractOp>([&](auto op) { return cloneExtract(op); })
      .Case<vector::ShuffleOp>([&](auto op) { return cloneShuffle(op); })
      .Default([&](Operation *op) {
        bool isKnown =
            isa<arith::ArithDialect, math::MathDialect, scf::SCFDialect>(op->getDialect()) ||
            isa<memref::DimOp, memref::CastOp, memref::SubViewOp>(op);
        return isKnown && !isa<scf::ParallelOp>(op) ? cloneAsIs(op) : fail(op);
      });
}

//===----------------------------------------------------------------------===//
// WarpKernels
//===----------------------------------------------------------------------===//

/// Warps of a block, so that the stacks of all fit into shared memory; 0 when not even one
/// does.
static int64_t warpsOfBlock(ArrayRef<Operation *> ops) {
  constexpr int64_t most = 4;
  int64_t bytes = 0;
  for (Operation *op : ops)
    op->walk([&](memref::AllocaOp stack) {
      MemRefType type = stack.getType();
      int64_t size = type.getNumElements() * llvm::divideCeil(type.getElementTypeBitWidth(), 8);
      bytes += llvm::alignTo(size, 16);
    });
  return bytes == 0 ? most : std::min(most, kStaticShared / bytes);
}

FailureOr<SmallVector<WarpKernels::Part>> WarpKernels::split(Operation *user, func::FuncOp kernel) {
  // What runs together: a parallel loop alone, all else between two of them.
  SmallVector<SmallVector<Operation *>> groups;
  bool isOpen = false;
  for (Operation &op : kernel.front().without_terminator()) {
    if (!hasWrites(&op))
      continue;
    bool isParallel = isa<scf::ParallelOp>(op);
    if (!isOpen || isParallel)
      groups.emplace_back();
    groups.back().push_back(&op);
    isOpen = !isParallel;
  }
  SmallVector<Part> result;
  for (auto [number, group] : llvm::enumerate(groups)) {
    llvm::SetVector<Operation *> needed;
    for (Operation *op : group)
      collectNeeded(op, needed);
    for (Operation *op : needed)
      if (hasWrites(op) && !llvm::is_contained(group, op))
        return emitUnsupported(user) << "has no GPU kernel: a part of it needs values of another";
    SmallVector<Operation *> ops(needed.begin(), needed.end());
    llvm::sort(ops, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
    auto loop = dyn_cast<scf::ParallelOp>(group.front());
    int64_t warps = warpsOfBlock(ops);
    if (warps == 0)
      return emitUnsupported(user) << "needs more shared memory for one token than a GPU has";
    if (!loop)
      warps = 1;
    std::string name =
        kernel.getName().str() + (groups.size() > 1 ? "_" + std::to_string(number) : "");
    bool ok = true;
    auto body = [&](GPUBuilder &b, Block::BlockArgListType arguments) {
      LaneCloner lanes(b, user, warps);
      lanes.mapping.map(kernel.getArguments().drop_back(), arguments);
      for (Operation *op : ops)
        lanes.noteReads(op);
      for (Operation *op : ops) {
        if (op != loop) {
          ok &= succeeded(lanes.clone(op));
          continue;
        }
        Value first = b.add(b.mul(b.block(), warps), lanes.warp);
        Value step = b.mul(b.numBlocks(), warps),
              last = lanes.mapping.lookup(loop.getUpperBound()[0]);
        auto tasks = scf::ForOp::create(b, b.getLoc(), first, last, step);
        lanes.mapping.map(loop.getInductionVars()[0], tasks.getInductionVar());
        OpBuilder::InsertionGuard guard(b);
        b.setInsertionPointToStart(tasks.getBody());
        for (Operation &inner : loop.getBody()->without_terminator())
          ok = ok && succeeded(lanes.clone(&inner));
      }
    };
    Part part;
    part.function = getOrCreateGPUKernel(module, name, kernel.getArgumentTypes().drop_back(),
                                         warps * kLanes, body);
    if (!ok)
      return failure();
    part.tasks = loop ? loop.getUpperBound()[0] : Value();
    part.warps = warps;
    result.push_back(part);
  }
  return result;
}

/// The blocks that have work, as the host knows them; a fixed number where that depends on
/// data of the device.
static Value emitNumBlocks(cpu::KernelBuilder &b, func::FuncOp kernel, ValueRange operands,
                           Value tasks, int64_t warps) {
  if (!tasks)
    return b.index(1);
  llvm::SetVector<Operation *> needed;
  if (Operation *source = tasks.getDefiningOp())
    collectNeeded(source, needed);
  for (Operation *op : needed)
    if (hasReads(op) || op->getNumRegions() > 0)
      return b.index(kFullGrid);
  SmallVector<Operation *> ops(needed.begin(), needed.end());
  llvm::sort(ops, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
  IRMapping mapping;
  mapping.map(kernel.getArguments().drop_back(), operands);
  for (Operation *op : ops)
    b.clone(*op, mapping);
  Value blocks = b.ceilDiv(mapping.lookup(tasks), warps);
  // Each block takes more tasks when there are more than run at once.
  blocks = b.min(blocks, b.index(16 * kFullGrid));
  return b.createOrFold<arith::MaxSIOp>(blocks, b.index(1));
}

FailureOr<SmallVector<gpu::LaunchFuncOp>> WarpKernels::launch(cpu::KernelBuilder &b,
                                                              Operation *user, func::FuncOp kernel,
                                                              ValueRange operands) {
  auto known = parts.find(kernel);
  if (known == parts.end()) {
    FailureOr<SmallVector<Part>> made = split(user, kernel);
    if (failed(made))
      return failure();
    known = parts.try_emplace(kernel, std::move(*made)).first;
  }
  SmallVector<gpu::LaunchFuncOp> launches;
  for (const Part &part : known->second)
    launches.push_back(cuda::launch(
        b, part.function, emitNumBlocks(b, kernel, operands, part.tasks, part.warps), operands));
  return launches;
}

void WarpKernels::eraseSources() {
  for (auto &[kernel, unused] : parts)
    kernel->erase();
  parts.clear();
}

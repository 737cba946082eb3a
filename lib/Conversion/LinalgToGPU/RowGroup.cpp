// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "RowGroup.h"
#include "../MoEToGPU/GPUBuilder.h"

#include "llvm/ADT/SmallPtrSet.h"

using namespace mlir;
using namespace mlir::moe;
using cuda::GPUBuilder;
using cuda::kLanes;

static constexpr int64_t kBlockSize = 256;
/// Longer rows are better cut than done by one block.
static constexpr int64_t kLongestRow = 16384;
/// Up to which a row has a warp, not a block.
static constexpr int64_t kWarpRow = 512;

//===----------------------------------------------------------------------===//
// Which operations
//===----------------------------------------------------------------------===//

/// Whether the first `count` dimensions are the same on both sides of a view: group i begins with
/// dimension i, and has no other dimension that counts.
static bool keepsRows(ArrayRef<ReassociationIndices> groups, ArrayRef<int64_t> split,
                      unsigned count) {
  if (groups.size() < count)
    return false;
  for (unsigned i = 0; i < count; ++i) {
    if (groups[i].front() != int64_t(i) || (i + 1 < count && groups[i].size() != 1))
      return false;
    for (int64_t dim : ArrayRef(groups[i]).drop_front())
      if (split[dim] != 1)
        return false;
  }
  return true;
}

/// Whether `memref` has the first `count` dimensions of the buffer that it is a view of.
static bool hasRowsOfRoot(Value memref, unsigned count) {
  while (Operation *op = memref.getDefiningOp()) {
    if (auto expand = dyn_cast<memref::ExpandShapeOp>(op)) {
      if (!keepsRows(expand.getReassociationIndices(), expand.getResultType().getShape(), count))
        return false;
      memref = expand.getSrc();
    } else if (auto collapse = dyn_cast<memref::CollapseShapeOp>(op)) {
      if (!keepsRows(collapse.getReassociationIndices(), collapse.getSrcType().getShape(), count))
        return false;
      memref = collapse.getSrc();
    } else {
      break;
    }
  }
  return memref == getRoot(memref);
}

/// Whether the first dimensions of the operand are the first loops.
static bool isRowByRow(linalg::GenericOp op, OpOperand &operand, unsigned count) {
  AffineMap map = op.getMatchingIndexingMap(&operand);
  if (map.getNumResults() < count || !hasRowsOfRoot(operand.get(), count))
    return false;
  for (unsigned i = 0; i < count; ++i)
    if (map.getResult(i) != getAffineDimExpr(i, op.getContext()))
      return false;
  return true;
}

/// The buffer; one for all arguments, which may be the same memory.
static void *keyOf(Value memref) {
  Value root = getRoot(memref);
  return isa<BlockArgument>(root) ? root.getParentBlock() : root.getAsOpaquePointer();
}

/// Steps within a row, as far as they are known.
static int64_t rowLength(linalg::GenericOp op, unsigned numRowLoops) {
  int64_t length = 1;
  for (int64_t size : ArrayRef(op.getStaticLoopRanges()).drop_front(numRowLoops))
    if (!ShapedType::isDynamic(size))
      length *= size;
  return length;
}

/// The body reads no memory but the operands.
static bool isClosed(linalg::GenericOp op) {
  return !op.getBody()
              ->walk([](memref::LoadOp) { return WalkResult::interrupt(); })
              .wasInterrupted();
}

/// The leading loops that a reduction has a result for, if the others have one point; 0 if there
/// is none such.
static unsigned countRowLoops(linalg::GenericOp op) {
  SmallVector<int64_t> ranges = op.getStaticLoopRanges();
  unsigned count = op.getNumParallelLoops();
  while (count > 0 && ranges[count - 1] == 1)
    --count;
  for (unsigned loop = 0; loop < op.getNumParallelLoops(); ++loop)
    if (op.getIteratorTypesArray()[loop] != utils::IteratorType::parallel)
      return 0;
  return count;
}

bool RowGroup::fits() const {
  llvm::SmallPtrSet<void *, 4> written;
  for (auto [i, op] : llvm::enumerate(ops)) {
    auto generic = cast<linalg::GenericOp>(op);
    // That it has the same rows is seen from what it shares with those before.
    bool isTied = i == 0;
    for (OpOperand &operand : op->getOpOperands())
      isTied |= isa<MemRefType>(operand.get().getType()) && written.contains(keyOf(operand.get()));
    for (Value init : generic.getDpsInits())
      written.insert(keyOf(init));
    if (!isTied)
      return false;
  }
  for (Operation *op : ops) {
    auto generic = cast<linalg::GenericOp>(op);
    for (OpOperand &operand : op->getOpOperands())
      if (isa<MemRefType>(operand.get().getType()) && written.contains(keyOf(operand.get())) &&
          !isRowByRow(generic, operand, numRowLoops))
        return false;
    if (generic.getNumParallelLoops() < numRowLoops ||
        rowLength(generic, numRowLoops) > kLongestRow)
      return false;
    bool isOneResult = generic.getNumReductionLoops() == 0 ||
                       (Reduction::match(generic) && countRowLoops(generic) == numRowLoops);
    if (!isOneResult)
      return false;
  }
  return true;
}

bool RowGroup::add(linalg::GenericOp op) {
  bool hasOwnPlaces = llvm::all_of(op.getDpsInitsMutable(), [&](OpOperand &init) {
    AffineMap map = op.getMatchingIndexingMap(&init);
    return map.isProjectedPermutation() && map.getNumResults() == op.getNumParallelLoops();
  });
  if (!op.hasPureBufferSemantics() || !hasOwnPlaces || !isClosed(op))
    return false;
  ops.push_back(op);
  if (numRowLoops == 0 && op.getNumReductionLoops() != 0)
    numRowLoops = countRowLoops(op);
  bool isOpen = numRowLoops == 0 && op.getNumReductionLoops() == 0;
  if (isOpen || (numRowLoops != 0 && fits()))
    return true;
  ops.pop_back();
  return false;
}

RowGroup RowGroup::collect(linalg::GenericOp first) {
  RowGroup group;
  for (Operation *op = first; op; op = op->getNextNode()) {
    auto generic = dyn_cast<linalg::GenericOp>(op);
    if (generic ? !group.add(generic) : !(isa<memref::AllocOp>(op) || isMemoryEffectFree(op)))
      break;
  }
  if (group.numRowLoops == 0 || group.ops.size() < 2 || !group.fits())
    return {};
  return group;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

int64_t RowGroup::teamSize() const {
  int64_t longest = 0;
  for (Operation *op : ops)
    longest = std::max(longest, rowLength(cast<linalg::GenericOp>(op), numRowLoops));
  return longest <= kWarpRow ? kLanes : kBlockSize;
}

void RowGroup::emit(KernelBody body, int64_t team) {
  GPUBuilder b(body.kernel, body.builder);
  KernelBody inner = {b, body.mapping, body.kernel};
  SmallVector<LoopNest, 0> nests;
  for (Operation *op : ops)
    nests.emplace_back(cast<linalg::GenericOp>(op), inner);
  auto rowLoops = llvm::to_vector(llvm::seq<unsigned>(0, numRowLoops));
  Value first = b.add(b.mul(b.block(), kBlockSize / team), b.div(b.thread(), team));
  Value lane = b.mod(b.thread(), team), step = b.mul(b.numBlocks(), kBlockSize / team);
  b.forLoop(first, nests[0].countPoints(rowLoops), step, [&](Value row) {
    for (LoopNest &nest : nests) {
      nest.setPoint(row, rowLoops);
      ArrayRef<unsigned> rest = ArrayRef(nest.parallel).drop_front(numRowLoops);
      if (std::optional<Reduction> reduction = Reduction::match(nest.op)) {
        nest.setPoint(b.index(0), rest);
        SmallVector<Value> results = reduction->emitPoint(nest, lane, team);
        b.ifThen(b.equal(lane, b.index(0)), [&] { nest.storeResults(results); });
      } else {
        b.forLoop(lane, nest.countPoints(rest), b.index(team), [&](Value point) {
          nest.setPoint(point, rest);
          nest.storeResults(nest.emitStep(nest.loadInits()));
        });
      }
      // The others of the row see what was written.
      team == kLanes ? b.syncWarp() : b.barrier();
    }
  });
}

LogicalResult RowGroup::outline(KernelOutliner &outliner) {
  int64_t team = teamSize();
  auto op = cast<linalg::GenericOp>(ops.back());
  auto countBlocks = [&](OpBuilder &builder) {
    cpu::KernelBuilder b(op.getLoc(), builder, {{kLanes}});
    auto loops = llvm::to_vector(llvm::seq<unsigned>(0, numRowLoops));
    return b.ceilDiv(countPoints(b, op, loops), kBlockSize / team);
  };
  return outliner.outlineBlocks(ops, "rows", kBlockSize, countBlocks,
                                [&](KernelBody body) { emit(body, team); });
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Small blocks of two products in one launch, for few tokens with all that is before and after.

#include "TileKernel.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

namespace {
/// Blocks draw tasks in order: tokens to be routed, tiles of the first product, tiles of the
/// second, blocks of the combine. Each kind of task waits only for kinds before it, so for tasks
/// that blocks have drawn which run, however many blocks the GPU runs at once.
class SmallBlocksKernel {
public:
  SmallBlocksKernel(GPUBuilder &b, const SmallBlocks &of, const ProductKernel &first,
                    const ProductKernel &second, ProductTarget target)
      : b(b), of(of), warps(first.tiling.threads / kLanes), target(target),
        first(first.make(b, of.first, first.tiling, /*kind=*/0)),
        second(second.make(b, of.second, second.tiling, /*kind=*/0)) {}

  void emit();

  /// Counters: tasks that were drawn, blocks that ended, tasks of the routing that are done, 1 when
  /// there are lists, tiles of the second product that are made, tiles of the first by their rows.
  enum { kDrawn, kEnded, kRouted, kListed, kMade, kTiles };

private:
  using Ordering = LLVM::AtomicOrdering;

  Value pointerTo(Value place);
  /// The counter before it is raised by 1.
  Value raise(Value place, Ordering ordering);
  /// In one thread of the block.
  void once(function_ref<void()> body) { b.ifThen(b.equal(b.thread(), b.index(0)), body); }
  /// A value of one thread (i32) in all.
  Value share(int64_t number, function_ref<Value()> value);
  /// The place that counts the tiles of a block of rows.
  Value placeOf(Value rowBlock) { return b.add(rowBlock, kTiles); }
  Value draw();
  /// Counts a task that the block has done.
  void countAt(Value place);
  /// Until `count` (i32) tasks are counted at `place`; then what they wrote can be read.
  void waitAt(Value place, Value count);
  /// Draws, and does the tasks of the routing among them, until it draws another; gives its number,
  /// from 0 on.
  Value route();
  void makeRouting(Value number);
  void makeFirst(Value number);
  void makeSecond(Value number);
  void makeCombine(Value number);
  void end();

  GPUBuilder &b;
  SmallBlocks of;
  int64_t warps; ///< of a block
  ProductTarget target;
  std::unique_ptr<TileKernel> first, second;
  Value shared; ///< i32 [2] in shared memory
};
} // namespace

Value SmallBlocksKernel::pointerTo(Value place) {
  Value base = memref::ExtractAlignedPointerAsIndexOp::create(b, b.getLoc(), of.counters);
  Value address =
      arith::IndexCastOp::create(b, b.getLoc(), b.getI64Type(), b.add(base, b.mul(place, 4)));
  Type pointer = LLVM::LLVMPointerType::get(b.getContext());
  return LLVM::IntToPtrOp::create(b, b.getLoc(), pointer, address);
}

Value SmallBlocksKernel::raise(Value place, Ordering ordering) {
  // LLVM's atomics for PTX order nothing, whatever they say.
  auto fence = [&](Ordering kind) {
    if (ordering == kind || ordering == Ordering::acq_rel)
      LLVM::FenceOp::create(b, b.getLoc(), kind, "device");
  };
  fence(Ordering::release);
  Value before = LLVM::AtomicRMWOp::create(b, b.getLoc(), LLVM::AtomicBinOp::add, pointerTo(place),
                                           b.i32(1), Ordering::monotonic, "device");
  fence(Ordering::acquire);
  return before;
}

Value SmallBlocksKernel::share(int64_t number, function_ref<Value()> value) {
  once([&] { b.store(value(), shared, b.index(number)); });
  b.barrier();
  return b.loadIndex(shared, b.index(number));
}

Value SmallBlocksKernel::draw() {
  return share(0, [&] { return raise(b.index(kDrawn), Ordering::monotonic); });
}

void SmallBlocksKernel::countAt(Value place) {
  b.barrier();
  once([&] { raise(place, Ordering::release); });
}

void SmallBlocksKernel::waitAt(Value place, Value count) {
  once([&] {
    Value pointer = pointerTo(place);
    auto loop = scf::WhileOp::create(b, b.getLoc(), TypeRange(), ValueRange());
    OpBuilder::InsertionGuard guard(b);
    b.createBlock(&loop.getBefore());
    Value known = LLVM::LoadOp::create(b, b.getLoc(), b.getI32Type(), pointer, /*alignment=*/4,
                                       /*isVolatile=*/false, /*isNonTemporal=*/false,
                                       /*isInvariant=*/false, /*isInvariantGroup=*/false,
                                       Ordering::acquire, "device");
    scf::ConditionOp::create(b, b.getLoc(), b.less(known, count), ValueRange());
    b.createBlock(&loop.getAfter());
    scf::YieldOp::create(b, b.getLoc());
  });
  b.barrier();
}

/// The block that ends the last task makes the lists.
void SmallBlocksKernel::makeRouting(Value number) {
  inlineBlock(b, of.routing.kernel, of.routing.arguments, number, of.routing.blocks);
  b.barrier();
  Value before = share(1, [&] { return raise(b.index(kRouted), Ordering::acq_rel); });
  b.ifThen(b.equal(before, b.sub(of.routing.blocks, b.index(1))), [&] {
    emitLists(b, of.lists, warps, /*isForFew=*/true, target);
    countAt(b.index(kListed));
  });
}

Value SmallBlocksKernel::route() {
  if (!of.routing.kernel)
    return draw();
  auto loop = scf::WhileOp::create(b, b.getLoc(), TypeRange(b.getIndexType()), ValueRange());
  {
    OpBuilder::InsertionGuard guard(b);
    b.createBlock(&loop.getBefore());
    Value number = draw();
    scf::ConditionOp::create(b, b.getLoc(), b.less(number, of.routing.blocks), number);
    Block *body = b.createBlock(&loop.getAfter(), {}, b.getIndexType(), b.getLoc());
    makeRouting(body->getArgument(0));
    scf::YieldOp::create(b, b.getLoc());
  }
  // Without tasks of a routing there are lists already.
  waitAt(b.index(kListed), b.toI32(b.min(of.routing.blocks, b.index(1))));
  return b.sub(loop.getResult(0), of.routing.blocks);
}

void SmallBlocksKernel::makeFirst(Value number) {
  first->makeTile(number);
  countAt(placeOf(b.div(number, first->columnTiles())));
}

void SmallBlocksKernel::makeSecond(Value number) {
  waitAt(placeOf(b.div(number, second->columnTiles())), b.i32(first->columnTiles()));
  second->makeTile(number);
  if (of.combine.kernel)
    countAt(b.index(kMade));
}

void SmallBlocksKernel::makeCombine(Value number) {
  waitAt(b.index(kMade), b.toI32(second->numTiles()));
  inlineBlock(b, of.combine.kernel, of.combine.arguments, number, of.combine.blocks);
}

/// The last block leaves the counters as it found them, for the next launch.
void SmallBlocksKernel::end() {
  once([&] {
    Value before = b.toIndex(raise(b.index(kEnded), Ordering::acq_rel));
    b.ifThen(b.equal(before, b.sub(b.numBlocks(), b.index(1))), [&] {
      b.forLoop(placeOf(first->numRowBlocks()),
                [&](Value place) { b.store(b.i32(0), of.counters, place); });
    });
  });
}

void SmallBlocksKernel::emit() {
  first->prepare();
  // A block makes one tile after the other.
  b.reuseShared();
  second->prepare();
  b.endReuse();
  shared = b.shared(2, b.getI32Type());
  Value start = route();
  Value numFirst = first->numTiles(), numBoth = b.add(numFirst, second->numTiles());
  Value total = of.combine.kernel ? b.add(numBoth, of.combine.blocks) : numBoth;
  auto loop = scf::WhileOp::create(b, b.getLoc(), TypeRange(b.getIndexType()), start);
  {
    OpBuilder::InsertionGuard guard(b);
    Block *head = b.createBlock(&loop.getBefore(), {}, b.getIndexType(), b.getLoc());
    Value number = head->getArgument(0);
    scf::ConditionOp::create(b, b.getLoc(), b.less(number, total), number);
    Block *body = b.createBlock(&loop.getAfter(), {}, b.getIndexType(), b.getLoc());
    Value task = body->getArgument(0);
    b.ifThen(b.less(task, numFirst), [&] { makeFirst(task); });
    Value isSecond = b.both(b.less(b.sub(numFirst, b.index(1)), task), b.less(task, numBoth));
    b.ifThen(isSecond, [&] { makeSecond(b.sub(task, numFirst)); });
    if (of.combine.kernel) {
      Value isCombine = b.less(b.sub(numBoth, b.index(1)), task);
      b.ifThen(isCombine, [&] { makeCombine(b.sub(task, numBoth)); });
    }
    Value next = draw();
    if (of.routing.kernel)
      next = b.sub(next, of.routing.blocks);
    scf::YieldOp::create(b, b.getLoc(), next);
  }
  end();
}

void mlir::moe::cuda::emitSmallBlocks(GPUBuilder &b, const SmallBlocks &of,
                                      const ProductKernel &first, const ProductKernel &second,
                                      ProductTarget target) {
  SmallBlocksKernel(b, of, first, second, target).emit();
}

/// An expert has one small block, or several when there are few tokens.
int64_t mlir::moe::cuda::numCounters(const ListsOf &lists, ProductTarget target) {
  return SmallBlocksKernel::kTiles + std::max(lists.experts, target.blockRows(0) * lists.k());
}

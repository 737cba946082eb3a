// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Rows by expert.

#include "Kernels.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

/// Numbers of an expert in shared memory, beside its counts in each warp.
static constexpr int64_t kPerExpert = 4;

/// A power of two, at most 32; 0 when there is no room for a single one.
static int64_t warpsFor(int64_t experts) {
  int64_t words = kStaticShared / 4 / experts - kPerExpert;
  return words < 1 ? 0 : std::min<int64_t>(32, llvm::bit_floor(uint64_t(words)));
}

int64_t mlir::moe::cuda::mostListedExperts() { return kStaticShared / 4 / (kPerExpert + 1); }

namespace {
/// Warps take consecutive entries of the routing each, so that the order of the rows is that of
/// the warps, then that of the entries.
class ListsKernel {
public:
  ListsKernel(GPUBuilder &b, const ListsOf &of, int64_t warps, ProductTarget target)
      : b(b), small(target.blockRows(0)), chosen(of.chosen), lists(of.lists), experts(of.experts),
        k(of.k()), warps(warps) {
    Value isFew = b.less(b.dim(chosen, 0), b.index(small + 1));
    perBlock = b.select(isFew, b.i32(small), b.i32(target.blockRows(1)));
    Type i32 = b.getI32Type();
    counts = b.shared({warps, experts}, i32);
    totals = b.shared(experts, i32);
    firstRow = b.shared(experts, i32);
    firstBlock = b.shared(experts, i32);
    firstLarge = b.shared(experts, i32);
    lane = b.toI32(b.mod(b.thread(), kLanes));
    warp = b.div(b.thread(), kLanes);
  }

  void emit(bool isForFew);

private:
  /// `body(i)` for i < experts, in all threads.
  void forExperts(function_ref<void(Value)> body) {
    b.forLoop(b.thread(), b.index(experts), b.index(warps * kLanes), body);
  }
  void forEntries(function_ref<void(Value, Value, Value, Value)> body);
  void clear();
  void count();
  void sumWarps();
  void scanExperts();
  void makeBlocks(int64_t threads);
  void placeRows();
  /// Blocks of an expert, and those of them that are large.
  std::pair<Value, Value> blocksOf(Value rows);
  /// The sum over this lane and those before it.
  Value scan(Value value);
  Value atLane(int64_t n) { return b.compare(arith::CmpIPredicate::eq, lane, b.i32(n)); }

  GPUBuilder &b;
  int64_t small; ///< rows of a small block
  Value chosen;
  Lists lists;
  int64_t experts, k, warps;
  Value perBlock; ///< i32: rows that blocks are cut to
  Value counts, totals, firstRow, firstBlock, firstLarge, lane, warp;
};
} // namespace

/// body(entry, expert, lanes with the same expert, whether this lane is their first), 32 entries
/// at a time; an expert of -1 is none.
void ListsKernel::forEntries(function_ref<void(Value, Value, Value, Value)> body) {
  Value entries = b.mul(b.dim(chosen, 0), k);
  Value perWarp = b.mul(b.ceilDiv(entries, warps * kLanes), kLanes);
  Value first = b.mul(warp, perWarp), last = b.min(b.add(first, perWarp), entries);
  b.forLoop(first, last, b.index(kLanes), [&](Value start) {
    Value entry = b.add(start, b.mod(b.thread(), kLanes));
    Value expert = b.branch(
        b.less(entry, last),
        [&] {
          return b.load(chosen, {b.div(entry, k), b.mod(entry, k)});
        },
        [&] { return b.i32(-1); });
    Value same = NVVM::MatchSyncOp::create(b, b.getLoc(), b.getI32Type(), b.i32(-1), expert,
                                           NVVM::MatchSyncKind::any);
    Value isFirst = b.equal(math::CountTrailingZerosOp::create(b, b.getLoc(), same), lane);
    body(entry, expert, same, b.both(isFirst, b.isValid(expert)));
  });
}

void ListsKernel::clear() {
  forExperts([&](Value e) {
    b.forLoop(b.index(warps), [&](Value w) { b.store(b.i32(0), counts, {w, e}); });
  });
}

void ListsKernel::count() {
  forEntries([&](Value, Value expert, Value same, Value isFirst) {
    b.ifThen(isFirst, [&] {
      SmallVector<Value> at = {warp, b.toIndex(expert)};
      Value number = math::CtPopOp::create(b, b.getLoc(), same);
      b.store(b.add(b.load(counts, at), number), counts, at);
    });
    b.syncWarp();
  });
}

/// Counts of the warps become those of the warps before them.
void ListsKernel::sumWarps() {
  forExperts([&](Value e) {
    Value total = b.fold(b.index(warps), b.i32(0), [&](Value w, Value sum) {
      Value count = b.load(counts, {w, e});
      b.store(sum, counts, {w, e});
      return b.add(sum, count);
    });
    b.store(total, totals, e);
  });
}

std::pair<Value, Value> ListsKernel::blocksOf(Value rows) {
  Value before = b.sub(perBlock, b.i32(1));
  Value blocks = arith::DivUIOp::create(b, b.getLoc(), b.add(rows, before), perBlock);
  Value rest = arith::RemUIOp::create(b, b.getLoc(), rows, perBlock);
  Value hasSmall = b.both(b.less(b.i32(0), rest), b.less(rest, b.i32(small + 1)));
  Value numLarge = b.select(hasSmall, b.sub(blocks, b.i32(1)), blocks);
  Value isFew = b.equal(perBlock, b.i32(small));
  return {blocks, b.select(isFew, b.i32(0), numLarge)};
}

Value ListsKernel::scan(Value value) {
  for (int64_t distance = 1; distance < kLanes; distance *= 2) {
    Value before = b.shuffleUp(value, distance);
    value = b.select(b.less(lane, b.i32(distance)), value, b.add(value, before));
  }
  return value;
}

/// Where each expert's rows and blocks begin. The first warp alone.
void ListsKernel::scanExperts() {
  Value zero = b.i32(0);
  SmallVector<Value> ends = b.forLoop(
      b.index(0), b.index(llvm::alignTo(experts, kLanes)), b.index(kLanes), {zero, zero, zero},
      [&](Value start, ValueRange before) -> SmallVector<Value> {
        Value e = b.add(start, b.mod(b.thread(), kLanes)), exists = b.less(e, b.index(experts));
        Value rows = b.branch(
            exists, [&] { return b.load(totals, e); }, [&] { return zero; });
        auto [blocks, numLarge] = blocksOf(rows);
        SmallVector<Value> next;
        Value memories[] = {firstRow, firstBlock, firstLarge}, sizes[] = {rows, blocks, numLarge};
        for (auto [memory, size, sum] : llvm::zip(memories, sizes, before)) {
          Value end = b.add(sum, scan(size));
          b.ifThen(exists, [&, end = end, size = size, memory = memory] {
            b.store(b.sub(end, size), memory, e);
          });
          next.push_back(b.shuffleFrom(end, b.i32(kLanes - 1)));
        }
        return next;
      });
  b.ifThen(atLane(0), [&] {
    Value values[] = {zero, ends[1], b.sub(ends[1], ends[2]), ends[2]};
    for (auto [i, value] : llvm::enumerate(values))
      b.store(value, lists.counts, b.index(i));
  });
}

/// A warp for each expert; a thread where an expert has hardly more than one block.
void ListsKernel::makeBlocks(int64_t threads) {
  Value first = b.div(b.thread(), threads), inGroup = b.mod(b.thread(), threads);
  b.forLoop(first, b.index(experts), b.index(warps * kLanes / threads), [&](Value e) {
    Value rows = b.load(totals, e), row = b.load(firstRow, e);
    Value block = b.load(firstBlock, e), firstOfLarge = b.load(firstLarge, e);
    std::pair<Value, Value> sizes = blocksOf(rows);
    Value blocks = sizes.first, numLarge = sizes.second;
    b.ifThen(b.equal(inGroup, b.index(0)), [&] {
      b.store(b.i32(0), lists.cursor, {b.index(0), e});
      b.store(row, lists.cursor, {b.index(1), e});
    });
    b.forLoop(inGroup, b.toIndex(blocks), b.index(threads), [&](Value i) {
      Value number = b.toI32(i), offset = b.mul(number, perBlock);
      Value first = b.add(row, offset), size = b.min(b.sub(rows, offset), perBlock);
      Value at = b.add(block, number), fields[] = {first, first, size, b.toI32(e)};
      for (auto [field, value] : llvm::enumerate(fields))
        b.store(value, lists.blocks, {b.toIndex(at), b.index(field)});
      // Large ones come first in an expert, and small ones are the rest of all blocks.
      Value isLarge = b.less(number, numLarge), smallBefore = b.sub(block, firstOfLarge);
      Value tile = b.select(isLarge, b.add(firstOfLarge, number), smallBefore);
      Value kind = b.select(isLarge, b.index(1), b.index(0));
      b.store(at, lists.tiles, {kind, b.toIndex(tile)});
    });
  });
}

void ListsKernel::placeRows() {
  Value below = b.sub(arith::ShLIOp::create(b, b.getLoc(), b.i32(1), lane), b.i32(1));
  forEntries([&](Value entry, Value expert, Value same, Value isFirst) {
    b.ifThen(b.isValid(expert), [&] {
      Value e = b.toIndex(expert);
      Value rank = math::CtPopOp::create(b, b.getLoc(), b.both(same, below));
      Value row = b.add(b.add(b.load(firstRow, e), b.load(counts, {warp, e})), rank);
      b.store(b.toI32(b.div(entry, k)), lists.rowToken, b.toIndex(row));
      b.store(row, lists.position, {b.div(entry, k), b.mod(entry, k)});
    });
    b.syncWarp();
    b.ifThen(isFirst, [&] {
      SmallVector<Value> at = {warp, b.toIndex(expert)};
      Value number = math::CtPopOp::create(b, b.getLoc(), same);
      b.store(b.add(b.load(counts, at), number), counts, at);
    });
    b.syncWarp();
  });
}

void ListsKernel::emit(bool isForFew) {
  clear();
  b.barrier();
  count();
  b.barrier();
  sumWarps();
  b.barrier();
  b.ifThen(b.equal(warp, b.index(0)), [&] { scanExperts(); });
  b.barrier();
  makeBlocks(isForFew ? 1 : kLanes);
  placeRows();
}

//===----------------------------------------------------------------------===//
// Launching
//===----------------------------------------------------------------------===//

SmallVector<Value> mlir::moe::cuda::operandsOf(const ListsOf &of) {
  const Lists &lists = of.lists;
  return {of.chosen,      lists.blocks,   lists.tiles, lists.counts,
          lists.rowToken, lists.position, lists.cursor};
}

ListsOf mlir::moe::cuda::withArguments(ListsOf of, Block::BlockArgListType &arguments) {
  Lists &lists = of.lists;
  for (Value *value : {&of.chosen, &lists.blocks, &lists.tiles, &lists.counts, &lists.rowToken,
                       &lists.position, &lists.cursor})
    *value = arguments.consume_front();
  return of;
}

void mlir::moe::cuda::emitLists(GPUBuilder &b, const ListsOf &of, int64_t warps, bool isForFew,
                                ProductTarget target) {
  ListsKernel(b, of, warps, target).emit(isForFew);
}

gpu::LaunchFuncOp mlir::moe::cuda::launchLists(cpu::KernelBuilder &b, ModuleOp module,
                                               const ListsOf &of, ProductTarget target) {
  int64_t warps = warpsFor(of.experts);
  SmallVector<Value> operands = operandsOf(of);
  std::string name = ("moec_lists_" + Twine(of.experts) + "_" + Twine(of.k())).str();
  gpu::GPUFuncOp kernel = getOrCreateGPUKernel(
      module, name, ValueRange(operands).getTypes(), warps * kLanes,
      [&](GPUBuilder &b, Block::BlockArgListType arguments) {
        emitLists(b, withArguments(of, arguments), warps, /*isForFew=*/false, target);
      });
  return launch(b, kernel, b.index(1), operands);
}

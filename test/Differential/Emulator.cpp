// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The runtime of emulated kernels. For one thread of the CPU.

#include "Emulator.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <vector>

using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Fibers
//===----------------------------------------------------------------------===//

// Saves the registers that a function keeps on the stack, and changes the stack.
asm(R"(
  .text
  .type moec_switch_stack, @function
moec_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void moec_switch_stack(void **save, void *to);

namespace {

constexpr int64_t kLanes = 32, kStackBytes = 512 * 1024, kMostThreads = 1024;

/// What the lanes of a warp (or the threads of a warpgroup) do together.
enum class Collective { None, Sync, Shuffle, Redux, Match, MMA, WarpgroupMMA };

struct Copy {
  char *to;
  const char *from;
  int64_t bytes, existing;
};

struct Fiber {
  enum State { Ready, InBlock, InNamed, InWarp, OnMBarrier, Done };
  void *stack = nullptr; ///< lowest address
  void *pointer = nullptr;
  State state = Done;
  Collective collective = Collective::None;
  std::array<uint32_t, 6> operands;
  std::array<float, 4> sums;
  uint32_t mode, result;
  uint64_t descriptors[2]; ///< of matrices in shared memory
  float *warpgroupSums;
  const uint64_t *mbarrier; ///< that it waits on, for the end of a phase of
  uint32_t parity;
  std::vector<std::vector<Copy>> groups; ///< of copies that are not waited for
  std::vector<Copy> copies;              ///< since the last group
};

struct Launch {
  int64_t blocks = 0, threads = 0, sharedBytes = 0, number = 0;
  bool pending = false;
  void (*body)(void *, int64_t, int32_t) = nullptr;
  void *context = nullptr;
  int64_t block = 0;
};

Launch launch;
std::vector<Fiber> fibers(kMostThreads);
char *sharedMemory;
void *scheduler;
int64_t current;

Fiber &self() { return fibers[current]; }
void yieldTo() { moec_switch_stack(&self().pointer, scheduler); }

[[noreturn]] void stop(const llvm::Twine &message) {
  llvm::report_fatal_error("emulated kernel: " + message, /*gen_crash_diag=*/false);
}

void runFiber() {
  launch.body(launch.context, launch.block * launch.threads + current, 0);
  if (!self().copies.empty())
    stop("a thread ends with copies that are in no group");
  self().state = Fiber::Done;
  yieldTo();
  llvm_unreachable("a fiber that is done runs");
}

void start(Fiber &fiber) {
  if (!fiber.stack)
    fiber.stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  auto *top = reinterpret_cast<void **>(static_cast<char *>(fiber.stack) + kStackBytes);
  // As after a call, the stack is 8 bytes off a multiple of 16 when the function begins.
  *--top = nullptr;
  *--top = reinterpret_cast<void *>(&runFiber);
  for (int i = 0; i < 6; ++i)
    *--top = nullptr;
  fiber.pointer = top;
  fiber.state = Fiber::Ready;
  fiber.groups.clear();
  fiber.copies.clear();
}

/// Shared memory, aligned to its own size: descriptors have the low 18 bits of addresses.
constexpr int64_t kSharedWindow = 1 << 18;

float toFloat(uint16_t bits, bool isBF16) {
  if (isBF16)
    return llvm::bit_cast<float>(uint32_t(bits) << 16);
  return llvm::APFloat(llvm::APFloat::IEEEhalf(), llvm::APInt(16, bits)).convertToFloat();
}

/// m16n8k16 with the fragments of the PTX ISA.
void multiply(Fiber *lanes) {
  float a[16][16], b[16][8];
  bool isBF16 = lanes[0].mode;
  for (int lane = 0; lane < kLanes; ++lane) {
    int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 2; ++i) {
      auto half = [&](int operand) {
        return toFloat(lanes[lane].operands[operand] >> (16 * i), isBF16);
      };
      a[group][pair + i] = half(0);
      a[group + 8][pair + i] = half(1);
      a[group][pair + 8 + i] = half(2);
      a[group + 8][pair + 8 + i] = half(3);
      b[pair + i][group] = half(4);
      b[pair + 8 + i][group] = half(5);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) {
      int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k)
        lanes[lane].sums[i] += a[row][k] * b[k][column];
    }
}

/// Element (row, k) of a matrix in shared memory with the swizzle of 128 bytes.
float elementOf(uint64_t descriptor, int row, int k, bool isBF16) {
  if (descriptor >> 62 != 1)
    stop("a matrix descriptor without the swizzle of 128 bytes");
  uint64_t stride = (descriptor >> 32 & 0x3FFF) << 4;
  uint64_t address = ((descriptor & 0x3FFF) << 4) + row / 8 * stride + row % 8 * 128 + 2 * k;
  address ^= (address >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, sharedMemory + address, 2);
  return toFloat(bits, isBF16);
}

/// m64nNk16; `mode` is N, and 1 more for bf16.
void multiplyWarpgroup(Fiber *threads) {
  int columns = threads[0].mode & ~1;
  bool isBF16 = threads[0].mode & 1;
  std::vector<float> a(64 * 16), b(columns * 16);
  for (int k = 0; k < 16; ++k) {
    for (int row = 0; row < 64; ++row)
      a[row * 16 + k] = elementOf(threads[0].descriptors[0], row, k, isBF16);
    for (int column = 0; column < columns; ++column)
      b[column * 16 + k] = elementOf(threads[0].descriptors[1], column, k, isBF16);
  }
  for (int thread = 0; thread < 128; ++thread)
    for (int i = 0; i < columns / 2; ++i) {
      int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
      int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k)
        threads[thread].warpgroupSums[i] += a[row * 16 + k] * b[column * 16 + k];
    }
}

uint32_t shuffled(Fiber *lanes, int64_t lane) {
  int64_t offset = lanes[lane].operands[1], from = lane;
  switch (lanes[lane].mode) { // gpu::ShuffleMode
  case 0:
    from = lane ^ offset;
    break;
  case 1:
    from = lane + offset < kLanes ? lane + offset : lane;
    break;
  case 2:
    from = lane >= offset ? lane - offset : lane;
    break;
  case 3:
    from = offset;
    break;
  }
  if (from < 0 || from >= kLanes)
    stop("a shuffle from a lane that there is not");
  return lanes[from].operands[0];
}

uint32_t reduced(Fiber *lanes, uint32_t kind) {
  int32_t result = lanes[0].operands[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) {
    int32_t value = lanes[lane].operands[0];
    result = kind == 0   ? result + value
             : kind == 1 ? std::max(result, value)
                         : std::min(result, value);
  }
  return result;
}

uint32_t matching(Fiber *lanes, uint32_t value) {
  uint32_t mask = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    mask |= uint32_t(lanes[lane].operands[0] == value) << lane;
  return mask;
}

void complete(Fiber *lanes, int64_t count) {
  Collective kind = lanes[0].collective;
  for (int64_t lane = 0; lane < count; ++lane) {
    Fiber &fiber = lanes[lane];
    if (fiber.collective != kind || fiber.mode != lanes[0].mode)
      stop("lanes of a warp wait at different places");
    if (kind == Collective::Shuffle)
      fiber.result = shuffled(lanes, lane);
    if (kind == Collective::Redux)
      fiber.result = reduced(lanes, fiber.mode);
    if (kind == Collective::Match)
      fiber.result = matching(lanes, fiber.operands[0]);
  }
  if (kind == Collective::MMA)
    multiply(lanes);
  if (kind == Collective::WarpgroupMMA)
    multiplyWarpgroup(lanes);
  for (int64_t lane = 0; lane < count; ++lane)
    lanes[lane].state = Fiber::Ready;
}

/// Waits for the other lanes of the warp (or threads of the warpgroup); all must take part.
void together(Collective kind, uint32_t mode, int64_t count = kLanes) {
  Fiber &fiber = self();
  fiber.collective = kind;
  fiber.mode = mode;
  fiber.state = Fiber::InWarp;
  Fiber *lanes = &fibers[current / count * count];
  bool all = std::all_of(lanes, lanes + count,
                         [](const Fiber &lane) { return lane.state == Fiber::InWarp; });
  if (all)
    complete(lanes, count);
  yieldTo();
}

bool releaseBlock() {
  bool any = false;
  for (int64_t i = 0; i < launch.threads; ++i) {
    if (fibers[i].state != Fiber::InBlock && fibers[i].state != Fiber::Done)
      return false;
    any |= fibers[i].state == Fiber::InBlock;
  }
  for (int64_t i = 0; i < launch.threads; ++i)
    if (fibers[i].state == Fiber::InBlock)
      fibers[i].state = Fiber::Ready;
    else if (any)
      stop("a thread ended while others wait for it");
  return any;
}

/// An mbarrier is its number of phases so far, arrivals of a phase, and arrivals that it
/// waits for.
uint64_t makeMBarrier(uint64_t phases, uint64_t arrivals, uint64_t pending) {
  return phases << 32 | arrivals << 16 | pending;
}
bool isPhaseOver(uint64_t mbarrier, uint32_t parity) { return (mbarrier >> 32 & 1) != parity; }

void runBlock() {
  // What a block leaves must not help the next one.
  std::memset(sharedMemory, 0xFF, launch.sharedBytes);
  for (int64_t i = 0; i < launch.threads; ++i)
    start(fibers[i]);
  bool falls = launch.number % 2;
  do {
    bool ran = true;
    while (ran) {
      ran = false;
      for (int64_t i = 0; i < launch.threads; ++i) {
        current = falls ? launch.threads - 1 - i : i;
        if (self().state == Fiber::OnMBarrier && isPhaseOver(*self().mbarrier, self().parity))
          self().state = Fiber::Ready;
        if (self().state != Fiber::Ready)
          continue;
        ran = true;
        moec_switch_stack(&scheduler, self().pointer);
      }
    }
  } while (releaseBlock());
  for (int64_t i = 0; i < launch.threads; ++i)
    if (fibers[i].state != Fiber::Done)
      stop("lanes wait for others of their warp that never come");
}

//===----------------------------------------------------------------------===//
// What kernels call
//===----------------------------------------------------------------------===//

void beginLaunch(int64_t blocks, int64_t threads, int64_t sharedBytes) {
  if (sharedBytes > 227 * 1024)
    stop("a launch with " + llvm::Twine(sharedBytes) + " bytes of shared memory");
  if (blocks < 1 || threads < 1 || threads > kMostThreads || threads % kLanes)
    stop("a launch of " + llvm::Twine(blocks) + " blocks of " + llvm::Twine(threads) + " threads");
  // Kernels take what is left of the work in turn: a few blocks do.
  launch.blocks = std::min<int64_t>(blocks, 3);
  launch.threads = threads;
  launch.sharedBytes = sharedBytes;
  launch.pending = true;
}
int64_t thread() { return current; }
int64_t block() { return launch.block; }
int64_t numBlocks() { return launch.blocks; }
int64_t numThreads() { return launch.threads; }
void *shared(int64_t offset) { return sharedMemory + offset; }
void barrier() {
  self().state = Fiber::InBlock;
  yieldTo();
}
/// For `count` threads, whole warps.
void namedBarrier(uint32_t number, uint32_t count) {
  self().mode = number;
  self().state = Fiber::InNamed;
  auto waits = [&](Fiber &fiber) { return fiber.state == Fiber::InNamed && fiber.mode == number; };
  auto end = fibers.begin() + launch.threads;
  if (std::count_if(fibers.begin(), end, waits) == count)
    for (auto fiber = fibers.begin(); fiber != end; ++fiber)
      if (waits(*fiber))
        fiber->state = Fiber::Ready;
  yieldTo();
}
void initMBarrier(uint64_t *mbarrier, uint32_t count) { *mbarrier = makeMBarrier(0, count, count); }
void arriveAtMBarrier(uint64_t *mbarrier) {
  uint64_t phases = *mbarrier >> 32, arrivals = *mbarrier >> 16 & 0xFFFF,
           pending = *mbarrier & 0xFFFF;
  if (pending == 0 || pending > arrivals)
    stop("an mbarrier that was not made");
  *mbarrier = pending == 1 ? makeMBarrier(phases + 1, arrivals, arrivals)
                           : makeMBarrier(phases, arrivals, pending - 1);
}
void waitForMBarrier(const uint64_t *mbarrier, uint32_t parity) {
  if (isPhaseOver(*mbarrier, parity))
    return;
  self().mbarrier = mbarrier;
  self().parity = parity;
  self().state = Fiber::OnMBarrier;
  yieldTo();
}
/// `sums` are read and written.
void multiplyAsync(uint32_t columns, uint32_t isBF16, uint64_t a, uint64_t b, float *sums) {
  self().descriptors[0] = a;
  self().descriptors[1] = b;
  self().warpgroupSums = sums;
  together(Collective::WarpgroupMMA, columns | isBF16, /*count=*/128);
}
void syncWarp() { together(Collective::Sync, 0); }
uint32_t shuffle(uint32_t value, uint32_t offset, uint32_t mode) {
  self().operands[0] = value;
  self().operands[1] = offset;
  together(Collective::Shuffle, mode);
  return self().result;
}
uint32_t redux(uint32_t value, uint32_t kind) {
  self().operands[0] = value;
  together(Collective::Redux, kind);
  return self().result;
}
uint32_t match(uint32_t value) {
  self().operands[0] = value;
  together(Collective::Match, 0);
  return self().result;
}
/// `sums` are read and written.
void mma(uint32_t isBF16, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
         uint32_t b1, float *sums) {
  self().operands = {a0, a1, a2, a3, b0, b1};
  std::copy_n(sums, 4, self().sums.begin());
  together(Collective::MMA, isBF16);
  std::copy_n(self().sums.begin(), 4, sums);
}
void copyAsync(int64_t to, int64_t from, int64_t bytes, int64_t existing) {
  if (to % bytes || (existing && from % bytes))
    stop("an asynchronous copy that is not aligned");
  self().copies.push_back(
      {reinterpret_cast<char *>(to), reinterpret_cast<const char *>(from), bytes, existing});
}
void commitCopies() {
  self().groups.push_back(std::move(self().copies));
  self().copies.clear();
}
void waitForCopies(int64_t left) {
  auto &groups = self().groups;
  while (int64_t(groups.size()) > left) {
    for (const Copy &copy : groups.front()) {
      std::memset(copy.to, 0, copy.bytes);
      std::memcpy(copy.to, copy.from, copy.existing);
    }
    groups.erase(groups.begin());
  }
}

} // namespace

void mlir::moe::forEachEmulatorFunction(llvm::function_ref<void(llvm::StringRef, void *)> body) {
  auto add = [&](llvm::StringRef name, auto *function) {
    body(name, reinterpret_cast<void *>(function));
  };
  add("emulate_launch", beginLaunch);
  add("emulate_thread", thread);
  add("emulate_block", block);
  add("emulate_num_blocks", numBlocks);
  add("emulate_num_threads", numThreads);
  add("emulate_shared", shared);
  add("emulate_barrier", barrier);
  add("emulate_named_barrier", namedBarrier);
  add("emulate_mbarrier_init", initMBarrier);
  add("emulate_mbarrier_arrive", arriveAtMBarrier);
  add("emulate_mbarrier_wait", waitForMBarrier);
  add("emulate_wgmma", multiplyAsync);
  add("emulate_sync_warp", syncWarp);
  add("emulate_shuffle", shuffle);
  add("emulate_redux", redux);
  add("emulate_match", match);
  add("emulate_mma", mma);
  add("emulate_copy", copyAsync);
  add("emulate_commit", commitCopies);
  add("emulate_wait", waitForCopies);
}

bool mlir::moe::isEmulatedLaunch() { return launch.pending; }

void mlir::moe::runEmulatedLaunch(void (*body)(void *, int64_t, int32_t), void *context) {
  launch.pending = false;
  launch.body = body;
  launch.context = context;
  ++launch.number;
  if (!sharedMemory)
    sharedMemory = static_cast<char *>(std::aligned_alloc(kSharedWindow, kSharedWindow));
  for (launch.block = 0; launch.block < launch.blocks; ++launch.block)
    runBlock();
}

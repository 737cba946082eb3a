// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The runtime of emulated kernels. For one thread of the CPU.

#include "Emulator.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/FormatVariadic.h"

#include <array>
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

/// What the lanes of a warp do together.
enum class Collective { None, Sync, Shuffle, Redux, Match, MMA };

struct Copy {
  char *to;
  const char *from;
  int64_t bytes, existing;
};

struct Fiber {
  enum State { Ready, InBlock, InWarp, Done };
  void *stack = nullptr; ///< lowest address
  void *pointer = nullptr;
  State state = Done;
  Collective collective = Collective::None;
  std::array<uint32_t, 6> operands;
  std::array<float, 4> sums;
  uint32_t mode, result;
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
std::vector<char> sharedMemory;
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

void complete(Fiber *lanes) {
  Collective kind = lanes[0].collective;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
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
  for (int64_t lane = 0; lane < kLanes; ++lane)
    lanes[lane].state = Fiber::Ready;
}

/// Waits for the other lanes of the warp; all must take part.
void together(Collective kind, uint32_t mode) {
  Fiber &fiber = self();
  fiber.collective = kind;
  fiber.mode = mode;
  fiber.state = Fiber::InWarp;
  Fiber *lanes = &fibers[current / kLanes * kLanes];
  bool all = std::all_of(lanes, lanes + kLanes,
                         [](const Fiber &lane) { return lane.state == Fiber::InWarp; });
  if (all)
    complete(lanes);
  yieldTo();
}

bool releaseBlock() {
  bool any = false;
  for (int64_t i = 0; i < launch.threads; ++i) {
    if (fibers[i].state == Fiber::InWarp)
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

void runBlock() {
  // What a block leaves must not help the next one.
  std::memset(sharedMemory.data(), 0xFF, sharedMemory.size());
  for (int64_t i = 0; i < launch.threads; ++i)
    start(fibers[i]);
  bool falls = launch.number % 2;
  do {
    bool ran = true;
    while (ran) {
      ran = false;
      for (int64_t i = 0; i < launch.threads; ++i) {
        current = falls ? launch.threads - 1 - i : i;
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
void *shared(int64_t offset) {
  char *base = sharedMemory.data();
  return base + (-reinterpret_cast<uintptr_t>(base) & 127) + offset;
}
void barrier() {
  self().state = Fiber::InBlock;
  yieldTo();
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
  sharedMemory.resize(launch.sharedBytes + 128);
  for (launch.block = 0; launch.block < launch.blocks; ++launch.block)
    runBlock();
}

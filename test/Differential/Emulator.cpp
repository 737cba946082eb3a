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
#include <deque>
#include <sys/mman.h>
#include <tuple>
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

/// Of a tensor in memory, dimensions slowest first.
struct TensorMap {
  const char *base;
  int64_t elementBytes, rank;
  std::array<int64_t, 4> sizes, strides, box; ///< strides in bytes

  bool operator==(const TensorMap &other) const {
    return std::tie(base, elementBytes, rank, sizes, strides, box) ==
           std::tie(other.base, other.elementBytes, other.rank, other.sizes, other.strides,
                    other.box);
  }
};

/// A box of a tensor that goes to shared memory, where it is counted at an mbarrier.
struct BulkCopy {
  char *to;
  const TensorMap *map;
  uint64_t *mbarrier;
  std::array<int32_t, 4> at; ///< fastest dimension first
};

/// What a wgmma reads while it is under way, and how that was when it began.
struct Reading {
  uint64_t descriptor;
  int rows;
  std::vector<uint16_t> was;
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
  /// The same of products; the first thread of a warpgroup has them.
  std::vector<std::vector<Reading>> productGroups;
  std::vector<Reading> products;
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
int64_t current, numSwitches;

Fiber &self() { return fibers[current]; }
void yieldTo() { moec_switch_stack(&self().pointer, scheduler); }

[[noreturn]] void stop(const llvm::Twine &message) {
  llvm::report_fatal_error("emulated kernel: " + message, /*gen_crash_diag=*/false);
}

void runFiber() {
  launch.body(launch.context, launch.block * launch.threads + current, 0);
  if (!self().copies.empty())
    stop("a thread ends with copies that are in no group");
  if (!self().products.empty() || !self().productGroups.empty())
    stop("a thread ends with products that were not waited for");
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
  fiber.products.clear();
  fiber.productGroups.clear();
}

/// Shared memory, aligned to its own size: descriptors have the low 18 bits of addresses.
constexpr int64_t kSharedWindow = 1 << 18;

/// How registers of mma.sync have elements.
enum ElementKind : uint32_t { F16, BF16, TF32 };

float toFloat(uint16_t bits, bool isBF16) {
  if (isBF16)
    return llvm::bit_cast<float>(uint32_t(bits) << 16);
  return llvm::APFloat(llvm::APFloat::IEEEhalf(), llvm::APInt(16, bits)).convertToFloat();
}

/// m16n8k16, or m16n8k8 of tf32, with the fragments of the PTX ISA.
void multiply(Fiber *lanes) {
  float a[16][16], b[16][8];
  uint32_t kind = lanes[0].mode;
  // Elements of a register, and along K.
  int count = kind == TF32 ? 1 : 2, depth = 8 * count;
  for (int lane = 0; lane < kLanes; ++lane) {
    int group = lane / 4, low = lane % 4 * count, high = low + 4 * count;
    for (int i = 0; i < count; ++i) {
      auto element = [&](int operand) {
        uint32_t bits = lanes[lane].operands[operand];
        return kind == TF32 ? llvm::bit_cast<float>(bits & ~0x1FFFu)
                            : toFloat(bits >> (16 * i), kind == BF16);
      };
      a[group][low + i] = element(0);
      a[group + 8][low + i] = element(1);
      a[group][high + i] = element(2);
      a[group + 8][high + i] = element(3);
      b[low + i][group] = element(4);
      b[high + i][group] = element(5);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) {
      int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < depth; ++k)
        lanes[lane].sums[i] += a[row][k] * b[k][column];
    }
}

/// Element (row, k) of a matrix in shared memory with the swizzle of 128 bytes.
uint16_t bitsOf(uint64_t descriptor, int row, int k) {
  if (descriptor >> 62 != 1)
    stop("a matrix descriptor without the swizzle of 128 bytes");
  uint64_t stride = (descriptor >> 32 & 0x3FFF) << 4;
  uint64_t address = ((descriptor & 0x3FFF) << 4) + row / 8 * stride + row % 8 * 128 + 2 * k;
  address ^= (address >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, sharedMemory + address, 2);
  return bits;
}

/// A matrix of 16 columns.
std::vector<uint16_t> readMatrix(uint64_t descriptor, int rows) {
  std::vector<uint16_t> result(rows * 16);
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < 16; ++k)
      result[row * 16 + k] = bitsOf(descriptor, row, k);
  return result;
}

/// m64nNk16; `mode` is N, and 1 more for bf16.
void multiplyWarpgroup(Fiber *threads) {
  int columns = threads[0].mode & ~1;
  bool isBF16 = threads[0].mode & 1;
  std::vector<float> operands[2];
  for (int i = 0; i < 2; ++i) {
    Reading reading = {threads[0].descriptors[i], i == 0 ? 64 : columns, {}};
    reading.was = readMatrix(reading.descriptor, reading.rows);
    for (uint16_t bits : reading.was)
      operands[i].push_back(toFloat(bits, isBF16));
    threads[0].products.push_back(std::move(reading));
  }
  const std::vector<float> &a = operands[0], &b = operands[1];
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

/// An mbarrier: phases so far, bytes that are to come, arrivals of a phase, and those that it
/// waits for.
struct MBarrier {
  explicit MBarrier(uint64_t bits)
      : phases(bits >> 48), bytes(int32_t(bits >> 16) >> 8), arrivals(bits >> 12 & 0xFFF),
        pending(bits & 0xFFF) {}

  uint64_t bits() const {
    return phases << 48 | uint64_t(bytes & 0xFFFFFF) << 24 | arrivals << 12 | pending;
  }
  /// Ends the phase if nothing is to come.
  void finish() {
    if (pending > 0 || bytes != 0)
      return;
    phases = (phases + 1) & 0xFFFF;
    pending = arrivals;
  }

  uint64_t phases;
  int64_t bytes;
  uint64_t arrivals, pending;
};

bool isPhaseOver(uint64_t mbarrier, uint32_t parity) { return (mbarrier >> 48 & 1) != parity; }

std::vector<BulkCopy> bulkCopies; ///< that are under way

/// Element by element; what is outside of the tensor is zero.
void copyBox(const BulkCopy &copy) {
  const TensorMap &map = *copy.map;
  int64_t count = 1, last = map.rank - 1, rowBytes = map.box[last] * map.elementBytes;
  for (int64_t d = 0; d < map.rank; ++d)
    count *= map.box[d];
  if (rowBytes > 128 || reinterpret_cast<uintptr_t>(copy.to) % 128)
    stop("a box that the swizzle of 128 bytes does not take");
  for (int64_t i = 0; i < count; ++i) {
    const char *from = map.base;
    bool exists = true;
    for (int64_t d = last, rest = i; d >= 0; rest /= map.box[d--]) {
      int64_t at = copy.at[last - d] + rest % map.box[d];
      exists &= at >= 0 && at < map.sizes[d];
      from += at * map.strides[d];
    }
    uint64_t to = reinterpret_cast<uintptr_t>(copy.to) + i / map.box[last] * rowBytes +
                  i % map.box[last] * map.elementBytes;
    to ^= (to >> 7 & 7) << 4;
    if (exists)
      std::memcpy(reinterpret_cast<char *>(to), from, map.elementBytes);
    else
      std::memset(reinterpret_cast<char *>(to), 0, map.elementBytes);
  }
  MBarrier mbarrier(*copy.mbarrier);
  mbarrier.bytes -= count * map.elementBytes;
  mbarrier.finish();
  *copy.mbarrier = mbarrier.bits();
}

/// Makes the copies that are counted at an mbarrier.
void deliver(const uint64_t *mbarrier) {
  for (size_t i = 0; i < bulkCopies.size();) {
    if (bulkCopies[i].mbarrier != mbarrier) {
      ++i;
      continue;
    }
    copyBox(bulkCopies[i]);
    bulkCopies.erase(bulkCopies.begin() + i);
  }
}

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
        if (self().state == Fiber::OnMBarrier) {
          deliver(self().mbarrier);
          if (isPhaseOver(*self().mbarrier, self().parity))
            self().state = Fiber::Ready;
        }
        if (self().state != Fiber::Ready)
          continue;
        ran = true;
        ++numSwitches;
        moec_switch_stack(&scheduler, self().pointer);
      }
    }
  } while (releaseBlock());
  for (int64_t i = 0; i < launch.threads; ++i)
    if (fibers[i].state != Fiber::Done)
      stop("lanes wait for others of their warp that never come");
  if (!bulkCopies.empty())
    stop("a block ends before its copies have arrived");
}

//===----------------------------------------------------------------------===//
// What kernels call
//===----------------------------------------------------------------------===//

void beginLaunch(int64_t blocks, int64_t threads, int64_t sharedBytes) {
  if (sharedBytes > 227 * 1024)
    stop("a launch with " + llvm::Twine(sharedBytes) + " bytes of shared memory");
  if (blocks < 0 || threads < 1 || threads > kMostThreads || threads % kLanes)
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
/// What other blocks count. They run before or after this one, so a thread that looks a second time
/// at what it waits for would do so forever.
int32_t acquire(const int32_t *counter) {
  static std::pair<const int32_t *, int64_t> last;
  std::pair<const int32_t *, int64_t> now = {counter, numSwitches};
  if (now == last)
    stop("a block waits for what is not done before");
  last = now;
  return *counter;
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
void initMBarrier(uint64_t *mbarrier, uint32_t count) {
  *mbarrier = 0;
  MBarrier made(*mbarrier);
  made.arrivals = made.pending = count;
  *mbarrier = made.bits();
}
/// Also announces bytes that will be copied.
void arriveAndExpect(uint64_t *mbarrier, uint32_t bytes) {
  MBarrier state(*mbarrier);
  if (state.pending == 0 || state.pending > state.arrivals)
    stop("an mbarrier that was not made");
  state.bytes += bytes;
  --state.pending;
  state.finish();
  *mbarrier = state.bits();
}
void arriveAtMBarrier(uint64_t *mbarrier) { arriveAndExpect(mbarrier, 0); }
void waitForMBarrier(const uint64_t *mbarrier, uint32_t parity) {
  deliver(mbarrier);
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
void commitProducts() {
  self().productGroups.push_back(std::move(self().products));
  self().products.clear();
}
void waitForProducts(int64_t left) {
  auto &groups = self().productGroups;
  while (int64_t(groups.size()) > left) {
    for (const Reading &reading : groups.front())
      if (readMatrix(reading.descriptor, reading.rows) != reading.was)
        stop("shared memory is written while products read it");
    groups.erase(groups.begin());
  }
}
const TensorMap *makeTensorMap(int64_t base, int64_t elementBytes, int64_t rank, int64_t size0,
                               int64_t size1, int64_t size2, int64_t size3, int64_t stride0,
                               int64_t stride1, int64_t stride2, int64_t stride3, int64_t box0,
                               int64_t box1, int64_t box2, int64_t box3) {
  static std::deque<TensorMap> maps; // of all launches
  TensorMap map = {reinterpret_cast<const char *>(base),
                   elementBytes,
                   rank,
                   {size0, size1, size2, size3},
                   {stride0, stride1, stride2, stride3},
                   {box0, box1, box2, box3}};
  if (base % 16)
    stop("a tensor map of memory that is not aligned");
  for (int64_t d = 0; d < rank; ++d)
    if (map.box[d] > 256 || (d + 1 < rank && map.strides[d] % 16))
      stop("a tensor map that cannot be encoded");
  auto known = std::find(maps.begin(), maps.end(), map);
  return known != maps.end() ? &*known : &maps.emplace_back(map);
}
/// In one launch copies arrive at once, in the next one when they are waited for.
void copyBulk(char *to, const TensorMap *map, uint64_t *mbarrier, int32_t x, int32_t y, int32_t z,
              int32_t w) {
  bulkCopies.push_back({to, map, mbarrier, {x, y, z, w}});
  if (launch.number % 2)
    deliver(mbarrier);
}
/// To the nearest, ties away from zero.
uint32_t toTF32(float value) {
  uint32_t bits = llvm::bit_cast<uint32_t>(value);
  bool isFinite = (bits >> 23 & 0xFF) != 0xFF;
  return isFinite ? (bits + 0x1000) & ~0x1FFFu : bits;
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
void mma(uint32_t kind, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
         uint32_t b1, float *sums) {
  self().operands = {a0, a1, a2, a3, b0, b1};
  std::copy_n(sums, 4, self().sums.begin());
  together(Collective::MMA, kind);
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
  add("emulate_acquire", acquire);
  add("emulate_named_barrier", namedBarrier);
  add("emulate_mbarrier_init", initMBarrier);
  add("emulate_mbarrier_arrive", arriveAtMBarrier);
  add("emulate_mbarrier_wait", waitForMBarrier);
  add("emulate_mbarrier_expect", arriveAndExpect);
  add("emulate_tensor_map", makeTensorMap);
  add("emulate_bulk_copy", copyBulk);
  add("emulate_wgmma", multiplyAsync);
  add("emulate_wgmma_commit", commitProducts);
  add("emulate_wgmma_wait", waitForProducts);
  add("emulate_tf32", toTF32);
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

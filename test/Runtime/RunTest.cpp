// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Runs: results, shapes, layouts, memory, threads, profile.

#include "Fixture.h"
#include <cstdlib>
#include <thread>
#include <xmmintrin.h>

// The linker routes the runtime's calls through these.
static std::atomic<int> numSystemAllocations;
extern "C" {
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);

void *__wrap_calloc(size_t n, size_t size) {
  ++numSystemAllocations;
  return __real_calloc(n, size);
}
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size) {
  ++numSystemAllocations;
  return __real_posix_memalign(memory, alignment, size);
}
}

namespace {

class RunTest : public RuntimeTest {
protected:
  /// Runs main with T rows and compares.
  void checkMain(moec_context *context, int64_t rows) {
    Tensor<float> x({rows, 8}, 0.5f, 0.25f), b({rows}, 1, 3), y({rows, 8});
    Tensor<int64_t> count({});
    ASSERT_EQ(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_OK) << library->last_error();
    EXPECT_EQ(count.values[0], rows);
    for (int64_t i = 0; i < rows * 8; ++i)
      ASSERT_EQ(y.values[size_t(i)],
                expectMain(x.values[size_t(i)], b.values[size_t(i / 8)], i % 8))
          << i;
  }
};

TEST_F(RunTest, Computes) {
  moec_context *context = makeContext();
  for (int64_t rows : {1, 0, 5, 1000, 7})
    checkMain(context, rows);
}

TEST_F(RunTest, DataOfEmptyTensorsMayBeNull) {
  Tensor<float> x({0, 8}), b({0}), y({0, 8});
  x.dl.data = b.dl.data = y.dl.data = nullptr;
  Tensor<int64_t> count({}, 5);
  EXPECT_EQ(runMain(makeContext(), x.dl, b.dl, y.dl, count.dl), MOEC_OK);
  EXPECT_EQ(count.values[0], 0);
}

TEST_F(RunTest, FirstEntryIsTheDefault) {
  Tensor<float> x({1, 8}, 1), b({1}), y({1, 8});
  Tensor<int64_t> count({});
  const DLTensor *in[] = {&x.dl, &b.dl};
  DLTensor *out[] = {&y.dl, &count.dl};
  EXPECT_EQ(library->run(makeContext(), nullptr, in, 2, out, 2), MOEC_OK);
  EXPECT_EQ(count.values[0], 1);
}

TEST_F(RunTest, ByteOffset) {
  Tensor<float> x({3, 8}, 0, 1), b({2}, 0, 1), y({2, 8});
  Tensor<int64_t> count({});
  x.shape[0] = 2;
  x.dl.byte_offset = 8 * sizeof(float);
  ASSERT_EQ(runMain(makeContext(), x.dl, b.dl, y.dl, count.dl), MOEC_OK);
  EXPECT_EQ(y.values[1], expectMain(9, 0, 1));
}

/// x transposed, b reversed, y a column of a wider buffer.
TEST_F(RunTest, Strides) {
  moec_context *context = makeContext();
  const int64_t rows = 5;
  Tensor<float> x({8, rows}, 0, 1), b({rows}, 0, 1), y({rows, 20}, -7);
  Tensor<int64_t> count({});
  x.shape = {rows, 8};
  x.dl.shape = x.shape.data();
  x.setStrides({1, rows});
  b.setStrides({-1});
  b.dl.byte_offset = (rows - 1) * sizeof(float);
  y.shape[1] = 8;
  y.setStrides({20, 2});
  ASSERT_EQ(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_OK) << library->last_error();
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < 8; ++i)
      EXPECT_EQ(y.values[size_t(t * 20 + i * 2)],
                expectMain(x.values[size_t(i * rows + t)], b.values[size_t(rows - 1 - t)], i));
    // Elements between those of the view are left alone.
    EXPECT_EQ(y.values[size_t(t * 20 + 1)], -7);
    EXPECT_EQ(y.values[size_t(t * 20 + 19)], -7);
  }
}

/// One row for all, by a stride of zero; size-1 dimensions with any stride.
TEST_F(RunTest, BroadcastInput) {
  Tensor<float> x({1, 8}, 0, 1), b({1}, 3), y({4, 8});
  Tensor<int64_t> count({});
  x.shape[0] = b.shape[0] = 4;
  x.setStrides({0, 1});
  b.setStrides({0});
  ASSERT_EQ(runMain(makeContext(), x.dl, b.dl, y.dl, count.dl), MOEC_OK) << library->last_error();
  EXPECT_EQ(y.values[8 * 3 + 2], expectMain(2, 3, 2));
}

TEST_F(RunTest, MisalignedTensorsAreCopied) {
  Tensor<float> x({2, 8}, 0, 1), b({2}, 0, 1), y({2, 8}), room({2, 9});
  Tensor<int64_t> count({});
  memcpy(reinterpret_cast<char *>(room.values.data()) + 1, x.values.data(), 64);
  room.dl.shape = x.dl.shape;
  room.dl.byte_offset = 1;
  ASSERT_EQ(runMain(makeContext(), room.dl, b.dl, y.dl, count.dl), MOEC_OK);
  EXPECT_EQ(y.values[15], expectMain(15, 1, 7));
}

TEST_F(RunTest, StridesOfEveryElementSize) {
  Tensor<uint8_t> a({3, 5}, 0, 1), oa({5, 3});
  Tensor<uint16_t> b({3, 5}, 100, 7), ob({5, 3});
  Tensor<int64_t> c({3, 5}, -4, 3), oc({5, 3});
  for (auto *shape : {&oa.shape, &ob.shape, &oc.shape})
    *shape = {3, 5};
  oa.setStrides({1, 3});
  ob.setStrides({1, 3});
  oc.setStrides({1, 3});
  const DLTensor *in[] = {&a.dl, &b.dl, &c.dl};
  DLTensor *out[] = {&oa.dl, &ob.dl, &oc.dl};
  moec_context *context = makeContext();
  ASSERT_EQ(library->run(context, "copy", in, 3, out, 3), MOEC_OK) << library->last_error();
  for (size_t r = 0; r < 3; ++r)
    for (size_t col = 0; col < 5; ++col) {
      EXPECT_EQ(oa.values[col * 3 + r], a.values[r * 5 + col]);
      EXPECT_EQ(ob.values[col * 3 + r], b.values[r * 5 + col]);
      EXPECT_EQ(oc.values[col * 3 + r], c.values[r * 5 + col]);
    }
}

TEST_F(RunTest, OutputShapes) {
  moec_context *context = makeContext();
  Tensor<float> x({3, 8}), b({3});
  const DLTensor *in[] = {&x.dl, &b.dl};
  DLTensor y = {}, count = {};
  DLTensor *out[] = {&y, &count};
  ASSERT_EQ(library->output_shapes(context, "main", in, 2, out, 2), MOEC_OK);
  EXPECT_EQ(y.ndim, 2);
  EXPECT_EQ(y.shape[0], 3);
  EXPECT_EQ(y.shape[1], 8);
  EXPECT_EQ(y.strides, nullptr);
  EXPECT_EQ(y.dtype.bits, 32);
  EXPECT_EQ(count.ndim, 0);
  EXPECT_EQ(count.dtype.code, kDLInt);
  float values[24];
  int64_t number = 0;
  y.data = values;
  count.data = &number;
  EXPECT_EQ(library->run(context, "main", in, 2, out, 2), MOEC_OK);
  EXPECT_EQ(number, 3);
}

TEST_F(RunTest, ShapesThatDependOnValues) {
  moec_context *context = makeContext();
  Tensor<int64_t> n({}, 4);
  const DLTensor *in[] = {&n.dl};
  DLTensor y = {};
  DLTensor *out[] = {&y};
  ASSERT_EQ(library->output_shapes(context, "iota", in, 1, out, 1), MOEC_OK);
  EXPECT_EQ(y.shape[0], 4);
  int64_t values[4] = {};
  y.data = values;
  ASSERT_EQ(library->run(context, "iota", in, 1, out, 1), MOEC_OK);
  EXPECT_EQ(values[3], 3);
  n.values[0] = -2;
  EXPECT_TRUE(failsWith(library->output_shapes(context, "iota", in, 1, out, 1), MOEC_ERROR_RUN,
                        "iota: the values of the inputs give output 'y' a negative "
                        "dimension 0: -2"));
}

TEST_F(RunTest, WorkspaceSize) {
  moec_context *context = makeContext();
  Tensor<float> x({10, 8}), b({10});
  const DLTensor *in[] = {&x.dl, &b.dl};
  uint64_t bytes = 0;
  ASSERT_EQ(library->workspace_size(context, "main", in, 2, &bytes), MOEC_OK);
  EXPECT_EQ(bytes, 32u * unsigned(library->num_workers(context)) + 10);
}

struct CountingAllocator {
  std::atomic<int> calls{0};
  std::atomic<int64_t> bytes{0};

  static void *allocate(void *self, size_t bytes, size_t alignment) {
    auto *allocator = static_cast<CountingAllocator *>(self);
    ++allocator->calls;
    allocator->bytes += int64_t(bytes);
    void *memory = nullptr;
    return __real_posix_memalign(&memory, alignment, bytes) ? nullptr : memory;
  }
  static void deallocate(void *self, void *memory, size_t bytes) {
    static_cast<CountingAllocator *>(self)->bytes -= int64_t(bytes);
    free(memory);
  }
};

/// Strided tensors too: their copies are kept.
TEST_F(RunTest, AllocatesInTheFirstRunOnly) {
  CountingAllocator allocator;
  moec_context_options options = makeOptions();
  options.flags = MOEC_CONTEXT_PROFILE;
  options.allocate = CountingAllocator::allocate;
  options.deallocate = CountingAllocator::deallocate;
  options.allocator = &allocator;
  numSystemAllocations = 0;
  moec_context *context = makeContext(options);
  Tensor<float> x({9, 8}, 0, 1), b({9}), y({9, 16});
  Tensor<int64_t> count({});
  x.setStrides({8, 1});
  b.setStrides({0});
  y.shape[1] = 8;
  y.setStrides({16, 2});
  auto run = [&](int64_t rows) {
    x.shape[0] = b.shape[0] = y.shape[0] = rows;
    EXPECT_EQ(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_OK) << library->last_error();
  };
  run(8);
  int calls = allocator.calls;
  EXPECT_GT(calls, 3);
  for (int64_t rows : {8, 1, 0, 3, 8})
    run(rows);
  EXPECT_EQ(allocator.calls, calls);
  run(9);
  EXPECT_GT(allocator.calls, calls);
  // The hooks are used for everything.
  EXPECT_EQ(numSystemAllocations, 0);
  library->context_destroy(context);
  contexts.clear();
  EXPECT_EQ(allocator.bytes, 0);
}

TEST_F(RunTest, AllocatesInTheFirstRunOnlyWithoutHooks) {
  moec_context *context = makeContext();
  checkMain(context, 64);
  numSystemAllocations = 0;
  for (int64_t rows : {64, 3, 64})
    checkMain(context, rows);
  EXPECT_EQ(numSystemAllocations, 0);
}

/// Two temporaries are in use at one time, whether they are released or not.
TEST_F(RunTest, KeepsMemoryWhoseSizeDependsOnData) {
  CountingAllocator allocator;
  moec_context_options options = makeOptions();
  options.allocate = CountingAllocator::allocate;
  options.deallocate = CountingAllocator::deallocate;
  options.allocator = &allocator;
  numSystemAllocations = 0;
  moec_context *context = makeContext(options);
  auto run = [&](int64_t size) {
    Tensor<int64_t> n({}, size), y({size});
    const DLTensor *in[] = {&n.dl};
    DLTensor *out[] = {&y.dl};
    ASSERT_EQ(library->run(context, "iota", in, 1, out, 1), MOEC_OK) << library->last_error();
    for (int64_t i = 0; i < size; ++i)
      EXPECT_EQ(y.values[size_t(i)], i);
  };
  int before = allocator.calls;
  run(100);
  // And the list of them.
  EXPECT_EQ(allocator.calls, before + 3);
  for (int64_t size : {100, 1, 0, 50, 100})
    run(size);
  EXPECT_EQ(allocator.calls, before + 3);
  run(1000);
  EXPECT_EQ(allocator.calls, before + 5);
  EXPECT_EQ(numSystemAllocations, 0);
  library->context_destroy(context);
  contexts.clear();
  EXPECT_EQ(allocator.bytes, 0);
}

TEST_F(RunTest, ReportsMissingMemory) {
  static bool hasMemory;
  hasMemory = true;
  moec_context_options options = makeOptions();
  options.allocate = [](void *, size_t bytes, size_t alignment) -> void * {
    void *memory = nullptr;
    if (hasMemory && __real_posix_memalign(&memory, alignment, bytes) == 0)
      return memory;
    return nullptr;
  };
  options.deallocate = [](void *, void *memory, size_t) { free(memory); };
  moec_context *context = makeContext(options);
  hasMemory = false;
  Tensor<float> x({2, 8}), b({2}), y({2, 8});
  Tensor<int64_t> count({});
  EXPECT_TRUE(failsWith(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_ERROR_MEMORY,
                        "for the workspace"));
  x.setStrides({0, 1});
  EXPECT_TRUE(failsWith(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_ERROR_MEMORY,
                        "copies of the inputs"));
  Tensor<int64_t> n({}, 100), iota({100});
  const DLTensor *in[] = {&n.dl};
  DLTensor *out[] = {&iota.dl};
  EXPECT_TRUE(failsWith(
      library->run(context, "iota", in, 1, out, 1), MOEC_ERROR_MEMORY,
      "iota: cannot allocate 800 bytes for a tensor whose size depends on data"));
  hasMemory = true;
  EXPECT_EQ(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_OK);
  EXPECT_EQ(library->run(context, "iota", in, 1, out, 1), MOEC_OK);
}

TEST_F(RunTest, ThreadsWithTheirOwnContexts) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([this, i] {
      moec_context *context = nullptr;
      moec_context_options options = makeOptions();
      ASSERT_EQ(library->context_create(model, &options, &context), MOEC_OK);
      for (int64_t rows = 0; rows < 20; ++rows)
        checkMain(context, rows * (i + 1));
      library->context_destroy(context);
    });
  for (std::thread &thread : threads)
    thread.join();
}

TEST_F(RunTest, ErrorsBelongToTheirThread) {
  EXPECT_TRUE(failsWith(library->run(nullptr, nullptr, nullptr, 0, nullptr, 0), MOEC_ERROR_ARGUMENT,
                        "context is a null pointer"));
  std::string other = "unset";
  std::thread([&] { other = library->last_error(); }).join();
  EXPECT_EQ(other, "");
}

/// A hook that starts a second call while the first one runs.
struct SecondCall {
  const moec_library *library;
  moec_context *context;
  moec_status status;
  std::string message;
};

TEST_F(RunTest, RefusesTwoCallsAtOnce) {
  SecondCall call = {library, nullptr, MOEC_OK, ""};
  moec_context_options options = makeOptions();
  options.pool = &call;
  options.parallel_for = [](void *pool, int64_t n, moec_task_fn body, void *ctx) {
    auto *call = static_cast<SecondCall *>(pool);
    call->status = call->library->run(call->context, "main", nullptr, 0, nullptr, 0);
    call->message = call->library->last_error();
    for (int64_t i = 0; i < n; ++i)
      body(ctx, i, 0);
  };
  call.context = makeContext(options);
  checkMain(call.context, 3);
  EXPECT_EQ(call.status, MOEC_ERROR_ARGUMENT);
  EXPECT_NE(call.message.find("in use"), std::string::npos);
}

TEST_F(RunTest, HookWins) {
  static std::atomic<int> loops;
  loops = 0;
  moec_context_options options = makeOptions(3);
  options.pool = reinterpret_cast<void *>(intptr_t(3));
  options.parallel_for = [](void *pool, int64_t n, moec_task_fn body, void *ctx) {
    ++loops;
    runOnThreads(pool, n, body, ctx);
  };
  moec_context *context = makeContext(options);
  checkMain(context, 100);
  EXPECT_EQ(loops, 1);
}

TEST_F(RunTest, NoticesBrokenHooks) {
  Tensor<float> x({4, 8}), b({4}), y({4, 8});
  Tensor<int64_t> count({});
  moec_context_options options = makeOptions(2);
  options.parallel_for = [](void *, int64_t n, moec_task_fn body, void *ctx) {
    for (int64_t i = 0; i < n; ++i)
      body(ctx, i, int32_t(i));
  };
  EXPECT_TRUE(failsWith(runMain(makeContext(options), x.dl, b.dl, y.dl, count.dl),
                        MOEC_ERROR_PARALLEL, "out of range"));
  options.parallel_for = [](void *, int64_t n, moec_task_fn body, void *ctx) {
    for (int64_t i = 1; i < n; ++i)
      body(ctx, i, 0);
  };
  EXPECT_TRUE(failsWith(runMain(makeContext(options), x.dl, b.dl, y.dl, count.dl),
                        MOEC_ERROR_PARALLEL, "without having run each task once"));
}

TEST_F(RunTest, TasksHaveTheDefaultFloatState) {
  const int64_t n = 50;
  moec_context *context = makeContext();
  Tensor<float> x({n});
  Tensor<int64_t> state({n}, -1), worker({n}, -1);
  const DLTensor *in[] = {&x.dl};
  DLTensor *out[] = {&state.dl, &worker.dl};
  unsigned before = _mm_getcsr();
  // Rounding down, denormals flushed.
  unsigned odd = 0x1f80u | 0x2000u | 0x8040u;
  _mm_setcsr(odd);
  moec_status status = library->run(context, "tasks", in, 1, out, 2);
  unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  ASSERT_EQ(status, MOEC_OK) << library->last_error();
  EXPECT_EQ(after & 0xffc0u, odd & 0xffc0u);
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_EQ(state.values[size_t(i)], 0x1f80);
    EXPECT_GE(worker.values[size_t(i)], 0);
    EXPECT_LT(worker.values[size_t(i)], library->num_workers(context));
  }
}

TEST_F(RunTest, FailedChecksAreReported) {
  moec_context *context = makeContext();
  Tensor<float> x({3, 8}), b({3}, -2, 1), y({3, 8});
  Tensor<int64_t> count({});
  EXPECT_TRUE(
      failsWith(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_ERROR_RUN, "main: b is -1"));
  checkMain(context, 3);
}

TEST_F(RunTest, Profile) {
  moec_context_options options = makeOptions();
  options.flags = MOEC_CONTEXT_PROFILE;
  moec_context *context = makeContext(options);
  EXPECT_EQ(library->profile(context, nullptr, 0), 0);
  for (int i = 0; i < 4; ++i)
    checkMain(context, 1000);
  moec_region_time times[4] = {};
  ASSERT_EQ(library->profile(context, times, 4), 3);
  EXPECT_EQ(times[0].count, 4u);
  EXPECT_GT(times[0].nanoseconds, 0u);
  EXPECT_EQ(times[1].count, 0u);
  EXPECT_EQ(times[1].nanoseconds, 0u);
  EXPECT_EQ(times[2].count, 4u);
  library->profile_reset(context);
  EXPECT_EQ(library->profile(context, times, 1), 3);
  EXPECT_EQ(times[0].count, 0u);
  // Without the flag nothing is measured.
  moec_context *plain = makeContext();
  checkMain(plain, 3);
  EXPECT_EQ(library->profile(plain, nullptr, 0), 0);
}

} // namespace

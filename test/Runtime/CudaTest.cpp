// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Models for CUDA over a driver that records its calls.

#include "Driver/FakeDriver.h"
#include "Fixture.h"
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <functional>

// The linker routes the runtime's calls through this.
static bool hasDriver = true;
extern "C" {
void *__real_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags);

void *__wrap_dlopen(const char *name, int flags) {
  return __real_dlopen(hasDriver ? name : "libabsent.so.1", flags);
}
}

namespace {

constexpr size_t weightsBytes = (40u << 20) + 32;

/// 40 MiB and a bit: three chunks.
std::string makeWeights() {
  std::string bytes = makeFakeWeights().substr(0, 4096);
  for (size_t i = 0; i < weightsBytes; ++i)
    bytes += char(i * 2654435761u >> 24);
  return bytes;
}

#ifdef FAKE_BOTH
/// The library also runs on the CPU.
constexpr bool hasCPU = true;
#else
constexpr bool hasCPU = false;
#endif

class CudaTest : public testing::Test {
protected:
  static void SetUpTestSuite() { path = writeTestFile("cuda-weights", makeWeights()); }
  static void TearDownTestSuite() { remove(path.c_str()); }

  void SetUp() override {
    void *handle = __real_dlopen("libcuda.so.1", RTLD_NOW);
    ASSERT_NE(handle, nullptr) << dlerror();
    auto get = reinterpret_cast<fake_driver_fn>(dlsym(handle, "fake_driver_get"));
    ASSERT_NE(get, nullptr) << "this is not the stand-in";
    driver = get();
    driver->reset();
    hasDriver = true;
    ASSERT_EQ(driver->count_live(), 0);
  }

  void TearDown() override {
    closeModel();
    EXPECT_EQ(driver->count_live(), 0) << driver->get_log();
  }

  static moec_options makeOptions(int32_t type, int32_t id = 0) {
    moec_options options = MOEC_OPTIONS_INIT;
    options.device_type = type;
    options.device_id = id;
    return options;
  }

  /// On a CUDA device, unless the options say something else.
  moec_status open(const moec_options *options = nullptr) {
    moec_options cuda = makeOptions(kDLCUDA);
    moec_status status = library->open(path.c_str(), options ? options : &cuda, &model);
    EXPECT_EQ(model == nullptr, status != MOEC_OK);
    return status;
  }

  moec_status createContext(moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT) {
    library->context_destroy(context);
    return library->context_create(model, &options, &context);
  }

  /// A context that cannot be entered any more has lost all that was in it.
  void closeModel() {
    driver->fail(nullptr, 0, 0);
    library->context_destroy(context);
    library->close(model);
    context = nullptr;
    model = nullptr;
  }

  static void moveToDevice(DLTensor &tensor, int32_t device = 0) {
    tensor.device.device_type = kDLCUDA;
    tensor.device.device_id = device;
  }

  moec_status runMain(DLTensor &x, DLTensor &y) { return call("main", x, y); }

  /// main for inputs of that many rows.
  moec_status runMain(int64_t rows) { return callOnDevice("main", {rows, 8}); }
  moec_status runRows(const char *entry, int64_t rows) { return callOnDevice(entry, {rows}); }

  /// The same into a graph.
  moec_status updateMain(void *graph, int64_t rows) {
    return callOnDevice("main", {rows, 8},
                        [&](auto... a) { return library->update_graph(context, graph, a...); });
  }
  moec_status updateRows(void *graph, const char *entry, int64_t rows) {
    return callOnDevice(entry, {rows},
                        [&](auto... a) { return library->update_graph(context, graph, a...); });
  }

  using Call = std::function<moec_status(const char *, const DLTensor *const *, int32_t,
                                         DLTensor *const *, int32_t)>;
  moec_status call(const char *entry, DLTensor &x, DLTensor &y, const Call &function = nullptr) {
    const DLTensor *in[] = {&x};
    DLTensor *out[] = {&y};
    return function ? function(entry, in, 1, out, 1) : library->run(context, entry, in, 1, out, 1);
  }
  moec_status callOnDevice(const char *entry, std::vector<int64_t> shape,
                           const Call &function = nullptr) {
    Tensor<float> x(shape), y(shape);
    moveToDevice(x.dl);
    moveToDevice(y.dl);
    driver->name_memory(x.values.data(), x.values.size() * 4, "x");
    driver->name_memory(y.values.data(), y.values.size() * 4, "y");
    return call(entry, x.dl, y.dl, function);
  }

  /// What was recorded since the last look.
  std::string takeLog() {
    std::string log = driver->get_log();
    driver->clear_log();
    return log;
  }

  static std::string path;
  const moec_library *library = fake_moec();
  const fake_driver *driver = nullptr;
  moec_model *model = nullptr;
  moec_context *context = nullptr;
};

std::string CudaTest::path;

//===----------------------------------------------------------------------===//
// Opening
//===----------------------------------------------------------------------===//

TEST_F(CudaTest, OpensAndCloses) {
  ASSERT_EQ(open(), MOEC_OK) << library->last_error();
  DLDevice device = library->device(model);
  EXPECT_EQ(device.device_type, kDLCUDA);
  EXPECT_EQ(device.device_id, 0);
  EXPECT_EQ(takeLog(), "cuInit\n"
                       "cuDevicePrimaryCtxRetain 0\n"
                       "cuModuleLoadDataEx sm_90a -> module1\n"
                       "cuModuleGetFunction scale\n"
                       "cuFuncSetAttribute scale 8 231424\n"
                       "cuModuleGetFunction add\n"
                       "cuFuncSetAttribute add 8 231424\n"
                       "cuModuleGetFunction rows\n"
                       "cuFuncSetAttribute rows 8 231424\n"
                       "cuModuleGetFunction tiles\n"
                       "cuFuncSetAttribute tiles 8 231424\n"
                       "cuModuleGetFunction moec_nothing\n"
                       "cuMemAlloc 41943072 -> m1\n"
                       "cuStreamCreate 1 -> s1\n"
                       "cuMemHostAlloc 16777216 -> h1\n"
                       "cuMemHostAlloc 16777216 -> h2\n"
                       "cuEventSynchronize e1\n"
                       "cuMemcpyHtoDAsync[s1] m1 <- h1, 16777216\n"
                       "cuEventRecord e1 in s1\n"
                       "cuEventSynchronize e2\n"
                       "cuMemcpyHtoDAsync[s1] m1+16777216 <- h2, 16777216\n"
                       "cuEventRecord e2 in s1\n"
                       "cuEventSynchronize e1\n"
                       "cuMemcpyHtoDAsync[s1] m1+33554432 <- h1, 8388640\n"
                       "cuEventRecord e1 in s1\n"
                       "cuStreamSynchronize s1\n"
                       "cuStreamSynchronize s1\n"
                       "cuMemFreeHost h1\n"
                       "cuMemFreeHost h2\n"
                       "cuStreamDestroy s1\n");
  closeModel();
  EXPECT_EQ(takeLog(), "cuMemFree m1\n"
                       "cuModuleUnload module1\n"
                       "cuDevicePrimaryCtxRelease 0\n");
}

TEST_F(CudaTest, ReportsProgress) {
  moec_options options = makeOptions(kDLCUDA);
  std::vector<std::pair<uint64_t, uint64_t>> steps;
  options.progress = [](void *data, uint64_t done, uint64_t all) {
    static_cast<decltype(steps) *>(data)->emplace_back(done, all);
  };
  options.progress_data = &steps;
  ASSERT_EQ(open(&options), MOEC_OK);
  decltype(steps) expected = {
      {16u << 20, weightsBytes}, {32u << 20, weightsBytes}, {weightsBytes, weightsBytes}};
  EXPECT_EQ(steps, expected);
}

TEST_F(CudaTest, TakesTheDeviceThatIsAskedFor) {
  driver->set_devices(3);
  moec_options options = makeOptions(kDLCUDA);
  options.device_id = 2;
  ASSERT_EQ(open(&options), MOEC_OK) << library->last_error();
  EXPECT_EQ(library->device(model).device_id, 2);
  EXPECT_NE(takeLog().find("cuDevicePrimaryCtxRetain 2\n"), std::string::npos);
  closeModel();
  for (int32_t id : {3, -1}) {
    options.device_id = id;
    EXPECT_TRUE(
        failsWith(open(&options), MOEC_ERROR_DEVICE,
                  "there is no CUDA device " + std::to_string(id) + ": found 3, numbered from 0"));
  }
}

TEST_F(CudaTest, TakesTheImageThatFits) {
  const std::pair<int, std::string> expected[] = {
      {75, "sm_75"}, {80, "sm_80"}, {89, "sm_80"}, {90, "sm_90a"}, {100, "sm_80"}};
  for (const auto &[capability, target] : expected) {
    driver->reset();
    driver->set_capability(capability);
    ASSERT_EQ(open(), MOEC_OK) << library->last_error();
    EXPECT_NE(takeLog().find("cuModuleLoadDataEx " + target + " ->"), std::string::npos)
        << capability;
    closeModel();
  }
}

/// Older devices have kernels, launches and weights of their own.
TEST_F(CudaTest, TakesTheCodeThatFits) {
  EXPECT_STREQ(library->info(), hasCPU ? "{\"name\":\"fake\",\"level\":\"x86-64\"}"
                                       : "{\"name\":\"fake\",\"level\":\"sm_75\"}");
  ASSERT_EQ(open(), MOEC_OK);
  EXPECT_STREQ(library->model_info(model), "{\"name\":\"fake\",\"level\":\"sm_90a\"}");
  closeModel();
  driver->reset();
  driver->set_capability(89);
  ASSERT_EQ(open(), MOEC_OK) << library->last_error();
  EXPECT_STREQ(library->model_info(model), "{\"name\":\"fake\",\"level\":\"sm_75\"}");
  std::string log = takeLog();
  EXPECT_EQ(log.find("cuModuleGetFunction scale"), std::string::npos);
  EXPECT_NE(log.find("cuMemAlloc 64 -> m1\n"), std::string::npos);
  ASSERT_EQ(createContext(), MOEC_OK);
  ASSERT_EQ(runMain(2), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(), "cuMemAlloc 64 -> m2\n"
                       "launch add grid 1x1x1 block 64x1x1 shared 0 in 0: m2, m1, y, 16\n");
  EXPECT_TRUE(failsWith(runRows("large", 1), MOEC_ERROR_ARGUMENT, "has no entry 'large'"));
}

//===----------------------------------------------------------------------===//
// Which device
//===----------------------------------------------------------------------===//

TEST_F(CudaTest, ChoosesTheDevice) {
  moec_options cpu = makeOptions(kDLCPU), any = makeOptions(0), other = makeOptions(kDLCUDAManaged);
  EXPECT_TRUE(failsWith(open(&other), MOEC_ERROR_ARGUMENT,
                        "moec_options.device_type is 13, expected 1 (the CPU), 2 (CUDA) or 0"));
  if (!hasCPU) {
    EXPECT_TRUE(failsWith(open(&cpu), MOEC_ERROR_ARGUMENT,
                          "moec_options.device_type asks for the CPU, but the library 'fake' has "
                          "no code for it: compile the model with --target=cpu or cpu,cuda"));
    return;
  }
  // The GPU, where there is one.
  ASSERT_EQ(open(&any), MOEC_OK) << library->last_error();
  EXPECT_EQ(library->device(model).device_type, kDLCUDA);
  closeModel();
  // What is there but cannot be used is no reason for the CPU.
  driver->set_capability(72);
  EXPECT_TRUE(failsWith(open(&any), MOEC_ERROR_DEVICE, "is of architecture sm_72"));
  driver->set_capability(90);
  driver->set_version(11080);
  EXPECT_TRUE(failsWith(open(&any), MOEC_ERROR_DEVICE, "the CUDA driver is too old"));
  driver->reset();
  // Fails when the device is looked for, not when it is used.
  driver->fail("cuInit", 1, 803);
  ASSERT_EQ(open(&any), MOEC_OK) << library->last_error();
  EXPECT_EQ(library->device(model).device_type, kDLCUDA);
  closeModel();
  driver->reset();
  moec_options second = makeOptions(0, 1);
  EXPECT_TRUE(failsWith(open(&second), MOEC_ERROR_DEVICE, "there is no CUDA device 1"));
}

TEST_F(CudaTest, RunsOnTheCPU) {
  if (!hasCPU)
    GTEST_SKIP() << "has no code for it";
  auto run = [&](int32_t type) {
    moec_options options = makeOptions(type);
    ASSERT_EQ(open(&options), MOEC_OK) << library->last_error();
    EXPECT_EQ(library->device(model).device_type, kDLCPU);
    EXPECT_STREQ(library->model_info(model), library->info());
    ASSERT_EQ(createContext(), MOEC_OK) << library->last_error();
    Tensor<float> x({1, 8}, 1, 1), y({1, 8});
    ASSERT_EQ(runMain(x.dl, y.dl), MOEC_OK) << library->last_error();
    std::string weights = makeWeights().substr(4096, 32);
    for (int i = 0; i < 8; ++i) {
      float w;
      memcpy(&w, weights.data() + 4 * i, 4);
      EXPECT_EQ(y.values[i], 2.0f * x.values[i] + w);
    }
    moveToDevice(x.dl);
    EXPECT_TRUE(failsWith(runMain(x.dl, y.dl), MOEC_ERROR_TENSOR, "expected the CPU"));
    moec_context_options withStream = MOEC_CONTEXT_OPTIONS_INIT;
    withStream.stream = this;
    EXPECT_TRUE(failsWith(createContext(withStream), MOEC_ERROR_ARGUMENT, "runs on the CPU"));
    closeModel();
  };
  // Asked for; without a driver; with one that has no device.
  run(kDLCPU);
  EXPECT_EQ(takeLog(), "");
  hasDriver = false;
  run(0);
  hasDriver = true;
  driver->set_devices(0);
  run(0);
  moec_options cuda = makeOptions(kDLCUDA), second = makeOptions(kDLCPU, 1);
  EXPECT_TRUE(failsWith(open(&cuda), MOEC_ERROR_DEVICE, "CUDA_ERROR_NO_DEVICE"));
  EXPECT_TRUE(failsWith(open(&second), MOEC_ERROR_ARGUMENT, "runs on the CPU"));
}

TEST_F(CudaTest, NamesWrongArchitecture) {
  driver->set_capability(72);
  EXPECT_TRUE(failsWith(open(), MOEC_ERROR_DEVICE,
                        "CUDA device 0 (Fake 0) is of architecture sm_72, but the library 'fake' "
                        "has code for sm_75 and newer of its generation, sm_80 and newer, sm_90a, "
                        "sm_120 and newer of its generation; compile the model again with "
                        "--gpu-arch for this device"));
  driver->set_capability(90);
  driver->fail("cuModuleLoadDataEx", 1, 209);
  EXPECT_TRUE(failsWith(open(), MOEC_ERROR_DEVICE, "is of architecture sm_90, but"));
}

TEST_F(CudaTest, NamesBadImage) {
  driver->set_capability(120);
  EXPECT_TRUE(failsWith(open(), MOEC_ERROR_DEVICE,
                        "cannot load the kernels of 'fake': ptxas fatal: not PTX: "
                        "CUDA_ERROR_INVALID_IMAGE (error 200: no description)"));
  driver->set_capability(90);
  driver->fail("cuModuleLoadDataEx", 1, 222);
  EXPECT_TRUE(failsWith(open(), MOEC_ERROR_DEVICE,
                        "cannot load the kernels of 'fake' (the driver is older than the code: "
                        "update it): unknown error (error 222"));
}

TEST_F(CudaTest, NamesMissingDriver) {
  hasDriver = false;
  EXPECT_TRUE(failsWith(open(), MOEC_ERROR_DEVICE,
                        "the library 'fake' runs on CUDA devices, but there is no CUDA driver: "));
  EXPECT_NE(strstr(library->last_error(), "cannot open shared object"), nullptr);
}

TEST_F(CudaTest, NamesMissingDevice) {
  driver->set_devices(0);
  EXPECT_TRUE(failsWith(open(), MOEC_ERROR_DEVICE,
                        "cannot initialize the CUDA driver: CUDA_ERROR_NO_DEVICE"));
}

TEST_F(CudaTest, NamesOldDriver) {
  driver->set_version(11080);
  EXPECT_TRUE(failsWith(open(), MOEC_ERROR_DEVICE,
                        "the CUDA driver is too old: it is that of CUDA 11.8, the library 'fake' "
                        "needs that of CUDA 12.0 or newer"));
}

/// Every call in turn fails: one clear error, nothing left, and then it works again.
TEST_F(CudaTest, OpenSurvivesEveryFailure) {
  for (int error : {2, 700}) {
    int n = 1;
    for (;; ++n) {
      driver->reset();
      driver->fail(nullptr, n, error);
      moec_status status = open();
      if (!driver->has_failed()) {
        EXPECT_EQ(status, MOEC_OK);
        closeModel();
        break;
      }
      // The last wait, at the end of copying, is only for what may have failed before.
      if (status == MOEC_OK) {
        EXPECT_NE(takeLog().find("cuStreamSynchronize fails"), std::string::npos);
        closeModel();
        continue;
      }
      EXPECT_TRUE(failsWith(status, error == 2 ? MOEC_ERROR_MEMORY : MOEC_ERROR_DEVICE,
                            error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY (error 2: out of memory)"
                                       : "CUDA_ERROR_ILLEGAL_ADDRESS (error 700"))
          << n;
      ASSERT_EQ(driver->count_live(), 0) << n << "\n" << driver->get_log();
    }
    EXPECT_GT(n, 30);
  }
}

TEST_F(CudaTest, OutOfMemorySaysForWhat) {
  driver->fail("cuMemAlloc_v2", 1, 2);
  EXPECT_TRUE(
      failsWith(open(), MOEC_ERROR_MEMORY,
                "cannot allocate 41943072 bytes on CUDA device 0 for the weights of 'fake'"));
  driver->fail("cuMemHostAlloc", 2, 2);
  EXPECT_TRUE(failsWith(open(), MOEC_ERROR_MEMORY, "16777216 bytes of pinned memory"));
}

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

TEST_F(CudaTest, LaunchesIntoTheStream) {
  ASSERT_EQ(open(), MOEC_OK);
  moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT;
  int stream;
  options.stream = &stream;
  ASSERT_EQ(createContext(options), MOEC_OK) << library->last_error();
  char name[32];
  snprintf(name, sizeof(name), "%p", options.stream);
  takeLog();
  ASSERT_EQ(runMain(20), MOEC_OK) << library->last_error();
  // 2.0f is 1073741824.
  std::string launches = std::string("launch scale grid 2x1x1 block 128x1x1 shared 0 in ") + name +
                         ": x, m2, 160, 1073741824\n"
                         "launch add grid 1x2x1 block 128x2x1 shared 100000 in " +
                         name + ": m2, m1, y, 160\n";
  EXPECT_EQ(takeLog(), "cuMemAlloc 640 -> m2\n" + launches);
  // Neither allocates nor waits again.
  ASSERT_EQ(runMain(20), MOEC_OK);
  EXPECT_EQ(takeLog(), launches);
}

TEST_F(CudaTest, WorkspaceGrowsWhenTheStreamIsDone) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  takeLog();
  ASSERT_EQ(runMain(1), MOEC_OK);
  EXPECT_EQ(takeLog(), "cuMemAlloc 32 -> m2\n"
                       "launch scale grid 1x1x1 block 128x1x1 shared 0 in 0: x, m2, 8, 1073741824\n"
                       "launch add grid 1x1x1 block 128x2x1 shared 100000 in 0: m2, m1, y, 8\n");
  ASSERT_EQ(runMain(2), MOEC_OK);
  EXPECT_EQ(takeLog().substr(0, 66),
            "cuStreamSynchronize 0\ncuMemFree m2\ncuMemAlloc 64 -> m3\nlaunch scal");
  ASSERT_EQ(runMain(1), MOEC_OK);
  EXPECT_EQ(takeLog().find("cuMemAlloc"), std::string::npos);
  library->context_destroy(context);
  context = nullptr;
  EXPECT_EQ(takeLog(), "cuStreamSynchronize 0\ncuMemFree m3\n");
}

TEST_F(CudaTest, EmptyGridsAreNotLaunched) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  takeLog();
  ASSERT_EQ(runMain(0), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(), "");
}

TEST_F(CudaTest, Clusters) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  takeLog();
  ASSERT_EQ(runRows("cluster", 3), MOEC_OK);
  EXPECT_NE(takeLog().find("launch rows grid 6x1x1 block 128x1x1 shared 0 in 0 cluster 2x1x1: "),
            std::string::npos);
}

/// More than a kernel has without being asked for: the stand-in refuses such launches.
TEST_F(CudaTest, SharedMemory) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  takeLog();
  ASSERT_EQ(runRows("shared", 197632), MOEC_OK) << library->last_error();
  EXPECT_NE(takeLog().find("shared 197632 in"), std::string::npos);
  ASSERT_EQ(runRows("shared", 231424), MOEC_OK) << library->last_error();
  EXPECT_TRUE(failsWith(runRows("shared", 231425), MOEC_ERROR_DEVICE,
                        "kernel 'rows' needs 231425 bytes of shared memory, but CUDA device 0 has "
                        "231424 for a block"));
}

/// Encoded again only when they change; by value in the launch.
TEST_F(CudaTest, TensorMaps) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  Tensor<float> x({3, 8}), y({3, 8});
  auto run = [&](int64_t rows) {
    x.shape[0] = y.shape[0] = rows;
    return call("maps", x.dl, y.dl);
  };
  moveToDevice(x.dl);
  moveToDevice(y.dl);
  driver->name_memory(x.values.data(), x.values.size() * 4, "x");
  takeLog();
  ASSERT_EQ(run(3), MOEC_OK) << library->last_error();
  std::string weights = "cuTensorMapEncodeTiled type 9 of m1 8x4x2 strides 32x128 box 8x4x1 "
                        "swizzle 3 promotion 3 fill 0 -> t1\n";
  std::string launch = "launch tiles grid 132x1x1 block 128x1x1 shared 0 in 0: ";
  std::string rest = " strides 32 box 8x128 swizzle 0 promotion 0 fill 1 -> ";
  EXPECT_EQ(takeLog(), weights + "cuTensorMapEncodeTiled type 7 of x 8x3" + rest + "t2\n" + launch +
                           "t1, t2, 3\n");
  ASSERT_EQ(run(3), MOEC_OK);
  EXPECT_EQ(takeLog(), launch + "t1, t2, 3\n");
  ASSERT_EQ(run(2), MOEC_OK);
  EXPECT_EQ(takeLog(),
            "cuTensorMapEncodeTiled type 7 of x 8x2" + rest + "t3\n" + launch + "t1, t3, 2\n");
  // Nothing to read, but a map all the same: of what is there.
  x.dl.data = nullptr;
  ASSERT_EQ(run(0), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(),
            "cuTensorMapEncodeTiled type 7 of m1 8x1" + rest + "t4\n" + launch + "t1, t4, 0\n");
  // Another context has its own.
  ASSERT_EQ(createContext(), MOEC_OK);
  ASSERT_EQ(run(0), MOEC_OK) << library->last_error();
  EXPECT_NE(takeLog().find(" -> t5\n"), std::string::npos);
}

TEST_F(CudaTest, NamesBadTensorMap) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  EXPECT_TRUE(failsWith(callOnDevice("maps", {1001, 8}), MOEC_ERROR_DEVICE,
                        "cannot make tensor map 1 of the library 'fake': "
                        "CUDA_ERROR_INVALID_VALUE"));
  driver->fail("cuTensorMapEncodeTiled", 1, 1);
  EXPECT_TRUE(failsWith(callOnDevice("maps", {2, 8}), MOEC_ERROR_DEVICE, "tensor map 1"));
  // It is not taken for encoded.
  EXPECT_EQ(callOnDevice("maps", {2, 8}), MOEC_OK) << library->last_error();
}

TEST_F(CudaTest, MemoryOfTheProgram) {
  ASSERT_EQ(open(), MOEC_OK);
  struct Pool {
    alignas(256) char memory[4096];
    bool isEmpty = false;
    size_t given = 0, taken = 0, shift = 0;
  } pool;
  moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT;
  options.allocator = &pool;
  options.allocate = [](void *data, size_t bytes, size_t) -> void * {
    auto *pool = static_cast<Pool *>(data);
    pool->given += pool->isEmpty ? 0 : bytes;
    return pool->isEmpty ? nullptr : pool->memory + pool->shift;
  };
  options.deallocate = [](void *data, void *, size_t bytes) {
    static_cast<Pool *>(data)->taken += bytes;
  };
  ASSERT_EQ(createContext(options), MOEC_OK);
  driver->name_memory(pool.memory, sizeof(pool.memory), "pool");
  takeLog();
  ASSERT_EQ(runMain(1), MOEC_OK);
  EXPECT_NE(takeLog().find(": x, pool, 8"), std::string::npos);
  pool.isEmpty = true;
  EXPECT_TRUE(failsWith(runMain(2), MOEC_ERROR_MEMORY,
                        "cannot allocate 64 bytes on CUDA device 0 for the workspace"));
  pool.isEmpty = false;
  pool.shift = 64;
  EXPECT_TRUE(failsWith(runMain(2), MOEC_ERROR_MEMORY, "not aligned to 256 bytes"));
  library->context_destroy(context);
  context = nullptr;
  EXPECT_EQ(pool.given, 32u + 64u);
  EXPECT_EQ(pool.taken, pool.given);
}

/// A graph has the addresses of its memory, and a wait cannot be captured.
TEST_F(CudaTest, CapturesAfterTheFirstRun) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  driver->set_capturing(1);
  EXPECT_TRUE(failsWith(runMain(2), MOEC_ERROR_MEMORY,
                        "the workspace needs 64 bytes, which cannot be allocated while the stream "
                        "is captured: run once with inputs of this size before"));
  driver->set_capturing(0);
  ASSERT_EQ(runMain(2), MOEC_OK);
  driver->set_capturing(1);
  EXPECT_EQ(runMain(2), MOEC_OK) << library->last_error();
  EXPECT_EQ(runMain(1), MOEC_OK) << library->last_error();
  driver->set_capturing(0);
  // The graph has the address of the workspace.
  EXPECT_TRUE(failsWith(runMain(3), MOEC_ERROR_MEMORY,
                        "the workspace needs 96 bytes, but a graph was captured with the 64 bytes "
                        "that there are: capture the largest size, or take another context"));
}

/// The launches of another run go into the nodes of the captured one.
TEST_F(CudaTest, ReplaysOtherSizes) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  int graph;
  EXPECT_TRUE(failsWith(updateMain(&graph, 20), MOEC_ERROR_ARGUMENT,
                        "no run of this context was captured into a graph"));
  ASSERT_EQ(runMain(20), MOEC_OK);
  takeLog();
  driver->set_capturing(1);
  ASSERT_EQ(runMain(20), MOEC_OK) << library->last_error();
  driver->set_capturing(0);
  EXPECT_EQ(takeLog(), "launch scale grid 2x1x1 block 128x1x1 shared 0 in 0 as n1: x, m2, 160, "
                       "1073741824\n"
                       "launch add grid 1x2x1 block 128x2x1 shared 100000 in 0 as n2: m2, m1, y, "
                       "160\n");
  ASSERT_EQ(updateMain(&graph, 3), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(), "change n1 to scale grid 1x1x1 block 128x1x1 shared 0 in a graph: x, m2, "
                       "24, 1073741824\n"
                       "cuGraphNodeSetEnabled n1 1\n"
                       "change n2 to add grid 1x1x1 block 128x2x1 shared 100000 in a graph: m2, "
                       "m1, y, 24\n"
                       "cuGraphNodeSetEnabled n2 1\n");
  // Without rows there is nothing to launch.
  ASSERT_EQ(updateMain(&graph, 0), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(), "cuGraphNodeSetEnabled n1 0\ncuGraphNodeSetEnabled n2 0\n");
  EXPECT_TRUE(failsWith(updateMain(&graph, 21), MOEC_ERROR_MEMORY,
                        "the workspace needs 672 bytes, but a graph was captured with the 640"));
  EXPECT_EQ(takeLog(), "");
  // Another entry, and fewer launches.
  EXPECT_TRUE(failsWith(updateRows(&graph, "cluster", 1), MOEC_ERROR_ARGUMENT,
                        "the run does not launch the kernels that were captured"));
  EXPECT_TRUE(failsWith(updateMain(nullptr, 1), MOEC_ERROR_ARGUMENT, "graph_exec is a null"));
  // Every call in turn fails.
  for (int n = 1;; ++n) {
    driver->fail(nullptr, n, 700);
    moec_status status = updateMain(&graph, 3);
    if (!driver->has_failed()) {
      EXPECT_EQ(n, 6);
      break;
    }
    EXPECT_TRUE(failsWith(status, MOEC_ERROR_DEVICE, "(error 700"));
  }
  driver->fail(nullptr, 0, 0);
  ASSERT_EQ(updateMain(&graph, 20), MOEC_OK) << library->last_error();
}

/// A launch without blocks has a node all the same: another size may need it.
TEST_F(CudaTest, CapturesLaunchesWithoutBlocks) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  ASSERT_EQ(runMain(2), MOEC_OK);
  driver->set_capturing(1);
  takeLog();
  ASSERT_EQ(runMain(0), MOEC_OK) << library->last_error();
  std::string nothing = "launch moec_nothing grid 1x1x1 block 1x1x1 shared 0 in 0 as ";
  EXPECT_EQ(takeLog(), nothing + "n1\n" + nothing + "n2\n");
  driver->set_capturing(0);
  int graph;
  EXPECT_EQ(updateMain(&graph, 0), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(), "cuGraphNodeSetEnabled n1 0\ncuGraphNodeSetEnabled n2 0\n");
  EXPECT_EQ(updateMain(&graph, 1), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(), "change n1 to scale grid 1x1x1 block 128x1x1 shared 0 in a graph: x, m2, 8, "
                       "1073741824\n"
                       "cuGraphNodeSetEnabled n1 1\n"
                       "change n2 to add grid 1x1x1 block 128x2x1 shared 100000 in a graph: m2, "
                       "m1, y, 8\n"
                       "cuGraphNodeSetEnabled n2 1\n");
  // A cluster belongs to the node.
  ASSERT_EQ(createContext(), MOEC_OK);
  driver->set_capturing(1);
  ASSERT_EQ(runRows("cluster", 0), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(), "cuStreamSynchronize 0\ncuMemFree m2\nlaunch moec_nothing grid 2x1x1 block "
                       "1x1x1 shared 0 in 0 cluster 2x1x1 as n3\n");
  driver->set_capturing(0);
  EXPECT_EQ(updateRows(&graph, "cluster", 1), MOEC_OK) << library->last_error();
}

TEST_F(CudaTest, CaptureSurvivesEveryFailure) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  ASSERT_EQ(runMain(2), MOEC_OK);
  driver->set_capturing(1);
  for (int n = 1;; ++n) {
    driver->fail(nullptr, n, 700);
    moec_status status = runMain(2);
    if (!driver->has_failed()) {
      // Context, state of the stream, two launches and their nodes.
      EXPECT_EQ(n, 7);
      break;
    }
    EXPECT_TRUE(failsWith(status, MOEC_ERROR_DEVICE, "(error 700"));
  }
  driver->set_capturing(0);
}

TEST_F(CudaTest, RunSurvivesEveryFailure) {
  for (int error : {2, 700}) {
    driver->reset();
    ASSERT_EQ(open(), MOEC_OK);
    ASSERT_EQ(createContext(), MOEC_OK);
    int n = 1;
    for (;; ++n) {
      ASSERT_EQ(createContext(), MOEC_OK);
      int live = driver->count_live();
      driver->fail(nullptr, n, error);
      moec_status status = runMain(2);
      if (!driver->has_failed())
        break;
      EXPECT_TRUE(failsWith(status, error == 2 ? MOEC_ERROR_MEMORY : MOEC_ERROR_DEVICE,
                            "(error " + std::to_string(error)));
      EXPECT_LE(driver->count_live(), live + 1) << "more than the workspace is left";
      EXPECT_EQ(runMain(2), MOEC_OK) << library->last_error();
    }
    // Context, state of the stream, memory, two launches.
    EXPECT_EQ(n, 6);
    closeModel();
  }
}

/// Counters are cleared once, when there are as many for the first time.
TEST_F(CudaTest, Counters) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  driver->set_capturing(1);
  EXPECT_TRUE(failsWith(runRows("counted", 2), MOEC_ERROR_MEMORY,
                        "the buffer of counters needs 8 bytes, which cannot be allocated while "
                        "the stream is captured"));
  driver->set_capturing(0);
  takeLog();
  ASSERT_EQ(runRows("counted", 2), MOEC_OK) << library->last_error();
  EXPECT_EQ(takeLog(), "cuMemAlloc 8 -> m2\ncuMemsetD8Async[0] m2 <- 0, 8\n"
                       "launch rows grid 1x1x1 block 128x1x1 shared 0 in 0: m2, y, 2\n");
  ASSERT_EQ(runRows("counted", 1), MOEC_OK);
  EXPECT_EQ(takeLog(), "launch rows grid 1x1x1 block 128x1x1 shared 0 in 0: m2, y, 1\n");
  ASSERT_EQ(runRows("counted", 3), MOEC_OK);
  EXPECT_EQ(takeLog(), "cuStreamSynchronize 0\ncuMemFree m2\ncuMemAlloc 12 -> m3\n"
                       "cuMemsetD8Async[0] m3 <- 0, 12\n"
                       "launch rows grid 1x1x1 block 128x1x1 shared 0 in 0: m3, y, 3\n");
  // What was not cleared is not kept.
  driver->fail("cuMemsetD8Async", 1, 700);
  EXPECT_TRUE(failsWith(runRows("counted", 4), MOEC_ERROR_DEVICE,
                        "cannot clear the buffer of counters: CUDA_ERROR_ILLEGAL_ADDRESS"));
  driver->fail(nullptr, 0, 0);
  takeLog();
  ASSERT_EQ(runRows("counted", 1), MOEC_OK);
  EXPECT_EQ(takeLog().find("cuMemAlloc 4 -> m5\ncuMemsetD8Async[0] m5 <- 0, 4\n"), 0u);
  // Another context has its own.
  ASSERT_EQ(createContext(), MOEC_OK);
  takeLog();
  ASSERT_EQ(runRows("counted", 1), MOEC_OK);
  EXPECT_EQ(takeLog().find("cuMemAlloc 4 -> m6\n"), 0u);
}

/// A failed check is known when the device has come so far; nobody waits for it.
TEST_F(CudaTest, ReportsFailedChecksLater) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  takeLog();
  EXPECT_EQ(runRows("checked", 12), MOEC_OK) << library->last_error();
  std::string log = takeLog();
  EXPECT_EQ(log.find("cuMemHostAlloc 8 -> h3\n"), 0u) << log;
  EXPECT_NE(log.find(": h3, "), std::string::npos);
  EXPECT_EQ(library->wait(context), MOEC_OK);
  EXPECT_EQ(takeLog(), "cuStreamSynchronize 0\n");
  // The next run reports it, in place of running; once.
  EXPECT_EQ(runRows("checked", 13), MOEC_OK) << library->last_error();
  takeLog();
  EXPECT_TRUE(failsWith(runRows("checked", 12), MOEC_ERROR_RUN,
                        "an earlier run failed: 13 is an unlucky number"));
  EXPECT_EQ(takeLog(), "");
  EXPECT_EQ(runRows("checked", 12), MOEC_OK);
  // So does a wait.
  EXPECT_EQ(runRows("checked", 13), MOEC_OK);
  EXPECT_TRUE(failsWith(library->wait(context), MOEC_ERROR_RUN, "13 is an unlucky number"));
  EXPECT_EQ(library->wait(context), MOEC_OK);
  driver->fail("cuStreamSynchronize", 1, 700);
  EXPECT_TRUE(failsWith(library->wait(context), MOEC_ERROR_DEVICE,
                        "a run failed on CUDA device 0: CUDA_ERROR_ILLEGAL_ADDRESS"));
  EXPECT_TRUE(failsWith(library->wait(nullptr), MOEC_ERROR_ARGUMENT, "the context is a null"));
  ASSERT_EQ(createContext(), MOEC_OK);
  driver->fail("cuMemHostAlloc", 1, 2);
  EXPECT_TRUE(failsWith(runRows("checked", 12), MOEC_ERROR_MEMORY,
                        "cannot allocate 8 bytes of pinned memory for failed checks"));
  driver->set_capturing(1);
  EXPECT_TRUE(failsWith(runRows("checked", 12), MOEC_ERROR_MEMORY,
                        "cannot be allocated while the stream is captured: run once before"));
  driver->set_capturing(0);
}

/// By events between launches; the stand-in's time goes on by a millisecond for each.
TEST_F(CudaTest, Profiles) {
  ASSERT_EQ(open(), MOEC_OK);
  moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT;
  options.flags = MOEC_CONTEXT_PROFILE;
  ASSERT_EQ(createContext(options), MOEC_OK) << library->last_error();
  takeLog();
  ASSERT_EQ(runMain(2), MOEC_OK) << library->last_error();
  std::string log = takeLog();
  EXPECT_EQ(log.find("cuEventSynchronize"), std::string::npos);
  EXPECT_LT(log.find("cuEventRecord e3 in 0\nlaunch scale"),
            log.find("cuEventRecord e4 in 0\nlaunch add"));
  EXPECT_NE(log.find("\ncuEventRecord e5 in 0\n"), std::string::npos) << log;
  // Regions 0 and 2.
  moec_region_time times[4] = {};
  ASSERT_EQ(library->profile(context, times, 4), 3);
  EXPECT_EQ(takeLog(), "cuEventSynchronize e5\n");
  EXPECT_EQ(times[0].count, 1u);
  EXPECT_EQ(times[0].nanoseconds, 1000000u);
  EXPECT_EQ(times[1].count, 0u);
  EXPECT_EQ(times[2].nanoseconds, 1000000u);
  // Events are used again; a run collects those of the one before.
  ASSERT_EQ(runMain(2), MOEC_OK);
  EXPECT_EQ(takeLog().find("e6"), std::string::npos);
  ASSERT_EQ(runMain(2), MOEC_OK);
  EXPECT_EQ(takeLog().substr(0, 22), "cuEventSynchronize e5\n");
  ASSERT_EQ(library->profile(context, times, 4), 3);
  EXPECT_EQ(times[2].count, 3u);
  library->profile_reset(context);
  ASSERT_EQ(library->profile(context, times, 4), 3);
  EXPECT_EQ(times[2].count, 0u);
  // Not in a graph.
  driver->set_capturing(1);
  takeLog();
  ASSERT_EQ(runMain(2), MOEC_OK);
  driver->set_capturing(0);
  EXPECT_EQ(takeLog().find("cuEvent"), std::string::npos);
  // Every call in turn fails.
  ASSERT_EQ(createContext(options), MOEC_OK);
  ASSERT_EQ(runMain(2), MOEC_OK);
  for (int n = 1;; ++n) {
    driver->fail(nullptr, n, 700);
    moec_status status = runMain(2);
    if (!driver->has_failed())
      break;
    EXPECT_TRUE(failsWith(status, MOEC_ERROR_DEVICE, "(error 700"));
    driver->fail(nullptr, 0, 0);
    ASSERT_EQ(runMain(2), MOEC_OK) << library->last_error();
  }
}

TEST_F(CudaTest, NamesFailedLaunch) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  driver->fail("cuLaunchKernelEx", 2, 700);
  EXPECT_TRUE(failsWith(runMain(2), MOEC_ERROR_DEVICE,
                        "cannot launch kernel 'add': CUDA_ERROR_ILLEGAL_ADDRESS (error 700"));
  EXPECT_TRUE(failsWith(runRows("large", 1), MOEC_ERROR_DEVICE,
                        "kernel 'rows' would need a grid of 2147483648 x 1 x 1 blocks, which is "
                        "more than any device has"));
}

//===----------------------------------------------------------------------===//
// Tensors and options
//===----------------------------------------------------------------------===//

TEST_F(CudaTest, RefusesTensorsElsewhere) {
  driver->set_devices(2);
  moec_options options = makeOptions(kDLCUDA);
  options.device_id = 1;
  ASSERT_EQ(open(&options), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  Tensor<float> x({1, 8}), y({1, 8});
  EXPECT_TRUE(failsWith(runMain(x.dl, y.dl), MOEC_ERROR_TENSOR,
                        "main: input 'x' is on the CPU, expected CUDA device 1"));
  moveToDevice(x.dl, 1);
  EXPECT_TRUE(failsWith(runMain(x.dl, y.dl), MOEC_ERROR_TENSOR,
                        "main: output 'y' is on the CPU, expected CUDA device 1"));
  moveToDevice(y.dl, 0);
  EXPECT_TRUE(failsWith(runMain(x.dl, y.dl), MOEC_ERROR_TENSOR,
                        "output 'y' is on device 0 of DLPack type 2, expected CUDA device 1"));
  y.dl.device.device_type = kDLCUDAManaged;
  EXPECT_EQ(runMain(x.dl, y.dl), MOEC_OK) << library->last_error();
}

TEST_F(CudaTest, DescribesOutputsOnTheDevice) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  Tensor<float> x({3, 8});
  moveToDevice(x.dl);
  const DLTensor *in[] = {&x.dl};
  DLTensor y;
  DLTensor *out[] = {&y};
  uint64_t bytes = 0;
  ASSERT_EQ(library->output_shapes(context, "main", in, 1, out, 1), MOEC_OK);
  EXPECT_EQ(y.device.device_type, kDLCUDA);
  EXPECT_EQ(y.shape[0], 3);
  ASSERT_EQ(library->workspace_size(context, "main", in, 1, &bytes), MOEC_OK);
  EXPECT_EQ(bytes, 96u);
}

TEST_F(CudaTest, RefusesStrides) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  Tensor<float> x({8, 8}), y({8, 8});
  moveToDevice(x.dl);
  moveToDevice(y.dl);
  x.setStrides({1, 8});
  EXPECT_TRUE(failsWith(runMain(x.dl, y.dl), MOEC_ERROR_TENSOR, "main: input 'x' is strided"));
  x.setStrides({8, 1});
  y.setStrides({1, 8});
  EXPECT_TRUE(failsWith(runMain(x.dl, y.dl), MOEC_ERROR_TENSOR, "main: output 'y' is strided"));
  y.setStrides({8, 1});
  EXPECT_EQ(runMain(x.dl, y.dl), MOEC_OK);
}

TEST_F(CudaTest, RefusesMisalignedTensors) {
  ASSERT_EQ(open(), MOEC_OK);
  ASSERT_EQ(createContext(), MOEC_OK);
  Tensor<float> x({3, 8}), y({2, 8});
  moveToDevice(x.dl);
  moveToDevice(y.dl);
  x.shape[0] = 2;
  x.dl.byte_offset = (16 - reinterpret_cast<uintptr_t>(x.dl.data) % 16) % 16;
  x.dl.byte_offset += 4;
  EXPECT_TRUE(failsWith(runMain(x.dl, y.dl), MOEC_ERROR_TENSOR,
                        "main: input 'x' is not aligned to 16 bytes"));
}

TEST_F(CudaTest, RefusesOptionsOfTheCPU) {
  ASSERT_EQ(open(), MOEC_OK);
  moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT;
  options.num_workers = 2;
  options.parallel_for = runOnThreads;
  EXPECT_TRUE(
      failsWith(createContext(options), MOEC_ERROR_ARGUMENT, "parallel_for is for the CPU"));
  ASSERT_EQ(createContext(), MOEC_OK);
  EXPECT_EQ(library->num_workers(context), 1);
}

} // namespace

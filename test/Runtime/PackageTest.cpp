// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// The runtime as it is linked into packages: two models in one program, a
// shared library, and moe-run on a package.

#include "FakeWeights.h"
#include "moec/Runtime/moec.h"
#include "moec/Support/Safetensors.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "gtest/gtest.h"
#include <dlfcn.h>
#include <sys/wait.h>

using namespace mlir::moe;

extern "C" const moec_library *fake_a_moec(void);
extern "C" const moec_library *fake_b_moec(void);

namespace {

/// y[0] of main for x = 1 and b = 10.
float runOnce(const moec_library *library, const char *weights) {
  moec_model *model = nullptr;
  moec_context *context = nullptr;
  EXPECT_EQ(library->open(weights, nullptr, &model), MOEC_OK) << library->last_error();
  EXPECT_EQ(library->context_create(model, nullptr, &context), MOEC_OK) << library->last_error();
  float x[8] = {1}, b[1] = {10}, y[8] = {};
  int64_t count = 0, shape[2] = {1, 8};
  DLTensor tensors[4] = {{x, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, nullptr, 0},
                         {b, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, shape, nullptr, 0},
                         {y, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, nullptr, 0},
                         {&count, {kDLCPU, 0}, 0, {kDLInt, 64, 1}, nullptr, nullptr, 0}};
  const DLTensor *in[] = {&tensors[0], &tensors[1]};
  DLTensor *out[] = {&tensors[2], &tensors[3]};
  EXPECT_EQ(library->run(context, "main", in, 2, out, 2), MOEC_OK) << library->last_error();
  library->context_destroy(context);
  library->close(model);
  return y[0];
}

TEST(Package, TwoModelsInOneProgram) {
  std::string path = writeTestFile("two", makeFakeWeights());
  EXPECT_EQ(runOnce(fake_a_moec(), path.c_str()), 12);
  EXPECT_EQ(runOnce(fake_b_moec(), path.c_str()), 13);
  remove(path.c_str());
  // Each has an error message of its own.
  EXPECT_NE(fake_a_moec()->open("/absent", nullptr, nullptr), MOEC_OK);
  EXPECT_STRNE(fake_a_moec()->last_error(), "");
  EXPECT_STREQ(fake_b_moec()->last_error(), "");
}

TEST(Package, RefusesCPUsWithoutAFeature) {
  void *handle = dlopen(MOEC_TEST_FEATURE, RTLD_NOW | RTLD_LOCAL);
  ASSERT_TRUE(handle) << dlerror();
  auto get = reinterpret_cast<moec_library_fn>(dlsym(handle, "moec_library"));
  moec_model *model = nullptr;
  EXPECT_EQ(get()->open(nullptr, nullptr, &model), MOEC_ERROR_CPU);
  EXPECT_NE(std::string(get()->last_error()).find("'no-such-feature'"), std::string::npos);
}

/// Levels: empty (has no entries), least, fast (needs what no CPU has).
TEST(Package, ChoosesALevel) {
  void *handle = dlopen(MOEC_TEST_LEVELS, RTLD_NOW | RTLD_LOCAL);
  ASSERT_TRUE(handle) << dlerror();
  const moec_library *library = reinterpret_cast<moec_library_fn>(dlsym(handle, "moec_library"))();
  std::string path = writeTestFile("levels", makeFakeWeights());
  moec_model *model = nullptr;
  auto open = [&] {
    library->close(model);
    return library->open(path.c_str(), nullptr, &model);
  };
  auto failsWith = [&](const char *message) {
    return std::string(library->last_error()).find(message) != std::string::npos;
  };

  unsetenv("MOEC_CPU_LEVEL");
  EXPECT_EQ(open(), MOEC_OK) << library->last_error();
  EXPECT_STREQ(library->info(), "{\"level\":\"least\"}");

  // A model keeps the level that it was opened with.
  setenv("MOEC_CPU_LEVEL", "empty", 1);
  EXPECT_STREQ(library->info(), "{\"level\":\"empty\"}");
  auto hasEntry = [&] {
    moec_context *context = nullptr;
    EXPECT_EQ(library->context_create(model, nullptr, &context), MOEC_OK);
    // Either way it fails: there is no such entry, or there are no inputs.
    EXPECT_NE(library->run(context, "iota", nullptr, 0, nullptr, 0), MOEC_OK);
    library->context_destroy(context);
    return !failsWith("has no entry 'iota'");
  };
  EXPECT_TRUE(hasEntry());
  EXPECT_EQ(open(), MOEC_OK) << library->last_error();
  EXPECT_FALSE(hasEntry());

  setenv("MOEC_CPU_LEVEL", "fast", 1);
  EXPECT_EQ(open(), MOEC_ERROR_CPU);
  EXPECT_TRUE(failsWith("'no-such-feature'"));
  EXPECT_TRUE(failsWith("this library (level 'fast', which MOEC_CPU_LEVEL asks for) was"));
  setenv("MOEC_CPU_LEVEL", "slow", 1);
  EXPECT_EQ(open(), MOEC_ERROR_ARGUMENT);
  EXPECT_TRUE(failsWith("MOEC_CPU_LEVEL is 'slow', but the library 'fake' has code for empty, "
                        "least, fast"));
  unsetenv("MOEC_CPU_LEVEL");
  remove(path.c_str());
}

/// A package in the temporary folder with the fake shared library.
class MoeRun : public testing::Test {
protected:
  void SetUp() override {
    folder = makeTestPath("fake.moec");
    ASSERT_FALSE(llvm::sys::fs::create_directories(folder));
    ASSERT_FALSE(llvm::sys::fs::copy_file(MOEC_TEST_LIBRARY, folder + "/libfake.so"));
    ASSERT_FALSE(llvm::sys::fs::rename(writeTestFile("weights", makeFakeWeights()),
                                       folder + "/fake.safetensors"));
    write("in", 3);
  }
  void TearDown() override { llvm::sys::fs::remove_directories(folder); }

  std::string file(const std::string &name) { return folder + "/" + name + ".st"; }

  /// x = 1, b = 10, and what is expected of y.
  void write(const std::string &name, int64_t rows, float expected = 0) {
    SafetensorsWriter writer;
    bool isInput = expected == 0;
    cantFail(writer.declare(isInput ? "x" : "y", SafetensorsType::F32, {rows, 8}));
    if (isInput)
      cantFail(writer.declare("b", SafetensorsType::F32, {rows}));
    cantFail(writer.open(file(name)));
    for (int64_t i = 0; i < rows * 8; ++i) {
      float value = isInput ? 1 : expected + float(i % 8);
      cantFail(writer.write({reinterpret_cast<char *>(&value), 4}));
    }
    float b = 10;
    for (int64_t i = 0; isInput && i < rows; ++i)
      cantFail(writer.write({reinterpret_cast<char *>(&b), 4}));
    cantFail(writer.finish());
  }

  /// Exit status; standard output and error are in `text`.
  int run(const std::string &arguments) {
    std::string command =
        std::string(MOEC_TEST_MOE_RUN) + " " + arguments + " > " + file("text") + " 2>&1";
    int status = system(command.c_str());
    auto buffer = llvm::MemoryBuffer::getFile(file("text"));
    text = buffer ? (*buffer)->getBuffer().str() : "";
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  bool says(const std::string &part) { return text.find(part) != std::string::npos; }

  std::string folder, text;
};

TEST_F(MoeRun, DescribesThePackage) {
  EXPECT_EQ(run(folder), 0) << text;
  EXPECT_TRUE(says("input x: float32 [T, 8]")) << text;
  EXPECT_TRUE(says("output count: int64 []")) << text;
}

TEST_F(MoeRun, WritesOutputs) {
  ASSERT_EQ(run(folder + " --input " + file("in") + " --output " + file("out")), 0) << text;
  auto out = SafetensorsFile::open(file("out"));
  ASSERT_TRUE(bool(out)) << toString(out.takeError());
  const SafetensorsTensor *y = out->find("y");
  ASSERT_TRUE(y);
  EXPECT_EQ(y->shape, (llvm::SmallVector<int64_t, 4>{3, 8}));
  auto *values = reinterpret_cast<const float *>(out->getData(*y).data());
  EXPECT_EQ(values[9], 2.0f * 1 + 1 + 10);
  EXPECT_EQ(run(folder + " --input " + file("in") + " --output /nonexistent/out.st"), 6);
}

TEST_F(MoeRun, Compares) {
  write("good", 3, 12.0f);
  write("bad", 3, 12.5f);
  write("short", 2, 12.0f);
  std::string command = folder + " --input " + file("in") + " --expect ";
  EXPECT_EQ(run(command + file("good")), 0) << text;
  EXPECT_TRUE(says("y: max |d| 0")) << text;
  EXPECT_EQ(run(command + file("bad")), 1) << text;
  EXPECT_TRUE(says("y: max |d| 0.5")) << text;
  EXPECT_EQ(run(command + file("bad") + " --rtol 0.1"), 0) << text;
  EXPECT_EQ(run(command + file("bad") + " --atol 0.4"), 1) << text;
  EXPECT_EQ(run(command + file("bad") + " --json"), 1) << text;
  auto json = llvm::json::parse(text);
  ASSERT_TRUE(bool(json)) << toString(json.takeError());
  EXPECT_EQ(run(command + file("short")), 4) << text;
  EXPECT_TRUE(says("output 'y' has shape [3, 8], expected [2, 8]")) << text;
}

TEST_F(MoeRun, Times) {
  ASSERT_EQ(run(folder + " --time --dim T=1,8 --json --threads 1"), 0) << text;
  auto json = llvm::json::parse(text);
  ASSERT_TRUE(bool(json)) << toString(json.takeError());
  const llvm::json::Array *list = json->getAsArray();
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 2u);
  const llvm::json::Object *second = (*list)[1].getAsObject();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->getObject("dims")->getInteger("T"), 8);
  EXPECT_EQ(second->getInteger("threads"), 1);
  EXPECT_GT(*second->getInteger("repetitions"), 0);
  EXPECT_LE(*second->getNumber("min_ms"), *second->getNumber("median_ms"));
  EXPECT_LE(*second->getNumber("median_ms"), *second->getNumber("max_ms"));
  EXPECT_EQ(run(folder + " --time --repetitions 3 --input " + file("in")), 0);
  EXPECT_TRUE(says("T=3")) << text;
}

TEST_F(MoeRun, Profiles) {
  EXPECT_EQ(run(folder + " --profile --dim T=4 --repetitions 2"), 0) << text;
  EXPECT_TRUE(says("scale (Mul)")) << text;
  EXPECT_FALSE(says("unused")) << text;
}

TEST_F(MoeRun, SaysWhatIsWrong) {
  EXPECT_EQ(run("/nonexistent.moec"), 3);
  EXPECT_TRUE(says("moe-run: error: there is no package '/nonexistent.moec'")) << text;
  EXPECT_EQ(run("/"), 3);
  EXPECT_TRUE(says("is not a package")) << text;
  EXPECT_EQ(run(folder + " --weights " + file("in")), 3);
  EXPECT_TRUE(says("the weights file")) << text;
  EXPECT_EQ(run(folder + " --time"), 4);
  EXPECT_TRUE(says("dimension 'T' of input 'x' is not given")) << text;
  EXPECT_EQ(run(folder + " --input /nonexistent.st"), 4);
  EXPECT_TRUE(says("/nonexistent.st")) << text;
  EXPECT_EQ(run(folder + " --entry iota --input " + file("in")), 4);
  EXPECT_TRUE(says("no tensor 'n'")) << text;
  EXPECT_EQ(run(folder + " --entry none --time"), 2);
  EXPECT_EQ(run(folder + " --time --dim S=1"), 2);
  EXPECT_TRUE(says("it has: T")) << text;
  EXPECT_EQ(run(folder + " --time --dim T=x"), 2);
  EXPECT_EQ(run(folder + " --no-such-flag"), 2);
  EXPECT_EQ(run(folder + " --output x"), 2);
  EXPECT_EQ(run(folder + " --json"), 2);
  EXPECT_EQ(run(""), 2);
}

} // namespace

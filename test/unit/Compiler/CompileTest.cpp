// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Whole compilations in a program with several threads.

#include "moec/Compiler/Compiler.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include "gtest/gtest.h"

#include <csignal>
#include <thread>

using namespace mlir::moe;

static std::string read(llvm::StringRef folder, llvm::StringRef file) {
  llvm::SmallString<128> path(folder);
  llvm::sys::path::append(path, file);
  auto text = llvm::MemoryBuffer::getFile(path);
  return text ? (*text)->getBuffer().str() : "";
}

/// What the program does at each signal.
static std::vector<void (*)(int)> getSignalHandlers() {
  std::vector<void (*)(int)> handlers;
  for (int number = 1; number < SIGRTMIN; ++number) {
    struct sigaction action = {};
    sigaction(number, nullptr, &action);
    handlers.push_back(action.sa_handler);
  }
  return handlers;
}

/// They are the program's.
TEST(CompileTest, SignalsAreLeftAlone) {
  llvm::SmallString<128> folder;
  ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("signals", folder));
  CompileOptions options;
  options.input = MOEC_MODELS "/tinymoe/layer0_moe.onnx";
  options.output = (folder + "/layer.moec").str();
  options.reportFile = (folder + "/report.json").str();
  options.runtimeFolder = MOEC_RUNTIME;
  options.optLevel = 0;
  auto before = getSignalHandlers();
  EXPECT_EQ(compile(options).status, CompileStatus::Success);
  EXPECT_EQ(getSignalHandlers(), before);
  llvm::sys::fs::remove_directories(folder);
}

TEST(CompileTest, SeveralThreadsAtATime) {
  llvm::SmallString<128> folder;
  ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("compile", folder));
  std::vector<CompileResult> results(3);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < results.size(); ++i)
    threads.emplace_back([&, i] {
      CompileOptions options;
      options.input = MOEC_MODELS "/tinymoe/layer0_moe.onnx";
      options.output = (folder + "/" + llvm::Twine(i) + "/layer.moec").str();
      options.runtimeFolder = MOEC_RUNTIME;
      options.optLevel = 1;
      llvm::sys::fs::create_directory(folder + "/" + llvm::Twine(i));
      results[i] = compile(options);
    });
  for (std::thread &thread : threads)
    thread.join();
  for (const CompileResult &result : results) {
    ASSERT_EQ(result.status, CompileStatus::Success);
    for (llvm::StringRef file : {"liblayer.so", "liblayer.a", "layer.json", "layer.safetensors"}) {
      EXPECT_FALSE(read(result.package, file).empty());
      EXPECT_EQ(read(result.package, file), read(results[0].package, file));
    }
  }
  llvm::sys::fs::remove_directories(folder);
}

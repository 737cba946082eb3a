// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Damaged models: import may fail, with an error, but must not crash.

#include "moec/Frontend/ONNX/Importer.h"

#include "TestModel.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

#include <gtest/gtest.h>

#include <random>

using namespace mlir;

namespace {
class ImporterFuzz : public testing::Test {
protected:
  void SetUp() override {
    ASSERT_FALSE(llvm::sys::fs::createTemporaryFile("moec-fuzz", "onnx", path));
    context.getDiagEngine().registerHandler([&](Diagnostic &diagnostic) {
      numErrors += diagnostic.getSeverity() == DiagnosticSeverity::Error;
    });
  }
  void TearDown() override { llvm::sys::fs::remove(path); }

  /// Imports the bytes; a failure must come with exactly one error.
  bool import(const std::string &bytes) {
    std::error_code error;
    llvm::raw_fd_ostream(path, error) << bytes;
    numErrors = 0;
    bool imported = bool(moe::importONNX(path, &context));
    EXPECT_EQ(numErrors, imported ? 0u : 1u);
    return imported;
  }

  SmallString<128> path;
  MLIRContext context{MLIRContext::Threading::DISABLED};
  unsigned numErrors = 0;
};
} // namespace

TEST_F(ImporterFuzz, Intact) {
  EXPECT_TRUE(import(makeTestModel().SerializeAsString()));
  EXPECT_TRUE(import(makeTestModel(2).SerializeAsString()));
}

TEST_F(ImporterFuzz, TruncatedAnywhere) {
  std::string data = makeTestModel(2).SerializeAsString();
  for (size_t size = 0; size < data.size(); ++size)
    import(data.substr(0, size));
}

TEST_F(ImporterFuzz, ChangedBytes) {
  std::string data = makeTestModel(2).SerializeAsString();
  std::mt19937 random(7);
  for (int i = 0; i < 4000; ++i) {
    std::string changed = data;
    for (int n = random() % 3; n >= 0; --n)
      changed[random() % changed.size()] = static_cast<char>(random());
    import(changed);
  }
}

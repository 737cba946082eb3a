// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Compiler/Options.h"

#include "gtest/gtest.h"

using namespace mlir::moe;

static std::string set(CompileOptions &options, llvm::StringRef name, llvm::StringRef value) {
  return llvm::toString(setOption(options, name, value));
}

TEST(OptionsTest, SetsWhatTheTableSays) {
  CompileOptions options;
  EXPECT_EQ(set(options, "o", "x.moec"), "");
  EXPECT_EQ(set(options, "O", "1"), "");
  EXPECT_EQ(set(options, "threads", "custom"), "");
  EXPECT_EQ(set(options, "cpu", "znver4"), "");
  EXPECT_EQ(set(options, "dim", "batch=2"), "");
  EXPECT_EQ(set(options, "dim", "tokens=3"), "");
  EXPECT_EQ(set(options, "keep", "a"), "");
  EXPECT_EQ(set(options, "quiet", ""), "");
  EXPECT_EQ(set(options, "log-level", "remark"), "");
  EXPECT_EQ(set(options, "color", "always"), "");
  EXPECT_EQ(set(options, "verify-each", "true"), "");
  EXPECT_EQ(set(options, "no-raise", ""), "");
  EXPECT_EQ(set(options, "compile-to", "raise-moe"), "");
  EXPECT_EQ(options.output, "x.moec");
  EXPECT_EQ(options.optLevel, 1u);
  EXPECT_EQ(options.threads, Threads::Custom);
  EXPECT_EQ(options.cpu, "znver4");
  ASSERT_EQ(options.dims.size(), 2u);
  EXPECT_EQ(options.dims[1].first, "tokens");
  EXPECT_EQ(options.dims[1].second, 3);
  EXPECT_EQ(options.keep, std::vector<std::string>{"a"});
  EXPECT_TRUE(options.quiet);
  EXPECT_TRUE(options.verifyEach);
  EXPECT_TRUE(options.noRaise);
  EXPECT_EQ(options.logLevel, Severity::Remark);
  EXPECT_EQ(options.color, ColorMode::Always);
  EXPECT_EQ(options.compileTo, "raise-moe");

  EXPECT_EQ(set(options, "quiet", "false"), "");
  EXPECT_FALSE(options.quiet);
}

TEST(OptionsTest, WrongOnesChangeNothing) {
  CompileOptions options;
  EXPECT_EQ(set(options, "threds", "none"), "unknown option '--threds'; did you mean '--threads'?");
  EXPECT_EQ(set(options, "q", ""), "unknown option '-q'");
  EXPECT_EQ(set(options, "threads", "nnoe"), "--threads cannot be 'nnoe'; did you mean 'none'?");
  EXPECT_EQ(set(options, "target", "toaster"),
            "--target cannot be 'toaster'; it can only be cpu, cuda, cpu,cuda");
  EXPECT_EQ(set(options, "O", "-1"), "-O cannot be '-1'; it can only be 0, 1, 2, 3");
  EXPECT_EQ(set(options, "dim", "batch=many"), "--dim needs name=size, got 'batch=many'");
  EXPECT_EQ(set(options, "quiet", "1"), "--quiet needs 'true' or 'false', got '1'");
  EXPECT_EQ(options.threads, Threads::OpenMP);
  EXPECT_EQ(options.optLevel, 3u);
  EXPECT_TRUE(options.dims.empty());
  EXPECT_FALSE(options.quiet);
}

/// A choice that is listed and refused would be a dead entry.
TEST(OptionsTest, EveryChoiceIsTaken) {
  for (const OptionDescription &option : getOptions()) {
    EXPECT_EQ(findOption(option.name), &option);
    EXPECT_FALSE(option.help.empty());
    for (const OptionChoice &choice : option.choices) {
      CompileOptions options;
      EXPECT_EQ(set(options, option.name, choice.value), "");
      EXPECT_FALSE(choice.help.empty());
    }
  }
}

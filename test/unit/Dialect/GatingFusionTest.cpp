// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/MoE/Transforms/GatingFusion.h"

#include "llvm/Support/MemoryBuffer.h"
#include "gtest/gtest.h"

using namespace mlir::moe;

/// docs/gating.md is a heading and text, then the tables between two marks.
TEST(GatingFusion, DocumentationIsGenerated) {
  auto file = llvm::MemoryBuffer::getFile(MOEC_SOURCE_DIR "/docs/gating.md");
  ASSERT_TRUE(bool(file));
  llvm::StringRef begin = "<!-- generated: begin -->\n", end = "<!-- generated: end -->";
  llvm::StringRef text = (*file)->getBuffer();
  std::string tables = text.split(begin).second.split(end).first.str();
  EXPECT_EQ(tables, describeGatingFusion()) << "replace the tables of docs/gating.md by these";
}

TEST(GatingFusion, PlainRoutersAreFused) {
  GatingCombination gating;
  gating.score = ScoreFn::Sigmoid;
  EXPECT_TRUE(whyNotFused(gating).empty());
  gating.axis = Axis::Tokens;
  EXPECT_FALSE(whyNotFused(gating).empty());
}

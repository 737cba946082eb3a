// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Support/DimExpression.h"

#include <gtest/gtest.h>

using namespace mlir::moe;

static llvm::StringMap<int64_t> sizes() {
  llvm::StringMap<int64_t> map;
  map["batch"] = 2;
  map["seq"] = 5;
  map["past key"] = 7;
  return map;
}

TEST(DimExpression, Evaluates) {
  EXPECT_EQ(evaluateDim("12", {}), 12);
  EXPECT_EQ(evaluateDim("batch", sizes()), 2);
  EXPECT_EQ(evaluateDim("past key", sizes()), 7);
  EXPECT_EQ(evaluateDim("2*batch*seq", sizes()), 20);
  EXPECT_EQ(evaluateDim("batch + seq", sizes()), 7);
  EXPECT_EQ(evaluateDim("Min(8, seq)", sizes()), 5);
  EXPECT_EQ(evaluateDim("Max(8, seq, 3)", sizes()), 8);
  EXPECT_EQ(evaluateDim("((24*seq + 24*batch)//(batch*seq))", sizes()), 16);
  EXPECT_EQ(evaluateDim("seq - 1", sizes()), 4);
  EXPECT_EQ(evaluateDim("-seq + 6", sizes()), 1);
}

TEST(DimExpression, LeavesOthersOpen) {
  EXPECT_EQ(evaluateDim("", {}), std::nullopt);
  EXPECT_EQ(evaluateDim("batch*other", sizes()), std::nullopt);
  EXPECT_EQ(evaluateDim("batch*", sizes()), std::nullopt);
  EXPECT_EQ(evaluateDim("(batch", sizes()), std::nullopt);
  EXPECT_EQ(evaluateDim("seq//0", sizes()), std::nullopt);
  EXPECT_EQ(evaluateDim("99999999999999999999", {}), std::nullopt);
  EXPECT_EQ(evaluateDim("4611686018427387904*4", {}), std::nullopt);
  EXPECT_EQ(evaluateDim(std::string(100000, '('), {}), std::nullopt);
  EXPECT_EQ(evaluateDim(std::string(100000, '-'), {}), std::nullopt);
}

TEST(DimExpression, Substitutes) {
  EXPECT_EQ(substituteDims("batch*other + seq", sizes()), "2*other + 5");
}

TEST(DimExpression, VisitsSymbols) {
  std::string found;
  visitSymbols("Min(8, seq) + u0//2", [&](llvm::StringRef symbol) { found += symbol.str() + ";"; });
  EXPECT_EQ(found, "seq;u0;");
}

TEST(DimExpression, KnowsSymbols) {
  EXPECT_TRUE(isDimSymbol("seq"));
  EXPECT_TRUE(isDimSymbol("x.0"));
  for (llvm::StringRef text : {"", "2", "2*seq", "past key", "Min", "-seq"})
    EXPECT_FALSE(isDimSymbol(text)) << text.str();
}

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/CostModel.h"
#include "gtest/gtest.h"

using mlir::moe::cpu::CostModel;

namespace {

CostModel describe(int64_t lanes, int64_t l1KiB, int64_t l2KiB) {
  return {lanes, l1KiB << 10, l2KiB << 10};
}

/// Machines that differ in what the model looks at.
const CostModel kMachines[] = {
    describe(16, 32, 1024), // AVX-512
    describe(16, 48, 2048), // AVX-512, larger caches
    describe(8, 32, 256),   // AVX2, small caches
    describe(8, 32, 1024),  describe(4, 16, 128), describe(16, 4, 4),
};

TEST(CostModel, MatchesMeasuredSizes) {
  CostModel machine = describe(16, 32, 1024);
  EXPECT_EQ(machine.maxAccumulators(), 24);
  EXPECT_EQ(machine.prefetchBytes(), 8 << 10);
  EXPECT_EQ(machine.taskBytes(), 64 << 10);
  EXPECT_EQ(machine.taskProducts(), 1 << 20);
  EXPECT_EQ(machine.taskElements(), 32 << 10);
  EXPECT_EQ(machine.taskTokens(), 16);
  EXPECT_EQ(machine.taskEvaluations(), 16 << 10);
  EXPECT_EQ(machine.rowsAtOnce(), 4);
  EXPECT_EQ(machine.keysPerTile(), 64);
  EXPECT_EQ(machine.attentionRows(), 64);
}

TEST(CostModel, FollowsVectors) {
  CostModel narrow = describe(8, 32, 1024), wide = describe(16, 32, 1024);
  EXPECT_EQ(narrow.numRegisters(), 16);
  EXPECT_EQ(narrow.maxAccumulators(), 12);
  // As long a time with vectors half as wide.
  EXPECT_EQ(2 * narrow.taskProducts(), wide.taskProducts());
  EXPECT_EQ(2 * narrow.taskEvaluations(), wide.taskEvaluations());
  EXPECT_EQ(narrow.keysPerTile(), 16);
  EXPECT_EQ(2 * narrow.expertsInRegisters(), wide.expertsInRegisters() / 2);
}

TEST(CostModel, FollowsCaches) {
  CostModel small = describe(8, 16, 256), large = describe(8, 48, 2048);
  EXPECT_EQ(small.prefetchBytes(), 4 << 10);
  EXPECT_EQ(large.prefetchBytes(), 12 << 10);
  EXPECT_EQ(8 * small.taskBytes(), large.taskBytes());
  EXPECT_EQ(8 * small.taskProducts(), large.taskProducts());
  EXPECT_EQ(8 * small.taskElements(), large.taskElements());
  EXPECT_EQ(small.taskTokens(), large.taskTokens());
  // Caches change no result.
  EXPECT_EQ(small.keysPerTile(), large.keysPerTile());
  EXPECT_EQ(small.attentionRows(), large.attentionRows());
}

TEST(CostModel, FitsEveryMachine) {
  for (const CostModel &machine : kMachines) {
    SCOPED_TRACE(testing::Message() << machine.lanes << " lanes, " << machine.l2Bytes << " bytes");
    // Sums, what is added to them, and a broadcast.
    int64_t rows = machine.rowsAtOnce(), keys = machine.keyVectors();
    EXPECT_LE(rows * keys + keys + 1, machine.numRegisters());
    EXPECT_LE(rows * CostModel::kRowVectors + CostModel::kRowVectors + 1, machine.numRegisters());
    EXPECT_GE(rows * keys, machine.minAccumulators());
    EXPECT_LE(machine.prefetchBytes(), machine.l1Bytes / 2);
    EXPECT_GT(machine.taskBytes(), 0);
    EXPECT_GT(machine.taskElements(), 0);
    EXPECT_EQ(machine.taskTokens(1 << 30), 1);
    EXPECT_GT(machine.taskTokens(64), machine.taskTokens(4096));
    EXPECT_EQ(machine.attentionRows() % rows, 0);
  }
}

TEST(CostModel, GivesEachTokenToAGPU) {
  CostModel warp = describe(32, 32, 1024);
  EXPECT_EQ(warp.taskTokens(), 1);
  EXPECT_EQ(warp.taskTokens(16), 1);
}

} // namespace

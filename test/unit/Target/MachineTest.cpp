// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/Machine.h"

#include "llvm/ADT/STLExtras.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace llvm;
using namespace mlir::moe;

static Machine get(StringRef name) {
  Expected<Machine> machine = Machine::get(name);
  if (!machine) {
    ADD_FAILURE() << toString(machine.takeError());
    return {};
  }
  return *machine;
}

TEST(Machine, Baseline) {
  Machine machine = get("x86-64");
  EXPECT_EQ(machine.vectorBits, 128);
  EXPECT_TRUE(machine.features.empty());
  EXPECT_EQ(machine.getFeatureString(), "");
}

TEST(Machine, V3) {
  Machine machine = get("x86-64-v3");
  EXPECT_EQ(machine.vectorBits, 256);
  EXPECT_EQ(machine.numVectorRegisters, 16);
  EXPECT_TRUE(machine.hasFMA);
  EXPECT_TRUE(machine.hasF16C);
  EXPECT_FALSE(machine.hasAVX512);
  EXPECT_EQ(machine.getFeatureString(), "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,"
                                        "+sse3,+sse4.1,+sse4.2,+ssse3");
}

TEST(Machine, V4) {
  Machine machine = get("x86-64-v4");
  EXPECT_EQ(machine.vectorBits, 512);
  EXPECT_EQ(machine.numVectorRegisters, 32);
  EXPECT_TRUE(machine.hasAVX512);
  EXPECT_FALSE(machine.hasAVX512BF16);
  EXPECT_FALSE(machine.hasAMXBF16);
}

TEST(Machine, SapphireRapids) {
  Machine machine = get("sapphirerapids");
  EXPECT_TRUE(machine.hasAVX512BF16);
  EXPECT_TRUE(machine.hasAVX512VNNI);
  EXPECT_TRUE(machine.hasAVXVNNI);
  EXPECT_TRUE(machine.hasAMXBF16);
  EXPECT_TRUE(machine.hasAMXInt8);
  EXPECT_TRUE(is_sorted(machine.features));
}

TEST(Machine, NativeIsItself) {
  Machine machine = get("native");
  EXPECT_EQ(machine.name, "native");
  EXPECT_TRUE(is_sorted(machine.features));
  EXPECT_GT(machine.l1Bytes, 0);
  EXPECT_GT(machine.l2Bytes, 0);
}

static std::vector<std::string> getLevelNames(StringRef list) {
  Expected<std::vector<Machine>> levels = Machine::getLevels(list);
  if (!levels)
    return {toString(levels.takeError())};
  std::vector<std::string> names;
  for (const Machine &machine : *levels)
    names.push_back(machine.name);
  return names;
}

TEST(Machine, Levels) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(getLevelNames("native"), Names({"native"}));
  EXPECT_EQ(getLevelNames("multi"), Names({"x86-64-v3", "x86-64-v4", "sapphirerapids"}));
  // Neither runs all that the other does.
  EXPECT_EQ(getLevelNames("znver4,sapphirerapids"), Names({"znver4", "sapphirerapids"}));
  EXPECT_THAT(getLevelNames("x86-64-v3,znver4,x86-64-v4"),
              testing::ElementsAre(testing::HasSubstr("code for 'znver4' would never be chosen")));
}

TEST(Machine, UnknownNameSuggests) {
  Expected<Machine> machine = Machine::get("saphirerapids");
  ASSERT_FALSE(bool(machine));
  std::string message = toString(machine.takeError());
  EXPECT_NE(message.find("unknown CPU 'saphirerapids'; did you mean 'sapphirerapids'?"),
            std::string::npos)
      << message;
}

TEST(Machine, ThirtyTwoBitIsUnknown) {
  Expected<Machine> machine = Machine::get("pentium4");
  EXPECT_FALSE(bool(machine));
  consumeError(machine.takeError());
}

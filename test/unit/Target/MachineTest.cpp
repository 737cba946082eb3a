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

TEST(Machine, Caches) {
  Expected<std::vector<Machine>> levels =
      Machine::getLevels("x86-64-v3,l1=48K,x86-64-v4,l2=2M,l1=65536");
  ASSERT_TRUE(bool(levels));
  ASSERT_EQ(levels->size(), 2u);
  EXPECT_EQ((*levels)[0].l1Bytes, 48 << 10);
  EXPECT_EQ((*levels)[0].l2Bytes, 1 << 20);
  EXPECT_EQ((*levels)[1].l1Bytes, 65536);
  EXPECT_EQ((*levels)[1].l2Bytes, 2 << 20);
  using testing::ElementsAre, testing::HasSubstr;
  EXPECT_THAT(getLevelNames("l2=2M,native"), ElementsAre(HasSubstr("before the name of a CPU")));
  for (const char *wrong : {"l2=", "l2=2G", "l2=-1", "l2=0", "l2=1K", "l2=1025M", "l3=32M",
                            "l2=99999999999999999999M", "l1", "l1=32 K"})
    EXPECT_THAT(getLevelNames("x86-64-v3," + std::string(wrong)),
                ElementsAre(testing::AnyOf(HasSubstr("is no cache"), HasSubstr("unknown CPU"))))
        << wrong;
  EXPECT_THAT(getLevelNames("x86-64-v3,l1=2M"), ElementsAre(HasSubstr("larger L1")));
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

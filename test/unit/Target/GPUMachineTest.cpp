// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CUDA/Kernels.h"

#include <gtest/gtest.h>

using namespace llvm;
using namespace mlir::moe;

TEST(GPUMachine, All) {
  int64_t capability = 0;
  for (const GPUMachine &machine : GPUMachine::all()) {
    EXPECT_GT(machine.capability, capability);
    capability = machine.capability;
    EXPECT_TRUE(machine.hasAsyncCopies());
    EXPECT_LT(machine.sharedPerBlock, machine.sharedPerMultiprocessor);
    Expected<GPUMachine> found = GPUMachine::get(machine.name);
    ASSERT_TRUE(bool(found));
    EXPECT_EQ(found->name, machine.name);
  }
}

TEST(GPUMachine, WarpgroupProducts) {
  for (const GPUMachine &machine : GPUMachine::all())
    EXPECT_EQ(machine.hasWarpgroupProducts(), machine.name == "sm_90a");
}

TEST(GPUMachine, Unknown) {
  Expected<GPUMachine> machine = GPUMachine::get("sm_90");
  ASSERT_FALSE(bool(machine));
  EXPECT_TRUE(StringRef(toString(machine.takeError())).contains("unknown GPU architecture 'sm_90'"));
}

TEST(CUDAToolkit, Absent) {
  Expected<CUDAToolkit> toolkit = CUDAToolkit::find("/nonexistent");
  ASSERT_FALSE(bool(toolkit));
  EXPECT_EQ(toString(toolkit.takeError()),
            "no ptxas of a CUDA Toolkit in /nonexistent/bin; install the toolkit, set CUDA_HOME to "
            "its folder, or choose --gpu-format=ptx, which needs none");
}

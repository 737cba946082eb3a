// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Runs kernels of a GPU on the CPU: every thread of a block is a fiber.
//
// A fiber runs until it waits for others of its warp or its block. Fibers that can run are taken in
// rising order in one launch and in falling order in the next, so that a missing barrier shows.
// Asynchronous copies are made when they are waited for, not before. Blocks run one after the other:
// one that would wait for a later one is an error.

#ifndef MOEC_TEST_DIFFERENTIAL_EMULATOR_H
#define MOEC_TEST_DIFFERENTIAL_EMULATOR_H

#include "mlir/Pass/Pass.h"
#include "llvm/ADT/STLFunctionalExtras.h"

namespace mlir::moe {

/// --emulate-gpu: launches become parallel loops over all threads, in which kernels are functions
/// that call the emulator.
void registerEmulateGPU();

/// The functions that such kernels call, by name.
void forEachEmulatorFunction(llvm::function_ref<void(llvm::StringRef, void *)> body);

/// Whether the next parallel loop is a launch, and its threads.
bool isEmulatedLaunch();
void runEmulatedLaunch(void (*body)(void *, int64_t, int32_t), void *context);

} // namespace mlir::moe

#endif // MOEC_TEST_DIFFERENTIAL_EMULATOR_H

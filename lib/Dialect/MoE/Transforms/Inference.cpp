// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-inference: routing without random numbers.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "moec/Dialect/MoE/IR/MoE.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEINFERENCEPASS
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct InferencePass : moe::impl::MoEInferencePassBase<InferencePass> {
  void runOnOperation() override {
    getOperation()->walk([&](LogitsOp op) { erase(op.getNoiseMutable()); });
    getOperation()->walk([&](FilterOp op) { erase(op.getRandomMutable()); });
  }

private:
  void erase(MutableOperandRange operand) {
    numErased += operand.size();
    operand.clear();
  }
};

} // namespace

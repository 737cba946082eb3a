// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Conversion/MoEToCPU/MoEToCPU.h"

#include "Lowering.h"
#include "mlir/Dialect/AMX/AMXDialect.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Support/Unsupported.h"
#include "llvm/ADT/StringSwitch.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETOCPUPASS
#include "moec/Conversion/MoEToCPU/MoEToCPU.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

/// Dead sources of packed weights go; every other moe op that is left has no kernel.
static LogicalResult eraseAndCheck(ModuleOp module, KernelTarget target) {
  bool ok = true;
  SmallVector<Operation *> left;
  module.walk([&](Operation *op) { left.push_back(op); });
  for (Operation *op : llvm::reverse(left)) {
    if (op->getNumResults() && op->use_empty() && isMemoryEffectFree(op)) {
      op->erase();
      continue;
    }
    if (Lowering::handles(op) || isa<DequantizeOp>(op)) {
      emitUnsupported(op) << "has no " << target.processor()
                          << " kernel in this form; compile with -O0";
      ok = false;
    }
  }
  return success(ok);
}

LogicalResult mlir::moe::cpu::lowerAll(ModuleOp module, Lowering &lowering, KernelTarget target) {
  // Kernels are added to the module meanwhile.
  SmallVector<func::FuncOp> functions(module.getOps<func::FuncOp>());
  SmallVector<Operation *> ops;
  bool ok = true;
  for (func::FuncOp function : functions) {
    lowering.takeRoutings(function);
    function.walk([&](Operation *op) {
      if (Lowering::handles(op))
        ops.push_back(op);
    });
  }
  for (Operation *op : ops)
    ok &= succeeded(lowering.lower(op));
  if (!ok)
    return failure();
  for (func::FuncOp function : functions)
    lowering.returnRoutings(function);
  for (Operation *op : llvm::reverse(ops))
    if (op->use_empty())
      op->erase();
  for (func::FuncOp function : functions)
    Lowering::eraseRoutingArguments(function);
  lowering.annotate();
  return eraseAndCheck(module, target);
}

namespace {

struct MoEToCPUPass : public moe::impl::MoEToCPUPassBase<MoEToCPUPass> {
  using MoEToCPUPassBase::MoEToCPUPassBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (vectorBits != 128 && vectorBits != 256 && vectorBits != 512) {
      module.emitError() << "vector-bits = " << vectorBits << ", expected 128, 256 or 512";
      return signalPassFailure();
    }
    auto operands = llvm::StringSwitch<std::optional<Operands>>(operandType)
                        .Case("f32", Operands::F32)
                        .Case("bf16", Operands::BF16)
                        .Case("int8", Operands::Int8)
                        .Default(std::nullopt);
    if (!operands || (*operands == Operands::BF16 && vectorBits != 512)) {
      module.emitError() << "operands = " << operandType
                         << ", expected f32, int8, or bf16 with vector-bits = 512";
      return signalPassFailure();
    }
    auto tiles = llvm::StringSwitch<std::optional<Tiles>>(tileUnit)
                     .Case("none", Tiles::None)
                     .Case("amx", Tiles::AMX)
                     .Case("vectors", Tiles::Vectors)
                     .Default(std::nullopt);
    bool canTile = operands != Operands::F32 && vectorBits == 512;
    if (!tiles || (*tiles != Tiles::None && !canTile)) {
      module.emitError() << "tiles = " << tileUnit
                         << ", expected none, or amx or vectors with operands = bf16 or int8 and "
                            "vector-bits = 512";
      return signalPassFailure();
    }
    if (l1Bytes < 4096 || l2Bytes < l1Bytes) {
      module.emitError()
          << "l1-bytes = " << l1Bytes << " and l2-bytes = " << l2Bytes
          << ", expected at least 4096, and the second not to be less than the first";
      return signalPassFailure();
    }
    KernelTarget target = {{vectorBits / 32, l1Bytes, l2Bytes}, *operands, *tiles, hasVNNI};
    Lowering lowering(module, target);
    if (failed(lowerAll(module, lowering, target)))
      signalPassFailure();
    numCalls = lowering.numCalls;
  }
};

} // namespace

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_RAISEMOE_RAISEMOE_TD
#define MOEC_CONVERSION_RAISEMOE_RAISEMOE_TD

include "mlir/Pass/PassBase.td"

def RaiseMoE : Pass<"raise-moe", "::mlir::ModuleOp"> {
  let summary = "raise MoE nodes of an ONNX graph to the moe dialect";
  let description = [{
    Replaces the contrib operators `com.microsoft.MoE` and `com.microsoft.QMoE` by
    `moe.score`, `moe.select`, `moe.weigh`, `moe.dispatch`, `moe.expert_ffn` and
    `moe.combine` (with `moe.dequantize` for QMoE), and the matrix product that
    yields their logits by `moe.logits`. `moe.expert_ffn` carries the names of the
    nodes it came from in the attribute `moe.sources`.

    A node that is illegal, or that asks for what moec does not compute, is an error
    at the node; the pass reports all such nodes and then fails.

    Deviations from ONNX Runtime's CPU provider, whose numbers are otherwise meant:
    equal keys select the lower expert index, `use_sparse_mixer` and fc3 are computed,
    and no route is dropped for its weight being zero or negative.
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect", "::mlir::moe::onnx::ONNXDialect",
                           "::mlir::tensor::TensorDialect", "::mlir::arith::ArithDialect",
                           "::mlir::LLVM::LLVMDialect"];
}

#endif

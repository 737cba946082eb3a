// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_MOETOONNX_MOETOONNX_TD
#define MOEC_CONVERSION_MOETOONNX_MOETOONNX_TD

include "mlir/Pass/PassBase.td"

def MoEToONNX : Pass<"moe-to-onnx", "::mlir::ModuleOp"> {
  let summary = "write MoE operations as nodes of an ONNX graph";
  let description = [{
    The way back from `--raise-moe`, run after `--moe-fuse-experts`. Each `moe.experts` becomes

    - `com.microsoft.MoE` when its weights are real numbers, its routing is the softmax of
      logits over the k largest, and its activation is relu, gelu (tanh), silu, identity, or
      silu times a linear part: all that ONNX Runtime's CPU provider computes. Gate and
      linear rows are interleaved, whatever they were. The node is always the normalised one;
      where the probabilities are not normalised its result is multiplied by their sum.
    - `com.microsoft.QMoE` when its weights are quantised, with any routing: one that is not
      the above is given as `router_weights`, and `router_probs` only select.
    - standard operators otherwise: the matrices of a token's experts are gathered. A missed
      remark of category `moe-to-onnx` says what the contrib operators lack.

    Rows of weights are moved by transforms of their `moe.weight`, so that no bytes are read
    here. Operations of the tensor and arith dialects that describe shapes become nodes too;
    `moe.check` is left out, since operators check their own operands. Types of values
    between the new nodes are left to `--normalize-onnx`. An operation that has no
    counterpart is an error that names it; all of them are reported.
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect", "::mlir::moe::onnx::ONNXDialect"];
  let statistics = [Statistic<"numContrib", "contrib-nodes", "MoE and QMoE nodes written">,
                    Statistic<"numStandard", "standard", "blocks written as standard operators">];
}

#endif

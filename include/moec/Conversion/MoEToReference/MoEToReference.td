// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_MOETOREFERENCE_MOETOREFERENCE_TD
#define MOEC_CONVERSION_MOETOREFERENCE_MOETOREFERENCE_TD

include "mlir/Pass/PassBase.td"

def MoEToReferencePass : Pass<"moe-to-reference"> {
  let summary = "lower each moe op to its plain meaning in linalg, scf and arith";
  let description = [{
    Each op on tensors becomes loops that can be read beside its formula: this is
    -O0, and what optimized lowerings are tested against.

    A `!moe.routing` becomes two dense tensors: `slots` [T,E] (i32, at which slot a
    token chose an expert, -1 where it did not) and, when weighted, `weights` [T,E]
    (f32), 0 where there is no slot. Rows tensors have T·k rows, in the order expert,
    then token; rows past the number S of (token, expert) pairs are zero.

    Arithmetic is in f32 (f64 when an operand is f64), rounded once to an op's result
    type; inside `moe.gating`, `moe.expert_ffn` and `moe.experts` nothing is rounded.
    Sums run over rising indices; `moe.combine` adds in the order of the slots unless
    told otherwise. Only sizes of operands determine the sizes of the tensors. A
    `group_size` that does not divide the tokens fails a `moe.check`; the last group is
    then a smaller one.
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::LLVM::LLVMDialect", "::mlir::math::MathDialect", "::mlir::moe::MoEDialect",
    "::mlir::scf::SCFDialect", "::mlir::tensor::TensorDialect"];
}

#endif

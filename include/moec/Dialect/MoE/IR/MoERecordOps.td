// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What of a routing leaves the program. Apart from MoEOps.td, so that the many files which
// make and lower routings do not depend on it.

#ifndef MOEC_DIALECT_MOE_IR_MOERECORDOPS_TD
#define MOEC_DIALECT_MOE_IR_MOERECORDOPS_TD

include "moec/Dialect/MoE/IR/MoEOpBase.td"

def MoE_EntriesOp : MoE_ReifyOp<"entries"> {
  let summary = "the entries of a routing as tensors";
  let description = [{
    ids[T,k]: the expert in each slot of each of the `tokens` tokens of the routing, -1
    where the slot is empty; weights[T,k], 0 where it is empty. `moe.given` is the way
    back.

    C1: ids and weights have the routing's k columns. C2: weights if and only if the
    routing is weighted.
  }];
  let arguments = (ins MoE_RoutingType:$routing, Index:$tokens);
  let results = (outs TensorRankOf<[I32], [2]>:$ids, Optional<TensorRankOf<[F32], [2]>>:$weights);
  let assemblyFormat = [{
    $routing `tokens` `(` $tokens `)` attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

#endif

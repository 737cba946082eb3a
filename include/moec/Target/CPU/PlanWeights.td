// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_TARGET_CPU_PLANWEIGHTS_TD
#define MOEC_TARGET_CPU_PLANWEIGHTS_TD

include "mlir/Pass/PassBase.td"

def PlanWeights : Pass<"plan-weights", "::mlir::ModuleOp"> {
  let summary = "Give every used weight its place in the weights file";
  let description = [{
    Sets `offset` and `expert_stride` (bytes in the data section) of each
    `moe.weight`. Weights without a user are erased; weights with the same sources,
    transforms and type become one.

    A weight without a bank is contiguous and starts at a multiple of 64. The
    members of a bank lie together, in the order of the module: expert e of all
    members is one range that starts at a multiple of 4096 (a page), so that one
    expert can be read, moved or dropped alone. Within it each member starts at a
    multiple of 64, and `expert_stride` is the size of the range.

    Places depend only on the order of the weights in the module. It is an error when
    the file would become larger than files can be.
  }];
  let statistics = [
    Statistic<"numErased", "erased", "weights without a user">,
    Statistic<"numMerged", "merged", "weights equal to another one">
  ];
}

#endif

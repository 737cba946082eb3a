// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_PLANMEMORY_TD
#define MOEC_CONVERSION_PLANMEMORY_TD

include "mlir/Pass/PassBase.td"

def PlanMemory : Pass<"plan-memory", "::mlir::ModuleOp"> {
  let summary = "Place the temporaries of every entry in its one workspace";
  let description = [{
    Every `memref.alloc` of an entry becomes a `memref.view` of the `moe.workspace`
    argument at a 64-byte aligned offset; deallocations disappear. Temporaries that
    are not alive together, from their first access to their last, share memory, which is as
    large as the largest of them: the large ones choose first ("greedy by size", Pisarchyk and
    Lee 2020), where dynamic sizes are compared as if each dimension were 64. A temporary that
    is only copied into an output at its end becomes the output.

    Their sizes are arithmetic on constants, dimensions of inputs and outputs and
    `moe.num_workers`. `@f_workspace` is made from that arithmetic: from the inputs
    and the number of workers to the bytes of workspace. Temporaries of other sizes, which
    depend on data, are no part of it: they become `moe.allocate` where they stand and
    `moe.release` after their last use.

    Where all sizes are static, `moe.live_bytes` of the entry says how many bytes are alive
    together at most: the least that a workspace can have.

    It is an error when a temporary of the workspace outlives an iteration of its loop, or
    when a function that is no entry allocates.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::memref::MemRefDialect"];
}

#endif

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_PARALLELTORUNTIME_TD
#define MOEC_CONVERSION_PARALLELTORUNTIME_TD

include "mlir/Pass/PassBase.td"

def ParallelToRuntime : Pass<"parallel-to-runtime", "::mlir::ModuleOp"> {
  let summary = "Run parallel loops through moec_parallel_for";
  let description = [{
    The body of a one-dimensional `scf.parallel` without reductions becomes a private
    function `@f_body(%context: !llvm.ptr, %task: i64, %worker: i32)`; the loop becomes
    a call of `moec_parallel_for` (Runtime/model_abi.h) with one task per iteration.
    Values from outside travel in a struct on the caller's stack, constants are made
    again. `moe.worker_id` is the third argument. A parallel loop inside another one
    runs in order. The enclosing function needs an argument marked `moe.call`.

    Bodies must not wait for one another: the runtime promises no concurrency. It is an
    error when a loop has more than one dimension or reductions, when the function has
    no `moe.call` argument, or when `moe.worker_id` stands outside of a loop.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::func::FuncDialect",
                           "::mlir::LLVM::LLVMDialect", "::mlir::scf::SCFDialect"];
}

#endif

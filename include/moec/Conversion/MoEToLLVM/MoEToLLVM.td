// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_MOETOLLVM_TD
#define MOEC_CONVERSION_MOETOLLVM_TD

include "mlir/Pass/PassBase.td"

def MoEToLLVM : Pass<"moe-to-llvm", "::mlir::ModuleOp"> {
  let summary = "Lower what is left of the moe dialect, and make the C functions of each entry";
  let description = [{
    `moe.weight_buffer` becomes a descriptor of the weights file's memory at the
    weight's planned offset; `moe.num_workers`, `moe.check` and `moe.profile_mark` become
    calls of the runtime. Weights disappear.

    For each entry `@f` come the three functions of `moec_entry_desc`
    (Runtime/model_abi.h): `moec_entry_f_run`, `moec_entry_f_workspace` and
    `moec_entry_f_shapes`. Entries and
    private functions become internal.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::func::FuncDialect",
                           "::mlir::LLVM::LLVMDialect", "::mlir::scf::SCFDialect"];
}

#endif

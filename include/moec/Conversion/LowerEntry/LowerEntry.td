// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_LOWERENTRY_TD
#define MOEC_CONVERSION_LOWERENTRY_TD

include "mlir/Pass/PassBase.td"

def LowerEntry : Pass<"lower-entry", "::mlir::ModuleOp"> {
  let summary = "Give every public function on tensors the memory interface of an entry";
  let description = [{
    A public function `@f` from tensors to tensors becomes

    ```mlir
    func.func @f(%in0: memref<?x128xf32>, ..., %out0: memref<?x128xf32> {moe.output}, ...,
                 %workspace: memref<?xi8> {moe.workspace}, %weights: !llvm.ptr {moe.weights},
                 %call: !llvm.ptr {moe.call}) attributes {moe.entry}
    ```

    Inputs are never written. `moe.current_call` becomes the last argument. Beside it
    `@f_shapes` appears: from the inputs to every dimension of every output, in
    order, as index values. It is an error when such a dimension depends on the
    elements of a tensor. Each `moe.check` of a condition on sizes only becomes a result
    of `@f_checks`, which has the messages as its attribute `moe.messages`: nothing of
    the entry runs unless all of them hold.
  }];
  let dependentDialects = [
    "::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
    "::mlir::bufferization::BufferizationDialect", "::mlir::LLVM::LLVMDialect",
    "::mlir::memref::MemRefDialect", "::mlir::tensor::TensorDialect"];
}

#endif

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_RAISELINEAR_RAISELINEAR_TD
#define MOEC_CONVERSION_RAISELINEAR_RAISELINEAR_TD

include "mlir/Pass/PassBase.td"

def RaiseLinear : Pass<"raise-linear", "::mlir::ModuleOp"> {
  let summary = "raise products with constant matrices to moe.linear";
  let description = [{
    A normalized `MatMul` x[..., K] · W[K, N] and a `Gemm` x[M, K] · W + b become
    `moe.linear` when W is a constant of type f32, f16 or bf16, or the transpose of one:
    the same packed weights and kernels as the experts' then compute it. Leading
    dimensions of x are one dimension of rows meanwhile. An `Add` of a constant bias [N],
    the only user of the product, becomes part of it.

    A `Gemm` with `alpha`, `beta` or `transA`, a bias of another shape, an x of rank 1 or
    of unknown rank or K, and f64 stay what they are. Nothing is an error.

    ```mlir
    %y = onnx.node "MatMul"(%x, %w) {...} : (tensor<?x?x64xf32>, tensor<64x32xf32>) -> tensor<?x?x32xf32>
    // becomes
    %rows = tensor.collapse_shape %x [[0, 1], [2]] : tensor<?x?x64xf32> into tensor<?x64xf32>
    %l = moe.linear %rows, %w {layout = #moe.layout<in_out>}
        : (tensor<?x64xf32>, tensor<64x32xf32>) -> tensor<?x32xf32>
    %y = tensor.expand_shape %l [[0, 1], [2]] output_shape [%d0, %d1, 32]
        : tensor<?x32xf32> into tensor<?x?x32xf32>
    ```
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect", "::mlir::moe::onnx::ONNXDialect",
                           "::mlir::tensor::TensorDialect", "::mlir::arith::ArithDialect"];
  let statistics = [Statistic<"numRaised", "raised", "moe.linear created">];
}

#endif

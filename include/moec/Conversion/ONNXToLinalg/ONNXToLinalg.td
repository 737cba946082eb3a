// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_ONNXTOLINALG_ONNXTOLINALG_TD
#define MOEC_CONVERSION_ONNXTOLINALG_ONNXTOLINALG_TD

include "mlir/Pass/PassBase.td"

def ONNXToLinalg : Pass<"onnx-to-linalg", "::mlir::ModuleOp"> {
  let summary = "lower normalized ONNX nodes to linalg on tensors";
  let description = [{
    Replaces every `onnx.node` by linalg, tensor, arith and math ops, with dynamic
    shapes; what has an order (TopK, scattering) by scf loops. A model with operators that have no lowering is refused with one error
    that names them all, each with its nodes.

    - Integer tensors of rank 0 or 1 with few elements (shapes) are computed as
      scalars, so that sizes stay arithmetic on the dimensions of the inputs.
    - Dimensions that cannot be proved equal are compared at run time (`moe.check`):
      a size of 1 broadcasts, anything else is an error of the call.
    - f16 and bf16 are computed in f32 and rounded once per node.
    - With `vector-bits`, attention on heads of a static size becomes a call of a kernel: parallel
      over batches, key heads and blocks of query rows, with vector exponentials. On a GPU it is one
      launch, by tensor cores in f16 and bf16.
  }];
  let options = [
    Option<"vectorBits", "vector-bits", "int64_t", "0",
           "width of a vector register (128, 256 or 512); 1024: kernels of a GPU, whose warps have 32 "
           "lanes; 0: no kernels, linalg only">,
  ];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::bufferization::BufferizationDialect",
    "::mlir::func::FuncDialect", "::mlir::gpu::GPUDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::LLVM::LLVMDialect", "::mlir::math::MathDialect", "::mlir::NVVM::NVVMDialect",
    "::mlir::memref::MemRefDialect", "::mlir::moe::MoEDialect",
    "::mlir::moe::onnx::ONNXDialect", "::mlir::scf::SCFDialect",
    "::mlir::tensor::TensorDialect", "::mlir::vector::VectorDialect"];
}

#endif

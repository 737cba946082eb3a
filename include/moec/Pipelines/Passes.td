// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_PIPELINES_PASSES_TD
#define MOEC_PIPELINES_PASSES_TD

include "mlir/Pass/PassBase.td"

def PrepareBufferization : Pass<"prepare-bufferization"> {
  let summary = "Let tensors be computed where they are needed";
  let description = [{
    Each operand of a concatenation is written into its slice. Empty and filled
    tensors that several operations start from are made once for each: sharing one
    would cost a copy.
  }];
  let dependentDialects = ["::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::tensor::TensorDialect"];
}

def ExpandCopies : Pass<"expand-copies"> {
  let summary = "Make loops of copies that are not one block of memory";
  let description = [{
    A `memref.copy` between contiguous memrefs stays and becomes memcpy; for any other
    one upstream calls a runtime function that a moec library does not have.
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect"];
}

def OrderLoops : Pass<"order-loops"> {
  let summary = "Put the loop that walks memory with stride 1 innermost";
  let description = [{
    On linalg operations, before they become loops: a matrix product runs over rows,
    then the reduction, then columns, so that the innermost loop can be vectorised.
    The order of additions into one element does not change.
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect"];
}

def ApproximateVectorMath : Pass<"approximate-vector-math"> {
  let summary = "Polynomials in place of math functions on vectors";
  let description = [{
    Functions on vectors would become one libm call per lane. Functions on scalars
    stay, for libm.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
                           "::mlir::vector::VectorDialect"];
}

def HoistStackBuffers : Pass<"hoist-stack-buffers", "::mlir::func::FuncOp"> {
  let summary = "Move static memref.alloca to the start of the function";
  let description = [{
    A stack allocation in a loop would grow the stack with each iteration. Each
    iteration must write such a buffer before it reads it.
  }];
}

def ResolveExpandShape : Pass<"resolve-expand-shape"> {
  let summary = "Strides of memref.expand_shape into several unknown sizes";
  let description = [{
    `expand-strided-metadata` of MLIR 22 infers the sizes of a split dimension instead of
    reading them, and crashes when more than one is dynamic. Such an op becomes a
    `memref.reinterpret_cast` here.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::memref::MemRefDialect"];
}

#endif

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_PIPELINES_PASSES_TD
#define MOEC_PIPELINES_PASSES_TD

include "mlir/Pass/PassBase.td"

def PrepareBufferization : Pass<"prepare-bufferization"> {
  let summary = "Let tensors be computed where they are needed";
  let description = [{
    On tensors, before bufferization decides which of them share memory.

    Each operand of a `tensor.concat` is written into its slice of one
    `tensor.empty`. `tensor.empty` and `linalg.fill` that several operations start
    from are made once for each, in its block: sharing one would cost a copy. So are slices
    of a `tensor.empty`.

    ```mlir
    %c = tensor.concat dim(0) %a, %b : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?x4xf32>
    // becomes
    %e = tensor.empty(%rows) : tensor<?x4xf32>
    %i = tensor.insert_slice %a into %e[0, 0] [%n, 4] [1, 1] : tensor<?x4xf32> into tensor<?x4xf32>
    %c = tensor.insert_slice %b into %i[%n, 0] [2, 4] [1, 1] : tensor<2x4xf32> into tensor<?x4xf32>
    ```

    Shapes are those of the operands; nothing is an error.
  }];
  let dependentDialects = ["::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::tensor::TensorDialect"];
}

def ExpandCopies : Pass<"expand-copies"> {
  let summary = "Make loops of copies that are not one block of memory";
  let description = [{
    A `memref.copy` between contiguous memrefs stays and becomes memcpy; for any other
    one upstream calls a runtime function (`memrefCopy`) that a moec library does not
    have, so it becomes a `linalg.generic` that copies element by element. Both sides
    have one shape, of any rank, static or dynamic; nothing is an error.
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect"];
}

def OrderLoops : Pass<"order-loops"> {
  let summary = "Put the loop that walks memory with stride 1 innermost";
  let description = [{
    On linalg operations on memrefs of any shape, before they become loops: a matrix product runs over rows,
    then the reduction, then columns, so that the innermost loop can be vectorised.
    The order of additions into one element does not change, so neither do results.

    Named operations become `linalg.generic` for this; nothing is an error.
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect"];
}

def ApproximateVectorMath : Pass<"approximate-vector-math"> {
  let summary = "Polynomials in place of math functions on vectors";
  let description = [{
    Functions of the math dialect on vectors would become one libm call per lane; they
    become MLIR's polynomial approximations in float32. Functions on scalars stay, for libm. Nothing is
    an error: a function without an approximation stays too.

    Source of the polynomials: MLIR's `populateMathPolynomialApproximationPatterns`.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
                           "::mlir::vector::VectorDialect"];
}

def RoundToBFloat16 : Pass<"round-to-bfloat16"> {
  let summary = "Rounding of float32 to bfloat16 in integers";
  let description = [{
    `arith.truncf` from f32 to bf16, of scalars and vectors, becomes arithmetic on the bits:
    to nearest, ties to even, NaN to a quiet NaN. `--arith-expand` makes a selection
    between bf16 values of it, which LLVM computes on CPUs without bf16 by calls of
    `__truncsfbf2`, one per element. Nothing is an error.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect"];
}

def HoistStackBuffers : Pass<"hoist-stack-buffers", "::mlir::func::FuncOp"> {
  let summary = "Move static memref.alloca to the start of the function";
  let description = [{
    A stack allocation in a loop would grow the stack with each iteration. Every
    `memref.alloca` of static shape goes to the first block of its function; each
    iteration must write such a buffer before it reads it. Allocations of dynamic
    shape stay where they are.
  }];
}

def OutlineLoops : Pass<"outline-loops", "::mlir::ModuleOp"> {
  let summary = "The loops of an entry become functions; equal ones share one";
  let description = [{
    Every outermost `scf.for` of an entry that holds no parallel loop becomes a call of a
    private function, which is never inlined, of the values that the loop reads. Constants
    go into the function. Loops with the same text become calls of one function: identical
    layers share their code. LLVM's time for a function grows faster than the function:
    as one, that of a whole model takes minutes.
  }];
  let dependentDialects = ["::mlir::func::FuncDialect", "::mlir::scf::SCFDialect"];
}

def ResolveExpandShape : Pass<"resolve-expand-shape"> {
  let summary = "Strides of memref.expand_shape into several unknown sizes";
  let description = [{
    `expand-strided-metadata` of MLIR 22 infers the sizes of a split dimension instead of
    reading them, and crashes when more than one is dynamic. A `memref.expand_shape`
    that splits a dimension into several dynamic ones becomes a
    `memref.reinterpret_cast` with the sizes of the op and the strides that follow
    from them; others stay.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::memref::MemRefDialect"];
}

#endif

// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_LINALGTOVECTOR_LINALGTOVECTOR_TD
#define MOEC_CONVERSION_LINALGTOVECTOR_LINALGTOVECTOR_TD

include "mlir/Pass/PassBase.td"

def LinalgToVector : Pass<"linalg-to-vector", "::mlir::func::FuncOp"> {
  let summary = "Make parallel loops over vectors of linalg operations on memory";
  let description = [{
    A `linalg.generic` on memrefs of any shape becomes loops whose innermost one takes
    `vector-bits` / 32 elements at once, and what is left of them one by one. Its
    innermost loop must walk every operand with stride 1 or leave it alone, and its body
    must consist of operations that exist on vectors; mathematical functions must have
    an approximation in float32 (`--approximate-vector-math`). What does not depend on the innermost loop is computed before it. A
    reduction in the innermost loop must be a sum whose additions may be reordered, or a
    maximum or minimum.

    The leading parallel loops are one `scf.parallel` of tasks with about as much work
    each (see CostModel), so that few elements are one task; the number of workers plays no part, and so
    no result depends on it. Functions without a `moe.call` argument get sequential loops.

    Operations of another kind stay for `--convert-linalg-to-loops`; nothing is an error.
  }];
  let options = [Option<"vectorBits", "vector-bits", "int64_t", "512",
                        "Width of a vector register: 128, 256 or 512">];
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::scf::SCFDialect",
                           "::mlir::vector::VectorDialect"];
  let statistics = [Statistic<"numVectorized", "vectorized", "linalg operations">];
}

#endif

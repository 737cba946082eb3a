// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_ONNX_TRANSFORMS_PASSES_TD
#define MOEC_DIALECT_ONNX_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def NormalizeONNXPass : Pass<"normalize-onnx", "::mlir::ModuleOp"> {
  let summary = "one spelling per ONNX operator, types inferred, shapes folded";
  let description = [{
    In one walk over the graph:

    1. Each known operator gets the version since which its canonical form exists,
       and that form:
       - `axes` and `split` attributes become inputs (Squeeze, Unsqueeze, Reduce*,
         Split); missing `axes` are written out where the rank is known, and so are
         `axes` and `steps` of Slice and `perm` of Transpose;
       - axes count from the front where the rank is known;
       - Softmax of an operator set before 13 becomes a Softmax over one axis, between
         two Reshapes if need be;
       - Constant has the attribute `value`; Identity, no-op Cast, Reduce* over no
         axes and Min or Max of one input go away; Min, Max, Sum of more than two
         inputs become chains.
    2. Types are inferred: element types, ranks, static dimensions. A type that the
       model states is a hint: it fills what inference leaves open, and loses, with
       a warning, where they differ. Inputs that cannot go together (broadcasting,
       inner dimensions of a product) are an error at the node.
    3. Arithmetic on shapes (integer tensors of rank 0 and 1) is folded into
       Constants; known elements of a partly known shape count too.

    Unused nodes are erased. Unknown operators stay as they are.

    ```mlir
    %r = onnx.node "ReduceSum"(%x) {attributes = {axes = array<i64: -1>}, version = 11 : i64}
        : (tensor<?x8xf32>) -> tensor<*x!onnx.unknown>
    // becomes
    %a = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64}
        : () -> tensor<1xi64>
    %r = onnx.node "ReduceSum"(%x, %a) {version = 13 : i64}
        : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1xf32>
    ```
  }];
  let dependentDialects = ["::mlir::moe::onnx::ONNXDialect"];
  let statistics = [Statistic<"numFolded", "folded", "nodes folded into constants">];
}

def FuseAttentionPass : Pass<"fuse-attention", "::mlir::ModuleOp"> {
  let summary = "attention written as products and a Softmax becomes Attention";
  let description = [{
    On normalized nodes: `MatMul(Softmax(MatMul(q, transposed k) * scale + mask), v)` of rank 4
    becomes one `Attention`, which is lowered by tiles. Factors that are numbers may
    stand at the scores, the queries and the keys; there may be no mask or several summands;
    keys may be transposed by way of rank 3, with sizes cut out of a Shape, or from
    [batch, rows, heads, size]. Interior values must have no other reader.

    Where the numbers of heads are not known yet, the attribute `__broadcast_heads` has the
    lowering check that keys have one head or as many as queries.

    A Softmax of which NaN is replaced by zeros gives zeros for queries without keys;
    without that they give NaN, which the attribute `__empty_is_nan` keeps.

    A product of a Softmax that is left as it is gets a remark with the reason.
  }];
  let dependentDialects = ["::mlir::moe::onnx::ONNXDialect"];
  let statistics = [Statistic<"numFused", "fused", "products of a Softmax that became Attention">];
}

#endif

// What has no counterpart in ONNX: one error for each.
// RUN: moe-opt %s --moe-to-onnx --verify-diagnostics --split-input-file

!l = tensor<?x8xf32>
!r = !moe.routing<experts = 8, k = 8>
func.func @expert_choice(%l: !l) -> tensor<?x8xi32> {
  %c0 = arith.constant 0 : index
  %t = tensor.dim %l, %c0 : !l
  // expected-error@+1 {{a selection of tokens by the experts cannot be written as ONNX nodes}}
  %r = moe.select %l {k = 8, mode = #moe.select_mode<expert_topk>, capacity = #moe.capacity<4>} : (!l) -> !r
  %ids = moe.entries %r tokens(%t) : (!r, index) -> tensor<?x8xi32>
  return %ids : tensor<?x8xi32>
}

// -----

!l = tensor<?x8xf32>
!r = !moe.routing<experts = 8, k = 2>
func.func @capacities_and_loss(%l: !l) -> (tensor<?x2xi32>, tensor<f32>) {
  %c0 = arith.constant 0 : index
  %t = tensor.dim %l, %c0 : !l
  %r = moe.select %l {k = 2} : (!l) -> !r
  // expected-error@+1 {{a capacity that is filled by priority cannot be written as ONNX nodes}}
  %c = moe.capacity %r priority(%l) {capacity = #moe.capacity<4>, order = #moe.capacity_order<bpr>} : (!r, !l) -> !r
  %ids = moe.entries %c tokens(%t) : (!r, index) -> tensor<?x2xi32>
  // expected-error@+1 {{moe.aux cannot be written as ONNX nodes}}
  %z = moe.aux <z_loss> logits(%l) : (!l) -> tensor<f32>
  return %ids, %z : tensor<?x2xi32>, tensor<f32>
}

// -----

!l = tensor<?x8xf32>
!r = !moe.routing<experts = 8, k = 2>
!one = !moe.routing<experts = 8, k = 1>
func.func @candidates(%l: !l) -> tensor<?x1xi32> {
  %c0 = arith.constant 0 : index
  %t = tensor.dim %l, %c0 : !l
  %r = moe.select %l {k = 2} : (!l) -> !r
  // expected-error@+1 {{a capacity with candidates cannot be written as ONNX nodes}}
  %c = moe.capacity %r {capacity = #moe.capacity<4>, keep = 1} : (!r) -> !one
  %ids = moe.entries %c tokens(%t) : (!one, index) -> tensor<?x1xi32>
  return %ids : tensor<?x1xi32>
}

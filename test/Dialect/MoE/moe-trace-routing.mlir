// RUN: moe-opt %s --moe-trace-routing | FileCheck %s

!x = tensor<?x16xf32>
!r = !moe.routing<experts = 8, k = 2, weighted>
!m = tensor<8x16x16xf32>

// Blocks are named after the nodes they came from.

// CHECK: module attributes {moe.traced = ["layer0", "layer0_1", "block2"]}
// CHECK-LABEL: func @main
// CHECK-SAME: -> (tensor<?x16xf32>, tensor<?x2xi32> {onnx.dims = ["", "2"], onnx.name = "layer0.expert_ids"}, tensor<?x2xf32> {onnx.dims = ["", "2"], onnx.name = "layer0.weights"}, tensor<?x2xi32> {onnx.dims = ["", "2"], onnx.name = "layer0_1.expert_ids"}, tensor<?x2xf32> {onnx.dims = ["", "2"], onnx.name = "layer0_1.weights"}, tensor<?x2xi32> {onnx.dims = ["", "2"], onnx.name = "block2.expert_ids"}, tensor<?x2xf32> {onnx.dims = ["", "2"], onnx.name = "block2.weights"})
func.func @main(%x: !x, %r: !r, %m: !m) -> !x {
  // CHECK: %[[T0:.*]] = tensor.dim %[[X:.*]], %
  // CHECK: %[[IDS:.*]], %[[WEIGHTS:.*]] = moe.entries %[[R:.*]] tokens(%[[T0]]) : (!moe.routing<experts = 8, k = 2, weighted>, index) -> (tensor<?x2xi32>, tensor<?x2xf32>)
  // CHECK: moe.experts %[[X]], %[[R]]
  %y = moe.experts %x, %r up(%m) down(%m) <relu> {moe.sources = ["layer0", "other"]} : (!x, !r, !m, !m) -> !x
  %c0 = arith.constant 0 : index
  %t = tensor.dim %y, %c0 : !x
  %rows = moe.dispatch %y, %r : (!x, !r) -> !x
  %ffn = moe.expert_ffn %rows, %r up(%m) down(%m) <relu> {moe.sources = ["layer0"]} : (!x, !r, !m, !m) -> !x
  %z = moe.combine %ffn, %r tokens(%t) : (!x, !r, index) -> !x
  %last = moe.experts %z, %r up(%m) down(%m) <relu> : (!x, !r, !m, !m) -> !x
  // CHECK: return %{{.*}}, %[[IDS]], %[[WEIGHTS]], %
  return %last : !x
}

// RUN: moe-opt %s | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s

// CHECK-LABEL: func @minimal
func.func @minimal() {
  // CHECK: onnx.node "Empty"() {version = 18 : i64} : () -> ()
  onnx.node "Empty"() {version = 18 : i64} : () -> ()
  return
}

// CHECK-LABEL: func @full
func.func @full(%x: tensor<?x64xf32>, %w: tensor<8x64x64xf32>) -> tensor<?x64xf32> {
  // CHECK: %y, %z = onnx.node "com.microsoft.MoE"(%{{[a-z0-9]+}}, %{{[a-z0-9]+}}, %{{[a-z0-9]+}})
  // CHECK-SAME: absent = array<i32: 1>
  // CHECK-SAME: attributes = {activation_type = "silu", alpha = 1.702000e+00 : f32, axes = array<i64: 0, -1>, k = 2 : i64, names = ["a", "b"], scales = array<f32: 1.000000e+00>, table = dense<[1, 2]> : tensor<2xui8>}
  // CHECK-SAME: outputs = ["y", "z"], version = 1 : i64
  // CHECK-SAME: : (tensor<?x64xf32>, tensor<8x64x64xf32>, tensor<8x64x64xf32>) -> (tensor<?x64xf32>, tensor<*x!onnx.unknown>)
  %y:2 = onnx.node "com.microsoft.MoE"(%x, %w, %w)
    {attributes = {k = 2 : i64, activation_type = "silu", alpha = 1.702 : f32, axes = array<i64: 0, -1>,
                   scales = array<f32: 1.0>, names = ["a", "b"], table = dense<[1, 2]> : tensor<2xui8>},
     absent = array<i32: 1>, outputs = ["y", "z"], version = 1 : i64}
    : (tensor<?x64xf32>, tensor<8x64x64xf32>, tensor<8x64x64xf32>) -> (tensor<?x64xf32>, tensor<*x!onnx.unknown>)
  return %y#0 : tensor<?x64xf32>
}

// CHECK-LABEL: func @graphs
func.func @graphs(%c: tensor<i1>, %x: tensor<4xf32>) -> tensor<4xf32> {
  // CHECK: onnx.node "If"(%{{.*}}) {graphs = ["then_branch", "else_branch"], version = 18 : i64} : (tensor<i1>) -> tensor<4xf32> {
  // CHECK-NEXT: onnx.yield %{{.*}} : tensor<4xf32>
  // CHECK-NEXT: }, {
  // CHECK-NEXT: onnx.node "Neg"
  // CHECK-NEXT: onnx.yield
  %y = onnx.node "If"(%c) {graphs = ["then_branch", "else_branch"], version = 18 : i64}
    : (tensor<i1>) -> tensor<4xf32> {
    onnx.yield %x : tensor<4xf32>
  }, {
    %n = onnx.node "Neg"(%x) {version = 18 : i64} : (tensor<4xf32>) -> tensor<4xf32>
    onnx.yield %n : tensor<4xf32>
  }
  return %y : tensor<4xf32>
}

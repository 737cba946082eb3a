// RUN: not moe-opt %s --raise-moe 2>&1 | FileCheck %s

// Errors point into the model and name the node; a good node between bad ones does not
// hide them.

// CHECK: model.onnx:4:1: error: node 'layer0/moe' (com.microsoft.MoE): k is 3, expected 1 to 2
// CHECK-NOT: layer1
// CHECK: model.onnx:9:1: error: node 'layer2/moe' (com.microsoft.MoE): activation_type is 'elu'
// CHECK-NOT: error
func.func @main(%x: tensor<?x8xf32>, %l: tensor<?x2xf32>, %w1: tensor<2x16x8xf32>,
                %w2: tensor<2x8x16xf32>) -> tensor<?x8xf32> {
  %a = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 3 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x8xf32>, tensor<?x2xf32>, tensor<2x16x8xf32>, tensor<2x8x16xf32>) -> tensor<?x8xf32>
    loc(fused["layer0/moe", "model.onnx":4:1])
  %b = onnx.node "com.microsoft.MoE"(%a, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x8xf32>, tensor<?x2xf32>, tensor<2x16x8xf32>, tensor<2x8x16xf32>) -> tensor<?x8xf32>
    loc(fused["layer1/moe", "model.onnx":7:1])
  %c = onnx.node "com.microsoft.MoE"(%b, %l, %w1, %w2)
    {attributes = {activation_type = "elu"}, absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x8xf32>, tensor<?x2xf32>, tensor<2x16x8xf32>, tensor<2x8x16xf32>) -> tensor<?x8xf32>
    loc(fused["layer2/moe", "model.onnx":9:1])
  return %c : tensor<?x8xf32>
}

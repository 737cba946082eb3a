// RUN: not moe-opt %s --onnx-to-linalg 2>&1 | FileCheck %s

// All of them at once, each with its nodes.
// CHECK: model.onnx:3:1: error: 3 operators are not supported: Unique (nodes 'a', 'b'), com.example.Magic (node 'm'), Softmax version 11 (node 's')
// CHECK-NOT: error
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = onnx.node "Neg"(%x) {version = 13 : i64} : (tensor<4xf32>) -> tensor<4xf32> loc(fused["n", "model.onnx":2:1])
  %a = onnx.node "Unique"(%0) {version = 13 : i64} : (tensor<4xf32>) -> tensor<1x?xi64> loc(fused["a", "model.onnx":3:1])
  %b = onnx.node "Unique"(%x) {version = 13 : i64} : (tensor<4xf32>) -> tensor<1x?xi64> loc(fused["b", "model.onnx":4:1])
  %m = onnx.node "com.example.Magic"(%a, %b) {version = 1 : i64} : (tensor<1x?xi64>, tensor<1x?xi64>) -> tensor<4xf32> loc(fused["m", "model.onnx":5:1])
  %s = onnx.node "Softmax"(%m) {version = 11 : i64} : (tensor<4xf32>) -> tensor<4xf32> loc(fused["s", "model.onnx":6:1])
  return %s : tensor<4xf32>
}

// RUN: not moe-opt %s --onnx-to-linalg 2>&1 | FileCheck %s

// Near to an operator, in the wrong domain, an operator of another vendor, and a
// standard one that is only not supported.
// CHECK: error: 4 operators are not supported: SOFTMAX (node 'a'; did you mean 'Softmax'?), MoE (node 'b'; did you mean 'com.microsoft.MoE'?), com.microsoft.Attention (node 'c'), LSTM (node 'd')
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %a = onnx.node "SOFTMAX"(%x) {version = 13 : i64} : (tensor<4xf32>) -> tensor<4xf32> loc(fused["a", "model.onnx":1:1])
  %b = onnx.node "MoE"(%a) {version = 13 : i64} : (tensor<4xf32>) -> tensor<4xf32> loc(fused["b", "model.onnx":2:1])
  %c = onnx.node "com.microsoft.Attention"(%b) {version = 1 : i64} : (tensor<4xf32>) -> tensor<4xf32> loc(fused["c", "model.onnx":3:1])
  %d = onnx.node "LSTM"(%c) {version = 13 : i64} : (tensor<4xf32>) -> tensor<4xf32> loc(fused["d", "model.onnx":4:1])
  return %d : tensor<4xf32>
}

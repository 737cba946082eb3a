// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @slice
// CHECK: tensor.extract_slice %{{.*}}[0, 32] [%{{.*}}, 32] [1, 1]
func.func @slice(%x: tensor<?x64xf32>) -> tensor<?x32xf32> {
  %s = onnx.node "Constant"() {attributes = {value = dense<32> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %e = onnx.node "Constant"() {attributes = {value = dense<9223372036854775807> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %r = onnx.node "Slice"(%x, %s, %e, %a) {version = 13 : i64}
    : (tensor<?x64xf32>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x32xf32>
  return %r : tensor<?x32xf32>
}

// CHECK-LABEL: func @concat
// CHECK: tensor.insert_slice
// CHECK: tensor.insert_slice
func.func @concat(%x: tensor<?x64xf32>, %y: tensor<2x64xf32>) -> tensor<?x64xf32> {
  %r = onnx.node "Concat"(%x, %y) {attributes = {axis = 0 : i64}, version = 13 : i64}
    : (tensor<?x64xf32>, tensor<2x64xf32>) -> tensor<?x64xf32>
  return %r : tensor<?x64xf32>
}

// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// Sizes computed by nodes become arithmetic on the sizes of the input: no tensor of
// sizes is left, and the residual needs no check.
// CHECK-LABEL: func @there_and_back
// CHECK-SAME: %[[X:.*]]: tensor<?x?x64xf32>
// CHECK-NOT: tensor.from_elements
// CHECK-NOT: moe.check
// CHECK-NOT: arith.select
// CHECK-DAG: %[[B:.*]] = tensor.dim %[[X]], %c0
// CHECK-DAG: %[[S:.*]] = tensor.dim %[[X]], %c1
// CHECK: %[[FLAT:.*]] = tensor.collapse_shape %[[X]] {{\[\[}}0, 1], [2]]
// CHECK: %[[Y:.*]] = linalg.generic {{.*}} ins(%[[FLAT]]
// CHECK: %[[BACK:.*]] = tensor.expand_shape %[[Y]] {{\[\[}}0, 1], [2]] output_shape [%[[B]], %[[S]], 64]
// CHECK: linalg.generic {{.*}} ins(%[[X]], %[[BACK]]
func.func @there_and_back(%x: tensor<?x?x64xf32> {onnx.dims = ["batch", "seq", "64"]}) -> tensor<?x?x64xf32> {
  %zero = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %one = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %axis = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %h = onnx.node "Constant"() {attributes = {value = dense<64> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %flat = onnx.node "Constant"() {attributes = {value = dense<[-1, 64]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %shape = onnx.node "Shape"(%x) {version = 15 : i64} : (tensor<?x?x64xf32>) -> tensor<3xi64>
  %b = onnx.node "Gather"(%shape, %zero) {version = 13 : i64} : (tensor<3xi64>, tensor<i64>) -> tensor<i64>
  %s = onnx.node "Gather"(%shape, %one) {version = 13 : i64} : (tensor<3xi64>, tensor<i64>) -> tensor<i64>
  %b1 = onnx.node "Unsqueeze"(%b, %axis) {version = 13 : i64} : (tensor<i64>, tensor<1xi64>) -> tensor<1xi64>
  %s1 = onnx.node "Unsqueeze"(%s, %axis) {version = 13 : i64} : (tensor<i64>, tensor<1xi64>) -> tensor<1xi64>
  %back = onnx.node "Concat"(%b1, %s1, %h) {attributes = {axis = 0 : i64}, version = 13 : i64}
    : (tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<3xi64>
  %x2 = onnx.node "Reshape"(%x, %flat) {version = 14 : i64} : (tensor<?x?x64xf32>, tensor<2xi64>) -> tensor<?x64xf32>
  %y2 = onnx.node "Tanh"(%x2) {version = 13 : i64} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %y = onnx.node "Reshape"(%y2, %back) {version = 14 : i64} : (tensor<?x64xf32>, tensor<3xi64>) -> tensor<?x?x64xf32>
  %r = onnx.node "Add"(%x, %y) {version = 14 : i64} : (tensor<?x?x64xf32>, tensor<?x?x64xf32>) -> tensor<?x?x64xf32>
  return %r : tensor<?x?x64xf32>
}

// A large constant stays a weight.
// CHECK-LABEL: func @weight
// CHECK: moe.load_weight @w : tensor<64x64xf32>
moe.weight @w from [#moe.segment<"model.onnx", offset = 0, length = 16384, tensor<64x64xf32>>] : tensor<64x64xf32>
func.func @weight() -> tensor<64x64xf32> {
  %r = onnx.node "Constant"() {attributes = {value = @w}, version = 13 : i64} : () -> tensor<64x64xf32>
  return %r : tensor<64x64xf32>
}

// CHECK-LABEL: func @expand
// CHECK-NOT: moe.check
// CHECK: tensor.empty(%{{.*}}) : tensor<3x?xf32>
func.func @expand(%x: tensor<1x?xf32>) -> tensor<3x?xf32> {
  %s = onnx.node "Constant"() {attributes = {value = dense<[3, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %r = onnx.node "Expand"(%x, %s) {version = 13 : i64} : (tensor<1x?xf32>, tensor<2xi64>) -> tensor<3x?xf32>
  return %r : tensor<3x?xf32>
}

// A size that went by way of a tensor of rank 0 and a Reshape is still known.
// CHECK-LABEL: func @by_way_of_reshape
// CHECK-NOT: moe.check
// CHECK-NOT: tensor.extract %
// CHECK: return
func.func @by_way_of_reshape(%x: tensor<?x1x8xf32> {onnx.dims = ["seq", "1", "8"]}, %y: tensor<?x?xi64> {onnx.dims = ["seq", "other"]}) -> tensor<?x4x8xf32> {
  %zero = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %minus = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %rest = onnx.node "Constant"() {attributes = {value = dense<[4, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %shape = onnx.node "Shape"(%y) {version = 15 : i64} : (tensor<?x?xi64>) -> tensor<2xi64>
  %s = onnx.node "Gather"(%shape, %zero) {version = 13 : i64} : (tensor<2xi64>, tensor<i64>) -> tensor<i64>
  %s1 = onnx.node "Reshape"(%s, %minus) {version = 14 : i64} : (tensor<i64>, tensor<1xi64>) -> tensor<1xi64>
  %to = onnx.node "Concat"(%s1, %rest) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<1xi64>, tensor<2xi64>) -> tensor<3xi64>
  %z = onnx.node "Expand"(%x, %to) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x4x8xf32>
  return %z : tensor<?x4x8xf32>
}

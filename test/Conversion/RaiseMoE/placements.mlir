// RUN: moe-opt %s --raise-moe --split-input-file | FileCheck %s

// Blocks that move tokens by products with tensors [tokens, experts, positions].

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>

// Positions that are not below 4 are no row of the one-hot vectors.

// CHECK-LABEL: func @positions_out_of_range
// CHECK: %[[SCORES:.*]] = moe.score <softmax> %{{.*}} : tensor<?x3xf32> -> tensor<?x3xf32>
// CHECK: %[[SELECTED:.*]] = moe.select %[[SCORES]] {k = 1 : i64}
// CHECK: %[[WEIGHED:.*]] = moe.weigh %[[SELECTED]], %[[SCORES]]
// CHECK: %[[KEPT:.*]] = moe.capacity %[[WEIGHED]] {capacity = #moe.capacity<4>}
// CHECK: %[[ROWS:.*]] = moe.dispatch %arg0, %[[KEPT]]
// CHECK: %[[OUT:.*]] = moe.expert_ffn %[[ROWS]], %[[KEPT]]
// CHECK: moe.combine %[[OUT]], %[[KEPT]]
// CHECK-NOT: onnx.node "CumSum"
func.func @positions_out_of_range(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x8x6xf32>
  %down = moe.load_weight @down : tensor<3x6x8xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %v0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %v1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %experts = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %places = onnx.node "Constant"() {attributes = {value = dense<4> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %off_on = onnx.node "Constant"() {attributes = {value = dense<[0, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %gates = onnx.node "Softmax"(%l) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %ids = onnx.node "ArgMax"(%gates) {attributes = {axis = 1 : i64, keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?xi64>
  %hot = onnx.node "OneHot"(%ids, %experts, %off_on) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?xi64>, tensor<1xi64>, tensor<2xi64>) -> tensor<?x3xi64>
  %count = onnx.node "CumSum"(%hot, %a0) {version = 14 : i64} : (tensor<?x3xi64>, tensor<i64>) -> tensor<?x3xi64>
  %from0 = onnx.node "Sub"(%count, %a1) {version = 14 : i64} : (tensor<?x3xi64>, tensor<i64>) -> tensor<?x3xi64>
  %masked = onnx.node "Mul"(%from0, %hot) {version = 14 : i64} : (tensor<?x3xi64>, tensor<?x3xi64>) -> tensor<?x3xi64>
  %at = onnx.node "ReduceSum"(%masked, %v1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x3xi64>, tensor<1xi64>) -> tensor<?xi64>
  %place = onnx.node "OneHot"(%at, %places, %off_on) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?xi64>, tensor<1xi64>, tensor<2xi64>) -> tensor<?x4xi64>
  %hotf = onnx.node "Cast"(%hot) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x3xi64>) -> tensor<?x3xf32>
  %placef = onnx.node "Cast"(%place) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x4xi64>) -> tensor<?x4xf32>
  %g = onnx.node "Mul"(%gates, %hotf) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %combine = onnx.node "Einsum"(%g, %placef) {attributes = {equation = "se,sc->sec"}, version = 12 : i64} : (tensor<?x3xf32>, tensor<?x4xf32>) -> tensor<?x3x4xf32>
  %dispatch = onnx.node "Einsum"(%hotf, %placef) {attributes = {equation = "se,sc->sec"}, version = 12 : i64} : (tensor<?x3xf32>, tensor<?x4xf32>) -> tensor<?x3x4xf32>
  %xe = onnx.node "Einsum"(%dispatch, %x) {attributes = {equation = "sec,sm->ecm"}, version = 12 : i64} : (tensor<?x3x4xf32>, tensor<?x8xf32>) -> tensor<3x4x8xf32>
  %h = onnx.node "MatMul"(%xe, %up) {version = 13 : i64} : (tensor<3x4x8xf32>, tensor<3x8x6xf32>) -> tensor<3x4x6xf32>
  %r = onnx.node "Relu"(%h) {version = 14 : i64} : (tensor<3x4x6xf32>) -> tensor<3x4x6xf32>
  %ye = onnx.node "MatMul"(%r, %down) {version = 13 : i64} : (tensor<3x4x6xf32>, tensor<3x6x8xf32>) -> tensor<3x4x8xf32>
  %y = onnx.node "Einsum"(%combine, %ye) {attributes = {equation = "sec,ecm->sm"}, version = 12 : i64} : (tensor<?x3x4xf32>, tensor<3x4x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

// A product with a sum of constants is none of them.

// CHECK-LABEL: func @constants
// CHECK: onnx.node "Mul"
func.func @constants(%x: tensor<?x3x4xf32>, %w: tensor<?x3x1xf32>) -> tensor<?x3x4xf32> {
  %c = onnx.node "Constant"() {attributes = {value = dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>}, version = 13 : i64} : () -> tensor<4xf32>
  %sum = onnx.node "Add"(%x, %c) {version = 14 : i64} : (tensor<?x3x4xf32>, tensor<4xf32>) -> tensor<?x3x4xf32>
  %y = onnx.node "Mul"(%sum, %w) {version = 14 : i64} : (tensor<?x3x4xf32>, tensor<?x3x1xf32>) -> tensor<?x3x4xf32>
  return %y : tensor<?x3x4xf32>
}

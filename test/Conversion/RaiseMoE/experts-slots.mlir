// RUN: moe-opt %s --raise-moe | FileCheck %s

// Experts whose weights are gathered for each (token, slot) pair, or that all run on all
// tokens: the sum over slots or experts becomes moe ops.

!x = tensor<?x8xf32>
!w = tensor<?x2xf32>
!i = tensor<?x2xi64>

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 768, tensor<4x6x8xf32>>] : tensor<4x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 768, length = 384, tensor<4x8x3xf32>>] : tensor<4x8x3xf32>
moe.weight @up_t from [#moe.segment<"m.data", offset = 2048, length = 768, tensor<4x8x6xf32>>] : tensor<4x8x6xf32>
moe.weight @down_u from [#moe.segment<"m.data", offset = 2816, length = 768, tensor<4x6x8xf32>>] : tensor<4x6x8xf32>

// Weights gathered by GatherND, x repeated by Expand; silu as a product; a sum over slots.

// CHECK-LABEL: func @gathered
// CHECK-SAME: (%[[X:[a-z0-9]*]]: tensor<?x8xf32>
// CHECK-DAG: %[[UP:.*]] = moe.load_weight @up :
// CHECK-DAG: %[[DOWN:.*]] = moe.load_weight @down :
// CHECK: %[[ROWS:.*]] = moe.dispatch %[[X]], %[[R:.*]] :
// CHECK: %[[F:.*]] = moe.expert_ffn %[[ROWS]], %[[R]] up(%[[UP]]) down(%[[DOWN]]) <silu, glu = concat>
// CHECK: %[[Y:.*]] = moe.combine %[[F]], %[[R]]
// CHECK: return %[[Y]]
func.func @gathered(%x: !x, %l: tensor<?x4xf32>) -> !x {
  %up = moe.load_weight @up : tensor<4x6x8xf32>
  %down = moe.load_weight @down : tensor<4x8x3xf32>
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %one = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %last = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %rep = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %flat = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %flat1 = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %p = onnx.node "Softmax"(%l) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x4xf32>) -> tensor<?x4xf32>
  %w, %ids = onnx.node "TopK"(%p, %two) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x4xf32>, tensor<1xi64>) -> (!w, !i)
  %x1 = onnx.node "Unsqueeze"(%x, %one) {version = 13 : i64} : (!x, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x2 = onnx.node "Expand"(%x1, %rep) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x3 = onnx.node "Reshape"(%x2, %flat) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> !x
  %x4 = onnx.node "Unsqueeze"(%x3, %two) {version = 13 : i64} : (!x, tensor<1xi64>) -> tensor<?x8x1xf32>
  %i1 = onnx.node "Reshape"(%ids, %last) {version = 14 : i64} : (!i, tensor<1xi64>) -> tensor<?xi64>
  %i2 = onnx.node "Unsqueeze"(%i1, %one) {version = 13 : i64} : (tensor<?xi64>, tensor<1xi64>) -> tensor<?x1xi64>
  %u = onnx.node "GatherND"(%up, %i2) {version = 13 : i64} : (tensor<4x6x8xf32>, tensor<?x1xi64>) -> tensor<?x6x8xf32>
  %h1 = onnx.node "MatMul"(%u, %x4) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h2 = onnx.node "Squeeze"(%h1, %two) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %g, %v = onnx.node "Split"(%h2) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %s = onnx.node "Sigmoid"(%g) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %gs = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%v, %gs) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %a1 = onnx.node "Unsqueeze"(%a, %two) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %d = onnx.node "GatherND"(%down, %i2) {version = 13 : i64} : (tensor<4x8x3xf32>, tensor<?x1xi64>) -> tensor<?x8x3xf32>
  %y1 = onnx.node "MatMul"(%d, %a1) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y2 = onnx.node "Squeeze"(%y1, %two) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> !x
  %w1 = onnx.node "Reshape"(%w, %flat1) {version = 14 : i64} : (!w, tensor<2xi64>) -> tensor<?x1xf32>
  %y3 = onnx.node "Mul"(%w1, %y2) {version = 14 : i64} : (tensor<?x1xf32>, !x) -> !x
  %y4 = onnx.node "Reshape"(%y3, %slots) {version = 14 : i64} : (!x, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%y4, %one) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> !x
  return %y : !x
}

// Banks [in, out] by Gather and Einsum; relu; the weights join in the last sum.

// CHECK-LABEL: func @einsum
// CHECK: moe.expert_ffn {{.*}} up(%up_t) down(%down_u) <relu> {layout = #moe.layout<in_out>
// CHECK: moe.combine
func.func @einsum(%x: !x, %l: tensor<?x4xf32>) -> !x {
  %up = moe.load_weight @up_t : tensor<4x8x6xf32>
  %down = moe.load_weight @down_u : tensor<4x6x8xf32>
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %two) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x4xf32>, tensor<1xi64>) -> (!w, !i)
  %u = onnx.node "Gather"(%up, %ids) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<4x8x6xf32>, !i) -> tensor<?x2x8x6xf32>
  %h = onnx.node "Einsum"(%x, %u) {attributes = {equation = "td,tkdi->tki"}, version = 12 : i64} : (!x, tensor<?x2x8x6xf32>) -> tensor<?x2x6xf32>
  %a = onnx.node "Relu"(%h) {version = 14 : i64} : (tensor<?x2x6xf32>) -> tensor<?x2x6xf32>
  %d = onnx.node "Gather"(%down, %ids) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<4x6x8xf32>, !i) -> tensor<?x2x6x8xf32>
  %r = onnx.node "Einsum"(%a, %d) {attributes = {equation = "tki,tkid->tkd"}, version = 12 : i64} : (tensor<?x2x6xf32>, tensor<?x2x6x8xf32>) -> tensor<?x2x8xf32>
  %y = onnx.node "Einsum"(%r, %w) {attributes = {equation = "tkd,tk->td"}, version = 12 : i64} : (tensor<?x2x8xf32>, !w) -> !x
  return %y : !x
}

// Every expert on every token, times weights scattered into zeros.

// CHECK-LABEL: func @dense
// CHECK: moe.expert_ffn {{.*}} up(%up_t) down(%down_u) <gelu> {layout = #moe.layout<in_out>
// CHECK: moe.combine
func.func @dense(%x: !x, %l: tensor<?x4xf32>) -> !x {
  %up = moe.load_weight @up_t : tensor<4x8x6xf32>
  %down = moe.load_weight @down_u : tensor<4x6x8xf32>
  %zero = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %f0 = onnx.node "Constant"() {attributes = {value = dense<0.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %rep = onnx.node "Constant"() {attributes = {value = dense<[4, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %split = onnx.node "Constant"() {attributes = {value = dense<[4, -1, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %w, %ids = onnx.node "TopK"(%l, %two) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x4xf32>, tensor<1xi64>) -> (!w, !i)
  %shape = onnx.node "Shape"(%l) {version = 15 : i64} : (tensor<?x4xf32>) -> tensor<2xi64>
  %zeros = onnx.node "Expand"(%f0, %shape) {version = 13 : i64} : (tensor<f32>, tensor<2xi64>) -> tensor<?x4xf32>
  %s = onnx.node "ScatterElements"(%zeros, %ids, %w) {attributes = {axis = 1 : i64}, version = 18 : i64} : (tensor<?x4xf32>, !i, !w) -> tensor<?x4xf32>
  %x1 = onnx.node "Tile"(%x, %rep) {version = 13 : i64} : (!x, tensor<2xi64>) -> !x
  %x2 = onnx.node "Reshape"(%x1, %split) {version = 14 : i64} : (!x, tensor<3xi64>) -> tensor<4x?x8xf32>
  %h = onnx.node "MatMul"(%x2, %up) {version = 13 : i64} : (tensor<4x?x8xf32>, tensor<4x8x6xf32>) -> tensor<4x?x6xf32>
  %a = onnx.node "Gelu"(%h) {version = 20 : i64} : (tensor<4x?x6xf32>) -> tensor<4x?x6xf32>
  %r = onnx.node "MatMul"(%a, %down) {version = 13 : i64} : (tensor<4x?x6xf32>, tensor<4x6x8xf32>) -> tensor<4x?x8xf32>
  %st = onnx.node "Transpose"(%s) {attributes = {perm = array<i64: 1, 0>}, version = 13 : i64} : (tensor<?x4xf32>) -> tensor<4x?xf32>
  %su = onnx.node "Unsqueeze"(%st, %two) {version = 13 : i64} : (tensor<4x?xf32>, tensor<1xi64>) -> tensor<4x?x1xf32>
  %m = onnx.node "Mul"(%r, %su) {version = 14 : i64} : (tensor<4x?x8xf32>, tensor<4x?x1xf32>) -> tensor<4x?x8xf32>
  %y = onnx.node "ReduceSum"(%m, %zero) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<4x?x8xf32>, tensor<1xi64>) -> !x
  return %y : !x
}

// RUN: moe-opt %s --raise-moe --split-input-file | FileCheck %s

// One block of nodes per expert, added up.

!x = tensor<?x8xf32>
!w = tensor<?x2xf32>
!i = tensor<?x2xi64>
!m = tensor<?x2x3xi64>

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// The rows of each expert by NonZero of a one-hot mask, added by ScatterND; experts out of
// order.

// CHECK-LABEL: func @scattered
// CHECK-SAME: (%[[X:[a-z0-9]*]]: tensor<?x8xf32>
// CHECK: %[[ROWS:.*]] = moe.dispatch %[[X]], %[[R:.*]] :
// CHECK: %[[F:.*]] = moe.expert_ffn %[[ROWS]], %[[R]] up(%up) down(%down) <silu, glu = concat>
// CHECK: %[[Y:.*]] = moe.combine %[[F]], %[[R]]
// CHECK: return %[[Y]]
func.func @scattered(%x: !x, %l: tensor<?x3xf32>) -> !x {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %e0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %e1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %e2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %f0 = onnx.node "Constant"() {attributes = {value = dense<0.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %iota = onnx.node "Constant"() {attributes = {value = dense<[0, 1, 2]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (!w, !i)
  %shape = onnx.node "Shape"(%x) {version = 15 : i64} : (!x) -> tensor<2xi64>
  %zeros = onnx.node "Expand"(%f0, %shape) {version = 13 : i64} : (tensor<f32>, tensor<2xi64>) -> !x
  %iu = onnx.node "Unsqueeze"(%ids, %a2) {version = 13 : i64} : (!i, tensor<1xi64>) -> tensor<?x2x1xi64>
  %eq = onnx.node "Equal"(%iu, %iota) {version = 13 : i64} : (tensor<?x2x1xi64>, tensor<3xi64>) -> tensor<?x2x3xi1>
  %m = onnx.node "Cast"(%eq) {attributes = {to = 7 : i64}, version = 13 : i64} : (tensor<?x2x3xi1>) -> !m
  %mt = onnx.node "Transpose"(%m) {attributes = {perm = array<i64: 2, 1, 0>}, version = 13 : i64} : (!m) -> tensor<3x2x?xi64>
  %wu = onnx.node "Unsqueeze"(%w, %a2) {version = 13 : i64} : (!w, tensor<1xi64>) -> tensor<?x2x1xf32>
  %r1_m = onnx.node "Gather"(%mt, %e1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x2x?xi64>, tensor<i64>) -> tensor<2x?xi64>
  %r1_nz = onnx.node "NonZero"(%r1_m) {version = 13 : i64} : (tensor<2x?xi64>) -> tensor<2x?xi64>
  %r1_t = onnx.node "Transpose"(%r1_nz) {attributes = {perm = array<i64: 1, 0>}, version = 13 : i64} : (tensor<2x?xi64>) -> tensor<?x2xi64>
  %r1_s = onnx.node "Slice"(%r1_t, %a0, %a1, %a1) {version = 13 : i64} : (tensor<?x2xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x1xi64>
  %r1_k = onnx.node "Slice"(%r1_t, %a1, %a2, %a1) {version = 13 : i64} : (tensor<?x2xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x1xi64>
  %r1_x = onnx.node "GatherND"(%x, %r1_k) {version = 13 : i64} : (!x, tensor<?x1xi64>) -> !x
  %r1_u = onnx.node "Gather"(%up, %e1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r1_h = onnx.node "Gemm"(%r1_x, %r1_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (!x, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r1_g, %r1_v = onnx.node "Split"(%r1_h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %r1_a = onnx.node "Swish"(%r1_g) {version = 24 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %r1_b = onnx.node "Mul"(%r1_a, %r1_v) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %r1_d = onnx.node "Gather"(%down, %e1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<i64>) -> tensor<8x3xf32>
  %r1_y = onnx.node "Gemm"(%r1_b, %r1_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x3xf32>, tensor<8x3xf32>) -> !x
  %r1_c = onnx.node "Concat"(%r1_k, %r1_s) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x1xi64>, tensor<?x1xi64>) -> tensor<?x2xi64>
  %r1_w = onnx.node "GatherND"(%wu, %r1_c) {version = 13 : i64} : (tensor<?x2x1xf32>, tensor<?x2xi64>) -> tensor<?x1xf32>
  %r1_z = onnx.node "Mul"(%r1_y, %r1_w) {version = 14 : i64} : (!x, tensor<?x1xf32>) -> !x
  %r1_acc = onnx.node "ScatterND"(%zeros, %r1_k, %r1_z) {attributes = {reduction = "add"}, version = 18 : i64} : (!x, tensor<?x1xi64>, !x) -> !x
  %r0_m = onnx.node "Gather"(%mt, %e0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x2x?xi64>, tensor<i64>) -> tensor<2x?xi64>
  %r0_nz = onnx.node "NonZero"(%r0_m) {version = 13 : i64} : (tensor<2x?xi64>) -> tensor<2x?xi64>
  %r0_t = onnx.node "Transpose"(%r0_nz) {attributes = {perm = array<i64: 1, 0>}, version = 13 : i64} : (tensor<2x?xi64>) -> tensor<?x2xi64>
  %r0_s = onnx.node "Slice"(%r0_t, %a0, %a1, %a1) {version = 13 : i64} : (tensor<?x2xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x1xi64>
  %r0_k = onnx.node "Slice"(%r0_t, %a1, %a2, %a1) {version = 13 : i64} : (tensor<?x2xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x1xi64>
  %r0_x = onnx.node "GatherND"(%x, %r0_k) {version = 13 : i64} : (!x, tensor<?x1xi64>) -> !x
  %r0_u = onnx.node "Gather"(%up, %e0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r0_h = onnx.node "Gemm"(%r0_x, %r0_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (!x, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r0_g, %r0_v = onnx.node "Split"(%r0_h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %r0_a = onnx.node "Swish"(%r0_g) {version = 24 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %r0_b = onnx.node "Mul"(%r0_a, %r0_v) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %r0_d = onnx.node "Gather"(%down, %e0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<i64>) -> tensor<8x3xf32>
  %r0_y = onnx.node "Gemm"(%r0_b, %r0_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x3xf32>, tensor<8x3xf32>) -> !x
  %r0_c = onnx.node "Concat"(%r0_k, %r0_s) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x1xi64>, tensor<?x1xi64>) -> tensor<?x2xi64>
  %r0_w = onnx.node "GatherND"(%wu, %r0_c) {version = 13 : i64} : (tensor<?x2x1xf32>, tensor<?x2xi64>) -> tensor<?x1xf32>
  %r0_z = onnx.node "Mul"(%r0_y, %r0_w) {version = 14 : i64} : (!x, tensor<?x1xf32>) -> !x
  %r0_acc = onnx.node "ScatterND"(%r1_acc, %r0_k, %r0_z) {attributes = {reduction = "add"}, version = 18 : i64} : (!x, tensor<?x1xi64>, !x) -> !x
  %r2_m = onnx.node "Gather"(%mt, %e2) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x2x?xi64>, tensor<i64>) -> tensor<2x?xi64>
  %r2_nz = onnx.node "NonZero"(%r2_m) {version = 13 : i64} : (tensor<2x?xi64>) -> tensor<2x?xi64>
  %r2_t = onnx.node "Transpose"(%r2_nz) {attributes = {perm = array<i64: 1, 0>}, version = 13 : i64} : (tensor<2x?xi64>) -> tensor<?x2xi64>
  %r2_s = onnx.node "Slice"(%r2_t, %a0, %a1, %a1) {version = 13 : i64} : (tensor<?x2xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x1xi64>
  %r2_k = onnx.node "Slice"(%r2_t, %a1, %a2, %a1) {version = 13 : i64} : (tensor<?x2xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x1xi64>
  %r2_x = onnx.node "GatherND"(%x, %r2_k) {version = 13 : i64} : (!x, tensor<?x1xi64>) -> !x
  %r2_u = onnx.node "Gather"(%up, %e2) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r2_h = onnx.node "Gemm"(%r2_x, %r2_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (!x, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r2_g, %r2_v = onnx.node "Split"(%r2_h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %r2_a = onnx.node "Swish"(%r2_g) {version = 24 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %r2_b = onnx.node "Mul"(%r2_a, %r2_v) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %r2_d = onnx.node "Gather"(%down, %e2) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<i64>) -> tensor<8x3xf32>
  %r2_y = onnx.node "Gemm"(%r2_b, %r2_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x3xf32>, tensor<8x3xf32>) -> !x
  %r2_c = onnx.node "Concat"(%r2_k, %r2_s) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x1xi64>, tensor<?x1xi64>) -> tensor<?x2xi64>
  %r2_w = onnx.node "GatherND"(%wu, %r2_c) {version = 13 : i64} : (tensor<?x2x1xf32>, tensor<?x2xi64>) -> tensor<?x1xf32>
  %r2_z = onnx.node "Mul"(%r2_y, %r2_w) {version = 14 : i64} : (!x, tensor<?x1xf32>) -> !x
  %r2_acc = onnx.node "ScatterND"(%r0_acc, %r2_k, %r2_z) {attributes = {reduction = "add"}, version = 18 : i64} : (!x, tensor<?x1xi64>, !x) -> !x
  return %r2_acc : !x
}

// -----

!x = tensor<?x8xf32>
!w = tensor<?x2xf32>
!i = tensor<?x2xi64>

moe.weight @up0 from [#moe.segment<"m.data", offset = 4096, length = 192, tensor<8x6xf32>>] : tensor<8x6xf32>
moe.weight @down0 from [#moe.segment<"m.data", offset = 8192, length = 192, tensor<6x8xf32>>] : tensor<6x8xf32>
moe.weight @up1 from [#moe.segment<"m.data", offset = 4352, length = 192, tensor<8x6xf32>>] : tensor<8x6xf32>
moe.weight @down1 from [#moe.segment<"m.data", offset = 8448, length = 192, tensor<6x8xf32>>] : tensor<6x8xf32>
moe.weight @up2 from [#moe.segment<"m.data", offset = 4608, length = 192, tensor<8x6xf32>>] : tensor<8x6xf32>
moe.weight @down2 from [#moe.segment<"m.data", offset = 8704, length = 192, tensor<6x8xf32>>] : tensor<6x8xf32>

// Every expert on all tokens, times its weight or 0. Its weights are tensors of its own.

// CHECK: moe.weight @up0_experts from [#moe.experts<[#moe.segment<"m.data", offset = 4096, length = 192, tensor<8x6xf32>>, #moe.segment<"m.data", offset = 4352, length = 192, tensor<8x6xf32>>, #moe.segment<"m.data", offset = 4608, length = 192, tensor<8x6xf32>>], tensor<3x8x6xf32>>] : tensor<3x8x6xf32>
// CHECK: moe.weight @down0_experts
// CHECK-LABEL: func @masked
// CHECK: moe.expert_ffn {{.*}} up(%up0_experts) up_bias(%[[B:.*]]) down(%down0_experts) <relu> {layout = #moe.layout<in_out>
// CHECK: moe.combine
func.func @masked(%x: !x, %l: tensor<?x3xf32>) -> !x {
  %up0 = moe.load_weight @up0 : tensor<8x6xf32>
  %down0 = moe.load_weight @down0 : tensor<6x8xf32>
  %b0 = onnx.node "Constant"() {attributes = {value = dense<[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]> : tensor<6xf32>}, version = 13 : i64} : () -> tensor<6xf32>
  %up1 = moe.load_weight @up1 : tensor<8x6xf32>
  %down1 = moe.load_weight @down1 : tensor<6x8xf32>
  %b1 = onnx.node "Constant"() {attributes = {value = dense<[1.0, 1.0, 2.0, 3.0, 4.0, 5.0]> : tensor<6xf32>}, version = 13 : i64} : () -> tensor<6xf32>
  %up2 = moe.load_weight @up2 : tensor<8x6xf32>
  %down2 = moe.load_weight @down2 : tensor<6x8xf32>
  %b2 = onnx.node "Constant"() {attributes = {value = dense<[2.0, 1.0, 2.0, 3.0, 4.0, 5.0]> : tensor<6xf32>}, version = 13 : i64} : () -> tensor<6xf32>
  %e0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %e1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %e2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %f0 = onnx.node "Constant"() {attributes = {value = dense<0.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (!w, !i)
  %r0_q = onnx.node "Equal"(%ids, %e0) {version = 13 : i64} : (!i, tensor<i64>) -> tensor<?x2xi1>
  %r0_f = onnx.node "Cast"(%r0_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> !w
  %r0_w = onnx.node "Mul"(%r0_f, %w) {version = 14 : i64} : (!w, !w) -> !w
  %r0_ws = onnx.node "ReduceSum"(%r0_w, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (!w, tensor<1xi64>) -> tensor<?x1xf32>
  %r0_h = onnx.node "MatMul"(%x, %up0) {version = 13 : i64} : (!x, tensor<8x6xf32>) -> tensor<?x6xf32>
  %r0_hb = onnx.node "Add"(%b0, %r0_h) {version = 14 : i64} : (tensor<6xf32>, tensor<?x6xf32>) -> tensor<?x6xf32>
  %r0_a = onnx.node "Relu"(%r0_hb) {version = 14 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r0_y = onnx.node "MatMul"(%r0_a, %down0) {version = 13 : i64} : (tensor<?x6xf32>, tensor<6x8xf32>) -> !x
  %r0_z = onnx.node "Mul"(%r0_ws, %r0_y) {version = 14 : i64} : (tensor<?x1xf32>, !x) -> !x
  %r1_q = onnx.node "Equal"(%ids, %e1) {version = 13 : i64} : (!i, tensor<i64>) -> tensor<?x2xi1>
  %r1_f = onnx.node "Cast"(%r1_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> !w
  %r1_w = onnx.node "Mul"(%r1_f, %w) {version = 14 : i64} : (!w, !w) -> !w
  %r1_ws = onnx.node "ReduceSum"(%r1_w, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (!w, tensor<1xi64>) -> tensor<?x1xf32>
  %r1_h = onnx.node "MatMul"(%x, %up1) {version = 13 : i64} : (!x, tensor<8x6xf32>) -> tensor<?x6xf32>
  %r1_hb = onnx.node "Add"(%b1, %r1_h) {version = 14 : i64} : (tensor<6xf32>, tensor<?x6xf32>) -> tensor<?x6xf32>
  %r1_a = onnx.node "Relu"(%r1_hb) {version = 14 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r1_y = onnx.node "MatMul"(%r1_a, %down1) {version = 13 : i64} : (tensor<?x6xf32>, tensor<6x8xf32>) -> !x
  %r1_z = onnx.node "Mul"(%r1_ws, %r1_y) {version = 14 : i64} : (tensor<?x1xf32>, !x) -> !x
  %r1_acc = onnx.node "Add"(%r0_z, %r1_z) {version = 14 : i64} : (!x, !x) -> !x
  %r2_q = onnx.node "Equal"(%ids, %e2) {version = 13 : i64} : (!i, tensor<i64>) -> tensor<?x2xi1>
  %r2_f = onnx.node "Cast"(%r2_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> !w
  %r2_w = onnx.node "Mul"(%r2_f, %w) {version = 14 : i64} : (!w, !w) -> !w
  %r2_ws = onnx.node "ReduceSum"(%r2_w, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (!w, tensor<1xi64>) -> tensor<?x1xf32>
  %r2_h = onnx.node "MatMul"(%x, %up2) {version = 13 : i64} : (!x, tensor<8x6xf32>) -> tensor<?x6xf32>
  %r2_hb = onnx.node "Add"(%b2, %r2_h) {version = 14 : i64} : (tensor<6xf32>, tensor<?x6xf32>) -> tensor<?x6xf32>
  %r2_a = onnx.node "Relu"(%r2_hb) {version = 14 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r2_y = onnx.node "MatMul"(%r2_a, %down2) {version = 13 : i64} : (tensor<?x6xf32>, tensor<6x8xf32>) -> !x
  %r2_z = onnx.node "Mul"(%r2_ws, %r2_y) {version = 14 : i64} : (tensor<?x1xf32>, !x) -> !x
  %r2_acc = onnx.node "Add"(%r1_acc, %r2_z) {version = 14 : i64} : (!x, !x) -> !x
  return %r2_acc : !x
}

// RUN: moe-opt %s --raise-moe | FileCheck %s

!x = tensor<?x64xf32>
!x3 = tensor<?x?x64xf32>
!l = tensor<?x8xf32>
!up = tensor<8x128x64xf32>
!down = tensor<8x64x128xf32>

moe.weight @router from [#moe.segment<"m.data", offset = 0, length = 2048, tensor<64x8xf32>>] : tensor<64x8xf32>
moe.weight @router_t from [#moe.segment<"m.data", offset = 2048, length = 2048, tensor<8x64xf32>>] : tensor<8x64xf32>

// CHECK-LABEL: func @matmul
// CHECK-SAME: (%[[X:[a-z0-9]*]]: tensor<?x64xf32>
func.func @matmul(%x: !x, %w1: !up, %w2: !down) -> !x {
  // CHECK: %[[W:.*]] = moe.load_weight @router
  // CHECK-NOT: onnx.node
  // CHECK: %[[L:.*]] = moe.logits %[[X]], %[[W]] {layout = #moe.layout<in_out>} : (tensor<?x64xf32>, tensor<64x8xf32>) -> tensor<?x8xf32>
  // CHECK: moe.score {{.*}} %[[L]]
  %w = moe.load_weight @router : tensor<64x8xf32>
  %l = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (!x, tensor<64x8xf32>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// The model may state a size of logits that the input does not have.

// CHECK-LABEL: func @stated_tokens
// CHECK-SAME: (%[[X:[a-z0-9]*]]: tensor<?x64xf32>
// CHECK: moe.logits %[[X]]
// CHECK: %[[TOKENS:.*]] = tensor.dim %[[X]]
// CHECK: %[[SAME:.*]] = arith.cmpi eq, %[[TOKENS]], %{{.*}}
// CHECK: moe.check %{{.*}}, %[[SAME]], "node '' (MatMul): dimension 0 of output 'l' is not 3, as the model states"
func.func @stated_tokens(%x: !x, %w1: !up, %w2: !down) -> !x {
  %w = moe.load_weight @router : tensor<64x8xf32>
  %l = onnx.node "MatMul"(%x, %w) {outputs = ["l"], version = 13 : i64} : (!x, tensor<64x8xf32>) -> tensor<3x8xf32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, tensor<3x8xf32>, !up, !down) -> !x
  return %y : !x
}

// CHECK-LABEL: func @gemm
func.func @gemm(%x: !x, %b: tensor<8xf32>, %w1: !up, %w2: !down) -> !x {
  // CHECK: %[[W:.*]] = moe.load_weight @router_t
  // CHECK: moe.logits %{{.*}}, %[[W]] bias(%{{.*}}) : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<8xf32>) -> tensor<?x8xf32>
  %w = moe.load_weight @router_t : tensor<8x64xf32>
  %l = onnx.node "Gemm"(%x, %w, %b) {attributes = {transB = 1 : i64}, version = 13 : i64}
    : (!x, tensor<8x64xf32>, tensor<8xf32>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// Logits that are read twice, by the selection and by its weights.

// CHECK-LABEL: func @read_twice
func.func @read_twice(%x: !x, %w1: !up, %w2: !down) -> !x {
  // CHECK: %[[L:.*]] = moe.logits
  // CHECK: %[[R:.*]] = moe.select %[[L]]
  // CHECK: moe.weigh %[[R]], %[[L]]
  %w = moe.load_weight @router : tensor<64x8xf32>
  %l = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (!x, tensor<64x8xf32>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 2 : i64, use_sparse_mixer = 1 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// Product and bias in three dimensions, then [-1, E]; the logits are an output too.

// CHECK-LABEL: func @reshaped
// CHECK-SAME: (%[[X:[a-z0-9]*]]: tensor<?x?x64xf32>, %[[B:[a-z0-9]*]]: tensor<8xf32>
func.func @reshaped(%x: !x3, %b: tensor<8xf32>, %w1: !up, %w2: !down) -> (!x3, !l) {
  // CHECK: %[[M:.*]] = tensor.collapse_shape %[[X]]
  // CHECK: %[[L:.*]] = moe.logits %[[M]], %{{.*}} bias(%[[B]]) {layout = #moe.layout<in_out>}
  // CHECK: moe.select %[[L]]
  // CHECK: return %{{.*}}, %[[L]]
  %w = moe.load_weight @router : tensor<64x8xf32>
  %p = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (!x3, tensor<64x8xf32>) -> tensor<?x?x8xf32>
  %s = onnx.node "Add"(%b, %p) {version = 14 : i64} : (tensor<8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x8xf32>
  %shape = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %l = onnx.node "Reshape"(%s, %shape) {version = 14 : i64} : (tensor<?x?x8xf32>, tensor<2xi64>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 2 : i64, use_sparse_mixer = 1 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x3, !l, !up, !down) -> !x3
  return %y, %l : !x3, !l
}

// x reshaped on its own way to the router.

// CHECK-LABEL: func @flattened
func.func @flattened(%x: !x3, %w1: !up, %w2: !down) -> !x3 {
  // CHECK: moe.logits
  %w = moe.load_weight @router : tensor<64x8xf32>
  %shape = onnx.node "Constant"() {attributes = {value = dense<[-1, 64]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %m = onnx.node "Reshape"(%x, %shape) {version = 14 : i64} : (!x3, tensor<2xi64>) -> !x
  %l = onnx.node "MatMul"(%m, %w) {version = 13 : i64} : (!x, tensor<64x8xf32>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x3, !l, !up, !down) -> !x3
  return %y : !x3
}

// Another x, a scaled product, a weight that is not constant: left as they are.

// CHECK-LABEL: func @other_input
func.func @other_input(%x: !x, %z: !x, %w1: !up, %w2: !down) -> !x {
  // CHECK: onnx.node "MatMul"
  // CHECK-NOT: moe.logits
  %w = moe.load_weight @router : tensor<64x8xf32>
  %l = onnx.node "MatMul"(%z, %w) {version = 13 : i64} : (!x, tensor<64x8xf32>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// CHECK-LABEL: func @scaled
func.func @scaled(%x: !x, %w1: !up, %w2: !down) -> !x {
  // CHECK: onnx.node "Gemm"
  // CHECK-NOT: moe.logits
  %w = moe.load_weight @router : tensor<64x8xf32>
  %l = onnx.node "Gemm"(%x, %w) {attributes = {alpha = 0.5 : f32}, version = 13 : i64}
    : (!x, tensor<64x8xf32>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// CHECK-LABEL: func @variable_weight
func.func @variable_weight(%x: !x, %w: tensor<64x8xf32>, %w1: !up, %w2: !down) -> !x {
  // CHECK: onnx.node "MatMul"
  // CHECK-NOT: moe.logits
  %l = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (!x, tensor<64x8xf32>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// x transposed on its way to the router.

// CHECK-LABEL: func @transposed
func.func @transposed(%x: tensor<64x64xf32>, %w1: !up, %w2: !down) -> tensor<64x64xf32> {
  // CHECK: onnx.node "MatMul"
  // CHECK-NOT: moe.logits
  %w = moe.load_weight @router : tensor<64x8xf32>
  %t = onnx.node "Transpose"(%x) {version = 13 : i64} : (tensor<64x64xf32>) -> tensor<64x64xf32>
  %l = onnx.node "MatMul"(%t, %w) {version = 13 : i64} : (tensor<64x64xf32>, tensor<64x8xf32>) -> tensor<64x8xf32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<64x64xf32>, tensor<64x8xf32>, !up, !down) -> tensor<64x64xf32>
  return %y : tensor<64x64xf32>
}

// A weight or a bias of another type than x.

moe.weight @whole from [#moe.segment<"m.data", offset = 0, length = 4096, tensor<64x8xi64>>] : tensor<64x8xi64>

// CHECK-LABEL: func @integer_weight
func.func @integer_weight(%x: !x, %w1: !up, %w2: !down) -> !x {
  // CHECK: onnx.node "MatMul"
  // CHECK-NOT: moe.logits
  %w = moe.load_weight @whole : tensor<64x8xi64>
  %l = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (!x, tensor<64x8xi64>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// CHECK-LABEL: func @integer_bias
func.func @integer_bias(%x: !x, %b: tensor<8xi64>, %w1: !up, %w2: !down) -> !x {
  // CHECK: onnx.node "Gemm"
  // CHECK-NOT: moe.logits
  %w = moe.load_weight @router : tensor<64x8xf32>
  %l = onnx.node "Gemm"(%x, %w, %b) {version = 13 : i64} : (!x, tensor<64x8xf32>, tensor<8xi64>) -> !l
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

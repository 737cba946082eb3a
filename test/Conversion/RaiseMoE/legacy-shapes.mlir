// RUN: moe-opt %s --raise-moe | FileCheck %s

// Shapes of old exporters, fc1 [E, H, I] and fc2 [E, I, H], are another shape for the
// same bytes and no transposition.

!x = tensor<?x8xf32>
!l = tensor<?x2xf32>

// CHECK: moe.weight @fc1 from [{{.*}}] : tensor<2x8x32xf32>
moe.weight @fc1 from [#moe.segment<"m.data", offset = 0, length = 2048, tensor<2x8x32xf32>>] : tensor<2x8x32xf32>
// CHECK-NEXT: moe.weight @[[FC1:.*]] from [#moe.segment<"m.data", offset = 0, length = 2048, tensor<2x8x32xf32>>]
// CHECK-SAME: through [#moe.reshape<{{.*}}2, 32, 8{{.*}}>] : tensor<2x32x8xf32>
// CHECK-NEXT: moe.weight @fc2 from
moe.weight @fc2 from [#moe.segment<"m.data", offset = 2048, length = 1024, tensor<2x16x8xf32>>] : tensor<2x16x8xf32>
// CHECK-NEXT: moe.weight @[[FC2:.*]] from {{.*}} through [#moe.reshape<{{.*}}2, 8, 16{{.*}}>] : tensor<2x8x16xf32>

// CHECK-LABEL: func @weights
func.func @weights(%x: !x, %l: !l) -> !x {
  // CHECK-DAG: %[[W1:.*]] = moe.load_weight @[[FC1]] : tensor<2x32x8xf32>
  // CHECK-DAG: %[[W2:.*]] = moe.load_weight @[[FC2]] : tensor<2x8x16xf32>
  // CHECK: moe.expert_ffn {{.*}} up(%[[W1]]) down(%[[W2]])
  %w1 = moe.load_weight @fc1 : tensor<2x8x32xf32>
  %w2 = moe.load_weight @fc2 : tensor<2x16x8xf32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 1 : i64}, absent = array<i32: 3>,
     version = 1 : i64} : (!x, !l, tensor<2x8x32xf32>, tensor<2x16x8xf32>) -> !x
  return %y : !x
}

// H = I: only the fused fc1 shows the old order.

// CHECK-LABEL: func @square
// CHECK-SAME: %[[W1:[a-z0-9]*]]: tensor<2x8x16xf32>, %[[W2:[a-z0-9]*]]: tensor<2x8x8xf32>)
func.func @square(%x: !x, %l: !l, %w1: tensor<2x8x16xf32>, %w2: tensor<2x8x8xf32>) -> !x {
  // CHECK: %[[C:.*]] = tensor.collapse_shape %[[W1]] {{\[}}[0], [1, 2]] : tensor<2x8x16xf32> into tensor<2x128xf32>
  // CHECK: %[[R:.*]] = tensor.expand_shape %[[C]] {{\[}}[0], [1, 2]] output_shape [2, 16, 8]
  // CHECK: moe.expert_ffn {{.*}} up(%[[R]]) down(%[[W2]])
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 2 : i64}, absent = array<i32: 3>,
     version = 1 : i64} : (!x, !l, tensor<2x8x16xf32>, tensor<2x8x8xf32>) -> !x
  return %y : !x
}

// CHECK-LABEL: func @square_unfused
func.func @square_unfused(%x: !x, %l: !l, %w1: tensor<2x8x8xf32>, %w2: tensor<2x8x8xf32>) -> !x {
  // CHECK-NOT: collapse_shape
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, tensor<2x8x8xf32>, tensor<2x8x8xf32>) -> !x
  return %y : !x
}

// CHECK-LABEL: func @constants
func.func @constants(%x: tensor<?x2xf32>, %l: !l) -> tensor<?x2xf32> {
  // CHECK: %[[W1:.*]] = onnx.node "Constant"() {{.*}}value = dense<{{\[\[\[}}1.000000e+00, 2.000000e+00]], {{\[\[}}3.000000e+00, 4.000000e+00]]]> : tensor<2x1x2xf32>
  // CHECK: %[[W2:.*]] = onnx.node "Constant"() {{.*}}value = dense<{{.*}}> : tensor<2x2x1xf32>
  // CHECK: moe.expert_ffn {{.*}} up(%[[W1]]) down(%[[W2]])
  %w1 = onnx.node "Constant"() {attributes = {value = dense<[[[1.0], [2.0]], [[3.0], [4.0]]]> : tensor<2x2x1xf32>}, version = 13 : i64} : () -> tensor<2x2x1xf32>
  %w2 = onnx.node "Constant"() {attributes = {value = dense<[[[1.0, 2.0]], [[3.0, 4.0]]]> : tensor<2x1x2xf32>}, version = 13 : i64} : () -> tensor<2x1x2xf32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x2xf32>, !l, tensor<2x2x1xf32>, tensor<2x1x2xf32>) -> tensor<?x2xf32>
  return %y : tensor<?x2xf32>
}

// Packed codes: fc1 [E, H, 2I/2], fc2 [E, I, H/2].

// CHECK-LABEL: func @codes
func.func @codes(%x: tensor<?x32xf32>, %l: !l, %w1: tensor<2x32x64xui8>, %s1: tensor<2x128xf32>,
                 %w2: tensor<2x64x16xui8>, %s2: tensor<2x32xf32>) -> tensor<?x32xf32> {
  // CHECK: moe.dequantize {{.*}} {bits = 4 : i64} : (tensor<2x128x16xui8>, tensor<2x128xf32>) -> tensor<2x128x32xf32>
  // CHECK: moe.dequantize {{.*}} {bits = 4 : i64} : (tensor<2x32x32xui8>, tensor<2x32xf32>) -> tensor<2x32x64xf32>
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 1 : i64}, absent = array<i32: 4>,
     version = 1 : i64}
    : (tensor<?x32xf32>, !l, tensor<2x32x64xui8>, tensor<2x128xf32>, tensor<2x64x16xui8>,
       tensor<2x32xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

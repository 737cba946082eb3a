// RUN: moe-opt %s --raise-moe | FileCheck %s

!x = tensor<?x64xf32>
!l = tensor<?x8xf32>

// Top-k on the logits and a softmax over the selected, whatever
// normalize_routing_weights says. 4 bits, block-wise.

// CHECK-LABEL: func @block
// CHECK-SAME: %[[L:[a-z0-9]*]]: tensor<?x8xf32>, %[[W1:[a-z0-9]*]]: tensor<8x256x32xui8>, %[[S1:[a-z0-9]*]]: tensor<8x256x2xf32>, %[[W2:[a-z0-9]*]]: tensor<8x64x64xui8>, %[[S2:[a-z0-9]*]]: tensor<8x64x4xf32>)
func.func @block(%x: !x, %l: !l, %w1: tensor<8x256x32xui8>, %s1: tensor<8x256x2xf32>,
                 %w2: tensor<8x64x64xui8>, %s2: tensor<8x64x4xf32>) -> !x {
  // CHECK: %[[R:.*]] = moe.select %[[L]] {k = 2 : i64}
  // CHECK: moe.weigh %[[R]], %[[L]] {fn = #moe.weigh_fn<softmax>}
  // CHECK: %[[U:.*]] = moe.dequantize %[[W1]] scales(%[[S1]]) {bits = 4 : i64, block = 32 : i64} : {{.*}} -> tensor<8x256x64xf32>
  // CHECK: %[[D:.*]] = moe.dequantize %[[W2]] scales(%[[S2]]) {bits = 4 : i64, block = 32 : i64} : {{.*}} -> tensor<8x64x128xf32>
  // CHECK: moe.expert_ffn {{.*}} up(%[[U]]) down(%[[D]]) <silu, glu = interleaved> {moe.sources = ["com.microsoft.QMoE"]}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {k = 2 : i64, activation_type = "swiglu", swiglu_fusion = 1 : i64, block_size = 32 : i64},
     absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, tensor<8x256x32xui8>, tensor<8x256x2xf32>, tensor<8x64x64xui8>,
       tensor<8x64x4xf32>) -> !x
  return %y : !x
}

// Zero points packed along the blocks, biases, f16.

// CHECK-LABEL: func @block_zero_points
func.func @block_zero_points(%x: tensor<?x64xf16>, %l: tensor<?x8xf16>, %w1: tensor<8x128x32xui8>,
    %s1: tensor<8x128x4xf16>, %b1: tensor<8x128xf16>, %w2: tensor<8x64x64xui8>,
    %s2: tensor<8x64x8xf16>, %b2: tensor<8x64xf16>, %z1: tensor<8x128x2xui8>,
    %z2: tensor<8x64x4xui8>) -> tensor<?x64xf16> {
  // CHECK: moe.dequantize {{.*}} zero_points({{.*}}) {bits = 4 : i64, block = 16 : i64} : {{.*}} -> tensor<8x128x64xf32>
  // CHECK: moe.dequantize {{.*}} zero_points({{.*}}) {bits = 4 : i64, block = 16 : i64} : {{.*}} -> tensor<8x64x128xf32>
  // CHECK: moe.expert_ffn {{.*}} up_bias({{.*}}) {{.*}} down_bias({{.*}}) <silu> {{.*}} -> tensor<?x64xf16>
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %b1, %w2, %s2, %b2, %z1, %z2)
    {attributes = {activation_type = "silu", block_size = 16 : i64, weights_prepacked = 0 : i64,
                   quant_type = "int", expert_weight_bits = 4 : i64},
     absent = array<i32: 8, 9, 10>, version = 1 : i64}
    : (tensor<?x64xf16>, tensor<?x8xf16>, tensor<8x128x32xui8>, tensor<8x128x4xf16>,
       tensor<8x128xf16>, tensor<8x64x64xui8>, tensor<8x64x8xf16>, tensor<8x64xf16>,
       tensor<8x128x2xui8>, tensor<8x64x4xui8>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// 2 bits, one scale per row, zero points packed along the rows; bf16 with f32 scales.

// CHECK-LABEL: func @row_zero_points
func.func @row_zero_points(%x: tensor<?x64xbf16>, %l: tensor<?x8xbf16>,
    %w1: tensor<8x128x16xui8>, %s1: tensor<8x128xf32>, %w2: tensor<8x64x32xui8>,
    %s2: tensor<8x64xf32>, %z1: tensor<8x32xui8>, %z2: tensor<8x16xui8>) -> tensor<?x64xbf16> {
  // CHECK: moe.dequantize {{.*}} {bits = 2 : i64} : (tensor<8x128x16xui8>, tensor<8x128xf32>, tensor<8x32xui8>) -> tensor<8x128x64xf32>
  // CHECK: moe.dequantize {{.*}} {bits = 2 : i64} : (tensor<8x64x32xui8>, tensor<8x64xf32>, tensor<8x16xui8>)
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %z1, %z2)
    {attributes = {expert_weight_bits = 2 : i64}, absent = array<i32: 4, 7, 8, 9, 10>, version = 1 : i64}
    : (tensor<?x64xbf16>, tensor<?x8xbf16>, tensor<8x128x16xui8>, tensor<8x128xf32>,
       tensor<8x64x32xui8>, tensor<8x64xf32>, tensor<8x32xui8>, tensor<8x16xui8>)
    -> tensor<?x64xbf16>
  return %y : tensor<?x64xbf16>
}

// [E, N, 1] is one scale per row, also when K is a single block; then zero points are
// packed along the rows. fc2 has several blocks. 8 bits: [E, N, 1] zero points are the
// same bytes as [E, N].

// CHECK-LABEL: func @one_block
func.func @one_block(%x: !x, %l: !l, %w1: tensor<8x128x64xui8>, %s1: tensor<8x128x1xf32>,
    %w2: tensor<8x64x128xui8>, %s2: tensor<8x64x2xf32>, %z1: tensor<8x128x1xui8>,
    %z2: tensor<8x64x2xui8>) -> !x {
  // CHECK: tensor.collapse_shape {{.*}} tensor<8x128x1xf32> into tensor<8x128xf32>
  // CHECK: tensor.collapse_shape {{.*}} tensor<8x128x1xui8> into tensor<8x128xui8>
  // CHECK: moe.dequantize {{.*}} {bits = 8 : i64} : (tensor<8x128x64xui8>, tensor<8x128xf32>, tensor<8x128xui8>)
  // CHECK: moe.dequantize {{.*}} {bits = 8 : i64, block = 64 : i64} : (tensor<8x64x128xui8>, tensor<8x64x2xf32>, tensor<8x64x2xui8>)
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %z1, %z2)
    {attributes = {expert_weight_bits = 8 : i64, block_size = 64 : i64},
     absent = array<i32: 4, 7, 8, 9, 10>, version = 1 : i64}
    : (!x, !l, tensor<8x128x64xui8>, tensor<8x128x1xf32>, tensor<8x64x128xui8>,
       tensor<8x64x2xf32>, tensor<8x128x1xui8>, tensor<8x64x2xui8>) -> !x
  return %y : !x
}

// The third matrix has its own scales and zero points.

// CHECK-LABEL: func @fc3
func.func @fc3(%x: !x, %l: !l, %w1: tensor<8x128x32xui8>, %s1: tensor<8x128xf32>,
    %w2: tensor<8x64x64xui8>, %s2: tensor<8x64xf32>, %w3: tensor<8x128x32xui8>,
    %s3: tensor<8x128xf32>, %b3: tensor<8x128xf32>, %z3: tensor<8x64xui8>) -> !x {
  // CHECK: %[[U:.*]] = moe.dequantize {{.*}} zero_points({{.*}}) {bits = 4 : i64} : (tensor<8x128x32xui8>, tensor<8x128xf32>, tensor<8x64xui8>)
  // CHECK: moe.expert_ffn {{.*}} up(%[[U]]) up_bias({{.*}}) gate({{.*}}) down({{.*}}) <silu, glu = separate>
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %w3, %s3, %b3, %z3)
    {attributes = {activation_type = "silu"}, absent = array<i32: 4, 7, 11, 12>, version = 1 : i64}
    : (!x, !l, tensor<8x128x32xui8>, tensor<8x128xf32>, tensor<8x64x64xui8>, tensor<8x64xf32>,
       tensor<8x128x32xui8>, tensor<8x128xf32>, tensor<8x128xf32>, tensor<8x64xui8>) -> !x
  return %y : !x
}

// Selected by the logits, weighed by another input.

// CHECK-LABEL: func @router_weights
// CHECK-SAME: %[[L:[a-z0-9]*]]: tensor<?x8xf32>, {{.*}}, %[[RW:[a-z0-9]*]]: tensor<?x8xf32>)
func.func @router_weights(%x: !x, %l: !l, %w1: tensor<8x128x32xui8>, %s1: tensor<8x128xf32>,
    %w2: tensor<8x64x64xui8>, %s2: tensor<8x64xf32>, %rw: !l) -> (!x, !x) {
  // CHECK: %[[R:.*]] = moe.select %[[L]] {k = 1 : i64}
  // CHECK: moe.weigh %[[R]], %[[RW]] {norm = #moe.weigh_norm<sum>}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %rw)
    {attributes = {normalize_routing_weights = 1 : i64},
     absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13>, version = 1 : i64}
    : (!x, !l, tensor<8x128x32xui8>, tensor<8x128xf32>, tensor<8x64x64xui8>, tensor<8x64xf32>,
       !l) -> !x
  // CHECK: %[[R2:.*]] = moe.select %[[L]] {k = 1 : i64}
  // CHECK: moe.weigh %[[R2]], %[[RW]] :
  %z = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %rw)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13>, version = 1 : i64}
    : (!x, !l, tensor<8x128x32xui8>, tensor<8x128xf32>, tensor<8x64x64xui8>, tensor<8x64xf32>,
       !l) -> !x
  return %y, %z : !x, !x
}

// CHECK-LABEL: func @sparse_mixer
func.func @sparse_mixer(%x: !x, %l: !l, %w1: tensor<8x128x32xui8>, %s1: tensor<8x128xf32>,
    %w2: tensor<8x64x64xui8>, %s2: tensor<8x64xf32>) -> !x {
  // CHECK: moe.weigh {{.*}} {eps = 1.000000e-02 : f64, fn = #moe.weigh_fn<masked_softmax>}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {k = 2 : i64, use_sparse_mixer = 1 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, tensor<8x128x32xui8>, tensor<8x128xf32>, tensor<8x64x64xui8>, tensor<8x64xf32>)
    -> !x
  return %y : !x
}

// Zero points of a single block, one to a byte: packed along the blocks.

// CHECK-LABEL: func @one_block_zero_points
func.func @one_block_zero_points(%x: !x, %l: !l, %w1: tensor<8x64x32xui8>, %s1: tensor<8x64x1xf32>,
    %w2: tensor<8x64x32xui8>, %s2: tensor<8x64x1xf32>, %z1: tensor<8x64x1xui8>,
    %z2: tensor<8x64x1xui8>) -> !x {
  // CHECK: moe.dequantize {{.*}} {bits = 4 : i64, block = 64 : i64} : (tensor<8x64x32xui8>, tensor<8x64x1xf32>, tensor<8x64x1xui8>)
  // CHECK: moe.dequantize {{.*}} {bits = 4 : i64, block = 64 : i64} : (tensor<8x64x32xui8>, tensor<8x64x1xf32>, tensor<8x64x1xui8>)
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %z1, %z2)
    {attributes = {expert_weight_bits = 4 : i64, block_size = 64 : i64},
     absent = array<i32: 4, 7, 8, 9, 10>, version = 1 : i64}
    : (!x, !l, tensor<8x64x32xui8>, tensor<8x64x1xf32>, tensor<8x64x32xui8>,
       tensor<8x64x1xf32>, tensor<8x64x1xui8>, tensor<8x64x1xui8>) -> !x
  return %y : !x
}

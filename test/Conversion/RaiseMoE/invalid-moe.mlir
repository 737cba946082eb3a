// RUN: moe-opt %s --raise-moe --verify-diagnostics

// Every bad node is one error, and all of them are reported.

!x = tensor<?x64xf32>
!l = tensor<?x8xf32>
!up = tensor<8x128x64xf32>
!fused = tensor<8x256x64xf32>
!down = tensor<8x64x128xf32>

func.func @k_zero(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): k is 0, expected 1 to 8, the number of experts in router_probs [?, 8]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 0 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @k_above_experts(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): k is 9, expected 1 to 8, the number of experts in router_probs [?, 8]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 9 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @k_not_an_integer(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): attribute k is 2.000000e+00 : f32, expected an integer}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 2.0 : f32}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @flag(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): attribute normalize_routing_weights is 2, expected 0 or 1}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {normalize_routing_weights = 2 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @activation(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): activation_type is 'tanh', expected relu, gelu, silu, swiglu or identity}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "tanh"}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @activation_not_a_string(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): attribute activation_type is 1 : i64, expected a string}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = 1 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @unknown_attribute(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): attribute 'num_shared_experts' is not one of the operator's; remove it, or re-export the model for com.microsoft version 1}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {num_shared_experts = 1 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @attribute_of_qmoe(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): attribute 'block_size' is not one of the operator's}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {block_size = 32 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @fusion(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): swiglu_fusion is 3, expected 0 (fc1 and fc3), 1 (interleaved) or 2 (concatenated)}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 3 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @fusion_and_fc3(%x: !x, %l: !l, %w1: !fused, %w2: !down, %w3: !up) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): swiglu_fusion is 1, so fc1 holds gate and linear part, but fc3_experts_weights is there too; remove one of them}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2, %w3)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 1 : i64}, absent = array<i32: 3, 5>, version = 1 : i64}
    : (!x, !l, !fused, !down, !up) -> !x
  return %y : !x
}

func.func @limit(%x: !x, %l: !l, %w1: !fused, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): swiglu_limit is 0.000000e+00, expected a positive number; remove it for no limit}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 1 : i64, swiglu_limit = 0.0 : f32}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !fused, !down) -> !x
  return %y : !x
}

func.func @alpha_nan(%x: !x, %l: !l, %w1: !fused, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): attribute activation_alpha is 0x7FC00000 : f32, expected a number}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 1 : i64, activation_alpha = 0x7FC00000 : f32}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !fused, !down) -> !x
  return %y : !x
}

func.func @sparse_mixer(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): use_sparse_mixer needs k = 2, found k = 1}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 1 : i64, use_sparse_mixer = 1 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @missing_input(%x: !x, %l: !l, %w1: !up) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): input fc2_experts_weights is missing}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1)
    {version = 1 : i64}
    : (!x, !l, !up) -> !x
  return %y : !x
}

func.func @too_many_inputs(%x: !x, %l: !l, %w1: !up, %w2: !down, %z: !x) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): has 9 inputs, expected at most 8}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2, %z)
    {absent = array<i32: 3, 5, 6, 7>, version = 1 : i64}
    : (!x, !l, !up, !down, !x) -> !x
  return %y : !x
}

func.func @bias_without_fc3(%x: !x, %l: !l, %w1: !up, %w2: !down, %b3: tensor<8x128xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): has fc3_experts_bias but no fc3_experts_weights}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2, %b3)
    {absent = array<i32: 3, 5, 6>, version = 1 : i64}
    : (!x, !l, !up, !down, tensor<8x128xf32>) -> !x
  return %y : !x
}

func.func @router_probs_3d(%x: tensor<?x?x64xf32>, %l: tensor<?x?x8xf32>, %w1: !up, %w2: !down) -> tensor<?x?x64xf32> {
  // expected-error @below {{node '' (com.microsoft.MoE): router_probs is [?, ?, 8], expected 2 dimensions [tokens, E], also for an input of 3}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x?x64xf32>, tensor<?x?x8xf32>, !up, !down) -> tensor<?x?x64xf32>
  return %y : tensor<?x?x64xf32>
}

func.func @input_1d(%x: tensor<64xf32>, %l: !l, %w1: !up, %w2: !down) -> tensor<64xf32> {
  // expected-error @below {{node '' (com.microsoft.MoE): input is [64], expected 2 dimensions [tokens, H] or 3 [batch, sequence, H]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<64xf32>, !l, !up, !down) -> tensor<64xf32>
  return %y : tensor<64xf32>
}

func.func @hidden_unknown(%x: tensor<?x?xf32>, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): input is [?, ?], expected a known last dimension H of at least 1; fix it in the model or with --dim}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x?xf32>, !l, !up, !down) -> !x
  return %y : !x
}

func.func @experts_unknown(%x: !x, %l: tensor<?x?xf32>, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): router_probs is [?, ?], expected a known last dimension E; fix it in the model or with --dim}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (!x, tensor<?x?xf32>, !up, !down) -> !x
  return %y : !x
}

func.func @rank_unknown(%x: tensor<*xf32>, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): an operand is 'tensor<*xf32>', expected a known rank; state the shape in the model}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<*xf32>, !l, !up, !down) -> !x
  return %y : !x
}

func.func @tokens(%x: tensor<2x3x64xf32>, %l: tensor<5x8xf32>, %w1: !up, %w2: !down) -> tensor<2x3x64xf32> {
  // expected-error @below {{node '' (com.microsoft.MoE): router_probs is [5, 8], expected [tokens, E] with E = 8 for input [2, 3, 64] and router_probs [5, 8]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<2x3x64xf32>, tensor<5x8xf32>, !up, !down) -> tensor<2x3x64xf32>
  return %y : tensor<2x3x64xf32>
}

func.func @fc1_shape(%x: !x, %l: !l, %w1: !fused, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc1_experts_weights is [8, 256, 64], expected [8, 128, 64] = [E, I, H] with E = 8, H = 64, I = 128 (E from router_probs [?, 8], H from input [?, 64], I from fc2_experts_weights [8, 64, 128])}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !fused, !down) -> !x
  return %y : !x
}

func.func @fc1_fused_shape(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc1_experts_weights is [8, 128, 64], expected [8, 256, 64] = [E, 2·I, H]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 2 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

func.func @fc1_experts(%x: !x, %l: !l, %w1: tensor<4x128x64xf32>, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc1_experts_weights is [4, 128, 64], expected [8, 128, 64]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, tensor<4x128x64xf32>, !down) -> !x
  return %y : !x
}

func.func @fc2_shape(%x: !x, %l: !l, %w1: !up, %w2: tensor<8x3x5xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc2_experts_weights is [8, 3, 5], expected [E, H, I] with E = 8 (router_probs [?, 8]) and H = 64 (input [?, 64])}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, tensor<8x3x5xf32>) -> !x
  return %y : !x
}

func.func @fc2_dynamic(%x: !x, %l: !l, %w1: !up, %w2: tensor<8x64x?xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc2_experts_weights is [8, 64, ?], expected known sizes}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, tensor<8x64x?xf32>) -> !x
  return %y : !x
}

func.func @legacy_fc2_only(%x: !x, %l: !l, %w1: !up, %w2: tensor<8x128x64xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc1_experts_weights is [8, 128, 64], expected [8, 64, 128] = [E, H, I]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, tensor<8x128x64xf32>) -> !x
  return %y : !x
}

func.func @fc3_shape(%x: !x, %l: !l, %w1: !up, %w2: !down, %w3: tensor<8x64x64xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc3_experts_weights is [8, 64, 64], expected [8, 128, 64] = [E, I, H]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2, %w3)
    {attributes = {activation_type = "silu"}, absent = array<i32: 3, 5>, version = 1 : i64}
    : (!x, !l, !up, !down, tensor<8x64x64xf32>) -> !x
  return %y : !x
}

func.func @bias_shape(%x: !x, %l: !l, %w1: !up, %b1: tensor<128xf32>, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc1_experts_bias is [128], expected [8, 128] = [E, I]}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %b1, %w2)
    {version = 1 : i64}
    : (!x, !l, !up, tensor<128xf32>, !down) -> !x
  return %y : !x
}

func.func @input_type(%x: tensor<?x64xf64>, %l: !l, %w1: !up, %w2: !down) -> tensor<?x64xf64> {
  // expected-error @below {{node '' (com.microsoft.MoE): input is 'tensor<?x64xf64>', expected f32, f16 or bf16}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x64xf64>, !l, !up, !down) -> tensor<?x64xf64>
  return %y : tensor<?x64xf64>
}

func.func @mixed_types(%x: !x, %l: !l, %w1: tensor<8x128x64xf16>, %w2: !down) -> !x {
  // expected-error @below {{node '' (com.microsoft.MoE): fc1_experts_weights is 'tensor<8x128x64xf16>', expected elements of type 'f32' as the input's}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, tensor<8x128x64xf16>, !down) -> !x
  return %y : !x
}

func.func @output_type(%x: !x, %l: !l, %w1: !up, %w2: !down) -> tensor<?x32xf32> {
  // expected-error @below {{node '' (com.microsoft.MoE): output is declared as 'tensor<?x32xf32>', expected 'tensor<?x64xf32>' as the input}}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

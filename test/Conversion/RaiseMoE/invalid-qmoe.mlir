// RUN: moe-opt %s --raise-moe --verify-diagnostics

// Every bad node is one error, and all of them are reported.

!x = tensor<?x64xf32>
!l = tensor<?x8xf32>
!up = tensor<8x128x32xui8>
!s1 = tensor<8x128xf32>
!down = tensor<8x64x64xui8>
!s2 = tensor<8x64xf32>

func.func @quant_type(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): quant_type is 'fp4', expected 'int'; export the experts with 2-, 4- or 8-bit integer weights}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {quant_type = "fp4"}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @bits(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): expert_weight_bits is 3, expected 2, 4 or 8}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {expert_weight_bits = 3 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @block_not_a_power(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): block_size is 48, expected a power of two of at least 16, or 0 for one scale per row}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {block_size = 48 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @block_too_small(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): block_size is 8, expected a power of two of at least 16}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {block_size = 8 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @block_negative(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): block_size is -32, expected a power of two of at least 16}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {block_size = -32 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @prepacked(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): weights_prepacked is 1: the bytes are in a device's own order, which the model does not describe; export it with weights_prepacked = 0}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {weights_prepacked = 1 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @prepacked_range(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): weights_prepacked is 2, expected 0 (raw) or -1}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {weights_prepacked = 2 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @fc1_global_scale(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %g: tensor<8xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): input fc1_global_scale (position 15) belongs to a float quantisation, which is not supported; export the experts with integer weights}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %g)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13, 14>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8xf32>) -> !x
  return %y : !x
}

func.func @fc2_global_scale(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %g: tensor<8xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): input fc2_global_scale (position 16) belongs to a float quantisation, which is not supported; export the experts with integer weights}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %g)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13, 14, 15>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8xf32>) -> !x
  return %y : !x
}

func.func @fc1_act_scale(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %g: tensor<8xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): input fc1_act_scale (position 17) belongs to a float quantisation, which is not supported; export the experts with integer weights}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %g)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8xf32>) -> !x
  return %y : !x
}

func.func @fc2_act_scale(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %g: tensor<8xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): input fc2_act_scale (position 18) belongs to a float quantisation, which is not supported; export the experts with integer weights}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %g)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8xf32>) -> !x
  return %y : !x
}

func.func @fc1_act_block_scale(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %g: tensor<8xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): input fc1_act_block_scale (position 19) belongs to a float quantisation, which is not supported; export the experts with integer weights}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %g)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8xf32>) -> !x
  return %y : !x
}

func.func @fc2_act_block_scale(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %g: tensor<8xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): input fc2_act_block_scale (position 20) belongs to a float quantisation, which is not supported; export the experts with integer weights}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %g)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8xf32>) -> !x
  return %y : !x
}

func.func @too_many_inputs(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %g: tensor<8xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): has 22 inputs, expected at most 21}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %g)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8xf32>) -> !x
  return %y : !x
}

func.func @float8_weights(%x: !x, %l: !l, %w1: tensor<8x128x32xf8E4M3FN>, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_experts_weights is 'tensor<8x128x32xf8E4M3FN>', expected packed integer codes (ui8)}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, tensor<8x128x32xf8E4M3FN>, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @float_weights(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: tensor<8x64x64xf32>, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc2_experts_weights is 'tensor<8x64x64xf32>', expected packed integer codes (ui8)}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, tensor<8x64x64xf32>, !s2) -> !x
  return %y : !x
}

func.func @no_scales(%x: !x, %l: !l, %w1: !up, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): input fc1_scales is missing; integer weights need it}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %w2, %s2)
    {absent = array<i32: 3, 4>, version = 1 : i64}
    : (!x, !l, !up, !down, !s2) -> !x
  return %y : !x
}

func.func @scale_type(%x: !x, %l: !l, %w1: !up, %s1: tensor<8x128xf8E8M0FNU>, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_scales is 'tensor<8x128xf8E8M0FNU>', expected f32, f16 or bf16}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, tensor<8x128xf8E8M0FNU>, !down, !s2) -> !x
  return %y : !x
}

func.func @zero_point_type(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %z1: tensor<8x64xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_zero_points is 'tensor<8x64xf32>', expected packed integer codes (ui8)}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %z1)
    {absent = array<i32: 4, 7, 8, 9, 10>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8x64xf32>) -> !x
  return %y : !x
}

func.func @scale_shape(%x: !x, %l: !l, %w1: !up, %s1: tensor<8x64xf32>, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_scales is [8, 64], expected [8, 128] (one scale per row: block_size is not set)}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, tensor<8x64xf32>, !down, !s2) -> !x
  return %y : !x
}

func.func @scale_shape_block(%x: !x, %l: !l, %w1: !up, %s1: tensor<8x128x4xf32>, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_scales is [8, 128, 4], expected [8, 128, 2] (block_size 32) or [8, 128] (one scale per row)}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {block_size = 32 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, tensor<8x128x4xf32>, !down, !s2) -> !x
  return %y : !x
}

func.func @block_does_not_divide(%x: !x, %l: !l, %w1: !up, %s1: tensor<8x128x2xf32>, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): block_size is 128, which does not divide K = 64 of fc1_experts_weights [8, 128, 32]}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {block_size = 128 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, tensor<8x128x2xf32>, !down, !s2) -> !x
  return %y : !x
}

func.func @row_zero_points(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %z1: tensor<8x128xui8>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_zero_points is [8, 128], expected [8, 64] (4 bits packed along the rows, for fc1_scales [8, 128])}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %z1)
    {absent = array<i32: 4, 7, 8, 9, 10>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<8x128xui8>) -> !x
  return %y : !x
}

func.func @block_zero_points(%x: !x, %l: !l, %w1: !up, %s1: tensor<8x128x2xf32>, %w2: !down, %s2: !s2, %z1: tensor<8x128x2xui8>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_zero_points is [8, 128, 2], expected [8, 128, 1] (4 bits packed along the blocks of a row, for fc1_scales [8, 128, 2])}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %z1)
    {attributes = {block_size = 32 : i64}, absent = array<i32: 4, 7, 8, 9, 10>, version = 1 : i64}
    : (!x, !l, !up, tensor<8x128x2xf32>, !down, !s2, tensor<8x128x2xui8>) -> !x
  return %y : !x
}

func.func @weight_shape(%x: !x, %l: !l, %w1: tensor<8x128x64xui8>, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_experts_weights is [8, 128, 64], expected [8, 128, 32] = [E, I, H/2]}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, tensor<8x128x64xui8>, !s1, !down, !s2) -> !x
  return %y : !x
}

func.func @odd_hidden(%x: tensor<?x63xf32>, %l: !l, %w1: tensor<8x128x32xui8>, %s1: !s1, %w2: tensor<8x63x64xui8>, %s2: tensor<8x63xf32>) -> tensor<?x63xf32> {
  // expected-error @below {{node '' (com.microsoft.QMoE): fc1_experts_weights packs 2 codes of 4 bits per byte, which does not divide its K = 63}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {absent = array<i32: 4>, version = 1 : i64}
    : (tensor<?x63xf32>, !l, tensor<8x128x32xui8>, !s1, tensor<8x63x64xui8>, tensor<8x63xf32>) -> tensor<?x63xf32>
  return %y : tensor<?x63xf32>
}

func.func @scales_without_fc3(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %s3: !s1) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): has fc3_scales but no fc3_experts_weights}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %s3)
    {absent = array<i32: 4, 7, 8>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, !s1) -> !x
  return %y : !x
}

func.func @fc3_without_scales(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %w3: !up) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): input fc3_scales is missing; integer weights need it}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %w3)
    {absent = array<i32: 4, 7>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, !up) -> !x
  return %y : !x
}

func.func @router_weights_shape(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %rw: tensor<?x4xf32>) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): router_weights is [?, 4], expected [tokens, E] with E = 8 for input [?, 64] and router_probs [?, 8]}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %rw)
    {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, tensor<?x4xf32>) -> !x
  return %y : !x
}

func.func @router_weights_and_mixer(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2, %rw: !l) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): use_sparse_mixer and the input router_weights exclude each other: both give the weights of the routing}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2, %rw)
    {attributes = {k = 2 : i64, use_sparse_mixer = 1 : i64}, absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2, !l) -> !x
  return %y : !x
}

func.func @swiglu_interleaved(%x: !x, %l: !l, %w1: !up, %s1: !s1, %w2: !down, %s2: !s2) -> !x {
  // expected-error @below {{node '' (com.microsoft.QMoE): attribute 'swiglu_interleaved' is not one of the operator's}}
  %y = onnx.node "com.microsoft.QMoE"(%x, %l, %w1, %s1, %w2, %s2)
    {attributes = {swiglu_interleaved = 1 : i64}, absent = array<i32: 4>, version = 1 : i64}
    : (!x, !l, !up, !s1, !down, !s2) -> !x
  return %y : !x
}

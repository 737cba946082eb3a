// RUN: moe-opt %s --raise-moe 2>/dev/null | FileCheck %s
// RUN: moe-opt %s --raise-moe 2>&1 >/dev/null | FileCheck %s --check-prefix=REMARK

!x = tensor<?x64xf32>
!l = tensor<?x8xf32>
!up = tensor<8x128x64xf32>
!fused = tensor<8x256x64xf32>
!down = tensor<8x64x128xf32>

// Softmax over all experts, top-k, division by the sum of the kept ones.

// CHECK-LABEL: func @swiglu
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32>, %[[L:.*]]: tensor<?x8xf32>, %[[W1:.*]]: tensor<8x256x64xf32>, %[[W2:.*]]: tensor<8x64x128xf32>)
func.func @swiglu(%x: !x, %l: !l, %w1: !fused, %w2: !down) -> !x {
  // CHECK: %[[S:.*]] = moe.score {{<?}}softmax{{>?}} %[[L]] : tensor<?x8xf32> -> tensor<?x8xf32>
  // CHECK: %[[R:.*]] = moe.select %[[S]] {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2{{ ?}}>
  // CHECK: %[[W:.*]] = moe.weigh %[[R]], %[[S]] {norm = #moe.weigh_norm<sum>} : {{.*}} -> !moe.routing<experts = 8, k = 2{{ ?}}, weighted>
  // CHECK: %[[ROWS:.*]] = moe.dispatch %[[X]], %[[W]] : {{.*}} -> tensor<?x64xf32>
  // CHECK: %[[F:.*]] = moe.expert_ffn %[[ROWS]], %[[W]] up(%[[W1]]) down(%[[W2]])
  // CHECK-SAME: <silu, glu = interleaved> {moe.sources = ["layer0/moe"]}
  // CHECK: %[[T:.*]] = tensor.dim %[[X]], %{{.*}}
  // CHECK: %[[Y:.*]] = moe.combine %[[F]], %[[W]] tokens(%[[T]])
  // CHECK: return %[[Y]]
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 2 : i64, activation_type = "swiglu", swiglu_fusion = 1 : i64,
                   normalize_routing_weights = 1 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !fused, !down) -> !x loc(fused["layer0/moe", "model.onnx":3:1])
  return %y : !x
}

// All defaults: relu, k = 1, probabilities as they are.

// CHECK-LABEL: func @defaults
func.func @defaults(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // CHECK: %[[S:.*]] = moe.score
  // CHECK: %[[R:.*]] = moe.select %[[S]] {k = 1 : i64}
  // CHECK: moe.weigh %[[R]], %[[S]] :
  // CHECK: moe.expert_ffn {{.*}} <relu> {moe.sources = ["com.microsoft.MoE"]}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// CHECK-LABEL: func @gelu_bias
// CHECK-SAME: %[[B1:[a-z0-9]*]]: tensor<8x128xf32>, %{{.*}}, %[[B2:.*]]: tensor<8x64xf32>)
func.func @gelu_bias(%x: !x, %l: !l, %w1: !up, %b1: tensor<8x128xf32>, %w2: !down,
                     %b2: tensor<8x64xf32>) -> !x {
  // CHECK: moe.expert_ffn {{.*}} up_bias(%[[B1]]) {{.*}} down_bias(%[[B2]]) <gelu_tanh>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %b1, %w2, %b2)
    {attributes = {activation_type = "gelu"}, version = 1 : i64}
    : (!x, !l, !up, tensor<8x128xf32>, !down, tensor<8x64xf32>) -> !x
  return %y : !x
}

// CHECK-LABEL: func @identity
func.func @identity(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // CHECK: moe.expert_ffn {{.*}} <identity>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "identity"}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// The parameters of swiglu mean nothing to silu.

// CHECK-LABEL: func @silu
func.func @silu(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // CHECK: moe.expert_ffn {{.*}} <silu>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "silu", activation_alpha = 1.7 : f32, swiglu_limit = 7.0 : f32,
                   swiglu_fusion = 1 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// CHECK-LABEL: func @concat_parameters
func.func @concat_parameters(%x: !x, %l: !l, %w1: !fused, %b1: tensor<8x256xf32>,
                             %w2: !down) -> !x {
  // CHECK: moe.expert_ffn {{.*}} <silu, glu = concat, alpha = 1.702000e+00 : f32, beta = 1.000000e+00 : f32, limit = 7.000000e+00 : f32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %b1, %w2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 2 : i64, activation_alpha = 1.702 : f32,
                   activation_beta = 1.0 : f32, swiglu_limit = 7.0 : f32}, version = 1 : i64}
    : (!x, !l, !fused, tensor<8x256xf32>, !down) -> !x
  return %y : !x
}

// Defaults that are spelled out are left out.

// CHECK-LABEL: func @default_parameters
func.func @default_parameters(%x: !x, %l: !l, %w1: !fused, %w2: !down) -> !x {
  // CHECK: moe.expert_ffn {{.*}} <silu, glu = interleaved>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "swiglu", swiglu_fusion = 1 : i64, activation_alpha = 1.0 : f32,
                   activation_beta = 0.0 : f32, swiglu_limit = 0x7F800000 : f32},
     absent = array<i32: 3>, version = 1 : i64} : (!x, !l, !fused, !down) -> !x
  return %y : !x
}

// fc1 is activated and multiplies fc3.

// CHECK-LABEL: func @swiglu_fc3
// CHECK-SAME: %[[W1:[a-z0-9]*]]: tensor<8x128x64xf32>, %[[B1:[a-z0-9]*]]: tensor<8x128xf32>, %[[W2:[a-z0-9]*]]: tensor<8x64x128xf32>, %[[W3:[a-z0-9]*]]: tensor<8x128x64xf32>, %[[B3:[a-z0-9]*]]: tensor<8x128xf32>)
func.func @swiglu_fc3(%x: !x, %l: !l, %w1: !up, %b1: tensor<8x128xf32>, %w2: !down, %w3: !up,
                      %b3: tensor<8x128xf32>) -> !x {
  // CHECK: moe.expert_ffn {{.*}} up(%[[W3]]) up_bias(%[[B3]]) gate(%[[W1]]) gate_bias(%[[B1]]) down(%[[W2]])
  // CHECK-SAME: <silu, glu = separate, alpha = 1.500000e+00 : f32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %b1, %w2, %w3, %b3)
    {attributes = {activation_type = "swiglu", activation_alpha = 1.5 : f32}, absent = array<i32: 5>,
     version = 1 : i64}
    : (!x, !l, !up, tensor<8x128xf32>, !down, !up, tensor<8x128xf32>) -> !x
  return %y : !x
}

// CHECK-LABEL: func @relu_fc3
func.func @relu_fc3(%x: !x, %l: !l, %w1: !up, %w2: !down, %w3: !up) -> !x {
  // CHECK: moe.expert_ffn {{.*}} <relu, glu = separate>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2, %w3)
    {attributes = {activation_type = "relu"}, absent = array<i32: 3, 5>, version = 1 : i64}
    : (!x, !l, !up, !down, !up) -> !x
  return %y : !x
}

// CHECK-LABEL: func @swiglu_without_fusion
func.func @swiglu_without_fusion(%x: !x, %l: !l, %w1: !fused, %w2: !down) -> !x {
  // REMARK: model.onnx:9:1: remark: node 'old' (com.microsoft.MoE): swiglu without swiglu_fusion and without fc3 is read as interleaved
  // CHECK: moe.expert_ffn {{.*}} <silu, glu = interleaved>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {activation_type = "swiglu"}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !fused, !down) -> !x loc(fused["old", "model.onnx":9:1])
  return %y : !x
}

// CHECK-LABEL: func @sparse_mixer
func.func @sparse_mixer(%x: !x, %l: !l, %w1: !up, %w2: !down) -> !x {
  // CHECK-NOT: moe.score
  // CHECK: %[[R:.*]] = moe.select %[[L:.*]] {k = 2 : i64}
  // CHECK: moe.weigh %[[R]], %[[L]] {eps = 1.000000e-02 : f64, fn = #moe.weigh_fn<masked_softmax>}
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2)
    {attributes = {k = 2 : i64, use_sparse_mixer = 1 : i64}, absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// CHECK-LABEL: func @three_dimensions
// CHECK-SAME: (%[[X:.*]]: tensor<?x?x64xf32>
func.func @three_dimensions(%x: tensor<?x?x64xf32>, %l: !l, %w1: !up, %w2: !down)
    -> tensor<?x?x64xf32> {
  // CHECK: %[[M:.*]] = tensor.collapse_shape %[[X]] {{\[}}[0, 1], [2]] : tensor<?x?x64xf32> into tensor<?x64xf32>
  // CHECK: moe.dispatch %[[M]]
  // CHECK: %[[T:.*]] = tensor.dim %[[M]]
  // CHECK: %[[Y:.*]] = moe.combine {{.*}} tokens(%[[T]])
  // CHECK: %[[B:.*]] = tensor.dim %[[X]]
  // CHECK: %[[S:.*]] = tensor.dim %[[X]]
  // CHECK: tensor.expand_shape %[[Y]] {{\[}}[0, 1], [2]] output_shape [%[[B]], %[[S]], 64]
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x?x64xf32>, !l, !up, !down) -> tensor<?x?x64xf32>
  return %y : tensor<?x?x64xf32>
}

// CHECK-LABEL: func @static_tokens
func.func @static_tokens(%x: tensor<2x3x64xf32>, %l: tensor<6x8xf32>, %w1: !up, %w2: !down)
    -> tensor<2x3x64xf32> {
  // CHECK: %[[T:.*]] = arith.constant 6 : index
  // CHECK: moe.combine {{.*}} tokens(%[[T]]) {{.*}} -> tensor<6x64xf32>
  // CHECK: tensor.expand_shape {{.*}} output_shape [2, 3, 64]
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<2x3x64xf32>, tensor<6x8xf32>, !up, !down) -> tensor<2x3x64xf32>
  return %y : tensor<2x3x64xf32>
}

// A declared output that says less, or more, than the input.

// CHECK-LABEL: func @declared_output
func.func @declared_output(%x: !x, %l: !l, %w1: !up, %w2: !down) -> tensor<4x64xf32> {
  // CHECK: %[[Y:.*]] = moe.combine
  // CHECK: tensor.cast %[[Y]] : tensor<?x64xf32> to tensor<4x64xf32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> tensor<4x64xf32>
  return %y : tensor<4x64xf32>
}

// Weights and rows keep the model's type; scores are f32.

// CHECK-LABEL: func @half
func.func @half(%x: tensor<?x64xf16>, %l: tensor<?x8xf16>, %w1: tensor<8x128x64xf16>,
                %w2: tensor<8x64x128xf16>) -> tensor<?x64xf16> {
  // CHECK: moe.score {{.*}} : tensor<?x8xf16> -> tensor<?x8xf32>
  // CHECK: moe.expert_ffn {{.*}} tensor<8x128x64xf16>, tensor<8x64x128xf16>) -> tensor<?x64xf16>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x64xf16>, tensor<?x8xf16>, tensor<8x128x64xf16>, tensor<8x64x128xf16>)
    -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// CHECK-LABEL: func @bfloat
func.func @bfloat(%x: tensor<?x64xbf16>, %l: tensor<?x8xbf16>, %w1: tensor<8x128x64xbf16>,
                  %w2: tensor<8x64x128xbf16>) -> tensor<?x64xbf16> {
  // CHECK: moe.score {{.*}} : tensor<?x8xbf16> -> tensor<?x8xf32>
  // CHECK: moe.expert_ffn {{.*}} -> tensor<?x64xbf16>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (tensor<?x64xbf16>, tensor<?x8xbf16>, tensor<8x128x64xbf16>, tensor<8x64x128xbf16>)
    -> tensor<?x64xbf16>
  return %y : tensor<?x64xbf16>
}

// The number of tokens is checked where one name of a dimension does not say that it is
// the same.

// CHECK-LABEL: func @other_rows
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32> {{{.*}}}, %[[L:.*]]: tensor<?x8xf32> {{{.*}}},
// CHECK: %[[ROWS:.*]] = tensor.dim %[[L]]
// CHECK: %[[TOKENS:.*]] = tensor.dim %[[X]]
// CHECK: %[[SAME:.*]] = arith.cmpi eq, %[[ROWS]], %[[TOKENS]]
// CHECK: moe.check %{{.*}}, %[[SAME]], "node '' (com.microsoft.MoE): router_probs and input differ in the number of tokens"
func.func @other_rows(%x: !x {onnx.dims = ["tokens", "64"]}, %l: !l {onnx.dims = ["rows", "8"]},
                      %w1: !up, %w2: !down) -> !x {
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// A size that the model states of the output is checked where the input does not have it.

// CHECK-LABEL: func @stated_tokens
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32> {{{.*}}}, %{{.*}}: tensor<?x8xf32> {{{.*}}},
// CHECK: moe.combine
// CHECK: %[[TOKENS:.*]] = tensor.dim %[[X]]
// CHECK: %[[SAME:.*]] = arith.cmpi eq, %[[TOKENS]], %{{.*}}
// CHECK: moe.check %{{.*}}, %[[SAME]], "node '' (com.microsoft.MoE): dimension 0 of output 'y' is not 3, as the model states"
func.func @stated_tokens(%x: !x {onnx.dims = ["tokens", "64"]}, %l: !l {onnx.dims = ["tokens", "8"]},
                         %w1: !up, %w2: !down) -> tensor<3x64xf32> {
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, outputs = ["y"], version = 1 : i64}
    : (!x, !l, !up, !down) -> tensor<3x64xf32>
  return %y : tensor<3x64xf32>
}

// CHECK-LABEL: func @same_rows
// CHECK-NOT: moe.check
// CHECK: return
func.func @same_rows(%x: !x {onnx.dims = ["tokens", "64"]}, %l: !l {onnx.dims = ["tokens", "8"]},
                     %w1: !up, %w2: !down) -> !x {
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, !l, !up, !down) -> !x
  return %y : !x
}

// RUN: moe-opt %s --raise-moe --split-input-file | FileCheck %s

// Swiglu interleaved, normalised: softmax over all experts, top-k, division by the sum.

// CHECK-LABEL: func @swiglu
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32>, %[[L:.*]]: tensor<?x8xf32>, %[[W1:.*]]: tensor<8x256x64xf32>, %[[W2:.*]]: tensor<8x64x128xf32>)
func.func @swiglu(%x: tensor<?x64xf32>, %l: tensor<?x8xf32>, %w1: tensor<8x256x64xf32>,
                  %w2: tensor<8x64x128xf32>) -> tensor<?x64xf32> {
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
    : (tensor<?x64xf32>, tensor<?x8xf32>, tensor<8x256x64xf32>, tensor<8x64x128xf32>)
    -> tensor<?x64xf32> loc(fused["layer0/moe", "model.onnx":3:1])
  return %y : tensor<?x64xf32>
}

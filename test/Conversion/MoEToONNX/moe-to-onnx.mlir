// RUN: moe-opt %s --moe-to-onnx --split-input-file | FileCheck %s

!x = tensor<?x64xf32>
!l = tensor<?x8xf32>
!r = !moe.routing<experts = 8, k = 2>
!w = !moe.routing<experts = 8, k = 2, weighted>

// A softmax over the k largest, normalised: the node says it. Gate and linear rows become
// interleaved, as transforms of the weight, whose name stays.

// CHECK: moe.weight @up from [#moe.segment<"m", offset = 0, length = 262144, tensor<8x128x64xf32>>] through [#moe.reshape<[8, 2, 64, 64]>, #moe.permute<[0, 2, 1, 3]>, #moe.reshape<[8, 128, 64]>] : tensor<8x128x64xf32>
// CHECK-LABEL: func @normalized
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32>, %[[L:.*]]: tensor<?x8xf32>)
// CHECK: %[[UP:.*]] = moe.load_weight @up
// CHECK: %[[Y:.*]] = onnx.node "com.microsoft.MoE"(%[[X]], %[[L]], %[[UP]], %{{.*}}) {absent = array<i32: 3>, attributes = {activation_alpha = 1.000000e+00 : f32, activation_beta = 0.000000e+00 : f32, activation_type = "swiglu", k = 2 : i64, normalize_routing_weights = 1 : i64, swiglu_fusion = 1 : i64}
// CHECK: return %[[Y]]
moe.weight @up from [#moe.segment<"m", offset = 0, length = 262144, tensor<8x128x64xf32>>] : tensor<8x128x64xf32>
moe.weight @down from [#moe.segment<"m", offset = 262144, length = 131072, tensor<8x64x64xf32>>] : tensor<8x64x64xf32>
func.func @normalized(%x: !x, %l: !l) -> !x {
  %up = moe.load_weight @up : tensor<8x128x64xf32>
  %down = moe.load_weight @down : tensor<8x64x64xf32>
  %s = moe.score <softmax> %l : !l -> !l
  %r = moe.select %s {k = 2} : (!l) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!r, !l) -> !w
  %y = moe.experts %x, %w up(%up) down(%down) <silu, glu = concat> : (!x, !w, tensor<8x128x64xf32>, tensor<8x64x64xf32>) -> !x
  return %y : !x
}

// -----

!x = tensor<?x64xf32>
!l = tensor<?x8xf32>
!r = !moe.routing<experts = 8, k = 2>
!w = !moe.routing<experts = 8, k = 2, weighted>
!m = tensor<8x64x64xf32>

// Not normalised: the normalised node times the sum of the kept probabilities.

// CHECK-LABEL: func @not_normalized
// CHECK: %[[Y:.*]] = onnx.node "com.microsoft.MoE"({{.*}}activation_type = "relu"{{.*}}normalize_routing_weights = 1
// CHECK: %[[P:.*]] = onnx.node "Softmax"
// CHECK: %{{.*}}:2 = onnx.node "TopK"(%[[P]]
// CHECK: %[[SUM:.*]] = onnx.node "ReduceSum"
// CHECK: onnx.node "Mul"(%[[Y]],
func.func @not_normalized(%x: !x, %l: !l, %up: !m, %down: !m) -> !x {
  %s = moe.score <softmax> %l : !l -> !l
  %r = moe.select %s {k = 2} : (!l) -> !r
  %w = moe.weigh %r, %s : (!r, !l) -> !w
  %y = moe.experts %x, %w up(%up) down(%down) <relu> : (!x, !w, !m, !m) -> !x
  return %y : !x
}

// -----

!x = tensor<?x64xf32>
!l = tensor<?x8xf32>
!r = !moe.routing<experts = 8, k = 2>
!w = !moe.routing<experts = 8, k = 2, weighted>
!m = tensor<8x64x64xf32>

// Weights from another tensor than the key: standard operators, since they are no codes.

// CHECK-LABEL: func @other_key
// CHECK-NOT: com.microsoft
// CHECK: %[[IDS:.*]]:2 = onnx.node "TopK"
// CHECK: onnx.node "Gather"(%arg3, %[[IDS]]#1)
// CHECK: onnx.node "MatMul"
// CHECK-NOT: moe.
func.func @other_key(%x: !x, %l: !l, %v: !l, %up: !m, %down: !m) -> !x {
  %r = moe.select %l {k = 2} : (!l) -> !r
  %w = moe.weigh %r, %v : (!r, !l) -> !w
  %y = moe.experts %x, %w up(%up) down(%down) <relu> : (!x, !w, !m, !m) -> !x
  return %y : !x
}

// -----

!x = tensor<?x64xf32>
!l = tensor<?x8xf32>
!r = !moe.routing<experts = 8, k = 2>
!w = !moe.routing<experts = 8, k = 2, weighted>
!q = tensor<8x64x32xui8>
!s = tensor<8x64xf32>
!m = tensor<8x64x64xf32>

// The same with codes: router_weights.

// CHECK-LABEL: func @other_key_of_codes
// CHECK-SAME: %[[X:.*]]: tensor<?x64xf32>, %{{.*}}: tensor<?x8xf32>, %[[V:.*]]: tensor<?x8xf32>, %[[Q:.*]]: tensor<8x64x32xui8>, %[[S:.*]]: tensor<8x64xf32>)
// CHECK: onnx.node "com.microsoft.QMoE"(%[[X]], %{{.*}}, %[[Q]], %[[S]], %[[Q]], %[[S]], %[[V]]) {absent = array<i32: 4, 7, 8, 9, 10, 11, 12, 13>, attributes = {activation_type = "relu", expert_weight_bits = 4 : i64, k = 2 : i64, normalize_routing_weights = 0 : i64}
func.func @other_key_of_codes(%x: !x, %l: !l, %v: !l, %q: !q, %s: !s) -> !x {
  %r = moe.select %l {k = 2} : (!l) -> !r
  %w = moe.weigh %r, %v : (!r, !l) -> !w
  %m = moe.dequantize %q scales(%s) {bits = 4} : (!q, !s) -> !m
  %y = moe.experts %x, %w up(%m) down(%m) <relu> : (!x, !w, !m, !m) -> !x
  return %y : !x
}

// -----

// Shapes.

// CHECK-LABEL: func @shapes
// CHECK-SAME: %[[X:.*]]: tensor<?x?x64xf32>)
// CHECK: %[[FLAT:.*]] = onnx.node "Reshape"(%[[X]], %{{.*}}) {{.*}} -> tensor<?x64xf32>
// CHECK: %[[B:.*]] = onnx.node "Shape"(%[[X]]) {attributes = {end = 1 : i64, start = 0 : i64}
// CHECK: %[[S:.*]] = onnx.node "Shape"(%[[X]]) {attributes = {end = 2 : i64, start = 1 : i64}
// CHECK: %[[SIZES:.*]] = onnx.node "Concat"(%[[B]], %[[S]], %{{.*}})
// CHECK: %[[Y:.*]] = onnx.node "Reshape"(%[[FLAT]], %[[SIZES]])
// CHECK: return %[[Y]]
func.func @shapes(%x: tensor<?x?x64xf32>) -> tensor<?x?x64xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %flat = tensor.collapse_shape %x [[0, 1], [2]] : tensor<?x?x64xf32> into tensor<?x64xf32>
  %b = tensor.dim %x, %c0 : tensor<?x?x64xf32>
  %s = tensor.dim %x, %c1 : tensor<?x?x64xf32>
  %y = tensor.expand_shape %flat [[0, 1], [2]] output_shape [%b, %s, 64] : tensor<?x64xf32> into tensor<?x?x64xf32>
  return %y : tensor<?x?x64xf32>
}

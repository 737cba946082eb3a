// RUN: moe-opt %s --raise-moe | FileCheck %s

// Routers in standard operators. Each function ends in a routing as expert forms make it, of
// ids or a mask and of weights; what computes these becomes moe ops. The spellings are in
// test_routers.py, which compares the numbers, too.

// R1: softmax of all, top-k, normalised (Mixtral).

// CHECK-LABEL: func @softmax_normalised
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x12xf32>{{.*}}, %[[B:[a-z0-9]*]]: tensor<12xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[S:.*]] = moe.score <softmax> %[[L]]
// CHECK-NEXT: %[[R:.*]] = moe.select %[[S]] {k = 2 : i64}
// CHECK-NEXT: moe.weigh %[[R]], %[[S]] {norm = #moe.weigh_norm<sum>}
// CHECK-NOT: onnx.node
func.func @softmax_normalised(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %p = onnx.node "Softmax"(%arg0) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %v, %ids = onnx.node "TopK"(%p, %two) {attributes = {axis = 1 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %0 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %sum = onnx.node "ReduceSum"(%v, %0) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %w = onnx.node "Div"(%v, %sum) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x1xf32>) -> tensor<?x2xf32>
  %r_sizes = onnx.node "Shape"(%arg0) {version = 15 : i64} : (tensor<?x12xf32>) -> tensor<2xi64>
  %r_zeros = onnx.node "ConstantOfShape"(%r_sizes) {version = 9 : i64} : (tensor<2xi64>) -> tensor<?x12xf32>
  %r_dense = onnx.node "ScatterElements"(%r_zeros, %ids, %w)
      {attributes = {axis = 1 : i64, reduction = "none"}, version = 18 : i64}
      : (tensor<?x12xf32>, tensor<?x2xi64>, tensor<?x2xf32>) -> tensor<?x12xf32>
  %r_given = moe.given %ids : (tensor<?x2xi64>) -> !moe.routing<experts = 12, k = 2>
  %r_weighted = moe.weigh %r_given, %r_dense : (!moe.routing<experts = 12, k = 2>, tensor<?x12xf32>) -> !moe.routing<experts = 12, k = 2, weighted>
  %r_count = moe.aux <tokens_per_expert> routing(%r_weighted) : (!moe.routing<experts = 12, k = 2, weighted>) -> tensor<12xi64>
  return %r_count : tensor<12xi64>
}

// R2: the same, not normalised (OLMoE).

// CHECK-LABEL: func @softmax
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x12xf32>{{.*}}, %[[B:[a-z0-9]*]]: tensor<12xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[S:.*]] = moe.score <softmax> %[[L]]
// CHECK-NEXT: %[[R:.*]] = moe.select %[[S]] {k = 2 : i64}
// CHECK-NEXT: moe.weigh %[[R]], %[[S]] :
// CHECK-NOT: onnx.node
func.func @softmax(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %p = onnx.node "Softmax"(%arg0) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %w, %ids = onnx.node "TopK"(%p, %two) {attributes = {axis = 1 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %r_sizes = onnx.node "Shape"(%arg0) {version = 15 : i64} : (tensor<?x12xf32>) -> tensor<2xi64>
  %r_zeros = onnx.node "ConstantOfShape"(%r_sizes) {version = 9 : i64} : (tensor<2xi64>) -> tensor<?x12xf32>
  %r_dense = onnx.node "ScatterElements"(%r_zeros, %ids, %w)
      {attributes = {axis = 1 : i64, reduction = "none"}, version = 18 : i64}
      : (tensor<?x12xf32>, tensor<?x2xi64>, tensor<?x2xf32>) -> tensor<?x12xf32>
  %r_given = moe.given %ids : (tensor<?x2xi64>) -> !moe.routing<experts = 12, k = 2>
  %r_weighted = moe.weigh %r_given, %r_dense : (!moe.routing<experts = 12, k = 2>, tensor<?x12xf32>) -> !moe.routing<experts = 12, k = 2, weighted>
  %r_count = moe.aux <tokens_per_expert> routing(%r_weighted) : (!moe.routing<experts = 12, k = 2, weighted>) -> tensor<12xi64>
  return %r_count : tensor<12xi64>
}

// R3: softmax of the selected logits (gpt-oss).

// CHECK-LABEL: func @softmax_of_selected
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x12xf32>{{.*}}, %[[B:[a-z0-9]*]]: tensor<12xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[R:.*]] = moe.select %[[L]] {k = 2 : i64}
// CHECK-NEXT: moe.weigh %[[R]], %[[L]] {fn = #moe.weigh_fn<softmax>}
// CHECK-NOT: onnx.node
func.func @softmax_of_selected(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %v, %ids = onnx.node "TopK"(%arg0, %two) {attributes = {axis = 1 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %w = onnx.node "Softmax"(%v) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %r_sizes = onnx.node "Shape"(%arg0) {version = 15 : i64} : (tensor<?x12xf32>) -> tensor<2xi64>
  %r_zeros = onnx.node "ConstantOfShape"(%r_sizes) {version = 9 : i64} : (tensor<2xi64>) -> tensor<?x12xf32>
  %r_dense = onnx.node "ScatterElements"(%r_zeros, %ids, %w)
      {attributes = {axis = 1 : i64, reduction = "none"}, version = 18 : i64}
      : (tensor<?x12xf32>, tensor<?x2xi64>, tensor<?x2xf32>) -> tensor<?x12xf32>
  %r_given = moe.given %ids : (tensor<?x2xi64>) -> !moe.routing<experts = 12, k = 2>
  %r_weighted = moe.weigh %r_given, %r_dense : (!moe.routing<experts = 12, k = 2>, tensor<?x12xf32>) -> !moe.routing<experts = 12, k = 2, weighted>
  %r_count = moe.aux <tokens_per_expert> routing(%r_weighted) : (!moe.routing<experts = 12, k = 2, weighted>) -> tensor<12xi64>
  return %r_count : tensor<12xi64>
}

// R4: sigmoid, a selection bias, groups by the sum of two keys (DeepSeek-V3).

// CHECK-LABEL: func @deepseek_v3
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x12xf32>{{.*}}, %[[B:[a-z0-9]*]]: tensor<12xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[S:.*]] = moe.score <sigmoid> %[[L]]
// CHECK-NEXT: %[[R:.*]] = moe.select %[[S]] bias(%[[B]]) {group_score = #moe.group_score<top2sum>, k = 3 : i64, n_group = 4 : i64, topk_group = 2 : i64}
// CHECK-NEXT: moe.weigh %[[R]], %[[S]] {norm = #moe.weigh_norm<sum>, norm_eps = {{.*}}E-21 : f64, scale = 2.500000e+00 : f64}
// CHECK-NOT: onnx.node
func.func @deepseek_v3(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %three = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %ninf = onnx.node "Constant"() {attributes = {value = dense<0xFF800000> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %by_group = onnx.node "Constant"() {attributes = {value = dense<[-1, 4, 3]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %flat = onnx.node "Constant"() {attributes = {value = dense<[-1, 12]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %repeats = onnx.node "Constant"() {attributes = {value = dense<[1, 4, 3]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %eps = onnx.node "Constant"() {attributes = {value = dense<9.99999968E-21> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %scale = onnx.node "Constant"() {attributes = {value = dense<2.500000e+00> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %s = onnx.node "Sigmoid"(%arg0) {version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %keys = onnx.node "Add"(%s, %arg1) {version = 14 : i64} : (tensor<?x12xf32>, tensor<12xf32>) -> tensor<?x12xf32>
  %grouped = onnx.node "Reshape"(%keys, %by_group) {version = 14 : i64} : (tensor<?x12xf32>, tensor<3xi64>) -> tensor<?x4x3xf32>
  %best, %unused2 = onnx.node "TopK"(%grouped, %two) {attributes = {axis = 2 : i64}, version = 11 : i64} : (tensor<?x4x3xf32>, tensor<1xi64>) -> (tensor<?x4x2xf32>, tensor<?x4x2xi64>)
  %0 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %score = onnx.node "ReduceSum"(%best, %0) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x4x2xf32>, tensor<1xi64>) -> tensor<?x4xf32>
  %unused, %chosen = onnx.node "TopK"(%score, %two) {attributes = {axis = 1 : i64, sorted = 0 : i64}, version = 11 : i64} : (tensor<?x4xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %score_shape = onnx.node "Shape"(%score) {version = 15 : i64} : (tensor<?x4xf32>) -> tensor<2xi64>
  %chosen_shape = onnx.node "Shape"(%chosen) {version = 15 : i64} : (tensor<?x2xi64>) -> tensor<2xi64>
  %off = onnx.node "ConstantOfShape"(%score_shape) {attributes = {value = dense<0.000000e+00> : tensor<1xf32>}, version = 9 : i64} : (tensor<2xi64>) -> tensor<?x4xf32>
  %on = onnx.node "ConstantOfShape"(%chosen_shape) {attributes = {value = dense<1.000000e+00> : tensor<1xf32>}, version = 9 : i64} : (tensor<2xi64>) -> tensor<?x2xf32>
  %mask = onnx.node "ScatterElements"(%off, %chosen, %on) {attributes = {axis = 1 : i64}, version = 18 : i64} : (tensor<?x4xf32>, tensor<?x2xi64>, tensor<?x2xf32>) -> tensor<?x4xf32>
  %1 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %wide = onnx.node "Unsqueeze"(%mask, %1) {version = 13 : i64} : (tensor<?x4xf32>, tensor<1xi64>) -> tensor<?x4x1xf32>
  %repeated = onnx.node "Expand"(%wide, %repeats) {version = 13 : i64} : (tensor<?x4x1xf32>, tensor<3xi64>) -> tensor<?x4x3xf32>
  %flat_mask = onnx.node "Reshape"(%repeated, %flat) {version = 14 : i64} : (tensor<?x4x3xf32>, tensor<2xi64>) -> tensor<?x12xf32>
  %allowed = onnx.node "Cast"(%flat_mask) {attributes = {to = 9 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xi1>
  %refused = onnx.node "Not"(%allowed) {version = 20 : i64} : (tensor<?x12xi1>) -> tensor<?x12xi1>
  %masked = onnx.node "Where"(%refused, %ninf, %keys) {version = 16 : i64} : (tensor<?x12xi1>, tensor<f32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %unused3, %ids = onnx.node "TopK"(%masked, %three) {attributes = {axis = 1 : i64, sorted = 0 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x3xf32>, tensor<?x3xi64>)
  %g = onnx.node "GatherElements"(%s, %ids) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>, tensor<?x3xi64>) -> tensor<?x3xf32>
  %2 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %sum = onnx.node "ReduceSum"(%g, %2) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %d = onnx.node "Add"(%sum, %eps) {version = 14 : i64} : (tensor<?x1xf32>, tensor<f32>) -> tensor<?x1xf32>
  %n = onnx.node "Div"(%g, %d) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x1xf32>) -> tensor<?x3xf32>
  %w = onnx.node "Mul"(%n, %scale) {version = 14 : i64} : (tensor<?x3xf32>, tensor<f32>) -> tensor<?x3xf32>
  %r_sizes = onnx.node "Shape"(%arg0) {version = 15 : i64} : (tensor<?x12xf32>) -> tensor<2xi64>
  %r_zeros = onnx.node "ConstantOfShape"(%r_sizes) {version = 9 : i64} : (tensor<2xi64>) -> tensor<?x12xf32>
  %r_dense = onnx.node "ScatterElements"(%r_zeros, %ids, %w)
      {attributes = {axis = 1 : i64, reduction = "none"}, version = 18 : i64}
      : (tensor<?x12xf32>, tensor<?x3xi64>, tensor<?x3xf32>) -> tensor<?x12xf32>
  %r_given = moe.given %ids : (tensor<?x3xi64>) -> !moe.routing<experts = 12, k = 3>
  %r_weighted = moe.weigh %r_given, %r_dense : (!moe.routing<experts = 12, k = 3>, tensor<?x12xf32>) -> !moe.routing<experts = 12, k = 3, weighted>
  %r_count = moe.aux <tokens_per_expert> routing(%r_weighted) : (!moe.routing<experts = 12, k = 3, weighted>) -> tensor<12xi64>
  return %r_count : tensor<12xi64>
}

// R4: softmax, groups by their maximum, masked by 0 (DeepSeek-V2).

// CHECK-LABEL: func @deepseek_v2
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x12xf32>{{.*}}, %[[B:[a-z0-9]*]]: tensor<12xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[S:.*]] = moe.score <softmax> %[[L]]
// CHECK-NEXT: %[[R:.*]] = moe.select %[[S]] {group_fill = #moe.group_fill<zero>, k = 3 : i64, n_group = 4 : i64, topk_group = 2 : i64}
// CHECK-NEXT: moe.weigh %[[R]], %[[S]] {scale = 1.600000e+01 : f64}
// CHECK-NOT: onnx.node
func.func @deepseek_v2(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %three = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %zero = onnx.node "Constant"() {attributes = {value = dense<0.000000e+00> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %by_group = onnx.node "Constant"() {attributes = {value = dense<[-1, 4, 3]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %flat = onnx.node "Constant"() {attributes = {value = dense<[-1, 12]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %repeats = onnx.node "Constant"() {attributes = {value = dense<[1, 4, 3]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %scale = onnx.node "Constant"() {attributes = {value = dense<1.600000e+01> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %p = onnx.node "Softmax"(%arg0) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %grouped = onnx.node "Reshape"(%p, %by_group) {version = 14 : i64} : (tensor<?x12xf32>, tensor<3xi64>) -> tensor<?x4x3xf32>
  %0 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %score = onnx.node "ReduceMax"(%grouped, %0) {attributes = {keepdims = 0 : i64}, version = 18 : i64} : (tensor<?x4x3xf32>, tensor<1xi64>) -> tensor<?x4xf32>
  %unused, %chosen = onnx.node "TopK"(%score, %two) {attributes = {axis = 1 : i64, sorted = 0 : i64}, version = 11 : i64} : (tensor<?x4xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %score_shape = onnx.node "Shape"(%score) {version = 15 : i64} : (tensor<?x4xf32>) -> tensor<2xi64>
  %chosen_shape = onnx.node "Shape"(%chosen) {version = 15 : i64} : (tensor<?x2xi64>) -> tensor<2xi64>
  %off = onnx.node "ConstantOfShape"(%score_shape) {attributes = {value = dense<0.000000e+00> : tensor<1xf32>}, version = 9 : i64} : (tensor<2xi64>) -> tensor<?x4xf32>
  %on = onnx.node "ConstantOfShape"(%chosen_shape) {attributes = {value = dense<1.000000e+00> : tensor<1xf32>}, version = 9 : i64} : (tensor<2xi64>) -> tensor<?x2xf32>
  %mask = onnx.node "ScatterElements"(%off, %chosen, %on) {attributes = {axis = 1 : i64}, version = 18 : i64} : (tensor<?x4xf32>, tensor<?x2xi64>, tensor<?x2xf32>) -> tensor<?x4xf32>
  %1 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %wide = onnx.node "Unsqueeze"(%mask, %1) {version = 13 : i64} : (tensor<?x4xf32>, tensor<1xi64>) -> tensor<?x4x1xf32>
  %repeated = onnx.node "Expand"(%wide, %repeats) {version = 13 : i64} : (tensor<?x4x1xf32>, tensor<3xi64>) -> tensor<?x4x3xf32>
  %flat_mask = onnx.node "Reshape"(%repeated, %flat) {version = 14 : i64} : (tensor<?x4x3xf32>, tensor<2xi64>) -> tensor<?x12xf32>
  %allowed = onnx.node "Cast"(%flat_mask) {attributes = {to = 9 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xi1>
  %refused = onnx.node "Not"(%allowed) {version = 20 : i64} : (tensor<?x12xi1>) -> tensor<?x12xi1>
  %masked = onnx.node "Where"(%refused, %zero, %p) {version = 16 : i64} : (tensor<?x12xi1>, tensor<f32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %v, %ids = onnx.node "TopK"(%masked, %three) {attributes = {axis = 1 : i64, sorted = 0 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x3xf32>, tensor<?x3xi64>)
  %w = onnx.node "Mul"(%scale, %v) {version = 14 : i64} : (tensor<f32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %r_sizes = onnx.node "Shape"(%arg0) {version = 15 : i64} : (tensor<?x12xf32>) -> tensor<2xi64>
  %r_zeros = onnx.node "ConstantOfShape"(%r_sizes) {version = 9 : i64} : (tensor<2xi64>) -> tensor<?x12xf32>
  %r_dense = onnx.node "ScatterElements"(%r_zeros, %ids, %w)
      {attributes = {axis = 1 : i64, reduction = "none"}, version = 18 : i64}
      : (tensor<?x12xf32>, tensor<?x3xi64>, tensor<?x3xf32>) -> tensor<?x12xf32>
  %r_given = moe.given %ids : (tensor<?x3xi64>) -> !moe.routing<experts = 12, k = 3>
  %r_weighted = moe.weigh %r_given, %r_dense : (!moe.routing<experts = 12, k = 3>, tensor<?x12xf32>) -> !moe.routing<experts = 12, k = 3, weighted>
  %r_count = moe.aux <tokens_per_expert> routing(%r_weighted) : (!moe.routing<experts = 12, k = 3, weighted>) -> tensor<12xi64>
  return %r_count : tensor<12xi64>
}

// R5: sigmoid, normalised, scaled (GLM-4).

// CHECK-LABEL: func @sigmoid_normalised
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x12xf32>{{.*}}, %[[B:[a-z0-9]*]]: tensor<12xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[S:.*]] = moe.score <sigmoid> %[[L]]
// CHECK-NEXT: %[[R:.*]] = moe.select %[[S]] {k = 2 : i64}
// CHECK-NEXT: moe.weigh %[[R]], %[[S]] {norm = #moe.weigh_norm<sum>, norm_eps = {{.*}}E-7 : f64, scale = 1.500000e+00 : f64}
// CHECK-NOT: onnx.node
func.func @sigmoid_normalised(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %eps = onnx.node "Constant"() {attributes = {value = dense<9.99999997E-7> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %scale = onnx.node "Constant"() {attributes = {value = dense<1.500000e+00> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %s = onnx.node "Sigmoid"(%arg0) {version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %v, %ids = onnx.node "TopK"(%s, %two) {attributes = {axis = 1 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %0 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %sum = onnx.node "ReduceSum"(%v, %0) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %d = onnx.node "Add"(%eps, %sum) {version = 14 : i64} : (tensor<f32>, tensor<?x1xf32>) -> tensor<?x1xf32>
  %n = onnx.node "Div"(%v, %d) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x1xf32>) -> tensor<?x2xf32>
  %w = onnx.node "Mul"(%n, %scale) {version = 14 : i64} : (tensor<?x2xf32>, tensor<f32>) -> tensor<?x2xf32>
  %r_sizes = onnx.node "Shape"(%arg0) {version = 15 : i64} : (tensor<?x12xf32>) -> tensor<2xi64>
  %r_zeros = onnx.node "ConstantOfShape"(%r_sizes) {version = 9 : i64} : (tensor<2xi64>) -> tensor<?x12xf32>
  %r_dense = onnx.node "ScatterElements"(%r_zeros, %ids, %w)
      {attributes = {axis = 1 : i64, reduction = "none"}, version = 18 : i64}
      : (tensor<?x12xf32>, tensor<?x2xi64>, tensor<?x2xf32>) -> tensor<?x12xf32>
  %r_given = moe.given %ids : (tensor<?x2xi64>) -> !moe.routing<experts = 12, k = 2>
  %r_weighted = moe.weigh %r_given, %r_dense : (!moe.routing<experts = 12, k = 2>, tensor<?x12xf32>) -> !moe.routing<experts = 12, k = 2, weighted>
  %r_count = moe.aux <tokens_per_expert> routing(%r_weighted) : (!moe.routing<experts = 12, k = 2, weighted>) -> tensor<12xi64>
  return %r_count : tensor<12xi64>
}

// R6: two rounds of the sparse mixer (PhiMoE).

// CHECK-LABEL: func @sparse_mixer
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x12xf32>{{.*}}, %[[B:[a-z0-9]*]]: tensor<12xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[R:.*]] = moe.select %[[L]] {k = 2 : i64}
// CHECK-NEXT: moe.weigh %[[R]], %[[L]] {eps = {{0.15|1.5}}{{.*}} : f64, fn = #moe.weigh_fn<masked_softmax>}
// CHECK-NOT: onnx.node
func.func @sparse_mixer(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %ninf = onnx.node "Constant"() {attributes = {value = dense<0xFF800000> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %bound = onnx.node "Constant"() {attributes = {value = dense<3.000000e-01> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %0 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %m1 = onnx.node "ReduceMax"(%arg0, %0) {attributes = {keepdims = 1 : i64}, version = 18 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %id1 = onnx.node "ArgMax"(%arg0) {attributes = {axis = 1 : i64, keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x1xi64>
  %abs1 = onnx.node "Abs"(%arg0) {version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %factor1 = onnx.node "Max"(%abs1, %m1) {version = 13 : i64} : (tensor<?x12xf32>, tensor<?x1xf32>) -> tensor<?x12xf32>
  %distance1 = onnx.node "Sub"(%m1, %arg0) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %relative1 = onnx.node "Div"(%distance1, %factor1) {version = 14 : i64} : (tensor<?x12xf32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %far1 = onnx.node "Greater"(%relative1, %bound) {version = 13 : i64} : (tensor<?x12xf32>, tensor<f32>) -> tensor<?x12xi1>
  %near1 = onnx.node "Where"(%far1, %ninf, %arg0) {version = 16 : i64} : (tensor<?x12xi1>, tensor<f32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %p1 = onnx.node "Softmax"(%near1) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %w1 = onnx.node "GatherElements"(%p1, %id1) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>, tensor<?x1xi64>) -> tensor<?x1xf32>
  %taken_shape = onnx.node "Shape"(%id1) {version = 15 : i64} : (tensor<?x1xi64>) -> tensor<2xi64>
  %taken = onnx.node "Expand"(%ninf, %taken_shape) {version = 13 : i64} : (tensor<f32>, tensor<2xi64>) -> tensor<?x1xf32>
  %l2 = onnx.node "ScatterElements"(%arg0, %id1, %taken) {attributes = {axis = 1 : i64}, version = 18 : i64} : (tensor<?x12xf32>, tensor<?x1xi64>, tensor<?x1xf32>) -> tensor<?x12xf32>
  %1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %m2 = onnx.node "ReduceMax"(%l2, %1) {attributes = {keepdims = 1 : i64}, version = 18 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %id2 = onnx.node "ArgMax"(%l2) {attributes = {axis = 1 : i64, keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x1xi64>
  %abs2 = onnx.node "Abs"(%arg0) {version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %factor2 = onnx.node "Max"(%abs2, %m2) {version = 13 : i64} : (tensor<?x12xf32>, tensor<?x1xf32>) -> tensor<?x12xf32>
  %distance2 = onnx.node "Sub"(%m2, %arg0) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %relative2 = onnx.node "Div"(%distance2, %factor2) {version = 14 : i64} : (tensor<?x12xf32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %far2 = onnx.node "Greater"(%relative2, %bound) {version = 13 : i64} : (tensor<?x12xf32>, tensor<f32>) -> tensor<?x12xi1>
  %near2 = onnx.node "Where"(%far2, %ninf, %l2) {version = 16 : i64} : (tensor<?x12xi1>, tensor<f32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %p2 = onnx.node "Softmax"(%near2) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %w2 = onnx.node "GatherElements"(%p2, %id2) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>, tensor<?x1xi64>) -> tensor<?x1xf32>
  %ids = onnx.node "Concat"(%id1, %id2) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x1xi64>, tensor<?x1xi64>) -> tensor<?x2xi64>
  %w = onnx.node "Concat"(%w1, %w2) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x1xf32>, tensor<?x1xf32>) -> tensor<?x2xf32>
  %r_sizes = onnx.node "Shape"(%arg0) {version = 15 : i64} : (tensor<?x12xf32>) -> tensor<2xi64>
  %r_zeros = onnx.node "ConstantOfShape"(%r_sizes) {version = 9 : i64} : (tensor<2xi64>) -> tensor<?x12xf32>
  %r_dense = onnx.node "ScatterElements"(%r_zeros, %ids, %w)
      {attributes = {axis = 1 : i64, reduction = "none"}, version = 18 : i64}
      : (tensor<?x12xf32>, tensor<?x2xi64>, tensor<?x2xf32>) -> tensor<?x12xf32>
  %r_given = moe.given %ids : (tensor<?x2xi64>) -> !moe.routing<experts = 12, k = 2>
  %r_weighted = moe.weigh %r_given, %r_dense : (!moe.routing<experts = 12, k = 2>, tensor<?x12xf32>) -> !moe.routing<experts = 12, k = 2, weighted>
  %r_count = moe.aux <tokens_per_expert> routing(%r_weighted) : (!moe.routing<experts = 12, k = 2, weighted>) -> tensor<12xi64>
  return %r_count : tensor<12xi64>
}

// R7: one expert per token, with room for two tokens of a sequence (Switch).

// CHECK-LABEL: func @switch
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x12xf32>{{.*}}, %[[B:[a-z0-9]*]]: tensor<12xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[S:.*]] = moe.score <softmax> %[[L]]
// CHECK-NEXT: %[[R:.*]] = moe.select %[[S]] {k = 1 : i64}
// CHECK-NEXT: %[[W:.*]] = moe.weigh %[[R]], %[[S]] :
// CHECK: moe.capacity %[[W]] group_size(%{{.*}}) {capacity = #moe.capacity<2>}
// CHECK-NOT: onnx.node
func.func @switch(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %by_sequence = onnx.node "Constant"() {attributes = {value = dense<[-1, 5, 12]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %column = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 12]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %depth = onnx.node "Constant"() {attributes = {value = dense<12> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %off_on = onnx.node "Constant"() {attributes = {value = dense<[0, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %axis = onnx.node "Constant"() {attributes = {value = dense<-2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %c = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %l3 = onnx.node "Reshape"(%arg0, %by_sequence) {version = 14 : i64} : (tensor<?x12xf32>, tensor<3xi64>) -> tensor<?x5x12xf32>
  %p = onnx.node "Softmax"(%l3) {attributes = {axis = 2 : i64}, version = 13 : i64} : (tensor<?x5x12xf32>) -> tensor<?x5x12xf32>
  %top = onnx.node "ArgMax"(%p) {attributes = {axis = 2 : i64, keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x5x12xf32>) -> tensor<?x5xi64>
  %0 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %v = onnx.node "ReduceMax"(%p, %0) {attributes = {keepdims = 1 : i64}, version = 18 : i64} : (tensor<?x5x12xf32>, tensor<1xi64>) -> tensor<?x5x1xf32>
  %w = onnx.node "Reshape"(%v, %column) {version = 14 : i64} : (tensor<?x5x1xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %hot = onnx.node "OneHot"(%top, %depth, %off_on) {version = 20 : i64} : (tensor<?x5xi64>, tensor<i64>, tensor<2xi64>) -> tensor<?x5x12xi64>
  %position = onnx.node "CumSum"(%hot, %axis) {version = 14 : i64} : (tensor<?x5x12xi64>, tensor<i64>) -> tensor<?x5x12xi64>
  %within = onnx.node "LessOrEqual"(%position, %c) {version = 16 : i64} : (tensor<?x5x12xi64>, tensor<i64>) -> tensor<?x5x12xi1>
  %kept = onnx.node "Cast"(%within) {attributes = {to = 7 : i64}, version = 13 : i64} : (tensor<?x5x12xi1>) -> tensor<?x5x12xi64>
  %mask3 = onnx.node "Mul"(%hot, %kept) {version = 14 : i64} : (tensor<?x5x12xi64>, tensor<?x5x12xi64>) -> tensor<?x5x12xi64>
  %mask = onnx.node "Reshape"(%mask3, %rows) {version = 14 : i64} : (tensor<?x5x12xi64>, tensor<2xi64>) -> tensor<?x12xi64>
  %r_row = onnx.node "Constant"() {attributes = {value = dense<[1, 12]> : tensor<2xi64>}, version = 13 : i64}
      : () -> tensor<2xi64>
  %r_dense = onnx.node "Expand"(%w, %r_row) {version = 13 : i64} : (tensor<?x1xf32>, tensor<2xi64>) -> tensor<?x12xf32>
  %r_mask = onnx.node "Cast"(%mask) {attributes = {to = 9 : i64}, version = 13 : i64}
      : (tensor<?x12xi64>) -> tensor<?x12xi1>
  %r_all = moe.select %r_dense expert_mask(%r_mask) {k = 12, mode = #moe.select_mode<all>}
      : (tensor<?x12xf32>, tensor<?x12xi1>) -> !moe.routing<experts = 12, k = 12>
  %r_weighted = moe.weigh %r_all, %r_dense : (!moe.routing<experts = 12, k = 12>, tensor<?x12xf32>) -> !moe.routing<experts = 12, k = 12, weighted>
  %r_count = moe.aux <tokens_per_expert> routing(%r_weighted) : (!moe.routing<experts = 12, k = 12, weighted>) -> tensor<12xi64>
  return %r_count : tensor<12xi64>
}

// RUN: moe-opt %s --raise-moe --verify-diagnostics | FileCheck %s

// Routers that mean something else stay as they are, and a remark says what was expected.

// CHECK-LABEL: func @smallest
// CHECK: moe.given
// CHECK-NEXT: moe.weigh
func.func @smallest(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %p = onnx.node "Softmax"(%arg0) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  // expected-remark @below {{the router of a MoE block is not recognised: node '' (TopK) chooses the smallest, expected the largest}}
  %w, %ids = onnx.node "TopK"(%p, %two) {attributes = {axis = 1 : i64, largest = 0 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
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

// CHECK-LABEL: func @sum_of_others
// CHECK: moe.given
// CHECK-NEXT: moe.weigh
func.func @sum_of_others(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %p = onnx.node "Softmax"(%arg0) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %v, %ids = onnx.node "TopK"(%p, %two) {attributes = {axis = 1 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %0 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  // expected-remark @below {{the weights of a MoE block are not recognised: node '' (ReduceSum) is the divisor of the weights, expected the sum of a token's}}
  %sum = onnx.node "ReduceSum"(%p, %0) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> tensor<?x1xf32>
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

// CHECK-LABEL: func @gathered_by_other_ids
// CHECK: moe.given
// CHECK-NEXT: moe.weigh
func.func @gathered_by_other_ids(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %p = onnx.node "Softmax"(%arg0) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>) -> tensor<?x12xf32>
  %v, %ids = onnx.node "TopK"(%p, %two) {attributes = {axis = 1 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  // expected-remark @below {{the weights of a MoE block are not recognised: node '' (TopK) gathers the weights, expected the ids of the experts}}
  %v2, %ids2 = onnx.node "TopK"(%arg0, %two) {attributes = {axis = 1 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %w = onnx.node "GatherElements"(%p, %ids2) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x12xf32>, tensor<?x2xi64>) -> tensor<?x2xf32>
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

// CHECK-LABEL: func @softmax_over_tokens
// CHECK: moe.given
// CHECK-NEXT: moe.weigh
func.func @softmax_over_tokens(%arg0: tensor<?x12xf32>, %arg1: tensor<12xf32>) -> tensor<12xi64> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %v, %ids = onnx.node "TopK"(%arg0, %two) {attributes = {axis = 1 : i64}, version = 11 : i64} : (tensor<?x12xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  // expected-remark @below {{the weights of a MoE block are not recognised: node '' (Softmax) yields the weights, expected a softmax over the 2 selected}}
  %w = onnx.node "Softmax"(%v) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<?x2xf32>) -> tensor<?x2xf32>
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

// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// One function for both nodes, whatever their shapes and axes; narrow floats are compared in f32.

// CHECK-LABEL: func @topk
// CHECK: %[[V:.*]] = memref.alloc(%{{.*}}) {alignment = 64 : i64} : memref<?x2x1xf32>
// CHECK: %[[I:.*]] = memref.alloc(%{{.*}}) {alignment = 64 : i64} : memref<?x2x1xi64>
// CHECK: call @moec_topk_largest_f32(
func.func @topk(%x: tensor<?x8xf32>) -> (tensor<?x2xf32>, tensor<?x2xi64>) {
  %k = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %r:2 = onnx.node "TopK"(%x, %k) {version = 11 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  return %r#0, %r#1 : tensor<?x2xf32>, tensor<?x2xi64>
}

// CHECK-LABEL: func @topk_bf16
// CHECK: arith.extf %{{.*}} : bf16 to f32
// CHECK: call @moec_topk_largest_f32(
// CHECK: arith.truncf %{{.*}} : f32 to bf16
func.func @topk_bf16(%x: tensor<4x8x3xbf16>) -> tensor<4x2x3xbf16> {
  %k = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %r:2 = onnx.node "TopK"(%x, %k) {attributes = {axis = 1 : i64}, version = 11 : i64}
    : (tensor<4x8x3xbf16>, tensor<1xi64>) -> (tensor<4x2x3xbf16>, tensor<4x2x3xi64>)
  return %r#0 : tensor<4x2x3xbf16>
}

// A k that is computed may be too large.

// CHECK-LABEL: func @argsort
// CHECK-DAG: moe.check %{{.*}}, "node '' (TopK): k is larger than the size of the dimension"
// CHECK-DAG: moe.check %{{.*}}, "node '' (TopK): k is negative"
// CHECK: call @moec_topk_smallest_i64(
func.func @argsort(%x: tensor<?xi64>, %k: tensor<1xi64>) -> tensor<?xi64> {
  %r:2 = onnx.node "TopK"(%x, %k) {attributes = {largest = 0 : i64}, version = 11 : i64}
    : (tensor<?xi64>, tensor<1xi64>) -> (tensor<?xi64>, tensor<?xi64>)
  return %r#1 : tensor<?xi64>
}

// CHECK-LABEL: func @argmax
// CHECK: linalg.generic {{.*}} iterator_types = ["parallel", "reduction"]
// CHECK: tensor.expand_shape
func.func @argmax(%x: tensor<?x8xf32>) -> tensor<?x1xi64> {
  %r = onnx.node "ArgMax"(%x) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>) -> tensor<?x1xi64>
  return %r : tensor<?x1xi64>
}

// CHECK-LABEL: func @cumsum
// CHECK: scf.for %{{.*}} iter_args
// CHECK: scf.for %{{.*}} iter_args(%{{.*}} = %{{.*}}, %{{.*}} = %{{.*}}) -> (tensor<?x8xf32>, f32)
func.func @cumsum(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %a = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r = onnx.node "CumSum"(%x, %a) {version = 14 : i64} : (tensor<?x8xf32>, tensor<i64>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

// CHECK-COUNT-1: func private @moec_topk_largest_f32
// CHECK-COUNT-1: func private @moec_topk_smallest_i64

// RUN: moe-opt %s --normalize-onnx --fuse-attention --split-input-file | FileCheck %s
// RUN: moe-opt %s --normalize-onnx --fuse-attention --split-input-file --remarks-filter=fuse-attention 2>&1 | FileCheck %s --check-prefix=REMARK

// As torch writes it: the scale on both sides, keys transposed by way of rank 3, NaN replaced.
// CHECK-LABEL: func @guarded
// CHECK: %[[Y:.*]] = onnx.node "Attention"(%arg0, %arg1, %arg2, %arg3) {attributes = {scale = 2.500000e-01 : f32}, version = 23 : i64}
// CHECK-NEXT: return %[[Y]]
func.func @guarded(%q: tensor<?x4x?x8xf32>, %k: tensor<?x4x?x8xf32>, %v: tensor<?x4x?x8xf32>, %bias: tensor<?x1x?x?xf32>) -> tensor<?x4x?x8xf32> {
  %half = onnx.node "Constant"() {attributes = {value = dense<0.5> : tensor<f32>}, version = 20 : i64} : () -> tensor<f32>
  %zero = onnx.node "Constant"() {attributes = {value = dense<0.0> : tensor<f32>}, version = 20 : i64} : () -> tensor<f32>
  %m1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 20 : i64} : () -> tensor<1xi64>
  %m2 = onnx.node "Constant"() {attributes = {value = dense<-2> : tensor<1xi64>}, version = 20 : i64} : () -> tensor<1xi64>
  %m9 = onnx.node "Constant"() {attributes = {value = dense<-9223372036854775807> : tensor<1xi64>}, version = 20 : i64} : () -> tensor<1xi64>
  %end = onnx.node "Constant"() {attributes = {value = dense<9223372036854775807> : tensor<1xi64>}, version = 20 : i64} : () -> tensor<1xi64>
  %s = onnx.node "Shape"(%k) {version = 20 : i64} : (tensor<?x4x?x8xf32>) -> tensor<4xi64>
  %last = onnx.node "Slice"(%s, %m1, %end) {version = 20 : i64} : (tensor<4xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<1xi64>
  %rows = onnx.node "Slice"(%s, %m2, %m1) {version = 20 : i64} : (tensor<4xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<1xi64>
  %first = onnx.node "Slice"(%s, %m9, %m2) {version = 20 : i64} : (tensor<4xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<2xi64>
  %flat = onnx.node "Concat"(%m1, %rows, %last) {attributes = {axis = 0 : i64}, version = 20 : i64} : (tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<3xi64>
  %k3 = onnx.node "Reshape"(%k, %flat) {version = 20 : i64} : (tensor<?x4x?x8xf32>, tensor<3xi64>) -> tensor<*xf32>
  %t3 = onnx.node "Transpose"(%k3) {attributes = {perm = array<i64: 0, 2, 1>}, version = 20 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %full = onnx.node "Concat"(%first, %last, %rows) {attributes = {axis = 0 : i64}, version = 20 : i64} : (tensor<2xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<4xi64>
  %kt = onnx.node "Reshape"(%t3, %full) {version = 20 : i64} : (tensor<*xf32>, tensor<4xi64>) -> tensor<*xf32>
  %qs = onnx.node "Mul"(%q, %half) {version = 20 : i64} : (tensor<?x4x?x8xf32>, tensor<f32>) -> tensor<*xf32>
  %ks = onnx.node "Mul"(%kt, %half) {version = 20 : i64} : (tensor<*xf32>, tensor<f32>) -> tensor<*xf32>
  %scores = onnx.node "MatMul"(%qs, %ks) {version = 20 : i64} : (tensor<*xf32>, tensor<*xf32>) -> tensor<*xf32>
  %masked = onnx.node "Add"(%scores, %bias) {version = 20 : i64} : (tensor<*xf32>, tensor<?x1x?x?xf32>) -> tensor<*xf32>
  %p = onnx.node "Softmax"(%masked) {attributes = {axis = -1 : i64}, version = 20 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %nan = onnx.node "IsNaN"(%p) {version = 20 : i64} : (tensor<*xf32>) -> tensor<*xi1>
  %w = onnx.node "Where"(%nan, %zero, %p) {version = 20 : i64} : (tensor<*xi1>, tensor<f32>, tensor<*xf32>) -> tensor<*xf32>
  %y = onnx.node "MatMul"(%w, %v) {version = 20 : i64} : (tensor<*xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x8xf32>
  return %y : tensor<?x4x?x8xf32>
}

// -----

// As eager code writes it; queries without keys stay NaN.
// CHECK-LABEL: func @plain
// CHECK: onnx.node "Attention"(%arg0, %arg1, %arg2) {attributes = {__empty_is_nan = 1 : i64, scale = 2.500000e-01 : f32}, version = 23 : i64}
// CHECK-NEXT: return
func.func @plain(%q: tensor<?x4x?x8xf32>, %k: tensor<?x4x?x8xf32>, %v: tensor<?x4x?x8xf32>) -> tensor<?x4x?x8xf32> {
  %four = onnx.node "Constant"() {attributes = {value = dense<4.0> : tensor<f32>}, version = 20 : i64} : () -> tensor<f32>
  %kt = onnx.node "Transpose"(%k) {attributes = {perm = array<i64: 0, 1, 3, 2>}, version = 20 : i64} : (tensor<?x4x?x8xf32>) -> tensor<*xf32>
  %scores = onnx.node "MatMul"(%q, %kt) {version = 20 : i64} : (tensor<?x4x?x8xf32>, tensor<*xf32>) -> tensor<*xf32>
  %scaled = onnx.node "Div"(%scores, %four) {version = 20 : i64} : (tensor<*xf32>, tensor<f32>) -> tensor<*xf32>
  %p = onnx.node "Softmax"(%scaled) {attributes = {axis = -1 : i64}, version = 20 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %y = onnx.node "MatMul"(%p, %v) {version = 20 : i64} : (tensor<*xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x8xf32>
  return %y : tensor<?x4x?x8xf32>
}

// -----

// Keys that are not transposed, and scores that something else reads, stay.
// REMARK: the second factor of the scores is not known to be transposed keys
// REMARK: the scores are no product that only the Softmax reads
// CHECK-LABEL: func @others
// CHECK-NOT: Attention
func.func @others(%q: tensor<?x4x8x8xf32>, %k: tensor<?x4x8x8xf32>, %v: tensor<?x4x8x8xf32>) -> (tensor<*xf32>, tensor<*xf32>, tensor<*xf32>) {
  %scores = onnx.node "MatMul"(%q, %k) {version = 20 : i64} : (tensor<?x4x8x8xf32>, tensor<?x4x8x8xf32>) -> tensor<*xf32>
  %p = onnx.node "Softmax"(%scores) {attributes = {axis = -1 : i64}, version = 20 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %y = onnx.node "MatMul"(%p, %v) {version = 20 : i64} : (tensor<*xf32>, tensor<?x4x8x8xf32>) -> tensor<*xf32>
  %kt = onnx.node "Transpose"(%k) {attributes = {perm = array<i64: 0, 1, 3, 2>}, version = 20 : i64} : (tensor<?x4x8x8xf32>) -> tensor<*xf32>
  %other = onnx.node "MatMul"(%q, %kt) {version = 20 : i64} : (tensor<?x4x8x8xf32>, tensor<*xf32>) -> tensor<*xf32>
  %r = onnx.node "Softmax"(%other) {attributes = {axis = -1 : i64}, version = 20 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %z = onnx.node "MatMul"(%r, %v) {version = 20 : i64} : (tensor<*xf32>, tensor<?x4x8x8xf32>) -> tensor<*xf32>
  return %y, %z, %other : tensor<*xf32>, tensor<*xf32>, tensor<*xf32>
}

// -----

// Two things are added, as in T5, and keys are transposed in one step from [batch, rows, heads, size].
// CHECK-LABEL: func @position_bias
// CHECK: %[[K:.*]] = onnx.node "Transpose"(%arg1) {attributes = {perm = array<i64: 0, 2, 1, 3>}, {{.*}}} : (tensor<?x?x4x8xf32>) -> tensor<?x4x?x8xf32>
// CHECK: %[[SUM:.*]] = onnx.node "Add"(%arg3, %arg4) {{.*}} : (tensor<1x4x?x?xf32>, tensor<?x1x1x?xf32>) -> tensor<?x4x?x?xf32>
// CHECK: %[[Y:.*]] = onnx.node "Attention"(%arg0, %[[K]], %arg2, %[[SUM]]) {attributes = {__empty_is_nan = 1 : i64, scale = 1.000000e+00 : f32}, version = 23 : i64}
// CHECK-NEXT: return %[[Y]]
func.func @position_bias(%q: tensor<?x4x?x8xf32>, %k: tensor<?x?x4x8xf32>, %v: tensor<?x4x?x8xf32>, %position: tensor<1x4x?x?xf32>,
                         %mask: tensor<?x1x1x?xf32>) -> tensor<?x4x?x8xf32> {
  %kt = onnx.node "Transpose"(%k) {attributes = {perm = array<i64: 0, 2, 3, 1>}, version = 13 : i64} : (tensor<?x?x4x8xf32>) -> tensor<*xf32>
  %scores = onnx.node "MatMul"(%q, %kt) {version = 20 : i64} : (tensor<?x4x?x8xf32>, tensor<*xf32>) -> tensor<*xf32>
  %biased = onnx.node "Add"(%position, %scores) {version = 20 : i64} : (tensor<1x4x?x?xf32>, tensor<*xf32>) -> tensor<*xf32>
  %masked = onnx.node "Add"(%biased, %mask) {version = 20 : i64} : (tensor<*xf32>, tensor<?x1x1x?xf32>) -> tensor<*xf32>
  %p = onnx.node "Softmax"(%masked) {attributes = {axis = -1 : i64}, version = 20 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %y = onnx.node "MatMul"(%p, %v) {version = 20 : i64} : (tensor<*xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x8xf32>
  return %y : tensor<?x4x?x8xf32>
}

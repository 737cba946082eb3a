// RUN: moe-opt %s --onnx-to-linalg=vector-bits=512 --canonicalize --cse | FileCheck %s
// RUN: moe-opt %s --onnx-to-linalg=vector-bits=256 | FileCheck %s --check-prefix=AVX2
// RUN: moe-opt %s --onnx-to-linalg | FileCheck %s --check-prefix=LOOPS

// The kernel reads the keys as they were before they were repeated for the query heads, and rows
// of [batch, rows, heads * size] where they lie.
// LOOPS-NOT: func private @moec_attention
// CHECK-LABEL: func @repeated
// CHECK-NOT: linalg.generic
// CHECK-DAG: bufferization.to_buffer %arg1 read_only : tensor<?x2x?x40xf32> to memref<?x2x?x40xf32, strided<[?, ?, ?, 1], offset: ?>>
// CHECK-DAG: bufferization.to_buffer %arg2 read_only
// CHECK: %[[CALL:.*]] = moe.current_call
// CHECK: call @[[$KERNEL:moec_attention_[0-9a-f]*]]({{.*}}, %[[CALL]])
// CHECK-NOT: linalg.generic
// CHECK: return
func.func @repeated(%q: tensor<?x4x?x40xf32> {onnx.dims = ["batch", "4", "rows", "40"]}, %k: tensor<?x2x?x40xf32> {onnx.dims = ["batch", "2", "keys", "40"]},
                    %v: tensor<?x2x?x40xf32> {onnx.dims = ["batch", "2", "keys", "40"]}) -> tensor<?x4x?x40xf32> {
  %axis = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 23 : i64} : () -> tensor<1xi64>
  %one = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 23 : i64} : () -> tensor<1xi64>
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 23 : i64} : () -> tensor<1xi64>
  %repeat = onnx.node "Constant"() {attributes = {value = dense<[1, 1, 2, 1, 1]> : tensor<5xi64>}, version = 23 : i64} : () -> tensor<5xi64>
  %merge = onnx.node "Constant"() {attributes = {value = dense<[0, 4, -1, 40]> : tensor<4xi64>}, version = 23 : i64} : () -> tensor<4xi64>
  %k5 = onnx.node "Unsqueeze"(%k, %axis) {version = 23 : i64} : (tensor<?x2x?x40xf32>, tensor<1xi64>) -> tensor<?x2x1x?x40xf32>
  %v5 = onnx.node "Unsqueeze"(%v, %axis) {version = 23 : i64} : (tensor<?x2x?x40xf32>, tensor<1xi64>) -> tensor<?x2x1x?x40xf32>
  %kr = onnx.node "Expand"(%k5, %repeat) {version = 13 : i64} : (tensor<?x2x1x?x40xf32>, tensor<5xi64>) -> tensor<?x2x2x?x40xf32>
  %vr = onnx.node "Expand"(%v5, %repeat) {version = 13 : i64} : (tensor<?x2x1x?x40xf32>, tensor<5xi64>) -> tensor<?x2x2x?x40xf32>
  %km = onnx.node "Reshape"(%kr, %merge) {version = 23 : i64} : (tensor<?x2x2x?x40xf32>, tensor<4xi64>) -> tensor<?x4x?x40xf32>
  %vm = onnx.node "Reshape"(%vr, %merge) {version = 23 : i64} : (tensor<?x2x2x?x40xf32>, tensor<4xi64>) -> tensor<?x4x?x40xf32>
  %y = onnx.node "Attention"(%q, %km, %vm) {attributes = {is_causal = 1 : i64}, version = 23 : i64}
    : (tensor<?x4x?x40xf32>, tensor<?x4x?x40xf32>, tensor<?x4x?x40xf32>) -> tensor<?x4x?x40xf32>
  return %y : tensor<?x4x?x40xf32>
}

// Same heads, same bounds: the same kernel.
// CHECK-LABEL: func @rows_first
// CHECK: memref.transpose
// CHECK: call @[[$KERNEL]](
func.func @rows_first(%q: tensor<1x?x160xf32>, %k: tensor<1x?x80xf32>, %v: tensor<1x?x80xf32>) -> tensor<1x?x160xf32> {
  %y = onnx.node "Attention"(%q, %k, %v) {attributes = {is_causal = 1 : i64, q_num_heads = 4 : i64, kv_num_heads = 2 : i64}, version = 23 : i64}
    : (tensor<1x?x160xf32>, tensor<1x?x80xf32>, tensor<1x?x80xf32>) -> tensor<1x?x160xf32>
  return %y : tensor<1x?x160xf32>
}

// One parallel loop; keys are transposed by shuffles; four rows times four vectors of keys at
// once; no exponential is a scalar's, and the last 8 of 40 numbers are half a vector.
// CHECK-LABEL: func private @moec_attention
// CHECK-NOT: math.exp {{.*}} : f32
// CHECK: scf.parallel
// CHECK-NOT: math.exp {{.*}} : f32
// CHECK: vector.shuffle {{.*}} [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23]
// CHECK: vector.maskedload
// CHECK: scf.for {{.*}} -> (vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>)
// CHECK-COUNT-16: math.fma {{.*}} : vector<16xf32>
// CHECK-NOT: math.fma
// CHECK: scf.yield
// CHECK-NOT: math.exp {{.*}} : f32
// CHECK: math.exp {{.*}} : vector<16xf32>
// CHECK-NOT: math.exp {{.*}} : f32
// CHECK-NOT: scf.parallel
// CHECK-NOT: func private

// Half as many vectors of keys where there are half as many registers.
// AVX2: func private @moec_attention
// AVX2: scf.for {{.*}} -> (vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
// AVX2-COUNT-8: math.fma {{.*}} : vector<8xf32>
// AVX2: scf.yield

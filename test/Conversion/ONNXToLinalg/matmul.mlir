// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// Loops: batch, rows, inner, columns, so that the innermost one runs along rows of both
// the right factor and the result.
// CHECK-DAG: #[[LHS:.*]] = affine_map<(d0, d1, d2, d3) -> (d0, d1, d2)>
// CHECK-DAG: #[[RHS:.*]] = affine_map<(d0, d1, d2, d3) -> (d2, d3)>
// CHECK-DAG: #[[OUT:.*]] = affine_map<(d0, d1, d2, d3) -> (d0, d1, d3)>
// CHECK-LABEL: func @weight
// CHECK: linalg.fill
// CHECK: linalg.generic {indexing_maps = [#[[LHS]], #[[RHS]], #[[OUT]]], iterator_types = ["parallel", "parallel", "reduction", "parallel"]}
// CHECK: arith.mulf %{{.*}} fastmath<reassoc,contract>
// CHECK: arith.addf %{{.*}} fastmath<reassoc,contract>
func.func @weight(%x: tensor<?x?x64xf32>, %w: tensor<64x8xf32>) -> tensor<?x?x8xf32> {
  %r = onnx.node "MatMul"(%x, %w) {version = 13 : i64}
    : (tensor<?x?x64xf32>, tensor<64x8xf32>) -> tensor<?x?x8xf32>
  return %r : tensor<?x?x8xf32>
}

// CHECK-LABEL: func @accumulates_in_f32
// CHECK: linalg.fill ins(%{{.*}} : f32)
// CHECK: ^bb0(%{{.*}}: f16, %{{.*}}: f16, %{{.*}}: f32)
// CHECK: arith.truncf %{{.*}} : f32 to f16
func.func @accumulates_in_f32(%x: tensor<?x64xf16>, %w: tensor<64x8xf16>) -> tensor<?x8xf16> {
  %r = onnx.node "MatMul"(%x, %w) {version = 13 : i64}
    : (tensor<?x64xf16>, tensor<64x8xf16>) -> tensor<?x8xf16>
  return %r : tensor<?x8xf16>
}

// CHECK-LABEL: func @inner_sizes
// CHECK: moe.check %{{.*}}, "node '' (MatMul): the inner sizes differ"
func.func @inner_sizes(%x: tensor<4x?xf32>, %w: tensor<64x8xf32>) -> tensor<4x8xf32> {
  %r = onnx.node "MatMul"(%x, %w) {version = 13 : i64}
    : (tensor<4x?xf32>, tensor<64x8xf32>) -> tensor<4x8xf32>
  return %r : tensor<4x8xf32>
}

// CHECK-LABEL: func @gemm
// CHECK: iterator_types = ["parallel", "parallel", "reduction"]
// CHECK: linalg.generic
// CHECK: arith.mulf %{{.*}}, %cst
// CHECK: arith.addf
func.func @gemm(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %c: tensor<8xf32>) -> tensor<?x8xf32> {
  %r = onnx.node "Gemm"(%x, %w, %c) {attributes = {alpha = 0.5 : f32, transB = 1 : i64}, version = 13 : i64}
    : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<8xf32>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

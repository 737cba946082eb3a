// RUN: moe-opt %s --raise-linear --canonicalize --cse --split-input-file | FileCheck %s

moe.weight @w from [#moe.segment<"m.data", offset = 0, length = 8192, tensor<64x32xf32>>] : tensor<64x32xf32>

// Leading dimensions are rows meanwhile.
// CHECK-LABEL: func @matmul
// CHECK-DAG:   %[[W:.*]] = moe.load_weight @w
// CHECK-DAG:   %[[X:.*]] = tensor.collapse_shape %arg0 {{\[\[}}0, 1], [2]] : tensor<?x?x64xf32> into tensor<?x64xf32>
// CHECK:       %[[Y:.*]] = moe.linear %[[X]], %[[W]] {layout = #moe.layout<in_out>, moe.sources = ["q_proj"]}
// CHECK-SAME:    : (tensor<?x64xf32>, tensor<64x32xf32>) -> tensor<?x32xf32>
// CHECK:       tensor.expand_shape %[[Y]] {{\[\[}}0, 1], [2]] output_shape [%{{.*}}, %{{.*}}, 32]
// CHECK-NOT:   onnx.node
func.func @matmul(%x: tensor<?x?x64xf32>) -> tensor<?x?x32xf32> {
  %w = moe.load_weight @w : tensor<64x32xf32>
  %y = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (tensor<?x?x64xf32>, tensor<64x32xf32>) -> tensor<?x?x32xf32> loc("q_proj")
  return %y : tensor<?x?x32xf32>
}

// -----

moe.weight @w from [#moe.segment<"m.data", offset = 0, length = 4096, tensor<64x32xf16>>] : tensor<64x32xf16>
moe.weight @b from [#moe.segment<"m.data", offset = 4096, length = 64, tensor<32xf16>>] : tensor<32xf16>

// The Add is the only user of the product.
// CHECK-LABEL: func @bias
// CHECK:       moe.linear %arg0, %{{.*}} bias(%{{.*}}) {layout = #moe.layout<in_out>
// CHECK-NOT:   onnx.node
func.func @bias(%x: tensor<3x64xf16>) -> tensor<3x32xf16> {
  %w = moe.load_weight @w : tensor<64x32xf16>
  %b = moe.load_weight @b : tensor<32xf16>
  %p = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (tensor<3x64xf16>, tensor<64x32xf16>) -> tensor<3x32xf16>
  %y = onnx.node "Add"(%b, %p) {version = 14 : i64} : (tensor<32xf16>, tensor<3x32xf16>) -> tensor<3x32xf16>
  return %y : tensor<3x32xf16>
}

// CHECK-LABEL: func @product_used_twice
// CHECK:       moe.linear %arg0, %{{[^ ]*}} {layout
// CHECK:       onnx.node "Add"
func.func @product_used_twice(%x: tensor<3x64xf16>) -> (tensor<3x32xf16>, tensor<3x32xf16>) {
  %w = moe.load_weight @w : tensor<64x32xf16>
  %b = moe.load_weight @b : tensor<32xf16>
  %p = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (tensor<3x64xf16>, tensor<64x32xf16>) -> tensor<3x32xf16>
  %y = onnx.node "Add"(%b, %p) {version = 14 : i64} : (tensor<32xf16>, tensor<3x32xf16>) -> tensor<3x32xf16>
  return %y, %p : tensor<3x32xf16>, tensor<3x32xf16>
}

// -----

moe.weight @w from [#moe.segment<"m.data", offset = 0, length = 8192, tensor<32x64xf32>>] : tensor<32x64xf32>
moe.weight @b from [#moe.segment<"m.data", offset = 8192, length = 128, tensor<32xf32>>] : tensor<32xf32>

// CHECK-LABEL: func @gemm
// CHECK:       moe.linear %arg0, %{{.*}} bias(%{{.*}}) {moe.sources
// CHECK-NOT:   onnx.node
func.func @gemm(%x: tensor<?x64xf32>) -> tensor<?x32xf32> {
  %w = moe.load_weight @w : tensor<32x64xf32>
  %b = moe.load_weight @b : tensor<32xf32>
  %y = onnx.node "Gemm"(%x, %w, %b) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x64xf32>, tensor<32x64xf32>, tensor<32xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

// A transposed constant is the constant in the other layout.
// CHECK-LABEL: func @transposed
// CHECK:       moe.linear %{{[^ ]*}}, %{{[^ ]*}} {moe.sources
func.func @transposed(%x: tensor<?x64xf32>) -> tensor<?x32xf32> {
  %w = moe.load_weight @w : tensor<32x64xf32>
  %t = onnx.node "Transpose"(%w) {attributes = {perm = array<i64: 1, 0>}, version = 13 : i64} : (tensor<32x64xf32>) -> tensor<64x32xf32>
  %y = onnx.node "MatMul"(%x, %t) {version = 13 : i64} : (tensor<?x64xf32>, tensor<64x32xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

// CHECK-LABEL: func @scaled
// CHECK:       onnx.node "Gemm"
func.func @scaled(%x: tensor<?x64xf32>) -> tensor<?x32xf32> {
  %w = moe.load_weight @w : tensor<32x64xf32>
  %y = onnx.node "Gemm"(%x, %w) {attributes = {alpha = 0.5 : f32, transB = 1 : i64}, version = 13 : i64} : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

// CHECK-LABEL: func @no_constant
// CHECK:       onnx.node "MatMul"
func.func @no_constant(%x: tensor<?x64xf32>, %w: tensor<64x32xf32>) -> tensor<?x32xf32> {
  %y = onnx.node "MatMul"(%x, %w) {version = 13 : i64} : (tensor<?x64xf32>, tensor<64x32xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

// The lowering of the node checks what only the model states.
// CHECK-LABEL: func @stated_size
// CHECK:       onnx.node "Gemm"
func.func @stated_size(%x: tensor<?x64xf32>) -> tensor<4x32xf32> {
  %w = moe.load_weight @w : tensor<32x64xf32>
  %y = onnx.node "Gemm"(%x, %w) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<4x32xf32>
  return %y : tensor<4x32xf32>
}

// CHECK-LABEL: func @unknown_inner_size
// CHECK:       onnx.node "Gemm"
func.func @unknown_inner_size(%x: tensor<?x?xf32>) -> tensor<?x32xf32> {
  %w = moe.load_weight @w : tensor<32x64xf32>
  %y = onnx.node "Gemm"(%x, %w) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x?xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

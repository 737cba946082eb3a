// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// Repeats are dimensions of their own, that are merged.

// CHECK-LABEL: func @tile
// CHECK: linalg.generic {{.*}} iterator_types = ["parallel", "parallel", "parallel"]
// CHECK: tensor.collapse_shape %{{.*}} {{\[\[}}0, 1], [2]] : tensor<4x?x8xf32> into tensor<?x8xf32>
func.func @tile(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %k = onnx.node "Constant"() {attributes = {value = dense<[4, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %r = onnx.node "Tile"(%x, %k) {version = 13 : i64} : (tensor<?x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

// CHECK-LABEL: func @tile_once
// CHECK-NEXT: return %arg0
func.func @tile_once(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %k = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %r = onnx.node "Tile"(%x, %k) {version = 13 : i64} : (tensor<?x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

// What is cut off is not copied.

// CHECK-LABEL: func @pad
// CHECK: %[[CUT:.*]] = tensor.extract_slice %arg0[0, 1] [%{{.*}}, 7] [1, 1]
// CHECK: linalg.fill
// CHECK: tensor.insert_slice %[[CUT]]
func.func @pad(%x: tensor<?x8xf32>) -> tensor<?x7xf32> {
  %p = onnx.node "Constant"() {attributes = {value = dense<[2, -1, 0, 0]> : tensor<4xi64>}, version = 13 : i64} : () -> tensor<4xi64>
  %r = onnx.node "Pad"(%x, %p) {version = 13 : i64} : (tensor<?x8xf32>, tensor<4xi64>) -> tensor<?x7xf32>
  return %r : tensor<?x7xf32>
}

// CHECK-LABEL: func @trilu
// CHECK: linalg.generic {{.*}} iterator_types = ["parallel", "parallel"]
// CHECK: arith.select
func.func @trilu(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %r = onnx.node "Trilu"(%x) {version = 14 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

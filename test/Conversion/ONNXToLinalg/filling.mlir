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

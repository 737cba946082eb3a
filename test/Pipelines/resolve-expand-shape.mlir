// RUN: moe-opt %s --resolve-expand-shape | FileCheck %s
// RUN: moe-opt %s --resolve-expand-shape --expand-strided-metadata | FileCheck %s --check-prefix=STRIDED

// CHECK-LABEL: func @two_sizes
// CHECK-SAME: %[[A:.*]]: memref<?x64xf32>, %[[B:.*]]: index, %[[S:.*]]: index
// CHECK: memref.reinterpret_cast %{{.*}} to offset: [0], sizes: [%[[B]], %[[S]], 64], strides: [%{{.*}}, 64, 1]
// STRIDED-LABEL: func @two_sizes
// STRIDED-NOT: memref.expand_shape
func.func @two_sizes(%a: memref<?x64xf32>, %b: index, %s: index) -> memref<?x?x64xf32> {
  %r = memref.expand_shape %a [[0, 1], [2]] output_shape [%b, %s, 64] : memref<?x64xf32> into memref<?x?x64xf32>
  return %r : memref<?x?x64xf32>
}

// Upstream does the rest.
// CHECK-LABEL: func @one_size
// CHECK: memref.expand_shape
func.func @one_size(%a: memref<?x64xf32>, %b: index) -> memref<?x4x64xf32> {
  %r = memref.expand_shape %a [[0, 1], [2]] output_shape [%b, 4, 64] : memref<?x64xf32> into memref<?x4x64xf32>
  return %r : memref<?x4x64xf32>
}

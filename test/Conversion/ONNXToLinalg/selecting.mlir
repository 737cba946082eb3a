// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// One pass over the elements finds how many there are; the coordinates follow from their numbers.

// CHECK-LABEL: func @non_zero
// CHECK: %[[FOUND:.*]]:2 = scf.for {{.*}} iter_args(%{{.*}} = %{{.*}}, %{{.*}} = %c0) -> (tensor<?xi64>, index)
// CHECK: tensor.empty(%[[FOUND]]#1) : tensor<2x?xi64>
// CHECK: linalg.generic
// CHECK-DAG: arith.divui
// CHECK-DAG: arith.remui
func.func @non_zero(%x: tensor<?x8xf32>) -> tensor<2x?xi64> {
  %r = onnx.node "NonZero"(%x) {version = 13 : i64} : (tensor<?x8xf32>) -> tensor<2x?xi64>
  return %r : tensor<2x?xi64>
}

// CHECK-LABEL: func @compress
// CHECK: moe.check %{{.*}}, "node '' (Compress): the condition is longer than the dimension"
// CHECK: scf.for
// CHECK: linalg.generic
func.func @compress(%x: tensor<?x8xf32>, %c: tensor<?xi1>) -> tensor<?x8xf32> {
  %r = onnx.node "Compress"(%x, %c) {attributes = {axis = 0 : i64}, version = 11 : i64} : (tensor<?x8xf32>, tensor<?xi1>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

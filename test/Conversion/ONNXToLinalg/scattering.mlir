// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// Loops in order on one tensor, which bufferization updates in place. The tuple is read once for a slice.

// CHECK-LABEL: func @scatter_nd
// CHECK: moe.check %{{.*}}, "node '' (ScatterND): an index is out of range"
// CHECK: scf.for %[[T:[a-z0-9]+]] = {{.*}} iter_args(%{{.*}} = %arg0)
// CHECK: tensor.extract %arg1[%[[T]], %c0]
// CHECK: scf.for %[[H:[a-z0-9]+]] = 
// CHECK: tensor.extract %arg2[%[[T]], %[[H]]]
// CHECK: arith.addf
// CHECK: tensor.insert
func.func @scatter_nd(%x: tensor<4x8xf32>, %i: tensor<?x1xi64>, %u: tensor<?x8xf32>) -> tensor<4x8xf32> {
  %r = onnx.node "ScatterND"(%x, %i, %u) {attributes = {reduction = "add"}, version = 18 : i64}
    : (tensor<4x8xf32>, tensor<?x1xi64>, tensor<?x8xf32>) -> tensor<4x8xf32>
  return %r : tensor<4x8xf32>
}

// CHECK-LABEL: func @scatter_elements
// CHECK-DAG: moe.check %{{.*}}, "node '' (ScatterElements): dimension 0 of indices and updates differs"
// CHECK-DAG: moe.check %{{.*}}, "node '' (ScatterElements): dimension 0 of the indices is larger than that of the data"
// CHECK: scf.for
// CHECK: scf.for
// CHECK-NOT: arith.addf
// CHECK: tensor.insert
func.func @scatter_elements(%x: tensor<?x8xf32>, %i: tensor<?x2xi64>, %u: tensor<?x2xf32>) -> tensor<?x8xf32> {
  %r = onnx.node "ScatterElements"(%x, %i, %u) {attributes = {axis = 1 : i64}, version = 18 : i64}
    : (tensor<?x8xf32>, tensor<?x2xi64>, tensor<?x2xf32>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

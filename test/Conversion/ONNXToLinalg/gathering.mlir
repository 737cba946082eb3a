// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @gather
// CHECK: moe.check %{{.*}}, "node '' (Gather): an index is out of range"
// CHECK: linalg.generic
// CHECK: arith.minsi
// CHECK: arith.maxsi
// CHECK: tensor.extract
func.func @gather(%x: tensor<32x8xf32>, %i: tensor<?xi64>) -> tensor<?x8xf32> {
  %r = onnx.node "Gather"(%x, %i) {version = 13 : i64} : (tensor<32x8xf32>, tensor<?xi64>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

// Where the data may have no elements, sizes are checked before anything is read.

// CHECK-LABEL: func @gather_of_nothing
// CHECK-DAG: %[[ROWS:.*]] = tensor.dim %arg0
// CHECK-DAG: %[[COUNT:.*]] = tensor.dim %arg1
// CHECK-DAG: %[[NONE:.*]] = arith.cmpi eq, %[[COUNT]], %c0
// CHECK-DAG: %[[SOME:.*]] = arith.cmpi ne, %[[ROWS]], %c0
// CHECK: %[[OK:.*]] = arith.ori %[[SOME]], %[[NONE]]
// CHECK: moe.check %{{.*}}, %[[OK]], "node '' (Gather): an index is out of range"
func.func @gather_of_nothing(%x: tensor<?x8xf32>, %i: tensor<?xi64>) -> tensor<?x8xf32> {
  %r = onnx.node "Gather"(%x, %i) {version = 13 : i64} : (tensor<?x8xf32>, tensor<?xi64>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

// One check for all components of all tuples.

// CHECK-LABEL: func @gather_nd
// CHECK: linalg.generic {{.*}} iterator_types = ["reduction", "reduction"]
// CHECK: linalg.index 1
// CHECK: moe.check %{{.*}}, "node '' (GatherND): an index is out of range"
// CHECK-NOT: moe.check
// CHECK: tensor.extract %arg0[%{{.*}}, %{{.*}}, %{{.*}}]
func.func @gather_nd(%x: tensor<4x8x3xf32>, %i: tensor<?x2xi64>) -> tensor<?x3xf32> {
  %r = onnx.node "GatherND"(%x, %i) {version = 13 : i64} : (tensor<4x8x3xf32>, tensor<?x2xi64>) -> tensor<?x3xf32>
  return %r : tensor<?x3xf32>
}

// CHECK-LABEL: func @gather_elements
// CHECK: moe.check %{{.*}}, "node '' (GatherElements): dimension 0 of the indices is larger than that of the data"
func.func @gather_elements(%x: tensor<?x8xf32>, %i: tensor<?x2xi64>) -> tensor<?x2xf32> {
  %r = onnx.node "GatherElements"(%x, %i) {attributes = {axis = 1 : i64}, version = 13 : i64}
    : (tensor<?x8xf32>, tensor<?x2xi64>) -> tensor<?x2xf32>
  return %r : tensor<?x2xf32>
}

// Indices out of range are no error.

// CHECK-LABEL: func @one_hot
// CHECK-NOT: moe.check
// CHECK: arith.select
func.func @one_hot(%i: tensor<?xi64>, %v: tensor<2xf32>) -> tensor<?x8xf32> {
  %d = onnx.node "Constant"() {attributes = {value = dense<8> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r = onnx.node "OneHot"(%i, %d, %v) {version = 11 : i64} : (tensor<?xi64>, tensor<i64>, tensor<2xf32>) -> tensor<?x8xf32>
  return %r : tensor<?x8xf32>
}

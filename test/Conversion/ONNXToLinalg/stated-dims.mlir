// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// The model states the size of the mask as a sum: it is checked once, and then all agrees.

// CHECK-LABEL: func @masked
// CHECK-DAG: %[[PAST:.*]] = tensor.dim %arg0, %c0
// CHECK-DAG: %[[SEQ:.*]] = tensor.dim %arg1, %c0
// CHECK-DAG: %[[ALL:.*]] = arith.addi %[[PAST]], %[[SEQ]]
// CHECK-DAG: %[[MASK:.*]] = tensor.dim %arg2, %c0
// CHECK: %[[OK:.*]] = arith.cmpi eq, %[[MASK]], %[[ALL]]
// CHECK: moe.check %{{.*}}, %[[OK]], "dimension 0 of input 'mask' is not past + seq, as the model states"
// CHECK-NOT: moe.check
// CHECK: return
func.func @masked(%past: tensor<?x8xf32> {onnx.dims = ["past", "8"]}, %x: tensor<?x8xf32> {onnx.dims = ["seq", "8"]},
                  %mask: tensor<?x1xf32> {onnx.name = "mask", onnx.dims = ["past + seq", "1"]}) -> tensor<?x8xf32> {
  %0 = onnx.node "Concat"(%past, %x) {attributes = {axis = 0 : i64}, version = 13 : i64}
    : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %1 = onnx.node "Mul"(%0, %mask) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  return %1 : tensor<?x8xf32>
}

// Symbols that no input has say nothing.

// CHECK-LABEL: func @unknown
// CHECK-NOT: moe.check
// CHECK: return
func.func @unknown(%x: tensor<?xf32> {onnx.dims = ["2*batch"]}) -> tensor<?xf32> {
  %0 = onnx.node "Neg"(%x) {version = 13 : i64} : (tensor<?xf32>) -> tensor<?xf32>
  return %0 : tensor<?xf32>
}

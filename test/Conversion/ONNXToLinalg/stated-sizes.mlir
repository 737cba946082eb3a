// RUN: moe-opt --onnx-to-linalg --split-input-file %s | FileCheck %s

// The model states a size that only the run knows.
// CHECK-LABEL: func @stated
// CHECK-SAME: (%[[X:.*]]: tensor<?x4xf32>)
// CHECK: negf
// CHECK: %[[ROWS:.*]] = tensor.dim %[[X]], %{{.*}}
// CHECK: %[[SAME:.*]] = arith.cmpi eq, %[[ROWS]], %{{.*}}
// CHECK: moe.check %{{.*}}, %[[SAME]], "node '' (Neg): dimension 0 of output 'h' is not 1, as the model states"
func.func @stated(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %h = onnx.node "Neg"(%x) {outputs = ["h"], version = 13 : i64} : (tensor<?x4xf32>) -> tensor<1x4xf32>
  %y = onnx.node "Abs"(%h) {outputs = ["y"], version = 13 : i64} : (tensor<1x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// No check of what is known.
// CHECK-LABEL: func @known
// CHECK-NOT: moe.check
func.func @known(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %y = onnx.node "Neg"(%x) {outputs = ["y"], version = 13 : i64} : (tensor<?x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func @of_data
// CHECK: moe.check %{{.*}}, %{{.*}}, "node '' (Expand): dimension 0 of output 'y' is not 2, as the model states"
func.func @of_data(%x: tensor<1xf32>, %shape: tensor<1xi64>) -> tensor<2xf32> {
  %y = onnx.node "Expand"(%x, %shape) {outputs = ["y"], version = 13 : i64} : (tensor<1xf32>, tensor<1xi64>) -> tensor<2xf32>
  return %y : tensor<2xf32>
}

// -----

// What runs after the check stays within the tensor that a slice is of.
// CHECK-LABEL: func @slice_of_data
// CHECK: moe.check %{{.*}}, %{{.*}}, "node '' (Slice): dimension 0 of output 'y' is not 2, as the model states"
// CHECK: %[[PART:.*]] = tensor.extract_slice {{.*}} : tensor<?xf32> to tensor<?xf32>
// CHECK: %[[ROOM:.*]] = linalg.fill {{.*}} -> tensor<2xf32>
// CHECK: tensor.insert_slice %[[PART]] into %[[ROOM]]
func.func @slice_of_data(%x: tensor<8xf32>, %start: tensor<1xi64>, %end: tensor<1xi64>) -> tensor<2xf32> {
  %y = onnx.node "Slice"(%x, %start, %end) {outputs = ["y"], version = 13 : i64} : (tensor<8xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<2xf32>
  return %y : tensor<2xf32>
}

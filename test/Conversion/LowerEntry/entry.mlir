// RUN: moe-opt %s --lower-entry --split-input-file | FileCheck %s

// CHECK-LABEL: func.func @main
// CHECK-SAME: (%[[X:[a-z0-9_-]+]]: memref<?x8xf32> {onnx.dims = ["tokens", "8"], onnx.name = "x"},
// CHECK-SAME: %[[Y:[a-z0-9_-]+]]: memref<?x8xf32> {moe.output, onnx.name = "y"},
// CHECK-SAME: %{{.*}}: memref<?xi8> {moe.workspace}, %{{.*}}: !llvm.ptr {moe.weights},
// CHECK-SAME: %[[CALL:[a-z0-9_-]+]]: !llvm.ptr {moe.call}) attributes {moe.entry}
// CHECK: memref.dim %[[X]]
// CHECK-NOT: moe.current_call
// CHECK: call @kernel(%[[X]], %{{.*}}, %[[CALL]])
// CHECK: bufferization.materialize_in_destination %{{.*}} in restrict writable %[[Y]]
// CHECK: return{{$}}

// CHECK-LABEL: func.func @main_shapes(%{{.*}}: memref<?x8xf32>) -> (index, index)
// CHECK-NOT: call
// CHECK-DAG: %[[T:[a-z0-9_-]+]] = memref.dim
// CHECK-DAG: %[[C8:[a-z0-9_-]+]] = arith.constant 8 : index
// CHECK: return %[[T]], %[[C8]]
func.func @main(%x: tensor<?x8xf32> {onnx.name = "x", onnx.dims = ["tokens", "8"]})
    -> (tensor<?x8xf32> {onnx.name = "y"}) {
  %c0 = arith.constant 0 : index
  %t = tensor.dim %x, %c0 : tensor<?x8xf32>
  %xm = bufferization.to_buffer %x read_only : tensor<?x8xf32> to memref<?x8xf32>
  %b = memref.alloc(%t) : memref<?x8xf32>
  %call = moe.current_call : !llvm.ptr
  call @kernel(%xm, %b, %call) : (memref<?x8xf32>, memref<?x8xf32>, !llvm.ptr) -> ()
  %y = bufferization.to_tensor %b restrict : memref<?x8xf32> to tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}
func.func private @kernel(memref<?x8xf32>, memref<?x8xf32>, !llvm.ptr {moe.call})

// -----

// Dimensions that go through shape tensors.

// CHECK-LABEL: func.func @main_shapes
// CHECK-SAME: (%[[X:[a-z0-9_-]+]]: memref<?x?x8xf32>)
// CHECK-NOT: linalg
// CHECK-NOT: tensor.
// CHECK: %[[T:.*]] = affine.apply
// CHECK-NOT: tensor.
// CHECK: return %[[T]]
func.func @main(%x: tensor<?x?x8xf32>) -> tensor<?x8xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %d0 = tensor.dim %x, %c0 : tensor<?x?x8xf32>
  %d1 = tensor.dim %x, %c1 : tensor<?x?x8xf32>
  %i0 = arith.index_cast %d0 : index to i64
  %i1 = arith.index_cast %d1 : index to i64
  %a = tensor.from_elements %i0 : tensor<1xi64>
  %b = tensor.from_elements %i1 : tensor<1xi64>
  %e = tensor.empty() : tensor<1xi64>
  %p = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (0)>,
                                        affine_map<(d0) -> (d0)>],
                       iterator_types = ["parallel"]}
      ins(%a, %b : tensor<1xi64>, tensor<1xi64>) outs(%e : tensor<1xi64>) {
  ^bb0(%l: i64, %r: i64, %o: i64):
    %m = arith.muli %l, %r : i64
    linalg.yield %m : i64
  } -> tensor<1xi64>
  %n = tensor.extract %p[%c0] : tensor<1xi64>
  %t = arith.index_cast %n : i64 to index
  %s = tensor.collapse_shape %x [[0, 1], [2]] : tensor<?x?x8xf32> into tensor<?x8xf32>
  %init = tensor.empty(%t) : tensor<?x8xf32>
  %y = linalg.copy ins(%s : tensor<?x8xf32>) outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

// Functions without tensors, and private ones, stay.

// CHECK-LABEL: func.func @other(%{{.*}}: index) -> index
// CHECK-LABEL: func.func private @helper(%{{.*}}: tensor<4xf32>) -> tensor<4xf32>
func.func @other(%i: index) -> index {
  return %i : index
}
func.func private @helper(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

// -----

// Checks of sizes run before the entry; one that holds is not needed, and one that looks
// at elements stays.

// CHECK-LABEL: func.func @main
// CHECK-COUNT-1: moe.check %{{.*}}, %{{.*}}, "an element is negative"
// CHECK-NOT: moe.check
// CHECK: return
// CHECK-LABEL: func.func @main_checks(%{{.*}}: memref<?x8xf32>, %{{.*}}: memref<?x8xf32>) -> i1
// CHECK-SAME: attributes {moe.messages = ["the rows differ"]}
// CHECK-DAG: %[[X:.*]] = memref.dim
// CHECK-DAG: %[[Z:.*]] = memref.dim
// CHECK: %[[OK:.*]] = arith.cmpi eq
// CHECK: return %[[OK]] : i1
// CHECK-LABEL: func.func @main_shapes
func.func @main(%x: tensor<?x8xf32>, %z: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %call = moe.current_call : !llvm.ptr
  %e = tensor.extract %x[%c0, %c0] : tensor<?x8xf32>
  %positive = arith.cmpf oge, %e, %zero : f32
  moe.check %call, %positive, "an element is negative" : !llvm.ptr
  %rows = tensor.dim %x, %c0 : tensor<?x8xf32>
  %others = tensor.dim %z, %c0 : tensor<?x8xf32>
  %same = arith.cmpi eq, %rows, %others : index
  moe.check %call, %same, "the rows differ" : !llvm.ptr
  %itself = arith.cmpi eq, %rows, %rows : index
  moe.check %call, %itself, "never" : !llvm.ptr
  return %x : tensor<?x8xf32>
}

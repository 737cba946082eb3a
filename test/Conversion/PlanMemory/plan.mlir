// RUN: moe-opt %s --plan-memory --canonicalize --cse --split-input-file | FileCheck %s

// The second temporary takes the place of the first, which is dead by then and has the
// same dynamic size; the static one has an offset known at compile time.

// CHECK-LABEL: func.func @main(
// CHECK-SAME: %[[X:[a-z0-9_-]+]]: memref<?x8xf32>, %[[OUT:[a-z0-9_-]+]]: memref<?x8xf32> {moe.output}, %[[WS:[a-z0-9_-]+]]: memref<?xi8>
// CHECK-NOT: memref.alloc
// CHECK-DAG: %[[C0:[a-z0-9_-]+]] = arith.constant 0 : index
// CHECK-DAG: %[[C64:[a-z0-9_-]+]] = arith.constant 64 : index
// CHECK-DAG: %[[T:[a-z0-9_-]+]] = memref.dim %[[X]], %[[C0]]
// CHECK-DAG: memref.view %[[WS]][%[[C0]]][] : memref<?xi8> to memref<2xf32>
// CHECK-DAG: memref.view %[[WS]][%[[C64]]][%[[T]]] : memref<?xi8> to memref<?x4xf32>
// CHECK-DAG: memref.view %[[WS]][%[[C64]]][%[[T]]] : memref<?xi8> to memref<?x16xf32>
// CHECK-NOT: memref.alloc
// CHECK-NOT: memref.copy
// CHECK: call @last(%{{.*}}, %[[OUT]])

// 64 + round up (64 · T)
// CHECK-LABEL: func.func @main_workspace
// CHECK-SAME: (%[[X2:[a-z0-9_-]+]]: memref<?x8xf32>, %{{.*}}: index) -> index
// CHECK: %[[T2:[a-z0-9_-]+]] = memref.dim %[[X2]]
// CHECK: %[[BYTES:[a-z0-9_-]+]] = arith.muli %[[T2]], %c64
// CHECK: %[[PADDED:[a-z0-9_-]+]] = arith.addi %[[BYTES]], %c63
// CHECK: %[[ALIGNED:[a-z0-9_-]+]] = arith.andi %[[PADDED]], %c-64
// CHECK: %[[ALL:[a-z0-9_-]+]] = arith.addi %[[ALIGNED]], %c64
// CHECK: return %[[ALL]]
func.func @main(%x: memref<?x8xf32>, %out: memref<?x8xf32> {moe.output},
                %ws: memref<?xi8> {moe.workspace}, %weights: !llvm.ptr {moe.weights},
                %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %t = memref.dim %x, %c0 : memref<?x8xf32>
  %s = memref.alloc() : memref<2xf32>
  %a = memref.alloc(%t) : memref<?x4xf32>
  call @first(%x, %a, %s) : (memref<?x8xf32>, memref<?x4xf32>, memref<2xf32>) -> ()
  %b = memref.alloc(%t) : memref<?x16xf32>
  call @second(%s, %b) : (memref<2xf32>, memref<?x16xf32>) -> ()
  memref.dealloc %a : memref<?x4xf32>
  %y = memref.alloc(%t) : memref<?x8xf32>
  call @last(%b, %y) : (memref<?x16xf32>, memref<?x8xf32>) -> ()
  memref.copy %y, %out : memref<?x8xf32> to memref<?x8xf32>
  return
}
func.func @main_shapes(%x: memref<?x8xf32>) -> (index, index) {
  %c0 = arith.constant 0 : index
  %c8 = arith.constant 8 : index
  %t = memref.dim %x, %c0 : memref<?x8xf32>
  return %t, %c8 : index, index
}
func.func private @first(memref<?x8xf32>, memref<?x4xf32>, memref<2xf32>)
func.func private @second(memref<2xf32>, memref<?x16xf32>)
func.func private @last(memref<?x16xf32>, memref<?x8xf32>)

// -----

// One row per worker; the size of an output comes from the shapes function; a
// temporary in a loop exists once; views keep their memory alive.

// CHECK-LABEL: func.func @main(
// CHECK-SAME: %[[X:[a-z0-9_-]+]]: memref<?xf32>, %[[OUT:[a-z0-9_-]+]]: memref<?xf32> {moe.output}, %[[WS:[a-z0-9_-]+]]: memref<?xi8> {moe.workspace}, %{{.*}}, %[[CALL:[a-z0-9_-]+]]: !llvm.ptr
// CHECK: %[[WORKERS:[a-z0-9_-]+]] = moe.num_workers %[[CALL]]
// CHECK: memref.view %[[WS]][%{{.*}}][%[[WORKERS]]] : memref<?xi8> to memref<?x4xf32>
// CHECK: scf.for
// CHECK-NOT: memref.alloc

// CHECK-LABEL: func.func @main_workspace
// CHECK-SAME: (%[[X2:[a-z0-9_-]+]]: memref<?xf32>, %[[W2:[a-z0-9_-]+]]: index) -> index
// CHECK-DAG: call @main_shapes(%[[X2]])
// CHECK-DAG: arith.muli %[[W2]], %c16
func.func @main(%x: memref<?xf32>, %out: memref<?xf32> {moe.output},
                %ws: memref<?xi8> {moe.workspace}, %weights: !llvm.ptr {moe.weights},
                %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %w = moe.num_workers %call : !llvm.ptr
  %s = memref.alloc(%w) : memref<?x4xf32>
  %n = memref.dim %out, %c0 : memref<?xf32>
  scf.for %i = %c0 to %c4 step %c1 {
    %b = memref.alloc(%n) : memref<?xf32>
    %v = memref.subview %b[0] [1] [1] : memref<?xf32> to memref<1xf32, strided<[1]>>
    %c = memref.cast %v : memref<1xf32, strided<[1]>> to memref<1xf32, strided<[1], offset: ?>>
    func.call @kernel(%s, %c, %out) : (memref<?x4xf32>, memref<1xf32, strided<[1], offset: ?>>, memref<?xf32>) -> ()
  }
  return
}
func.func private @main_shapes(%x: memref<?xf32>) -> index
func.func private @kernel(memref<?x4xf32>, memref<1xf32, strided<[1], offset: ?>>, memref<?xf32>)

// -----

// What is seen in another shape at the end is computed in the output as well.

// CHECK-LABEL: func.func @main(
// CHECK-SAME: %[[OUT:[a-z0-9_-]+]]: memref<?x2x4xf32> {moe.output}
// CHECK: %[[FLAT:[a-z0-9_-]+]] = memref.collapse_shape %[[OUT]] {{\[}}[0, 1], [2]]
// CHECK: call @kernel(%{{.*}}, %[[FLAT]])
// CHECK-NOT: memref.copy
func.func @main(%x: memref<?x2x4xf32>, %out: memref<?x2x4xf32> {moe.output},
                %ws: memref<?xi8> {moe.workspace}, %weights: !llvm.ptr {moe.weights},
                %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %d = memref.dim %x, %c0 : memref<?x2x4xf32>
  %t = arith.muli %d, %c2 : index
  %y = memref.alloc(%t) : memref<?x4xf32>
  call @kernel(%x, %y) : (memref<?x2x4xf32>, memref<?x4xf32>) -> ()
  %e = memref.expand_shape %y [[0, 1], [2]] output_shape [%d, 2, 4] : memref<?x4xf32> into memref<?x2x4xf32>
  memref.copy %e, %out : memref<?x2x4xf32> to memref<?x2x4xf32>
  return
}
func.func private @main_shapes(%x: memref<?x2x4xf32>) -> (index, index, index)
func.func private @kernel(memref<?x2x4xf32>, memref<?x4xf32>)

// -----

// Temporaries may be the first operations.

// CHECK-LABEL: func.func @main(
// CHECK-SAME: %[[WS:[a-z0-9_-]+]]: memref<?xi8>
// CHECK-NOT: memref.alloc
// CHECK-DAG: %[[A:[a-z0-9_-]+]] = memref.view %[[WS]][%c0][] : memref<?xi8> to memref<4xf32>
// CHECK-DAG: %[[B:[a-z0-9_-]+]] = memref.view %[[WS]][%c64][] : memref<?xi8> to memref<4xi32>
// CHECK: call @kernel(%[[A]], %[[B]])
func.func @main(%ws: memref<?xi8> {moe.workspace}, %weights: !llvm.ptr {moe.weights},
                %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  %a = memref.alloc() : memref<4xf32>
  %b = memref.alloc() : memref<4xi32>
  call @kernel(%a, %b) : (memref<4xf32>, memref<4xi32>) -> ()
  return
}
func.func private @main_shapes()
func.func private @kernel(memref<4xf32>, memref<4xi32>)

// -----

// A size that depends on data: memory of the call, from where it is needed to its last use.
// A size that overflows is -1. The workspace has nothing of it.

// CHECK-LABEL: func.func @main(
// CHECK-SAME: %[[CALL:[a-z0-9_-]+]]: !llvm.ptr {moe.call}
// CHECK: %[[N:.*]] = memref.load
// CHECK: %[[LOW:.*]], %[[HIGH:.*]] = arith.mului_extended %[[N]], %c32
// CHECK: %[[OVERFLOW:.*]] = arith.cmpi ne, %[[HIGH]], %c0
// CHECK: %[[BYTES:.*]] = arith.select %[[OVERFLOW]], %c-1, %[[LOW]]
// CHECK: %[[MEMORY:.*]] = moe.allocate %[[CALL]], %[[BYTES]]
// CHECK: %[[B:.*]] = memref.view %[[MEMORY]][%c0][%[[N]]] : memref<?xi8> to memref<?x8xf32>
// CHECK: call @use(%[[B]])
// CHECK-NEXT: moe.release %[[CALL]], %[[MEMORY]]
// CHECK: call @end
// CHECK-NOT: memref.alloc
// CHECK-LABEL: func.func @main_workspace
// CHECK-NEXT: %[[NONE:.*]] = arith.constant 0 : index
// CHECK-NEXT: return %[[NONE]]
func.func @main(%x: memref<?xindex>, %ws: memref<?xi8> {moe.workspace},
                %weights: !llvm.ptr {moe.weights}, %call: !llvm.ptr {moe.call})
    attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %n = memref.load %x[%c0] : memref<?xindex>
  %b = memref.alloc(%n) : memref<?x8xf32>
  call @use(%b) : (memref<?x8xf32>) -> ()
  call @end() : () -> ()
  return
}
func.func private @main_shapes(memref<?xindex>)
func.func private @use(memref<?x8xf32>)
func.func private @end()

// -----

// In a loop each iteration has its own.

// CHECK-LABEL: func.func @main(
// CHECK: scf.for
// CHECK: %[[MEMORY:.*]] = moe.allocate
// CHECK: call @use
// CHECK-NEXT: moe.release %{{.*}}, %[[MEMORY]]
// CHECK-NEXT: }
func.func @main(%x: memref<?xindex>, %ws: memref<?xi8> {moe.workspace},
                %weights: !llvm.ptr {moe.weights}, %call: !llvm.ptr {moe.call})
    attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  scf.for %i = %c0 to %c4 step %c1 {
    %n = memref.load %x[%i] : memref<?xindex>
    %b = memref.alloc(%n) : memref<?x8xf32>
    func.call @use(%b) : (memref<?x8xf32>) -> ()
  }
  return
}
func.func private @main_shapes(memref<?xindex>)
func.func private @use(memref<?x8xf32>)

// -----

// An allocation far before its first access takes nothing until then; sizes of several kinds share
// a part as large as the larger of them.

// CHECK-LABEL: func.func @main(
// CHECK-SAME: %[[WS:[a-z0-9_-]+]]: memref<?xi8> {moe.workspace}
// CHECK-DAG: %[[A:.*]] = memref.view %[[WS]][%c0][%{{.*}}] : memref<?xi8> to memref<?x4xf32>
// CHECK-DAG: %[[B:.*]] = memref.view %[[WS]][%c0][%{{.*}}] : memref<?xi8> to memref<?xf32>
// CHECK: call @use(%[[A]])
// CHECK: call @other(%[[B]])
// CHECK-LABEL: func.func @main_workspace
// CHECK: %[[T:.*]] = memref.dim
// CHECK: %[[S:.*]] = arith.muli %[[T]], %[[T]]
// CHECK-DAG: %[[FIRST:.*]] = arith.muli %[[S]], %c4
// CHECK-DAG: %[[SECOND:.*]] = arith.muli %[[T]], %c16
// CHECK: arith.maxsi %[[FIRST]], %[[SECOND]]
func.func @main(%x: memref<?xf32>, %ws: memref<?xi8> {moe.workspace},
                %weights: !llvm.ptr {moe.weights}, %call: !llvm.ptr {moe.call})
    attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %t = memref.dim %x, %c0 : memref<?xf32>
  %s = arith.muli %t, %t : index
  %a = memref.alloc(%t) : memref<?x4xf32>
  %b = memref.alloc(%s) : memref<?xf32>
  call @use(%a) : (memref<?x4xf32>) -> ()
  call @other(%b) : (memref<?xf32>) -> ()
  return
}
func.func private @main_shapes(memref<?xf32>)
func.func private @use(memref<?x4xf32>)
func.func private @other(memref<?xf32>)

// -----

// A transposed view is as alive as what it is a view of: the second temporary gets a place of its own.

// CHECK-LABEL: func.func @transposed
// CHECK-SAME: %[[WS:[a-z0-9]*]]: memref<?xi8> {moe.workspace}
// CHECK-DAG: memref.view %[[WS]][%c0][] : memref<?xi8> to memref<4x8xf32>
// CHECK-DAG: memref.view %[[WS]][%c128][] : memref<?xi8> to memref<4x8xf32>
func.func @transposed(%x: memref<4x8xf32>, %ws: memref<?xi8> {moe.workspace}, %weights: !llvm.ptr {moe.weights},
                      %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  %a = memref.alloc() : memref<4x8xf32>
  memref.copy %x, %a : memref<4x8xf32> to memref<4x8xf32>
  %t = memref.transpose %a (i, j) -> (j, i) : memref<4x8xf32> to memref<8x4xf32, strided<[1, 8]>>
  %b = memref.alloc() : memref<4x8xf32>
  memref.copy %x, %b : memref<4x8xf32> to memref<4x8xf32>
  func.call @read(%t, %b) : (memref<8x4xf32, strided<[1, 8]>>, memref<4x8xf32>) -> ()
  return
}
func.func private @transposed_shapes()
func.func private @read(memref<8x4xf32, strided<[1, 8]>>, memref<4x8xf32>)

// RUN: moe-opt %s --parallel-to-runtime --split-input-file | FileCheck %s

// CHECK: llvm.func @moec_parallel_for(!llvm.ptr, i64, !llvm.ptr, !llvm.ptr)

// CHECK-LABEL: func.func private @kernel
// CHECK-SAME: %[[X:[a-z0-9_-]+]]: memref<?xf32>, %[[N:[a-z0-9_-]+]]: index, %[[CALL:[a-z0-9_-]+]]: !llvm.ptr {moe.call}
// Of a memref: the pointer, and what its type does not say. Stores need no size.
// CHECK: %[[CONTEXT:[a-z0-9_-]+]] = llvm.alloca %{{.*}} x !llvm.struct<(i64, ptr)>
// CHECK: llvm.store
// CHECK: llvm.store
// CHECK: %[[BODY:[a-z0-9_-]+]] = constant @kernel_body
// CHECK-NOT: scf.parallel
// CHECK: %[[TASKS:.*]] = arith.ceildivui
// CHECK: llvm.call @moec_parallel_for(%[[CALL]], %{{.*}}, %{{.*}}, %[[CONTEXT]])

// CHECK-LABEL: func.func private @kernel_body
// CHECK-SAME: (%[[CTX:[a-z0-9]+]]: !llvm.ptr, %[[TASK:[a-z0-9]+]]: i64, %[[WORKER:[a-z0-9]+]]: i32)
// CHECK-DAG: %[[C2:[a-z0-9_]+]] = arith.constant 2
// CHECK-DAG: %[[LOWER:[0-9]+]] = builtin.unrealized_conversion_cast %{{.*}} : i64 to index
// CHECK-DAG: %[[T:[0-9]+]] = arith.index_cast %[[TASK]]
// CHECK-DAG: %[[W:[0-9]+]] = arith.index_castui %[[WORKER]]
// CHECK: %[[D:[0-9]+]] = arith.muli %[[T]], %[[C2]]
// CHECK: %[[I:[0-9]+]] = arith.addi %[[LOWER]], %[[D]]
// CHECK: arith.index_cast %[[W]] : index to i32
// CHECK: memref.store %{{.*}}, %{{.*}}[%[[I]]]
// CHECK: return
func.func private @kernel(%x: memref<?xf32>, %n: index, %call: !llvm.ptr {moe.call}) {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  scf.parallel (%i) = (%n) to (%c2) step (%c2) {
    %w = moe.worker_id
    %f = arith.index_cast %w : index to i32
    %v = arith.sitofp %f : i32 to f32
    memref.store %v, %x[%i] : memref<?xf32>
  }
  return
}

// -----

// An inner parallel loop runs in order.

// CHECK-LABEL: func.func private @nested_body
// CHECK: scf.for
// CHECK-NOT: scf.parallel
func.func private @nested(%x: memref<?x?xf32>, %n: index, %call: !llvm.ptr {moe.call}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
    scf.parallel (%j) = (%c0) to (%i) step (%c1) {
      memref.store %zero, %x[%i, %j] : memref<?x?xf32>
    }
  }
  return
}

// -----

// A stride is needed by what the memref's elements are, a size only by what asks for it.

// CHECK-LABEL: func.func private @sized
// CHECK: llvm.alloca %{{.*}} x !llvm.struct<(ptr, i64, i64, i64)>
// CHECK-LABEL: func.func private @sized_body
// CHECK: memref.dim
func.func private @sized(%x: memref<?x?xf32>, %call: !llvm.ptr {moe.call}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.parallel (%i) = (%c0) to (%c1) step (%c1) {
    %n = memref.dim %x, %c0 : memref<?x?xf32>
    %f = arith.index_cast %n : index to i32
    %v = arith.sitofp %f : i32 to f32
    memref.store %v, %x[%i, %i] : memref<?x?xf32>
  }
  return
}

// RUN: moe-opt %s --outline-loops | FileCheck %s

// Equal loops share a function, constants are its own, the rest is passed.
// CHECK-LABEL: func.func @main
// CHECK: call @main_loop(%[[N:.*]], %arg0, %arg1) : (index, memref<?xf32>, memref<?xf32>) -> ()
// CHECK: call @main_loop(%[[N]], %arg1, %arg2) : (index, memref<?xf32>, memref<?xf32>) -> ()
// CHECK: %[[SUM:.*]] = call @main_loop_0(%[[N]], %arg2) : (index, memref<?xf32>) -> f32
// CHECK: memref.store %[[SUM]]
// CHECK: scf.parallel
// CHECK: scf.for
// CHECK: scf.parallel
func.func @main(%x: memref<?xf32>, %y: memref<?xf32>, %z: memref<?xf32>) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %two = arith.constant 2.0 : f32
  %n = memref.dim %x, %c0 : memref<?xf32>
  scf.for %i = %c0 to %n step %c1 {
    %a = memref.load %x[%i] : memref<?xf32>
    %b = arith.mulf %a, %two : f32
    memref.store %b, %y[%i] : memref<?xf32>
  }
  scf.for %i = %c0 to %n step %c1 {
    %a = memref.load %y[%i] : memref<?xf32>
    %b = arith.mulf %a, %two : f32
    memref.store %b, %z[%i] : memref<?xf32>
  }
  %sum = scf.for %i = %c0 to %n step %c1 iter_args(%s = %two) -> f32 {
    %a = memref.load %z[%i] : memref<?xf32>
    %b = arith.addf %s, %a : f32
    scf.yield %b : f32
  }
  memref.store %sum, %z[%c0] : memref<?xf32>
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
    memref.store %two, %z[%i] : memref<?xf32>
  }
  scf.for %j = %c0 to %n step %c1 {
    scf.parallel (%i) = (%c0) to (%n) step (%c1) {
      memref.store %two, %z[%i] : memref<?xf32>
    }
  }
  return
}

// The functions have no loops but their own.
// CHECK: func.func private @main_loop_0(%[[N:.*]]: index, %[[Z:.*]]: memref<?xf32>) -> f32 attributes {passthrough = ["noinline"]}
// CHECK: func.func private @main_loop(%[[N:.*]]: index, %[[X:.*]]: memref<?xf32>, %[[Y:.*]]: memref<?xf32>) attributes {passthrough = ["noinline"]}
// CHECK: %[[TWO:.*]] = arith.constant 2.0
// CHECK: scf.for
// CHECK: arith.mulf %{{.*}}, %[[TWO]]

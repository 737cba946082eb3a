// RUN: moe-opt %s --gpu-to-runtime --canonicalize --cse | FileCheck %s
// RUN: moe-opt %s --gpu-to-runtime --convert-to-llvm --reconcile-unrealized-casts -o /dev/null

// Number, shared bytes, grid, block, cluster; then the parameters of each argument, 8 bytes
// each: a memref's two pointers, offset, sizes and strides; an index; scalars as they are.

// CHECK: module attributes {{.*}}moe.kernels = ["second", "first"], moe.regions = [{name = "launches: second", op = "kernel"}, {name = "launches: first", op = "kernel"}]
// CHECK: llvm.func @moec_launch(!llvm.ptr, !llvm.ptr, !llvm.ptr)
module attributes {gpu.container_module} {
  gpu.module @kernels {
    gpu.func @first(%a: memref<?x4xf32>) kernel {
      gpu.return
    }
    gpu.func @second(%a: memref<?x4xf32>, %n: index, %f: f32, %p: i1) kernel {
      gpu.return
    }
  }

  // CHECK-LABEL: func.func @main
  // CHECK-SAME: %[[X:.*]]: memref<?x4xf32>, %[[N:.*]]: index, %[[F:.*]]: f32, %[[P:.*]]: i1, %[[CALL:.*]]: !llvm.ptr
  // CHECK-DAG: %[[SLOTS:.*]] = llvm.alloca %{{.*}} x !llvm.array<10 x i64>
  // CHECK-DAG: %[[POINTERS:.*]] = llvm.alloca %{{.*}} x !llvm.array<10 x ptr>
  // CHECK-DAG: %[[DESC:.*]] = llvm.alloca %{{.*}} x !llvm.struct<(i32, i32, array<3 x i64>, array<3 x i64>, array<3 x i64>, i32, i32)>
  // CHECK: llvm.store %[[SLOTS]], %[[POINTERS]]
  // CHECK: %[[SLOT1:.*]] = llvm.getelementptr %[[SLOTS]][1] : (!llvm.ptr) -> !llvm.ptr, i64
  // CHECK: %[[POINTER1:.*]] = llvm.getelementptr %[[POINTERS]][1] : (!llvm.ptr) -> !llvm.ptr, !llvm.ptr
  // CHECK: llvm.store %[[SLOT1]], %[[POINTER1]]
  // CHECK: %[[SLOT9:.*]] = llvm.getelementptr %[[SLOTS]][9]
  func.func @main(%x: memref<?x4xf32>, %n: index, %f: f32, %p: i1, %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
    %c1 = arith.constant 1 : index
    %c128 = arith.constant 128 : index
    %shared = arith.constant 1024 : i32
    // CHECK-DAG: %[[N64:.*]] = arith.index_cast %[[N]] : index to i64
    // CHECK-DAG: %[[GRID:.*]] = llvm.getelementptr %[[DESC]][0, 2, 0]
    // CHECK: llvm.store %[[N64]], %[[GRID]]
    // CHECK: %[[PARTS:.*]] = builtin.unrealized_conversion_cast %[[X]]
    // CHECK: %[[DATA:.*]] = llvm.extractvalue %[[PARTS]][0]
    // CHECK: %[[ROWS:.*]] = llvm.extractvalue %[[PARTS]][3, 0]
    // CHECK: llvm.store %[[DATA]], %[[SLOTS]]
    // CHECK: llvm.store %[[ROWS]], %{{.*}} : i64
    // CHECK: llvm.store %[[N64]], %{{.*}} : i64
    // CHECK: llvm.store %[[F]], %{{.*}} : f32
    // CHECK: llvm.store %[[P]], %[[SLOT9]] : i1
    // CHECK: llvm.call @moec_launch(%[[CALL]], %[[DESC]], %[[POINTERS]])
    gpu.launch_func @kernels::@second blocks in (%n, %c1, %c1) threads in (%c128, %c1, %c1)
      dynamic_shared_memory_size %shared args(%x : memref<?x4xf32>, %n : index, %f : f32, %p : i1)
    // The same stack again.
    // CHECK-NOT: llvm.alloca
    // CHECK: llvm.call @moec_launch(%[[CALL]], %[[DESC]], %[[POINTERS]])
    gpu.launch_func @kernels::@first clusters in (%c1, %c1, %c1) blocks in (%n, %c1, %c1) threads in (%c128, %c1, %c1)
      args(%x : memref<?x4xf32>)
    return
  }
}

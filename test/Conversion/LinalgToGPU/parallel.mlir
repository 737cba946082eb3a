// RUN: moe-opt %s --linalg-to-gpu --canonicalize --cse --split-input-file | FileCheck %s

// A thread for each column of the result; the sum stays in a register.

#in = affine_map<(i, j) -> (j, i)>
#out = affine_map<(i, j) -> (i)>

// CHECK-LABEL: func.func @sum
// CHECK-SAME: %[[X:.*]]: memref<16x?xf32>, %[[Y:.*]]: memref<?xf32>
// CHECK-DAG: %[[C1:.*]] = arith.constant 1 : index
// CHECK-DAG: %[[BLOCK:.*]] = arith.constant 256 : index
// CHECK: %[[COLUMNS:.*]] = memref.dim %[[X]]
// CHECK: %[[GRID:.*]] = arith.ceildivui %[[COLUMNS]], %[[BLOCK]]
// CHECK: gpu.launch_func @kernels::@parallel blocks in (%[[GRID]], %[[C1]], %[[C1]]) threads in (%[[BLOCK]], %[[C1]], %[[C1]]) args(%[[X]] : memref<16x?xf32>, %[[Y]] : memref<?xf32>)
// CHECK-NOT: linalg
// CHECK: return
// CHECK: gpu.func @parallel(%[[A:.*]]: memref<16x?xf32>, %[[B:.*]]: memref<?xf32>) kernel
// CHECK: %[[ID:.*]] = arith.addi %{{.*}}, %thread_id_x
// CHECK: %[[STEP:.*]] = arith.muli %grid_dim_x, %block_dim_x
// CHECK: scf.for %[[I:.*]] = %[[ID]] to %{{.*}} step %[[STEP]]
// CHECK: %[[FIRST:.*]] = memref.load %[[B]][%[[I]]]
// CHECK: %[[SUM:.*]] = scf.for %[[J:.*]] = {{.*}} iter_args(%[[PART:.*]] = %[[FIRST]])
// CHECK: memref.load %[[A]][%[[J]], %[[I]]]
// CHECK: memref.store %[[SUM]], %[[B]][%[[I]]]
func.func @sum(%x: memref<16x?xf32>, %y: memref<?xf32> {moe.output}) attributes {moe.entry} {
  linalg.generic {indexing_maps = [#in, #out], iterator_types = ["parallel", "reduction"]} ins(%x : memref<16x?xf32>) outs(%y : memref<?xf32>) {
  ^bb0(%a: f32, %s: f32):
    %0 = arith.addf %a, %s : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

// Copies and named operations are kernels too; kernels with the same text are one.

// CHECK-LABEL: func.func @copies
// CHECK: gpu.launch_func @kernels::@[[FILL:[a-z_0-9]+]] {{.*}} args(%[[T:.*]] : memref<4x6xf32>)
// CHECK: gpu.launch_func @kernels::@[[TRANSPOSE:[a-z_0-9]+]]
// CHECK: gpu.launch_func @kernels::@[[FILL]] {{.*}} args(
// CHECK: gpu.launch_func @kernels::@[[COPY:[a-z_0-9]+]]
// CHECK: gpu.module @kernels
// CHECK-COUNT-3: gpu.func
// CHECK-NOT: gpu.func
func.func @copies(%x: memref<6x4xf32>, %y: memref<4x6xf32> {moe.output}, %z: memref<4x6xf32> {moe.output}, %w: memref<4x6xf32> {moe.output}, %v: memref<4x6xf32> {moe.output}) attributes {moe.entry} {
  %c0 = arith.constant 0.0 : f32
  linalg.fill ins(%c0 : f32) outs(%v : memref<4x6xf32>)
  linalg.transpose ins(%x : memref<6x4xf32>) outs(%y : memref<4x6xf32>) permutation = [1, 0]
  linalg.fill ins(%c0 : f32) outs(%w : memref<4x6xf32>)
  memref.copy %y, %z : memref<4x6xf32> to memref<4x6xf32>
  return
}

// -----

// What is not in memory on the device goes into the kernels: constants, also seen through views, and
// scalars that were loaded. No place on the host is left that reads.

memref.global "private" constant @table : memref<2x3xf32> = dense<[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]>

// CHECK-LABEL: func.func @captures
// CHECK-NOT: memref.load
// CHECK: gpu.launch_func @kernels::@parallel {{.*}} args(%{{.*}} : memref<3xf32>, %{{.*}} : memref<f32>)
// CHECK: return
// CHECK: gpu.module @kernels
// CHECK: memref.global "private" constant @table
// CHECK: gpu.func
// CHECK-DAG: memref.get_global @table
// CHECK-DAG: memref.subview
// CHECK-DAG: memref.load %{{.*}}[] : memref<f32>
// CHECK: arith.mulf
func.func @captures(%s: memref<f32>, %y: memref<3xf32> {moe.output}) attributes {moe.entry} {
  %t = memref.get_global @table : memref<2x3xf32>
  %row = memref.subview %t[1, 0] [1, 3] [1, 1] : memref<2x3xf32> to memref<3xf32, strided<[1], offset: 3>>
  %f = memref.load %s[] : memref<f32>
  %two = arith.addf %f, %f : f32
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]} ins(%row : memref<3xf32, strided<[1], offset: 3>>) outs(%y : memref<3xf32>) {
  ^bb0(%a: f32, %o: f32):
    %0 = arith.mulf %a, %two : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

// Results that several points share are written by one thread.

// CHECK-LABEL: func.func @shared_result
// CHECK: gpu.launch_func @kernels::@sequential
// CHECK: gpu.func @sequential
// CHECK: scf.for
func.func @shared_result(%x: memref<4x6xf32>, %y: memref<6xf32> {moe.output}) attributes {moe.entry} {
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>], iterator_types = ["parallel", "parallel"]} ins(%x : memref<4x6xf32>) outs(%y : memref<6xf32>) {
  ^bb0(%a: f32, %o: f32):
    linalg.yield %a : f32
  }
  return
}

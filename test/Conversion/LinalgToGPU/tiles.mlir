// RUN: moe-opt %s --linalg-to-gpu --canonicalize --cse --split-input-file | FileCheck %s

// A warp for each row: lanes share the steps, then their sums. The number that the result was filled
// with is where they start.

#in = affine_map<(i, j) -> (i, j)>
#out = affine_map<(i, j) -> (i)>

// CHECK-LABEL: func.func @sum
// CHECK-NOT: @parallel
// CHECK: gpu.launch_func @kernels::@reduction blocks in (%{{.*}}) threads in (%c256, %c1, %c1)
// CHECK: return
// CHECK: gpu.func @reduction(%[[A:.*]]: memref<?x100xf32>, %[[B:.*]]: memref<?xf32>) kernel attributes {known_block_size = array<i32: 256, 1, 1>}
// CHECK: scf.for %[[I:.*]] =
// CHECK: %[[SUM:.*]] = scf.for %[[J:.*]] = {{.*}} step %c32 iter_args
// CHECK: memref.load %[[A]][%[[I]], %[[J]]]
// CHECK-COUNT-5: gpu.shuffle xor
// CHECK: arith.addf %{{.*}}, %cst{{.*}} : f32
// CHECK: scf.if
// CHECK-NEXT: memref.store %{{.*}}, %[[B]][%[[I]]]
func.func @sum(%x: memref<?x100xf32>, %y: memref<?xf32> {moe.output}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %one = arith.constant 1.0 : f32
  %n = memref.dim %x, %c0 : memref<?x100xf32>
  %t = memref.alloc(%n) : memref<?xf32>
  linalg.fill ins(%one : f32) outs(%t : memref<?xf32>)
  linalg.generic {indexing_maps = [#in, #out], iterator_types = ["parallel", "reduction"]} ins(%x : memref<?x100xf32>) outs(%t : memref<?xf32>) {
  ^bb0(%a: f32, %s: f32):
    %0 = arith.addf %a, %s : f32
    linalg.yield %0 : f32
  }
  memref.copy %t, %y : memref<?xf32> to memref<?xf32>
  return
}

// -----

// Products of half precision are those of tensor cores, whatever else the body computes; others are
// fused multiply-adds.

#lhs = affine_map<(b, m, n, k) -> (b, m, k)>
#rhs = affine_map<(b, m, n, k) -> (k, n)>
#res = affine_map<(b, m, n, k) -> (b, m, n)>

// CHECK-LABEL: func.func @products
// CHECK: gpu.launch_func @kernels::@[[HALF:product[_0-9]*]] blocks in (%{{.*}}) threads in (%c128, %c1, %c1)
// CHECK: gpu.launch_func @kernels::@[[SINGLE:product[_0-9]*]] blocks in (%{{.*}}) threads in (%c256, %c1, %c1)
// CHECK: gpu.func @[[HALF]]
// CHECK-SAME: workgroup(%{{.*}} : memref<64x40xbf16, #gpu.address_space<workgroup>>
// CHECK: gpu.barrier
// CHECK-COUNT-16: nvvm.mma.sync
// CHECK-NOT: nvvm.mma.sync
// CHECK: gpu.func @[[SINGLE]]
// CHECK-SAME: workgroup(%{{.*}} : memref<64x17xf32, #gpu.address_space<workgroup>>
// CHECK: arith.negf
// CHECK: math.fma
func.func @products(%x: memref<2x?x?xbf16>, %w: memref<?x?xbf16>, %u: memref<2x?x?xf32>, %v: memref<?x?xf32>, %y: memref<2x?x?xf32> {moe.output}, %z: memref<2x?x?xf32> {moe.output}) attributes {moe.entry} {
  linalg.generic {indexing_maps = [#lhs, #rhs, #res], iterator_types = ["parallel", "parallel", "parallel", "reduction"]} ins(%x, %w : memref<2x?x?xbf16>, memref<?x?xbf16>) outs(%y : memref<2x?x?xf32>) {
  ^bb0(%a: bf16, %b: bf16, %s: f32):
    %0 = arith.extf %a : bf16 to f32
    %1 = arith.extf %b : bf16 to f32
    %2 = arith.mulf %0, %1 : f32
    %3 = arith.addf %s, %2 : f32
    linalg.yield %3 : f32
  }
  linalg.generic {indexing_maps = [#lhs, #rhs, #res], iterator_types = ["parallel", "parallel", "parallel", "reduction"]} ins(%u, %v : memref<2x?x?xf32>, memref<?x?xf32>) outs(%z : memref<2x?x?xf32>) {
  ^bb0(%a: f32, %b: f32, %s: f32):
    %0 = arith.negf %b : f32
    %2 = arith.mulf %a, %0 : f32
    %3 = arith.addf %s, %2 : f32
    linalg.yield %3 : f32
  }
  return
}

// -----

// A normalization and the sum before it are one launch: all that they share is in the same row. The
// sum of columns after it is not.

#all = affine_map<(t, i) -> (t, i)>
#row = affine_map<(t, i) -> (t)>
#column = affine_map<(t, i) -> (i)>

// CHECK-LABEL: func.func @rows
// CHECK-COUNT-2: gpu.launch_func
// CHECK-NOT: gpu.launch_func
// CHECK: gpu.func @rows(
// CHECK-SAME: workgroup(%{{.*}} : memref<8xf32, #gpu.address_space<workgroup>>
// CHECK: scf.for
// CHECK: memref.load
// CHECK: arith.addf
// CHECK: memref.store
// CHECK: gpu.barrier
// CHECK-COUNT-5: gpu.shuffle xor
// CHECK: memref.store %{{.*}} : memref<8xf32
// CHECK: gpu.barrier
// CHECK: memref.load %{{.*}} : memref<8xf32
// CHECK: gpu.barrier
// CHECK: arith.divf
// CHECK: gpu.barrier
// CHECK: gpu.return
func.func @rows(%x: memref<?x2048xf32>, %r: memref<?x2048xf32>, %y: memref<?x2048xf32> {moe.output}, %z: memref<2048xf32> {moe.output}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %n = memref.dim %x, %c0 : memref<?x2048xf32>
  %h = memref.alloc(%n) : memref<?x2048xf32>
  %s = memref.alloc(%n) : memref<?xf32>
  %v = memref.expand_shape %s [[0, 1]] output_shape [%n, 1] : memref<?xf32> into memref<?x1xf32>
  linalg.generic {indexing_maps = [#all, #all, #all], iterator_types = ["parallel", "parallel"]} ins(%x, %r : memref<?x2048xf32>, memref<?x2048xf32>) outs(%h : memref<?x2048xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %0 = arith.addf %a, %b : f32
    linalg.yield %0 : f32
  }
  linalg.fill ins(%zero : f32) outs(%s : memref<?xf32>)
  linalg.generic {indexing_maps = [#all, #row], iterator_types = ["parallel", "reduction"]} ins(%h : memref<?x2048xf32>) outs(%s : memref<?xf32>) {
  ^bb0(%a: f32, %o: f32):
    %0 = arith.mulf %a, %a : f32
    %1 = arith.addf %0, %o : f32
    linalg.yield %1 : f32
  }
  linalg.generic {indexing_maps = [#all, affine_map<(t, i) -> (t, 0)>, #all], iterator_types = ["parallel", "parallel"]} ins(%h, %v : memref<?x2048xf32>, memref<?x1xf32>) outs(%y : memref<?x2048xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %0 = arith.divf %a, %b : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [#all, #column], iterator_types = ["reduction", "parallel"]} ins(%h : memref<?x2048xf32>) outs(%z : memref<2048xf32>) {
  ^bb0(%a: f32, %o: f32):
    %1 = arith.addf %a, %o : f32
    linalg.yield %1 : f32
  }
  return
}

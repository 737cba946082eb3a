// RUN: moe-opt %s --split-input-file --pass-pipeline='builtin.module(func.func(prepare-bufferization,expand-copies,order-loops,approximate-vector-math,hoist-stack-buffers))' | FileCheck %s

// A product runs over rows, then the reduction, then contiguous columns.

// CHECK-DAG: #[[A:.*]] = affine_map<(d0, d1, d2) -> (d0, d1)>
// CHECK-DAG: #[[B:.*]] = affine_map<(d0, d1, d2) -> (d1, d2)>
// CHECK-DAG: #[[C:.*]] = affine_map<(d0, d1, d2) -> (d0, d2)>
// CHECK-LABEL: func.func @product
// CHECK: linalg.generic {indexing_maps = [#[[A]], #[[B]], #[[C]]], iterator_types = ["parallel", "reduction", "parallel"]}
func.func @product(%a: memref<?x8xf32>, %b: memref<8x4xf32>, %c: memref<?x4xf32>) {
  linalg.matmul ins(%a, %b : memref<?x8xf32>, memref<8x4xf32>) outs(%c : memref<?x4xf32>)
  return
}

// -----

// With the second operand transposed the reduction is the contiguous one, as is a sum
// over the last dimension.

// CHECK-LABEL: func.func @transposed
// CHECK: iterator_types = ["parallel", "parallel", "reduction"]
// CHECK: iterator_types = ["parallel", "reduction"]
func.func @transposed(%a: memref<?x8xf32>, %b: memref<4x8xf32>, %c: memref<?x4xf32>,
                      %s: memref<?xf32>) {
  linalg.matmul indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>,
                                 affine_map<(m, n, k) -> (m, n)>]
      ins(%a, %b : memref<?x8xf32>, memref<4x8xf32>) outs(%c : memref<?x4xf32>)
  linalg.reduce ins(%c : memref<?x4xf32>) outs(%s : memref<?xf32>) dimensions = [1]
    (%in: f32, %acc: f32) {
      %sum = arith.addf %in, %acc : f32
      linalg.yield %sum : f32
    }
  return
}

// -----

// CHECK-LABEL: func.func @copies
// CHECK: linalg.generic
// CHECK: memref.copy
func.func @copies(%a: memref<?x8xf32>, %s: memref<?x8xf32, strided<[16, 1]>>, %b: memref<?x8xf32>) {
  memref.copy %s, %a : memref<?x8xf32, strided<[16, 1]>> to memref<?x8xf32>
  memref.copy %a, %b : memref<?x8xf32> to memref<?x8xf32>
  return
}

// -----

// CHECK-LABEL: func.func @mathematics
// CHECK-NOT: math.{{exp|tanh|erf|log}} %{{.*}} : vector
// CHECK: math.exp %{{.*}} : f32
func.func @mathematics(%v: vector<8xf32>, %s: f32) -> (vector<8xf32>, f32) {
  %0 = math.exp %v : vector<8xf32>
  %1 = math.tanh %0 : vector<8xf32>
  %2 = math.erf %1 : vector<8xf32>
  %3 = math.log %2 : vector<8xf32>
  %4 = math.exp %s : f32
  return %3, %4 : vector<8xf32>, f32
}

// -----

// CHECK-LABEL: func.func @stack
// CHECK-NEXT: memref.alloca() : memref<4xf32>
// CHECK: scf.for
func.func @stack(%n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  scf.for %i = %c0 to %n step %c1 {
    %b = memref.alloca() : memref<4xf32>
    memref.store %zero, %b[%c0] : memref<4xf32>
  }
  return
}

// -----

// Each product starts from a tensor of its own, made when it is needed.

// CHECK-LABEL: func.func @shared
// CHECK: %[[F0:.*]] = linalg.fill
// CHECK: linalg.matmul {{.*}} outs(%[[F0]]
// CHECK: %[[F1:.*]] = linalg.fill
// CHECK: linalg.matmul {{.*}} outs(%[[F1]]
func.func @shared(%a: tensor<4x4xf32>) -> (tensor<4x4xf32>, tensor<4x4xf32>) {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x4xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<4x4xf32>) -> tensor<4x4xf32>
  %0 = linalg.matmul ins(%a, %a : tensor<4x4xf32>, tensor<4x4xf32>) outs(%f : tensor<4x4xf32>) -> tensor<4x4xf32>
  %1 = linalg.matmul ins(%0, %a : tensor<4x4xf32>, tensor<4x4xf32>) outs(%f : tensor<4x4xf32>) -> tensor<4x4xf32>
  return %0, %1 : tensor<4x4xf32>, tensor<4x4xf32>
}

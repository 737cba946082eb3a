// RUN: moe-opt %s --pass-pipeline="builtin.module(func.func(linalg-to-vector{vector-bits=512},canonicalize))" | FileCheck %s
// RUN: moe-opt %s --pass-pipeline="builtin.module(func.func(linalg-to-vector{vector-bits=256}))" | FileCheck %s --check-prefix=AVX2

#id = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
#one = affine_map<(d0, d1) -> (d0, 0)>
#column = affine_map<(d0, d1) -> (d1)>
#swap = affine_map<(d0, d1) -> (d1, d0)>

// Contiguous memory is one dimension, whatever shape it has.
// AVX2-LABEL: func @element_wise
// AVX2:       vector.load {{.*}} vector<8xf32>
// CHECK-LABEL: func @element_wise
// CHECK:       memref.collapse_shape %arg0 {{\[\[}}0, 1]] : memref<?x?xf32> into memref<?xf32>
// CHECK:       scf.parallel (%{{.*}}) = (%{{.*}}) to (%{{.*}}) step (%{{.*}}) {
// CHECK:         scf.for
// CHECK:           %[[X:.*]] = vector.load {{.*}} vector<16xf32>
// CHECK:           %[[E:.*]] = math.exp %[[X]] : vector<16xf32>
// CHECK:           vector.store %[[E]]
// CHECK:         scf.for
// CHECK:           memref.load
// CHECK:           math.exp %{{.*}} : f32
// CHECK:           memref.store
// CHECK-NOT:   linalg.generic
func.func @element_wise(%x: memref<?x?xf32>, %y: memref<?x?xf32>, %call: !llvm.ptr {moe.call}) {
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%x : memref<?x?xf32>) outs(%y : memref<?x?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  return
}

// What is the same for a whole row is computed once: the square root is of a scalar.
// CHECK-LABEL: func @broadcast
// CHECK:       scf.parallel
// CHECK:         %[[S:.*]] = memref.load %arg1[%[[ROW:.*]], %{{.*}}]
// CHECK:         %[[R:.*]] = math.sqrt %[[S]] : f32
// CHECK:         scf.for
// CHECK-DAG:       vector.load %arg0[%[[ROW]], %[[I:.*]]] : memref<?x64xf32>, vector<16xf32>
// CHECK-DAG:       vector.load %arg2[%[[I]]] : memref<64xf16>, vector<16xf16>
// CHECK-DAG:       vector.broadcast %[[R]] : f32 to vector<16xf32>
// CHECK:           arith.extf %{{.*}} : vector<16xf16> to vector<16xf32>
func.func @broadcast(%x: memref<?x64xf32>, %s: memref<?x1xf32>, %w: memref<64xf16>, %y: memref<?x64xf32>, %call: !llvm.ptr {moe.call}) {
  linalg.generic {indexing_maps = [#id, #one, #column, #id], iterator_types = ["parallel", "parallel"]} ins(%x, %s, %w : memref<?x64xf32>, memref<?x1xf32>, memref<64xf16>) outs(%y : memref<?x64xf32>) {
  ^bb0(%in: f32, %sum: f32, %weight: f16, %out: f32):
    %0 = math.sqrt %sum : f32
    %1 = arith.divf %in, %0 : f32
    %2 = arith.extf %weight : f16 to f32
    %3 = arith.mulf %1, %2 : f32
    linalg.yield %3 : f32
  }
  return
}

// CHECK-LABEL: func @sum
// CHECK:       %[[V:.*]] = scf.for {{.*}} iter_args(%{{.*}} = %{{.*}}) -> (vector<16xf32>)
// CHECK:       %[[S:.*]] = vector.reduction <add>, %[[V]], %{{.*}} fastmath<reassoc> : vector<16xf32> into f32
// CHECK:       scf.for {{.*}} iter_args(%{{.*}} = %[[S]]) -> (f32)
func.func @sum(%x: memref<?x?xf32>, %y: memref<?xf32>, %call: !llvm.ptr {moe.call}) {
  linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]} ins(%x : memref<?x?xf32>) outs(%y : memref<?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.mulf %in, %in : f32
    %1 = arith.addf %out, %0 fastmath<reassoc,contract> : f32
    linalg.yield %1 : f32
  }
  return
}

// A function without a call has no workers.
// CHECK-LABEL: func @maximum
// CHECK-NOT:   scf.parallel
// CHECK:       vector.reduction <maximumf>
func.func @maximum(%x: memref<?x?xf32>, %y: memref<?xf32>) {
  linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]} ins(%x : memref<?x?xf32>) outs(%y : memref<?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.maximumf %out, %in : f32
    linalg.yield %0 : f32
  }
  return
}

// CHECK-LABEL: func @ordered_sum
// CHECK:       linalg.generic
func.func @ordered_sum(%x: memref<?x?xf32>, %y: memref<?xf32>) {
  linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]} ins(%x : memref<?x?xf32>) outs(%y : memref<?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %out, %in : f32
    linalg.yield %0 : f32
  }
  return
}

// CHECK-LABEL: func @transpose
// CHECK:       linalg.generic
func.func @transpose(%x: memref<?x?xf32>, %y: memref<?x?xf32>) {
  linalg.generic {indexing_maps = [#swap, #id], iterator_types = ["parallel", "parallel"]} ins(%x : memref<?x?xf32>) outs(%y : memref<?x?xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  return
}

// A bool is a byte in memory and a bit in a vector.
// CHECK-LABEL: func @bools
// CHECK:       linalg.generic
func.func @bools(%x: memref<?xf32>, %y: memref<?xi1>) {
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%x : memref<?xf32>) outs(%y : memref<?xi1>) {
  ^bb0(%in: f32, %out: i1):
    %0 = arith.cmpf uno, %in, %in : f32
    linalg.yield %0 : i1
  }
  return
}

// Only float32 has approximations.
// CHECK-LABEL: func @function_in_f64
// CHECK:       linalg.generic
func.func @function_in_f64(%x: memref<?xf64>, %y: memref<?xf64>) {
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%x : memref<?xf64>) outs(%y : memref<?xf64>) {
  ^bb0(%in: f64, %out: f64):
    %0 = math.exp %in : f64
    linalg.yield %0 : f64
  }
  return
}

// A sum starts at the value that its results were just filled with; nothing else reads them.
// CHECK-LABEL: func @sum_from_fill
// CHECK:       %[[ZERO:.*]] = arith.constant 0.000000e+00 : f32
// CHECK:       scf.parallel
// CHECK-NOT:     memref.load %arg1
// CHECK:         vector.reduction <add>, %{{.*}}, %[[ZERO]] fastmath<reassoc>
// CHECK:         memref.store
// CHECK-NOT:   scf.parallel
func.func @sum_from_fill(%x: memref<?x?xf32>, %y: memref<?xf32>, %call: !llvm.ptr {moe.call}) {
  %zero = arith.constant 0.0 : f32
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%y : memref<?xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]} ins(%x : memref<?x?xf32>) outs(%y : memref<?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %1 = arith.addf %out, %in fastmath<reassoc,contract> : f32
    linalg.yield %1 : f32
  }
  return
}

// Two reductions around each other read their results more than once.
// CHECK-LABEL: func @sums_from_fill
// CHECK:       vector.store
// CHECK:       vector.reduction <add>
func.func @sums_from_fill(%x: memref<?x?x?xf32>, %y: memref<?xf32>, %call: !llvm.ptr {moe.call}) {
  %zero = arith.constant 0.0 : f32
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%y : memref<?xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0)>], iterator_types = ["parallel", "reduction", "reduction"]} ins(%x : memref<?x?x?xf32>) outs(%y : memref<?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %1 = arith.addf %out, %in fastmath<reassoc,contract> : f32
    linalg.yield %1 : f32
  }
  return
}

// RUN: moe-opt %s --lower-entry | FileCheck %s
// RUN: moe-opt %s --moec-bufferize --moec-memory | FileCheck %s --check-prefix=COPY

// A result that begins with an argument, and that argument, may be views of one buffer. The
// rows that are there already are copied from other memory only.

// CHECK-LABEL: func.func @main
// CHECK-SAME: %arg0: memref<2x?x4xf32, strided<[?, ?, 1]>>
// CHECK-SAME: %arg1: memref<2x1x4xf32>
// CHECK-SAME: %arg2: memref<2x?x4xf32, strided<[?, ?, 1]>> {moe.extends = 0 : i64, moe.output}
// CHECK: func.func @main_shapes(%{{.*}}: memref<2x?x4xf32, strided<[?, ?, 1]>>, %{{.*}}: memref<2x1x4xf32>)

// COPY-LABEL: func.func @main
// COPY: %[[FROM:.*]] = memref.extract_aligned_pointer_as_index %arg0
// COPY: %[[TO:.*]] = memref.extract_aligned_pointer_as_index %arg2
// COPY: %[[DIFFER:.*]] = arith.cmpi ne, %[[FROM]], %[[TO]]
// COPY: scf.if %[[DIFFER]] {
// COPY: memref.load %arg0
// COPY-NOT: memref.load %arg0
// COPY: return
func.func @main(%past: tensor<2x?x4xf32>, %new: tensor<2x1x4xf32>) -> (tensor<2x?x4xf32> {moe.extends = 0 : i64}) {
  %c1 = arith.constant 1 : index
  %rows = tensor.dim %past, %c1 : tensor<2x?x4xf32>
  %all = arith.addi %rows, %c1 : index
  %empty = tensor.empty(%all) : tensor<2x?x4xf32>
  %first = tensor.insert_slice %past into %empty[0, 0, 0] [2, %rows, 4] [1, 1, 1] : tensor<2x?x4xf32> into tensor<2x?x4xf32>
  %both = tensor.insert_slice %new into %first[0, %rows, 0] [2, 1, 4] [1, 1, 1] : tensor<2x1x4xf32> into tensor<2x?x4xf32>
  return %both : tensor<2x?x4xf32>
}

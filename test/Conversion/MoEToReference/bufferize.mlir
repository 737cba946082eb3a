// A whole layer bufferizes without an allocation or a copy inside a loop, and the
// sizes of its buffers are those of its operands.
// RUN: moe-opt %s --moe-to-reference --canonicalize --cse \
// RUN:   --one-shot-bufferize="bufferize-function-boundaries function-boundary-type-conversion=identity-layout-map" \
// RUN:   --canonicalize -o %t
// RUN: FileCheck %s --input-file=%t
// RUN: FileCheck %s --input-file=%t --check-prefix=LOOPS --strict-whitespace

!unweighted = !moe.routing<experts = 5, k = 3>
!routing = !moe.routing<experts = 5, k = 3, weighted>

// CHECK-LABEL: func.func @layer(
// CHECK-SAME:    %[[X:[^:]*]]: memref<?x72xf16>, %[[L:[^:]*]]: memref<?x5xf16>
// CHECK-NOT:     moe.
// CHECK:         %[[T:.*]] = memref.dim %[[L]]
// CHECK:         %[[ROWS:.*]] = arith.muli %[[T]], %c3
// CHECK:         memref.alloc(%[[ROWS]]) {{.*}} : memref<?xindex>
// CHECK:         memref.alloc(%[[ROWS]]) {{.*}} : memref<?x80xf32>
// CHECK:         %[[N:.*]] = memref.dim %[[X]]
// CHECK:         memref.alloc(%[[N]]) {{.*}} : memref<?x72xf16>
// CHECK:         return

// What is not in a loop is indented by four.
// LOOPS-LABEL: func.func @layer(
// LOOPS-NOT:{{^ {6,}.*memref\.(alloc|copy)}}
// LOOPS:    return
func.func @layer(%x: tensor<?x72xf16>, %l: tensor<?x5xf16>, %codes: tensor<5x80x36xui8>, %scales: tensor<5x80xf16>,
                 %down: tensor<5x72x40xf16>) -> tensor<?x72xf16> {
  %c0 = arith.constant 0 : index
  %s = moe.score <softmax> %l : tensor<?x5xf16> -> tensor<?x5xf32>
  %r = moe.select %s {k = 3 : i64} : (tensor<?x5xf32>) -> !unweighted
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!unweighted, tensor<?x5xf32>) -> !routing
  %up = moe.dequantize %codes scales(%scales) {bits = 4 : i64} : (tensor<5x80x36xui8>, tensor<5x80xf16>) -> tensor<5x80x72xf16>
  %rows = moe.dispatch %x, %w : (tensor<?x72xf16>, !routing) -> tensor<?x72xf16>
  %z = moe.expert_ffn %rows, %w up(%up) down(%down) <silu, glu = concat>
      : (tensor<?x72xf16>, !routing, tensor<5x80x72xf16>, tensor<5x72x40xf16>) -> tensor<?x72xf16>
  %t = tensor.dim %x, %c0 : tensor<?x72xf16>
  %y = moe.combine %z, %w tokens(%t) : (tensor<?x72xf16>, !routing, index) -> tensor<?x72xf16>
  return %y : tensor<?x72xf16>
}

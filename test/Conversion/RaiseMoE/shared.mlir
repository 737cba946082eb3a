// RUN: moe-opt %s --raise-moe | FileCheck %s
// RUN: moe-opt %s --raise-moe=contrib-only | FileCheck %s --check-prefix=LEFT

// A feed-forward network of the block's input, added to the block.

!x = tensor<?x64xf32>
!h = tensor<?x32xf32>

moe.weight @gate from [#moe.segment<"m.data", offset = 0, length = 8192, tensor<64x32xf32>>] : tensor<64x32xf32>
moe.weight @up from [#moe.segment<"m.data", offset = 8192, length = 8192, tensor<64x32xf32>>] : tensor<64x32xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 16384, length = 8192, tensor<32x64xf32>>] : tensor<32x64xf32>

// The same bytes as banks of one expert.
// CHECK-DAG: moe.weight @[[GATE:gate_.*]] from [#moe.segment<"m.data", offset = 0, length = 8192, tensor<1x64x32xf32>>] : tensor<1x64x32xf32>
// CHECK-DAG: moe.weight @[[DOWN:down_.*]] from [#moe.segment<"m.data", offset = 16384, length = 8192, tensor<1x32x64xf32>>] : tensor<1x32x64xf32>

// CHECK-LABEL: func @silu
// CHECK-SAME: (%[[X:[a-z0-9]*]]: tensor<?x64xf32>
// CHECK: %[[Y:.*]] = moe.combine
// CHECK: %[[GATE_BANK:.*]] = moe.load_weight @[[GATE]]
// CHECK: %[[DOWN_BANK:.*]] = moe.load_weight @[[DOWN]]
// CHECK: %[[SUM:.*]] = moe.shared %[[X]] up(%{{.*}}) gate(%[[GATE_BANK]]) down(%[[DOWN_BANK]]) add(%[[Y]]) <silu, glu = separate>
// CHECK-SAME: layout = #moe.layout<in_out>
// CHECK: return %[[SUM]]
// LEFT-LABEL: func @silu
// LEFT: moe.combine
// LEFT: onnx.node "Add"
// LEFT-NOT: moe.shared
func.func @silu(%x: !x, %l: tensor<?x8xf32>, %w1: tensor<8x128x64xf32>, %w2: tensor<8x64x128xf32>) -> !x {
  %gate = moe.load_weight @gate : tensor<64x32xf32>
  %up = moe.load_weight @up : tensor<64x32xf32>
  %down = moe.load_weight @down : tensor<32x64xf32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, tensor<?x8xf32>, tensor<8x128x64xf32>, tensor<8x64x128xf32>) -> !x
  %g = onnx.node "MatMul"(%x, %gate) {version = 13 : i64} : (!x, tensor<64x32xf32>) -> !h
  %s = onnx.node "Sigmoid"(%g) {version = 13 : i64} : (!h) -> !h
  %a = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (!h, !h) -> !h
  %u = onnx.node "MatMul"(%x, %up) {version = 13 : i64} : (!x, tensor<64x32xf32>) -> !h
  %h = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (!h, !h) -> !h
  %f = onnx.node "MatMul"(%h, %down) {version = 13 : i64} : (!h, tensor<32x64xf32>) -> !x
  %sum = onnx.node "Add"(%y, %f) {version = 14 : i64} : (!x, !x) -> !x
  return %sum : !x
}

// An Add that broadcasts adds something else to each row.

// CHECK-LABEL: func @broadcasts
// CHECK: moe.combine
// CHECK-NOT: moe.shared
// CHECK: onnx.node "Add"
func.func @broadcasts(%x: !x, %l: tensor<?x8xf32>, %w1: tensor<8x128x64xf32>, %w2: tensor<8x64x128xf32>,
                      %shape: tensor<3xi64>) -> tensor<?x?x64xf32> {
  %up = moe.load_weight @up : tensor<64x32xf32>
  %down = moe.load_weight @down : tensor<32x64xf32>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, version = 1 : i64}
    : (!x, tensor<?x8xf32>, tensor<8x128x64xf32>, tensor<8x64x128xf32>) -> !x
  %u = onnx.node "MatMul"(%x, %up) {version = 13 : i64} : (!x, tensor<64x32xf32>) -> !h
  %h = onnx.node "Relu"(%u) {version = 14 : i64} : (!h) -> !h
  %f = onnx.node "MatMul"(%h, %down) {version = 13 : i64} : (!h, tensor<32x64xf32>) -> !x
  %rows = onnx.node "Reshape"(%f, %shape) {version = 14 : i64} : (!x, tensor<3xi64>) -> tensor<?x?x64xf32>
  %sum = onnx.node "Add"(%y, %rows) {version = 14 : i64} : (!x, tensor<?x?x64xf32>) -> tensor<?x?x64xf32>
  return %sum : tensor<?x?x64xf32>
}

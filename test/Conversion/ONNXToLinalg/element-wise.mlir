// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// The same symbol, or a size of 1 in the type: decided at compile time.
// CHECK-LABEL: func @proven
// CHECK-NOT: moe.check
// CHECK: linalg.generic
// CHECK-SAME: ins(%{{.*}}, %{{.*}} : tensor<?x?xf32>, tensor<?x1xf32>)
// CHECK: arith.addf
func.func @proven(%x: tensor<?x?xf32> {onnx.dims = ["tokens", "hidden"]},
                  %y: tensor<?x1xf32> {onnx.dims = ["tokens", "1"]}) -> tensor<?x?xf32> {
  %r = onnx.node "Add"(%x, %y) {version = 14 : i64}
    : (tensor<?x?xf32>, tensor<?x1xf32>) -> tensor<?x?xf32>
  return %r : tensor<?x?xf32>
}

// Either size may be 1 at run time.
// CHECK-LABEL: func @unproven
// CHECK-SAME: %[[X:.*]]: tensor<?xf32>, %[[Y:.*]]: tensor<?xf32>
// CHECK: %[[N:.*]] = tensor.dim %[[X]]
// CHECK: %[[M:.*]] = tensor.dim %[[Y]]
// CHECK: moe.check %{{.*}}, %{{.*}}, "node '' (Add): the sizes of dimension 0 cannot be broadcast to one another"
// CHECK: linalg.generic
// CHECK: tensor.extract %[[X]]
// CHECK: tensor.extract %[[Y]]
func.func @unproven(%x: tensor<?xf32>, %y: tensor<?xf32>) -> tensor<?xf32> {
  %r = onnx.node "Add"(%x, %y) {version = 14 : i64} : (tensor<?xf32>, tensor<?xf32>) -> tensor<?xf32>
  return %r : tensor<?xf32>
}

// CHECK-LABEL: func @square
// CHECK: ^bb0(%[[A:.*]]: bf16, %{{.*}}: bf16):
// CHECK-NEXT: %[[W:.*]] = arith.extf %[[A]] : bf16 to f32
// CHECK-NEXT: %[[S:.*]] = arith.mulf %[[W]], %[[W]] : f32
// CHECK-NEXT: %[[R:.*]] = arith.truncf %[[S]] : f32 to bf16
// CHECK-NEXT: linalg.yield %[[R]]
func.func @square(%x: tensor<4xbf16>) -> tensor<4xbf16> {
  %two = onnx.node "Constant"() {attributes = {value = dense<2.0> : tensor<f32>}, version = 13 : i64}
    : () -> tensor<f32>
  %r = onnx.node "Pow"(%x, %two) {version = 15 : i64} : (tensor<4xbf16>, tensor<f32>) -> tensor<4xbf16>
  return %r : tensor<4xbf16>
}

// arith has no unsigned types.
// CHECK-LABEL: func @unsigned
// CHECK: builtin.unrealized_conversion_cast %{{.*}} : ui8 to i8
// CHECK: arith.maxui %{{.*}} : i8
// CHECK: builtin.unrealized_conversion_cast %{{.*}} : i8 to ui8
func.func @unsigned(%x: tensor<4xui8>, %y: tensor<4xui8>) -> tensor<4xui8> {
  %r = onnx.node "Max"(%x, %y) {version = 13 : i64} : (tensor<4xui8>, tensor<4xui8>) -> tensor<4xui8>
  return %r : tensor<4xui8>
}

// CHECK-LABEL: func @clip_above
// CHECK-NOT: arith.maximumf
// CHECK: arith.minimumf
func.func @clip_above(%x: tensor<4xf32>, %high: tensor<f32>) -> tensor<4xf32> {
  %r = onnx.node "Clip"(%x, %high) {absent = array<i32: 1>, version = 13 : i64}
    : (tensor<4xf32>, tensor<f32>) -> tensor<4xf32>
  return %r : tensor<4xf32>
}

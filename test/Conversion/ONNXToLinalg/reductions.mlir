// RUN: moe-opt %s --onnx-to-linalg --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @mean
// CHECK: linalg.generic {{.*}} iterator_types = ["parallel", "reduction"]
// CHECK: arith.extf %{{.*}} : bf16 to f32
// CHECK: arith.addf %{{.*}} : f32
// CHECK: arith.divf %{{.*}}, %cst{{.*}} : f32
// CHECK: arith.truncf
// CHECK: tensor.expand_shape %{{.*}} {{\[\[}}0, 1{{\]\]}}
func.func @mean(%x: tensor<?x64xbf16>) -> tensor<?x1xbf16> {
  %axes = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64}
    : () -> tensor<1xi64>
  %r = onnx.node "ReduceMean"(%x, %axes) {version = 18 : i64}
    : (tensor<?x64xbf16>, tensor<1xi64>) -> tensor<?x1xbf16>
  return %r : tensor<?x1xbf16>
}

// CHECK-LABEL: func @softmax
// CHECK: arith.maximumf %{{.*}} : f32
// CHECK: math.exp %{{.*}} : f32
// CHECK: arith.addf %{{.*}} : f32
// CHECK: arith.divf %{{.*}} : f32
// CHECK: arith.truncf %{{.*}} : f32 to f16
func.func @softmax(%x: tensor<?x8xf16>) -> tensor<?x8xf16> {
  %r = onnx.node "Softmax"(%x) {version = 13 : i64} : (tensor<?x8xf16>) -> tensor<?x8xf16>
  return %r : tensor<?x8xf16>
}

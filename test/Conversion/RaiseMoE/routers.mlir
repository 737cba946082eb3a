// RUN: moe-opt %s --normalize-onnx --raise-moe | FileCheck %s

// Routers in several spellings, each behind ids and weights that an expert form found.

!l = tensor<?x6xf32>
!ids = tensor<?x2xi64>
!w = tensor<?x2xf32>
!any = tensor<*x!onnx.unknown>
!given = !moe.routing<experts = 6, k = 2>
!routing = !moe.routing<experts = 6, k = 2, weighted>

// The routing as `buildRouting` makes it.
func.func private @use(!routing)

// R1: softmax of all, top-k, normalised. Mixtral.

// CHECK-LABEL: func @normalised
// CHECK-SAME: (%[[L:[a-z0-9]*]]: tensor<?x6xf32>
// CHECK-NOT: onnx.node
// CHECK: %[[S:.*]] = moe.score <softmax> %[[L]]
// CHECK-NEXT: %[[R:.*]] = moe.select %[[S]] {k = 2 : i64}
// CHECK-NEXT: moe.weigh %[[R]], %[[S]] {norm = #moe.weigh_norm<sum>}
// CHECK-NOT: onnx.node
func.func @normalised(%l: !l) -> !l {
  %k = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %last = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %p = onnx.node "Softmax"(%l) {attributes = {axis = -1 : i64}, version = 13 : i64} : (!l) -> !l
  %v, %ids = onnx.node "TopK"(%p, %k) {attributes = {sorted = 0 : i64}, version = 11 : i64} : (!l, tensor<1xi64>) -> (!w, !ids)
  %sum = onnx.node "ReduceSum"(%v, %last) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (!w, tensor<1xi64>) -> tensor<?x1xf32>
  %w = onnx.node "Div"(%v, %sum) {version = 14 : i64} : (!w, tensor<?x1xf32>) -> !w
  %zeros = onnx.node "Sub"(%l, %l) {version = 14 : i64} : (!l, !l) -> !l
  return %l : !l
}

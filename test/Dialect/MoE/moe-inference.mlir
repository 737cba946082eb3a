// RUN: moe-opt %s --moe-inference | FileCheck %s

!w = !moe.routing<experts = 8, k = 2, weighted>

// CHECK-LABEL: func @noise
// CHECK-NEXT:    moe.logits %{{[^ ]*}}, %{{[^ ]*}} bias(%{{[^ ]*}}) : (tensor<?x16xf32>, tensor<8x16xf32>, tensor<8xf32>) -> tensor<?x8xf32>
func.func @noise(%x: tensor<?x16xf32>, %w: tensor<8x16xf32>, %b: tensor<8xf32>, %n: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %l = moe.logits %x, %w bias(%b) noise(%n) : (tensor<?x16xf32>, tensor<8x16xf32>, tensor<8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  return %l : tensor<?x8xf32>
}

// CHECK-LABEL: func @random
// CHECK-NEXT:    moe.filter %{{[^ ]*}} {threshold = 2.500000e-01 : f64} : (!moe.routing<experts = 8, k = 2, weighted>)
func.func @random(%r: !w, %u: tensor<?xf32>) -> !w {
  %f = moe.filter %r random(%u) {threshold = 0.25 : f64} : (!w, tensor<?xf32>) -> !w
  return %f : !w
}

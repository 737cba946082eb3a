// RUN: moe-opt %s --split-input-file --moe-merge-gate-up | FileCheck %s
// RUN: moe-opt %s --split-input-file --moe-merge-gate-up --remarks-filter=moe-merge-gate-up 2>&1 | FileCheck %s --check-prefix=REMARK

!x = tensor<?x24xf32>
!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK: moe.weight @gate_up from [#moe.segment<"m", offset = 0, length = 15360, tensor<4x40x24xf32>>, #moe.segment<"m", offset = 15360, length = 15360, tensor<4x40x24xf32>>] : tensor<4x80x24xf32>
// CHECK: moe.weight @gate_bias_up_bias from {{.*}} : tensor<4x80xf32>
moe.weight @gate from [#moe.segment<"m", offset = 0, length = 15360, tensor<4x40x24xf32>>] : tensor<4x40x24xf32>
moe.weight @up from [#moe.segment<"m", offset = 15360, length = 15360, tensor<4x40x24xf32>>] : tensor<4x40x24xf32>
moe.weight @gate_bias from [#moe.segment<"m", offset = 30720, length = 640, tensor<4x40xf32>>] : tensor<4x40xf32>
moe.weight @up_bias from [#moe.segment<"m", offset = 31360, length = 640, tensor<4x40xf32>>] : tensor<4x40xf32>

// CHECK-LABEL: func @merged
// CHECK-DAG:   %[[W:.+]] = moe.load_weight @gate_up
// CHECK-DAG:   %[[B:.+]] = moe.load_weight @gate_bias_up_bias
// CHECK:       moe.experts %{{.+}}, %{{.+}} up(%[[W]]) up_bias(%[[B]]) down(%{{.+}}) <silu, glu = concat, limit = 7.{{.*}}>
// REMARK:      merged
// REMARK-SAME: bytes=30720, experts=4, rows=80
func.func @merged(%x: !x, %r: !routing, %down: tensor<4x24x40xf32>) -> !x {
  %g = moe.load_weight @gate : tensor<4x40x24xf32>
  %u = moe.load_weight @up : tensor<4x40x24xf32>
  %gb = moe.load_weight @gate_bias : tensor<4x40xf32>
  %ub = moe.load_weight @up_bias : tensor<4x40xf32>
  %y = moe.experts %x, %r up(%u) up_bias(%ub) gate(%g) gate_bias(%gb) down(%down) <silu, glu = separate, limit = 7.0 : f64> : (!x, !routing, tensor<4x40x24xf32>, tensor<4x40xf32>, tensor<4x40x24xf32>, tensor<4x40xf32>, tensor<4x24x40xf32>) -> !x
  return %y : !x
}

// -----

!x = tensor<?x24xf32>
!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @arguments
// CHECK:       glu = separate
// REMARK:      gate and up are not both untransformed weights of one type in files
func.func @arguments(%x: !x, %r: !routing, %g: tensor<4x40x24xf32>, %u: tensor<4x40x24xf32>, %down: tensor<4x24x40xf32>) -> !x {
  %y = moe.experts %x, %r up(%u) gate(%g) down(%down) <silu, glu = separate> : (!x, !routing, tensor<4x40x24xf32>, tensor<4x40x24xf32>, tensor<4x24x40xf32>) -> !x
  return %y : !x
}

// CHECK-LABEL: func @one_bias
// CHECK:       glu = separate
// REMARK:      only one of gate and up has a bias
func.func @one_bias(%x: !x, %r: !routing, %g: tensor<4x40x24xf32>, %u: tensor<4x40x24xf32>, %b: tensor<4x40xf32>, %down: tensor<4x24x40xf32>) -> !x {
  %y = moe.experts %x, %r up(%u) up_bias(%b) gate(%g) down(%down) <silu, glu = separate> : (!x, !routing, tensor<4x40x24xf32>, tensor<4x40xf32>, tensor<4x40x24xf32>, tensor<4x24x40xf32>) -> !x
  return %y : !x
}

// CHECK-LABEL: func @in_out
// CHECK:       glu = separate
// REMARK:      the weights are [E, in, out]
func.func @in_out(%x: !x, %r: !routing, %g: tensor<4x24x40xf32>, %u: tensor<4x24x40xf32>, %down: tensor<4x40x24xf32>) -> !x {
  %y = moe.experts %x, %r up(%u) gate(%g) down(%down) <silu, glu = separate> {layout = #moe.layout<in_out>} : (!x, !routing, tensor<4x24x40xf32>, tensor<4x24x40xf32>, tensor<4x40x24xf32>) -> !x
  return %y : !x
}

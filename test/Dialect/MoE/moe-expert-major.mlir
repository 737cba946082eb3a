// RUN: moe-opt %s --moe-expert-major | FileCheck %s
// RUN: moe-opt %s --moe-expert-major --remarks-filter=moe-expert-major 2>&1 | FileCheck %s --check-prefix=REMARK

!x = tensor<?x24xf16>
!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @gated
// CHECK-SAME:    (%[[X:.+]]: tensor<?x24xf16>, %[[R:.+]]: !moe.routing<experts = 4, k = 2, weighted>, %[[G:.+]]: tensor<4x40x24xf16>, %[[U:.+]]: tensor<4x40x24xf16>, %[[D:.+]]: tensor<4x24x40xf16>
// CHECK:         %[[ROWS:.+]] = moe.dispatch %[[X]], %[[R]] {scale_input} : {{.*}} -> tensor<?x24xf32>
// CHECK:         %[[UP:.+]] = moe.grouped_matmul %[[ROWS]], %[[R]], %[[U]]
// CHECK:         %[[GATE:.+]] = moe.grouped_matmul %[[ROWS]], %[[R]], %[[G]]
// CHECK:         %[[H:.+]] = moe.activate <silu, glu = separate> %[[GATE]] linear(%[[UP]])
// CHECK:         %[[OUT:.+]] = moe.grouped_matmul %[[H]], %[[R]], %[[D]]
// CHECK:         %[[T:.+]] = tensor.dim %[[X]]
// CHECK:         moe.combine %[[OUT]], %[[R]] tokens(%[[T]]) uncovered(%[[X]], %{{.+}}) {post_scale = 2.000000e+00 : f64, weight = #moe.combine_weight<already_applied>}
// REMARK:        split
// REMARK-SAME:   experts=4, products=3, rows-per-token=2
func.func @gated(%x: !x, %r: !routing, %g: tensor<4x40x24xf16>, %u: tensor<4x40x24xf16>, %d: tensor<4x24x40xf16>, %before: !routing) -> !x {
  %y = moe.experts %x, %r up(%u) gate(%g) down(%d) uncovered(%before) <silu, glu = separate> {scale_input, weight = #moe.combine_weight<already_applied>, post_scale = 2.0 : f64} : (!x, !routing, tensor<4x40x24xf16>, tensor<4x40x24xf16>, tensor<4x24x40xf16>, !routing) -> !x
  return %y : !x
}

// CHECK-LABEL: func @kinds
// CHECK:       moe.experts
// REMARK:      not every expert has a network
func.func @kinds(%x: !x, %r: !routing, %u: tensor<3x24x24xf16>) -> !x {
  %y = moe.experts %x, %r up(%u) down(%u) <relu> {kinds = [#moe.kind<ffn, 3>, #moe.kind<zero, 1>]} : (!x, !routing, tensor<3x24x24xf16>, tensor<3x24x24xf16>) -> !x
  return %y : !x
}

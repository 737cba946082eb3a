// RUN: moe-opt %s --moe-fold-scale | FileCheck %s
// RUN: moe-opt %s --moe-fold-scale --remarks-filter=moe-fold-scale 2>&1 | FileCheck %s --check-prefix=REMARK

!x = tensor<?x24xf32>
!key = tensor<?x4xf32>
!unweighted = !moe.routing<experts = 4, k = 2>
!routing = !moe.routing<experts = 4, k = 2, weighted>
!bank = tensor<4x24x24xf32>

// CHECK-LABEL: func @folded
// CHECK:       moe.weigh {{.*}}scale = 5.000000e+00 : f64
// CHECK:       moe.experts
// CHECK-NOT:   post_scale
// REMARK:      folded
// REMARK-SAME: factor=2.5
func.func @folded(%x: !x, %l: !key, %w: !bank) -> !x {
  %r = moe.select %l {k = 2 : i64} : (!key) -> !unweighted
  %s = moe.weigh %r, %l {scale = 2.0 : f64} : (!unweighted, !key) -> !routing
  %y = moe.experts %x, %s up(%w) down(%w) <relu> {post_scale = 2.5 : f64} : (!x, !routing, !bank, !bank) -> !x
  return %y : !x
}

// CHECK-LABEL: func @used_twice
// CHECK-COUNT-2: post_scale = 2.5
// REMARK-COUNT-2: the routing has other users
func.func @used_twice(%x: !x, %l: !key, %w: !bank) -> (!x, !x) {
  %r = moe.select %l {k = 2 : i64} : (!key) -> !unweighted
  %s = moe.weigh %r, %l : (!unweighted, !key) -> !routing
  %y = moe.experts %x, %s up(%w) down(%w) <relu> {post_scale = 2.5 : f64} : (!x, !routing, !bank, !bank) -> !x
  %z = moe.experts %y, %s up(%w) down(%w) <relu> {post_scale = 2.5 : f64} : (!x, !routing, !bank, !bank) -> !x
  return %y, %z : !x, !x
}

// CHECK-LABEL: func @applied
// CHECK:       post_scale = 2.5
// REMARK:      the rows are not multiplied by the weights
func.func @applied(%x: !x, %r: !routing, %w: !bank) -> !x {
  %y = moe.experts %x, %r up(%w) down(%w) <relu> {scale_input, weight = #moe.combine_weight<already_applied>, post_scale = 2.5 : f64} : (!x, !routing, !bank, !bank) -> !x
  return %y : !x
}

// CHECK-LABEL: func @both
// CHECK:       post_scale = 2.5
// REMARK:      the weights multiply the input too
func.func @both(%x: !x, %r: !routing, %w: !bank) -> !x {
  %y = moe.experts %x, %r up(%w) down(%w) <relu> {scale_input, post_scale = 2.5 : f64} : (!x, !routing, !bank, !bank) -> !x
  return %y : !x
}

// CHECK-LABEL: func @native
// CHECK:       post_scale = 2.5
// REMARK:      every entry is rounded
func.func @native(%x: !x, %r: !routing, %w: !bank) -> !x {
  %y = moe.experts %x, %r up(%w) down(%w) <relu> {accum = #moe.accum<native>, post_scale = 2.5 : f64} : (!x, !routing, !bank, !bank) -> !x
  return %y : !x
}

// CHECK-LABEL: func @uncovered
// CHECK:       post_scale = 2.5
// REMARK:      tokens without an expert are scaled too
func.func @uncovered(%x: !x, %r: !routing, %before: !routing, %w: !bank) -> !x {
  %y = moe.experts %x, %r up(%w) down(%w) uncovered(%before) <relu> {post_scale = 2.5 : f64} : (!x, !routing, !bank, !bank, !routing) -> !x
  return %y : !x
}

// CHECK-LABEL: func @argument
// CHECK:       post_scale = 2.5
// REMARK:      the routing is not produced by moe.weigh or moe.gating
func.func @argument(%x: !x, %r: !routing, %w: !bank) -> !x {
  %y = moe.experts %x, %r up(%w) down(%w) <relu> {post_scale = 2.5 : f64} : (!x, !routing, !bank, !bank) -> !x
  return %y : !x
}

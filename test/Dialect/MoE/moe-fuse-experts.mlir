// RUN: moe-opt %s --split-input-file --moe-fuse-experts --verify-roundtrip | FileCheck %s
// RUN: moe-opt %s --split-input-file --moe-fuse-experts --remarks-filter=moe-fuse-experts 2>&1 | FileCheck %s --check-prefix=REMARK

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @plain
// CHECK-SAME:    (%[[X:.*]]: tensor<?x16xf16>, %[[R:.*]]: !moe.routing<experts = 4, k = 2, weighted>, %[[U:.*]]: tensor<4x24x16xf16>, %[[UB:.*]]: tensor<4x24xf16>, %[[D:.*]]: tensor<4x16x12xf16>, %[[DB:.*]]: tensor<4x16xf16>)
// CHECK:         %[[Y:.*]] = moe.experts %[[X]], %[[R]] up(%[[U]]) up_bias(%[[UB]]) down(%[[D]]) down_bias(%[[DB]])
// CHECK-SAME:      <silu, glu = concat, alpha = 1.702000e+00 : f32, limit = 7.000000e+00 : f32> {moe.sources = ["layer0"]}
// CHECK-SAME:      -> tensor<?x16xf16>
// CHECK-NEXT:    return %[[Y]]
func.func @plain(%x: tensor<?x16xf16>, %r: !routing, %up: tensor<4x24x16xf16>, %up_bias: tensor<4x24xf16>,
                 %down: tensor<4x16x12xf16>, %down_bias: tensor<4x16xf16>) -> tensor<?x16xf16> {
  %c0 = arith.constant 0 : index
  %rows = moe.dispatch %x, %r : (tensor<?x16xf16>, !routing) -> tensor<?x16xf16>
  %z = moe.expert_ffn %rows, %r up(%up) up_bias(%up_bias) down(%down) down_bias(%down_bias)
      <silu, glu = concat, alpha = 1.702 : f32, limit = 7.0 : f32> {moe.sources = ["layer0"]}
      : (tensor<?x16xf16>, !routing, tensor<4x24x16xf16>, tensor<4x24xf16>, tensor<4x16x12xf16>, tensor<4x16xf16>) -> tensor<?x16xf16>
  %t = tensor.dim %x, %c0 : tensor<?x16xf16>
  %y = moe.combine %z, %r tokens(%t) : (tensor<?x16xf16>, !routing, index) -> tensor<?x16xf16>
  return %y : tensor<?x16xf16>
}

// The number of tokens is that of x before a cast; a separate gate.
// CHECK-LABEL: func @casts
// CHECK:         moe.experts %{{.*}} up(%{{.*}}) gate(%{{.*}}) gate_bias(%{{.*}}) down(%{{.*}}) <silu, glu = separate>
func.func @casts(%x: tensor<7x16xf32>, %r: !routing, %up: tensor<4x12x16xf32>, %gate: tensor<4x12x16xf32>,
                 %gate_bias: tensor<4x12xf32>, %down: tensor<4x16x12xf32>) -> tensor<?x16xf32> {
  %c0 = arith.constant 0 : index
  %cast = tensor.cast %x : tensor<7x16xf32> to tensor<?x16xf32>
  %rows = moe.dispatch %cast, %r : (tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) gate(%gate) gate_bias(%gate_bias) down(%down) <silu, glu = separate>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x12x16xf32>, tensor<4x12xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %t = tensor.dim %x, %c0 : tensor<7x16xf32>
  %t64 = arith.index_cast %t : index to i64
  %tokens = arith.index_cast %t64 : i64 to index
  %y = moe.combine %z, %r tokens(%tokens) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// CHECK-LABEL: func @constant_tokens
// CHECK:         moe.experts
func.func @constant_tokens(%x: tensor<7x16xf32>, %r: !routing, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) -> tensor<7x16xf32> {
  %c7 = arith.constant 7 : index
  %rows = moe.dispatch %x, %r : (tensor<7x16xf32>, !routing) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%c7) : (tensor<?x16xf32>, !routing, index) -> tensor<7x16xf32>
  return %y : tensor<7x16xf32>
}

// -----

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @other_tokens
// CHECK-NOT:     moe.experts
// REMARK: tokens is not the number of rows of x
func.func @other_tokens(%x: tensor<?x16xf32>, %r: !routing, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %t: index) -> tensor<?x16xf32> {
  %rows = moe.dispatch %x, %r : (tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%t) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// -----

!routing = !moe.routing<experts = 4, k = 2, weighted>

// The attributes of all three ops, except that x stays x.
// CHECK-LABEL: func @all_attributes
// CHECK-SAME:    (%[[X:.+]]: tensor<?x16xf32>, %[[R:.+]]: !moe.routing<{{.+}}>, %[[B:.+]]: !moe.routing<{{.+}}>, %[[UP:.+]]: tensor<2x16x12xf32>, %[[DOWN:.+]]: tensor<2x12x16xf32>, %[[C:.+]]: tensor<1x16xf32>)
// CHECK-NOT:     moe.{{dispatch|expert_ffn|combine}}
// CHECK:         moe.experts %[[X]], %[[R]] up(%[[UP]]) down(%[[DOWN]]) constants(%[[C]]) uncovered(%[[B]]) <relu> {accum = #moe.accum<native>, kinds = [#moe.kind<ffn, 2>, #moe.kind<identity, 1>, #moe.kind<constant, 1>], layout = #moe.layout<in_out>, post_scale = 2.000000e+00 : f64, scale_input, weight = #moe.combine_weight<already_applied>}
func.func @all_attributes(%x: tensor<?x16xf32>, %r: !routing, %before: !routing, %up: tensor<2x16x12xf32>, %down: tensor<2x12x16xf32>, %c: tensor<1x16xf32>) -> tensor<?x16xf32> {
  %c0 = arith.constant 0 : index
  %rows = moe.dispatch %x, %r {scale_input} : (tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) constants(%c) <relu> {layout = #moe.layout<in_out>, kinds = [#moe.kind<ffn, 2>, #moe.kind<identity, 1>, #moe.kind<constant, 1>]}
      : (tensor<?x16xf32>, !routing, tensor<2x16x12xf32>, tensor<2x12x16xf32>, tensor<1x16xf32>) -> tensor<?x16xf32>
  %t = tensor.dim %x, %c0 : tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%t) uncovered(%x, %before) {accum = #moe.accum<native>, post_scale = 2.0 : f64, weight = #moe.combine_weight<already_applied>} : (tensor<?x16xf32>, !routing, index, tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// -----

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @uncovered
// CHECK-NOT:     moe.experts
// REMARK: tokens without an expert give something else than x
func.func @uncovered(%x: tensor<?x16xf32>, %other: tensor<?x16xf32>, %r: !routing, %before: !routing, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) -> tensor<?x16xf32> {
  %c0 = arith.constant 0 : index
  %rows = moe.dispatch %x, %r : (tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %t = tensor.dim %x, %c0 : tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%t) uncovered(%other, %before) : (tensor<?x16xf32>, !routing, index, tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// -----

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @converted
// CHECK-NOT:     moe.experts
// REMARK: the dispatched rows are converted
func.func @converted(%x: tensor<?x16xf32>, %r: !routing, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) -> tensor<?x16xf32> {
  %c0 = arith.constant 0 : index
  %rows = moe.dispatch %x, %r : (tensor<?x16xf32>, !routing) -> tensor<?x16xbf16>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu>
      : (tensor<?x16xbf16>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %t = tensor.dim %x, %c0 : tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%t) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// -----

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @other_routing
// CHECK-NOT:     moe.experts
// REMARK: dispatch, experts and combine do not have the same routing
func.func @other_routing(%x: tensor<?x16xf32>, %r: !routing, %r2: !routing, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) -> tensor<?x16xf32> {
  %c0 = arith.constant 0 : index
  %rows = moe.dispatch %x, %r : (tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %t = tensor.dim %x, %c0 : tensor<?x16xf32>
  %y = moe.combine %z, %r2 tokens(%t) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// -----

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @rows_used
// CHECK-NOT:     moe.experts
// REMARK: the experts' rows have other users
func.func @rows_used(%x: tensor<?x16xf32>, %r: !routing, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  %c0 = arith.constant 0 : index
  %rows = moe.dispatch %x, %r : (tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %t = tensor.dim %x, %c0 : tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%t) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  return %y, %z : tensor<?x16xf32>, tensor<?x16xf32>
}

// -----

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @dispatched_used
// CHECK-NOT:     moe.experts
// REMARK: the dispatched rows have other users
func.func @dispatched_used(%x: tensor<?x16xf32>, %r: !routing, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  %c0 = arith.constant 0 : index
  %rows = moe.dispatch %x, %r : (tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %t = tensor.dim %x, %c0 : tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%t) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  return %y, %rows : tensor<?x16xf32>, tensor<?x16xf32>
}

// -----

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @given_rows
// CHECK-NOT:     moe.experts
// REMARK: the input is not produced by moe.dispatch
// REMARK: the rows are not produced by moe.expert_ffn
func.func @given_rows(%rows: tensor<?x16xf32>, %r: !routing, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %t: index) -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%t) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  %y2 = moe.combine %rows, %r tokens(%t) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  return %y, %y2 : tensor<?x16xf32>, tensor<?x16xf32>
}

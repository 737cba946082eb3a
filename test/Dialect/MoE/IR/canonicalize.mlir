// Each fold, and each condition under which it must not fire.
// RUN: moe-opt %s --canonicalize --split-input-file | FileCheck %s

!r = !moe.routing<experts = 8, k = 2>
!w = !moe.routing<experts = 8, k = 2, weighted>

// identity(L) = L.
// CHECK-LABEL: func @identity_score
// CHECK-SAME:    (%[[L:.*]]: tensor<?x8xf32>)
// CHECK-NEXT:    return %[[L]]
func.func @identity_score(%l: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %s = moe.score <identity> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  return %s : tensor<?x8xf32>
}

// CHECK-LABEL: func @identity_score_converts
// CHECK:         moe.score <identity>
func.func @identity_score_converts(%l: tensor<?x8xf16>) -> tensor<?x8xf32> {
  %s = moe.score <identity> %l : tensor<?x8xf16> -> tensor<?x8xf32>
  return %s : tensor<?x8xf32>
}

// CHECK-LABEL: func @other_score
// CHECK:         moe.score <sigmoid>
func.func @other_score(%l: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %s = moe.score <sigmoid> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  return %s : tensor<?x8xf32>
}

// -----

!r = !moe.routing<experts = 8, k = 2>

// CHECK-LABEL: func @zero_bias
// CHECK-SAME:    (%[[L:.*]]: tensor<?x8xf32>)
// CHECK-NEXT:    moe.select %[[L]] {k = 2 : i64} : (tensor<?x8xf32>)
func.func @zero_bias(%l: tensor<?x8xf32>) -> !r {
  %zero = arith.constant dense<0.0> : tensor<8xf32>
  %r = moe.select %l bias(%zero) {k = 2 : i64} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  return %r : !r
}

// CHECK-LABEL: func @nonzero_bias
// CHECK:         moe.select %{{.*}} bias(
func.func @nonzero_bias(%l: tensor<?x8xf32>) -> !r {
  %b = arith.constant dense<[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]> : tensor<8xf32>
  %r = moe.select %l bias(%b) {k = 2 : i64} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  return %r : !r
}

// CHECK-LABEL: func @unknown_bias
// CHECK:         moe.select %{{.*}} bias(
func.func @unknown_bias(%l: tensor<?x8xf32>, %b: tensor<8xf32>) -> !r {
  %r = moe.select %l bias(%b) {k = 2 : i64} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  return %r : !r
}

// -----

!r = !moe.routing<experts = 8, k = 2>
!w = !moe.routing<experts = 8, k = 2, weighted>

// softmax, top-k, division by the sum = top-k on the logits, softmax of the selected.
// CHECK-LABEL: func @normalize_after_select
// CHECK-SAME:    (%[[L:.*]]: tensor<?x8xf32>)
// CHECK-NEXT:    %[[R:.*]] = moe.select %[[L]] {k = 2 : i64}
// CHECK-NEXT:    %[[W:.*]] = moe.weigh %[[R]], %[[L]] {fn = #moe.weigh_fn<softmax>, moe.sources = ["n"], scale = 2.500000e+00 : f64}
// CHECK-NEXT:    return %[[W]]
func.func @normalize_after_select(%l: tensor<?x8xf32>) -> !w {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>, scale = 2.5 : f64, moe.sources = ["n"]} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @given_routing
// CHECK:         moe.score
func.func @given_routing(%l: tensor<?x8xf32>, %r: !r) -> !w {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @sigmoid_score
// CHECK:         moe.score
func.func @sigmoid_score(%l: tensor<?x8xf32>) -> !w {
  %s = moe.score <sigmoid> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @over_tokens
// CHECK:         moe.score
func.func @over_tokens(%l: tensor<?x8xf32>) -> !w {
  %s = moe.score <softmax> %l {axis = #moe.axis<tokens>} : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @rounded_score
// CHECK:         moe.score
func.func @rounded_score(%l: tensor<?x8xf32>) -> !w {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xbf16>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xbf16>) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xbf16>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @biased
// CHECK:         moe.score
func.func @biased(%l: tensor<?x8xf32>, %b: tensor<8xf32>) -> !w {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s bias(%b) {k = 2 : i64} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @other_key
// CHECK:         moe.score
func.func @other_key(%l: tensor<?x8xf32>, %key: tensor<?x8xf32>) -> !w {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %key {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @not_normalized
// CHECK:         moe.score
func.func @not_normalized(%l: tensor<?x8xf32>) -> !w {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @norm_eps
// CHECK:         moe.score
func.func @norm_eps(%l: tensor<?x8xf32>) -> !w {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>, norm_eps = 1.0e-6 : f64} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @weigh_fn
// CHECK:         moe.score
func.func @weigh_fn(%l: tensor<?x8xf32>) -> !w {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s {fn = #moe.weigh_fn<sigmoid>, norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @selection_used
// CHECK:         moe.score
func.func @selection_used(%l: tensor<?x8xf32>) -> (!w, !r) {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w, %r : !w, !r
}

// -----

!r = !moe.routing<experts = 8, k = 8>
!w = !moe.routing<experts = 8, k = 8, weighted>

// The k = E largest are all, whatever the bias, where the order of the slots does not
// matter.
// CHECK-LABEL: func @topk_of_all
// CHECK-SAME:    (%[[L:[^:]*]]: tensor<?x8xf32>
// CHECK-NEXT:    moe.select %[[L]] {k = 8 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>)
func.func @topk_of_all(%l: tensor<?x8xf32>, %b: tensor<8xf32>, %s: tensor<?x8xf32>, %z: tensor<?x4xf32>, %t: index) -> tensor<?x4xf32> {
  %r = moe.select %l bias(%b) {k = 8 : i64, tie_break = #moe.tie_break<higher>} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  %w = moe.weigh %r, %s : (!r, tensor<?x8xf32>) -> !w
  %y = moe.combine %z, %w tokens(%t) : (tensor<?x4xf32>, !w, index) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// Masks stay.
// CHECK-LABEL: func @topk_of_all_masked
// CHECK:         moe.select %{{[^ ]*}} token_mask(%{{[^ ]*}}) {k = 8 : i64, mode = #moe.select_mode<all>}
func.func @topk_of_all_masked(%l: tensor<?x8xf32>, %m: tensor<?xi1>) -> tensor<8xi64> {
  %r = moe.select %l token_mask(%m) {k = 8 : i64} : (tensor<?x8xf32>, tensor<?xi1>) -> !r
  %c = moe.aux <tokens_per_expert> routing(%r) : (!r) -> tensor<8xi64>
  return %c : tensor<8xi64>
}

// The rounds of masked_softmax follow the order of the slots.
// CHECK-LABEL: func @order_matters
// CHECK:         moe.select %{{[^ ]*}} {k = 8 : i64} : (tensor<?x8xf32>)
func.func @order_matters(%l: tensor<?x8xf32>, %z: tensor<?x4xf32>, %t: index) -> tensor<?x4xf32> {
  %r = moe.select %l {k = 8 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %l {fn = #moe.weigh_fn<masked_softmax>, eps = 0.01 : f64} : (!r, tensor<?x8xf32>) -> !w
  %y = moe.combine %z, %w tokens(%t) : (tensor<?x4xf32>, !w, index) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// CHECK-LABEL: func @order_escapes
// CHECK:         moe.select %{{[^ ]*}} {k = 8 : i64} : (tensor<?x8xf32>)
func.func @order_escapes(%l: tensor<?x8xf32>, %s: tensor<?x8xf32>) -> !w {
  %r = moe.select %l {k = 8 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %s : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// Entries of slot 0 ask before those of slot 1.
// CHECK-LABEL: func @order_of_capacity
// CHECK:         moe.select %{{[^ ]*}} {k = 8 : i64} : (tensor<?x8xf32>)
func.func @order_of_capacity(%l: tensor<?x8xf32>) -> tensor<8xi64> {
  %r = moe.select %l {k = 8 : i64} : (tensor<?x8xf32>) -> !r
  %f = moe.capacity %r {capacity = #moe.capacity<4>} : (!r) -> !r
  %c = moe.aux <tokens_per_expert> routing(%f) : (!r) -> tensor<8xi64>
  return %c : tensor<8xi64>
}

// Dropped groups have experts that are not selected.
// CHECK-LABEL: func @grouped
// CHECK:         moe.select %{{[^ ]*}} {group_fill = #moe.group_fill<zero>, k = 8 : i64, n_group = 4 : i64}
func.func @grouped(%l: tensor<?x8xf32>) -> tensor<8xi64> {
  %r = moe.select %l {k = 8 : i64, n_group = 4 : i64, group_fill = #moe.group_fill<zero>} : (tensor<?x8xf32>) -> !r
  %c = moe.aux <tokens_per_expert> routing(%r) : (!r) -> tensor<8xi64>
  return %c : tensor<8xi64>
}

// CHECK-LABEL: func @fewer
// CHECK:         moe.select %{{.*}} {k = 7 : i64} : (tensor<?x8xf32>)
func.func @fewer(%l: tensor<?x8xf32>) -> tensor<8xi64> {
  %r = moe.select %l {k = 7 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 7>
  %c = moe.aux <tokens_per_expert> routing(%r) : (!moe.routing<experts = 8, k = 7>) -> tensor<8xi64>
  return %c : tensor<8xi64>
}

// A selection of all experts looks at no key.
// CHECK-LABEL: func @bias_of_all
// CHECK:         moe.select %{{[^ ]*}} {k = 8 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>)
func.func @bias_of_all(%l: tensor<?x8xf32>, %b: tensor<8xf32>) -> !r {
  %r = moe.select %l bias(%b) {k = 8 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  return %r : !r
}

// -----

!r = !moe.routing<experts = 8, k = 2>
!w = !moe.routing<experts = 8, k = 2, weighted>

// Masks and scales per expert do not hinder a softmax of the selected.
// CHECK-LABEL: func @normalize_masked
// CHECK-SAME:    (%[[L:[^:]*]]: tensor<?x8xf32>
// CHECK-NEXT:    %[[R:.*]] = moe.select %[[L]] expert_mask(%{{[^ ]*}}) {k = 2 : i64, tie_break = #moe.tie_break<higher>}
// CHECK-NEXT:    moe.weigh %[[R]], %[[L]] expert_scale(%{{[^ ]*}}) {fn = #moe.weigh_fn<softmax>}
func.func @normalize_masked(%l: tensor<?x8xf32>, %m: tensor<8xi1>, %s: tensor<8xf32>) -> !w {
  %p = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %p expert_mask(%m) {k = 2 : i64, tie_break = #moe.tie_break<higher>} : (tensor<?x8xf32>, tensor<8xi1>) -> !r
  %w = moe.weigh %r, %p expert_scale(%s) {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>, tensor<8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @normalize_groups
// CHECK:         moe.score
func.func @normalize_groups(%l: tensor<?x8xf32>) -> !w {
  %p = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %p {k = 2 : i64, n_group = 4 : i64, topk_group = 2 : i64, group_score = #moe.group_score<top2sum>} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %p {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @normalize_threshold
// CHECK:         moe.score
func.func @normalize_threshold(%l: tensor<?x8xf32>) -> !w {
  %p = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %p {k = 2 : i64, mode = #moe.select_mode<threshold>, tau = 0.125 : f64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %p {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @normalize_biased_source
// CHECK:         moe.score
func.func @normalize_biased_source(%l: tensor<?x8xf32>, %b: tensor<8xf32>) -> !w {
  %p = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %p {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %p bias(%b) {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>, tensor<8xf32>) -> !w
  return %w : !w
}

// The weights are normalised before the capacity drops some.
// CHECK-LABEL: func @normalize_before_capacity
// CHECK:         moe.score
func.func @normalize_before_capacity(%l: tensor<?x8xf32>) -> !w {
  %p = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %p {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %c = moe.capacity %r {capacity = #moe.capacity<4>} : (!r) -> !r
  %w = moe.weigh %c, %p {norm = #moe.weigh_norm<sum>} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// -----

!r = !moe.routing<experts = 8, k = 2>

// When every group stays, there are no groups.
// CHECK-LABEL: func @every_group
// CHECK:         moe.select %{{[^ ]*}} {k = 2 : i64} : (tensor<?x8xf32>)
func.func @every_group(%l: tensor<?x8xf32>) -> !r {
  %r = moe.select %l {k = 2 : i64, n_group = 4 : i64, topk_group = 4 : i64, group_score = #moe.group_score<top2sum>, group_fill = #moe.group_fill<zero>}
      : (tensor<?x8xf32>) -> !r
  return %r : !r
}

// CHECK-LABEL: func @some_groups
// CHECK:         n_group = 4
func.func @some_groups(%l: tensor<?x8xf32>) -> !r {
  %r = moe.select %l {k = 2 : i64, n_group = 4 : i64, topk_group = 3 : i64} : (tensor<?x8xf32>) -> !r
  return %r : !r
}

// Top-p takes k experts when p ≥ 1.
// CHECK-LABEL: func @p_of_one
// CHECK:         moe.select %{{[^ ]*}} {k = 2 : i64} : (tensor<?x8xf32>)
func.func @p_of_one(%l: tensor<?x8xf32>) -> !r {
  %r = moe.select %l {k = 2 : i64, mode = #moe.select_mode<topp>, p = 1.0 : f64} : (tensor<?x8xf32>) -> !r
  return %r : !r
}

// CHECK-LABEL: func @p_below_one
// CHECK:         moe.select_mode<topp>
func.func @p_below_one(%l: tensor<?x8xf32>) -> !r {
  %r = moe.select %l {k = 2 : i64, mode = #moe.select_mode<topp>, p = 0.999 : f64} : (tensor<?x8xf32>) -> !r
  return %r : !r
}

// -----

!r = !moe.routing<experts = 4, k = 2>
!w = !moe.routing<experts = 4, k = 2, weighted>

// w · 1 = w.
// CHECK-LABEL: func @nothing_to_weigh
// CHECK-SAME:    (%[[W:.*]]: !moe.routing
// CHECK-NEXT:    return %[[W]]
func.func @nothing_to_weigh(%w: !w) -> !w {
  %0 = moe.weigh %w : (!w) -> !w
  return %0 : !w
}

// CHECK-LABEL: func @something_to_weigh
// CHECK-NEXT:    moe.weigh %{{[^ ]*}} {norm = #moe.weigh_norm<count>}
// CHECK-NEXT:    moe.weigh %{{[^ ]*}} {scale = 2.000000e+00 : f64}
// CHECK-NEXT:    moe.weigh %{{[^ ]*}} expert_scale(
// CHECK-NEXT:    moe.weigh %{{[^ ]*}}, %{{[^ ]*}} :
func.func @something_to_weigh(%w: !w, %s: tensor<4xf32>, %r: !r, %l: tensor<?x4xf32>) -> (!w, !w, !w, !w) {
  %0 = moe.weigh %w {norm = #moe.weigh_norm<count>} : (!w) -> !w
  %1 = moe.weigh %w {scale = 2.0 : f64} : (!w) -> !w
  %2 = moe.weigh %w expert_scale(%s) : (!w, tensor<4xf32>) -> !w
  %3 = moe.weigh %r, %l : (!r, tensor<?x4xf32>) -> !w
  return %0, %1, %2, %3 : !w, !w, !w, !w
}

// source + 0 = source.
// CHECK-LABEL: func @zero_source_bias
// CHECK:         moe.weigh %{{[^ ]*}}, %{{[^ ]*}} :
func.func @zero_source_bias(%r: !r, %l: tensor<?x4xf32>) -> !w {
  %zero = arith.constant dense<0.0> : tensor<4xf32>
  %w = moe.weigh %r, %l bias(%zero) : (!r, tensor<?x4xf32>, tensor<4xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @nonzero_source_bias
// CHECK:         moe.weigh %{{[^ ]*}}, %{{[^ ]*}} bias(
func.func @nonzero_source_bias(%r: !r, %l: tensor<?x4xf32>) -> !w {
  %b = arith.constant dense<[0.0, 0.0, 1.0, 0.0]> : tensor<4xf32>
  %w = moe.weigh %r, %l bias(%b) : (!r, tensor<?x4xf32>, tensor<4xf32>) -> !w
  return %w : !w
}

// The same scale at every expert is a scale.
// CHECK-LABEL: func @uniform_scale
// CHECK:         moe.weigh %{{[^ ]*}} {scale = 6.000000e+00 : f64}
func.func @uniform_scale(%w: !w) -> !w {
  %s = arith.constant dense<3.0> : tensor<4xf16>
  %0 = moe.weigh %w expert_scale(%s) {scale = 2.0 : f64} : (!w, tensor<4xf16>) -> !w
  return %0 : !w
}

// A scale goes into the scales per expert.
// CHECK-LABEL: func @scale_into_scales
// CHECK:         %[[S:.*]] = arith.constant dense<[2.000000e+00, 4.000000e+00, 6.000000e+00, 8.000000e+00]> : tensor<4xf32>
// CHECK:         moe.weigh %{{[^ ]*}} expert_scale(%[[S]]) {norm = #moe.weigh_norm<sum>} :
func.func @scale_into_scales(%w: !w) -> !w {
  %s = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
  %0 = moe.weigh %w expert_scale(%s) {scale = 2.0 : f64, norm = #moe.weigh_norm<sum>} : (!w, tensor<4xf32>) -> !w
  return %0 : !w
}

// Their products would be rounded to f16.
// CHECK-LABEL: func @narrow_scales
// CHECK:         scale = 3.000000e-01
func.func @narrow_scales(%w: !w) -> !w {
  %s = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf16>
  %0 = moe.weigh %w expert_scale(%s) {scale = 0.3 : f64} : (!w, tensor<4xf16>) -> !w
  return %0 : !w
}

// CHECK-LABEL: func @unknown_scales
// CHECK:         scale = 2.000000e+00
func.func @unknown_scales(%w: !w, %s: tensor<4xf32>) -> !w {
  %0 = moe.weigh %w expert_scale(%s) {scale = 2.0 : f64} : (!w, tensor<4xf32>) -> !w
  return %0 : !w
}

// -----

// CHECK-LABEL: func @zero_router_bias
// CHECK:         moe.logits %{{[^ ]*}}, %{{[^ ]*}} :
func.func @zero_router_bias(%x: tensor<?x6xf32>, %w: tensor<8x6xf32>) -> tensor<?x8xf32> {
  %zero = arith.constant dense<0.0> : tensor<8xf32>
  %l = moe.logits %x, %w bias(%zero) : (tensor<?x6xf32>, tensor<8x6xf32>, tensor<8xf32>) -> tensor<?x8xf32>
  return %l : tensor<?x8xf32>
}

// CHECK-LABEL: func @nonzero_router_bias
// CHECK:         bias(
func.func @nonzero_router_bias(%x: tensor<?x6xf32>, %w: tensor<8x6xf32>) -> tensor<?x8xf32> {
  %b = arith.constant dense<0.5> : tensor<8xf32>
  %l = moe.logits %x, %w bias(%b) : (tensor<?x6xf32>, tensor<8x6xf32>, tensor<8xf32>) -> tensor<?x8xf32>
  return %l : tensor<?x8xf32>
}

// -----

!w = !moe.routing<experts = 8, k = 2, weighted>
!r = !moe.routing<experts = 8, k = 2>

// Room for all tokens: a token chooses an expert once.
// CHECK-LABEL: func @enough_room
// CHECK-NOT:     moe.capacity
// CHECK:         return
func.func @enough_room(%l: tensor<?x8xf32>, %p: tensor<?x8xf32>) -> (!w, !w, !w, !w) {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %w = moe.weigh %r, %l : (!r, tensor<?x8xf32>) -> !w
  %0 = moe.capacity %w {capacity = #moe.capacity<tokens>} : (!w) -> !w
  %1 = moe.capacity %w {capacity = #moe.capacity<1.0 * tokens * 1.25, round = ceil>, order = #moe.capacity_order<token>} : (!w) -> !w
  %2 = moe.capacity %w {capacity = #moe.capacity<tokens / experts * 9>} : (!w) -> !w
  %3 = moe.capacity %w priority(%p) {capacity = #moe.capacity<tokens * k / 2.0, round = nearest, multiple = 4>, order = #moe.capacity_order<bpr>} : (!w, tensor<?x8xf32>) -> !w
  %4 = moe.capacity %w {capacity = #moe.capacity<tokens / 0.5>} : (!w) -> !w
  return %0, %1, %2, %4 : !w, !w, !w, !w
}

// Slots that are not renumbered do no harm where nobody looks at them.
// CHECK-LABEL: func @enough_room_for_given
// CHECK-NOT:     moe.capacity
// CHECK:         return
func.func @enough_room_for_given(%ids: tensor<?x2xi32>) -> tensor<8xi64> {
  %r = moe.given %ids : (tensor<?x2xi32>) -> !r
  %0 = moe.capacity %r {capacity = #moe.capacity<tokens>} : (!r) -> !r
  %c = moe.aux <tokens_per_expert> routing(%0) : (!r) -> tensor<8xi64>
  return %c : tensor<8xi64>
}

// CHECK-LABEL: func @capacity_that_may_bind
// CHECK:         capacity = #moe.capacity<64>
// CHECK:         capacity = #moe.capacity<tokens * 0.5>
// CHECK:         capacity = #moe.capacity<tokens * k / experts>
// CHECK:         capacity = #moe.capacity<tokens / tokens * 100>
// CHECK:         capacity = #moe.capacity<tokens / 49 * 49>
// CHECK:         capacity = #moe.capacity<tokens / 1000000000000 * 2000000000000>
func.func @capacity_that_may_bind(%l: tensor<?x8xf32>) -> (!r, !r, !r, !r, !r, !r) {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %0 = moe.capacity %r {capacity = #moe.capacity<64>} : (!r) -> !r
  %1 = moe.capacity %r {capacity = #moe.capacity<tokens * 0.5>} : (!r) -> !r
  %2 = moe.capacity %r {capacity = #moe.capacity<tokens * k / experts>} : (!r) -> !r
  %3 = moe.capacity %r {capacity = #moe.capacity<tokens / tokens * 100>} : (!r) -> !r
  %4 = moe.capacity %r {capacity = #moe.capacity<tokens / 49 * 49>} : (!r) -> !r
  %5 = moe.capacity %r {capacity = #moe.capacity<tokens / 1000000000000 * 2000000000000>} : (!r) -> !r
  return %0, %1, %2, %3, %4, %5 : !r, !r, !r, !r, !r, !r
}

// The call must report groups that do not divide the tokens.
// CHECK-LABEL: func @grouped_capacity
// CHECK:         moe.capacity
func.func @grouped_capacity(%l: tensor<?x8xf32>, %n: index) -> !r {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %0 = moe.capacity %r group_size(%n) {capacity = #moe.capacity<tokens>} : (!r, index) -> !r
  return %0 : !r
}

// CHECK-LABEL: func @capacity_that_keeps_one
// CHECK:         moe.capacity
func.func @capacity_that_keeps_one(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 1> {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !r
  %0 = moe.capacity %r {capacity = #moe.capacity<tokens>, keep = 1 : i64} : (!r) -> !moe.routing<experts = 8, k = 1>
  return %0 : !moe.routing<experts = 8, k = 1>
}

// Empty slots would stay among the others.
// CHECK-LABEL: func @capacity_that_renumbers
// CHECK:         moe.capacity
func.func @capacity_that_renumbers(%ids: tensor<?x2xi32>) -> !r {
  %r = moe.given %ids : (tensor<?x2xi32>) -> !r
  %0 = moe.capacity %r {capacity = #moe.capacity<tokens>} : (!r) -> !r
  return %0 : !r
}

// -----

!x = tensor<?x6xf32>
!r = !moe.routing<experts = 4, k = 2>
!w = !moe.routing<experts = 4, k = 2, weighted>

// Networks alone need no kinds; neighbours of one kind are one range.
// CHECK-LABEL: func @networks_alone
// CHECK-NEXT:    moe.expert_ffn %{{[^ ]*}}, %{{[^ ]*}} up(%{{[^ ]*}}) down(%{{[^ ]*}}) <relu> :
// CHECK-NEXT:    moe.experts %{{[^ ]*}}, %{{[^ ]*}} up(%{{[^ ]*}}) down(%{{[^ ]*}}) <relu> :
func.func @networks_alone(%x: !x, %r: !r, %w: !w, %up: tensor<4x5x6xf32>, %down: tensor<4x6x5xf32>) -> (!x, !x) {
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <relu> {kinds = [#moe.kind<ffn, 1>, #moe.kind<ffn, 3>]} : (!x, !r, tensor<4x5x6xf32>, tensor<4x6x5xf32>) -> !x
  %1 = moe.experts %x, %w up(%up) down(%down) <relu> {kinds = [#moe.kind<ffn, 4>]} : (!x, !w, tensor<4x5x6xf32>, tensor<4x6x5xf32>) -> !x
  return %0, %1 : !x, !x
}

// CHECK-LABEL: func @neighbours
// CHECK:         kinds = [#moe.kind<ffn, 2>, #moe.kind<zero, 2>]
func.func @neighbours(%x: !x, %r: !r, %up: tensor<2x5x6xf32>, %down: tensor<2x6x5xf32>) -> !x {
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <relu> {kinds = [#moe.kind<ffn, 1>, #moe.kind<ffn, 1>, #moe.kind<zero, 1>, #moe.kind<zero, 1>]}
      : (!x, !r, tensor<2x5x6xf32>, tensor<2x6x5xf32>) -> !x
  return %0 : !x
}

// Zero and identity experts are no networks, and stay.
// CHECK-LABEL: func @other_kinds
// CHECK:         kinds = [#moe.kind<ffn, 2>, #moe.kind<zero, 1>, #moe.kind<identity, 1>]
func.func @other_kinds(%x: !x, %r: !r, %up: tensor<2x5x6xf32>, %down: tensor<2x6x5xf32>) -> !x {
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <relu> {kinds = [#moe.kind<ffn, 2>, #moe.kind<zero, 1>, #moe.kind<identity, 1>]}
      : (!x, !r, tensor<2x5x6xf32>, tensor<2x6x5xf32>) -> !x
  return %0 : !x
}

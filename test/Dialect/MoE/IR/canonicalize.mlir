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

// The k = E largest are all, whatever the bias.
// CHECK-LABEL: func @topk_of_all
// CHECK-SAME:    (%[[L:[^:]*]]: tensor<?x8xf32>
// CHECK-NEXT:    moe.select %[[L]] {k = 8 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>)
func.func @topk_of_all(%l: tensor<?x8xf32>, %b: tensor<8xf32>, %s: tensor<?x8xf32>) -> !w {
  %r = moe.select %l bias(%b) {k = 8 : i64} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  %w = moe.weigh %r, %s : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @topk_of_all_unbiased
// CHECK:         moe.select %{{.*}} {k = 8 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>)
func.func @topk_of_all_unbiased(%l: tensor<?x8xf32>) -> !r {
  %r = moe.select %l {k = 8 : i64} : (tensor<?x8xf32>) -> !r
  return %r : !r
}

// The rounds of masked_softmax follow the order of the slots.
// CHECK-LABEL: func @order_matters
// CHECK:         moe.select %{{.*}} bias(%{{.*}}) {k = 8 : i64} : (tensor<?x8xf32>, tensor<8xf32>)
func.func @order_matters(%l: tensor<?x8xf32>, %b: tensor<8xf32>) -> !w {
  %r = moe.select %l bias(%b) {k = 8 : i64} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  %w = moe.weigh %r, %l {fn = #moe.weigh_fn<masked_softmax>, eps = 0.01 : f64} : (!r, tensor<?x8xf32>) -> !w
  return %w : !w
}

// CHECK-LABEL: func @order_escapes
// CHECK:         moe.select %{{.*}} bias(%{{.*}}) {k = 8 : i64} : (tensor<?x8xf32>, tensor<8xf32>)
func.func @order_escapes(%l: tensor<?x8xf32>, %b: tensor<8xf32>) -> !r {
  %r = moe.select %l bias(%b) {k = 8 : i64} : (tensor<?x8xf32>, tensor<8xf32>) -> !r
  return %r : !r
}

// CHECK-LABEL: func @fewer
// CHECK:         moe.select %{{.*}} {k = 7 : i64} : (tensor<?x8xf32>)
func.func @fewer(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 7> {
  %r = moe.select %l {k = 7 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 7>
  return %r : !moe.routing<experts = 8, k = 7>
}

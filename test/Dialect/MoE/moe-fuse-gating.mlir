// RUN: moe-opt %s --moe-fuse-gating --verify-roundtrip | FileCheck %s
// RUN: moe-opt %s --moe-fuse-gating --remarks-filter=moe-fuse-gating 2>&1 | FileCheck %s --check-prefix=REMARK

// MoE without normalisation: the weights are the softmax over all experts.
// CHECK-LABEL: func @softmax_score
// CHECK-SAME:    (%[[L:.*]]: tensor<?x8xf32>)
// CHECK-NEXT:    %[[R:.*]] = moe.gating %[[L]] {fn = #moe.weigh_fn<none>, k = 2 : i64, score = #moe.score_fn<softmax>, weigh_source = #moe.weigh_source<score>}
// CHECK-NEXT:    return %[[R]]
func.func @softmax_score(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w : !moe.routing<experts = 8, k = 2, weighted>
}

// CHECK-LABEL: func @softmax_score_sum_scale_bias
// CHECK-SAME:    (%[[L:.*]]: tensor<?x8xf16>, %[[B:.*]]: tensor<8xf32>)
// CHECK-NEXT:    moe.gating %[[L]] bias(%[[B]]) {fn = #moe.weigh_fn<none>, k = 2 : i64, moe.sources = ["gate"], norm = #moe.weigh_norm<sum>, norm_eps = 1.250000e-01 : f64, scale = 2.500000e+00 : f64, score = #moe.score_fn<sigmoid>, weigh_source = #moe.weigh_source<score>}
// CHECK-NEXT:    return
func.func @softmax_score_sum_scale_bias(%l: tensor<?x8xf16>, %b: tensor<8xf32>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %s = moe.score <sigmoid> %l : tensor<?x8xf16> -> tensor<?x8xf32>
  %r = moe.select %s bias(%b) {k = 2 : i64} : (tensor<?x8xf32>, tensor<8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>, norm_eps = 0.125 : f64, scale = 2.5 : f64, moe.sources = ["gate"]} : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w : !moe.routing<experts = 8, k = 2, weighted>
}

// QMoE, and MoE normalised: selection by the logits, softmax over the selected ones.
// CHECK-LABEL: func @logits_softmax
// CHECK-SAME:    (%[[L:.*]]: tensor<?x8xf32>)
// CHECK-NEXT:    moe.gating %[[L]] {fn = #moe.weigh_fn<softmax>, k = 2 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>}
// CHECK-NEXT:    return
func.func @logits_softmax(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %l {fn = #moe.weigh_fn<softmax>} : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w : !moe.routing<experts = 8, k = 2, weighted>
}

// CHECK-LABEL: func @masked_softmax
// CHECK-NEXT:    moe.gating %{{.*}} {eps = 1.000000e-02 : f64, fn = #moe.weigh_fn<masked_softmax>, k = 2 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>}
func.func @masked_softmax(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %l {fn = #moe.weigh_fn<masked_softmax>, eps = 0.01 : f64} : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w : !moe.routing<experts = 8, k = 2, weighted>
}

// Selection by the score, weights from its logits.
// CHECK-LABEL: func @score_then_logits
// CHECK-NEXT:    moe.gating %{{.*}} {fn = #moe.weigh_fn<sigmoid>, k = 1 : i64, score = #moe.score_fn<softmax>, weigh_source = #moe.weigh_source<logit>}
func.func @score_then_logits(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 1, weighted> {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 1 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 1>
  %w = moe.weigh %r, %l {fn = #moe.weigh_fn<sigmoid>} : (!moe.routing<experts = 8, k = 1>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 1, weighted>
  return %w : !moe.routing<experts = 8, k = 1, weighted>
}

// router_weights of QMoE.
// CHECK-LABEL: func @operand
// CHECK-SAME:    (%[[L:.*]]: tensor<?x8xf32>, %[[S:.*]]: tensor<?x8xbf16>)
// CHECK-NEXT:    moe.gating %[[L]] source(%[[S]]) {fn = #moe.weigh_fn<none>, k = 2 : i64, norm = #moe.weigh_norm<sum>, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<operand>}
func.func @operand(%l: tensor<?x8xf32>, %s: tensor<?x8xbf16>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (!moe.routing<experts = 8, k = 2>, tensor<?x8xbf16>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w : !moe.routing<experts = 8, k = 2, weighted>
}

// CHECK-LABEL: func @all
// CHECK-NEXT:    moe.gating %{{.*}} {fn = #moe.weigh_fn<none>, k = 8 : i64, mode = #moe.select_mode<all>, score = #moe.score_fn<softmax>, weigh_source = #moe.weigh_source<score>}
func.func @all(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 8, weighted> {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 8 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 8>
  %w = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 8>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 8, weighted>
  return %w : !moe.routing<experts = 8, k = 8, weighted>
}

// CHECK-LABEL: func @score_used
// CHECK-NOT:     moe.gating
// REMARK: the score has other users
func.func @score_used(%l: tensor<?x8xf32>) -> (!moe.routing<experts = 8, k = 2, weighted>, tensor<?x8xf32>) {
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w, %s : !moe.routing<experts = 8, k = 2, weighted>, tensor<?x8xf32>
}

// CHECK-LABEL: func @routing_used
// CHECK-NOT:     moe.gating
// REMARK: the unweighted routing has other users
func.func @routing_used(%l: tensor<?x8xf32>) -> (!moe.routing<experts = 8, k = 2, weighted>, !moe.routing<experts = 8, k = 2>) {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %l : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w, %r : !moe.routing<experts = 8, k = 2, weighted>, !moe.routing<experts = 8, k = 2>
}

// CHECK-LABEL: func @given
// CHECK-NOT:     moe.gating
// REMARK: the routing is not produced by moe.select
func.func @given(%r: !moe.routing<experts = 8, k = 2>, %l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %w = moe.weigh %r, %l : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w : !moe.routing<experts = 8, k = 2, weighted>
}

// CHECK-LABEL: func @over_tokens
// CHECK-NOT:     moe.gating
// REMARK: the score is normalised over the tokens
func.func @over_tokens(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %s = moe.score <softmax> %l {axis = #moe.axis<tokens>} : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w : !moe.routing<experts = 8, k = 2, weighted>
}

// Rounding the score makes ties that moe.gating would not see.
// CHECK-LABEL: func @rounded
// CHECK-NOT:     moe.gating
// REMARK: the score is rounded to less than f32
func.func @rounded(%l: tensor<?x8xf16>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %s = moe.score <softmax> %l : tensor<?x8xf16> -> tensor<?x8xf16>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf16>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf16>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %w : !moe.routing<experts = 8, k = 2, weighted>
}

// Groups, masks, weights with a bias, scales of experts, and room that needs only counts.
// CHECK-LABEL: func @everything
// CHECK-SAME:    (%[[L:.*]]: tensor<?x8xf32>, %[[B:.*]]: tensor<8xf32>, %[[T:.*]]: tensor<?xi1>, %[[E:.*]]: tensor<8xi1>, %[[S:.*]]: tensor<8xf32>)
// CHECK-NEXT:    %[[R:.*]] = moe.gating %[[L]] bias(%[[B]]) token_mask(%[[T]]) expert_mask(%[[E]]) source_bias(%[[B]]) expert_scale(%[[S]]) {capacity = #moe.capacity<tokens * 1.25 / experts, min = 4>, fn = #moe.weigh_fn<none>, group_score = #moe.group_score<top2sum>, k = 2 : i64, n_group = 4 : i64, norm = #moe.weigh_norm<clamp>, norm_eps = 1.250000e-01 : f64, order = #moe.capacity_order<token>, score = #moe.score_fn<sigmoid>, topk_group = 2 : i64, weigh_source = #moe.weigh_source<score>}
// CHECK-NEXT:    return %[[R]]
func.func @everything(%l: tensor<?x8xf32>, %b: tensor<8xf32>, %t: tensor<?xi1>, %e: tensor<8xi1>, %scale: tensor<8xf32>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %s = moe.score <sigmoid> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  %r = moe.select %s bias(%b) token_mask(%t) expert_mask(%e) {k = 2 : i64, n_group = 4 : i64, topk_group = 2 : i64, group_score = #moe.group_score<top2sum>} : (tensor<?x8xf32>, tensor<8xf32>, tensor<?xi1>, tensor<8xi1>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %s bias(%b) expert_scale(%scale) {norm = #moe.weigh_norm<clamp>, norm_eps = 0.125 : f64} : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>, tensor<8xf32>, tensor<8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  %c = moe.capacity %w {capacity = #moe.capacity<tokens * 1.25 / experts, min = 4>, order = #moe.capacity_order<token>} : (!moe.routing<experts = 8, k = 2, weighted>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %c : !moe.routing<experts = 8, k = 2, weighted>
}

// CHECK-LABEL: func @expert_choice
// CHECK-NOT:     moe.gating
// REMARK: an expert chooses among all tokens
func.func @expert_choice(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 8, weighted> {
  %r = moe.select %l {k = 8 : i64, mode = #moe.select_mode<expert_topk>, capacity = #moe.capacity<2>} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 8>
  %w = moe.weigh %r, %l : (!moe.routing<experts = 8, k = 8>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 8, weighted>
  return %w : !moe.routing<experts = 8, k = 8, weighted>
}

// CHECK-LABEL: func @priorities
// CHECK:         moe.gating
// CHECK:         moe.capacity
// REMARK: the order needs the priorities of all tokens
func.func @priorities(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted> {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %l : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  %c = moe.capacity %w {capacity = #moe.capacity<4>, order = #moe.capacity_order<bpr>} : (!moe.routing<experts = 8, k = 2, weighted>) -> !moe.routing<experts = 8, k = 2, weighted>
  return %c : !moe.routing<experts = 8, k = 2, weighted>
}

// CHECK-LABEL: func @groups_of_tokens
// CHECK:         moe.gating
// CHECK:         moe.capacity
// REMARK: the tokens are grouped
func.func @groups_of_tokens(%l: tensor<?x8xf32>, %n: index) -> !moe.routing<experts = 8, k = 2, weighted> {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %l : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  %c = moe.capacity %w group_size(%n) {capacity = #moe.capacity<4>} : (!moe.routing<experts = 8, k = 2, weighted>, index) -> !moe.routing<experts = 8, k = 2, weighted>
  return %c : !moe.routing<experts = 8, k = 2, weighted>
}

// CHECK-LABEL: func @keeps_fewer
// CHECK:         moe.gating
// CHECK:         moe.capacity
// REMARK: a token keeps fewer entries than it has
func.func @keeps_fewer(%l: tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 1, weighted> {
  %r = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %w = moe.weigh %r, %l : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  %c = moe.capacity %w {capacity = #moe.capacity<4>, keep = 1 : i64} : (!moe.routing<experts = 8, k = 2, weighted>) -> !moe.routing<experts = 8, k = 1, weighted>
  return %c : !moe.routing<experts = 8, k = 1, weighted>
}

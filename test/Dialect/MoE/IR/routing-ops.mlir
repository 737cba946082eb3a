// Round trip of the routing ops: every operand and attribute value.
// RUN: moe-opt %s --verify-roundtrip | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s

!x = tensor<?x16xf32>
!l = tensor<?x8xf32>
!all = !moe.routing<experts = 8, k = 8>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

// CHECK-LABEL: func private @capacities
// CHECK-SAME:    c0 = #moe.capacity<64>
// CHECK-SAME:    c1 = #moe.capacity<tokens * 1.25 / experts, min = 4>
// CHECK-SAME:    c2 = #moe.capacity<tokens / experts * 1.25 * k, round = ceil, min = 4>
// CHECK-SAME:    c3 = #moe.capacity<tokens * k * 1.05 / experts, round = nearest, multiple = 4>
// CHECK-SAME:    c4 = #moe.capacity<tokens / experts, round = ceil, times = 2>
// CHECK-SAME:    c5 = #moe.capacity<0.1 * tokens / 3.0000000000000004e-01>
// CHECK-SAME:    c6 = #moe.capacity<k * 1.0e-10 / tokens>
func.func private @capacities() attributes {
  c0 = #moe.capacity<64>, c1 = #moe.capacity<tokens * 1.25 / experts, round = floor, min = 4>,
  c2 = #moe.capacity<tokens / experts * 1.25 * k, min = 4, round = ceil>,
  c3 = #moe.capacity<tokens * k * 1.05 / experts, round = nearest, multiple = 4>,
  c4 = #moe.capacity<tokens / experts, round = ceil, times = 2, min = 0, multiple = 1>,
  c5 = #moe.capacity<0.10 * tokens / 0.30000000000000004>,
  c6 = #moe.capacity<k * 0.0000000001 / tokens>
}

// CHECK-LABEL: func private @attributes
// CHECK-SAME:    a0 = #moe.select_mode<topp>, a1 = #moe.select_mode<threshold>, a2 = #moe.select_mode<expert_topk>
// CHECK-SAME:    b0 = #moe.group_score<max>, b1 = #moe.group_score<top2sum>
// CHECK-SAME:    c0 = #moe.group_fill<zero>, c1 = #moe.group_fill<neg_inf>
// CHECK-SAME:    d0 = #moe.tie_break<lower>, d1 = #moe.tie_break<higher>
// CHECK-SAME:    e0 = #moe.weigh_norm<clamp>, e1 = #moe.weigh_norm<pnorm>, e2 = #moe.weigh_norm<count>
// CHECK-SAME:    f0 = #moe.capacity_order<choice>, f1 = #moe.capacity_order<bpr>, f2 = #moe.capacity_order<per_expert>, f3 = #moe.capacity_order<token>
// CHECK-SAME:    g0 = #moe.blend_mode<joint>, g1 = #moe.blend_mode<softmax_mass>
// CHECK-SAME:    h0 = #moe.remap_policy<round_robin>, h1 = #moe.remap_policy<least_loaded>
// CHECK-SAME:    i0 = #moe.score_fn<logsigmoid>
func.func private @attributes() attributes {
  a0 = #moe.select_mode<topp>, a1 = #moe.select_mode<threshold>, a2 = #moe.select_mode<expert_topk>,
  b0 = #moe.group_score<max>, b1 = #moe.group_score<top2sum>,
  c0 = #moe.group_fill<zero>, c1 = #moe.group_fill<neg_inf>,
  d0 = #moe.tie_break<lower>, d1 = #moe.tie_break<higher>,
  e0 = #moe.weigh_norm<clamp>, e1 = #moe.weigh_norm<pnorm>, e2 = #moe.weigh_norm<count>,
  f0 = #moe.capacity_order<choice>, f1 = #moe.capacity_order<bpr>, f2 = #moe.capacity_order<per_expert>, f3 = #moe.capacity_order<token>,
  g0 = #moe.blend_mode<joint>, g1 = #moe.blend_mode<softmax_mass>,
  h0 = #moe.remap_policy<round_robin>, h1 = #moe.remap_policy<least_loaded>,
  i0 = #moe.score_fn<logsigmoid>
}

// CHECK-LABEL: func @logits
func.func @logits(%x: !x, %w: tensor<8x16xf32>, %b: tensor<8xf32>, %noise: !l, %n: index) {
  // CHECK-NEXT: %[[L:.*]] = moe.logits %{{.*}}, %{{.*}} bias(%{{.*}}) noise(%{{.*}}) {softcap = 3.000000e+01 : f64}
  %l = moe.logits %x, %w bias(%b) noise(%noise) {softcap = 30.0 : f64} : (!x, tensor<8x16xf32>, tensor<8xf32>, !l) -> !l
  // CHECK-NEXT: moe.logits %{{.*}}, %{{.*}} noise(%{{.*}}) :
  %l2 = moe.logits %x, %w noise(%noise) : (!x, tensor<8x16xf32>, !l) -> !l
  // CHECK-NEXT: moe.score <logsigmoid> %[[L]] : tensor<?x8xf32> -> tensor<?x8xf32>
  %s = moe.score <logsigmoid> %l : !l -> !l
  // CHECK-NEXT: moe.score <softmax> %[[L]] group_size(%{{.*}}) {axis = #moe.axis<tokens>} : tensor<?x8xf32> -> tensor<?x8xf32>
  %g = moe.score <softmax> %l group_size(%n) {axis = #moe.axis<tokens>} : !l -> !l
  return
}

// CHECK-LABEL: func @select
func.func @select(%s: !l, %b: tensor<8xf32>, %tokens: tensor<?xi1>, %experts: tensor<8xi1>, %both: tensor<?x8xi1>,
                  %n: index, %ids: tensor<?x2xi32>, %ids64: tensor<?x2xi64>) {
  // CHECK-NEXT: moe.select %{{.*}} token_mask(%{{.*}}) expert_mask(%{{.*}}) {k = 8 : i64, mode = #moe.select_mode<all>}
  %0 = moe.select %s token_mask(%tokens) expert_mask(%both) {k = 8 : i64, mode = #moe.select_mode<all>} : (!l, tensor<?xi1>, tensor<?x8xi1>) -> !all
  // CHECK-NEXT: moe.select %{{.*}} bias(%{{.*}}) expert_mask(%{{.*}}) {group_fill = #moe.group_fill<zero>, group_score = #moe.group_score<top2sum>, k = 2 : i64, n_group = 4 : i64, tie_break = #moe.tie_break<higher>, topk_group = 2 : i64}
  %1 = moe.select %s bias(%b) expert_mask(%experts) {k = 2 : i64, n_group = 4 : i64, topk_group = 2 : i64, group_score = #moe.group_score<top2sum>,
      group_fill = #moe.group_fill<zero>, tie_break = #moe.tie_break<higher>} : (!l, tensor<8xf32>, tensor<8xi1>) -> !two
  // CHECK-NEXT: moe.select %{{.*}} {k = 2 : i64, mode = #moe.select_mode<topp>, p = 7.500000e-01 : f64}
  %2 = moe.select %s {k = 2 : i64, mode = #moe.select_mode<topp>, p = 0.75 : f64} : (!l) -> !two
  // CHECK-NEXT: moe.select %{{.*}} {k = 2 : i64, mode = #moe.select_mode<threshold>, tau = 0.000000e+00 : f64}
  %3 = moe.select %s {k = 2 : i64, mode = #moe.select_mode<threshold>, tau = 0.0 : f64} : (!l) -> !two
  // CHECK-NEXT: moe.select %{{.*}} group_size(%{{.*}}) {capacity = #moe.capacity<tokens * 2 / experts>, k = 8 : i64, mode = #moe.select_mode<expert_topk>}
  %4 = moe.select %s group_size(%n) {k = 8 : i64, mode = #moe.select_mode<expert_topk>, capacity = #moe.capacity<tokens * 2 / experts>} : (!l, index) -> !all
  // CHECK-NEXT: moe.given %{{.*}} : (tensor<?x2xi32>) -> !moe.routing<experts = 8, k = 2>
  %5 = moe.given %ids : (tensor<?x2xi32>) -> !two
  // CHECK-NEXT: moe.given %{{.*}} : (tensor<?x2xi64>) -> !moe.routing<experts = 8, k = 2>
  %6 = moe.given %ids64 : (tensor<?x2xi64>) -> !two
  return
}

// CHECK-LABEL: func @entries
func.func @entries(%r: !two, %w: !weighted, %n: index) {
  // CHECK-NEXT: moe.entries %{{.*}} tokens(%{{.*}}) : (!moe.routing<experts = 8, k = 2>, index) -> tensor<?x2xi32>
  %0 = moe.entries %r tokens(%n) : (!two, index) -> tensor<?x2xi32>
  // CHECK-NEXT: moe.entries %{{.*}} tokens(%{{.*}}) : (!moe.routing<experts = 8, k = 2, weighted>, index) -> (tensor<?x2xi32>, tensor<?x2xf32>)
  %1:2 = moe.entries %w tokens(%n) : (!weighted, index) -> (tensor<?x2xi32>, tensor<?x2xf32>)
  return
}

// CHECK-LABEL: func @weigh
func.func @weigh(%r: !two, %w: !weighted, %s: !l, %b: tensor<8xf32>, %u: tensor<?xf32>, %n: index) {
  // CHECK-NEXT: moe.weigh %{{.*}}, %{{.*}} bias(%{{.*}}) expert_scale(%{{.*}}) : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>, tensor<8xf32>, tensor<8xf32>)
  %0 = moe.weigh %r, %s bias(%b) expert_scale(%b) : (!two, !l, tensor<8xf32>, tensor<8xf32>) -> !weighted
  // CHECK-NEXT: moe.weigh %{{.*}} expert_scale(%{{.*}}) {norm = #moe.weigh_norm<clamp>, norm_eps = 2.500000e-01 : f64}
  %1 = moe.weigh %w expert_scale(%b) {norm = #moe.weigh_norm<clamp>, norm_eps = 0.25 : f64} : (!weighted, tensor<8xf32>) -> !weighted
  // CHECK-NEXT: moe.weigh %{{.*}} {norm = #moe.weigh_norm<pnorm>, norm_p = 2.000000e+00 : f64} : (!moe.routing<experts = 8, k = 2, weighted>)
  %2 = moe.weigh %w {norm = #moe.weigh_norm<pnorm>, norm_p = 2.0 : f64} : (!weighted) -> !weighted
  // CHECK-NEXT: moe.weigh %{{.*}}, %{{.*}} {eps = 1.000000e-02 : f64, fn = #moe.weigh_fn<masked_softmax>, norm = #moe.weigh_norm<count>}
  %3 = moe.weigh %r, %s {fn = #moe.weigh_fn<masked_softmax>, eps = 0.01 : f64, norm = #moe.weigh_norm<count>} : (!two, !l) -> !weighted
  // CHECK-NEXT: moe.filter %{{.*}} {threshold = 0x7FF0000000000000 : f64}
  %4 = moe.filter %w {threshold = 0x7FF0000000000000 : f64} : (!weighted) -> !weighted
  // CHECK-NEXT: moe.filter %{{.*}} random(%{{.*}}) {from_slot = 0 : i64, threshold = 2.000000e-01 : f64}
  %5 = moe.filter %w random(%u) {from_slot = 0 : i64, threshold = 0.2 : f64} : (!weighted, tensor<?xf32>) -> !weighted
  // CHECK-NEXT: moe.capacity %{{.*}} {capacity = #moe.capacity<64>} : (!moe.routing<experts = 8, k = 2>) -> !moe.routing<experts = 8, k = 2>
  %6 = moe.capacity %r {capacity = #moe.capacity<64>} : (!two) -> !two
  // CHECK-NEXT: moe.capacity %{{.*}} priority(%{{.*}}) group_size(%{{.*}}) {capacity = #moe.capacity<tokens / 8>, keep = 1 : i64, order = #moe.capacity_order<bpr>}
  %7 = moe.capacity %w priority(%s) group_size(%n) {capacity = #moe.capacity<tokens / 8>, keep = 1 : i64, order = #moe.capacity_order<bpr>}
      : (!weighted, !l, index) -> !moe.routing<experts = 8, k = 1, weighted>
  return
}

// CHECK-LABEL: func @others
func.func @others(%outer: !moe.routing<experts = 2, k = 2, weighted>, %r: !two, %w: !weighted, %s: !l, %shared: tensor<?x3xf32>,
                  %map: tensor<8x2xi32>, %x: !x, %nodes: tensor<3x5x16xf32>, %leaves: tensor<3x6x16xf32>, %nb: tensor<3x5xf32>,
                  %lb: tensor<3x6xf32>, %p: tensor<1x6xi64>) {
  // CHECK-NEXT: moe.compose %{{.*}}, %{{.*}}, %{{.*}} : (!moe.routing<experts = 2, k = 2, weighted>, !moe.routing<experts = 8, k = 2, weighted>, !moe.routing<experts = 8, k = 2, weighted>) -> !moe.routing<experts = 16, k = 4, weighted>
  %0 = moe.compose %outer, %w, %w : (!moe.routing<experts = 2, k = 2, weighted>, !weighted, !weighted) -> !moe.routing<experts = 16, k = 4, weighted>
  // CHECK-NEXT: moe.blend <joint> %{{.*}}, %{{.*}}, %{{.*}} : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>, tensor<?x3xf32>) -> (!moe.routing<experts = 8, k = 2, weighted>, tensor<?x3xf32>)
  %1:2 = moe.blend <joint> %r, %s, %shared : (!two, !l, tensor<?x3xf32>) -> (!weighted, tensor<?x3xf32>)
  // CHECK-NEXT: moe.blend <softmax_mass> %{{.*}}, %{{.*}}, %{{.*}} :
  %2:2 = moe.blend <softmax_mass> %w, %s, %shared : (!weighted, !l, tensor<?x3xf32>) -> (!weighted, tensor<?x3xf32>)
  // CHECK-NEXT: moe.remap %{{.*}}, %{{.*}} : (!moe.routing<experts = 8, k = 2, weighted>, tensor<8x2xi32>) -> !moe.routing<experts = 12, k = 2, weighted>
  %3 = moe.remap %w, %map : (!weighted, tensor<8x2xi32>) -> !moe.routing<experts = 12, k = 2, weighted>
  // CHECK-NEXT: moe.remap %{{.*}}, %{{.*}} {policy = #moe.remap_policy<least_loaded>}
  %4 = moe.remap %r, %map {policy = #moe.remap_policy<least_loaded>} : (!two, tensor<8x2xi32>) -> !moe.routing<experts = 1, k = 1>
  // CHECK-NEXT: moe.tree_select %{{.*}} nodes(%{{.*}}) leaves(%{{.*}}) {gamma = 1.000000e+00 : f64}
  %5 = moe.tree_select %x nodes(%nodes) leaves(%leaves) {gamma = 1.0 : f64}
      : (!x, tensor<3x5x16xf32>, tensor<3x6x16xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  // CHECK-NEXT: moe.tree_select %{{.*}} nodes(%{{.*}}) leaves(%{{.*}}) node_bias(%{{.*}}) leaf_bias(%{{.*}}) permutation(%{{.*}}) {gamma = 1.000000e+00 : f64, log_eps = 2.500000e-01 : f64, p_min = 1.250000e-01 : f64}
  // CHECK-SAME: -> (!moe.routing<experts = 6, k = 6, weighted>, tensor<?xi64>)
  %6:2 = moe.tree_select %x nodes(%nodes) leaves(%leaves) node_bias(%nb) leaf_bias(%lb) permutation(%p) {gamma = 1.0 : f64, log_eps = 0.25 : f64, p_min = 0.125 : f64}
      : (!x, tensor<3x5x16xf32>, tensor<3x6x16xf32>, tensor<3x5xf32>, tensor<3x6xf32>, tensor<1x6xi64>) -> (!moe.routing<experts = 6, k = 6, weighted>, tensor<?xi64>)
  return
}

// CHECK-LABEL: func @gating
func.func @gating(%l: !l, %b: tensor<8xf32>, %tokens: tensor<?xi1>, %experts: tensor<8xi1>) {
  // CHECK-NEXT: moe.gating %{{[^)]*}} bias(%{{[^)]*}}) token_mask(%{{[^)]*}}) expert_mask(%{{[^)]*}}) source_bias(%{{[^)]*}}) expert_scale(%{{[^)]*}})
  // CHECK-SAME: {capacity = #moe.capacity<tokens / experts>, eps = 1.000000e-02 : f64, fn = #moe.weigh_fn<masked_softmax>, group_fill = #moe.group_fill<zero>, group_score = #moe.group_score<top2sum>, k = 2 : i64, mode = #moe.select_mode<topp>, n_group = 4 : i64, norm = #moe.weigh_norm<pnorm>, norm_p = 1.000000e+00 : f64, order = #moe.capacity_order<token>, p = 5.000000e-01 : f64, score = #moe.score_fn<softmax>, tie_break = #moe.tie_break<higher>, topk_group = 2 : i64, weigh_source = #moe.weigh_source<logit>}
  %0 = moe.gating %l bias(%b) token_mask(%tokens) expert_mask(%experts) source_bias(%b) expert_scale(%b)
      {score = #moe.score_fn<softmax>, mode = #moe.select_mode<topp>, p = 0.5 : f64, k = 2 : i64, n_group = 4 : i64, topk_group = 2 : i64,
       group_score = #moe.group_score<top2sum>, group_fill = #moe.group_fill<zero>, tie_break = #moe.tie_break<higher>,
       weigh_source = #moe.weigh_source<logit>, fn = #moe.weigh_fn<masked_softmax>, eps = 0.01 : f64, norm = #moe.weigh_norm<pnorm>,
       norm_p = 1.0 : f64, capacity = #moe.capacity<tokens / experts>, order = #moe.capacity_order<token>}
      : (!l, tensor<8xf32>, tensor<?xi1>, tensor<8xi1>, tensor<8xf32>, tensor<8xf32>) -> !weighted
  // CHECK-NEXT: moe.gating %{{.*}} {fn = #moe.weigh_fn<none>, k = 2 : i64, mode = #moe.select_mode<threshold>, score = #moe.score_fn<sigmoid>, tau = 5.000000e-01 : f64, weigh_source = #moe.weigh_source<score>}
  %1 = moe.gating %l {score = #moe.score_fn<sigmoid>, mode = #moe.select_mode<threshold>, tau = 0.5 : f64, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>}
      : (!l) -> !weighted
  return
}

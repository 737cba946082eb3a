// The routing ops: one negative case per numbered constraint.
// RUN: moe-opt %s --verify-diagnostics --split-input-file

// #moe.capacity.

// expected-error@+1 {{the numbers of a capacity are positive}}
func.func private @f() attributes {a = #moe.capacity<tokens * 0>}

// -----

// expected-error@+1 {{min = -1 is not between 0 and 2147483647}}
func.func private @f() attributes {a = #moe.capacity<tokens, min = -1>}

// -----

// expected-error@+1 {{multiple and times are between 1 and 2147483647, got 0}}
func.func private @f() attributes {a = #moe.capacity<tokens, multiple = 0>}

// -----

// expected-error@+1 {{multiple and times are between 1 and 2147483647, got 0}}
func.func private @f() attributes {a = #moe.capacity<tokens, times = 0>}

// -----

// expected-error@+1 {{expected round, min, multiple or times}}
func.func private @f() attributes {a = #moe.capacity<tokens, scope = 1>}

// -----

// expected-error@+1 {{expected floating point literal}}
func.func private @f() attributes {a = #moe.capacity<rows / 2>}

// -----

// expected-error@+1 {{a kind stands for 1 to 2147483647 experts, got 0}}
func.func private @f() attributes {a = #moe.kind<zero, 0>}

// -----

// expected-error@+1 {{clamp = post needs a limit}}
func.func private @f() attributes {a = #moe.activation<silu, glu = concat, clamp = post>}

// -----

// moe.logits, moe.score.

!l = tensor<?x8xf32>

func.func @f(%x: tensor<?x16xf32>, %w: tensor<8x16xf32>, %n: tensor<?x7xf32>, %m: tensor<3x8xf32>, %x4: tensor<4x16xf32>) {
  // expected-error@+1 {{C4: E of the noise: found 7, expected 8}}
  %0 = moe.logits %x, %w noise(%n) : (tensor<?x16xf32>, tensor<8x16xf32>, tensor<?x7xf32>) -> !l
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %w: tensor<8x16xf32>, %n: tensor<?x7xf32>, %m: tensor<3x8xf32>, %x4: tensor<4x16xf32>) {
  // expected-error@+1 {{C4: T of the noise: found 3, expected 4}}
  %0 = moe.logits %x4, %w noise(%m) : (tensor<4x16xf32>, tensor<8x16xf32>, tensor<3x8xf32>) -> tensor<4x8xf32>
  return
}

// -----

!l = tensor<?x8xf32>

func.func @f(%x: tensor<?x16xf32>, %w: tensor<8x16xf32>, %n: tensor<?x7xf32>, %m: tensor<3x8xf32>, %x4: tensor<4x16xf32>) {
  // expected-error@+1 {{C5: the softcap is not positive}}
  %0 = moe.logits %x, %w {softcap = 0.0 : f64} : (tensor<?x16xf32>, tensor<8x16xf32>) -> !l
  return
}

// -----

!l = tensor<?x8xf32>

func.func @f(%l: !l, %n: index) {
  // expected-error@+1 {{C2: a group size needs a softmax over the tokens}}
  %0 = moe.score <softmax> %l group_size(%n) : !l -> !l
  return
}

// -----

!l = tensor<?x8xf32>

func.func @f(%l: !l, %n: index) {
  // expected-error@+1 {{C2: a group size needs a softmax over the tokens}}
  %0 = moe.score <sigmoid> %l group_size(%n) {axis = #moe.axis<tokens>} : !l -> !l
  return
}

// -----

// moe.select.

!l = tensor<?x8xf32>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C12: capacity and mode = expert_topk go together}}
  %0 = moe.select %s {k = 8 : i64, mode = #moe.select_mode<expert_topk>} : (!l) -> !moe.routing<experts = 8, k = 8>
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C4: k of a selection of all experts: found 2, expected 8}}
  %0 = moe.select %s {k = 2 : i64, mode = #moe.select_mode<expert_topk>, capacity = #moe.capacity<4>} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C5: T of token_mask: found 3, expected 4}}
  %0 = moe.select %s4 token_mask(%t) {k = 2 : i64} : (tensor<4x8xf32>, tensor<3xi1>) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C6: E of expert_mask: found 7, expected 8}}
  %0 = moe.select %s expert_mask(%m7) {k = 2 : i64} : (!l, tensor<7xi1>) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C6: T of expert_mask: found 3, expected 4}}
  %0 = moe.select %s4 expert_mask(%m3) {k = 2 : i64} : (tensor<4x8xf32>, tensor<3x8xi1>) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C7: n_group = 3 does not divide E = 8}}
  %0 = moe.select %s {k = 2 : i64, n_group = 3 : i64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C7: n_group = 0 does not divide E = 8}}
  %0 = moe.select %s {k = 2 : i64, n_group = 0 : i64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C7: topk_group = 5 is not between 1 and n_group = 4}}
  %0 = moe.select %s {k = 2 : i64, n_group = 4 : i64, topk_group = 5 : i64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C7: topk_group = 0 is not between 1 and n_group = 4}}
  %0 = moe.select %s {k = 2 : i64, n_group = 4 : i64, topk_group = 0 : i64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C8: groups need topk, topp or threshold}}
  %0 = moe.select %s {k = 8 : i64, mode = #moe.select_mode<all>, n_group = 4 : i64} : (!l) -> !moe.routing<experts = 8, k = 8>
  return
}

// -----

!l = tensor<?x8xf32>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C9: k = 3 exceeds the 2 experts of the groups that stay}}
  %0 = moe.select %s {k = 3 : i64, n_group = 4 : i64, topk_group = 1 : i64} : (!l) -> !moe.routing<experts = 8, k = 3>
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C10: a positive p and mode = topp go together}}
  %0 = moe.select %s {k = 2 : i64, mode = #moe.select_mode<topp>} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C10: a positive p and mode = topp go together}}
  %0 = moe.select %s {k = 2 : i64, mode = #moe.select_mode<topp>, p = 0.0 : f64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C10: a positive p and mode = topp go together}}
  %0 = moe.select %s {k = 2 : i64, p = 0.5 : f64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C10: p and mode = topp go together}}
  %0 = moe.select %s {k = 2 : i64, p = -0.5 : f64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C11: a tau that is a number and mode = threshold go together}}
  %0 = moe.select %s {k = 2 : i64, mode = #moe.select_mode<threshold>} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C11: a tau that is a number and mode = threshold go together}}
  %0 = moe.select %s {k = 2 : i64, mode = #moe.select_mode<threshold>, tau = 0x7FF8000000000000 : f64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C11: a tau that is a number and mode = threshold go together}}
  %0 = moe.select %s {k = 2 : i64, tau = 0.5 : f64} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C12: capacity and mode = expert_topk go together}}
  %0 = moe.select %s {k = 2 : i64, capacity = #moe.capacity<4>} : (!l) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C12: a group size needs mode = expert_topk}}
  %0 = moe.select %s group_size(%n) {k = 2 : i64} : (!l, index) -> !two
  return
}

// -----

!l = tensor<?x8xf32>

func.func @f(%s: !l, %t: tensor<3xi1>, %s4: tensor<4x8xf32>, %m7: tensor<7xi1>, %m3: tensor<3x8xi1>, %n: index) {
  // expected-error@+1 {{C13: tie_break = higher needs topk, topp or threshold}}
  %0 = moe.select %s {k = 8 : i64, mode = #moe.select_mode<all>, tie_break = #moe.tie_break<higher>} : (!l) -> !moe.routing<experts = 8, k = 8>
  return
}

// -----

// moe.given.

!two = !moe.routing<experts = 8, k = 2>

func.func @f(%i: tensor<?x3xi32>) {
  // expected-error@+1 {{C1: k of ids: found 3, expected 2}}
  %0 = moe.given %i : (tensor<?x3xi32>) -> !two
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%i: tensor<?x2xi32>) {
  // expected-error@+1 {{C2: the routing is weighted}}
  %0 = moe.given %i : (tensor<?x2xi32>) -> !weighted
  return
}

// -----

// moe.entries.

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !weighted, %n: index) {
  // expected-error@+1 {{C1: k of ids: found 3, expected 2}}
  %0:2 = moe.entries %r tokens(%n) : (!weighted, index) -> (tensor<?x3xi32>, tensor<?x2xf32>)
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !weighted, %n: index) {
  // expected-error@+1 {{C1: k of weights: found 3, expected 2}}
  %0:2 = moe.entries %r tokens(%n) : (!weighted, index) -> (tensor<?x2xi32>, tensor<?x3xf32>)
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !weighted, %n: index) {
  // expected-error@+1 {{C2: the routing is weighted}}
  %0 = moe.entries %r tokens(%n) : (!weighted, index) -> tensor<?x2xi32>
  return
}

// -----

// moe.weigh.

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error-re@+1 {{C2: weighs {{.*}} without a source}}
  %0 = moe.weigh %r : (!two) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error-re@+1 {{C2: weighs {{.*}} with a source}}
  %0 = moe.weigh %w, %s : (!weighted, !l) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C4: fn and bias need a source}}
  %0 = moe.weigh %w {fn = #moe.weigh_fn<softmax>} : (!weighted) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C4: fn and bias need a source}}
  %0 = moe.weigh %w bias(%g) : (!weighted, tensor<8xf32>) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C5: E of the bias: found 7, expected 8}}
  %0 = moe.weigh %r, %s bias(%b) : (!two, !l, tensor<7xf32>) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C5: E of expert_scale: found 7, expected 8}}
  %0 = moe.weigh %w expert_scale(%b) : (!weighted, tensor<7xf32>) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C6: clamp needs norm_eps > 0}}
  %0 = moe.weigh %w {norm = #moe.weigh_norm<clamp>} : (!weighted) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C7: a positive norm_p and norm = pnorm go together}}
  %0 = moe.weigh %w {norm = #moe.weigh_norm<pnorm>} : (!weighted) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C7: a positive norm_p and norm = pnorm go together}}
  %0 = moe.weigh %w {norm = #moe.weigh_norm<pnorm>, norm_p = 0.0 : f64} : (!weighted) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C7: a positive norm_p and norm = pnorm go together}}
  %0 = moe.weigh %w {norm_p = 1.0 : f64} : (!weighted) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: !l, %b: tensor<7xf32>, %g: tensor<8xf32>) {
  // expected-error@+1 {{C7: norm_p and norm = pnorm go together}}
  %0 = moe.weigh %w {norm_p = -1.0 : f64} : (!weighted) -> !weighted
  return
}

// -----

// moe.filter, moe.capacity.

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C1: filters}}
  %0 = moe.filter %r {threshold = 0.5 : f64} : (!two) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C1: filters}}
  %0 = moe.filter %w {threshold = 0.5 : f64} : (!weighted) -> !moe.routing<experts = 8, k = 1, weighted>
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C2: from_slot = -1 is negative}}
  %0 = moe.filter %w {threshold = 0.5 : f64, from_slot = -1 : i64} : (!weighted) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C3: the threshold is not a number}}
  %0 = moe.filter %w {threshold = 0x7FF8000000000000 : f64} : (!weighted) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C1: limits}}
  %0 = moe.capacity %w {capacity = #moe.capacity<4>} : (!weighted) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error-re@+1 {{C1: limits {{.*}} with keep = 1}}
  %0 = moe.capacity %w {capacity = #moe.capacity<4>, keep = 1 : i64} : (!weighted) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C2: columns of the priority: found 7, expected 8}}
  %0 = moe.capacity %w priority(%s) {capacity = #moe.capacity<4>, order = #moe.capacity_order<bpr>} : (!weighted, tensor<?x7xf32>) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C3: order = per_expert needs a priority or a weighted routing}}
  %0 = moe.capacity %r {capacity = #moe.capacity<4>, order = #moe.capacity_order<per_expert>} : (!two) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C3: order = bpr needs a priority or a weighted routing}}
  %0 = moe.capacity %r {capacity = #moe.capacity<4>, order = #moe.capacity_order<bpr>} : (!two) -> !two
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C3: order = choice has no priority}}
  %0 = moe.capacity %w priority(%p) {capacity = #moe.capacity<4>} : (!weighted, !l) -> !weighted
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C4: keep = 3 exceeds k = 2}}
  %0 = moe.capacity %w {capacity = #moe.capacity<4>, keep = 3 : i64} : (!weighted) -> !moe.routing<experts = 8, k = 3, weighted>
  return
}

// -----

!l = tensor<?x8xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<?x7xf32>, %p: !l) {
  // expected-error@+1 {{C4: keep < k needs entries that ask in one order}}
  %0 = moe.capacity %w {capacity = #moe.capacity<4>, keep = 1 : i64, order = #moe.capacity_order<per_expert>} : (!weighted) -> !moe.routing<experts = 8, k = 1, weighted>
  return
}

// -----

// moe.compose.

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%o: !moe.routing<experts = 2, k = 1>, %r: !two, %w: !weighted) {
  // expected-error@+1 {{C1: number of inner routings: found 1, expected 2}}
  %0 = moe.compose %o, %r : (!moe.routing<experts = 2, k = 1>, !two) -> !two
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%o: !moe.routing<experts = 2, k = 1>, %r: !two, %w: !weighted) {
  // expected-error@+1 {{C2: E of the result: found 8, expected 16}}
  %0 = moe.compose %o, %r, %r : (!moe.routing<experts = 2, k = 1>, !two, !two) -> !two
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%o: !moe.routing<experts = 2, k = 1>, %r: !two, %w: !weighted) {
  // expected-error@+1 {{C2: k of the result: found 4, expected 2}}
  %0 = moe.compose %o, %r, %r : (!moe.routing<experts = 2, k = 1>, !two, !two) -> !moe.routing<experts = 16, k = 4>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%o: !moe.routing<experts = 2, k = 1>, %r: !two, %w: !weighted) {
  // expected-error@+1 {{C3: some routings are weighted and others are not}}
  %0 = moe.compose %o, %r, %w : (!moe.routing<experts = 2, k = 1>, !two, !weighted) -> !moe.routing<experts = 16, k = 2>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%o: !moe.routing<experts = 2, k = 1>, %r: !two, %w: !weighted) {
  // expected-error@+1 {{C3: composes}}
  %0 = moe.compose %o, %r, %r : (!moe.routing<experts = 2, k = 1>, !two, !two) -> !moe.routing<experts = 16, k = 2, weighted>
  return
}

// -----

// moe.tree_select.

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C1: H of the nodes: found 15, expected 16}}
  %0 = moe.tree_select %x nodes(%nh) leaves(%l)  {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x15xf32>, tensor<3x6x16xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C1: H of the leaves: found 15, expected 16}}
  %0 = moe.tree_select %x nodes(%n) leaves(%lh)  {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x15xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C2: R of the leaves: found 2, expected 3}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l2)  {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<2x6x16xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C2: R of a bias: found 2, expected 3}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l) node_bias(%b) {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>, tensor<2x5xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C3: number of leaves: found 7, expected 6}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l7)  {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x7x16xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C3: number of nodes: found 4, expected 5}}
  %0 = moe.tree_select %x nodes(%n4) leaves(%l)  {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x4x16xf32>, tensor<3x6x16xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C3: width of a bias: found 7, expected 6}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l) leaf_bias(%b7) {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>, tensor<3x7xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C3: a tree needs two leaves, got 1}}
  %0 = moe.tree_select %x nodes(%n0) leaves(%l1)  {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x0x16xf32>, tensor<3x1x16xf32>) -> !moe.routing<experts = 1, k = 1, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C4: the permutation is}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l) permutation(%p) {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>, tensor<2x6xi32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C4: the permutation is}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l) permutation(%p7) {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>, tensor<1x7xi32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C5: the routing is}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l)  {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>) -> !moe.routing<experts = 6, k = 2, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C5: the routing is}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l)  {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>) -> !moe.routing<experts = 6, k = 6>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C6: needs gamma > 0}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l)  {gamma = 0.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C6: needs gamma > 0}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l)  {gamma = 1.0 : f64, log_eps = -1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C6: needs gamma > 0}}
  %0 = moe.tree_select %x nodes(%n) leaves(%l)  {gamma = 1.0 : f64, p_min = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>) -> !moe.routing<experts = 6, k = 6, weighted>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %n: tensor<3x5x16xf32>, %l: tensor<3x6x16xf32>, %nh: tensor<3x5x15xf32>, %lh: tensor<3x6x15xf32>, %l2: tensor<2x6x16xf32>, %l7: tensor<3x7x16xf32>, %n4: tensor<3x4x16xf32>, %b: tensor<2x5xf32>, %b7: tensor<3x7xf32>, %p: tensor<2x6xi32>, %p7: tensor<1x7xi32>, %n0: tensor<3x0x16xf32>, %l1: tensor<3x1x16xf32>) {
  // expected-error@+1 {{C7: T of visited: found 3, expected 4}}
  %0:2 = moe.tree_select %x nodes(%n) leaves(%l) {gamma = 1.0 : f64} : (tensor<4x16xf32>, tensor<3x5x16xf32>, tensor<3x6x16xf32>) -> (!moe.routing<experts = 6, k = 6, weighted>, tensor<3xi64>)
  return
}

// -----

// moe.blend, moe.remap.

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error@+1 {{C1: columns of the source: found 7, expected 8}}
  %0:2 = moe.blend <joint> %r, %s7, %h : (!two, tensor<4x7xf32>, tensor<4x3xf32>) -> (!weighted, tensor<4x3xf32>)
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error-re@+1 {{C2: blends {{.*}} by joint}}
  %0:2 = moe.blend <joint> %w, %s, %h : (!weighted, tensor<4x8xf32>, tensor<4x3xf32>) -> (!weighted, tensor<4x3xf32>)
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error-re@+1 {{C2: blends {{.*}} by softmax_mass}}
  %0:2 = moe.blend <softmax_mass> %r, %s, %h : (!two, tensor<4x8xf32>, tensor<4x3xf32>) -> (!weighted, tensor<4x3xf32>)
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error@+1 {{C2: blends}}
  %0:2 = moe.blend <joint> %r, %s, %h : (!two, tensor<4x8xf32>, tensor<4x3xf32>) -> (!two, tensor<4x3xf32>)
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error@+1 {{C3: S of the shared weights: found 2, expected 3}}
  %0:2 = moe.blend <joint> %r, %s, %h : (!two, tensor<4x8xf32>, tensor<4x3xf32>) -> (!weighted, tensor<4x2xf32>)
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error@+1 {{C3: T of the shared weights: found 5, expected 4}}
  %0:2 = moe.blend <joint> %r, %s, %h : (!two, tensor<4x8xf32>, tensor<4x3xf32>) -> (!weighted, tensor<5x3xf32>)
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error@+1 {{C3: T of the source: found 4, expected 5}}
  %0:2 = moe.blend <joint> %r, %s, %h5 : (!two, tensor<4x8xf32>, tensor<5x3xf32>) -> (!weighted, tensor<5x3xf32>)
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error@+1 {{C1: rows of the map: found 7, expected 8}}
  %0 = moe.remap %r, %m : (!two, tensor<7x2xi32>) -> !two
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error@+1 {{C2: maps}}
  %0 = moe.remap %r, %m8 : (!two, tensor<8x2xi32>) -> !weighted
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%r: !two, %w: !weighted, %s: tensor<4x8xf32>, %s7: tensor<4x7xf32>, %h: tensor<4x3xf32>, %h5: tensor<5x3xf32>, %m: tensor<7x2xi32>, %m8: tensor<8x2xi32>) {
  // expected-error@+1 {{C2: maps}}
  %0 = moe.remap %r, %m8 : (!two, tensor<8x2xi32>) -> !moe.routing<experts = 8, k = 1>
  return
}

// -----

// moe.gating.

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C4: T of token_mask}}
  %0 = moe.gating %l token_mask(%t) {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>} : (tensor<4x8xf32>, tensor<3xi1>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C4: E of expert_mask}}
  %0 = moe.gating %l expert_mask(%m) {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>} : (tensor<4x8xf32>, tensor<7xi1>) -> !weighted
  return
}

// -----

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C5: expert_topk is not a selection token by token}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 8 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, mode = #moe.select_mode<expert_topk>} : (tensor<4x8xf32>) -> !moe.routing<experts = 8, k = 8, weighted>
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C5: k of a selection of all experts: found 2, expected 8}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, mode = #moe.select_mode<all>} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C5: n_group = 3 does not divide E = 8}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, n_group = 3 : i64} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C5: a positive p and mode = topp go together}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, p = 0.5 : f64} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C5: a tau that is a number and mode = threshold go together}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, tau = 0.5 : f64} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C6: masked_softmax needs eps > 0}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<masked_softmax>} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C6: clamp needs norm_eps > 0}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, norm = #moe.weigh_norm<clamp>} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C6: a positive norm_p and norm = pnorm go together}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, norm = #moe.weigh_norm<pnorm>} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C7: E of source_bias}}
  %0 = moe.gating %l source_bias(%b) {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>} : (tensor<4x8xf32>, tensor<7xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C7: E of expert_scale}}
  %0 = moe.gating %l expert_scale(%b) {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>} : (tensor<4x8xf32>, tensor<7xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C8: capacity and order go together}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, capacity = #moe.capacity<4>} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C8: capacity and order go together}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, order = #moe.capacity_order<token>} : (tensor<4x8xf32>) -> !weighted
  return
}

// -----

!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%l: tensor<4x8xf32>, %t: tensor<3xi1>, %m: tensor<7xi1>, %b: tensor<7xf32>) {
  // expected-error@+1 {{C8: the order is choice or token}}
  %0 = moe.gating %l  {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>, capacity = #moe.capacity<4>, order = #moe.capacity_order<bpr>} : (tensor<4x8xf32>) -> !weighted
  return
}

// The expert ops and the auxiliary outputs: one negative case per numbered constraint.
// RUN: moe-opt %s --verify-diagnostics --split-input-file

// moe.weight.

// expected-error@+1 {{C4: #moe.tensor<"gate"> needs a type}}
moe.weight @w from [#moe.tensor<"gate">, #moe.tensor<"up">] : tensor<4x24x16xf32>

// -----

// expected-error@+1 {{C4: #moe.tensor<"up"> needs a type}}
moe.weight @w from [#moe.tensor<"up">] through [#moe.permute<[0, 2, 1]>] : tensor<4x24x16xf32>

// -----

// expected-error@+1 {{C2: the transforms lead to 'tensor<8x15xf32>', not to 'tensor<8x16xf32>'}}
moe.weight @w from [#moe.tensor<"up", tensor<8x15xf32>>] : tensor<8x16xf32>

// -----

// moe.expert_ffn, moe.experts.

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C7: number of experts of all kinds: found 6, expected 8}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down)  <relu> {kinds = [#moe.kind<ffn, 4>, #moe.kind<zero, 2>]} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C7: number of experts of all kinds: found 0, expected 8}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down)  <relu> {kinds = []} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C7: no expert is a feed-forward network}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down)  <relu> {kinds = [#moe.kind<zero, 8>]} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C3: E of up: found 4, expected 5}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down)  <relu> {kinds = [#moe.kind<ffn, 5>, #moe.kind<zero, 3>]} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C8: constants and constant experts go together}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down)  <relu> {kinds = [#moe.kind<ffn, 4>, #moe.kind<constant, 4>]} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C8: constants and constant experts go together}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) constants(%c) <relu> {kinds = [#moe.kind<ffn, 4>, #moe.kind<zero, 4>]} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>, tensor<2x16xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C8: number of constants: found 2, expected 1}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) constants(%c) <relu> {kinds = [#moe.kind<ffn, 4>, #moe.kind<constant, 1>, #moe.kind<zero, 3>]} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>, tensor<2x16xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C8: H of the constants: found 15, expected 16}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) constants(%c15) <relu> {kinds = [#moe.kind<ffn, 4>, #moe.kind<constant, 1>, #moe.kind<zero, 3>]} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>, tensor<1x15xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{attribute 'kinds' failed to satisfy constraint: array of #moe.kind}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down)  <relu> {kinds = [1]} : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C1: H of up: found 12, expected 16}}
  %0 = moe.expert_ffn %x, %r up(%up8) down(%down8) <relu> {layout = #moe.layout<in_out>} : (!x, !two, tensor<8x12x16xf32>, tensor<8x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C6: the routing is unweighted}}
  %0 = moe.experts %x, %r up(%up8) down(%down8) <relu> : (!x, !two, tensor<8x12x16xf32>, tensor<8x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C6: the routing is unweighted}}
  %0 = moe.experts %x, %r up(%up8) down(%down8) <relu> {scale_input, weight = #moe.combine_weight<already_applied>} : (!x, !two, tensor<8x12x16xf32>, tensor<8x16x12xf32>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C9: the routing of uncovered tokens is unweighted}}
  %0 = moe.experts %x, %w up(%up8) down(%down8) uncovered(%r) <relu> : (!x, !weighted, tensor<8x12x16xf32>, tensor<8x16x12xf32>, !two) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%x: !x, %r: !two, %w: !weighted, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %up8: tensor<8x12x16xf32>, %down8: tensor<8x16x12xf32>, %c: tensor<2x16xf32>, %c15: tensor<1x15xf32>) {
  // expected-error@+1 {{C7: number of experts of all kinds: found 7, expected 8}}
  %0 = moe.experts %x, %w up(%up) down(%down) <relu> {kinds = [#moe.kind<ffn, 4>, #moe.kind<zero, 3>]} : (!x, !weighted, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> !x
  return
}

// -----

// moe.combine.

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%z: !x, %r: !two, %w: !weighted, %n: index, %x: tensor<4x16xf32>, %x15: tensor<?x15xf32>, %o: !moe.routing<experts = 4, k = 2, weighted>) {
  // expected-error@+1 {{C1: the routing is unweighted}}
  %0 = moe.combine %z, %r tokens(%n) : (!x, !two, index) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%z: !x, %r: !two, %w: !weighted, %n: index, %x: tensor<4x16xf32>, %x15: tensor<?x15xf32>, %o: !moe.routing<experts = 4, k = 2, weighted>) {
  // expected-error@+1 {{C3: the routing of uncovered tokens is}}
  %0 = moe.combine %z, %w tokens(%n) uncovered(%z, %r) : (!x, !weighted, index, !x, !two) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%z: !x, %r: !two, %w: !weighted, %n: index, %x: tensor<4x16xf32>, %x15: tensor<?x15xf32>, %o: !moe.routing<experts = 4, k = 2, weighted>) {
  // expected-error@+1 {{C3: the routing of uncovered tokens is}}
  %0 = moe.combine %z, %w tokens(%n) uncovered(%z, %o) : (!x, !weighted, index, !x, !moe.routing<experts = 4, k = 2, weighted>) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%z: !x, %r: !two, %w: !weighted, %n: index, %x: tensor<4x16xf32>, %x15: tensor<?x15xf32>, %o: !moe.routing<experts = 4, k = 2, weighted>) {
  // expected-error@+1 {{C3: T of uncovered: found 4, expected 3}}
  %0 = moe.combine %z, %w tokens(%n) uncovered(%x, %w) : (!x, !weighted, index, tensor<4x16xf32>, !weighted) -> tensor<3x16xf32>
  return
}

// -----

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%z: !x, %r: !two, %w: !weighted, %n: index, %x: tensor<4x16xf32>, %x15: tensor<?x15xf32>, %o: !moe.routing<experts = 4, k = 2, weighted>) {
  // expected-error@+1 {{C3: H of uncovered: found 15, expected 16}}
  %0 = moe.combine %z, %w tokens(%n) uncovered(%x15, %w) : (!x, !weighted, index, tensor<?x15xf32>, !weighted) -> !x
  return
}

// -----

!x = tensor<?x16xf32>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

func.func @f(%z: !x, %w: !weighted, %n: index) {
  // expected-error@+1 {{C3: uncovered tokens and their routing go together}}
  %0 = "moe.combine"(%z, %w, %n, %z) <{operandSegmentSizes = array<i32: 1, 1, 1, 1, 0>}> : (!x, !weighted, index, !x) -> !x
  return
}

// -----

// moe.shared.

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C1: H of up: found 15, expected 16}}
  %0 = moe.shared %x up(%up15)  down(%down)  <relu>  : (tensor<4x16xf32>, tensor<2x12x15xf32>, tensor<2x16x12xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C2: rows of up: found 10, expected 12}}
  %0 = moe.shared %x up(%up10)  down(%down)  <relu>  : (tensor<4x16xf32>, tensor<2x10x16xf32>, tensor<2x16x12xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C3: E of down: found 3, expected 2}}
  %0 = moe.shared %x up(%up)  down(%down3)  <relu>  : (tensor<4x16xf32>, tensor<2x12x16xf32>, tensor<3x16x12xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C3: the number of shared experts must be static}}
  %0 = moe.shared %x up(%dyn)  down(%down)  <relu>  : (tensor<4x16xf32>, tensor<?x12x16xf32>, tensor<2x16x12xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C4: width of a bias: found 10, expected 12}}
  %0 = moe.shared %x up(%up) up_bias(%ub) down(%down)  <relu>  : (tensor<4x16xf32>, tensor<2x12x16xf32>, tensor<2x10xf32>, tensor<2x16x12xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C5: a gate operand and glu = separate go together}}
  %0 = moe.shared %x up(%up)  down(%down)  <silu, glu = separate>  : (tensor<4x16xf32>, tensor<2x12x16xf32>, tensor<2x16x12xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C6: S of the weight: found 3, expected 2}}
  %0 = moe.shared %x up(%up)  down(%down) weight(%w) <relu>  : (tensor<4x16xf32>, tensor<2x12x16xf32>, tensor<2x16x12xf32>, tensor<4x3xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C6: T of the weight: found 5, expected 4}}
  %0 = moe.shared %x up(%up)  down(%down) weight(%w5) <relu>  : (tensor<4x16xf32>, tensor<2x12x16xf32>, tensor<2x16x12xf32>, tensor<5x2xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C7: y is}}
  %0 = moe.shared %x up(%up)  down(%down) add(%y) <relu>  : (tensor<4x16xf32>, tensor<2x12x16xf32>, tensor<2x16x12xf32>, tensor<?x16xf32>) -> tensor<4x16xf32>
  return
}

// -----

func.func @f(%x: tensor<4x16xf32>, %up: tensor<2x12x16xf32>, %down: tensor<2x16x12xf32>, %down3: tensor<3x16x12xf32>, %up15: tensor<2x12x15xf32>, %up10: tensor<2x10x16xf32>, %ub: tensor<2x10xf32>, %w: tensor<4x3xf32>, %w5: tensor<5x2xf32>, %y: tensor<?x16xf32>, %dyn: tensor<?x12x16xf32>) {
  // expected-error@+1 {{C8: an average needs y}}
  %0 = moe.shared %x up(%up)  down(%down)  <relu> {merge = #moe.merge<average>} : (tensor<4x16xf32>, tensor<2x12x16xf32>, tensor<2x16x12xf32>) -> tensor<4x16xf32>
  return
}

// -----

// moe.aux.

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: load_balance needs routing}}
  %0 = moe.aux <load_balance> probabilities(%l) : (!l) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: load_balance needs probabilities}}
  %0 = moe.aux <load_balance> routing(%r) : (!two) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: z_loss does not take probabilities}}
  %0 = moe.aux <z_loss> logits(%l) probabilities(%l) : (!l, !l) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: z_loss does not take group_size}}
  %0 = moe.aux <z_loss> logits(%l) group_size(%n) : (!l, index) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: importance_cv2 does not take probabilities}}
  %0 = moe.aux <importance_cv2> probabilities(%l) routing(%w) : (!l, !weighted) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: importance_cv2 needs a weighted routing}}
  %0 = moe.aux <importance_cv2> routing(%r) : (!two) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: load_cv2 needs noise_std}}
  %0 = moe.aux <load_cv2> logits(%l) noisy_logits(%l) {k = 2 : i64, variant = #moe.load_variant<vmoe>} : (!l, !l) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: tokens_per_expert does not take logits}}
  %0 = moe.aux <tokens_per_expert> logits(%l) routing(%r) : (!l, !two) -> tensor<8xi64>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: mean_probability needs probabilities}}
  %0 = moe.aux <mean_probability> routing(%r) : (!two) -> tensor<8xf32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C1: entropy needs probabilities}}
  %0 = moe.aux <entropy> : () -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C2: fraction and per_slot need load_balance}}
  %0 = moe.aux <z_loss> logits(%l) {per_slot} : (!l) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C2: fraction and per_slot need load_balance}}
  %0 = moe.aux <z_loss> logits(%l) {fraction = #moe.aux_fraction<all>} : (!l) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C2: variant and load_cv2 go together}}
  %0 = moe.aux <load_cv2> logits(%l) noisy_logits(%l) noise_std(%l) {k = 2 : i64} : (!l, !l, !l) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C2: k and load_cv2 go together}}
  %0 = moe.aux <z_loss> logits(%l) {k = 2 : i64} : (!l) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C3: k = 8 is not between 1 and E - 1 = 7}}
  %0 = moe.aux <load_cv2> logits(%l) noisy_logits(%l) noise_std(%l) {k = 8 : i64, variant = #moe.load_variant<vmoe>} : (!l, !l, !l) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C3: load_cv2 needs a static number of experts}}
  %0 = moe.aux <load_cv2> logits(%d) noisy_logits(%d) noise_std(%d) {k = 2 : i64, variant = #moe.load_variant<vmoe>} : (tensor<?x?xf32>, tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C4: E of an operand: found 7, expected 8}}
  %0 = moe.aux <load_balance> probabilities(%l7) routing(%r) : (tensor<?x7xf32>, !two) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C4: T of an operand: found 3, expected 4}}
  %0 = moe.aux <load_cv2> logits(%l4) noisy_logits(%l3) noise_std(%s) {k = 2 : i64, variant = #moe.load_variant<vmoe>} : (tensor<4x8xf32>, tensor<3x8xf32>, tensor<f32>) -> tensor<f32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C5: z_loss is a scalar float}}
  %0 = moe.aux <z_loss> logits(%l) : (!l) -> tensor<8xf32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C5: z_loss is a scalar float}}
  %0 = moe.aux <z_loss> logits(%l) : (!l) -> tensor<i64>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C5: tokens_per_expert is a tensor of E numbers of type i64}}
  %0 = moe.aux <tokens_per_expert> routing(%r) : (!two) -> tensor<8xf32>
  return
}

// -----

!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>
!l = tensor<?x8xf32>

func.func @f(%l: !l, %l7: tensor<?x7xf32>, %l4: tensor<4x8xf32>, %l3: tensor<3x8xf32>, %r: !two, %w: !weighted, %n: index, %s: tensor<f32>, %d: tensor<?x?xf32>) {
  // expected-error@+1 {{C5: mean_probability is a tensor of E floats}}
  %0 = moe.aux <mean_probability> probabilities(%l) : (!l) -> tensor<7xf32>
  return
}

// -----

// moe.bias_update.

func.func @f(%b: tensor<8xf32>, %c: tensor<7xi64>) {
  // expected-error@+1 {{C1: E of the count: found 7, expected 8}}
  %0 = moe.bias_update <sign> %b, %c {rate = 1.0 : f64} : tensor<8xf32>, tensor<7xi64>
  return
}

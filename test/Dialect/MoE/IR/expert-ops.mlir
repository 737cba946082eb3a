// Round trip of the expert ops and the auxiliary outputs: every operand and attribute value.
// RUN: moe-opt %s --verify-roundtrip | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s

!x = tensor<?x16xf32>
!two = !moe.routing<experts = 8, k = 2>
!weighted = !moe.routing<experts = 8, k = 2, weighted>

// CHECK-LABEL: func private @attributes
// CHECK-SAME:    a0 = #moe.activation<silu, glu = concat, limit = 7.000000e+00 : f32, clamp = post>
// CHECK-SAME:    b0 = #moe.kind<ffn, 8>, b1 = #moe.kind<zero, 1>, b2 = #moe.kind<identity, 2>, b3 = #moe.kind<constant, 1>
// CHECK-SAME:    c0 = #moe.combine_weight<output>, c1 = #moe.combine_weight<already_applied>
// CHECK-SAME:    d0 = #moe.accum<f32>, d1 = #moe.accum<native>
// CHECK-SAME:    e0 = #moe.merge<add>, e1 = #moe.merge<average>
// CHECK-SAME:    f0 = #moe.tensor<"a.b">, f1 = #moe.tensor<"a b", tensor<2x3xf16>>
func.func private @attributes() attributes {
  a0 = #moe.activation<silu, glu = concat, limit = 7.0 : f32, clamp = post>,
  b0 = #moe.kind<ffn, 8>, b1 = #moe.kind<zero, 1>, b2 = #moe.kind<identity, 2>, b3 = #moe.kind<constant, 1>,
  c0 = #moe.combine_weight<output>, c1 = #moe.combine_weight<already_applied>,
  d0 = #moe.accum<f32>, d1 = #moe.accum<native>, e0 = #moe.merge<add>, e1 = #moe.merge<average>,
  f0 = #moe.tensor<"a.b">, f1 = #moe.tensor<"a b", tensor<2x3xf16>>
}

// CHECK: moe.weight @router from [#moe.tensor<"router">] : tensor<8x16xf32>
moe.weight @router from [#moe.tensor<"router">] : tensor<8x16xf32>
// CHECK: moe.weight @stacked from [#moe.tensor<"gate", tensor<4x12x16xf16>>, #moe.tensor<"up", tensor<4x12x16xf16>>] through [#moe.permute<[0, 2, 1]>] : tensor<4x16x24xf16>
moe.weight @stacked from [#moe.tensor<"gate", tensor<4x12x16xf16>>, #moe.tensor<"up", tensor<4x12x16xf16>>]
    through [#moe.permute<[0, 2, 1]>] : tensor<4x16x24xf16>

// CHECK-LABEL: func @experts
func.func @experts(%x: !x, %w: !weighted, %r: !two, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>, %c: tensor<1x16xf32>,
                   %up_t: tensor<8x16x12xf32>, %down_t: tensor<8x12x16xf32>, %n: index) {
  // CHECK-NEXT: moe.expert_ffn %{{.*}}, %{{.*}} up(%{{.*}}) down(%{{.*}}) constants(%{{.*}}) <relu> {kinds = [#moe.kind<ffn, 3>, #moe.kind<zero, 1>, #moe.kind<identity, 2>, #moe.kind<constant, 1>, #moe.kind<ffn, 1>]}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) constants(%c) <relu>
      {kinds = [#moe.kind<ffn, 3>, #moe.kind<zero, 1>, #moe.kind<identity, 2>, #moe.kind<constant, 1>, #moe.kind<ffn, 1>]}
      : (!x, !two, tensor<4x12x16xf32>, tensor<4x16x12xf32>, tensor<1x16xf32>) -> !x
  // CHECK-NEXT: moe.expert_ffn %{{.*}}, %{{.*}} up(%{{.*}}) down(%{{.*}}) <relu> {layout = #moe.layout<in_out>}
  %1 = moe.expert_ffn %x, %r up(%up_t) down(%down_t) <relu> {layout = #moe.layout<in_out>} : (!x, !two, tensor<8x16x12xf32>, tensor<8x12x16xf32>) -> !x
  // CHECK-NEXT: moe.combine %{{.*}}, %{{.*}} tokens(%{{.*}}) uncovered(%{{.*}}, %{{.*}}) {accum = #moe.accum<native>, post_scale = 5.000000e-01 : f64, weight = #moe.combine_weight<already_applied>}
  %2 = moe.combine %x, %r tokens(%n) uncovered(%x, %w) {weight = #moe.combine_weight<already_applied>, accum = #moe.accum<native>, post_scale = 0.5 : f64}
      : (!x, !two, index, !x, !weighted) -> !x
  // CHECK-NEXT: moe.experts %{{.*}}, %{{.*}} up(%{{.*}}) down(%{{.*}}) constants(%{{.*}}) uncovered(%{{.*}}) <relu> {accum = #moe.accum<native>, kinds = [#moe.kind<constant, 1>, #moe.kind<ffn, 4>, #moe.kind<zero, 3>], post_scale = 5.000000e-01 : f64, scale_input, weight = #moe.combine_weight<already_applied>}
  %3 = moe.experts %x, %w up(%up) down(%down) constants(%c) uncovered(%w) <relu>
      {kinds = [#moe.kind<constant, 1>, #moe.kind<ffn, 4>, #moe.kind<zero, 3>], scale_input, weight = #moe.combine_weight<already_applied>, accum = #moe.accum<native>, post_scale = 0.5 : f64}
      : (!x, !weighted, tensor<4x12x16xf32>, tensor<4x16x12xf32>, tensor<1x16xf32>, !weighted) -> !x
  // CHECK-NEXT: moe.experts %{{.*}}, %{{.*}} up(%{{.*}}) down(%{{.*}}) <relu> {layout = #moe.layout<in_out>, weight = #moe.combine_weight<already_applied>}
  %4 = moe.experts %x, %r up(%up_t) down(%down_t) <relu> {layout = #moe.layout<in_out>, weight = #moe.combine_weight<already_applied>}
      : (!x, !two, tensor<8x16x12xf32>, tensor<8x12x16xf32>) -> !x
  return
}

// CHECK-LABEL: func @shared
func.func @shared(%x: !x, %up: tensor<2x12x16xf32>, %ub: tensor<2x12xf32>, %down: tensor<2x16x12xf32>, %db: tensor<2x16xf32>, %w: tensor<?x2xf32>,
                  %up_t: tensor<2x16x12xf32>, %down_t: tensor<2x12x16xf32>) {
  // CHECK-NEXT: moe.shared %{{.*}} up(%{{.*}}) down(%{{.*}}) <relu> : (tensor<?x16xf32>, tensor<2x12x16xf32>, tensor<2x16x12xf32>) -> tensor<?x16xf32>
  %0 = moe.shared %x up(%up) down(%down) <relu> : (!x, tensor<2x12x16xf32>, tensor<2x16x12xf32>) -> !x
  // CHECK-NEXT: moe.shared %{{.*}} up(%{{.*}}) up_bias(%{{.*}}) gate(%{{.*}}) gate_bias(%{{.*}}) down(%{{.*}}) down_bias(%{{.*}}) weight(%{{.*}}) add(%{{.*}}) <silu, glu = separate> {merge = #moe.merge<average>}
  %1 = moe.shared %x up(%up) up_bias(%ub) gate(%up) gate_bias(%ub) down(%down) down_bias(%db) weight(%w) add(%x) <silu, glu = separate> {merge = #moe.merge<average>}
      : (!x, tensor<2x12x16xf32>, tensor<2x12xf32>, tensor<2x12x16xf32>, tensor<2x12xf32>, tensor<2x16x12xf32>, tensor<2x16xf32>, tensor<?x2xf32>, !x) -> !x
  // CHECK-NEXT: moe.shared %{{.*}} up(%{{.*}}) down(%{{.*}}) <relu> {layout = #moe.layout<in_out>}
  %2 = moe.shared %x up(%up_t) down(%down_t) <relu> {layout = #moe.layout<in_out>} : (!x, tensor<2x16x12xf32>, tensor<2x12x16xf32>) -> !x
  return
}

!l = tensor<?x8xf32>

// CHECK-LABEL: func @aux
func.func @aux(%l: !l, %p: !l, %std: tensor<f32>, %r: !two, %w: !weighted, %n: index, %b: tensor<8xf32>, %count: tensor<8xi64>) {
  // CHECK-NEXT: moe.aux <load_balance> probabilities(%{{.*}}) routing(%{{.*}}) : (tensor<?x8xf32>, !moe.routing<experts = 8, k = 2>) -> tensor<f32>
  %0 = moe.aux <load_balance> probabilities(%p) routing(%r) : (!l, !two) -> tensor<f32>
  // CHECK-NEXT: moe.aux <load_balance> probabilities(%{{.*}}) routing(%{{.*}}) group_size(%{{.*}}) {fraction = #moe.aux_fraction<first>, per_slot}
  %1 = moe.aux <load_balance> probabilities(%p) routing(%r) group_size(%n) {fraction = #moe.aux_fraction<first>, per_slot} : (!l, !two, index) -> tensor<f32>
  // CHECK-NEXT: moe.aux <load_balance> {{.*}} {fraction = #moe.aux_fraction<all>}
  %2 = moe.aux <load_balance> probabilities(%p) routing(%r) {fraction = #moe.aux_fraction<all>} : (!l, !two) -> tensor<f64>
  // CHECK-NEXT: moe.aux <z_loss> logits(%{{.*}}) : (tensor<?x8xf32>) -> tensor<f32>
  %3 = moe.aux <z_loss> logits(%l) : (!l) -> tensor<f32>
  // CHECK-NEXT: moe.aux <importance_cv2> routing(%{{.*}}) :
  %4 = moe.aux <importance_cv2> routing(%w) : (!weighted) -> tensor<f32>
  // CHECK-NEXT: moe.aux <importance_cv2> probabilities(%{{.*}}) :
  %5 = moe.aux <importance_cv2> probabilities(%p) : (!l) -> tensor<f32>
  // CHECK-NEXT: moe.aux <load_cv2> logits(%{{.*}}) noisy_logits(%{{.*}}) noise_std(%{{.*}}) {k = 2 : i64, variant = #moe.load_variant<shazeer>}
  %6 = moe.aux <load_cv2> logits(%l) noisy_logits(%l) noise_std(%l) {k = 2 : i64, variant = #moe.load_variant<shazeer>} : (!l, !l, !l) -> tensor<f32>
  // CHECK-NEXT: moe.aux <load_cv2> logits(%{{.*}}) noisy_logits(%{{.*}}) noise_std(%{{.*}}) {k = 7 : i64, variant = #moe.load_variant<vmoe>}
  %7 = moe.aux <load_cv2> logits(%l) noisy_logits(%l) noise_std(%std) {k = 7 : i64, variant = #moe.load_variant<vmoe>} : (!l, !l, tensor<f32>) -> tensor<f32>
  // CHECK-NEXT: moe.aux <tokens_per_expert> routing(%{{.*}}) : (!moe.routing<experts = 8, k = 2>) -> tensor<8xi64>
  %8 = moe.aux <tokens_per_expert> routing(%r) : (!two) -> tensor<8xi64>
  // CHECK-NEXT: moe.aux <mean_probability> probabilities(%{{.*}}) : (tensor<?x8xf32>) -> tensor<8xf32>
  %9 = moe.aux <mean_probability> probabilities(%p) : (!l) -> tensor<8xf32>
  // CHECK-NEXT: moe.aux <entropy> probabilities(%{{.*}}) : (tensor<?x8xf32>) -> tensor<f32>
  %10 = moe.aux <entropy> probabilities(%p) : (!l) -> tensor<f32>
  // CHECK-NEXT: moe.bias_update <sign> %{{.*}}, %{{.*}} {rate = 1.000000e-03 : f64} : tensor<8xf32>, tensor<8xi64>
  %11 = moe.bias_update <sign> %b, %count {rate = 1.0e-3 : f64} : tensor<8xf32>, tensor<8xi64>
  // CHECK-NEXT: moe.bias_update <proportional> %{{.*}}, %{{.*}} {rate = 1.000000e-03 : f64, recenter} : tensor<8xf32>, tensor<8xi64>
  %12 = moe.bias_update <proportional> %b, %count {rate = 1.0e-3 : f64, recenter} : tensor<8xf32>, tensor<8xi64>
  return
}

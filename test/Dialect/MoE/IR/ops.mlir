// Round trip of every op, attribute and type.
// RUN: moe-opt %s --verify-roundtrip | moe-opt | FileCheck %s
// RUN: moe-opt %s --mlir-print-op-generic | moe-opt | FileCheck %s

// --- types -----------------------------------------------------------------------

// CHECK-LABEL: func private @types(!moe.routing<experts = 8, k = 2>, !moe.routing<experts = 8, k = 8, weighted>)
func.func private @types(!moe.routing<experts = 8, k = 2>, !moe.routing<experts = 8, k = 8, weighted>)

// --- attributes ------------------------------------------------------------------

// CHECK-LABEL: func private @attributes
// CHECK-SAME:    a0 = #moe.activation<identity>
// CHECK-SAME:    a1 = #moe.activation<relu>
// CHECK-SAME:    a2 = #moe.activation<gelu>
// CHECK-SAME:    a3 = #moe.activation<gelu_tanh>
// CHECK-SAME:    a4 = #moe.activation<silu>
// CHECK-SAME:    a5 = #moe.activation<relu2>
// CHECK-SAME:    a6 = #moe.activation<silu, alpha = 1.702000e+00 : f32>
// CHECK-SAME:    a7 = #moe.activation<silu, glu = interleaved, alpha = 1.702000e+00 : f32, beta = 1.000000e+00 : f32, limit = 7.000000e+00 : f32>
// CHECK-SAME:    a8 = #moe.activation<gelu, glu = concat, limit = 7.000000e+00 : f32>
// CHECK-SAME:    a9 = #moe.activation<relu, glu = separate, beta = 1.000000e+00 : f32>
// CHECK-SAME:    b0 = #moe.axis<experts>, b1 = #moe.axis<tokens>
// CHECK-SAME:    c0 = #moe.layout<out_in>, c1 = #moe.layout<in_out>
// CHECK-SAME:    d0 = #moe.score_fn<identity>, d1 = #moe.score_fn<softmax>, d2 = #moe.score_fn<sigmoid>, d3 = #moe.score_fn<sqrtsoftplus>
// CHECK-SAME:    e0 = #moe.select_mode<all>, e1 = #moe.select_mode<topk>
// CHECK-SAME:    f0 = #moe.weigh_fn<none>, f1 = #moe.weigh_fn<softmax>, f2 = #moe.weigh_fn<sigmoid>, f3 = #moe.weigh_fn<masked_softmax>
// CHECK-SAME:    g0 = #moe.weigh_norm<none>, g1 = #moe.weigh_norm<sum>
// CHECK-SAME:    h0 = #moe.weigh_source<score>, h1 = #moe.weigh_source<logit>, h2 = #moe.weigh_source<operand>
// CHECK-SAME:    s0 = #moe.segment<"a b.data", offset = 4096, length = 24, tensor<2x3xf32>>
// CHECK-SAME:    s1 = #moe.segment<"a", offset = 0, length = 3, tensor<3xi1>>
// CHECK-SAME:    t0 = #moe.reshape<[2, 6]>
// CHECK-SAME:    t1 = #moe.permute<[0, 2, 1]>
// CHECK-SAME:    t2 = #moe.unpack<bits = 4, axis = 2, count = 7>
// CHECK-SAME:    t3 = #moe.panels<width = 32>
// CHECK-SAME:    t4 = #moe.panels<width = 16, glu = concat>
// CHECK-SAME:    t5 = #moe.code_panels<bits = 4, k = 64>
// CHECK-SAME:    t6 = #moe.code_panels<bits = 2, k = 64, glu = interleaved>
// CHECK-SAME:    t7 = #moe.to_unsigned<bits = 4>
func.func private @attributes() attributes {
  a0 = #moe.activation<identity>, a1 = #moe.activation<relu>, a2 = #moe.activation<gelu>,
  a3 = #moe.activation<gelu_tanh>, a4 = #moe.activation<silu>, a5 = #moe.activation<relu2>,
  a6 = #moe.activation<silu, alpha = 1.702 : f32>,
  a7 = #moe.activation<silu, limit = 7.0 : f32, beta = 1.0 : f32, glu = interleaved, alpha = 1.702 : f32>,
  a8 = #moe.activation<gelu, glu = concat, limit = 7.0 : f32>,
  a9 = #moe.activation<relu, glu = separate, beta = 1.0 : f32>,
  b0 = #moe.axis<experts>, b1 = #moe.axis<tokens>,
  c0 = #moe.layout<out_in>, c1 = #moe.layout<in_out>,
  d0 = #moe.score_fn<identity>, d1 = #moe.score_fn<softmax>, d2 = #moe.score_fn<sigmoid>, d3 = #moe.score_fn<sqrtsoftplus>,
  e0 = #moe.select_mode<all>, e1 = #moe.select_mode<topk>,
  f0 = #moe.weigh_fn<none>, f1 = #moe.weigh_fn<softmax>, f2 = #moe.weigh_fn<sigmoid>, f3 = #moe.weigh_fn<masked_softmax>,
  g0 = #moe.weigh_norm<none>, g1 = #moe.weigh_norm<sum>,
  h0 = #moe.weigh_source<score>, h1 = #moe.weigh_source<logit>, h2 = #moe.weigh_source<operand>,
  s0 = #moe.segment<"a b.data", offset = 4096, length = 24, tensor<2x3xf32>>,
  s1 = #moe.segment<"a", offset = 0, length = 3, tensor<3xi1>>,
  t0 = #moe.reshape<[2, 6]>, t1 = #moe.permute<[0, 2, 1]>, t2 = #moe.unpack<bits = 4, axis = 2, count = 7>,
  t3 = #moe.panels<width = 32>, t4 = #moe.panels<width = 16, glu = concat>,
  t5 = #moe.code_panels<bits = 4, k = 64>, t6 = #moe.code_panels<bits = 2, k = 64, glu = interleaved>,
  t7 = #moe.to_unsigned<bits = 4>
}

// --- weights ---------------------------------------------------------------------

// CHECK: moe.weight @plain from [#moe.segment<"m.data", offset = 8, length = 24, tensor<2x3xf32>>] : tensor<2x3xf32>
moe.weight @plain from [#moe.segment<"m.data", offset = 8, length = 24, tensor<2x3xf32>>] : tensor<2x3xf32>
// CHECK: moe.weight @inline from [dense<{{.*}}> : tensor<2x2xf32>] : tensor<2x2xf32>
moe.weight @inline from [dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>] : tensor<2x2xf32>
// CHECK: moe.weight @apart from [#moe.experts<[#moe.segment<"m.data", offset = 64, length = 12, tensor<3xf32>>, dense<{{.*}}> : tensor<1x3xf32>], tensor<2x3xf32>>] : tensor<2x3xf32>
moe.weight @apart from [#moe.experts<[#moe.segment<"m.data", offset = 64, length = 12, tensor<3xf32>>,
                                      dense<[[1.0, 2.0, 3.0]]> : tensor<1x3xf32>], tensor<2x3xf32>>] : tensor<2x3xf32>
// CHECK: moe.weight @stacked from [#moe.segment<{{.*}}tensor<4x12x16xf16>>, #moe.segment<{{.*}}tensor<4x12x16xf16>>]
// CHECK-SAME: through [#moe.panels<width = 32, glu = concat>]
// CHECK-SAME: {bank = "layer0", expert_stride = 4096 : i64, offset = 8192 : i64} : tensor<4x1x16x32xf16>
moe.weight @stacked from [#moe.segment<"m.data", offset = 0, length = 1536, tensor<4x12x16xf16>>,
                          #moe.segment<"m.data", offset = 1536, length = 1536, tensor<4x12x16xf16>>]
    through [#moe.panels<width = 32, glu = concat>]
    {bank = "layer0", offset = 8192 : i64, expert_stride = 4096 : i64} : tensor<4x1x16x32xf16>
// CHECK: moe.weight @chain {{.*}} through [#moe.reshape<[4, 8, 2]>, #moe.permute<[0, 2, 1]>, #moe.unpack<bits = 4, axis = 2, count = 15>] {bank = "layer0"} : tensor<4x2x15xi8>
moe.weight @chain from [#moe.segment<"m.data", offset = 0, length = 64, tensor<4x16xui8>>]
    through [#moe.reshape<[4, 8, 2]>, #moe.permute<[0, 2, 1]>, #moe.unpack<bits = 4, axis = 2, count = 15>]
    {bank = "layer0"} : tensor<4x2x15xi8>
// CHECK: moe.weight @codes {{.*}} through [#moe.code_panels<bits = 2, k = 13>] : tensor<4x2x7x16xi8>
moe.weight @codes from [#moe.segment<"m.data", offset = 0, length = 640, tensor<4x40x4xui8>>]
    through [#moe.code_panels<bits = 2, k = 13>] : tensor<4x2x7x16xi8>

// CHECK-LABEL: func @weights
func.func @weights(%base: !llvm.ptr) {
  // CHECK-NEXT: %plain = moe.load_weight @plain : tensor<2x3xf32>
  %0 = moe.load_weight @plain : tensor<2x3xf32>
  // CHECK-NEXT: moe.weight_buffer %{{.*}} @plain : !llvm.ptr, memref<2x3xf32>
  %1 = moe.weight_buffer %base @plain : !llvm.ptr, memref<2x3xf32>
  return
}

// CHECK-LABEL: func @dequantize
func.func @dequantize(%codes: tensor<4x6x24xui8>, %rows: tensor<4x6xf16>, %blocks: tensor<4x6x3xf32>,
                      %zp_rows: tensor<4x3xui8>, %zp_blocks: tensor<4x6x2xui8>) {
  // CHECK-NEXT: moe.dequantize %{{.*}} scales(%{{.*}}) {bits = 4 : i64} : (tensor<4x6x24xui8>, tensor<4x6xf16>) -> tensor<4x6x48xf16>
  %0 = moe.dequantize %codes scales(%rows) {bits = 4 : i64} : (tensor<4x6x24xui8>, tensor<4x6xf16>) -> tensor<4x6x48xf16>
  // CHECK-NEXT: moe.dequantize %{{.*}} scales(%{{.*}}) zero_points(%{{.*}}) {bits = 4 : i64}
  %1 = moe.dequantize %codes scales(%rows) zero_points(%zp_rows) {bits = 4 : i64}
      : (tensor<4x6x24xui8>, tensor<4x6xf16>, tensor<4x3xui8>) -> tensor<4x6x48xf32>
  // CHECK-NEXT: moe.dequantize %{{.*}} scales(%{{.*}}) zero_points(%{{.*}}) {bits = 4 : i64, block = 16 : i64}
  %2 = moe.dequantize %codes scales(%blocks) zero_points(%zp_blocks) {bits = 4 : i64, block = 16 : i64}
      : (tensor<4x6x24xui8>, tensor<4x6x3xf32>, tensor<4x6x2xui8>) -> tensor<4x6x48xf32>
  return
}

// --- gating ----------------------------------------------------------------------

// CHECK-LABEL: func @gating
func.func @gating(%x: tensor<?x16xf16>, %w: tensor<8x16xf16>, %wt: tensor<16x8xf16>, %b: tensor<8xf32>, %source: tensor<?x8xf64>) {
  // CHECK-NEXT: %[[L:.*]] = moe.logits %{{.*}}, %{{.*}} : (tensor<?x16xf16>, tensor<8x16xf16>) -> tensor<?x8xf32>
  %l = moe.logits %x, %w : (tensor<?x16xf16>, tensor<8x16xf16>) -> tensor<?x8xf32>
  // CHECK-NEXT: moe.logits %{{.*}}, %{{.*}} bias(%{{.*}}) {layout = #moe.layout<in_out>} : (tensor<?x16xf16>, tensor<16x8xf16>, tensor<8xf32>) -> tensor<?x8xbf16>
  %l2 = moe.logits %x, %wt bias(%b) {layout = #moe.layout<in_out>} : (tensor<?x16xf16>, tensor<16x8xf16>, tensor<8xf32>) -> tensor<?x8xbf16>
  // CHECK-NEXT: moe.linear %{{.*}}, %{{.*}} : (tensor<?x16xf16>, tensor<8x16xf16>) -> tensor<?x8xf32>
  %l3 = moe.linear %x, %w : (tensor<?x16xf16>, tensor<8x16xf16>) -> tensor<?x8xf32>
  // CHECK-NEXT: moe.linear %{{.*}}, %{{.*}} bias(%{{.*}}) {layout = #moe.layout<in_out>} : (tensor<?x16xf16>, tensor<16x8xf16>, tensor<8xf32>) -> tensor<?x8xf16>
  %l4 = moe.linear %x, %wt bias(%b) {layout = #moe.layout<in_out>} : (tensor<?x16xf16>, tensor<16x8xf16>, tensor<8xf32>) -> tensor<?x8xf16>
  // CHECK-NEXT: %[[S:.*]] = moe.score <softmax> %[[L]] : tensor<?x8xf32> -> tensor<?x8xf32>
  %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
  // CHECK-NEXT: moe.score <sigmoid> %[[L]] {axis = #moe.axis<tokens>} : tensor<?x8xf32> -> tensor<?x8xf16>
  %s2 = moe.score <sigmoid> %l {axis = #moe.axis<tokens>} : tensor<?x8xf32> -> tensor<?x8xf16>
  // CHECK-NEXT: %[[R:.*]] = moe.select %[[S]] {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  // CHECK-NEXT: moe.select %[[S]] bias(%{{.*}}) {k = 8 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>, tensor<8xf32>) -> !moe.routing<experts = 8, k = 8>
  %r2 = moe.select %s bias(%b) {k = 8 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>, tensor<8xf32>) -> !moe.routing<experts = 8, k = 8>
  // CHECK-NEXT: moe.weigh %[[R]], %[[S]] : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  %w1 = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  // CHECK-NEXT: moe.weigh %[[R]], %{{.*}} {eps = 5.000000e-01 : f64, fn = #moe.weigh_fn<masked_softmax>, norm = #moe.weigh_norm<sum>, norm_eps = 2.500000e-01 : f64, scale = 2.000000e+00 : f64}
  %w2 = moe.weigh %r, %source {fn = #moe.weigh_fn<masked_softmax>, eps = 0.5 : f64, norm = #moe.weigh_norm<sum>, norm_eps = 0.25 : f64, scale = 2.0 : f64}
      : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf64>) -> !moe.routing<experts = 8, k = 2, weighted>
  // CHECK-NEXT: moe.gating %[[L]] {fn = #moe.weigh_fn<none>, k = 2 : i64, score = #moe.score_fn<softmax>, weigh_source = #moe.weigh_source<score>}
  %g = moe.gating %l {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>}
      : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  // CHECK-NEXT: moe.gating %[[L]] bias(%{{.*}}) source(%{{.*}}) {eps = 5.000000e-01 : f64, fn = #moe.weigh_fn<masked_softmax>, k = 2 : i64, norm = #moe.weigh_norm<sum>, norm_eps = 2.500000e-01 : f64, scale = 2.000000e+00 : f64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<operand>}
  %g2 = moe.gating %l bias(%b) source(%source)
      {score = #moe.score_fn<identity>, k = 2 : i64, weigh_source = #moe.weigh_source<operand>, fn = #moe.weigh_fn<masked_softmax>,
       eps = 0.5 : f64, norm = #moe.weigh_norm<sum>, norm_eps = 0.25 : f64, scale = 2.0 : f64}
      : (tensor<?x8xf32>, tensor<8xf32>, tensor<?x8xf64>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// --- experts ---------------------------------------------------------------------

!routing = !moe.routing<experts = 4, k = 2, weighted>

// CHECK-LABEL: func @experts
func.func @experts(%x: tensor<?x16xf32>, %r: !routing, %u: !moe.routing<experts = 4, k = 2>, %up: tensor<4x12x16xf32>,
                   %up_t: tensor<4x16x12xf32>, %up_bias: tensor<4x12xf32>, %fused: tensor<4x24x16xf32>,
                   %down: tensor<4x16x12xf32>, %down_bias: tensor<4x16xf32>, %tokens: index) {
  // CHECK-NEXT: %[[ROWS:.*]] = moe.dispatch %{{.*}}, %{{.*}} : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>) -> tensor<?x16xf32>
  %rows = moe.dispatch %x, %u : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>) -> tensor<?x16xf32>
  // CHECK-NEXT: moe.dispatch %{{.*}}, %{{.*}} {scale_input} : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2, weighted>) -> tensor<?x16xf32>
  %scaled = moe.dispatch %x, %r {scale_input} : (tensor<?x16xf32>, !routing) -> tensor<?x16xf32>
  // CHECK-NEXT: moe.grouped_matmul %[[ROWS]], %{{.*}}, %{{.*}} : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2, weighted>, tensor<4x12x16xf32>) -> tensor<?x12xf32>
  %a = moe.grouped_matmul %rows, %r, %up : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>) -> tensor<?x12xf32>
  // CHECK-NEXT: moe.grouped_matmul %[[ROWS]], %{{.*}}, %{{.*}} bias(%{{.*}}) {layout = #moe.layout<in_out>}
  %b = moe.grouped_matmul %rows, %r, %up_t bias(%up_bias) {layout = #moe.layout<in_out>}
      : (tensor<?x16xf32>, !routing, tensor<4x16x12xf32>, tensor<4x12xf32>) -> tensor<?x12xf32>
  // CHECK-NEXT: moe.activate <gelu_tanh> %{{.*}} : (tensor<?x12xf32>) -> tensor<?x12xf16>
  %c = moe.activate <gelu_tanh> %a : (tensor<?x12xf32>) -> tensor<?x12xf16>
  // CHECK-NEXT: moe.activate <silu, glu = interleaved> %{{.*}} : (tensor<?x12xf32>) -> tensor<?x6xf32>
  %d = moe.activate <silu, glu = interleaved> %a : (tensor<?x12xf32>) -> tensor<?x6xf32>
  // CHECK-NEXT: moe.activate <silu, glu = separate> %{{.*}} linear(%{{.*}}) : (tensor<?x12xf32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  %e = moe.activate <silu, glu = separate> %a linear(%b) : (tensor<?x12xf32>, tensor<?x12xf32>) -> tensor<?x12xf32>
  // CHECK-NEXT: %[[Z:.*]] = moe.expert_ffn %[[ROWS]], %{{.*}} up(%{{.*}}) down(%{{.*}}) <relu2> : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2, weighted>, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %z = moe.expert_ffn %rows, %r up(%up) down(%down) <relu2>
      : (tensor<?x16xf32>, !routing, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  // CHECK-NEXT: moe.expert_ffn %[[ROWS]], %{{.*}} up(%{{.*}}) up_bias(%{{.*}}) gate(%{{.*}}) gate_bias(%{{.*}}) down(%{{.*}}) down_bias(%{{.*}}) <silu, glu = separate, limit = 7.000000e+00 : f32> {moe.sources = ["n"]}
  %z2 = moe.expert_ffn %rows, %u up(%up) up_bias(%up_bias) gate(%up) gate_bias(%up_bias) down(%down) down_bias(%down_bias)
      <silu, glu = separate, limit = 7.0 : f32> {moe.sources = ["n"]}
      : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>, tensor<4x12x16xf32>, tensor<4x12xf32>, tensor<4x12x16xf32>, tensor<4x12xf32>,
         tensor<4x16x12xf32>, tensor<4x16xf32>) -> tensor<?x16xf32>
  // CHECK-NEXT: moe.combine %[[Z]], %{{.*}} tokens(%{{.*}}) : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2, weighted>, index) -> tensor<?x16xf32>
  %y = moe.combine %z, %r tokens(%tokens) : (tensor<?x16xf32>, !routing, index) -> tensor<?x16xf32>
  // CHECK-NEXT: moe.experts %{{.*}}, %{{.*}} up(%{{.*}}) down(%{{.*}}) <silu, glu = concat> : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2, weighted>, tensor<4x24x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  %y2 = moe.experts %x, %r up(%fused) down(%down) <silu, glu = concat>
      : (tensor<?x16xf32>, !routing, tensor<4x24x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// --- workers ---------------------------------------------------------------------

// CHECK-LABEL: func @workers
func.func @workers(%ok: i1) {
  // CHECK-NEXT: %[[CALL:.*]] = moe.current_call : !llvm.ptr
  %call = moe.current_call : !llvm.ptr
  // CHECK-NEXT: moe.num_workers %[[CALL]] : !llvm.ptr
  %n = moe.num_workers %call : !llvm.ptr
  // CHECK-NEXT: moe.worker_id
  %i = moe.worker_id
  // CHECK-NEXT: moe.check %[[CALL]], %{{.*}}, "index out of range" : !llvm.ptr
  moe.check %call, %ok, "index out of range" : !llvm.ptr
  // CHECK-NEXT: moe.profile_mark %[[CALL]], 3 : !llvm.ptr
  moe.profile_mark %call, 3 : !llvm.ptr
  return
}

// RUN: moe-opt %s --moe-to-cpu | FileCheck %s

// Codes stay codes; scales and zero points get the panel layout of their columns.
// CHECK-DAG: moe.weight @q1_packed {{.*}} through [#moe.code_panels<bits = 4, k = 64>] {bank = "experts0"} : tensor<4x2x64x16xi8>
// CHECK-DAG: moe.weight @s1_packed {{.*}} through [#moe.panels<width = 32>] {bank = "experts0"} : tensor<4x2x2x32xf32>
// CHECK-DAG: moe.weight @z1_packed {{.*}} through [#moe.unpack<bits = 4, axis = 2, count = 2>, #moe.panels<width = 32>] {bank = "experts0"} : tensor<4x2x2x32xi8>
// CHECK-DAG: moe.weight @q2_packed {{.*}} through [#moe.code_panels<bits = 8, k = 64>] {bank = "experts0"} : tensor<4x2x64x32xi8>
// CHECK-DAG: moe.weight @s2_packed {{.*}}tensor<4x64x1xf32>{{.*}} through [#moe.panels<width = 32>] {bank = "experts0"} : tensor<4x2x1x32xf32>
moe.weight @q1 from [#moe.segment<"m.data", offset = 0, length = 8192, tensor<4x64x32xui8>>] : tensor<4x64x32xui8>
moe.weight @s1 from [#moe.segment<"m.data", offset = 8192, length = 2048, tensor<4x64x2xf32>>] : tensor<4x64x2xf32>
moe.weight @z1 from [#moe.segment<"m.data", offset = 10240, length = 256, tensor<4x64x1xui8>>] : tensor<4x64x1xui8>
moe.weight @q2 from [#moe.segment<"m.data", offset = 10496, length = 16384, tensor<4x64x64xui8>>] : tensor<4x64x64xui8>
moe.weight @s2 from [#moe.segment<"m.data", offset = 26880, length = 1024, tensor<4x64xf32>>] : tensor<4x64xf32>

// CHECK: call @moec_up_4x64x64_int4_block32_f32_zp_relu
// CHECK: call @moec_down_4x64x64_int8_block64_f32_stride64
// CHECK-NOT: moe.dequantize
func.func @layer(%x: tensor<?x64xf16>, %logits: tensor<?x4xf16>) -> tensor<?x64xf16> {
  %q1 = moe.load_weight @q1 : tensor<4x64x32xui8>
  %s1 = moe.load_weight @s1 : tensor<4x64x2xf32>
  %z1 = moe.load_weight @z1 : tensor<4x64x1xui8>
  %q2 = moe.load_weight @q2 : tensor<4x64x64xui8>
  %s2 = moe.load_weight @s2 : tensor<4x64xf32>
  %up = moe.dequantize %q1 scales(%s1) zero_points(%z1) {bits = 4 : i64, block = 32 : i64} : (tensor<4x64x32xui8>, tensor<4x64x2xf32>, tensor<4x64x1xui8>) -> tensor<4x64x64xf32>
  %down = moe.dequantize %q2 scales(%s2) {bits = 8 : i64} : (tensor<4x64x64xui8>, tensor<4x64xf32>) -> tensor<4x64x64xf32>
  %r = moe.gating %logits {score = #moe.score_fn<identity>, k = 2 : i64, weigh_source = #moe.weigh_source<logit>, fn = #moe.weigh_fn<softmax>} : (tensor<?x4xf16>) -> !moe.routing<experts = 4, k = 2, weighted>
  %y = moe.experts %x, %r up(%up) down(%down) <relu> : (tensor<?x64xf16>, !moe.routing<experts = 4, k = 2, weighted>, tensor<4x64x64xf32>, tensor<4x64x64xf32>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

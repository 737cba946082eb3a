// REQUIRES: ptxas
// RUN: moe-opt %s --moe-to-gpu=arch=sm_90a "--emit-ptx=check arch=sm_90a" -o /dev/null 2>&1 | FileCheck %s

// 384 threads leave 168 registers each before they are moved; a spill would be an error, and so would
// products that wait for each other.
// CHECK-DAG: remark: moec_product_768x2048_bf16_wgmma_rows128_{{.*}}: 168 registers, 576 bytes of shared memory, 0 of stack, 0 of spills
// CHECK-DAG: remark: moec_product_2048x768_bf16_wgmma_rows128_{{.*}}: 168 registers, 64 bytes of shared memory, 0 of stack, 0 of spills
// CHECK-NOT: error
func.func @layer(%x: tensor<?x2048xbf16>, %l: tensor<?x128xf32>, %up: tensor<128x1536x2048xbf16>, %down: tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 8 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x128xf32>) -> !moe.routing<experts = 128, k = 8, weighted>
  %y = moe.experts %x, %r up(%up) down(%down) <silu, glu = concat> : (tensor<?x2048xbf16>, !moe.routing<experts = 128, k = 8, weighted>, tensor<128x1536x2048xbf16>, tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16>
  return %y : tensor<?x2048xbf16>
}

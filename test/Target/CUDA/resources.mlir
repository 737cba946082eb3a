// REQUIRES: ptxas
// Kernels assemble, and none spills; that would be an error.
// RUN: moe-opt %s --moe-to-gpu "--emit-ptx=check arch=sm_80" -o /dev/null 2>&1 | FileCheck %s
// RUN: moe-opt %s --moe-to-gpu "--emit-ptx=check arch=sm_89" -o /dev/null 2>&1 | FileCheck %s
// RUN: moe-opt %s --moe-to-gpu "--emit-ptx=check arch=sm_90a" -o /dev/null 2>&1 | FileCheck %s
// RUN: moe-opt %s --moe-to-gpu "--emit-ptx=check arch=sm_100" -o /dev/null 2>&1 | FileCheck %s

// CHECK-DAG: remark: moec_product_2048x768_bf16_rows64_{{.*}}: {{1[0-9][0-9]}} registers, 46336 bytes of shared memory, 0 of stack, 0 of spills
// CHECK-DAG: remark: moec_product_768x2048_bf16_few_2048_rows16_routed_combined_{{.*}}: 1{{[0-6][0-9]}} registers, 136{{[0-9]+}} bytes of shared memory, 0 of stack, 0 of spills
// CHECK-DAG: remark: moec_lists_128_8: {{[1-6][0-9]}} registers
// CHECK-DAG: remark: moec_product_40x72_f32_72_rows16_combined_{{.*}}: {{[1-9][0-9]}} registers, 10{{[0-9]+}} bytes of shared memory, 0 of stack, 0 of spills
// CHECK-DAG: remark: moec_gating_{{.*}}: {{[1-9][0-9]}} registers, {{[0-9]+}} bytes of shared memory, 0 of stack
// CHECK-DAG: remark: moec_product_40x72_f32_rows64_{{.*}} 0 of stack, 0 of spills
// CHECK-NOT: error
func.func @bf16(%x: tensor<?x2048xbf16>, %l: tensor<?x128xf32>, %up: tensor<128x1536x2048xbf16>, %down: tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 8 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x128xf32>) -> !moe.routing<experts = 128, k = 8, weighted>
  %y = moe.experts %x, %r up(%up) down(%down) <silu, glu = concat> : (tensor<?x2048xbf16>, !moe.routing<experts = 128, k = 8, weighted>, tensor<128x1536x2048xbf16>, tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16>
  return %y : tensor<?x2048xbf16>
}

func.func @f32(%x: tensor<?x72xf32>, %l: tensor<?x5xf32>, %up: tensor<5x80x72xf32>, %up_bias: tensor<5x80xf32>, %down: tensor<5x72x40xf32>) -> tensor<?x72xf32> {
  %s = moe.score <sigmoid> %l : tensor<?x5xf32> -> tensor<?x5xf32>
  %selected = moe.select %s {k = 3 : i64} : (tensor<?x5xf32>) -> !moe.routing<experts = 5, k = 3>
  %r = moe.weigh %selected, %s {norm = #moe.weigh_norm<pnorm>, norm_p = 3.0 : f64} : (!moe.routing<experts = 5, k = 3>, tensor<?x5xf32>) -> !moe.routing<experts = 5, k = 3, weighted>
  %y = moe.experts %x, %r up(%up) up_bias(%up_bias) down(%down) <gelu, glu = interleaved> : (tensor<?x72xf32>, !moe.routing<experts = 5, k = 3, weighted>, tensor<5x80x72xf32>, tensor<5x80xf32>, tensor<5x72x40xf32>) -> tensor<?x72xf32>
  return %y : tensor<?x72xf32>
}

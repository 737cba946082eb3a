// REQUIRES: ptxas
// RUN: moe-opt %s --moe-to-gpu=tf32=true "--emit-ptx=check arch=sm_80" -o %t 2>&1 | FileCheck %s
// RUN: FileCheck %s --check-prefix=PTX < %t

// Products of f32 are rounded when they are loaded from shared memory.
// CHECK-DAG: remark: moec_product_40x72_f32_tf32_rows64_{{.*}} 0 of stack, 0 of spills
// CHECK-DAG: remark: moec_product_40x72_f32_tf32_72_rows16_routed_combined_{{.*}} 0 of stack, 0 of spills
// CHECK-NOT: error
// PTX-DAG:   cvt.rna.tf32.f32
// PTX-DAG:   mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32
func.func @f32(%x: tensor<?x72xf32>, %l: tensor<?x5xf32>, %up: tensor<5x80x72xf32>, %down: tensor<5x72x40xf32>) -> tensor<?x72xf32> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 3 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x5xf32>) -> !moe.routing<experts = 5, k = 3, weighted>
  %y = moe.experts %x, %r up(%up) down(%down) <gelu, glu = interleaved> : (tensor<?x72xf32>, !moe.routing<experts = 5, k = 3, weighted>, tensor<5x80x72xf32>, tensor<5x72x40xf32>) -> tensor<?x72xf32>
  return %y : tensor<?x72xf32>
}

// The kernels of a layer in PTX, for which no toolkit is needed.
// RUN: moe-opt %s --moe-to-gpu --emit-ptx=arch=sm_80 | FileCheck %s --check-prefixes=CHECK,SM80
// RUN: moe-opt %s --moe-to-gpu --emit-ptx=arch=sm_89 | FileCheck %s --check-prefixes=CHECK,SM89
// RUN: moe-opt %s --moe-to-gpu --emit-ptx=arch=sm_90a | FileCheck %s --check-prefixes=CHECK,SM90A
// RUN: moe-opt %s --moe-to-gpu --emit-ptx=arch=sm_100 | FileCheck %s --check-prefixes=CHECK,SM100

// CHECK:      moe.ptx =
// SM80:       .version 7.0
// SM80:       .target sm_80
// SM89:       .target sm_89
// SM90A:      .version 8.0
// SM90A:      .target sm_90a
// SM100:      .target sm_100
// CHECK-NOT:  __nv_
// CHECK-DAG:  mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
// CHECK-DAG:  cp.async.cg.shared.global
// CHECK-DAG:  match.any.sync.b32
// CHECK-DAG:  redux.sync.max.s32
// CHECK-DAG:  atom.global.add.u32

// What a block counts is seen by those that wait for it.
// RUN: moe-opt %s --moe-to-gpu --emit-ptx=arch=sm_80 | sed 's/\\0A/\n/g' | FileCheck %s --check-prefix=ORDER
// RUN: moe-opt %s --moe-to-gpu --emit-ptx=arch=sm_90a | sed 's/\\0A/\n/g' | FileCheck %s --check-prefix=ORDER
// RUN: moe-opt %s --moe-to-gpu --emit-ptx=arch=sm_100 | sed 's/\\0A/\n/g' | FileCheck %s --check-prefix=ORDER
// ORDER:      .entry moec_product_192x256_bf16_few_256_rows16_routed_combined_
// ORDER-NOT:  ld.global.nc
// ORDER:      bar.sync
// ORDER:      fence.{{acq_rel|release}}.gpu;
// ORDER-NEXT: atom.add.u32
// ORDER-NEXT: fence.{{acq_rel|acquire}}.gpu;
// ORDER-NOT:  ld.global.nc
// ORDER:      fence.{{acq_rel|release}}.gpu;
// ORDER-NEXT: atom.add.u32
// ORDER-NOT:  ld.global.nc
// ORDER:      ld.acquire.gpu.b32
// ORDER:      bar.sync
// ORDER-NOT:  ld.global.nc
func.func @bf16(%x: tensor<?x256xbf16>, %l: tensor<?x64xf32>, %up: tensor<64x384x256xbf16>, %down: tensor<64x256x192xbf16>) -> tensor<?x256xbf16> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 8 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x64xf32>) -> !moe.routing<experts = 64, k = 8, weighted>
  %y = moe.experts %x, %r up(%up) down(%down) <silu, glu = concat> : (tensor<?x256xbf16>, !moe.routing<experts = 64, k = 8, weighted>, tensor<64x384x256xbf16>, tensor<64x256x192xbf16>) -> tensor<?x256xbf16>
  return %y : tensor<?x256xbf16>
}

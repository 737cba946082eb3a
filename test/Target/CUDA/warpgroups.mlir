// RUN: moe-opt %s --moe-to-gpu=arch=sm_90a | FileCheck %s --check-prefix=LAUNCH
// RUN: moe-opt %s --moe-to-gpu=arch=sm_90a --emit-ptx=arch=sm_90a | FileCheck %s
// RUN: moe-opt %s --moe-to-gpu=arch=sm_90a -mlir-print-debuginfo | moe-opt --emit-ptx=arch=sm_90a | FileCheck %s

// Blocks of more than 16 rows go to warpgroups, the others do not.
// LAUNCH-DAG: gpu.launch_func @moec_kernels::@moec_product_192x256_bf16_wgmma_rows128_{{.*}} threads in (%c384{{.*}} dynamic_shared_memory_size
// LAUNCH-DAG: gpu.launch_func @moec_kernels::@moec_product_192x256_bf16_few_256_rows16_

// The host makes the tensor maps: gates and linear parts in a dimension of their own, rows of the
// second product where they follow each other.
// LAUNCH-DAG: nvgpu.tma.create.descriptor {{.*}} : memref<*xbf16> -> <tensor = memref<1x1x128x64xbf16, {{.*}}>, swizzle = swizzle_128b
// LAUNCH-DAG: nvgpu.tma.create.descriptor {{.*}} : memref<*xbf16> -> <tensor = memref<1x256x64xbf16
// LAUNCH-DAG: nvgpu.tma.create.descriptor {{.*}} : memref<*xbf16> -> <tensor = memref<128x64xbf16

// A warpgroup copies, the others multiply; mbarriers between them.
// CHECK-DAG: setmaxnreg.dec.sync.aligned.u32 {{(.09)?}}88
// CHECK-DAG: setmaxnreg.inc.sync.aligned.u32 {{(.09)?}}208
// CHECK-DAG: setmaxnreg.dec.sync.aligned.u32 {{(.09)?}}40
// CHECK-DAG: setmaxnreg.inc.sync.aligned.u32 {{(.09)?}}232
// CHECK-DAG: .param .align 64 .b8 moec_product_192x256_bf16_wgmma_rows128_{{[0-9a-f]+}}_param_{{[0-9]+}}[128]
// CHECK-DAG: cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
// CHECK-DAG: cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
// CHECK-DAG: cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
// CHECK-DAG: mbarrier.arrive.expect_tx
// CHECK-DAG: .extern .shared .align 16 .b8 __dynamic_shmem__0[]
// CHECK-DAG: mbarrier.init.shared.b64
// CHECK-DAG: mbarrier.try_wait.parity
// CHECK-DAG: mbarrier.arrive
// CHECK-DAG: fence.proxy.async
// CHECK-DAG: cp.async.cg.shared.global
// CHECK-DAG: wgmma.fence.sync.aligned
// CHECK-DAG: wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16
// CHECK-DAG: wgmma.commit_group.sync.aligned
// CHECK-DAG: wgmma.wait_group.sync.aligned {{(.09)?}}1
func.func @layer(%x: tensor<?x256xbf16>, %l: tensor<?x64xf32>, %up: tensor<64x384x256xbf16>, %down: tensor<64x256x192xbf16>) -> tensor<?x256xbf16> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 8 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x64xf32>) -> !moe.routing<experts = 64, k = 8, weighted>
  %y = moe.experts %x, %r up(%up) down(%down) <silu, glu = concat> : (tensor<?x256xbf16>, !moe.routing<experts = 64, k = 8, weighted>, tensor<64x384x256xbf16>, tensor<64x256x192xbf16>) -> tensor<?x256xbf16>
  return %y : tensor<?x256xbf16>
}
